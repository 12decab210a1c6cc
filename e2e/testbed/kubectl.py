"""kubectl, run against one cluster."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SECONDS = 60.0


class KubectlError(RuntimeError):
    """kubectl ended with an error. `output`: what it wrote on both streams."""

    def __init__(self, command: Sequence[str], code: int, output: str) -> None:
        super().__init__(f"kubectl {' '.join(command)}: status {code}: {output.strip()}")
        self.code = code
        self.output = output


class Kubectl:
    """Calls of one kubectl program with one kubeconfig (or with a named context of the user's own)."""

    def __init__(self, program: str, kubeconfig: Path | None = None, context: str | None = None) -> None:
        self.command = [program]
        if kubeconfig is not None:
            self.command.append(f"--kubeconfig={kubeconfig}")
        if context is not None:
            self.command.append(f"--context={context}")

    def __call__(self, *arguments: str, stdin: str | None = None, timeout: float = SECONDS) -> str:
        """What kubectl printed. Raises KubectlError when it fails, TimeoutExpired after `timeout` seconds."""
        done = subprocess.run(
            [*self.command, *arguments],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode:
            raise KubectlError(arguments, done.returncode, done.stderr + done.stdout)
        return done.stdout

    def json(self, *arguments: str, timeout: float = SECONDS) -> Any:
        """The answer of a call with `-o json`, parsed."""
        return json.loads(self(*arguments, "-o", "json", timeout=timeout))

    def apply(self, manifest: str, *arguments: str, timeout: float = SECONDS) -> str:
        """Apply YAML or JSON text."""
        return self("apply", "-f", "-", *arguments, stdin=manifest, timeout=timeout)
