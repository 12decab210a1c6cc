"""The story: from nothing to an engine whose K was rolled back, each step proved by what was measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from openai import OpenAI

from demo.board import Board
from demo.door import door
from demo.installation import SAMPLE, Operator, exists, install_crd, install_operator
from demo.observer import Observer, accepted
from demo.record import Phase, Record
from demo.resource import PLURAL, Resource, condition, manifest, merged, settled, told
from gemmaspec.core.observation import Sample
from monitoring import Prometheus, prometheus_on
from monitoring.manifests import DASHBOARD, ROLLED_BACK, queries
from testbed import Cluster
from testbed.deadline import wait_for
from testbed.usercluster import UserCluster
from tinypair.languages import Kind, prompt
from traffic import Traffic

NAMESPACE: Final = "gemmaspec-demo"
STREAMS: Final = 4
PORT: Final = 8000
GOOD_SECONDS: Final = 20.0  # of good traffic at least
BAD_SECONDS: Final = 20.0  # of bad traffic at the lowered K
BAD_LEAST: Final = 8.0  # of bad traffic at the K asked for; less than decision and preStop pause take together
WARM_UP: Final = 2.0  # seconds of a phase that do not count: its first requests are being prefilled
_READY_SECONDS: Final = 300.0
_RESOLVED_SECONDS: Final = 60.0
_DECISION_SECONDS: Final = 120.0
_GOOD_RATE: Final = 0.5  # acceptance at position 0 that the good text has to show
_LEAST_GAIN: Final = 0.1  # relative gain in tok/s that the rollback has to bring
_SPANS: Final = 3  # of BAD_SECONDS, all counted: other programs on the machine take processor time when they like

LOWERED: Final = "bad traffic, K lowered"
PROMETHEUS_SCRAPES: Final = "Prometheus runs, with the monitors and rules of manifests/monitoring"
PROMETHEUS_SAW: Final = "Prometheus saw it: every panel has data; an alert fired, and resolves when the lower K is kept"
STEPS: Final = (
    "The custom resource definition is served",
    "The operator runs as a pod of its own image, under its own RBAC",
    "kubectl apply -f manifests/samples/gemmaspec-tiny.yaml",
    PROMETHEUS_SCRAPES,
    "The engine is Ready",
    "A chat completion comes through the Service",
    "Good traffic: drafts are accepted",
    "Bad traffic: acceptance falls and the operator lowers K",
    "A new revision serves with the lowered K",
    "The same bad traffic is faster now",
    PROMETHEUS_SAW,
)


class Mismatch(RuntimeError):
    """What was measured is not what the story tells."""


@dataclass(frozen=True)
class Setting:
    """Where the story plays. engine_image: None takes the recipe's (the testbed has it under that name)."""

    cluster: Cluster | UserCluster
    operator_image: str
    engine_image: str | None = None
    namespace: str = NAMESPACE
    monitored: bool = True
    """Whether the cluster can have Prometheus' image."""


