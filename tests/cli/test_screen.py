"""The screen of a resource: what it shows, wide and narrow, is text that a person reads; goldens hold it."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from gemmaspec.cli import age, enginepod
from gemmaspec.cli.screen import screen
from gemmaspec.core import moment

NOW = moment.seconds("2026-11-22T12:10:30Z")
WORLD = yaml.safe_load(Path(__file__).with_name("world.yaml").read_text(encoding="utf-8"))


def rendered(resource: dict[str, Any], pods: list[dict[str, Any]] | None, width: int) -> str:
    engines = None if pods is None else enginepod.read(pods, resource.get("status") or {})
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None, highlight=False)
    console.print(screen(resource, engines, NOW, console.width))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


@pytest.mark.parametrize("width", [120, 72])
def test_all_that_a_resource_tells(golden: Callable[[str, str], None], width: int) -> None:
    golden(f"cli-status-{width}.txt", rendered(WORLD["resource"], WORLD["pods"], width))


def test_a_new_resource_without_an_operator(golden: Callable[[str, str], None]) -> None:
    resource = {key: value for key, value in WORLD["resource"].items() if key != "status"}
    golden("cli-status-new.txt", rendered(resource, [], 100))


def test_pods_that_one_may_not_list_are_no_error() -> None:
    text = rendered(WORLD["resource"], None, 120)
    assert "ask for the right to list pods" in text
    assert "4 desired, 2 effective" in text


def test_a_spec_that_the_operator_has_not_seen_is_told() -> None:
    resource = copy.deepcopy(WORLD["resource"])
    resource["metadata"]["generation"] = 8
    assert "has not seen this spec yet (generation 8; it has seen 7)" in rendered(resource, [], 120)


def test_markup_in_a_message_stays_text() -> None:
    resource = copy.deepcopy(WORLD["resource"])
    resource["status"]["k"]["reason"] = "[red]spec.engine.patches[0][/red]"
    assert "[red]spec.engine.patches[0][/red]" in rendered(resource, [], 120)


def test_every_part_of_a_status_may_be_missing() -> None:
    for key in WORLD["resource"]["status"]:
        resource = copy.deepcopy(WORLD["resource"])
        del resource["status"][key]
        assert "gemma4-31b" in rendered(resource, WORLD["pods"], 72)


@pytest.mark.parametrize(
    ("time", "text"),
    [
        ("2026-11-22T12:10:30Z", "0s"),
        ("2026-11-22T12:10:35Z", "0s"),
        ("2026-11-22T12:08:31Z", "119s"),
        ("2026-11-22T12:08:30Z", "2m"),
        ("2026-11-20T12:10:30Z", "2d"),
        (None, "–"),
        ("soon", "–"),
    ],
)
def test_ages(time: str | None, text: str) -> None:
    assert age.of(time, NOW) == text


def pod(status: dict[str, Any], **metadata: str) -> dict[str, Any]:
    return {"metadata": {"name": "a", "creationTimestamp": "2026-11-22T12:00:00Z", **metadata}, "status": status}


DONE = {"terminated": {"exitCode": 0, "reason": "Completed"}}


@pytest.mark.parametrize(
    ("found", "state"),
    [
        (pod({"phase": "Pending"}), "Pending"),
        (pod({"phase": "Running"}, deletionTimestamp="2026-11-22T12:00:00Z"), "Terminating"),
        (pod({"initContainerStatuses": [{"name": "weights", "state": {"running": {}}}]}), "weights: running"),
        (
            pod({"initContainerStatuses": [{"name": "w", "state": DONE}, {"name": "preflight", "state": {}}]}),
            "preflight: waiting",
        ),
        (
            pod({"containerStatuses": [{"name": "engine", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
            "CrashLoopBackOff",
        ),
        (
            pod(
                {
                    "phase": "Running",
                    "initContainerStatuses": [{"name": "w", "state": DONE}],
                    "containerStatuses": [{"name": "engine", "state": {"running": {}}}],
                }
            ),
            "Running",
        ),
    ],
)
def test_states_of_pods(found: dict[str, Any], state: str) -> None:
    assert enginepod.read([found], {})[0].state == state
