"""Live K: the agent in the engine decides, the operator sets mode and bounds, and never restarts for a K.

The contract with the agent is docs/live-k.md. An engine with the agent is started with the largest K of a grid and
a schedule that names every K of it; so a revision depends on the grid, and not on the K of the moment.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from gemmaspec.api.spec import Accelerator, Actuator, Method, Mode
from gemmaspec.core import names
from gemmaspec.core.acceptance import Window
from gemmaspec.core.agent import Report, Wanted
from gemmaspec.core.problem import Problem
from gemmaspec.core.resolve import Resolved
from gemmaspec_engine import compat
from gemmaspec_engine.agent import grid as grids

AGENT_PORT: Final = 8471
SCHEDULER: Final = "gemmaspec_engine.agent.scheduler.LiveScheduler"
# vLLM's default where the spec names no number of sequences (0.32 on a GPU of this size).
DEFAULT_SEQUENCES: Final = 256
_DEVICE: Final = {Accelerator.CPU: "cpu", Accelerator.GB10: "NVIDIA GB10", Accelerator.ANY: "any"}


def token(key: bytes, uid: str) -> str:
    """The agent's bearer token of a resource: HMAC of the operator's key and the resource's uid."""
    return hmac.new(key, uid.encode(), hashlib.sha256).hexdigest()


def digest(secret: str) -> str:
    """What a pod holds in place of a token."""
    return hashlib.sha256(secret.encode()).hexdigest()


def problem(resolved: Resolved, steerable: bool) -> Problem | None:
    """Why what the spec asks of the actuator can't be had; None where it can."""
    control = resolved.control
    field = "spec.speculative.control.actuator"
    if control.actuator is Actuator.LIVE:
        why = _refusal(resolved, steerable)
        return Problem("LiveUnavailable", field, f"'Live' can't be had here: {why}") if why else None
    if control.mode is Mode.ADAPTIVE and not is_live(resolved, steerable):
        why = _refusal(resolved, steerable) or "this vLLM and device were not tested together"
        message = f"mode Adaptive needs the Live actuator: {why}; use mode Rollback, or set actuator: Live"
        return Problem("LiveUnavailable", "spec.speculative.control.mode", message)
    return None


def is_live(resolved: Resolved, steerable: bool) -> bool:
    """Whether K is moved by the agent. ``Auto`` picks it only for tested pairs of version and device."""
    if resolved.control.actuator is Actuator.RESTART or resolved.control.mode is Mode.ENGINE:
        return False
    if _refusal(resolved, steerable):
        return False
    if resolved.control.actuator is Actuator.LIVE:
        return True
    return compat.tested(_version(resolved), _DEVICE[resolved.accelerator])


def why_restart(resolved: Resolved, steerable: bool) -> str:
    """Why ``Auto`` took Restart; empty where it did not, or nothing was left to it."""
    if resolved.control.actuator is not Actuator.AUTO or is_live(resolved, steerable):
        return ""
    if resolved.control.mode is Mode.ENGINE:
        return "mode Engine leaves it to vLLM what is verified"
    device = "a GPU that is not named" if resolved.accelerator is Accelerator.ANY else _DEVICE[resolved.accelerator]
    return _refusal(resolved, steerable) or f"live K was not tested with vLLM {_version(resolved)} on {device}"


def _version(resolved: Resolved) -> str | None:
    return resolved.spec.engine.vllm if resolved.spec.engine else None


def _refusal(resolved: Resolved, steerable: bool) -> str:
    if not steerable:
        return "the operator has no key for the agents' tokens (GEMMASPEC_KEY_FILE)"
    if resolved.method is not Method.MTP:
        return f"it was tried with method mtp only, and this is {resolved.method}"
    if _top(resolved) == 0:
        return "the spec asks for no drafts"
    if _version(resolved) is None:
        return "spec.engine.vllm is not set, and what an engine can do depends on its version"
    extra = (resolved.spec.engine.extra_args if resolved.spec.engine else None) or []
    if any(flag.startswith("--compilation-config") for flag in extra):
        return "extraArgs sets --compilation-config, which the graphs of the K grid need"
    return compat.refusal(_version(resolved))


def grid(resolved: Resolved) -> tuple[int, ...]:
    """The values of K that the engine is started for: 0, the kill switch, up to an explicit kMax, or to k.

    The default kMax is no wish for graphs: with four sequences a grid up to 8 has no room for 4.
    """
    return grids.fit(range(max(1, _top(resolved)) + 1), _sequences(resolved))


def _top(resolved: Resolved) -> int:
    explicit = resolved.spec.speculative.control if resolved.spec.speculative else None
    return max(resolved.k, (explicit.k_max if explicit else None) or 0)


def _sequences(resolved: Resolved) -> int:
    scheduling = resolved.spec.engine.scheduling if resolved.spec.engine else None
    return (scheduling.max_num_seqs if scheduling else None) or DEFAULT_SEQUENCES


