"""Objects by resource, as lists and watches tell of them.

kopf's own indices hold up every listed object in a task of its own until all are listed, and wake all of them for each
one: with a thousand resources that is minutes of processor time, and most of the memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final, Generic, TypeVar

from gemmaspec.runtime.queue import Key

T = TypeVar("T")
# So many objects are remembered to be gone though no event told: one of before may still be on its way.
MOST_LOST: Final = 4096


class Shelf(Mapping[Key, Collection[T]], Generic[T]):
    """The newest that was told of each object, by the key of its resource."""

    def __init__(self) -> None:
        self._kept: dict[Key, dict[str, T]] = {}
        self._known: dict[str, tuple[Key, int]] = {}
        self._lost: dict[str, int] = {}

    def __getitem__(self, key: Key) -> Collection[T]:
        return self._kept[key].values()

    def __iter__(self) -> Iterator[Key]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, key: Key, uid: str, order: int, kept: T) -> bool:
        """Keep an object; False where a newer one of this uid is known (its list overtook the event)."""
        before = self._known.get(uid)
        if order < (before[1] if before else self._lost.get(uid, 0)):
            return False
        if before and before[0] != key:
            self.remove(uid)
        self._lost.pop(uid, None)
        self._known[uid] = key, order
        self._kept.setdefault(key, {})[uid] = kept
        return True

    def lose(self, uid: str) -> None:
        """The object is gone, and no event told: an event older than what is known does not bring it back."""
        if uid not in self._known:
            return
        self._lost[uid] = self._known[uid][1]
        while len(self._lost) > MOST_LOST:
            del self._lost[next(iter(self._lost))]
        self.remove(uid)

    def remove(self, uid: str) -> None:
        """The object is gone."""
        key, _ = self._known.pop(uid, (None, 0))
        if key is None:
            return
        kept = self._kept[key]
        del kept[uid]
        if not kept:
            del self._kept[key]
