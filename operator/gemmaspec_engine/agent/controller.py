"""Holds the settings and the policy, and answers with a K whatever happens."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gemmaspec_engine import policy as policies
from gemmaspec_engine.agent.settings import MODES, Settings, at_most, parse

__all__ = ["Controller", "Fault"]

STATE_VERSION = 1
_FOREVER = math.inf


class Fault:
    """Our code raised: since then K is static, until new settings come."""

    def __init__(self, where: str, error: BaseException) -> None:
        self.where = where
        self.error = f"{type(error).__name__}: {error}"[:500]
        self.since = time.time()

    def as_json(self) -> dict[str, Any]:
        """In the words of the port."""
        return {"where": self.where, "error": self.error, "since": self.since}


class _Active:
    """What decides at the moment. Replaced as a whole: the scheduler's thread reads one reference."""

    __slots__ = ("ahead", "begun", "between_ms", "ends", "first_ms", "fixed", "plain", "policy", "settings")

    def __init__(self, settings: Settings, policy: policies.Policy | None, fixed: int, now: float) -> None:
        self.settings = settings
        self.policy = policy
        self.fixed = fixed
        self.begun = now
        self.first_ms: float | None = None
        self.between_ms: float | None = None
        self.ends = _FOREVER if settings.seconds is None else now + settings.seconds
        self.ahead: int | None = None
        """K of the next step, where the policy was asked ahead."""
        self.plain = False
        """No clock needs to be read any more: a step was scheduled under these settings, and they do not end."""


