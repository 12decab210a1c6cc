"""Sums of the memory check, on figures of a GB10 box."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemmaspec_engine.memory import GIB, Figures, figure_for, oom_kills, parse_meminfo, read, weigh
from gemmaspec_engine.pin import MemoryPin

TOTAL = int(121.7 * GIB)


def unified(utilization: float, reserve: float = 0) -> MemoryPin:
    return MemoryPin(device="cuda", utilization=utilization, reserve_bytes=int(reserve * GIB))


def box(available: float, free: float | None = None) -> Figures:
    return Figures(TOTAL, int(available * GIB), int((available if free is None else free) * GIB))


def test_the_claim_of_085_is_about_103_gib() -> None:
    # An owner of two boxes measured 101-102 GiB free: 0.85 does not fit there, and 0.83 does.
    verdict = weigh(unified(0.85), box(101.5), "0.32.0")
    assert not verdict.fits
    assert verdict.needed / GIB == pytest.approx(103.4, abs=0.1)
    assert verdict.utilization == 0.83
    assert "utilization 0.83 would fit" in verdict.text
    assert weigh(unified(0.83), box(101.5), "0.32.0").fits


def test_the_reserve_counts_on_top() -> None:
    assert weigh(unified(0.85), box(104), "0.32.0").fits
    verdict = weigh(unified(0.85, reserve=4), box(104), "0.32.0")
    assert not verdict.fits
    assert verdict.utilization == 0.82  # (104 - 4) / 121.7
    assert weigh(unified(0.82, reserve=4), box(104), "0.32.0").fits


def test_what_is_named_as_fitting_does_fit() -> None:
    for tenths in range(10, 1200, 7):
        figures = box(tenths / 10)
        most = weigh(unified(1.0, reserve=3), figures, None).utilization
        assert most is not None
        if most > 0:
            assert weigh(unified(most, reserve=3), figures, None).fits
        if most < 1:
            assert not weigh(unified(most + 0.01, reserve=3), figures, None).fits


def test_before_032_the_page_cache_counts_as_used() -> None:
    figures = box(available=110, free=60)
    assert weigh(unified(0.85), figures, "0.32.0").fits
    old = weigh(unified(0.85), figures, "0.23.0")
    assert not old.fits
    assert "MemFree" in old.text
    assert "page cache" in old.text


@pytest.mark.parametrize(
    ("vllm", "figure"),
    [
        ("0.19.1", "MemFree"),
        ("0.31.9", "MemFree"),
        ("0.32.0", "MemAvailable"),
        ("0.32.0+cpu", "MemAvailable"),
        ("0.33.0rc1", "MemAvailable"),
        ("1.0.0", "MemAvailable"),
        (None, "MemAvailable"),
    ],
)
def test_which_figure_a_version_reads(vllm: str | None, figure: str) -> None:
    assert figure_for(vllm) == figure


def test_a_cpu_engine_is_bound_by_the_container() -> None:
    pin = MemoryPin(device="cpu", reserve_bytes=GIB, needed_bytes=4 * GIB)
    assert weigh(pin, Figures(TOTAL, 6 * GIB, GIB), None).fits
    verdict = weigh(pin, Figures(TOTAL, 6 * GIB, GIB, cgroup_left=4 * GIB), None)
    assert not verdict.fits
    assert "memory limit" in verdict.text


def test_without_a_need_nothing_is_waited_for() -> None:
    empty = Figures(TOTAL, 0, 0)
    assert weigh(MemoryPin(device="cpu", utilization=0.9), empty, None).fits
    assert weigh(MemoryPin(device="discrete", utilization=0.9), empty, None).fits


def test_meminfo_is_in_kib() -> None:
    figures = parse_meminfo("MemTotal:       1000 kB\nMemFree: 10 kB\nMemAvailable:    500 kB\nHugePages_Total: 0\n")
    assert figures == Figures(1000 * 1024, 500 * 1024, 10 * 1024)
    with pytest.raises(ValueError, match="MemAvailable"):
        parse_meminfo("MemTotal: 1 kB\nMemFree: 1 kB\n")


def test_this_machine_can_be_read() -> None:
    figures = read()
    assert 0 < figures.free <= figures.total
    assert 0 < figures.available <= figures.total


def test_the_cgroup_is_read(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable: 500 kB\n")
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("900\n")
    (tmp_path / "memory.stat").write_text("anon 600\ninactive_file 250\n")
    (tmp_path / "memory.events").write_text("oom 3\noom_kill 2\n")
    assert read(tmp_path, tmp_path).cgroup_left == 350
    assert oom_kills(tmp_path) == 2
    (tmp_path / "memory.max").write_text("max\n")
    assert read(tmp_path, tmp_path).cgroup_left is None
    assert oom_kills(tmp_path / "absent") == 0
