"""A benchmark's result: what is written as JSON, stored in the cluster, drawn, and compared.

``version`` counts what a reader must know; a reader of an older one says so instead of guessing.
"""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any, Final

from pydantic import Field, ValidationError

from gemmaspec.api.schema import Model

VERSION: Final = 1
KIND: Final = "GemmaSpecBenchmark"


class NoResult(ValueError):
    """Text that is no result this release can read; the message says what to do."""


class Basis(StrEnum):
    """Where a figure comes from: measured here, published by a source, or derived from what one published."""

    MEASURED = "measured"
    PUBLISHED = "published"
    DERIVED = "derived"


class Interval(Model):
    """A mean and its 95 % interval. low, high: absent where a single value tells nothing about it."""

    mean: float
    low: float | None = None
    high: float | None = None


class Run(Model):
    """One measurement: some requests at once. Rates are tokens per second."""

    workload: str
    concurrency: int
    k: int | None = None
    run: int
    seconds: float = Field(description="From the first request sent to the last token received.")
    tokens: int = Field(description="Tokens generated for these requests.")
    tokens_per_second: float = Field(description="All requests together, prompts included.")
    stream_tokens_per_second: float | None = Field(None, description="Median request, after its first token.")
    ttft_seconds: float | None = Field(None, description="Time to the first token, median request.")
    prompt_tokens: int | None = Field(None, description="Length of the longest prompt.")
    prompt_tokens_per_second: float | None = Field(None, description="Prompt tokens by time to the first token.")
    batch: float | None = Field(None, description="Requests that a decode step really held.")
    tokens_per_step: float | None = Field(None, description="Tokens of a request and step, the bonus token included.")
    drafted: list[int] = Field(default_factory=list, description="Drafts whose predecessor was accepted, by position.")
    accepted: list[int] = Field(default_factory=list, description="Those of them that were accepted.")
    step_milliseconds: float | None = Field(None, description="Mean time of a decode step at this K.")
    other_tokens: int = Field(0, description="Tokens that the engine generated for somebody else meanwhile.")


class Cell(Model):
    """All runs of a workload at a concurrency and a K."""

    workload: str
    concurrency: int
    k: int | None = None
    runs: int = 1
    basis: Basis = Basis.MEASURED
    bases: dict[str, Basis] = Field(default_factory=dict, description="Of figures, by name, where it is another.")
    tokens_per_second: Interval | None = None
    stream_tokens_per_second: float | None = None
    ttft_seconds: float | None = None
    prompt_tokens_per_second: float | None = None
    batch: float | None = None
    tokens_per_step: float | None = None
    acceptance: list[float] = Field(default_factory=list, description="P(position i accepted | i-1 accepted).")
    mean_accepted: float | None = Field(None, description="Accepted drafts of a request and step, without the bonus.")
    step_milliseconds: float | None = None
    speedup: Interval | None = Field(None, description="Tokens per second by those at K = 0 of the same round.")
    theory: float | None = Field(None, description="(1 + meanAccepted) · T(0) / T(K), from measured step times.")

    def basis_of(self, figure: str) -> Basis:
        """Where a figure comes from, by its name in the JSON."""
        return self.bases.get(figure, self.basis)


class Choice(Model):
    """The K for a running batch. gain: relative, over the K that the spec asks for; over_zero: over K = 0."""

    batch: int
    k: int
    gain: Interval
    over_zero: Interval
    likely: int | None = Field(
        None, description="A K with a higher mean, whose gain is not sure: more runs would tell."
    )
    likely_gain: Interval | None = None


class Advice(Model):
    """What a sweep recommends."""

    current: int = Field(description="K that gains are told against.")
    schedule: list[Choice]
    vllm_schedule: list[list[int]] = Field(
        default_factory=list,
        description="The same as num_speculative_tokens_per_batch_size of vLLM's --speculative-config (0.24 or later).",
    )
    patch: dict[str, Any] | None = Field(None, description="Merge patch of the spec; absent where nothing is to gain.")
    sentence: str


class EngineFacts(Model):
    """On what it was measured."""

    target: str | None = None
    drafter: str | None = None
    image: str | None = None
    vllm: str | None = None
    recipe: str | None = None
    hardware: str | None = None
    max_num_seqs: int | None = None
    max_model_len: int | None = None
    ks: list[int] = Field(default_factory=list)
    actuator: str | None = Field(None, description="How K was moved: Live, Restart, or not at all.")
    revision: str | None = None
    restarts: int | None = Field(None, description="Restarts of the engine during the sweep.")


class Method(Model):
    """How it was measured."""

    tokens: int | None = None
    temperature: float | None = None
    runs: int | None = None
    concurrencies: list[int] = Field(default_factory=list)
    ks: list[int] = Field(default_factory=list)
    prompts: str | None = Field(None, description="Which prompts, with a hash of their text.")
    note: str | None = None


class Result(Model):
    """A whole benchmark."""

    version: int = VERSION
    kind: str = KIND
    title: str
    basis: Basis = Basis.MEASURED
    source: str | None = Field(None, description="Who published it, and where.")
    started_at: str | None = None
    seconds: float | None = None
    engine: EngineFacts = Field(default_factory=lambda: EngineFacts.model_validate({}))
    method: Method = Field(default_factory=lambda: Method.model_validate({}))
    notes: list[str] = Field(default_factory=list)
    runs: list[Run] = Field(default_factory=list)
    cells: list[Cell] = Field(default_factory=list)
    advice: Advice | None = None


def text(result: Result) -> str:
    """As JSON."""
    return json.dumps(result.body(), ensure_ascii=False, indent=1) + "\n"


def parse(told: str | bytes, name: str = "it") -> Result:
    """Read JSON. Raises NoResult."""
    try:
        body = json.loads(told)
    except ValueError as error:
        raise NoResult(f"{name} is no JSON ({error}); give a file that `gemmaspec bench --out` wrote") from error
    if not isinstance(body, dict) or body.get("kind") != KIND:
        raise NoResult(f"{name} is no benchmark's result (kind {KIND}); give a file that `gemmaspec bench --out` wrote")
    if body.get("version") != VERSION:
        raise NoResult(
            f"{name} has version {body.get('version')!r} of the result, and this release reads {VERSION}: measure "
            "again, or use the release that wrote it"
        )
    try:
        return Result.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise NoResult(f"{name}: {where} is {first['input']!r}: {first['msg']}; the file was edited or cut") from error
