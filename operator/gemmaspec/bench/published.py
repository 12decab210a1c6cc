"""The sources' published figures as results, to compare with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Any, Final

import yaml

from gemmaspec.core.bench.result import Basis, Cell, Result
from gemmaspec_engine.acceptance import conditional

_FILE: Final = "published.yaml"
# Figures that a source gives for all its kinds of text together.
ALL: Final = "all"


@cache
def load() -> Mapping[str, Result]:
    """Every published result by name."""
    text = resources.files(__package__).joinpath(_FILE).read_text(encoding="utf-8")
    return {name: _result(entry) for name, entry in yaml.safe_load(text).items()}


def _result(entry: Mapping[str, Any]) -> Result:
    fields = {key: entry[key] for key in ("title", "source", "engine", "method", "notes") if key in entry}
    cells = [*_by_seconds(entry), *_by_rates(entry), *_by_streams(entry), *_by_wall(entry), *_accepted(entry)]
    return Result.model_validate({**fields, "basis": Basis.PUBLISHED, "cells": _joined(cells)})


def _by_seconds(entry: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Seconds for a number of tokens: the rates are derived, the speedups are published."""
    for kind, by_k in entry.get("seconds", {}).items():
        for k, (seconds, *speedup) in by_k.items():
            rate = {"mean": round(entry["method"]["tokens"] / seconds, 2)}
            cell = {**_place(kind, 1, k), "tokensPerSecond": rate, "bases": {"tokensPerSecond": Basis.DERIVED}}
            yield {**cell, **({"speedup": {"mean": speedup[0]}} if speedup else {})}


def _by_rates(entry: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    derived = entry.get("derivedRates", ())
    for kind, by_concurrency in entry.get("rates", {}).items():
        for concurrency, by_k in by_concurrency.items():
            for k, rate in by_k.items():
                bases = {"bases": {"tokensPerSecond": Basis.DERIVED}} if kind in derived else {}
                yield {**_place(kind, concurrency, k), "tokensPerSecond": {"mean": rate}, **bases}


def _by_streams(entry: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Rates after the first token, prompt tokens per second, and seconds to the first token."""
    for kind, by_k in entry.get("streams", {}).items():
        for k, (rate, prefill, first) in by_k.items():
            figures = {"streamTokensPerSecond": rate, "promptTokensPerSecond": prefill, "ttftSeconds": first}
            yield {**_place(kind, 1, k), **figures}


def _by_wall(entry: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Speedups of the clock's time, as the source tells them."""
    for kind, by_concurrency in entry.get("speedups", {}).items():
        for concurrency, by_k in by_concurrency.items():
            yield from ({**_place(kind, concurrency, k), "speedup": {"mean": value}} for k, value in by_k.items())


def _accepted(entry: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Pooled over all kinds of text: conditional rates are derived from shares of all drafts."""
    for k, shares in entry.get("accepted", {}).items():
        bases = {"acceptance": Basis.DERIVED}
        mean = entry.get("meanAccepted", {}).get(k)
        held = entry.get("meanAcceptedWithBonus", {}).get(k)
        if held is not None:
            mean, bases["meanAccepted"] = round(held - 1.0, 2), Basis.DERIVED
        rates = [round(rate, 4) for rate in conditional(shares)]
        yield {**_place(ALL, 1, k), "acceptance": rates, "meanAccepted": mean, "bases": bases}


def _place(kind: str, concurrency: int, k: int) -> dict[str, Any]:
    return {"workload": kind, "concurrency": concurrency, "k": k, "basis": Basis.PUBLISHED}


def _joined(cells: list[dict[str, Any]]) -> list[Cell]:
    """Cells of one place put together."""
    found: dict[tuple[str, int, int], dict[str, Any]] = {}
    for cell in cells:
        place = cell["workload"], cell["concurrency"], cell["k"]
        before = found.get(place, {})
        found[place] = {**before, **cell, "bases": {**before.get("bases", {}), **cell.get("bases", {})}}
    return [Cell.model_validate(cell) for cell in found.values()]
