"""Training of the target, seeded, on one thread; and what both trainings share: rows of text, the optimiser."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Gemma4ForCausalLM, PreTrainedTokenizerFast

from tinypair import shapes
from tinypair.languages import LANGUAGES, Kind

Say = Callable[[str], None]

ROW: Final = 256  # tokens of a training row: text longer than this is beyond what the pair has seen
PROMPT: Final = 72  # tokens given before the target goes on by itself


@dataclass(frozen=True, kw_only=True)
class TargetPlan:
    """Length and pace of the target's training."""

    steps: int = 520
    rows: int = 8
    rate: float = 3e-3
    seed: int = 11


def soften(model: nn.Module) -> None:
    """Start gently: scores scaled by 1 and a norm after each sublayer are too loud for so few steps."""
    for name, weight in model.named_parameters():
        if name.endswith(("q_norm.weight", "post_attention_layernorm.weight", "post_feedforward_layernorm.weight")):
            weight.data.fill_(0.3)
        elif name.endswith("embed_tokens.weight"):
            weight.data.mul_(2.0)


def advancer(model: nn.Module, rate: float, steps: int) -> Callable[[], None]:
    """What takes one optimiser step from the gradients at hand: AdamW, warm-up, then linear decay."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    warm = 30

    def pace(step: int) -> float:
        return min((step + 1) / warm, max(0.02, 1 - step / steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, pace)

    def advance() -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()

    return advance


def rows(tokenizer: PreTrainedTokenizerFast, rng: random.Random, kinds: list[Kind], length: int = ROW) -> Tensor:
    """One row of fresh text for each kind, starting anywhere in it."""
    cut = []
    for kind in kinds:
        ids = tokenizer(LANGUAGES[kind](rng, length * 5))["input_ids"]
        while len(ids) < length + 48:
            ids = ids + tokenizer(LANGUAGES[kind](rng, length * 5))["input_ids"]
        start = rng.randrange(48)
        cut.append(ids[start : start + length])
    return torch.tensor(cut)


def train_target(tokenizer: PreTrainedTokenizerFast, plan: TargetPlan, say: Say) -> Gemma4ForCausalLM:
    """A target that has read both languages in equal parts."""
    torch.manual_seed(plan.seed)
    rng = random.Random(plan.seed)
    model = Gemma4ForCausalLM(shapes.target())
    soften(model)
    advance = advancer(model, plan.rate, plan.steps)
    kinds: list[Kind] = ["code", "prose"] * (plan.rows // 2)
    for step in range(plan.steps):
        text = rows(tokenizer, rng, kinds)
        logits = model(input_ids=text, use_cache=False).logits
        loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), text[:, 1:].flatten())
        loss.backward()
        advance()
        if step % 20 == 0 or step == plan.steps - 1:
            say(f"target step {step + 1}/{plan.steps} loss {loss.item():.3f}")
    model.eval()
    model.requires_grad_(False)
    return model


def continuations(
    target: Gemma4ForCausalLM, tokenizer: PreTrainedTokenizerFast, rng: random.Random, kind: Kind, count: int
) -> Tensor:
    """The target's own greedy text: what an assistant meets in service."""
    prompts = rows(tokenizer, rng, [kind] * count, PROMPT)
    with torch.no_grad():
        return target.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=ROW - PROMPT,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
