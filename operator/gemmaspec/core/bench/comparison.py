"""Two results side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gemmaspec.core.bench.result import Basis, Cell, Result


@dataclass(frozen=True)
class Figure:
    """A figure of one side, and where it comes from; None where that side has none."""

    value: float | None = None
    basis: Basis = Basis.MEASURED


@dataclass(frozen=True)
class Pair:
    """One place of both results. ratio: the second by the first."""

    workload: str
    concurrency: int
    k: int | None
    figure: str
    first: Figure
    second: Figure

    @property
    def ratio(self) -> float | None:
        """None where a side is missing."""
        if not self.first.value or self.second.value is None:
            return None
        return self.second.value / self.first.value


# By their names in the JSON: the speed that users feel, and what explains it.
FIGURES = ("tokensPerSecond", "streamTokensPerSecond", "speedup", "meanAccepted", "ttftSeconds", "stepMilliseconds")


def compare(first: Result, second: Result) -> list[Pair]:
    """Every figure that either has, in the first one's order, then what only the second has."""
    sides = [{(cell.workload, cell.concurrency, cell.k): cell for cell in result.cells} for result in (first, second)]
    places = list(dict.fromkeys([*sides[0], *sides[1]]))
    return [pair for place in places for pair in _pairs(place, sides[0].get(place), sides[1].get(place))]


def _pairs(place: tuple[str, int, int | None], first: Cell | None, second: Cell | None) -> Iterator[Pair]:
    for name in FIGURES:
        pair = Pair(*place, name, _figure(first, name), _figure(second, name))
        if pair.first.value is not None or pair.second.value is not None:
            yield pair


def _figure(cell: Cell | None, name: str) -> Figure:
    value = None if cell is None else cell.body().get(name)
    if cell is None or value is None:
        return Figure()
    return Figure(float(value["mean"] if isinstance(value, dict) else value), cell.basis_of(name))
