"""Apply one YAML, get an engine: endpoint, conditions, completions, API key, drain."""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import openai
import pytest

from demo.door import door
from demo.resource import condition
from stories import API_KEY, BOOT_SECONDS, NAMESPACE, PORT, Site, Tiny
from testbed.deadline import wait_for
from tinypair.languages import prompt

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.timeout(900)]

_NOWHERE = {"nodes": {"selector": {"e2e/nowhere": "true"}}}  # its pod stays pending: no engine is needed


def test_conditions_say_that_it_serves(tiny: Tiny) -> None:
    body = tiny.settle()
    status = {
        kind: condition(body, kind).get("status") for kind in ("Ready", "Reconciling", "Stalled", "EngineHealthy")
    }
    assert status == {"Ready": "True", "Reconciling": "False", "Stalled": "False", "EngineHealthy": "True"}
    assert body["status"]["readyReplicas"] == 1
    assert body["status"]["observedGeneration"] == body["metadata"]["generation"]


def test_the_pin_was_proved_before_the_weights_loaded(tiny: Tiny) -> None:
    found = condition(tiny.settle(), "Preflight")
    assert found["status"] == "True"
    assert "0.32.0" in found["message"]


def test_the_status_names_an_endpoint_that_answers_inside_the_cluster(tiny: Tiny) -> None:
    endpoint = tiny.settle()["status"]["endpoint"]
    code = f"import urllib.request as u; print(u.urlopen({endpoint!r}[:-3] + '/health', timeout=20).status)"
    pod = tiny.serving_pod()["metadata"]["name"]
    assert tiny.resource.kubectl("exec", pod, "-c", "engine", "--", "python3", "-c", code).strip() == "200"


def test_a_chat_completion_comes_through_the_service(tiny: Tiny) -> None:
    tiny.settle()
    answer = tiny.client().chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": prompt("code", 3)}], max_tokens=24, temperature=0
    )
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0


@pytest.mark.parametrize("key", ["none", "correct-hors"])
def test_a_request_without_the_api_key_is_refused(tiny: Tiny, key: str) -> None:
    tiny.settle()
    with pytest.raises(openai.AuthenticationError):
        tiny.client(key).models.list()


def test_a_request_with_the_api_key_is_answered(tiny: Tiny) -> None:
    tiny.settle()
    assert [model.id for model in tiny.client().models.list()] == ["tiny"]


@pytest.mark.parametrize(
    ("path", "status"), [("/tokenize", 401), ("/version", 401), ("/health", 200), ("/metrics", 200)]
)
def test_routes_beside_v1_need_the_api_key_too(tiny: Tiny, path: str, status: int) -> None:
    tiny.settle()
    assert _status(f"{tiny.base_url}{path}") == status
    assert _status(f"{tiny.base_url}{path}", {"Authorization": f"Bearer {API_KEY}"}) in (200, 405)


