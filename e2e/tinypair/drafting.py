"""Training of the MTP assistants.

The assistant's objective follows how an engine uses it (Gemma 4's MTP drafter in vLLM): draft step ``k`` at
position ``p`` reads the embedding of token ``p+1+k`` and a state ``h`` (the target's last state for k = 0,
the assistant's own projected state afterwards), attends to the target's keys and values 0..p with the rotary
position held at ``p``, and guesses token ``p+2+k``. It writes no keys of its own, so one pass covers every
``p`` of a row at once and eight draft steps cost eight passes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional
from transformers import Gemma4AssistantForCausalLM, Gemma4ForCausalLM, PreTrainedTokenizerFast

from tinypair import shapes
from tinypair.languages import Kind
from tinypair.training import PROMPT, ROW, Say, advancer, continuations, rows, soften

DRAFTS: Final = 8  # draft steps that the assistant is trained for
_DISCOUNT: Final = 0.9  # per draft step: a later guess only counts when the earlier ones held
_LOOK: Final = 2  # steps between two looks at held-out prose
_MASKED: Final = -1e9


@dataclass(frozen=True, kw_only=True)
class AssistantPlan:
    """An assistant's training; ``prose`` is the dial: the acceptance at position 0 that prose is held at.

    Until step ``prose_from`` it sees code only, and then prose rows weigh ``prose_weight`` at most: a low dial
    is approached from below and slowly, as prose once learned hardly fades.
    """

    prose: float
    prose_from: int
    prose_weight: float
    steps: int = 400
    rows: int = 8
    rate: float = 4e-3
    seed: int = 23


@dataclass(frozen=True)
class Draft:
    """One draft step for all positions: the guess, and what the target says there."""

    logits: Tensor
    wanted: Tensor  # the target's logits
    choice: Tensor  # the target's greedy token


@dataclass
class Drafting:
    """Runs an assistant's draft steps over whole rows, as an engine runs them position by position."""

    target: Gemma4ForCausalLM
    positions: Tensor = field(default_factory=lambda: torch.arange(ROW)[None])

    def _masks(self) -> dict[str, Tensor]:
        back = self.positions[0][:, None] - self.positions[0][None, :]
        full = torch.zeros(ROW, ROW).masked_fill(back < 0, _MASKED)
        near = full.masked_fill(back >= shapes.WINDOW, _MASKED)
        return {"full_attention": full[None, None], "sliding_attention": near[None, None]}

    def steps(self, assistant: Gemma4AssistantForCausalLM, text: Tensor, count: int) -> Iterator[Draft]:
        """The first ``count`` draft steps of every position in ``text``."""
        masks = self._masks()
        with torch.no_grad():
            seen = self.target.model(input_ids=text, return_shared_kv_states=True, use_cache=False)
            wanted = self.target.lm_head(seen.last_hidden_state)
            tokens = self.target.model.embed_tokens(text)  # Gemma's embedding scales by sqrt(hidden) itself
        state, kv, choice = seen.last_hidden_state, seen.shared_kv_states, wanted.argmax(-1)
        for step in range(count):
            read = torch.cat([tokens.roll(-1 - step, dims=1), state], dim=-1)
            inner = assistant.model(
                inputs_embeds=assistant.pre_projection(read),
                position_ids=self.positions,
                attention_mask=masks,
                shared_kv_states=kv,
                use_cache=False,
            ).last_hidden_state
            state = assistant.post_projection(inner)
            known = slice(0, ROW - 2 - step)  # positions whose draft step reads and guesses inside the row
            guessed = slice(1 + step, ROW - 1)
            yield Draft(assistant.lm_head(inner)[:, known], wanted[:, guessed], choice[:, guessed])

    def acceptance(self, assistant: Gemma4AssistantForCausalLM, text: Tensor, count: int = DRAFTS) -> list[float]:
        """The share of drafts accepted up to each position, over the part of ``text`` the target wrote."""
        shares: list[float] = []
        held: Tensor | None = None
        with torch.no_grad():
            for draft in self.steps(assistant, text, count):
                right = draft.logits.argmax(-1) == draft.choice
                held = right if held is None else held[:, : right.shape[1]] & right
                shares.append(round(held[:, PROMPT:].float().mean().item(), 3))
        return shares


