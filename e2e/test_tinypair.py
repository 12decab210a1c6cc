"""The committed pair in real vLLM: lossless, alive on code, useless but alive on prose."""

from __future__ import annotations

import pytest

from tinypair import check, manifest


@pytest.mark.campaign
@pytest.mark.engine
@pytest.mark.timeout(900)
def test_the_pair_accepts_as_the_demo_needs_and_changes_no_text() -> None:
    report = check.check("assistant", [0, 4], manifest.FOLDER, texts=4, tokens=128)
    assert check.faults(report) == []
    # by processor time, since other work on the machine must not decide this
    speed = {(row["k"], row["kind"]): row["four_streams_cpu"] for row in report["rows"]}
    assert speed[4, "code"] > 1.3 * speed[0, "code"]
    assert speed[4, "prose"] < 0.85 * speed[0, "prose"]
