"""The agent's port, over real HTTP, in front of fake steps."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gemmaspec_engine.agent import port as agent_port
from gemmaspec_engine.agent import store
from gemmaspec_engine.agent.host import Agent, Engine
from gemmaspec_engine.agent.port import AT_ONCE, BODY_MOST, Port
from gemmaspec_engine.agent.settings import Config
from tests.engine.fake_scheduling import FakeRequest, decode, sampled

TOKEN = "secret"
HASH = hashlib.sha256(TOKEN.encode()).hexdigest()


def an_agent(refusal: str = "", **config: Any) -> Agent:
    engine = Engine("0.32.0", (0, 1, 2, 4), 4, 8, 2048, asynchronous=True, runner="V2", refusal=refusal)
    return Agent(engine, Config(**({"port": 0, "host": "127.0.0.1", "token_sha256": HASH} | config)))


class Client:
    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, method: str, path: str, body: Any = None, token: str | None = TOKEN) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                code, text = answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            code, text = error.code, error.read().decode()
        return code, (text if path == "/metrics" and code == 200 else json.loads(text))


@pytest.fixture
def agent() -> Agent:
    return an_agent()


@pytest.fixture
def client(agent: Agent) -> Iterator[Client]:
    with Port("127.0.0.1", 0, agent) as port:
        thread = threading.Thread(target=port.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield Client(port.server_address[1])
        port.shutdown()
        thread.join(10)


def run(agent: Agent, steps: int = 10) -> None:
    requests = {"a": FakeRequest(), "b": FakeRequest()}
    k = agent.controller.k
    for left in reversed(range(steps)):
        output = decode({"a": k, "b": k})
        agent.scheduled(output, requests)
        agent.computing()
        k = output.num_spec_tokens_to_schedule
        agent.ended(output, sampled({"a": 1, "b": 2}, graph="CUDAGraphMode.FULL"), requests)
        if not left:
            agent.rests()


def test_put_k_holds_from_the_next_step(agent: Agent, client: Client) -> None:
    code, answer = client.ask("PUT", "/k", {"mode": "Fixed", "k": 1})
    assert code == 200
    assert (answer["mode"], answer["k"], answer["appliedAfterMs"]) == ("Fixed", 1, None)
    run(agent)
    code, status = client.ask("GET", "/status")
    assert code == 200
    assert status["k"]["now"] == 1
    assert status["k"]["appliedAfterMs"] >= 0
    assert status["steps"]["decode"] == 10
    assert status["acceptance"]["positions"][0]["drafted"] > 0
    assert status["engine"]["graphs"] == {"FULL": 10}
    assert status["live"] is True
    assert status["exceptions"] == {}


@pytest.mark.parametrize("path", ["/status", "/state"])
@pytest.mark.parametrize("token", [None, "", "wrong", HASH])
def test_reading_needs_the_token(client: Client, path: str, token: str | None) -> None:
    assert client.ask("GET", path, token=token)[0] == 401


@pytest.mark.parametrize("token", [None, "wrong"])
def test_writing_needs_the_token(agent: Agent, client: Client, token: str | None) -> None:
    assert client.ask("PUT", "/k", {"mode": "Fixed", "k": 0}, token=token)[0] == 401
    assert client.ask("PUT", "/state", {}, token=token)[0] == 401
    assert agent.controller.settings.k == 4


def test_without_a_hash_no_token_is_right() -> None:
    agent = an_agent(token_sha256="")
    assert not agent.authorized("Bearer ")
    assert not agent.authorized("Bearer x")


@pytest.mark.parametrize(
    ("body", "words"),
    [({"mode": "Fixed", "q": 1}, "unknown field q"), (b"{", "Expecting"), ([1], "object"), ({"mode": 3}, "mode")],
)
def test_wrong_settings_are_refused_and_change_nothing(agent: Agent, client: Client, body: Any, words: str) -> None:
    code, answer = client.ask("PUT", "/k", body)
    assert code == 422
    assert words in answer["error"]
    assert agent.controller.settings.mode == "Fixed"


def test_unknown_paths_and_huge_bodies(client: Client) -> None:
    assert client.ask("GET", "/v1/models")[0] == 404
    assert client.ask("PUT", "/metrics", {})[0] == 404
    with socket.create_connection(("127.0.0.1", client.port), timeout=10) as connection:
        connection.sendall(f"PUT /k HTTP/1.0\r\nContent-Length: {BODY_MOST + 1}\r\n\r\n".encode())
        assert b" 413 " in connection.recv(1000)


def test_an_engine_that_cannot_be_steered_says_why() -> None:
    agent = an_agent(refusal="live K is for engines on one GPU")
    with pytest.raises(PermissionError, match="one GPU"):
        agent.put_k({"mode": "Fixed", "k": 0})
    output = decode({"a": 3}, to_draft=3)
    agent.scheduled(output, {"a": FakeRequest()})
    assert output.num_spec_tokens_to_schedule == 3, "its K is left as vLLM set it"
    assert agent.status()["live"] is False
    assert agent.status()["reason"] == "live K is for engines on one GPU"


def test_metrics_are_an_exposition(agent: Agent, client: Client) -> None:
    run(agent)
    code, text = client.ask("GET", "/metrics", token=None)
    assert code == 200
    families = {family.name: family for family in text_string_to_metric_families(text)}
    k = families["gemmaspec_agent_k"].samples[0]
    assert (k.labels, k.value) == ({"mode": "Fixed"}, 4)
    decided = {s.labels["k"]: s.value for s in families["gemmaspec_agent_decisions"].samples}
    assert decided == {"0": 0, "1": 0, "2": 0, "4": 10}
    assert {s.labels["position"] for s in families["gemmaspec_agent_accepted"].samples} == {"0", "1", "2", "3"}
    assert families["gemmaspec_agent_cudagraph_steps"].samples[0].value == 10
    assert families["gemmaspec_agent_step_seconds"].type == "summary"


def test_livez_without_a_token(agent: Agent, client: Client) -> None:
    assert client.ask("GET", "/livez", token=None)[0] == 200
    agent.progress._last -= 1e6
    object.__setattr__(agent.engine, "unfinished", lambda: 2)
    code, figures = client.ask("GET", "/livez", token=None)
    assert code == 503
    assert figures["unfinished"] == 2
    assert figures["stalledSeconds"] > figures["limitSeconds"]


def test_our_own_error_is_no_death_of_the_engine(agent: Agent) -> None:
    def broken() -> int:
        raise RuntimeError("no scheduler")

    object.__setattr__(agent.engine, "unfinished", broken)
    assert agent.livez()[0] is True
    assert agent.controller.exceptions == {"livez": 1}


def test_slow_clients_do_not_pile_up(client: Client) -> None:
    """More connections than are served at a time are closed; when the first ones go, others are answered."""
    idle = [socket.create_connection(("127.0.0.1", client.port), timeout=10) for _ in range(AT_ONCE)]
    with socket.create_connection(("127.0.0.1", client.port), timeout=10) as one_more:
        assert one_more.recv(100) == b""
    for connection in idle:
        connection.close()
    codes = []
    for _ in range(50):
        try:
            codes.append(client.ask("GET", "/livez")[0])
            break
        except OSError:
            continue
    assert codes == [200]


def test_broken_objects_of_vllm_never_reach_the_engine(agent: Agent) -> None:
    output: Any = SimpleNamespace(num_scheduled_tokens={"a": 2})  # one that says nothing of K
    agent.scheduled(output, {})
    assert output.num_spec_tokens_to_schedule == 4, "K is static then"
    assert agent.controller.exceptions == {"scheduled": 1}
    well = decode({"a": 4})
    agent.scheduled(well, {"a": FakeRequest()})
    agent.ended(well, object(), {"a": FakeRequest()})
    assert agent.controller.exceptions == {"scheduled": 1, "ended": 1}
    assert agent.controller.fault is not None
    assert agent.controller.fault.where == "scheduled"


def test_state_survives_a_restart(tmp_path: Path) -> None:
    first = an_agent(state_dir=str(tmp_path))
    assert store.restore(first) == "nothing saved"
    first.put_k({"mode": "Adaptive", "k": 2, "kMax": 4})
    run(first, 50)
    store.save(first)
    second = an_agent(state_dir=str(tmp_path))
    assert "Adaptive" in store.restore(second)
    assert second.controller.settings == first.controller.settings
    assert second.controller.export_state() == first.controller.export_state()


def test_a_damaged_state_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / store.FILE).write_text('{"version": 1, "ks": [0, 1, 2, 4], "settings": {"mode": "x"}}')
    agent = an_agent(state_dir=str(tmp_path))
    with pytest.raises(ValueError, match="mode"):
        store.restore(agent)
    assert agent.controller.settings.mode == "Fixed"


def test_start_settings_that_do_not_fit_are_reported() -> None:
    agent = an_agent(start={"mode": "Nonsense"})
    assert agent.controller.settings.mode == "Fixed"
    assert "mode" in agent.status()["reason"]


def test_steps_are_learnt_from_while_the_next_one_runs(agent: Agent) -> None:
    """And at once when nothing runs any more, or when nobody says that the device computes."""
    requests = {"a": FakeRequest()}

    def step(running: int) -> int:
        output = decode({"a": 4})
        agent.scheduled(output, requests)
        scheduled = agent.tally.steps
        agent.ended(output, sampled({"a": 2}), requests)
        if not running:
            agent.rests()
        return scheduled

    assert [step(1) for _ in range(4)] == [0, 0, 2, 2]
    assert agent.tally.steps == 2
    agent.computing()
    assert agent.tally.steps == 4
    step(0)
    assert agent.tally.steps == 5
    assert agent.controller.exceptions == {}


def test_an_exception_is_logged_once_with_its_trace(agent: Agent, caplog: pytest.LogCaptureFixture) -> None:
    agent.put_k({"mode": "Adaptive", "k": 4})
    policy = agent.controller._active.policy
    assert policy is not None
    policy._choose = lambda *_: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    run(agent, 3)
    agent.failed("ended", ValueError("a second one"))
    (record,) = [entry for entry in caplog.records if "exception in choose" in entry.getMessage()]
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError
    assert not [entry for entry in caplog.records if "exception in ended" in entry.getMessage()]
    assert agent.controller.exceptions == {"choose": 1, "ended": 1}


def test_a_port_that_is_taken_is_tried_again_until_it_is_free(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The engine serves meanwhile, with the K that it has; the operator tells of an agent that does not answer."""
    monkeypatch.setattr(agent_port, "RETRY_SECONDS", 0.05)
    opened = threading.Event()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        agent = an_agent(port=number)
        run(agent)
        assert agent_port.serve(agent, lambda _: opened.set())
        assert not opened.wait(0.3)
        said = [record for record in caplog.records if "trying again" in record.getMessage()]
        assert len(said) == 1, "not once for each attempt"
        run(agent)
    assert opened.wait(60)
    assert Client(number).ask("GET", "/status")[0] == 200
