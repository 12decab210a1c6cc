"""The API server's audit log, read back: which requests really reached the cluster, and from whom."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MUTATING = frozenset({"create", "update", "patch", "delete", "deletecollection"})


@dataclass(frozen=True)
class AuditEvent:
    """One finished request. `stamp`: when the answer was complete, RFC 3339 with microseconds, UTC."""

    verb: str
    user: str
    agent: str
    uri: str
    group: str
    resource: str
    subresource: str
    namespace: str
    name: str
    code: int
    stamp: str
    body: Any

    @property
    def mutating(self) -> bool:
        """Whether the request asked for a change (dry runs included: the URI says dryRun)."""
        return self.verb in MUTATING


def parse(line: str) -> AuditEvent:
    """Read one line of a JSON audit log. Raises ValueError for anything else."""
    raw = json.loads(line)
    ref = raw.get("objectRef") or {}
    who = raw.get("impersonatedUser") or raw.get("user") or {}
    body = raw.get("requestObject") or {}
    created = body.get("metadata", {}).get("name", "") if isinstance(body, dict) else ""
    return AuditEvent(
        verb=raw.get("verb", ""),
        user=who.get("username", ""),
        agent=raw.get("userAgent", ""),
        uri=raw.get("requestURI", ""),
        group=ref.get("apiGroup", ""),
        resource=ref.get("resource", ""),
        subresource=ref.get("subresource", ""),
        namespace=ref.get("namespace", ""),
        name=ref.get("name", "") or created,
        code=int((raw.get("responseStatus") or {}).get("code", 0)),
        stamp=raw.get("stageTimestamp", ""),
        body=body or None,
    )


class AuditLog:
    """A growing audit log file. `mark()` now, act, then ask for the events after the mark."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def mark(self) -> int:
        """A position in the log: everything written so far lies before it."""
        return self.path.stat().st_size if self.path.exists() else 0

    def events(
        self,
        after: int = 0,
        user: str | None = None,
        verbs: Collection[str] | None = None,
        resource: str | None = None,
        namespace: str | None = None,
    ) -> list[AuditEvent]:
        """The events after a mark that match every given property, oldest first.

        A line that is still being written is left for the next call.
        """
        if not self.path.exists():
            return []
        with self.path.open("rb") as handle:
            handle.seek(max(0, after - 1))
            written = handle.read()
        if after:  # a mark may have been set while a line was being written: that line lies before it
            written = written[written.find(b"\n") + 1 :]
        whole = written[: written.rfind(b"\n") + 1].decode()
        found = [parse(line) for line in whole.splitlines() if line]
        return [
            event
            for event in found
            if (user is None or event.user == user)
            and (verbs is None or event.verb in verbs)
            and (resource is None or event.resource == resource)
            and (namespace is None or event.namespace == namespace)
        ]

    def mutations(
        self,
        after: int = 0,
        user: str | None = None,
        resource: str | None = None,
        namespace: str | None = None,
    ) -> list[AuditEvent]:
        """The requests after a mark that asked for a change."""
        return self.events(after, user=user, verbs=MUTATING, resource=resource, namespace=namespace)
