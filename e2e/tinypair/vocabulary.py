"""The tokenizer of the pair: a byte-level BPE learned from the two languages."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tinypair.languages import LANGUAGES

_SPECIALS: Final = ("<pad>", "<eos>", "<bos>", "<unk>")  # Gemma 4's configuration has these ids: 0, 1, 2
_TEXTS: Final = 120
_CHARS: Final = 1_800

# The pair continues text instead of answering, so a chat is its messages' contents, one after the other.
CHAT_TEMPLATE: Final = "{%- for message in messages -%}{{- message['content'] -}}{%- endfor -%}"


def _texts(seed: int) -> Iterator[str]:
    rng = random.Random(seed)
    for _ in range(_TEXTS):
        for write in LANGUAGES.values():
            yield write(rng, _CHARS)


def learn(size: int, seed: int) -> PreTrainedTokenizerFast:
    """A tokenizer of exactly ``size`` tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(_SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(seed), trainer)
    if tokenizer.get_vocab_size() != size:
        raise ValueError(f"the languages gave {tokenizer.get_vocab_size()} tokens, not {size}")
    pad, eos, bos, unk = _SPECIALS
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, eos_token=eos, bos_token=bos, unk_token=unk
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped
