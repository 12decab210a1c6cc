"""Which tests run when, and beside which others: `make test` shares them out between processes."""

from __future__ import annotations

from typing import Any, Final

import pytest
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

_MEASURES: Final = ("e2e/test_live.py", "e2e/test_rollback.py", "tests/integration/test_plans.py")
"""What compares speeds, or promises a time of the processor: it plays last, when every other process is idle."""
_ASIDE: Final = ("e2e/test_testbed.py", "e2e/test_weights.py")
"""Stories of the real cluster that another process plays, on a cluster of its own."""
_LONG: Final = (
    "tests/integration/",
    "tests/agent/",
    "tests/engine/test_preflight_real.py",
    "tests/engine/test_weights.py",
)


def _scope(nodeid: str) -> str:
    """Tests of one scope share a process, and so what it has started: the cluster of the stories."""
    if nodeid.startswith(_MEASURES):
        return "measures"
    if nodeid.startswith(_ASIDE):
        return "aside"
    return "e2e/" if nodeid.startswith("e2e/") else nodeid.split("::", 1)[0]


def _turn(nodeid: str) -> int:
    """When a scope has its turn: what takes longest first, what measures last."""
    turns = {"e2e/": 0, "aside": 1, "measures": 4}
    return turns.get(_scope(nodeid), 2 if nodeid.startswith(_LONG) else 3)


class Scheduling(LoadScopeScheduling):
    """Shares the scopes out between the processes in the order of their turns.

    pytest-xdist 3.8's own groups (``--dist loadgroup``) set an attribute that pytest 9.2 does not read, and none
    of its schedulers knows of tests that want the machine for themselves.
    """

    def _split_scope(self, nodeid: str) -> str:
        return _scope(nodeid)

    def _reschedule(self, node: WorkerController) -> None:
        if list(self.workqueue) == ["measures"]:
            self._measure_alone()
        else:
            super()._reschedule(node)

    def _measure_alone(self) -> None:
        """Every process but the one with the cluster ends; when they have, that one goes on with what measures."""
        last = next((node for node, work in self.assigned_work.items() if "e2e/" in work), self.nodes[0])
        others = [node for node in self.nodes if node is not last]
        for node in others:
            if not node.shutting_down:
                node.shutdown()
        if not any(self._pending_of(self.assigned_work[node]) for node in others):
            self._assign_work_unit(last)
            last.shutdown()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Under pytest-xdist, whatever ``--dist`` says."""
    config.option.loadscopereorder = False
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
