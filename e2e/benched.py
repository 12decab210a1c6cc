"""An engine of the tiny pair that is measured, and `gemmaspec bench` on it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from demo.resource import condition
from gemmaspec.core import hold
from gemmaspec.core.live import AGENT_PORT
from stories import NAMESPACE, OneEngine, Site, status_of_agent
from testbed.deadline import wait_for

BACK_SECONDS: Final = 120.0
"""A hold lasts a minute after its last renewal, and the operator's next look follows."""
OUT: Final = Path(__file__).resolve().parents[1] / "out" / "bench"


class Benched(OneEngine):
    """A settled engine, and the command line on it."""

    def __init__(self, site: Site, name: str) -> None:
        super().__init__(site, name)
        self.uid = self.resource.read()["metadata"]["uid"]

    def agent(self) -> dict[str, Any]:
        """What its agent says of itself."""
        with self.site.cluster.forward(f"pod/{self.pod['metadata']['name']}", AGENT_PORT, NAMESPACE) as port:
            return status_of_agent(port, self.uid)

    def command(self, verb: str, *arguments: str) -> list[str]:
        """A verb of `gemmaspec` on this resource, as the administrator."""
        access = self.site.kubectl.command[1:]
        return [sys.executable, "-m", "gemmaspec.cli.main", verb, self.name, *arguments, "-n", NAMESPACE, *access]

    def run(self, verb: str, *arguments: str, seconds: float = 1200.0) -> subprocess.CompletedProcess[str]:
        """The same, to its end, with nobody to ask."""
        done = subprocess.run(
            self.command(verb, *arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        print(done.stdout[-6000:], done.stderr, sep="\n")
        return done

    @property
    def annotation(self) -> str | None:
        """What holds K."""
        found: str | None = (self.resource.read()["metadata"].get("annotations") or {}).get(hold.ANNOTATION)
        return found

    def stands_as_before(self) -> None:
        """Nothing is left on the resource, the spec's own policy moves K, and no fault was seen in the sweep."""
        assert self.annotation is None
        wait_for(lambda: self.agent()["k"]["mode"] == "Adaptive", "the spec's own mode", BACK_SECONDS)
        healthy = condition(self.resource.read(), "SpeculationHealthy")
        assert healthy["reason"] != "DraftRejected", healthy
