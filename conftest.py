"""Which tests run when: a campaign takes minutes by itself, and runs only where it is asked for."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

# Stories of the real cluster that start little: in the other process, on a cluster of its own.
_ASIDE = ("e2e/test_testbed.py", "e2e/test_weights.py")
_LONG = ("tests/agent/", "tests/engine/test_preflight_real.py", "tests/monitoring/", "tests/integration/")


def _turn(nodeid: str) -> int:
    """When a test has its turn: the stories of the real cluster, what starts engines and control planes, the rest."""
    if nodeid.startswith(_ASIDE):
        return 1
    return 0 if nodeid.startswith("e2e/") else 2 if nodeid.startswith(_LONG) else 3


class Scheduling(LoadScopeScheduling):
    """One process plays most stories of the real cluster, one after the other; beside it, others run file by file.

    The tests with a control plane share one too. (pytest-xdist 3.8's own groups, ``--dist loadgroup``, set an attribute
    that pytest 9.2 does not read.)
    """

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith(_ASIDE):
            return "aside"
        folder = next((name for name in ("e2e/", "tests/integration/") if nodeid.startswith(name)), None)
        return folder or nodeid.split("::", 1)[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Under pytest-xdist, whatever ``--dist`` says."""
    return Scheduling(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out campaigns unless ``-m`` names them; ``-m "not campaign"`` as a default would end with any other -m."""
    items.sort(key=lambda item: _turn(item.nodeid))
    if "campaign" in config.getoption("markexpr"):
        return
    campaigns = [item for item in items if item.get_closest_marker("campaign")]
    if campaigns:
        config.hook.pytest_deselected(items=campaigns)
        items[:] = [item for item in items if not item.get_closest_marker("campaign")]
