"""Which tests run when: a campaign takes minutes by itself, and runs only where it is asked for."""

from __future__ import annotations

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out campaigns unless ``-m`` names them; ``-m "not campaign"`` as a default would end with any other -m."""
    if "campaign" in config.getoption("markexpr"):
        return
    campaigns = [item for item in items if item.get_closest_marker("campaign")]
    if campaigns:
        config.hook.pytest_deselected(items=campaigns)
        items[:] = [item for item in items if not item.get_closest_marker("campaign")]
