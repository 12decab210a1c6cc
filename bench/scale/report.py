"""The figures of a run as a page."""

from __future__ import annotations

import statistics
from typing import Any

Row = dict[str, Any]


def page(result: Row) -> str:
    """Markdown: one table of the rounds, then what was looked at once."""
    ours = [found for found in result["rounds"] if found["controller"] == "gemmaspec"]
    theirs = [found for found in result["rounds"] if found["controller"] == "lws"]
    lines = [
        f"# {result['resources']} resources at once",
        "",
        f"`{result['command']}` on {result['cores']} cores of a shared {result['machine']} machine: a real control",
        "plane, nodes and pods that KWOK plays, and controllers as their real processes, in turns on one API server.",
        "Compare within a run: the machine drifts.",
        "",
        "| controller | all ready s | median s | CPU s | API server CPU s | ratio | RSS MiB | peak MiB | writes each |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_round(found) for found in result["rounds"]),
    ]
    if ours and theirs:
        pairs = zip(ours, theirs, strict=False)
        ratios = [a["converge"]["seconds"] / b["converge"]["seconds"] for a, b in pairs]
        lines += ["", f"Time to ready, ours over LeaderWorkerSet's, median of rounds: {statistics.median(ratios):.2f}."]
    for found in result["rounds"]:
        lines += _looked_at(found)
    return "\n".join(lines) + "\n"


def _round(found: Row) -> str:
    c = found["converge"]
    figures = [c["seconds"], c["median_seconds"], c["cpu_seconds"], c["api_cpu_seconds"]]
    cells = [f"{figure:.1f}" for figure in figures] + [f"{c['cpu_ratio']:.2f}"]
    cells += [f"{c['rss_mib']:.0f}", f"{c['peak_mib']:.0f}", f"{c['writes_each']:.2f}"]
    return f"| {found['controller']} | " + " | ".join(cells) + " |"


def _looked_at(found: Row) -> list[str]:
    if "idle" not in found:
        return []
    idle, restart = found["idle"], found["restart"]
    lines = ["", f"## {found['controller']}, last round"]
    lines += [f"- Writes each: {', '.join(f'{n:.2f} {what}' for what, n in found['converge']['writes'].items())}."]
    lines += [
        f"- Idle for {idle['seconds']:.0f} s: {idle['cpu_share']:.1%} of a core, {idle['watch_renewals']} watches",
        f"  renewed, other requests: {idle['other_requests'] or 'none'}.",
    ]
    if "change_seconds" in found:
        lines += [f"- One edit among all, to its write: median {statistics.median(found['change_seconds']):.3f} s."]
    lines += [
        f"- Restart: steady after {restart['steady_seconds']:.1f} s, {restart['cpu_seconds']:.1f} s of CPU, peak",
        f"  {restart['peak_mib']:.0f} MiB, {restart['writes']} writes.",
    ]
    return lines
