"""Samples of one engine, packed: a thousand engines under traffic keep hundreds of thousands of them."""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Iterable, Iterator, MutableSequence
from typing import Any, overload

from gemmaspec.core.observation import Sample

# Numbers of a sample beside its positions; in this order.
_FIXED = 9


class Series(MutableSequence[Sample]):
    """A list of samples that takes eight bytes a number: a tenth of a list of objects.

    Each row holds as many positions as the widest; those that a sample lacks are not-a-number, which no counter is.
    Each change is one operation on the array, or one assignment: a copy that another thread takes is whole.
    """

    __slots__ = ("_rows",)

    def __init__(self, samples: Iterable[Sample] = ()) -> None:
        self._rows: tuple[int, array[float]] = _FIXED, array("d")
        self.extend(samples)

    def copy(self) -> Series:
        """The same samples, apart from what happens to these."""
        width, numbers = self._rows
        made = Series()
        made._rows = width, numbers[:]
        return made

    @property
    def nbytes(self) -> int:
        """Bytes that the numbers take."""
        return len(self._rows[1]) * self._rows[1].itemsize

    def __len__(self) -> int:
        width, numbers = self._rows
        return len(numbers) // width

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        width, numbers = self._rows
        found = range(len(numbers) // width)[index]
        if isinstance(found, int):
            return _sample(*numbers[found * width : (found + 1) * width])
        if found.step == 1:  # what windows read: the newest, all at once
            rows = struct.iter_unpack(f"{width}d", numbers[found.start * width : found.stop * width].tobytes())
            return [_sample(*row) for row in rows]
        return [_sample(*numbers[at * width : (at + 1) * width]) for at in found]

    @overload
    def __setitem__(self, index: int, value: Sample) -> None: ...

    @overload
    def __setitem__(self, index: slice, value: Iterable[Sample]) -> None: ...

    def __setitem__(self, index: int | slice, value: Sample | Iterable[Sample]) -> None:
        samples: Any = list(self)  # which takes an index with a sample, and a slice with some
        samples[index] = value
        self._replace(samples)

    def __delitem__(self, index: int | slice) -> None:
        if isinstance(index, slice):
            samples = list(self)
            del samples[index]
            self._replace(samples)
            return
        width, numbers = self._rows
        at = range(len(numbers) // width)[index]
        del numbers[at * width : (at + 1) * width]

    def __iter__(self) -> Iterator[Sample]:
        return iter(self[:])

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Series | list) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # as a list

    def insert(self, index: int, value: Sample) -> None:
        """Put a sample before the one at ``index``; at the end most of the time."""
        width = self._widened(_FIXED + len(value.accepted_per_position))
        row = _row(value, width)
        if index >= len(self):
            self._rows[1].frombytes(row.tobytes())
        else:
            at = max(0, len(self) + index) if index < 0 else index
            self._rows[1][at * width : at * width] = row

    def _replace(self, samples: list[Sample], least: int = _FIXED) -> None:
        """Lay out all rows anew, at least so wide."""
        width = max((least, *(_FIXED + len(sample.accepted_per_position) for sample in samples)))
        rows = array("d")
        for sample in samples:
            rows.extend(_row(sample, width))
        self._rows = width, rows

    def _widened(self, least: int) -> int:
        """Make room for the positions of a wider sample; returns how wide rows are now."""
        if least > self._rows[0]:
            self._replace(list(self), least)
        return self._rows[0]


def _row(one: Sample, width: int) -> array[float]:
    fixed = (one.time, one.drafts, one.draft_tokens, one.accepted_tokens, one.generation_tokens, one.requests_finished)
    steps = (one.step_seconds_sum, one.step_seconds_count, one.running)
    absent = (math.nan,) * (width - _FIXED - len(one.accepted_per_position))
    return array("d", (*fixed, *steps, *one.accepted_per_position, *absent))


def _sample(
    time: float,
    drafts: float,
    draft_tokens: float,
    accepted_tokens: float,
    generation_tokens: float,
    requests_finished: float,
    step_seconds_sum: float,
    step_seconds_count: float,
    running: float,
    *positions: float,
) -> Sample:
    if positions and math.isnan(positions[-1]):
        positions = tuple(value for value in positions if not math.isnan(value))
    return Sample(
        time,
        drafts,
        draft_tokens,
        accepted_tokens,
        positions,
        generation_tokens,
        requests_finished,
        step_seconds_sum,
        step_seconds_count,
        running,
    )