def _status(url: str, headers: Mapping[str, str] | None = None) -> int:
    """HTTP status of a GET."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=dict(headers or {})), timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_kubectl_get_shows_target_and_k(tiny: Tiny) -> None:
    tiny.settle()
    shown = tiny.resource.kubectl("get", "gsd", "tiny")
    assert "/models/tiny-gemma4/target" in shown
    assert "True" in shown


def test_the_deployment_stands_within_a_second(site: Site) -> None:
    audit, user = site.own.audit, site.operator.user
    mark = audit.mark()
    resource = site.apply("prompt", **_NOWHERE)
    try:
        created = wait_for(
            lambda: audit.events(mark, user=user, verbs=["create"], resource="deployments"),
            "a Deployment made by the operator",
            20,
        )
        asked = audit.mutations(mark, resource="gemmaspecdeploys")[0]
        assert _time(created[0].stamp) - _time(asked.stamp) < 1.0
    finally:
        resource.delete()


def test_a_stream_survives_the_deletion_of_its_pod(tiny: Tiny) -> None:
    """The engine leaves its Service, finishes what runs, and only then goes."""
    tiny.settle()
    pod = tiny.serving_pod()["metadata"]
    stream = _Stream(tiny, tokens=400)
    stream.start()
    wait_for(lambda: stream.received >= 8 or not stream.is_alive(), "first tokens", 60, fail=lambda: str(stream.error))
    tiny.resource.kubectl("delete", "pod", pod["name"], "--wait=false")
    marked = tiny.resource.json("get", "pod", pod["name"])["metadata"]["deletionTimestamp"]
    left = stream.received
    stream.join(90)
    assert stream.error is None
    assert left < stream.tokens, "the stream had ended before the pod was deleted: nothing was proved"
    assert stream.received == stream.tokens
    assert marked
    uid = pod["uid"]
    wait_for(lambda: uid not in [other["metadata"]["uid"] for other in tiny.resource.pods()], "the old pod gone", 60)
    tiny.settle()


@pytest.mark.campaign
def test_what_outlasts_the_drain_is_cut_with_an_error(site: Site) -> None:
    """A leaving engine's requests have drainSeconds; then their clients are told, and the engine is gone in time."""
    # Longer answers than the model was trained for: they take more than the half minute that a leaving engine has.
    longer = {"name": "VLLM_ALLOW_LONG_MAX_MODEL_LEN", "value": "1"}
    asked = {"model": {"maxModelLen": 16384}, "engine": {"env": [longer]}, "rollout": {"drainSeconds": 5}}
    resource = site.apply("cut", **asked)
    try:
        resource.wait_settled(BOOT_SECONDS)
        with door(site.cluster, resource.name, PORT, NAMESPACE) as base_url:
            served = Tiny(site, resource, base_url)
            pod = served.serving_pod()
            stream, whole = _Stream(served, tokens=15_000), _Whole(served, tokens=15_000)
            whole.start()
            stream.start()
            wait_for(lambda: stream.received >= 8, "first tokens", 60, fail=lambda: str(stream.error))
            resource.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false")
            begun = time.monotonic()
            stream.join(120)
            took = time.monotonic() - begun
            whole.join(120)
        print(f"cut after {took:.1f} s and {stream.received} tokens: {stream.error!r}; {whole.error!r}")
        assert isinstance(stream.error, openai.APIError)
        assert "drainSeconds" in str(stream.error)
        assert isinstance(whole.error, openai.InternalServerError)
        assert whole.error.status_code == 503
        assert "drainSeconds" in str(whole.error)
        assert took >= 5
        uid, grace = pod["metadata"]["uid"], pod["spec"]["terminationGracePeriodSeconds"]
        wait_for(lambda: uid not in [other["metadata"]["uid"] for other in resource.pods()], "the pod gone", 60)
        assert time.monotonic() - begun < grace, "it ended by itself: kubelet had no need to kill it"
    finally:
        resource.delete()


class _Whole(threading.Thread):
    """One long completion that is answered as a whole, and what came of it."""

    def __init__(self, tiny: Tiny, tokens: int) -> None:
        super().__init__(name="whole", daemon=True)
        self.tokens = tokens
        self.error: BaseException | None = None
        self._client = tiny.client(seconds=120)

    def run(self) -> None:
        """Ask, and wait for the answer."""
        messages: Any = [{"role": "user", "content": prompt("prose", 6)}]
        try:
            self._client.chat.completions.create(
                model="tiny", messages=messages, max_tokens=self.tokens, extra_body={"ignore_eos": True}
            )
        except (openai.OpenAIError, OSError) as error:
            self.error = error


class _Stream(threading.Thread):
    """One long streaming completion, and how many tokens of it have come."""

    def __init__(self, tiny: Tiny, tokens: int) -> None:
        super().__init__(name="stream", daemon=True)
        self.tokens = tokens
        self.received = 0
        self.error: BaseException | None = None
        self._client = tiny.client(seconds=90)

    def run(self) -> None:
        options: Any = {"ignore_eos": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
        try:
            stream = self._client.chat.completions.create(
                model="tiny",
                messages=[{"role": "user", "content": prompt("prose", 5)}],
                max_tokens=self.tokens,
                temperature=0,
                stream=True,
                extra_body=options,
            )
            for chunk in stream:
                if chunk.usage is not None:
                    self.received = chunk.usage.completion_tokens
        except (openai.OpenAIError, OSError) as error:
            self.error = error


def _time(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()
