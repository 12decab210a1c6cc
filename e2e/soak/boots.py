"""How often engines were started: pods that were made, and restarts of their containers."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from typing import Any

from demo.resource import Resource
from testbed.kubectl import KubectlError


class Boots:
    """Sums up over pods that come and go; :meth:`look` has to be called now and then."""

    def __init__(self, resource: Resource) -> None:
        self._resource = resource
        self._restarts: dict[str, int] = {}

    def look(self) -> None:
        """Read the pods; one that has gone keeps what it had."""
        with suppress(KubectlError, subprocess.TimeoutExpired):
            for pod in self._resource.pods():
                self._see(pod)

    def _see(self, pod: dict[str, Any]) -> None:
        entries = [e for e in pod["status"].get("containerStatuses", ()) if e["name"] == "engine"]
        uid = str(pod["metadata"]["uid"])
        leaving = "deletionTimestamp" in pod["metadata"]
        restarts = sum(int(entry["restartCount"]) for entry in entries)
        if not leaving:  # one that is on its way out ends, and is not started again
            self._restarts[uid] = max(self._restarts.get(uid, 0), restarts)

    @property
    def pods(self) -> int:
        """Engine pods that were seen."""
        return len(self._restarts)

    @property
    def restarts(self) -> int:
        """Restarts of engine containers within their pods."""
        return sum(self._restarts.values())