def speculation(resolved: Resolved) -> dict[str, Any]:
    """Keys of ``--speculative-config`` that name the grid."""
    values = grid(resolved)
    return {
        "num_speculative_tokens": max(values),
        "num_speculative_tokens_per_batch_size": grids.schedule_for(values, _sequences(resolved)),
    }


def arguments(resolved: Resolved) -> list[str]:
    """Further arguments of an engine with the agent."""
    found = ["--scheduler-cls", SCHEDULER]
    scheduling = resolved.spec.engine.scheduling if resolved.spec.engine else None
    eager = bool(scheduling and scheduling.enforce_eager)
    if resolved.accelerator is not Accelerator.CPU and not eager:
        sizes = {"cudagraph_capture_sizes": grids.capture_sizes(grid(resolved), _sequences(resolved))}
        found += ["--compilation-config", json.dumps(sizes, separators=(",", ":")), "--cudagraph-metrics"]
    return found


def environment(secret: str, resolved: Resolved) -> dict[str, str]:
    """Environment of the agent; it holds the token's hash, never the token. A vLLM that the plug-in mends is told to
    use the runner that is mended: its own default is the other one for some models.
    """
    value = {
        "port": AGENT_PORT,
        "tokenSha256": digest(secret),
        "stateDir": names.STATE_DIR,
    }
    known = compat.find(_version(resolved))
    runner = known is not None and known.patches and resolved.accelerator is not Accelerator.CPU
    agent = {"GEMMASPEC_AGENT": json.dumps(value, separators=(",", ":"), sort_keys=True)}
    return agent | ({"VLLM_USE_V2_MODEL_RUNNER": "1"} if runner else {})


def wanted(resolved: Resolved, fault: bool) -> Wanted:
    """What every agent of the resource shall follow now."""
    control = resolved.control
    top = max(grid(resolved))
    if fault and control.mode is not Mode.FIXED:
        return Wanted("Fixed", 0, 0, top)
    if control.mode is Mode.ADAPTIVE:
        return Wanted("Adaptive", resolved.k, control.k_min, top)
    return Wanted(str(control.mode), resolved.k, min(control.k_min, resolved.k), top)


def running_k(series: Sequence[Sequence[Report]]) -> tuple[int, str] | None:
    """The K that most steps of the last minute verified, over all replicas, and an agent's word on its own K; None
    where no agent has told.
    """
    counted: dict[int, int] = {}
    series = [_unheld(reports) for reports in series]
    for reports in series:
        if not reports:
            continue
        first, last = reports[0], reports[-1]
        for k, steps in last.steps.items():
            counted[k] = counted.get(k, 0) + max(0, steps - (first.steps.get(k, 0) if len(reports) > 1 else 0))
    told = [reports[-1] for reports in series if reports]
    if not told:
        return None
    most = max(sorted(counted), key=lambda k: counted[k]) if any(counted.values()) else min(last.k for last in told)
    why = next((last.reason for last in told if last.k == most and last.reason), "the agents in the engines chose it")
    return most, why


def _unheld(reports: Sequence[Report]) -> Sequence[Report]:
    """Reports since K was last held for a while, once steps were made: that K was nobody's choice."""
    last = max((i for i, report in enumerate(reports) if report.until is not None), default=None)
    if last is None:
        return reports
    since = reports[last + 1 :]
    return since if since and since[0].steps != since[-1].steps else ()


def lifetime(series: Sequence[Sequence[Report]]) -> Window:
    """What drafts earned since the engines began, and how many requests had some."""
    newest = [reports[-1] for reports in series if reports]
    positions = max((len(report.positions) for report in newest), default=0)
    accepted = tuple(
        float(sum(report.positions[i][1] for report in newest if i < len(report.positions))) for i in range(positions)
    )
    drafts = float(sum(report.positions[0][0] for report in newest if report.positions))
    requests = float(sum(report.requests for report in newest))
    return Window(k=positions, drafts=drafts, accepted=accepted, requests=requests)


def unbiased(recent: Window, series: Sequence[Sequence[Report]]) -> Window:
    """``recent`` with the agents' conditional rates: vLLM's own per-position counters mix different values of K."""
    spans = [(reports[0], reports[-1]) for reports in series if len(reports) > 1]
    positions = max((len(last.positions) for _, last in spans), default=0)
    chain: list[float] = []
    survivors = recent.drafts
    for i in range(positions):
        pairs = [(first.positions[i], last.positions[i]) for first, last in spans if i < len(first.positions)]
        tried = sum(after[0] - before[0] for before, after in pairs)
        hit = sum(after[1] - before[1] for before, after in pairs)
        if tried <= 0 or hit < 0:
            break
        survivors *= min(1.0, hit / tried)
        chain.append(survivors)
    return replace(recent, k=len(chain), accepted=tuple(chain)) if chain else recent
