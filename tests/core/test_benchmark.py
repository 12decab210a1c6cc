"""The benchmark that a spec asks for: one Job for each request, its result kept, and every way in which it ends."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from gemmaspec.core import benchmark, hold, names
from gemmaspec.core.bench.result import Result, Run
from gemmaspec.core.bench.result import text as result_text
from gemmaspec.core.benchmark import SILENT_SECONDS, Place, Step
from gemmaspec.core.hold import Hold
from gemmaspec.core.observation import Child, Observation, Pod, Resource, Wish
from gemmaspec.core.owner import Owner
from gemmaspec.core.reconcile import Create, Delete, Settings, Steer, Teach, reconcile
from gemmaspec.core.resolve import Resolved, resolve
from gemmaspec.recipes import load
from gemmaspec_engine.agent.controller import Controller
from gemmaspec_engine.agent.settings import parse as parse_settings
from gemmaspec_engine.policy import make
from tests.core.test_live import FILES, KEY, report

OWNER = Owner("ns", "tiny", "uid-1")
NOW = 1_795_343_400.0
IMAGE = "registry.example/operator@sha256:1"
ENGINE = Pod("tiny-0", "pod-1", "r", 4, "10.0.0.1", "n1", "Running", True, False, True, 0, live=True)
PLACE = Place(ENGINE, IMAGE)
SUMMARY = {"message": "K=2 at batch 1", "schedule": [{"batch": 1, "k": 2, "gainPercent": 9.0, "overZeroPercent": 80.0}]}


def spec(**benchmark: Any) -> dict[str, Any]:
    control = {"actuator": "Live", "mode": "Adaptive"}
    asked = {"benchmark": {"request": "first", **benchmark}} if benchmark is not None else {}
    return {"recipe": "tiny-cpu", "speculative": {"control": control}, **asked}


def resolved(body: dict[str, Any] | None = None) -> Resolved:
    return resolve(spec() if body is None else body, load())


JOB = names.benchmark_object("tiny", benchmark.mark(resolved().spec.benchmark))  # type: ignore[arg-type]
POD = replace(ENGINE, name=f"{JOB}-x", uid="bench-1", live=False, created_at=NOW - 10)


def observed(
    status: dict[str, Any] | None = None,
    body: dict[str, Any] | None = None,
    annotations: dict[str, str] | None = None,
    **more: Any,
) -> Observation:
    resource = Resource(OWNER, 1, False, spec() if body is None else body, {"benchmark": status} if status else {})
    return Observation(replace(resource, annotations=annotations or {}), NOW, **more)


def child(kind: str, annotations: dict[str, str] | None = None) -> Child:
    return Child(kind, JOB, f"{kind}-uid", "1", OWNER.uid, {"metadata": {"annotations": annotations or {}}})


def step(seen: Observation, place: Place = PLACE) -> Step:
    return benchmark.step(seen, resolve(seen.resource.spec, load()), place)


def test_a_request_becomes_a_job_without_rights_or_token() -> None:
    found = step(observed())
    (job,) = found.objects
    assert (job["kind"], job["metadata"]["name"]) == ("Job", JOB)
    pod = job["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["serviceAccountName"] == "tiny", "the engines' own, which has no rights"
    text = json.dumps(job)
    assert KEY.decode() not in text
    assert "TOKEN" not in text.upper().replace("AUTOMOUNTSERVICEACCOUNTTOKEN", "").replace("TOKENS", "")
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/name"] != names.selector("tiny")["app.kubernetes.io/name"]
    assert names.OWNER_LABEL not in labels, "it is no engine, and no Service sends it requests"
    told = json.loads(pod["containers"][0]["env"][0]["value"])
    assert (told["engine"], told["agent"]) == ("http://10.0.0.1:8000", "http://10.0.0.1:8471")
    assert told["facts"]["ks"] == [0, 1, 2, 4]
    assert job["spec"]["backoffLimit"] == 0
    assert job["metadata"]["ownerReferences"][0]["uid"] == OWNER.uid
    assert found.status is not None
    assert (found.status["phase"], found.status["job"]) == ("Running", JOB)


def test_keys_and_prompts_come_by_reference() -> None:
    body = spec(prompts={"name": "mine", "key": "prompts.yaml"})
    body["service"] = {"apiKeySecretRef": {"name": "api", "key": "key"}}
    (job,) = step(observed(body=body)).objects
    environment = {e["name"]: e for e in job["spec"]["template"]["spec"]["containers"][0]["env"]}
    reference = {"name": "mine", "key": "prompts.yaml"}
    assert environment["GEMMASPEC_BENCH_PROMPTS"]["valueFrom"]["configMapKeyRef"] == reference
    assert environment["OPENAI_API_KEY"]["valueFrom"]["secretKeyRef"] == {"name": "api", "key": "key"}


def test_nothing_is_asked_of_a_resource_that_asks_for_nothing() -> None:
    plain = {"recipe": "tiny-cpu"}
    assert step(observed(body=plain)) == Step()
    done = {"request": "first", "job": JOB, "phase": "Done"}
    found = step(observed(done, body=plain))
    assert (found.status, found.kept, found.objects) == (done, frozenset({("ConfigMap", JOB)}), ())


def test_it_waits_for_an_engine() -> None:
    found = step(observed(), Place(None, IMAGE))
    assert found.status is not None
    assert (found.status["phase"], found.objects) == ("Waiting", ())


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (Place(ENGINE, IMAGE, "the actuator is Restart"), "moves by restart (the actuator is Restart)"),
        (Place(ENGINE, ""), "set GEMMASPEC_IMAGE"),
    ],
)
def test_what_cannot_be_made_is_refused_with_a_way_out(place: Place, words: str) -> None:
    found = step(observed(), place)
    assert found.status is not None
    assert found.status["phase"] == "Refused"
    assert words in found.status["message"]
    assert "another benchmark.request" in found.status["message"]
    again = step(observed(dict(found.status)))
    assert again.objects == (), "not tried again by itself"


def test_the_k_that_it_wants_is_held_for_as_long_as_it_says() -> None:
    wish = Wish(NOW - 5, number=3, k=2, seconds=60.0)
    found = step(observed(children=(child("Job"),), benchmarks=((POD, wish),)))
    assert found.hold == Hold(2, NOW + 55)
    assert found.kept == {("Job", JOB)}
    free = step(observed(children=(child("Job"),), benchmarks=((POD, replace(wish, k=None)),)))
    assert free.hold is not None
    assert free.hold.until < NOW, "let go at once"


def test_its_result_is_stored_then_told_and_the_job_goes() -> None:
    wish = Wish(NOW, number=9, summary=SUMMARY, result='{"kind": "GemmaSpecBenchmark"}')
    running = {"request": "first", "job": JOB, "phase": "Running", "startedAt": "2026-11-22T10:00:00Z"}
    storing = step(observed(running, children=(child("Job"),), benchmarks=((POD, wish),)))
    (config,) = storing.objects
    assert (config["kind"], config["immutable"]) == ("ConfigMap", True)
    assert config["data"] == {benchmark.RESULT_KEY: wish.result}
    assert ("Job", JOB) in storing.kept, "until the result is there"
    stored = child("ConfigMap", config["metadata"]["annotations"])
    done = step(observed(running, children=(child("Job"), stored), benchmarks=((POD, wish),)))
    assert done.status is not None
    assert done.status["phase"] == "Done"
    assert done.status["message"] == SUMMARY["message"]
    assert done.status["schedule"] == SUMMARY["schedule"]
    assert done.status["startedAt"] == running["startedAt"]
    assert done.kept == {("ConfigMap", JOB)}
    after = step(observed(dict(done.status), children=(stored,)))
    assert (after.status, after.objects) == (done.status, ()), "and never again by itself"


def runs() -> list[Run]:
    return [
        Run(
            workload="code",
            concurrency=4,
            k=k,
            run=0,
            seconds=1.0,
            tokens=100,
            tokens_per_second=100.0,
            batch=3.9,
            step_milliseconds=20.0 + 2 * k,
            drafted=[100, 80][:k],
            accepted=[80, 40][:k],
        )
        for k in (0, 1, 2, 4)
    ]


def test_what_it_found_is_offered_to_the_policies() -> None:
    text = result_text(Result(title="it", runs=runs()))
    wish = Wish(NOW, number=9, summary=SUMMARY, result=text)
    storing = whole(children=(child("Job"),), benchmarks=((POD, wish),))
    (taught,) = [action for action in reconcile(storing, settings()).actions if isinstance(action, Teach)]
    ks = (0, 1, 2, 4)
    controller = Controller(ks, parse_settings({"mode": "Adaptive"}, ks))
    controller.load_state(json.loads(taught.state))
    learnt = controller.export_state()["policies"]["adaptive"]
    known = make("adaptive", k_max=4, ks=ks)
    known.load_state(learnt)
    times = known.times.curve(4).ms  # type: ignore[attr-defined]
    assert times == pytest.approx([20.0, 22.0, 24.0, 28.0], rel=0.02)
    assert known.acceptance.rates[0] == pytest.approx(0.8, abs=0.05)  # type: ignore[attr-defined]


def test_a_result_that_is_none_teaches_nothing() -> None:
    wish = Wish(NOW, number=9, summary=SUMMARY, result="{}")
    assert step(observed(children=(child("Job"),), benchmarks=((POD, wish),))).lesson == ""


def test_another_request_is_another_benchmark() -> None:
    done = {"request": "first", "job": JOB, "phase": "Done"}
    found = step(observed(done, body=spec(request="second")))
    (job,) = found.objects
    assert job["metadata"]["name"] != JOB
    assert ("ConfigMap", JOB) not in found.kept


def test_a_withdrawn_request_takes_its_job_away() -> None:
    running = {"request": "first", "job": JOB, "phase": "Running"}
    found = step(observed(running, body={"recipe": "tiny-cpu"}, children=(child("Job"),)))
    assert found == Step()


@pytest.mark.parametrize(
    ("pod", "wish", "words"),
    [
        (POD, Wish(NOW, 3, failure="the engine died"), "the engine died; ask again"),
        (replace(POD, phase="Failed"), None, "its pod ended; ask again"),
        (
            replace(POD, created_at=NOW - SILENT_SECONDS - 1, waiting=("ImagePullBackOff", "no such image")),
            None,
            "says nothing after 300 s: ImagePullBackOff: no such image",
        ),
    ],
)
def test_every_end_has_a_reason(pod: Pod, wish: Wish | None, words: str) -> None:
    found = step(observed(children=(child("Job"),), benchmarks=((pod, wish),)))
    assert found.status is not None
    assert found.status["phase"] == "Failed"
    assert words in found.status["message"]
    assert not found.kept, "the Job goes"


def held(k: int, seconds: float) -> dict[str, str]:
    return {hold.ANNOTATION: hold.Hold(k, NOW + seconds).text()}


def test_it_waits_for_what_a_person_holds() -> None:
    found = step(observed(annotations=held(1, 60)))
    assert found.status is not None
    assert found.status["phase"] == "Waiting"
    assert "somebody holds K at 1 until" in found.status["message"]
    assert not found.objects
    assert step(observed(annotations=held(1, -1))).objects, "what has ended holds nothing"


def test_a_person_takes_k_from_it() -> None:
    wish = Wish(NOW, number=3, k=1, seconds=60.0)
    seen = whole(children=(child("Job"),), benchmarks=((POD, wish),), annotations=held(2, 60))
    decision = reconcile(seen, settings())
    (told,) = [action for action in decision.actions if isinstance(action, Steer)]
    assert told.wanted.k == 2
    assert [action.child.name for action in decision.actions if isinstance(action, Delete)] == [JOB]
    assert decision.status is not None
    assert decision.status["benchmark"]["phase"] == "Failed"
    assert "somebody held K at 2" in decision.status["benchmark"]["message"]


def test_a_slow_start_is_no_failure() -> None:
    found = step(observed(children=(child("Job"),), benchmarks=((POD, None),)))
    assert found.status is not None
    assert (found.status["phase"], found.status["message"]) == ("Running", "its pod starts")
    assert benchmark.watches(found)


def settings() -> Settings:
    return Settings(load(), FILES, key=KEY, live_files=FILES, image=IMAGE)


def whole(**more: Any) -> Observation:
    """A pass over a resource whose engine serves under the agent."""
    agents = {ENGINE.uid: (report(), report(time=NOW - 1))}
    return observed(pods=(ENGINE,), agents=agents, **more)


def test_a_pass_holds_k_for_the_benchmark_and_prunes_what_is_left() -> None:
    wish = Wish(NOW, number=3, k=1, seconds=60.0)
    decision = reconcile(whole(children=(child("Job"),), benchmarks=((POD, wish),)), settings())
    (told,) = [action for action in decision.actions if isinstance(action, Steer)]
    assert (told.wanted.mode, told.wanted.k, told.seconds) == ("Fixed", 1, 60.0)
    assert not [action for action in decision.actions if isinstance(action, Delete)]
    failed = reconcile(whole(children=(child("Job"),), benchmarks=((POD, Wish(NOW, 4, failure="no")),)), settings())
    gone = [action.child.name for action in failed.actions if isinstance(action, Delete)]
    assert gone == [JOB]
    assert failed.status is not None
    assert failed.status["benchmark"]["phase"] == "Failed"


def test_a_benchmark_restarts_no_engine() -> None:
    without = reconcile(observed(body={**spec(), "benchmark": None}), settings())
    asked = reconcile(observed(), settings())
    assert without.status is not None
    assert asked.status is not None
    assert without.status["revision"] == asked.status["revision"]
    kinds = [action.body["kind"] for action in asked.actions if isinstance(action, Create)]
    assert "Job" not in kinds, "it waits for an engine"
    assert asked.status["benchmark"]["phase"] == "Waiting"