class Controller:
    """Decides K for each step, from the scheduler's thread; takes settings and state, from the port's.

    ``choose``, ``ahead`` and ``observe`` never raise and never wait: when the port holds the policy at that
    moment (to change its bounds or to export its state), the step keeps its K.

    Args:
        ks: K values that the engine has graphs for.
        settings: what holds from the start.
        clock: seconds, monotonic.
        make: makes a policy by name; `gemmaspec_engine.policy.make`.
    """

    def __init__(
        self,
        ks: Sequence[int],
        settings: Settings,
        *,
        clock: Callable[[], float] = time.perf_counter,
        make: Callable[..., policies.Policy] = policies.make,
    ) -> None:
        self.ks = tuple(sorted(set(ks)))
        self.exceptions: dict[str, int] = {}
        self.fault: Fault | None = None
        self.decisions: dict[int, int] = dict.fromkeys(self.ks, 0)
        self.missed = 0
        self.changes = 0
        self.free_since: Callable[[], float] = lambda: -math.inf
        """Since when nothing but the scheduler itself holds up the next step, by the same clock: the last step's
        result has come, or the first request after a pause."""
        self.on_fault: Callable[[str, BaseException], None] = lambda _where, _error: None
        """Told of the first exception since the last settings."""
        self._clock = clock
        self._make = make
        self._lock = threading.Lock()
        self._policies: dict[str, policies.Policy] = {}
        self._valid = frozenset(self.ks)
        self.static = at_most(self.ks, settings.k)
        self.k = self.static
        self.since = time.time()
        self._standing = settings
        self._active = _Active(settings, None, self.static, clock())
        self.apply(settings)

    def choose(self, batch: int, requests: Collection[Hashable]) -> int:
        """K for the next step: what `ahead` found, or the policy's answer now; the static K when our code fails."""
        try:
            active = self._active
            if not active.plain:
                active = self._looked_at(active)
            if active.policy is None:
                k = active.fixed
            elif active.ahead is not None:
                k, active.ahead = active.ahead, None
            else:
                k = self._ask(active.policy, batch, tuple(requests))
            self.decisions[k] += 1
            if k != self.k:
                self.k = k
                self.changes += 1
                self.since = time.time()
        except Exception as error:  # noqa: BLE001  whatever it is, the engine goes on
            self.fail("choose", error)
            return self.static
        return k

    def _looked_at(self, active: _Active) -> _Active:
        """What decides now, after a look at the clock."""
        now = self._clock()
        if now >= active.ends:
            active = self._return_to_standing()
        if active.first_ms is None:
            active.between_ms = 1000.0 * (now - max(active.begun, self.free_since()))
            active.first_ms = 1000.0 * (now - active.begun)
        active.plain = active.ends == _FOREVER
        return active

    def ahead(self, batch: int, requests: Sequence[Hashable]) -> None:
        """Asks the policy now for what the next ``choose`` answers, unless new settings come in between.

        ``batch`` and ``requests`` are those of the step under way: what the next one holds is not known yet.
        """
        try:
            active = self._active
            if active.policy is not None:
                active.ahead = self._ask(active.policy, batch, requests)
        except Exception as error:  # noqa: BLE001
            self.fail("choose", error)

    def _ask(self, policy: policies.Policy, batch: int, requests: Sequence[Hashable]) -> int:
        if not self._lock.acquire(blocking=False):
            self.missed += 1
            return self.k
        try:
            k = policy.choose(batch, requests)
        finally:
            self._lock.release()
        if k not in self._valid:
            raise ValueError(f"policy {policy.name!r} chose K={k!r}, the engine has graphs for {list(self.ks)}")
        return k

    def observe(
        self, batch: int, k: int, accepted: Sequence[int], step_ms: float, requests: Sequence[Hashable]
    ) -> None:
        """Lets the policy learn from one step."""
        try:
            policy = self._active.policy
            if policy is None:
                return
            if not self._lock.acquire(blocking=False):
                self.missed += 1
                return
            try:
                policy.observe(batch, k, accepted, step_ms, requests)
            finally:
                self._lock.release()
        except Exception as error:  # noqa: BLE001
            self.fail("observe", error)

    def fail(self, where: str, error: BaseException) -> None:
        """Counts an exception of our own; from now on K is static, until new settings come."""
        self.exceptions[where] = self.exceptions.get(where, 0) + 1
        if self.fault is None:
            self.fault = Fault(where, error)
            self.on_fault(where, error)
        settings = self.settings
        if self._active.policy is not None:
            self._policies.pop(self._active.policy.name, None)  # it may be broken in the middle of a change
        self._active = _Active(settings, None, self.static, self._active.begun)
        self._active.first_ms = self._active.between_ms = 0.0
        if self.k != self.static:
            self.k, self.since = self.static, time.time()

    def apply(self, settings: Settings) -> None:
        """Settings that hold from the next step on. Ends a fault: the new settings are a new try.

        Raises:
            ValueError: the policy refuses them.
        """
        fixed = at_most(self.ks, settings.k)
        name = MODES[settings.mode]
        with self._lock:
            policy = None if name is None else self._policy(name, settings)
            self.static = fixed
            self.fault = None
            if settings.seconds is None:
                self._standing = settings
            self._active = _Active(settings, policy, fixed, self._clock())

    def _policy(self, name: str, settings: Settings) -> policies.Policy:
        """The policy of this name, with what it has learnt so far."""
        policy = self._policies.get(name)
        if policy is None:
            policy = self._make(name, k_max=self.ks[-1], ks=self.ks)
        policy.set_bounds(*settings.bounds)
        self._policies[name] = policy
        return policy

    def _return_to_standing(self) -> _Active:
        """The time of temporary settings is over."""
        settings = self._standing
        name = MODES[settings.mode]
        if not self._lock.acquire(blocking=False):
            return self._active
        try:
            policy = None if name is None else self._policy(name, settings)
            self.static = at_most(self.ks, settings.k)
            self._active = _Active(settings, policy, self.static, self._clock())
        finally:
            self._lock.release()
        return self._active

    @property
    def settings(self) -> Settings:
        """In force now."""
        return self._active.settings

    def settings_json(self) -> dict[str, Any]:
        """Settings in force, in the words of the port, with what became of them."""
        active = self._active
        left = None if active.ends == _FOREVER else max(0.0, round(active.ends - self._clock(), 1))
        waited = {
            name: None if milliseconds is None else round(milliseconds, 3)
            for name, milliseconds in (("appliedAfterMs", active.first_ms), ("betweenStepsMs", active.between_ms))
        }
        return {**active.settings.as_json(), "untilSeconds": left, **waited, "static": self.static}

    def explain(self) -> str:
        """Why K is what it is, in one sentence."""
        active = self._active
        if self.fault is not None:
            return f"K={self.k}: static, after an exception in {self.fault.where}: {self.fault.error}"
        if active.policy is None:
            return f"K={self.k}: mode {active.settings.mode}"
        try:
            # Without the lock: the policy replaces what it tells about as a whole, and the next step must not wait.
            return active.policy.explain()
        except Exception as error:  # noqa: BLE001
            self.fail("explain", error)
            return f"K={self.k}"

    def export_state(self) -> dict[str, Any]:
        """What the policies have learnt and the standing settings; JSON can hold it.

        Raises:
            Exception: whatever a policy raises.
        """
        with self._lock:
            learnt = {name: policy.export_state() for name, policy in self._policies.items()}
        return {
            "version": STATE_VERSION,
            "ks": list(self.ks),
            "settings": self._standing.as_json(),
            "policies": learnt,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes over what `export_state` gave. Settings in force stay; bounds are theirs, not the state's.

        Raises:
            ValueError: another version or grid, or a policy refuses its part. Then nothing has changed.
        """
        if state.get("version") != STATE_VERSION or state.get("ks") != list(self.ks):
            found = f"version {state.get('version')!r} for K = {state.get('ks')!r}"
            raise ValueError(f"this agent takes state of version {STATE_VERSION} for K = {list(self.ks)}, not {found}")
        parts = state.get("policies")
        if not isinstance(parts, Mapping):
            raise ValueError("policies must be an object")
        loaded = {}
        for name, part in parts.items():
            if name not in MODES.values() or not isinstance(part, Mapping):
                raise ValueError(f"unknown policy {name!r}")
            loaded[name] = self._make(name, k_max=self.ks[-1], ks=self.ks)
            loaded[name].load_state(part)
        with self._lock:
            self._policies.update(loaded)
            active = self._active
        left = None if active.ends == _FOREVER else max(0.001, active.ends - self._clock())
        self.apply(replace(active.settings, seconds=left))

    def saved_settings(self, state: Mapping[str, Any]) -> Settings:
        """The standing settings of a saved state.

        Raises:
            ValueError: they do not fit this engine.
        """
        return parse(state.get("settings"), self.ks)
