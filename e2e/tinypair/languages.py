"""Two seeded synthetic languages, one regular ("code") and one hard to guess ahead ("prose").

Both are generated, so the committed weights raise no question of licence or personal data, and a
prompt of either kind can be had in any length, anywhere, without a download. Everything here is a pure
function of the ``random.Random`` handed in.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, Literal

Kind = Literal["code", "prose"]

_LEXICON_SEED: Final = 20_261  # the lexicon is part of the language: the trained weights know it
_ONSETS: Final = [
    "b",
    "br",
    "d",
    "f",
    "g",
    "gl",
    "h",
    "j",
    "k",
    "kr",
    "l",
    "m",
    "n",
    "p",
    "pl",
    "r",
    "s",
    "sk",
    "t",
    "v",
    "w",
]
_NUCLEI: Final = ["a", "e", "i", "o", "u", "ea", "io"]
_CODAS: Final = ["", "", "l", "m", "n", "r", "s", "x"]
_UNITS: Final = {
    "valve": "bar",
    "probe": "volt",
    "heater": "watt",
    "pump": "litre",
    "switch": "amp",
    "fan": "turn",
}
_SUCCESSORS: Final = 3
_SUCCESSOR_WEIGHTS: Final = (5, 3, 2)


def _pseudo_word(rng: random.Random) -> str:
    syllables = rng.choice((1, 2, 2, 3))
    body = "".join(rng.choice(_ONSETS) + rng.choice(_NUCLEI) for _ in range(syllables))
    return body + rng.choice(_CODAS)


def _lexicon(rng: random.Random, size: int) -> tuple[str, ...]:
    words: dict[str, None] = {}
    while len(words) < size:
        word = _pseudo_word(rng)
        if len(word) > 2:
            words[word] = None
    return tuple(words)


_rng: Final = random.Random(_LEXICON_SEED)
WORDS: Final = _lexicon(_rng, 180)
NAMES: Final = _lexicon(_rng, 40)


def _followers(before: int, last: int) -> list[int]:
    """The words that may follow a pair of words: fixed by the pair, so prose has a grammar to learn."""
    rng = random.Random(before % 9 * 7919 + last)
    return [rng.randrange(len(WORDS)) for _ in range(_SUCCESSORS)]


def prose(rng: random.Random, chars: int) -> str:
    """At least ``chars`` characters of sentences whose next word hangs on the two words before it."""
    before, last = rng.randrange(len(WORDS)), rng.randrange(len(WORDS))
    sentences: list[str] = []
    size = 0
    while size < chars:
        words: list[str] = []
        for _ in range(rng.randint(6, 12)):
            follower = rng.choices(_followers(before, last), _SUCCESSOR_WEIGHTS)[0]
            before, last = last, follower
            words.append(WORDS[follower])
        if len(words) > 8:
            words[4] += ","
        sentence = " ".join(words).capitalize() + ". "
        sentences.append(sentence)
        size += len(sentence)
    return "".join(sentences)


def _table(name: str, part: str, number: int) -> str:
    return f'[[part]]\nid = {number}\nname = "{name}"\nkind = "{part}"\nunit = "{_UNITS[part]}"\n\n'


def _accessor(name: str, part: str, _number: int) -> str:
    return f"def {name}_{_UNITS[part]}(self) -> float:\n    return self.{part}.{name}\n\n"


def _statement(name: str, part: str, number: int) -> str:
    return f"INSERT INTO part VALUES ({number}, '{name}', '{part}', '{_UNITS[part]}');\n"


_FORMS: Final = (_table, _accessor, _statement)


def code(rng: random.Random, chars: int) -> str:
    """At least ``chars`` characters of records in one form, repeating a few names and parts in turn."""
    form = rng.choice(_FORMS)
    names = rng.sample(NAMES, 3)
    parts = rng.sample(sorted(_UNITS), 2)
    number = rng.randint(10, 60)
    records: list[str] = []
    size = 0
    while size < chars:
        turn = len(records)
        record = form(names[turn % len(names)], parts[turn % len(parts)], number + turn)
        records.append(record)
        size += len(record)
    return "".join(records)


LANGUAGES: Final[Mapping[Kind, Callable[[random.Random, int], str]]] = MappingProxyType({"code": code, "prose": prose})


def prompt(kind: Kind, seed: int, chars: int = 160) -> str:
    """At least ``chars`` characters of a kind, ending where a record or a sentence ends: half a word would not be
    the language that the model has read."""
    return LANGUAGES[kind](random.Random(f"{kind}/{seed}"), chars).rstrip(" ")
