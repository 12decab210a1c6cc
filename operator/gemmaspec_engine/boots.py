"""Counts boots across container restarts, and decides whether and when the next one may happen.

kubelet restarts a Deployment's container for ever.  On a GB10 every failed boot leaves less free memory until the
host itself hangs, so the number of boots is capped here, inside the pod, where it holds with the operator down.
The count lives in an emptyDir: it survives restarts of the container and goes away with the pod.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from gemmaspec_engine.pin import BootPin
from gemmaspec_engine.state import write_json

__all__ = ["Ending", "Record", "begin", "end", "load", "notice_kill", "pause", "prove", "save"]

_NAME = "boots.json"


@dataclass(frozen=True)
class Ending:
    """How a boot ended: a stable reason, one line of text, the container's exit code, and when (Unix seconds)."""

    reason: str
    message: str
    exit_code: int
    at: float


@dataclass(frozen=True)
class Record:
    """The boots of this pod.

    ``boots`` counts starts of vLLM since the last proved one; ``failures`` the failed ends in a row;
    ``running`` is true from the start of a boot until its end was written, so a record that still says so at
    the next start tells of a launcher that was killed without a word.
    """

    boots: int = 0
    failures: int = 0
    running: bool = False
    last: Ending | None = None
    readable: bool = True
    """False: the file is there but is not a record. See ``load``."""

    def at_cap(self, max_restarts: int) -> bool:
        """No further boot is allowed."""
        return not self.readable or self.boots > max_restarts


def load(state_dir: Path) -> Record:
    """The record of this pod; an empty one when there is none.

    A file that cannot be understood counts as *at the cap*.  It is written by atomic rename, so only a failing
    or full disk or a foreign writer damages it; counted as zero it would allow boots without end, which is the
    one thing that this file exists to prevent.  Deleting the pod starts afresh.
    """
    path = state_dir / _NAME
    try:
        raw = json.loads(path.read_text())
        last = raw["last"]
        record = Record(
            boots=_count(raw["boots"]),
            failures=_count(raw["failures"]),
            running=bool(raw["running"]),
            last=None if last is None else _ending(last),
        )
    except FileNotFoundError:
        return Record()
    except (OSError, ValueError, TypeError, KeyError):
        return Record(readable=False)
    return record


def _ending(raw: dict[str, object]) -> Ending:
    code, at = raw["exit_code"], raw["at"]
    if not isinstance(code, int) or not isinstance(at, (int, float)):
        raise TypeError(f"not an ending: {raw!r}")
    return Ending(str(raw["reason"]), str(raw["message"]), code, float(at))


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"not a count: {value!r}")
    return value


def save(state_dir: Path, record: Record) -> None:
    """Write the record so that a crash at any moment leaves the old or the new one. Raises OSError."""
    fields = asdict(record)
    del fields["readable"]
    write_json(state_dir / _NAME, fields)


def notice_kill(record: Record, now: float) -> Record:
    """Turn a boot that never ended into a failed one: nobody wrote its end, so the launcher itself was killed."""
    if not record.running:
        return record
    text = "the container was killed without notice (memory limit, end of the grace period, or a node fault)"
    return replace(record, running=False, failures=record.failures + 1, last=Ending("Killed", text, 137, now))


def begin(record: Record) -> Record:
    """The record to write before vLLM starts."""
    return replace(record, boots=record.boots + 1, running=True)


def end(record: Record, ending: Ending, *, failed: bool) -> Record:
    """The record to write after vLLM ended; a boot that was asked to stop has not failed."""
    return replace(record, running=False, failures=record.failures + 1 if failed else 0, last=ending)


def prove(record: Record) -> Record:
    """The running boot has served long enough: what went wrong before it no longer counts.

    Without this an engine that crashes once a week would be parked for good after a month.  A crash that comes
    after this much service is worth a restart each time; the memory check before each boot still protects the host.
    """
    return replace(record, boots=0, failures=0)


def pause(record: Record, boot: BootPin, now: float) -> float:
    """Seconds still to wait before the next boot: doubling per failure in a row, counted from the last end.

    kubelet's own crash-loop back-off starts at 10 s, which is less than a GB10 takes to give tens of GiB back
    after an engine died; and it forgets everything after 10 minutes, which one slow boot can exceed.
    """
    if record.failures == 0 or record.last is None:
        return 0.0
    full: float = min(boot.backoff_seconds * 2.0 ** min(record.failures - 1, 30), boot.backoff_max_seconds)
    # A clock that was set back must not stretch the wait beyond the full pause.
    return max(0.0, min(full, record.last.at + full - now))
