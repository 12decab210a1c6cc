"""The operator as a process of its own, as a pod would run it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from testbed import ControlPlane
from testbed.deadline import wait_for

# What the operator lists before its first pass.
LISTED = frozenset(
    {
        "gemmaspecdeploys",
        "serviceaccounts",
        "services",
        "configmaps",
        "poddisruptionbudgets",
        "deployments",
        "jobs",
        "pods",
    }
)
START_SECONDS = 120.0


class OperatorProcess:
    """Starts, kills and restarts ``python -m gemmaspec.runtime``. Its requests carry the user ``user``.

    listed: what has to be listed before it counts as started; an earlier version may watch less.
    """

    def __init__(
        self,
        plane: ControlPlane,
        sources: Path,
        user: str,
        kubeconfig: Path,
        options: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.user = user
        self.process_id = 0
        self.listed = LISTED
        self._plane = plane
        self._environment = {
            "PYTHONPATH": str(sources),
            "KUBECONFIG": str(kubeconfig),
            "KUBERNETES_SERVICE_HOST": "",
            "GEMMASPEC_METRICS_PORT": "0",
            "GEMMASPEC_HEALTH_PORT": "0",
            "GEMMASPEC_SCRAPE_SECONDS": "1",
            **options,
        }

    def launch(self) -> None:
        """Start the process and return at once."""
        command = [sys.executable, "-m", "gemmaspec.runtime"]
        self.process_id = self._plane.supervised.start(self.user, command, self._environment)

    def start(self) -> None:
        """Start the process, and return when it has listed all that it watches."""
        mark = self._plane.audit.mark()
        self.launch()

        def listed() -> bool:
            if self.user in self._plane.supervised.ended():
                raise RuntimeError(f"the operator ended:\n{self.log()}")
            events = self._plane.audit.events(mark, user=self.user, verbs={"list"})
            return {event.resource for event in events if event.code == 200} >= self.listed

        wait_for(listed, "the operator's lists", START_SECONDS, fail=self.log)

    def wait_for_log(self, text: str) -> None:
        """Wait until it has written this."""
        wait_for(lambda: text in self.whole_log(), f"{text!r} in the operator's log", START_SECONDS, fail=self.log)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._plane.supervised.stop(self.user)

    def stop(self) -> None:
        """SIGTERM, and wait until it has ended."""
        self._plane.supervised.stop(self.user, signal.SIGTERM)

    def restart(self) -> None:
        """Kill and start again."""
        self.kill()
        self.start()

    @property
    def ended(self) -> int | None:
        """Its exit status, when it has ended by itself."""
        return self._plane.supervised.ended().get(self.user)

    def log(self, lines: int = 30) -> str:
        """The last lines that it wrote."""
        return self._plane.supervised.tail(self.user, lines)

    def whole_log(self) -> str:
        """All that it wrote."""
        path = self._plane.supervised.log(self.user)
        return path.read_text(errors="replace") if path.exists() else ""
