"""Samples of one engine, packed: a thousand engines under traffic keep hundreds of thousands of them."""

from __future__ import annotations

import math
import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, MutableSequence
from itertools import accumulate
from operator import sub
from typing import Any, Final, NamedTuple, overload

from gemmaspec.core.observation import Sample

# Numbers of a sample beside its positions; in this order.
_FIXED = 9
# So many of the newest samples stay open at the least: what a scrape changes, and what most windows read.
OPEN_SAMPLES: Final = 36
# Older ones are closed up so many at once.
CLOSED_SAMPLES: Final = 24
# A whole number below this is the same as a float.
_MOST_WHOLE: Final = 2.0**53
# Clocks of scrapes tell milliseconds.
_MILLISECONDS: Final = 1000.0
_HEADER: Final = struct.Struct("<cd")


class _Block(NamedTuple):
    """Samples that are closed up: column by column, each as its first number and how much each adds to the one before.

    Counters are whole numbers, which grow by a byte's or two bytes' worth between two scrapes. ends: time of the last.
    """

    rows: int
    width: int
    ends: float
    packed: bytes


class _State(NamedTuple):
    """What a series holds. skipped: so many of the oldest block's samples are gone."""

    blocks: tuple[_Block, ...]
    skipped: int
    width: int
    numbers: array[float]

    @property
    def closed(self) -> int:
        return sum(block.rows for block in self.blocks) - self.skipped

    @property
    def open(self) -> int:
        return len(self.numbers) // self.width


class Series(MutableSequence[Sample]):
    """A list of samples that takes eight bytes a number of the newest, and two or so of those before: a twentieth of
    a list of objects.

    Each open row holds as many positions as the widest; what a sample lacks of them is not-a-number, as no counter is.
    Each change is one operation on the array, or one assignment: a copy that another thread takes is whole.
    """

    __slots__ = ("_state",)

    def __init__(self, samples: Iterable[Sample] = ()) -> None:
        self._state = _State((), 0, _FIXED, array("d"))
        self.extend(samples)

    def copy(self) -> Series:
        """The same samples, apart from what happens to these."""
        made, state = Series(), self._state
        made._state = state._replace(numbers=state.numbers[:])
        return made

    @property
    def nbytes(self) -> int:
        """Bytes that the numbers take."""
        state = self._state
        return len(state.numbers) * state.numbers.itemsize + sum(len(block.packed) for block in state.blocks)

    def __len__(self) -> int:
        return self._state.closed + self._state.open

    def since(self, moment: float) -> list[Sample]:
        """Those of samples in order of time that are no older than that; the older ones are not unpacked."""
        state, start = self._state, 0
        for block in state.blocks:
            if block.ends >= moment:
                break
            start += block.rows
        found = _between(state, max(0, start - state.skipped), state.closed + state.open)
        return found[bisect_left(found, moment, key=lambda sample: sample.time) :]

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        state = self._state
        found = range(state.closed + state.open)[index]
        if isinstance(found, int):
            return _one(state, found)
        if found.step == 1:  # what windows read: the newest, all at once
            return _between(state, found.start, found.stop)
        return [_one(state, at) for at in found]

    @overload
    def __setitem__(self, index: int, value: Sample) -> None: ...

    @overload
    def __setitem__(self, index: slice, value: Iterable[Sample]) -> None: ...

    def __setitem__(self, index: int | slice, value: Sample | Iterable[Sample]) -> None:
        samples: Any = list(self)  # which takes an index with a sample, and a slice with some
        samples[index] = value
        self._replace(samples)

    def __delitem__(self, index: int | slice) -> None:
        state = self._state
        at = range(state.closed + state.open)[index]
        if isinstance(at, int) and at >= state.closed:
            row = at - state.closed
            del state.numbers[row * state.width : (row + 1) * state.width]
        elif at == 0:
            gone = state.skipped + 1 == state.blocks[0].rows
            self._state = state._replace(
                blocks=state.blocks[1:] if gone else state.blocks, skipped=0 if gone else state.skipped + 1
            )
        else:
            samples = list(self)
            del samples[index]
            self._replace(samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self[:])

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Series | list) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # as a list

    def clear(self) -> None:
        """Forget them all."""
        self._replace([])

    def insert(self, index: int, value: Sample) -> None:
        """Put a sample before the one at ``index``; at the end most of the time."""
        if index < len(self):
            samples = list(self)
            samples.insert(index, value)
            self._replace(samples)
            return
        width = self._widened(_FIXED + len(value.accepted_per_position))
        self._state.numbers.frombytes(_row(value, width).tobytes())
        if self._state.open >= OPEN_SAMPLES + CLOSED_SAMPLES:
            self._close()

    def _close(self) -> None:
        """Pack the oldest of the open samples."""
        state = self._state
        size = CLOSED_SAMPLES * state.width
        block = _closed(state.numbers[:size], state.width)
        self._state = state._replace(blocks=(*state.blocks, block), numbers=state.numbers[size:])

    def _replace(self, samples: list[Sample]) -> None:
        """Lay out all rows anew."""
        made = Series(samples)
        self._state = made._state

    def _widened(self, least: int) -> int:
        """Make room for the positions of a wider sample; returns how wide open rows are now."""
        state = self._state
        if least > state.width:
            numbers = array("d")
            for sample in _between(state, state.closed, state.closed + state.open):
                numbers.extend(_row(sample, least))
            self._state = state._replace(width=least, numbers=numbers)
        return self._state.width


