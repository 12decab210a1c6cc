"""Options from the environment: what is written wrong is named, with what it takes."""

from __future__ import annotations

import pytest

from gemmaspec.runtime.options import OptionError, Options, from_environment


def test_defaults() -> None:
    assert from_environment({}) == Options()


def test_everything_set() -> None:
    found = from_environment(
        {
            "GEMMASPEC_NAMESPACES": "a, b,,c ",
            "GEMMASPEC_WORKERS": "4",
            "GEMMASPEC_SCRAPE_SECONDS": "2.5",
            "GEMMASPEC_METRICS_PORT": "0",
            "GEMMASPEC_HEALTH_PORT": "9",
            "GEMMASPEC_HOST_PATH_PREFIXES": "/srv,/data/x",
            "GEMMASPEC_LOG_LEVEL": "debug",
            "UNRELATED": "?",
        }
    )
    assert found == Options(("a", "b", "c"), 4, 2.5, 0, 9, ("/srv", "/data/x"), "DEBUG")


@pytest.mark.parametrize(
    ("name", "value", "takes"),
    [
        ("GEMMASPEC_WORKERS", "0", "1 to 256"),
        ("GEMMASPEC_WORKERS", "many", "1 to 256"),
        ("GEMMASPEC_WORKERS", "nan", "1 to 256"),
        ("GEMMASPEC_SCRAPE_SECONDS", "31", "1 to 30"),
        ("GEMMASPEC_SCRAPE_SECONDS", "0.1", "1 to 30"),
        ("GEMMASPEC_METRICS_PORT", "65536", "0 to 65535"),
        ("GEMMASPEC_HEALTH_PORT", "-1", "0 to 65535"),
        ("GEMMASPEC_HOST_PATH_PREFIXES", "srv", "absolute paths"),
        ("GEMMASPEC_HOST_PATH_PREFIXES", "/srv/../etc", "without '..'"),
        ("GEMMASPEC_LOG_LEVEL", "loud", "DEBUG, INFO"),
    ],
)
def test_mistakes_are_named(name: str, value: str, takes: str) -> None:
    with pytest.raises(OptionError) as refused:
        from_environment({name: value})
    assert name in str(refused.value)
    assert value in str(refused.value)
    assert takes in str(refused.value)
