"""Looks at resource, pods, engine and clients once a second, and writes down what it sees."""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any, Final

from demo.record import Mark, Point, Record
from demo.resource import PLURAL, Resource, pod_ready
from demo.watch import Watch
from gemmaspec.adapters.engine import ScrapeError, parse
from gemmaspec.core import names
from gemmaspec.core.observation import Sample
from testbed.kubectl import Kubectl
from traffic import Traffic

EVERY: Final = 1.0  # seconds
_WINDOW: Final = 4  # points over which acceptance is taken: long enough for some hundred drafts
_SCRAPE_SECONDS: Final = 3.0


@dataclass
class View:
    """The newest state of what is observed."""

    resource: dict[str, Any] = field(default_factory=dict)
    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    sample: Sample | None = None

    @property
    def status(self) -> dict[str, Any]:
        """The resource's status."""
        return dict(self.resource.get("status", {}))

    @property
    def k(self) -> int | None:
        """Effective K."""
        found = self.status.get("k", {}).get("effective")
        return None if found is None else int(found)

    @property
    def ready(self) -> list[dict[str, Any]]:
        """The pods that serve."""
        return [pod for pod in self.pods.values() if pod_ready(pod)]

    @property
    def engine_k(self) -> int | None:
        """K that the serving engine was started with."""
        found = [pod["metadata"].get("annotations", {}).get(names.K_ANNOTATION) for pod in self.ready]
        return int(found[0]) if found and found[0] is not None else None


class Observer:
    """Observes one resource while its context lasts. `view` is always the newest state, `record` grows."""

    def __init__(self, kubectl: Kubectl, resource: Resource, record: Record) -> None:
        self.view = View()
        self.record = record
        self.traffic: Traffic | None = None
        self.base_url: str | None = None
        """Where the engine's metrics are read; None: not yet."""
        self.changed: Callable[[], None] = lambda: None
        where = ["-n", resource.namespace]
        self._watches = [
            Watch(kubectl, [PLURAL, *where, f"--field-selector=metadata.name={resource.name}"], self._resource),
            Watch(kubectl, ["pods", *where, "-l", names.selector_text(resource.name)], self._pod),
        ]
        self._samples: deque[Sample] = deque(maxlen=_WINDOW + 1)
        self._conditions: dict[str, tuple[str, str]] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="observer", daemon=True)
        self._opened = ExitStack()

    def __enter__(self) -> Observer:
        for watch in self._watches:
            self._opened.enter_context(watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(5)
        self._opened.close()

    def mark(self, kind: str, text: str) -> None:
        """Write down that something happens now."""
        self.record.marks.append(Mark(time.time(), kind, text))

    def counters(self) -> Sample | None:
        """The engine's counters, read now; None when it does not answer."""
        if self.base_url is None:
            return None
        try:
            with urllib.request.urlopen(self.base_url + "/metrics", timeout=_SCRAPE_SECONDS) as answer:
                return parse(answer.read().decode(), time.time())
        except (OSError, urllib.error.URLError, HTTPException, ScrapeError):
            return None

    def _resource(self, kind: str, body: dict[str, Any]) -> None:
        before = self.view.k
        self.view.resource = {} if kind == "DELETED" else body
        now = self.view.k
        if before is not None and now is not None and before != now:
            self.mark("decision", f"the operator moves K {before} → {now}")
        for entry in self.view.status.get("conditions", ()):
            state = (entry["status"], entry["reason"])
            if self._conditions.get(entry["type"]) != state:
                self._conditions[entry["type"]] = state
                self.mark("condition", f"{entry['type']}={entry['status']} {entry['reason']}: {entry['message']}")
        self.changed()

    def _pod(self, kind: str, body: dict[str, Any]) -> None:
        name = body["metadata"]["name"]
        before = name in self.view.pods and pod_ready(self.view.pods[name])
        if kind == "DELETED":
            self.view.pods.pop(name, None)
        else:
            self.view.pods[name] = body
        now = kind != "DELETED" and pod_ready(body)
        if before != now:
            self.mark("engine", f"engine {name} {'serves' if now else 'leaves'}")
        self.changed()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stopping.wait(max(0.0, due - time.monotonic())):
            due = max(due + EVERY, time.monotonic())
            sample = self.counters() if self.view.ready else None
            self._keep(sample)
            traffic = self.traffic
            self.record.points.append(
                Point(
                    time=time.time(),
                    text=traffic.kind if traffic else None,
                    k=self.view.k,
                    serving=bool(self.view.ready),
                    engine_k=self.view.engine_k,
                    tokens_per_second=round(traffic.rate(EVERY), 1) if traffic else None,
                    accepted=self._accepted(),
                )
            )
            self.changed()

    def _keep(self, sample: Sample | None) -> None:
        """Counters of another engine start a new series; so does a gap."""
        last = self._samples[-1] if self._samples else None
        if sample is None or (last is not None and sample.generation_tokens < last.generation_tokens):
            self._samples.clear()
        if sample is not None:
            self._samples.append(sample)
        self.view.sample = sample

    def _accepted(self) -> list[float]:
        if len(self._samples) < 2:
            return []
        return accepted(self._samples[0], self._samples[-1])[1]


def accepted(before: Sample, after: Sample) -> tuple[int, list[float]]:
    """Drafts between two scrapes of one engine, and the share of them accepted up to each position."""
    drafts = after.drafts - before.drafts
    if drafts <= 0:
        return 0, []
    gained = [
        count - (before.accepted_per_position[at] if at < len(before.accepted_per_position) else 0.0)
        for at, count in enumerate(after.accepted_per_position)
    ]
    return int(drafts), [round(gain / drafts, 3) for gain in gained]
