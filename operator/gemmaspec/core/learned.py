"""What agents have learnt, kept in a ConfigMap for the next pod of the same engine (docs/adr): when it is saved, and
to whom it is given.

The state itself is the agent's affair and opaque here. Beside it stands what decides whether a newer one is worth a
write: conditional acceptance and step times, of which the choice of K is a function.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gemmaspec.core import moment, names
from gemmaspec.core.agent import Report
from gemmaspec.core.figures import ACCEPTANCE_BAND
from gemmaspec.core.observation import Child, Observation, Pod
from gemmaspec.core.plan import learned_config_map

STATE_KEY = "state.json"
# A state of an adaptive policy is some 20 KiB; etcd takes 1.5 MiB at most, and this is written by machines.
MOST_BYTES = 256 * 1024
# Decode steps from which an agent has something to tell: half a minute of a 31B engine.
LEARNT_STEPS = 1000
# An engine that came up without knowledge is given some until it has made so many steps by itself.
UNLEARNT_STEPS = 4000
# A serving engine's knowledge is saved at most so often, a leaving one's too: what is lost with a box is an hour's.
SAVE_SECONDS = 3600.0
LEAVING_SECONDS = 60.0
# A step time that moved by this factor can move K; acceptance by the band of the status' own figures.
STEP_FACTOR = 1.25
_LEARNING = ("Rollback", "Adaptive")


@dataclass(frozen=True)
class Gist:
    """What of an agent's knowledge decides about K. engine: the identity that it was learnt with."""

    engine: str
    saved_at: float
    acceptance: tuple[float | None, ...]
    step_ms: Mapping[int, float]

    def text(self) -> str:
        """As an annotation."""
        value = {
            "engine": self.engine,
            "savedAt": moment.text(self.saved_at),
            "acceptance": list(self.acceptance),
            "stepMs": {str(k): milliseconds for k, milliseconds in sorted(self.step_ms.items())},
        }
        return json.dumps(value, separators=(",", ":"))

    def tells_other(self, known: Gist) -> bool:
        """Whether it could lead to another K than ``known``: something was measured that was not, or moved visibly."""
        for i, rate in enumerate(self.acceptance):
            before = known.acceptance[i] if i < len(known.acceptance) else None
            if rate is not None and (before is None or abs(rate - before) > ACCEPTANCE_BAND):
                return True
        for k, milliseconds in self.step_ms.items():
            earlier = known.step_ms.get(k)
            if earlier is None or not 1 / STEP_FACTOR <= milliseconds / max(earlier, 1e-9) <= STEP_FACTOR:
                return True
        return False


@dataclass(frozen=True)
class Save:
    """Fetch the state of this pod's agent and write it as data of the ConfigMap ``body``, over ``child`` if any."""

    pod: Pod
    body: Mapping[str, Any]
    child: Child | None


@dataclass(frozen=True)
class Restore:
    """Give this pod's agent what the ConfigMap ``child`` holds."""

    pod: Pod
    child: Child


def steps(observation: Observation, engine: str, revision: str) -> Iterable[Save | Restore]:
    """What is to be done in this pass; nothing over a resource whose engines go on as they did.

    engine: identity of the engines of ``revision``; pods of others may be other engines, and are left alone.
    """
    child = observation.child("ConfigMap", names.learned_object(observation.resource.owner.name))
    known = _known(child)
    if known is not None and known.engine != engine:
        known = None
    agents = _agents(observation, revision)
    if child is not None and known is not None:
        yield from (Restore(pod, child) for pod, report in agents if _ignorant(pod, report, known))
    found = [(pod, report) for pod, report in agents if _due(pod, report, known, engine, observation.now)]
    if found:
        pod, report = max(found, key=lambda entry: (entry[0].terminating, sum(entry[1].steps.values()), entry[0].name))
        gist = _gist(report, engine, observation.now)
        yield Save(pod, learned_config_map(observation.resource.owner, gist.text()), child)


def _agents(observation: Observation, revision: str) -> Sequence[tuple[Pod, Report]]:
    pods = [pod for pod in observation.pods if pod.live and pod.running and pod.revision == revision]
    return [(pod, observation.agents[pod.uid][-1]) for pod in pods if observation.agents.get(pod.uid)]


def _ignorant(pod: Pod, report: Report, known: Gist) -> bool:
    """An engine that began after the state was saved, was given none yet, and has learnt little by itself."""
    fresh = report.live and not report.restored and sum(report.steps.values()) < UNLEARNT_STEPS
    return pod.ready and fresh and report.started_at > known.saved_at


def _due(pod: Pod, report: Report, known: Gist | None, engine: str, now: float) -> bool:
    learns = report.live and not report.fallback and report.settings.mode in _LEARNING
    if not learns or sum(report.steps.values()) < LEARNT_STEPS:
        return False
    if known is None:
        return True
    wait = LEAVING_SECONDS if pod.terminating else SAVE_SECONDS
    return now - known.saved_at >= wait and _gist(report, engine, now).tells_other(known)


def _gist(report: Report, engine: str, now: float) -> Gist:
    return Gist(engine, now, report.recent, report.step_ms)


def _known(child: Child | None) -> Gist | None:
    """What the ConfigMap's annotation says; None where it says nothing that we wrote."""
    if child is None:
        return None
    try:
        told = json.loads(child.body["metadata"]["annotations"][names.LEARNED_ANNOTATION])
        return Gist(
            engine=str(told["engine"]),
            saved_at=moment.optional(told["savedAt"]) or 0.0,
            acceptance=tuple(None if rate is None else float(rate) for rate in told["acceptance"]),
            step_ms={int(k): float(milliseconds) for k, milliseconds in told["stepMs"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
