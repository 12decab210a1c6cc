"""The machine's memory: ``ControlState`` to and from ``.status``, where it survives the operator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from gemmaspec.api.spec import MAX_K
from gemmaspec.api.status import ControlState as Stored
from gemmaspec.api.status import FirstDrafts as Drafts
from gemmaspec.core import moment
from gemmaspec.core.control import ControlState, FirstDrafts
from gemmaspec.core.goodput import Step

# What `.status.k.reason` says where there is nothing to explain.
AS_ASKED = "as asked for"


def load(status: Mapping[str, Any]) -> ControlState | None:
    """The state that ``.status`` holds; None where there is none or it can't be read."""
    control, k = status.get("control"), status.get("k")
    if not control or not k or control.get("engine") is None or k.get("effective") is None:
        return None
    if not 0 <= k["effective"] <= MAX_K:
        return None  # not of our writing
    return ControlState(
        engine=control["engine"],
        desired=int(control.get("desired", 0)),
        effective=int(k["effective"]),
        proved=bool(control.get("proved")),
        fault=bool(control.get("fault")),
        changed_at=moment.optional(control.get("changedAt")),
        hold_until=moment.optional(control.get("holdUntil")),
        hold_seconds=control.get("holdSeconds"),
        trial_from=control.get("trialFrom") if control.get("trialFrom") in range(k["effective"]) else None,
        earlier=_earlier(control.get("firstDrafts") or {}),
        steps=_steps(control),
        boot_seconds=control.get("bootSeconds"),
        reason="" if k.get("reason") == AS_ASKED else k.get("reason", ""),
    )


def _steps(control: Mapping[str, Any]) -> tuple[Step, ...]:
    running = control.get("stepRunning") or {}
    times = control.get("stepMilliseconds") or {}
    return tuple(
        sorted(
            Step(int(k), float(ms), float(running[k]))
            for k, ms in times.items()
            if k in running and k.isdecimal() and ms > 0
        )
    )


def _earlier(told: Mapping[str, Any]) -> FirstDrafts:
    """Counts that can be: a status that somebody else wrote breaks no pass."""
    drafts, accepted, requests = (max(0, int(told.get(name, 0))) for name in ("drafts", "accepted", "requests"))
    return FirstDrafts(drafts, min(drafts, accepted), requests)


def store(state: ControlState) -> Stored:
    """The part of the state that ``.status.control`` holds; effective K and its reason are in ``.status.k``."""
    earlier = state.earlier
    return Stored(
        engine=state.engine,
        desired=state.desired,
        proved=state.proved or None,
        fault=state.fault or None,
        changed_at=None if state.changed_at is None else moment.text(state.changed_at),
        hold_until=None if state.hold_until is None else moment.text(state.hold_until),
        hold_seconds=state.hold_seconds,
        trial_from=state.trial_from,
        first_drafts=None if not earlier.drafts else Drafts(**asdict(earlier)),
        step_milliseconds={str(step.k): step.milliseconds for step in state.steps} or None,
        step_running={str(step.k): step.batch for step in state.steps} or None,
        boot_seconds=state.boot_seconds,
    )
