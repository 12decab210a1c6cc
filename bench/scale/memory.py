"""``python -m bench.scale.memory [ENGINES]``: resident memory of what the operator keeps of busy engines, by time.

In a process that does nothing else: the same classes, fed with counters that grow as a busy vLLM's with eight streams.
"""

from __future__ import annotations

import ctypes
import random
import sys
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "operator"))

from gemmaspec.core.acceptance import remember
from gemmaspec.core.observation import Sample
from gemmaspec.core.series import Series

SCRAPE_SECONDS: Final = 5.0
SCRAPES: Final = 421
POSITIONS: Final = 4


class Engine:
    """Counters of one engine."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._drafts, self._seconds, self._accepted = 1e6, 12.3, [5e5] * POSITIONS
        self.series = Series()

    def scrape(self, now: float) -> None:
        """One more sample."""
        steps = self._rng.randrange(900, 1500)
        self._drafts += steps
        self._seconds += steps * self._rng.uniform(0.03, 0.04)
        self._accepted = [count + int(steps * self._rng.uniform(0.3, 0.9)) for count in self._accepted]
        drafts, accepted = self._drafts, sum(self._accepted)
        at, tokens = round(now + self._rng.uniform(0, 0.05), 3), drafts + accepted
        one = Sample(
            at, drafts, 4 * drafts, accepted, tuple(self._accepted), tokens, now // 2, self._seconds, drafts, 8.0
        )
        remember(self.series, one, lambda: 120.0)


def resident() -> float:
    """MiB."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) / 1024


def main() -> int:
    """Print what each five minutes add."""
    count, rng = int((sys.argv[1:] or ["1000"])[0]), random.Random(1)
    engines = [Engine(rng) for _ in range(count)]
    trim, before = ctypes.CDLL(None).malloc_trim, resident()
    for number in range(SCRAPES):
        for place, engine in enumerate(engines):
            engine.scrape(1.8e9 + SCRAPE_SECONDS * (number + place / count))
        if number % 60 == 0:
            trim(0)  # as gemmaspec.runtime.garbage does
            packed = sum(engine.series.nbytes for engine in engines) / 2**20
            print(
                f"{number * SCRAPE_SECONDS:5.0f} s: {resident() - before:5.1f} MiB more, of which {packed:4.1f} packed"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
