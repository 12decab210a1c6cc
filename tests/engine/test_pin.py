"""pin.json is read strictly: every mistake is refused with the field named."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gemmaspec_engine.pin import PinError, parse

DIGEST = "a" * 64


def pin(**changes: Any) -> str:
    fields: dict[str, Any] = {
        "files": {"gemmaspec_engine/launch.py": DIGEST},
        "vllm": "0.32.0",
        "memory": {"utilization": 0.85, "reserveBytes": 1024, "device": "cuda"},
        "maxRestarts": 3,
        "stateDir": "/run/gemmaspec",
    }
    fields.update(changes)
    return json.dumps({name: value for name, value in fields.items() if value is not ...})


def test_a_full_pin_is_read() -> None:
    read = parse(pin())
    assert read.files == {"gemmaspec_engine/launch.py": DIGEST}
    assert (read.vllm, read.max_restarts, read.state_dir) == ("0.32.0", 3, "/run/gemmaspec")
    assert (read.memory.device, read.memory.utilization, read.memory.reserve_bytes) == ("cuda", 0.85, 1024)


def test_what_is_left_out_has_a_default() -> None:
    read = parse(pin(vllm=None, memory=..., maxRestarts=...))
    assert read.vllm is None
    assert read.memory.device == "discrete"
    assert read.max_restarts == 3
    assert read.boot.healthy_seconds == 600
    assert read.memory.wait_seconds == 1800


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"files": ...}, "files is missing"),
        ({"files": {}}, "files must be"),
        ({"files": {"/etc/passwd": DIGEST}}, "'/etc/passwd'"),
        ({"files": {"../x.py": DIGEST}}, "'../x.py'"),
        ({"files": {"x.py": "A" * 64}}, "files['x.py']"),
        ({"vllm": 32}, "vllm must be a non-empty string, not 32"),
        ({"maxRestarts": -1}, "maxRestarts must be a number of at least 0, not -1"),
        ({"maxRestarts": 1.5}, "maxRestarts must be a whole number"),
        ({"maxRestarts": True}, "maxRestarts must be a number"),
        ({"stateDir": "run"}, "stateDir must be an absolute path"),
        ({"memory": {"device": "tpu"}}, "memory.device must be one of cuda, cpu, discrete, not 'tpu'"),
        ({"memory": {"device": "cuda"}}, "memory.utilization must be given"),
        ({"memory": {"device": "cuda", "utilization": 1.2}}, "memory.utilization must be above 0"),
        ({"memory": {"device": "cuda", "utilization": 0}}, "memory.utilization must be above 0"),
        ({"memory": {"device": "cpu", "neededBytes": "4Gi"}}, "memory.neededBytes must be a number"),
        ({"memory": {"device": "cpu", "reserve": 1}}, "unknown field memory.reserve"),
        ({"memory": []}, "memory must be an object"),
        ({"boot": {"healthySeconds": "10m"}}, "boot.healthySeconds must be a number"),
        ({"extra": 1}, "unknown field extra"),
    ],
)
def test_a_mistake_is_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(PinError) as refused:
        parse(pin(**changes))
    assert named in str(refused.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"files": NaN}'])
def test_what_is_no_pin_at_all(text: str) -> None:
    with pytest.raises(PinError):
        parse(text)