def _one(state: _State, at: int) -> Sample:
    if at >= state.closed:
        row = at - state.closed
        return _sample(*state.numbers[row * state.width : (row + 1) * state.width])
    at += state.skipped
    for block in state.blocks:
        if at < block.rows:
            break
        at -= block.rows
    return _sample(*(column[at] for column in _columns(block, at + 1)))


def _between(state: _State, start: int, stop: int) -> list[Sample]:
    found, begins = list[Sample](), -state.skipped
    for block in state.blocks:
        low, high = max(0, start - begins), min(block.rows, stop - begins)
        if low < high:
            found += [_sample(*row) for row in list(zip(*_columns(block, high), strict=True))[low:]]
        begins += block.rows
    low, high = (max(0, at - state.closed) * state.width for at in (start, stop))
    rows = struct.iter_unpack(f"{state.width}d", state.numbers[low:high].tobytes())
    return found + [_sample(*row) for row in rows]


def _closed(numbers: array[float], width: int) -> _Block:
    """Close up rows, losing nothing."""
    columns = (_packed(numbers[at::width]) for at in range(width))
    return _Block(len(numbers) // width, width, numbers[-width], b"".join(columns))


def _packed(column: array[float]) -> bytes:
    """A code, the first number, then what each adds to the one before; or, where these are no whole numbers (of
    thousandths, in capitals), the numbers themselves.
    """
    for unit, codes in ((1.0, "bhi"), (_MILLISECONDS, "BHI")):
        if all(abs(value) < _MOST_WHOLE / unit and round(value * unit) / unit == value for value in column):
            whole = [round(value * unit) for value in column]
            added = list(map(sub, whole[1:], whole))
            most = max(map(abs, added), default=0)
            for code, bits in zip(codes, (7, 15, 31), strict=True):
                if most < 2**bits:
                    return _HEADER.pack(code.encode(), column[0]) + array(code.lower(), added).tobytes()
    return _HEADER.pack(b"d", column[0]) + column[1:].tobytes()


def _columns(block: _Block, rows: int) -> Iterator[list[float]]:
    """The first so many numbers of each column."""
    at = 0
    for _ in range(block.width):
        code, first = _HEADER.unpack_from(block.packed, at)
        rest = array(code.decode().lower())
        begins = at + _HEADER.size
        rest.frombytes(block.packed[begins : begins + (rows - 1) * rest.itemsize])
        at = begins + (block.rows - 1) * rest.itemsize
        if code == b"d":
            yield [first, *rest]
        elif code.isupper():
            yield [whole / _MILLISECONDS for whole in accumulate(rest, initial=round(first * _MILLISECONDS))]
        else:
            yield list(accumulate(rest, initial=first))


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
