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
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=False) if "converge" in a and "converge" in b]
    if ratios := [a["converge"]["seconds"] / b["converge"]["seconds"] for a, b in pairs]:
        lines += ["", f"Time to ready, ours over LeaderWorkerSet's, median of rounds: {statistics.median(ratios):.2f}."]
    for found in result["rounds"]:
        lines += _looked_at(found)
    return "\n".join(lines) + "\n"


def missing(found: Row) -> dict[str, str]:
    """What of a round did not come off, and why."""
    told: dict[str, str] = dict(found.get("missing", {}))
    for name, part in (("change", found.get("change", {})), ("busy", found.get("busy", {}).get("change", {}))):
        if None in part.get("seconds", ()):
            told[name] = "an edit was followed by no write"
    return told


def _round(found: Row) -> str:
    name = f"{found['controller']}{' (incomplete)' if missing(found) else ''}"
    if "converge" not in found:
        return f"| {name} | " + " | ".join(["–"] * 8) + " |"
    c = found["converge"]
    figures = [c["seconds"], c["median_seconds"], c["cpu_seconds"], c["api_cpu_seconds"]]
    cells = [f"{figure:.1f}" for figure in figures] + [f"{c['cpu_ratio']:.2f}"]
    cells += [f"{c['rss_mib']:.0f}", f"{c['peak_mib']:.0f}", f"{c['writes_each']:.2f}"]
    return f"| {name} | " + " | ".join(cells) + " |"


def _looked_at(found: Row) -> list[str]:
    lines = [f"- **Missing**: {name}: {why}." for name, why in missing(found).items()]
    if "idle" in found:
        lines += [f"- Idle: {_look(found['idle'])}."]
    if "exposition" in found:
        lines += [f"- All metrics: {found['exposition']['mib']:.1f} MiB in {found['exposition']['seconds']:.2f} s."]
    if "change" in found:
        lines += [f"- One edit among all, to its write: {_edits(found['change'])}."]
    if "restart" in found:
        restart = found["restart"]
        lines += [
            f"- Restart: steady after {restart['steady_seconds']:.1f} s, {restart['cpu_seconds']:.1f} s of CPU, peak",
            f"  {restart['peak_mib']:.0f} MiB, {restart['writes']} writes.",
        ]
    if "busy" in found:
        busy = found["busy"]
        lines += [
            f"- Traffic in every engine, at first: {_look(busy['first'])}.",
            f"- One edit among all then: {_edits(busy['change'])}.",
            f"- Traffic in every engine, later: {_look(busy['then'])}; {busy['then']['peak_mib']:.0f} MiB at the most.",
        ]
    if lines and "converge" in found:
        writes = ", ".join(f"{n:.2f} {what}" for what, n in found["converge"]["writes"].items())
        lines = [f"- Writes each: {writes}.", *lines]
    return ["", f"## {found['controller']}, last round", *lines] if lines else []


def _look(found: Row) -> str:
    waiting = found.get("says", {}).get("gemmaspec_queue_depth")
    return (
        f"{found['seconds']:.0f} s, {found['cpu_share']:.1%} of a core, {found['rss_mib']:.0f} MiB, "
        f"{found['watch_renewals']} watches renewed, other requests: {found['other_requests'] or 'none'}"
        + ("" if waiting is None else f", {waiting:.0f} resources waiting at its end")
    )


def _edits(found: Row) -> str:
    seconds = [one for one in found["seconds"] if one is not None]
    if not seconds:
        return "none came"
    return f"median {statistics.median(seconds):.3f} s, at most {max(seconds):.3f} s, of {len(found['seconds'])}"
