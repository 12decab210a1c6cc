"""What is measured of one controller: a thousand at once, one change among them, idleness, a restart."""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

from bench.scale.site import NAMESPACE, Site, usage
from bench.scale.subjects import Subject
from testbed.audit import MUTATING, AuditEvent
from testbed.deadline import wait_for

SETTLE_SECONDS: Final = 5.0
PER_RESOURCE_SECONDS: Final = 0.6
CHANGES: Final = 5
# An edit whose write has not come by then is told of, with what the controller did meanwhile, and waited for on.
LATE_SECONDS: Final = 10.0
LOST_SECONDS: Final = 180.0
STEADY_SECONDS: Final = 600.0


def converge(site: Site, subject: Subject, count: int) -> dict[str, Any]:
    """Create ``count`` resources at once; returns times, processor seconds, memory and writes."""
    mark = site.plane.audit.mark()
    mine, server = usage(site.pid(subject.name)), usage(site.pid("apiserver"))
    began = time.monotonic()
    ready = asyncio.run(_create(site, subject, count))
    times = sorted(at - began for at in ready.values())
    _settle(site, subject)
    spent, served = usage(site.pid(subject.name)), usage(site.pid("apiserver"))
    events = site.plane.audit.events(mark, user=subject.name)
    cpu, api = spent.cpu - mine.cpu, served.cpu - server.cpu
    return {
        "seconds": times[-1],
        "median_seconds": statistics.median(times),
        "cpu_seconds": cpu,
        "api_cpu_seconds": api,
        "cpu_ratio": cpu / api,
        "rss_mib": spent.rss,
        "peak_mib": spent.peak,
        "writes_each": sum(event.mutating for event in events) / count,
        "writes": tally((e for e in events if e.mutating), count),
        "refused": dict(Counter(str(event.code) for event in events if event.code >= 400)),
    }


async def _create(site: Site, subject: Subject, count: int) -> dict[str, float]:
    seconds = 300 + PER_RESOURCE_SECONDS * count
    waiting = asyncio.create_task(site.wait_ready(subject.collection, subject.is_ready, count, seconds))
    await asyncio.sleep(0.5)
    await site.create(subject.collection, (subject.body(i, site.engines.port) for i in range(count)))
    return await waiting


def tally(events: Iterable[AuditEvent], count: int) -> dict[str, float]:
    """Requests by verb and kind, for each resource."""
    found = Counter(f"{e.verb} {e.resource}{'/' + e.subresource if e.subresource else ''}" for e in events)
    return {what: number / count for what, number in sorted(found.items())}


def _settle(site: Site, subject: Subject) -> None:
    """Wait until the controller has asked for nothing but watches for a while."""

    def silent() -> bool:
        mark = site.plane.audit.mark()
        time.sleep(SETTLE_SECONDS)
        return not [event for event in site.plane.audit.events(mark, user=subject.name) if event.verb in MUTATING]

    wait_for(silent, f"the silence of {subject.name}", 120)


def idle(site: Site, subject: Subject, seconds: float) -> dict[str, Any]:
    """Nothing happens for a while. changed: fields of a status that moved all the same, with both values."""
    statuses = _statuses(site, subject)
    looked = _looked_on(site, subject, seconds)
    return looked | {
        "changed": [
            [key, was.get(key), now.get(key)]
            for was, now in zip(statuses, _statuses(site, subject), strict=True)
            for key in sorted({*was, *now})
            if was.get(key) != now.get(key)
        ],
    }


def busy(site: Site, subject: Subject, seconds: float, count: int) -> dict[str, Any]:
    """Every engine serves requests: what that costs at first, when figures are published; edits meanwhile; and then."""
    with site.engines.traffic():
        first = _looked_on(site, subject, seconds)
        change = changes(site, subject, count, "under traffic", quiet=False)
        return {"first": first, "change": change, "then": _looked_on(site, subject, seconds)}


def _looked_on(site: Site, subject: Subject, seconds: float) -> dict[str, Any]:
    mark, before, scrapes = site.plane.audit.mark(), usage(site.pid(subject.name)), site.engines.scrapes()
    server, began = usage(site.pid("apiserver")).cpu, time.monotonic()
    time.sleep(seconds)
    took, after = time.monotonic() - began, usage(site.pid(subject.name))
    events = site.plane.audit.events(mark, user=subject.name)
    return {
        "seconds": took,
        "cpu_share": (after.cpu - before.cpu) / took,
        "api_cpu_share": (usage(site.pid("apiserver")).cpu - server) / took,
        "rss_mib": after.rss,
        "peak_mib": after.peak,
        "says": subject.says(),
        "scrapes_per_second": (site.engines.scrapes() - scrapes) / took,
        "watch_renewals": sum(event.verb == "watch" for event in events),
        "other_requests": tally((event for event in events if event.verb != "watch"), 1),
    }


