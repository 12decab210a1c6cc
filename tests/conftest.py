"""Options and settings that all tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Machines that run tests differ in speed by an order of magnitude: a deadline per example would fail by chance.
settings.register_profile("gemmaspec", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("gemmaspec")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("gemmaspec")
    group.addoption("--update-golden", action="store_true", help="write the golden files anew, from what is rendered")
    group.addoption("--seeds", type=int, default=1, help="seeds of each simulated day (20 take minutes)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(metafunc.config.getoption("--seeds")))


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with a file of tests/golden; only ``--update-golden`` ever writes one."""

    def check(name: str, text: str) -> None:
        file = Path(__file__).parent / "golden" / name
        if request.config.getoption("--update-golden"):
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")
        assert file.is_file(), f"{file} is missing; look at what is rendered, then run pytest --update-golden"
        assert text == file.read_text(encoding="utf-8"), f"{name} differs; if it is meant, run pytest --update-golden"

    return check