class Story:
    """Plays the steps on a board and into a record. `play` raises StepFailed at the first that does not happen."""

    def __init__(self, setting: Setting, board: Board, record: Record) -> None:
        self._setting = setting
        self._board = board
        self._record = record
        self._kubectl = setting.cluster.kubectl
        self._resource = Resource(self._kubectl, "tiny", setting.namespace)
        self._opened = ExitStack()
        self._observer = Observer(self._kubectl, self._resource, record)
        self._observer.changed = self._changed
        self._spec: dict[str, Any] = {}
        self._base = ""
        self._applied = 0.0
        self._prometheus: Prometheus | None = None
        self.operator: Operator | None = None

    def play(self) -> None:
        """Every step, in order."""
        with self._opened:
            self._install()
            self._apply()
            self._watched()
            self._wait_ready()
            self._chat()
            good = self._good()
            before = self._bad()
            self._rolled()
            after = self._recovered()
            self._seen()
        self._record.facts |= {
            "gain": after.tokens_per_second / before.tokens_per_second - 1.0,
            "good_tokens_per_second": good.tokens_per_second,
        }

    def _changed(self) -> None:
        points = self._record.points
        self._board.observed(self._observer.view, points[-1] if points else None)

    def _install(self) -> None:
        with self._board.step(STEPS[0]) as step:
            before = install_crd(self._kubectl)
            self._record.facts["crd_was_there"] = before
            step.detail = "it was there before, and is brought up to date" if before else ""
        with self._board.step(STEPS[1]) as step:
            self.operator = install_operator(self._kubectl, self._setting.operator_image)
            step.detail = self.operator.user
            self._record.facts["operator"] = self.operator.user

    def _apply(self) -> None:
        with self._board.step(STEPS[2]) as step:
            namespace = self._setting.namespace
            if not exists(self._kubectl, "namespace", namespace):
                self._kubectl("create", "namespace", namespace)
            if exists(self._kubectl, "-n", namespace, PLURAL, self._resource.name):
                self._board.say("the resource of an earlier run is removed first")
                self._resource.delete()
            self._opened.enter_context(self._observer)
            if self._setting.engine_image is None:
                self._resource.kubectl("apply", "-f", str(SAMPLE))
            else:
                self._resource.apply(self._elsewhere(self._setting.engine_image))
            self._applied = begun = time.time()
            self._observer.mark("traffic", "resource applied")
            deployment = ("deployments", "-l", "app.kubernetes.io/managed-by=gemmaspec")
            wait_for(lambda: exists(self._kubectl, "-n", namespace, *deployment), "its Deployment", 30, 0.02)
            self._record.facts["deployment_seconds"] = time.time() - begun
            self._spec = self._resource.read()["spec"]
            step.detail = f"its Deployment stands after {self._record.facts['deployment_seconds']:.1f} s"

    @staticmethod
    def _elsewhere(image: str) -> dict[str, Any]:
        """The sample for a cluster without the testbed's runtime class."""
        body = manifest(SAMPLE)
        engine = {"image": image, "allowTag": "@sha256:" not in image}
        body["spec"] = merged(body["spec"], {"engine": engine, "nodes": {"runtimeClassName": ""}})
        return body

    def _watched(self) -> None:
        """Prometheus starts while the engine does."""
        if not self._setting.monitored:
            return
        with self._board.step(PROMETHEUS_SCRAPES) as step:
            self._prometheus = self._opened.enter_context(prometheus_on(self._setting.cluster))
            step.detail = f"{len(self._prometheus.targets())} targets so far"

    def _wait_ready(self) -> None:
        with self._board.step(STEPS[4]) as step:
            self._await(lambda body: settled(body), "Ready", _READY_SECONDS)
            self._record.facts["ready_seconds"] = time.time() - self._applied
            status = self._observer.view.status
            step.detail = f"{status['endpoint']}, K {status['k']['effective']}, revision {status['revision']}"

    def _await(self, probe: Callable[[dict[str, Any]], Any], what: str, seconds: float) -> None:
        """Wait for the watched resource; an engine that gave up ends the wait at once."""

        def look() -> bool:
            body = self._observer.view.resource
            if not body:
                return False
            stalled = condition(body, "Stalled")
            if stalled.get("status") == "True":
                raise Mismatch(f"stalled: {stalled['reason']}: {stalled['message']}")
            return bool(probe(body))

        wait_for(look, what, seconds, 0.1, lambda: told(self._observer.view.resource))

    def _chat(self) -> None:
        with self._board.step(STEPS[5]) as step:
            opened = door(self._setting.cluster, self._resource.name, PORT, self._setting.namespace)
            self._base = self._opened.enter_context(opened)
            self._observer.base_url = self._base
            client = OpenAI(base_url=f"{self._base}/v1", api_key="none", max_retries=0, timeout=60)
            question = prompt("code", 7, 120)
            answer = client.chat.completions.create(
                model="tiny",
                messages=[{"role": "user", "content": question}],
                max_tokens=48,
                temperature=0,
            )
            text = answer.choices[0].message.content or ""
            if not text.strip():
                raise Mismatch("the answer is empty")
            self._record.facts["chat"] = {"question": question, "answer": text}
            step.detail = repr(text[:70])

    @contextmanager
    def _traffic(self, kind: Kind) -> Iterator[Traffic]:
        """Traffic of one kind that is observed; ends when the last answer is there."""
        share = 1.0 if kind == "code" else 0.0
        traffic = Traffic(f"{self._base}/v1", model="tiny", code_share=share, streams=STREAMS, max_tokens=96)
        with traffic.background():
            self._observer.traffic = traffic
            try:
                yield traffic
            finally:
                self._observer.traffic = None

    def _good(self) -> Phase:
        with self._board.step(STEPS[6]) as step, self._traffic("code") as traffic:
            self._observer.mark("traffic", "good traffic begins")
            meter = self._start(traffic)
            self._pause(GOOD_SECONDS)
            # The operator has to have seen it too: a drop means a mix change only once acceptance was proved.
            self._await(lambda body: condition(body, "SpeculationHealthy").get("status") == "True", "proof", 60)
            phase = meter.phase("good traffic", "code", self._observer.view.k or 0)
            if not phase.accepted or phase.accepted[0] < _GOOD_RATE:
                raise Mismatch(f"position 0 accepted {phase.accepted[:1]}, expected at least {_GOOD_RATE}")
            step.detail = _told(phase)
            return phase

    def _bad(self) -> Phase:
        with self._board.step(STEPS[7]) as step:
            # Goes on until the recovery was measured: the engine restarts under this traffic.
            traffic = self._opened.enter_context(self._traffic("prose"))
            self._observer.mark("traffic", "bad traffic begins")
            begun = time.time()
            meter = self._start(traffic)
            desired = self._observer.view.status["k"]["desired"]
            self._await(lambda _: (self._observer.view.k or 0) < desired, "K lowered", _DECISION_SECONDS)
            decided = time.time() - begun
            self._record.facts["decision_seconds"] = decided
            # The old engine still serves while it leaves: a decision of a few seconds leaves enough to measure.
            self._pause(BAD_LEAST - decided)
            phase = meter.phase("bad traffic, K as asked for", "prose", desired)
            step.detail = f"after {decided:.0f} s: {_told(phase)}"
            self._board.say(self._observer.view.status["k"]["reason"])
            return phase

    def _rolled(self) -> None:
        with self._board.step(STEPS[8]) as step:
            lowered = self._observer.view.k
            begun = time.time()
            self._await(
                lambda _: self._observer.view.engine_k == lowered, f"an engine with K {lowered}", _READY_SECONDS
            )
            self._await(settled, "settled", 60)
            self._record.facts["restart_seconds"] = time.time() - begun
            body = self._resource.read()
            if body["spec"] != self._spec:
                raise Mismatch("the operator changed .spec")
            history = body["status"].get("history", [])
            if not history or history[-1]["toK"] != lowered:
                raise Mismatch(f"the history does not tell of it: {history}")
            events = [event for event in self._resource.events() if event["reason"] == history[-1]["reason"]]
            if not events:
                raise Mismatch(f"no event {history[-1]['reason']}")
            step.detail = (
                f"K {lowered}, revision {body['status']['revision']}; .spec untouched, event and history written"
            )

    def _recovered(self) -> Phase:
        with self._board.step(STEPS[9]) as step:
            before = self._record.phases[-1]
            assert self._observer.traffic is not None
            meter = self._start(self._observer.traffic)
            for _ in range(_SPANS):
                self._pause(BAD_SECONDS)
                phase, gain = self._faster(before, meter)
                step.detail = (
                    f"{before.tokens_per_second:.0f} → {phase.tokens_per_second:.0f} tok/s ({100 * gain:+.0f} %) "
                    f"at K {phase.k}"
                )
                if gain >= _LEAST_GAIN:
                    break
                self._board.say(f"{step.detail}: somebody else may have needed the processor; measuring on")
            else:
                raise Mismatch(f"{step.detail}: expected at least {100 * _LEAST_GAIN:+.0f} %")
            self._record.resource = self._resource.read()
            return phase

    def _seen(self) -> None:
        if (prometheus := self._prometheus) is None:
            return
        with self._board.step(PROMETHEUS_SAW) as step:
            asked, begun, ended = queries(DASHBOARD), self._applied, time.time()
            if missing := prometheus.without_data(asked, begun, ended):
                raise Mismatch(f"panels without data: {', '.join(query.panel for query in missing)}")
            if not prometheus.fired(ROLLED_BACK, self._resource.name, begun, ended):
                raise Mismatch(f"{ROLLED_BACK} did not fire")
            self._resource.ask_for_k(int(self._record.resource["status"]["k"]["effective"]))
            asked_at = time.time()
            still = (ROLLED_BACK, self._resource.name)
            wait_for(lambda: not prometheus.firing(*still), f"{ROLLED_BACK} resolved", _RESOLVED_SECONDS, 0.5)
            self._record.facts["panels"] = len(asked)
            took = time.time() - asked_at
            step.detail = f"{len(asked)} queries have data; {ROLLED_BACK} fired, and resolved in {took:.0f} s"

    def _faster(self, before: Phase, meter: _Meter) -> tuple[Phase, float]:
        """All that was measured at the lowered K so far, and its relative gain; it replaces what was told before."""
        self._record.phases = [phase for phase in self._record.phases if phase.name != LOWERED]
        phase = meter.phase(LOWERED, "prose", self._observer.view.k or 0)
        slow, fast = before.tokens_per_second, phase.tokens_per_second
        return phase, fast / slow - 1.0 if slow else float("inf")

    def _start(self, traffic: Traffic) -> _Meter:
        """Begin to measure, after the first requests were prefilled."""
        self._pause(WARM_UP)
        return _Meter(self._observer, self._record, traffic)

    def _pause(self, seconds: float) -> None:
        """Let the traffic flow; a cluster that is lost meanwhile shows in what was measured."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(0.2, left))


class _Meter:
    """Counts tokens, drafts and failed calls from its making on."""

    def __init__(self, observer: Observer, record: Record, traffic: Traffic) -> None:
        self._observer = observer
        self._record = record
        self._traffic = traffic
        self._begun = time.time()
        self._tokens = traffic.meter.total
        self._failed = traffic.summary().failed
        self._first = observer.counters()

    def phase(self, name: str, text: str, k: int) -> Phase:
        """What was counted, as a phase that ends now."""
        tokens, ended = self._traffic.meter.total - self._tokens, time.time()
        last = self._observer.counters()
        drafts, rates = _difference(self._first, last)
        phase = Phase(
            name=name,
            text=text,
            k=k,
            begun=self._begun,
            ended=ended,
            tokens=tokens,
            drafts=drafts,
            accepted=rates,
            failed_calls=self._traffic.summary().failed - self._failed,
        )
        self._record.phases.append(phase)
        return phase


def _difference(first: Sample | None, last: Sample | None) -> tuple[int, list[float]]:
    if first is None or last is None or last.generation_tokens < first.generation_tokens:
        return 0, []
    return accepted(first, last)


def _told(phase: Phase) -> str:
    rates = " ".join(f"{100 * rate:.0f} %" for rate in phase.accepted) or "no drafts"
    return f"accepted up to position 0, 1, …: {rates}; {phase.tokens_per_second:.0f} tok/s at K {phase.k}"