def _statuses(site: Site, subject: Subject) -> list[dict[str, Any]]:
    """Statuses of a few resources."""
    return [item.get("status", {}) for item in site.send("GET", f"{subject.collection}?limit=5")["items"]]


def changes(site: Site, subject: Subject, count: int, label: str, *, quiet: bool) -> dict[str, Any]:
    """Seconds from each of some edits among ``count`` to the first write that follows; None for one that was lost.

    label: what the edit writes, another at each call. late: what the controller said and did while one was late.
    """
    made = [_change(site, subject, number, label) for number in range(0, count, max(1, count // CHANGES))]
    if quiet:  # else what a killed controller had still to write would be a write of its restart
        _settle(site, subject)
    return {"seconds": [seconds for seconds, _ in made], "late": [late for _, late in made if late]}


def _change(site: Site, subject: Subject, number: int, label: str) -> tuple[float | None, dict[str, Any]]:
    mark, began, name = site.plane.audit.mark(), time.monotonic(), f"engine-{number}"
    patch = {"spec": {"service": {"labels": {"changed": label.replace(" ", "-")}}}}
    path = f"{subject.collection}/{name}?fieldManager=user"
    site.send("PATCH", path, patch, "application/merge-patch+json")

    def written() -> bool:
        events = site.plane.audit.mutations(mark, user=subject.name)
        return any(event.resource == "services" and event.name == name for event in events)

    late: dict[str, Any] = {}
    try:
        wait_for(written, "the change's write", LATE_SECONDS, every=0.005)
    except TimeoutError:
        events = site.plane.audit.events(mark, user=subject.name)
        late = {"resource": name, "says": subject.says(), "requests": tally(events, 1)}
        print(f"an edit is late: {late}", file=sys.stderr, flush=True)
        try:
            wait_for(written, "the change's write", LOST_SECONDS, every=0.05)
        except TimeoutError:
            return None, late
    return time.monotonic() - began, late


def restart(site: Site, subject: Subject, usual: float, seconds: float) -> dict[str, Any]:
    """Kill the controller and start it again on what has converged. usual: its share of a core when idle. Then it is
    looked on for ``seconds``.
    """
    site.plane.supervised.stop(subject.name)
    mark, began = site.plane.audit.mark(), time.monotonic()
    subject.start(site)
    listed = time.monotonic() - began
    last = _steady(site.pid(subject.name), began, usual)
    spent = usage(site.pid(subject.name))
    then = _looked_on(site, subject, seconds)
    events = site.plane.audit.mutations(mark, user=subject.name)
    return {
        "listed_seconds": listed,
        "steady_seconds": last - began,
        "cpu_seconds": spent.cpu,
        "rss_mib": spent.rss,
        "peak_mib": usage(site.pid(subject.name)).peak,
        "writes": len(events),
        "written": tally(events, 1),
        "then": then,
    }


def _steady(pid: int, began: float, usual: float) -> float:
    """When the process had last taken more than its usual share of a core."""
    last, before = time.monotonic(), usage(pid).cpu
    while time.monotonic() - last < SETTLE_SECONDS:
        if time.monotonic() - began > STEADY_SECONDS:
            raise TimeoutError(f"a restarted controller is not steady within {STEADY_SECONDS:g} s")
        time.sleep(SETTLE_SECONDS / 10)
        now = usage(pid).cpu
        if (now - before) / (SETTLE_SECONDS / 10) > 1.5 * usual + 0.1:
            last = time.monotonic()
        before = now
    return last


def clear(site: Site, subject: Subject) -> None:
    """Delete the resources; the garbage collector removes the rest."""
    site.send("DELETE", subject.collection, {"propagationPolicy": "Background"})
    pods = f"/api/v1/namespaces/{NAMESPACE}/pods"

    def gone() -> bool:
        return all(site.count(path) <= 1 for path in (subject.collection, pods, *subject.children))

    wait_for(gone, "the end of the children", 900, every=1.0)
