"""Which tests run when: a campaign takes minutes by itself, and runs only where it is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

_ROOT = Path(__file__).parent


def _turn(item: pytest.Item) -> tuple[int, str]:
    """When a test has its turn, and what it must share a process with.

    The real cluster serves one story after the other. Beside them, in a second process, run first the tests that start
    engines and control planes (each once for all), then those that need nothing, file by file.
    """
    place = item.path.relative_to(_ROOT)
    if place.parts[0] == "e2e":
        return 0, "cluster"
    if item.get_closest_marker("engine") or item.get_closest_marker("control_plane"):
        return 1, "engines" if item.get_closest_marker("engine") else "control plane"
    return 2, str(place)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Tell pytest-xdist (``--dist loadgroup``) what belongs into one process."""
    item.add_marker(pytest.mark.xdist_group(_turn(item)[1]))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out campaigns unless ``-m`` names them; ``-m "not campaign"`` as a default would end with any other -m."""
    items.sort(key=lambda item: _turn(item)[0])
    if "campaign" in config.getoption("markexpr"):
        return
    campaigns = [item for item in items if item.get_closest_marker("campaign")]
    if campaigns:
        config.hook.pytest_deselected(items=campaigns)
        items[:] = [item for item in items if not item.get_closest_marker("campaign")]
