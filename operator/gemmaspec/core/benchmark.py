"""The benchmark that a spec asks for: a Job, made once for each ``request``, whose result goes into a ConfigMap.

What has become of it is read from what is there: the ConfigMap with the result, the Job's pod, and what that pod says.
The pod has no rights and no token: it tells which K it wants, and the agents are told by the operator, for a minute at
a time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from gemmaspec.api.spec import Benchmark
from gemmaspec.core import hold, live, moment, names
from gemmaspec.core.bench import lesson
from gemmaspec.core.bench.result import NoResult, parse
from gemmaspec.core.bench.subject import facts
from gemmaspec.core.hold import Hold
from gemmaspec.core.observation import Observation, Pod, Wish
from gemmaspec.core.plan import benchmark_config_map, benchmark_job, digest
from gemmaspec.core.resolve import Resolved

RESULT_KEY: Final = "bench.json"
# Length of a Job's mark: with a benchmark a day a collision within a decade is as likely as 1 in 10,000.
MARK_LENGTH: Final = 8
ENDED: Final = frozenset({"Done", "Failed", "Refused"})
# A pod that says nothing for so long after its start is given up: it serves its port within seconds.
SILENT_SECONDS: Final = 300.0
LOOK_SECONDS: Final = 30.0


@dataclass(frozen=True)
class Step:
    """What a pass does about the benchmark.

    objects: to be there. kept: (kind, name) of what stays though it is not planned. hold: K that it wants. lesson: what
    the agents of the engine are taught, as their state.
    """

    status: Mapping[str, Any] | None = None
    objects: tuple[dict[str, Any], ...] = ()
    kept: frozenset[tuple[str, str]] = frozenset()
    hold: Hold | None = None
    lesson: str = ""


@dataclass(frozen=True)
class Place:
    """Where benchmarks can be made. pod: an engine that serves, None while none does. why_not: K can't be moved."""

    pod: Pod | None
    image: str
    why_not: str = ""


def step(observation: Observation, resolved: Resolved, place: Place) -> Step:
    """One pass. The result of the last benchmark stays until another is asked for."""
    asked = resolved.spec.benchmark
    before = dict(observation.resource.status.get("benchmark") or {})
    if asked is None:  # one that was under way is withdrawn
        ended = before if before.get("phase") in ENDED else {}
        return Step(ended or None, kept=_results(ended))
    name = names.benchmark_object(observation.resource.owner.name, mark(asked))
    if before.get("job") != name:
        before = {}
    if before.get("phase") in ENDED:
        return Step(before, kept=_results(before))
    known = {"request": asked.request, "job": name, "startedAt": before.get("startedAt")}
    child = observation.child("ConfigMap", name)
    if child is not None:
        told = _summary(child.body)
        status = {**known, "phase": "Done", "finishedAt": moment.text(observation.now), **told}
        return Step(_present(status), kept=_results(status))
    return _going(observation, resolved, place, known, asked)


def watches(found: Step) -> bool:
    """Whether a benchmark is under way, and may have to be given up though nothing tells."""
    return bool(found.status) and dict(found.status or {}).get("phase") == "Running"


def mark(asked: Benchmark) -> str:
    """Tells one request from others, whatever else of it is edited meanwhile."""
    return digest(asked.request)[:MARK_LENGTH]


def _going(
    observation: Observation, resolved: Resolved, place: Place, known: Mapping[str, Any], asked: Benchmark
) -> Step:
    owner, now = observation.resource.owner, observation.now
    name = str(known["job"])
    made = observation.child("Job", name) is not None
    said = [(pod, wish) for pod, wish in observation.benchmarks if made and _is_of(pod, name)]
    pod, wish = next(iter(said), (None, None))
    began = {**known, "startedAt": known["startedAt"] or moment.text(now)}
    if wish is not None and wish.summary is not None and wish.result:
        config = benchmark_config_map(
            owner, name, RESULT_KEY, wish.result, json.dumps(wish.summary, ensure_ascii=False)
        )
        running = {**began, "phase": "Running", "message": "the result is being stored"}
        return Step(_present(running), (config,), frozenset({("Job", name)}), _wanted(wish), _lesson(wish, resolved))
    person = hold.standing(observation.resource.annotations, now)
    failure = _failure(pod, wish, now) or (_taken(person) if made and person is not None else "")
    if failure:
        ended = {**began, "phase": "Failed", "finishedAt": moment.text(now), "message": failure}
        return Step(_present(ended), hold=_wanted(wish))
    if made:
        message = "K of one engine is moved by the benchmark" if wish is not None else "its pod starts"
        running = {**began, "phase": "Running", "message": message}
        return Step(_present(running), kept=frozenset({("Job", name)}), hold=_wanted(wish))
    refusal = _refusal(place)
    if refusal:
        refused = {**known, "phase": "Refused", "finishedAt": moment.text(now), "message": refusal}
        return Step(_present(refused))
    if place.pod is None or place.pod.ip is None:
        return Step(_present({**known, "phase": "Waiting", "message": "no engine of the spec's revision serves yet"}))
    if person is not None:
        waits = f"somebody holds K at {person.k} until {moment.text(person.until)}: it begins after that"
        return Step(_present({**known, "phase": "Waiting", "message": waits}))
    job = benchmark_job(owner, resolved, name, place.image, question(observation, resolved, place.pod, asked))
    return Step(_present({**began, "phase": "Running", "message": "its pod starts"}), (job,))


