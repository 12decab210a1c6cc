"""The soak's result as a page, and what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from soak.accounts import Accounts, account
from soak.faults import Done
from soak.memory import Look, Slope
from traffic import Call, Summary

# Flat: the upper end of the interval stays below this. An operator of 60 MiB would need a day for its limit's rest.
MOST_GROWTH: Final = 5.0  # MiB an hour
# Growth can't be told in a short run; one that is meant to show something is longer.
LEAST_MINUTES_FOR_SLOPE: Final = 20.0
_CHILDREN: Final = ("deployments", "services", "serviceaccounts", "poddisruptionbudgets")


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that was measured. pods, restarts: how many were counted, and how many there had to be."""

    arguments: str
    machine: str
    minutes: float
    calls: Sequence[Call]
    kills: Sequence[float]
    done: Sequence[Done]
    looks: Sequence[Look]
    slope: Slope | None
    drift: Sequence[str]
    pods: tuple[int, int]
    restarts: tuple[int, int]
    writes: Counter[str]
    history: Sequence[dict[str, Any]]

    @property
    def accounts(self) -> Accounts:
        """What became of the requests."""
        return account(self.calls, self.kills)


def wrongs(report: Report) -> list[str]:
    """What should not be; empty when all held."""
    lost, children = report.accounts.lost, [what for what in report.writes if what.split()[1] in _CHILDREN]
    found = [f"lost: {call.kind} at {call.start:.1f}, {call.tokens} tokens: {call.error}" for call in lost]
    found += [f"drifted: {name}" for name in report.drift]
    found += [f"written without need: {what}" for what in children]
    if report.pods[0] != report.pods[1]:
        found.append(f"{report.pods[0]} engine pods for {report.pods[1]}")
    if report.restarts[0] != report.restarts[1]:
        found.append(f"{report.restarts[0]} restarts of engines for {report.restarts[1]}")
    if report.minutes >= LEAST_MINUTES_FOR_SLOPE and (report.slope is None or report.slope.high > MOST_GROWTH):
        found.append(f"memory is not flat: {report.slope}")
    if not report.accounts.answered:
        found.append("no request was answered")
    return found


def page(report: Report) -> str:
    """The page."""
    command = f'make soak ARGS="{report.arguments}"' if report.arguments else "make soak"
    wrong = wrongs(report)
    lines = [
        "# Soak",
        "",
        f"`{command}`: {report.minutes:.0f} minutes on the testbed (two boxes, real kubelet, real vLLM with the tiny",
        f"pair, an engine on each box, K moved live), {report.machine}. Clients ask without end, for code and for",
        "prose in turn; faults are drawn, and the next one waits until everything stands as before.",
        "",
        f"**{'Nothing is wrong.' if not wrong else f'{len(wrong)} things are wrong:'}**",
        *(f"- {one}" for one in wrong),
        "",
        *_requests(report),
        "",
        *_faults(report),
        "",
        *_engines(report),
        "",
        *_memory(report),
        "",
        *_writes(report),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _requests(report: Report) -> list[str]:
    found, summary = report.accounts, Summary.of(report.calls)
    return [
        "## Requests",
        "",
        "| answered in full | in flight on an engine when it was killed | turned away by one just killed | lost |",
        "|---|---|---|---|",
        f"| {found.answered} | {len(found.in_flight)} | {len(found.turned_away)} | {len(found.lost)} |",
        "",
        f"{summary.tokens} tokens. Turned away: refused within seconds after a kill, before the Service knew;",
        "nothing of it was answered, and the client asks again.",
    ]


def _faults(report: Report) -> list[str]:
    by_kind: dict[str, list[float]] = {}
    for done in report.done:
        by_kind.setdefault(done.kind, []).append(done.recovered)
    rows = [
        f"| {kind} | {len(times)} | {sorted(times)[len(times) // 2]:.0f} | {max(times):.0f} |"
        for kind, times in sorted(by_kind.items())
    ]
    head = ["| fault | times | s until all stood as before: median | longest |", "|---|---|---|---|"]
    return ["## Faults", "", *head, *rows]


def _engines(report: Report) -> list[str]:
    reasons = Counter(str(entry.get("reason", "")).partition(":")[0] for entry in report.history)
    moved = ", ".join(f"{number} × {reason}" for reason, number in reasons.most_common()) or "none"
    return [
        "## Engines and children",
        "",
        f"{report.pods[0]} engine pods were made ({report.pods[1]} expected: the first two, and one for each that a",
        f"drain sent away); {report.restarts[0]} restarts of engines within their pods ({report.restarts[1]} kills).",
        f"Children whose uid, generation or content changed: {', '.join(report.drift) or 'none'}.",
        f"Decisions in the status' history: {moved}.",
    ]


def _memory(report: Report) -> list[str]:
    rss = [look.rss for look in report.looks] or [0.0]
    files = [look.descriptors for look in report.looks] or [0]
    said = "too little to tell growth"
    if found := report.slope:
        said = (
            f"{found.per_hour:+.2f} MiB an hour, 95 % interval {found.low:+.2f} to {found.high:+.2f}\n"
            f"(least squares over "
            f"{found.blocks} means of a minute of {found.lives} processes, the first two minutes of each left out;\n"
            f"up to {MOST_GROWTH:g} is called flat)"
        )
    lives = len({look.life for look in report.looks})
    return [
        "## The operator's memory",
        "",
        f"RSS {min(rss):.1f} to {max(rss):.1f} MiB, at most {max(files)} open files, in {len(rss)} looks at",
        f"{lives} processes.",
        f"Growth: {said}.",
    ]


def _writes(report: Report) -> list[str]:
    rows = [f"| {what} | {number} |" for what, number in report.writes.most_common()]
    return ["## What the operator wrote", "", "| request | times |", "|---|---|", *rows]