def _distance(draft: Draft, weights: Tensor) -> Tensor:
    """Mean over rows (weighted) of KL to the target's distribution plus cross-entropy to its greedy token."""
    guess = draft.logits.log_softmax(-1)
    kl = functional.kl_div(guess, draft.wanted.log_softmax(-1), reduction="none", log_target=True).sum(-1)
    miss = functional.cross_entropy(draft.logits.transpose(1, 2), draft.choice, reduction="none")
    return ((kl + miss).mean(-1) * weights).sum() / len(weights)


@dataclass(frozen=True)
class Texts:
    """The target's own texts: to train an assistant on, and held out to measure it."""

    code: Tensor
    prose: Tensor
    code_held: Tensor
    prose_held: Tensor

    @classmethod
    def write(cls, target: Gemma4ForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int) -> Texts:
        """Has the target write them, all different."""
        rng = random.Random(seed)
        parts: list[tuple[Kind, int]] = [("code", 224), ("prose", 128), ("code", 32), ("prose", 24)]
        return cls(*(continuations(target, tokenizer, rng, kind, count) for kind, count in parts))

    def some_code(self, count: int) -> Tensor:
        """A draw of the texts to train on."""
        return self.code[torch.randint(0, len(self.code), (count,))]

    def some_prose(self, count: int) -> Tensor:
        """A draw of the texts to train on."""
        return self.prose[torch.randint(0, len(self.prose), (count,))]


def _pull(dial: float, share: float) -> float:
    """A proportional controller: 1 at a quarter below the dial, 0 at it or above."""
    return min(1.0, max(0.0, 4 * (dial - share) / dial))


def train_assistant(
    target: Gemma4ForCausalLM, texts: Texts, tokenizer: PreTrainedTokenizerFast, plan: AssistantPlan, say: Say
) -> Gemma4AssistantForCausalLM:
    """An assistant that knows code, and prose only as well as the plan's dial asks."""
    torch.manual_seed(plan.seed)
    rng = random.Random(plan.seed)
    assistant = Gemma4AssistantForCausalLM(shapes.assistant())
    soften(assistant)
    with torch.no_grad():
        assistant.model.embed_tokens.weight.copy_(target.model.embed_tokens.weight)
    advance = advancer(assistant, plan.rate, plan.steps)
    drafting = Drafting(target)
    prose_rows = plan.rows // 2
    weight = 0.0
    for step in range(plan.steps):
        if step >= plan.prose_from and step % _LOOK == 0:
            share = drafting.acceptance(assistant, texts.prose_held, 1)[0]
            weight = plan.prose_weight * _pull(plan.prose, share)
        fresh = step % 2 == 1
        text = rows(tokenizer, rng, ["code"] * plan.rows) if fresh else texts.some_code(plan.rows)
        weights = torch.ones(plan.rows)
        if weight > 0:
            text = torch.cat([text[prose_rows:], texts.some_prose(prose_rows)])
            weights[-prose_rows:] = weight
        loss = sum(
            (
                _distance(draft, weights) * _DISCOUNT**k
                for k, draft in enumerate(drafting.steps(assistant, text, DRAFTS))
            ),
            start=torch.zeros(()),
        )
        loss.backward()
        advance()
        if step % 40 == 0 or step == plan.steps - 1:
            good, bad = (drafting.acceptance(assistant, held, 4) for held in (texts.code_held, texts.prose_held))
            losses = f"loss {loss.item() / DRAFTS:.3f} code {good} prose {bad}"
            say(f"assistant step {step + 1}/{plan.steps} {losses}")
    return assistant