def _lesson(wish: Wish, resolved: Resolved) -> str:
    """Its figures as the policies' prior; empty for what is no result."""
    try:
        return lesson.state(parse(wish.result).runs, live.grid(resolved))
    except (NoResult, ValueError):
        return ""


def _is_of(pod: Pod, job: str) -> bool:
    return pod.name.startswith(job) and not pod.terminating


def _refusal(place: Place) -> str:
    if place.why_not:
        return (
            f"K of this engine moves by restart ({place.why_not}), and a sweep would restart it for each K. Set "
            "speculative.control.actuator: Live, or run `gemmaspec bench`, which tells the price and asks; then ask "
            "again with another benchmark.request"
        )
    if not place.image:
        return (
            "the operator does not know its own image, from which the Job is made: set GEMMASPEC_IMAGE in its "
            "Deployment, then ask again with another benchmark.request"
        )
    return ""


def _taken(person: Hold) -> str:
    return (
        f"somebody held K at {person.k} until {moment.text(person.until)} while it ran, and people go first; ask again "
        "with another benchmark.request"
    )


def _failure(pod: Pod | None, wish: Wish | None, now: float) -> str:
    if wish is not None and wish.failure:
        return f"{wish.failure}; ask again with another benchmark.request"
    if pod is None:
        return ""
    if pod.phase in ("Failed", "Succeeded"):
        said = pod.ended.message if pod.ended and pod.ended.message else "its pod ended"
        return f"{said}; ask again with another benchmark.request"
    silent = wish is None and now - (pod.created_at or now) > SILENT_SECONDS
    if not silent:
        return ""
    why = (
        f": {pod.waiting[0]}: {pod.waiting[1]}"
        if pod.waiting
        else f": {pod.unschedulable}"
        if pod.unschedulable
        else ""
    )
    return (
        f"its pod {pod.name} says nothing after {SILENT_SECONDS:.0f} s{why}; ask again with another benchmark.request"
    )


def _wanted(wish: Wish | None) -> Hold | None:
    """The K that it wants; an end in the past where it wants none, so that it is let go at once."""
    if wish is None:
        return None
    return Hold(0, 0.0) if wish.k is None else Hold(wish.k, wish.time + wish.seconds)


def question(observation: Observation, resolved: Resolved, pod: Pod, asked: Benchmark) -> dict[str, Any]:
    """What the Job is told."""
    status = observation.resource.status
    ks = live.grid(resolved)
    return {
        "engine": f"http://{_host(pod.ip)}:{pod.port}",
        "agent": f"http://{_host(pod.ip)}:{live.AGENT_PORT}",
        "asked": asked.body(),
        "current": resolved.k,
        "facts": facts(resolved, status, ks, "Live").body(),
    }


def _host(ip: str | None) -> str:
    return f"[{ip}]" if ip and ":" in ip else str(ip)


def _results(status: Mapping[str, Any]) -> frozenset[tuple[str, str]]:
    job = status.get("job")
    return frozenset({("ConfigMap", str(job))}) if job and status.get("phase") == "Done" else frozenset()


def _summary(body: Mapping[str, Any]) -> dict[str, Any]:
    """The short form, from the annotation; a ConfigMap without one was edited, and says nothing."""
    try:
        told = json.loads(body["metadata"]["annotations"][names.BENCHMARK_ANNOTATION])
        return {key: told[key] for key in ("message", "schedule") if key in told}
    except (KeyError, TypeError, ValueError):
        return {"message": "its result can't be read: the ConfigMap's annotation was edited"}


def _present(status: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in status.items() if value is not None}
