"""What is measured of one controller: a thousand at once, one change among them, idleness, a restart."""

from __future__ import annotations

import asyncio
import statistics
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


def busy(site: Site, subject: Subject, seconds: float) -> dict[str, Any]:
    """Every engine serves requests: what that costs at first, when figures are published, and then."""
    with site.engines.traffic():
        return {"first": _looked_on(site, subject, seconds), "then": _looked_on(site, subject, seconds)}


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
        "scrapes_per_second": (site.engines.scrapes() - scrapes) / took,
        "watch_renewals": sum(event.verb == "watch" for event in events),
        "other_requests": tally((event for event in events if event.verb != "watch"), 1),
    }


def _statuses(site: Site, subject: Subject) -> list[dict[str, Any]]:
    """Statuses of a few resources."""
    return [item.get("status", {}) for item in site.send("GET", f"{subject.collection}?limit=5")["items"]]


def changes(site: Site, subject: Subject, count: int) -> list[float]:
    """Seconds from one edit among ``count`` to the first write that follows from it."""
    found = []
    for number in range(0, count, max(1, count // CHANGES)):
        mark, began = site.plane.audit.mark(), time.monotonic()
        patch = {"spec": {"service": {"labels": {"changed": "yes"}}}}
        path = f"{subject.collection}/engine-{number}?fieldManager=user"
        site.send("PATCH", path, patch, "application/merge-patch+json")

        def written(mark: int = mark, name: str = f"engine-{number}") -> bool:
            events = site.plane.audit.mutations(mark, user=subject.name)
            return any(event.resource == "services" and event.name == name for event in events)

        wait_for(written, "the change's write", 30, every=0.005)
        found.append(time.monotonic() - began)
    _settle(site, subject)
    return found


def restart(site: Site, subject: Subject, usual: float) -> dict[str, Any]:
    """Kill the controller and start it again on what has converged. usual: its share of a core when idle."""
    site.plane.supervised.stop(subject.name)
    mark, began = site.plane.audit.mark(), time.monotonic()
    subject.start(site)
    listed = time.monotonic() - began
    last, before = time.monotonic(), usage(site.pid(subject.name)).cpu
    while time.monotonic() - last < SETTLE_SECONDS:
        time.sleep(SETTLE_SECONDS / 10)
        now = usage(site.pid(subject.name)).cpu
        if (now - before) / (SETTLE_SECONDS / 10) > 1.5 * usual + 0.1:
            last = time.monotonic()
        before = now
    events, spent = site.plane.audit.mutations(mark, user=subject.name), usage(site.pid(subject.name))
    return {
        "listed_seconds": listed,
        "steady_seconds": last - began,
        "cpu_seconds": spent.cpu,
        "rss_mib": spent.rss,
        "peak_mib": spent.peak,
        "writes": len(events),
        "written": tally(events, 1),
    }


def clear(site: Site, subject: Subject) -> None:
    """Delete the resources; the garbage collector removes the rest."""
    site.send("DELETE", subject.collection, {"propagationPolicy": "Background"})
    pods = f"/api/v1/namespaces/{NAMESPACE}/pods"

    def gone() -> bool:
        return all(site.count(path) <= 1 for path in (subject.collection, pods, *subject.children))

    wait_for(gone, "the end of the children", 900, every=1.0)
