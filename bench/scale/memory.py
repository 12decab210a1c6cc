"""``python -m bench.scale.memory [ENGINES]``: resident memory of what the operator keeps of busy engines, by time.

In a process that does nothing else: the same classes, fed with counters that grow as a busy vLLM's with eight streams.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "operator"))

from gemmaspec.core.acceptance import remember
from gemmaspec.core.observation import Sample
from gemmaspec.core.series import Series
from gemmaspec.runtime.garbage import give_back

SCRAPE_SECONDS: Final = 5.0
SCRAPES: Final = 421
POSITIONS: Final = 4


def traffic(rng: random.Random, begins: float = 1.8e9) -> Iterator[Sample]:
    """Samples of a busy engine: its counters as vLLM's, its times as a clock's."""
    drafts, accepted, seconds = 1e6, [5e5] * POSITIONS, 12.3
    number = 0
    while True:
        steps = rng.randrange(900, 1500)
        drafts, seconds = drafts + steps, seconds + steps * rng.uniform(0.03, 0.04)
        accepted = [count + int(steps * rng.uniform(0.3, 0.9)) for count in accepted]
        at = round(begins + SCRAPE_SECONDS * number + rng.uniform(0, 0.05), 3)
        made = drafts + sum(accepted)
        yield Sample(at, drafts, 4 * drafts, sum(accepted), tuple(accepted), made, 3.0 * number, seconds, drafts, 8.0)
        number += 1


def resident() -> float:
    """MiB."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) / 1024


def main() -> int:
    """Print what each five minutes add."""
    count, rng = int((sys.argv[1:] or ["1000"])[0]), random.Random(1)
    engines = [(traffic(rng, 1.8e9 + SCRAPE_SECONDS * place / count), Series()) for place in range(count)]
    before = resident()
    for number in range(SCRAPES):
        for samples, series in engines:
            remember(series, next(samples), lambda: 120.0)
        if number % 60 == 0:
            give_back()
            packed = sum(series.nbytes for _, series in engines) / 2**20
            print(
                f"{number * SCRAPE_SECONDS:5.0f} s: {resident() - before:5.1f} MiB more, of which {packed:4.1f} packed"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
