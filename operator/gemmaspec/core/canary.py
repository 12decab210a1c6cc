"""The rollout machine: which revision is on trial, which one is good, and what a verdict changes.

Its memory is ``.status.rollout``, ``lastGoodRevision`` and ``rejectedRevision``. A turn is stored before anything acts
on it (ADR 3), and with it what the next one may need: K, its rollback machine and the figures of the good revision
are kept while another one is judged, and put back when that one is sent away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from gemmaspec.api.status import HistoryEntry, RolloutStatus
from gemmaspec.core import moment


class Phase(StrEnum):
    """Where the rollout of what the spec asks for stands."""

    ANALYSING = "Analysing"
    PROMOTED = "Promoted"
    ROLLED_BACK = "RolledBack"


# Parts of the status that speak of what runs, and where they are kept meanwhile.
KEPT: Final[Mapping[str, str]] = {
    "k": "keptK",
    "control": "keptControl",
    "acceptance": "keptAcceptance",
    "throughput": "keptThroughput",
    "warmUp": "keptWarmUp",
}


@dataclass(frozen=True)
class Rollout:
    """What the machine remembers.

    pin: what the spec renders, K apart. attempt: the pin and the rules that it is judged by. since: since when its
    engines are asked for, None while none are. good: pin of the last good revision, "" before there is one. stable:
    that revision. rejected: the revision that was sent away. kept: parts of the status that belong to the good one.
    """

    pin: str
    attempt: str
    phase: Phase = Phase.ANALYSING
    reason: str = ""
    message: str = ""
    since: float | None = None
    good: str = ""
    stable: str = ""
    rejected: str = ""
    kept: Mapping[str, Any] = field(default_factory=dict)

    @property
    def on_trial(self) -> bool:
        """Whether the spec's revision is judged against a good one."""
        return self.phase is Phase.ANALYSING and bool(self.good)

    @property
    def returned(self) -> bool:
        """Whether the last good revision runs in place of the spec's."""
        return self.phase is Phase.ROLLED_BACK


@dataclass(frozen=True)
class Turn:
    """A step of the machine: the new memory, the status to go on from, and what to tell. ``stored`` first: the turn
    has to be written before it is acted on.
    """

    rollout: Rollout
    status: Mapping[str, Any]
    stored: bool = False
    reason: str = ""
    message: str = ""


def begin(known: Rollout | None, asked: Rollout, status: Mapping[str, Any], now: float) -> Turn:
    """What the spec asks for by itself changes: a trial begins, or the good revision is asked for again.

    asked: pin, attempt, and ``since`` (None where no engine is wanted).
    """
    if known is None:
        return Turn(asked, status)
    if known.pin == asked.pin and (known.attempt == asked.attempt or not known.returned):
        since = None if asked.since is None else known.since if known.since is not None else now
        same = replace(known, attempt=asked.attempt, since=since if known.phase is Phase.ANALYSING else known.since)
        return Turn(same, status)
    if not known.good:
        return Turn(asked, status)
    if asked.pin == known.good:
        message = f"the spec asks for revision {known.stable} again, which is the last good one"
        back = replace(asked, phase=Phase.PROMOTED, good=known.good, stable=known.stable, since=None)
        back = replace(back, reason="Reverted", message=message)
        return Turn(back, _restored(status, known), stored=True, reason="Reverted", message=message)
    kept = known.kept if known.on_trial else {part: status[part] for part in KEPT if part in status}
    trial = replace(asked, good=known.good, stable=known.stable, kept=kept)
    return Turn(trial, _afresh(_restored(status, known)), stored=True)


def promote(known: Rollout, revision: str, reason: str, message: str, status: Mapping[str, Any]) -> Turn:
    """The revision on trial is the good one from now on."""
    good = Rollout(known.pin, known.attempt, Phase.PROMOTED, reason, message, None, known.pin, revision)
    return Turn(good, status, stored=known.on_trial, reason="RevisionPromoted", message=message)


def reject(known: Rollout, revision: str, reason: str, message: str, status: Mapping[str, Any]) -> Turn:
    """The revision on trial is sent away; its pin is not tried again until the spec renders another."""
    gone = replace(
        known, phase=Phase.ROLLED_BACK, reason=reason, message=message, since=None, rejected=revision, kept={}
    )
    return Turn(gone, _restored(status, known), stored=True, reason="RolledBack", message=message)


def _restored(status: Mapping[str, Any], known: Rollout) -> Mapping[str, Any]:
    """The status with what was kept for the good revision, when another one was on trial."""
    if not known.on_trial:
        return status
    return {key: value for key, value in status.items() if key not in KEPT} | dict(known.kept)


def _afresh(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """The status for an engine that nothing is known of: it proves its drafts anew, and no fault is its own."""
    status = {key: value for key, value in status.items() if key != "warmUp"}
    control = status.get("control")
    if not control:
        return status
    if control.get("fault"):
        return {key: value for key, value in status.items() if key != "control"}
    others = ("proved", "firstDrafts")  # evidence on drafts of another revision's engines
    return {**status, "control": {key: value for key, value in control.items() if key not in others}}


def load(status: Mapping[str, Any]) -> Rollout | None:
    """The memory that ``.status`` holds; None where there is none or it can't be read."""
    stored = status.get("rollout") or {}
    if not stored.get("pin") or stored.get("phase") not in list(Phase):
        return None
    return Rollout(
        pin=stored["pin"],
        attempt=stored.get("attempt", ""),
        phase=Phase(stored["phase"]),
        reason=stored.get("reason", ""),
        message=stored.get("message", ""),
        since=moment.optional(stored.get("since")),
        good=stored.get("goodPin", ""),
        stable=status.get("lastGoodRevision", ""),
        rejected=status.get("rejectedRevision", ""),
        kept={part: stored[key] for part, key in KEPT.items() if key in stored},
    )


def fields(rollout: Rollout) -> dict[str, Any]:
    """The parts of ``.status`` that hold the memory."""
    body = RolloutStatus(
        pin=rollout.pin,
        attempt=rollout.attempt,
        phase=str(rollout.phase),
        reason=rollout.reason or None,
        message=rollout.message or None,
        since=None if rollout.since is None else moment.text(rollout.since),
        good_pin=rollout.good or None,
    ).body()
    kept = {KEPT[part]: value for part, value in rollout.kept.items()}
    found: dict[str, Any] = {"rollout": body | kept}
    if rollout.stable:
        found["lastGoodRevision"] = rollout.stable
    if rollout.rejected:
        found["rejectedRevision"] = rollout.rejected
    return found


def stored(turn: Turn, revision: str, now: float, history: int) -> dict[str, Any]:
    """The status that holds the turn: ``revision`` is driven to from now on. Conditions follow in the next pass, which
    also acts on it.
    """
    own = ("rollout", "lastGoodRevision", "rejectedRevision")
    body = {key: value for key, value in turn.status.items() if key not in own} | fields(turn.rollout)
    body["revision"] = revision
    if turn.reason:
        subject = turn.rollout.rejected or turn.rollout.stable
        entry = HistoryEntry(time=moment.text(now), reason=turn.reason, message=turn.message, revision=subject)
        body["history"] = [*turn.status.get("history", ()), entry.body()][-history:]
    return body
