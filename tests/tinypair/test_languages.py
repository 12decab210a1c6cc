from __future__ import annotations

import hashlib
import random

import pytest

from tinypair.languages import LANGUAGES, NAMES, WORDS, Kind, prompt

# The committed weights have learned exactly these languages: another sample means another pair.
SAMPLES = {
    "code": "75bbe731e1abcbee",
    "prose": "3bac6899fb59de17",
}


@pytest.mark.parametrize("kind", list(LANGUAGES))
def test_the_language_is_the_one_that_the_committed_pair_has_read(kind: Kind) -> None:
    text = "".join(LANGUAGES[kind](random.Random(seed), 500) for seed in range(20))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == SAMPLES[kind]


@pytest.mark.parametrize("kind", list(LANGUAGES))
def test_a_prompt_depends_on_its_seed_alone(kind: Kind) -> None:
    random.seed(1)
    first = prompt(kind, 7)
    random.seed(2)
    assert prompt(kind, 7) == first
    assert len({prompt(kind, seed) for seed in range(50)}) == 50


@pytest.mark.parametrize("kind", list(LANGUAGES))
@pytest.mark.parametrize("chars", [1, 160, 1000])
def test_a_prompt_is_as_long_as_asked_and_ends_with_a_record_or_sentence(kind: Kind, chars: int) -> None:
    for seed in range(30):
        text = prompt(kind, seed, chars)
        assert chars - 1 <= len(text) < chars + 160  # a sentence's closing blank may be the last character
        assert text.endswith("\n" if kind == "code" else ".")


def test_the_words_differ() -> None:
    assert len(set(WORDS)) == len(WORDS) == 180
    assert len(set(NAMES)) == len(NAMES) == 40


def test_code_repeats_itself_and_prose_does_not() -> None:
    def share_of_known_lines(kind: Kind) -> float:
        parts = [part for seed in range(20) for part in prompt(kind, seed, 600).replace(". ", "\n").split("\n") if part]
        return 1 - len(set(parts)) / len(parts)

    assert share_of_known_lines("code") > 0.2
    assert share_of_known_lines("prose") < 0.02
