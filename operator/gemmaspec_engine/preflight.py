"""``python3 -m gemmaspec_engine.preflight [--stage a|b] -- <vLLM arguments>``: proves the pin before weights load.

An init container with the engine's image, mounts and resources.  Stage A needs no model: files, memory, patches,
transformers, versions as imported, the argument list as vLLM itself parses it, the scheduler class.  Stage B reads the
two ``config.json``.  Without ``--stage`` both are done.

What no retry can change ends with exit code 0 and ``"ok": false, "deterministic": true`` in ``preflight.json``: the
launcher then parks, and nothing restarts in a loop.  What may pass by itself (a network, memory that is still being
given back) ends with exit code 75, and kubelet tries again with its back-off.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from gemmaspec_engine import memory, mount, overlay, patches, rootcause, termination, verdict, weights
from gemmaspec_engine.environment import engine_environment
from gemmaspec_engine.finding import Finding
from gemmaspec_engine.pin import Pin
from gemmaspec_engine.state import RESULT, write_json

__all__ = ["main", "summary"]

_EX_TEMPFAIL, _EX_CONFIG = 75, 78


class Preflight:
    """One run: collects findings and facts until the first fatal one."""

    def __init__(self, pin: Pin, stages: str, arguments: Sequence[str]) -> None:
        self.pin, self.stages, self.arguments = pin, stages, list(arguments)
        self.findings: list[Finding] = []
        self.facts: dict[str, Any] = {}
        self.memory = verdict.Memory((), pin.memory.utilization, "")

    @property
    def failed(self) -> bool:
        """Something fatal was found."""
        return any(finding.fatal for finding in self.findings)

    def run(self) -> None:
        """Cheap and quick checks first; the probe last."""
        for check in (self._memory_now, self._patches, self._overlay, self._probe, self._memory_after):
            check()
            if self.failed:
                return

    def _memory_now(self) -> None:
        if self.pin.memory.mode == "Fixed" and self.pin.memory.device != "cpu":
            self._wait_until_it_fits()
        # Without the weights, which are not known yet: what is too large by itself.
        given = dict(pairwise(self.arguments)).get("--kv-cache-memory-bytes", "")
        kv = int(given) if given.isdecimal() else None
        self.findings += verdict.judge_kv_cache(self.pin, {"resolved": {"kvCacheBytes": kv}}, memory.read())

    def _memory_after(self) -> None:
        """What needs the probe's facts: a computed utilization, and vLLM's own rule on a CPU."""
        if self.pin.memory.mode == "Auto" and "b" not in self.stages:
            return
        if self.pin.memory.mode == "Auto" or self.pin.memory.device == "cpu":
            self._wait_until_it_fits()
        self.findings += verdict.judge_kv_cache(self.pin, self.facts, memory.read())

    def _wait_until_it_fits(self) -> None:
        deadline = time.monotonic() + self.pin.preflight.memory_seconds
        while True:
            self.memory = verdict.judge_memory(self.pin, self.facts, memory.read())
            stuck = any(finding.deterministic for finding in self.memory.findings)
            if not self.memory.findings or stuck or time.monotonic() >= deadline:
                break
            time.sleep(min(1.0, self.pin.preflight.memory_seconds))
        self.findings += self.memory.findings

    def _patches(self) -> None:
        if "a" in self.stages:
            self.findings += patches.bring(self.pin)

    def _overlay(self) -> None:
        if "a" in self.stages:
            self.findings += overlay.install(self.pin.transformers, self.pin.preflight.fetch_seconds)

    def _probe(self) -> None:
        """Ask vLLM, in a process that has the engine's environment."""
        out = Path(self.pin.state_dir) / "probe.json"
        out.unlink(missing_ok=True)
        sized = any(word.startswith("--kv-cache-memory-bytes") for word in self.arguments)
        options = ["--weights"] if sized or self.pin.memory.mode == "Auto" else []
        command = [sys.executable, "-m", "gemmaspec_engine.probe", str(out), self.stages, *options, "--"]
        environment = engine_environment(self.pin, os.environ, mount.package())
        if _all_cached(self.arguments):
            environment["HF_HUB_OFFLINE"] = "1"  # a box that lost its network restarts what it has
        seconds = self.pin.preflight.probe_seconds
        try:
            done = subprocess.run(
                [*command, *self.arguments],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            text = f"vLLM did not answer preflight's questions within {seconds:g} s"
            self.findings.append(
                Finding("ProbeTimeout", text, "Raise the limit, or look at the node.", deterministic=False)
            )
            return
        said = done.stdout.decode("utf-8", "replace")
        sys.stderr.write(said)
        try:
            self.facts = json.loads(out.read_text())
        except (OSError, ValueError):
            self.findings.append(_dead(said, done.returncode))
            return
        self.findings += verdict.judge(self.pin, self.facts, environment)

    def result(self) -> dict[str, Any]:
        """What is written to ``preflight.json``, the summary first."""
        fatal = [finding for finding in self.findings if finding.fatal]
        first = fatal[0] if fatal else None
        versions = self.facts.get("versions") or {}
        return {
            "stage": "preflight",
            "ok": first is None,
            "reason": first.reason if first else "Proved",
            "message": first.message if first else self._proved(),
            "remedy": first.remedy if first else "",
            "deterministic": first is not None and all(finding.deterministic for finding in fatal),
            "vllm": versions.get("vllm"),
            "transformers": versions.get("transformers"),
            "utilization": self.memory.utilization,
            "memory": self.memory.text,
            "patches": {patch.module: patch.sha256 for patch in self.pin.patches},
            "dynamicK": self._dynamic_k(),
            "warnings": [finding.reason for finding in self.findings if not finding.fatal],
            "stages": self.stages,
            "findings": [asdict(finding) for finding in self.findings],
            "resolved": self.facts.get("resolved"),
        }

    def _proved(self) -> str:
        versions = self.facts["versions"]
        return f"vLLM {versions['vllm']}, transformers {versions['transformers']}, {len(self.pin.patches)} patch(es)"

    def _dynamic_k(self) -> bool:
        fields = self.facts.get("speculativeFields")
        return isinstance(fields, list) and "num_speculative_tokens_per_batch_size" in fields


def _all_cached(arguments: Sequence[str]) -> bool:
    """Whether target and drafter come from a hub and are in the cache whole, at pinned revisions."""
    given = dict(pairwise(arguments))
    try:
        drafter = json.loads(given.get("--speculative-config") or "{}")
        models = [(given.get("--model"), given.get("--revision")), (drafter.get("model"), drafter.get("revision"))]
    except (ValueError, AttributeError):
        return False
    hub = [weights.Repository(name, revision) for name, revision in models if name and not name.startswith("/")]
    return bool(hub) and all(weights.complete(weights.hub_cache(), repository) for repository in hub)


def _dead(said: str, code: int) -> Finding:
    """The probe ended without an answer: native crash, or a kill."""
    found = rootcause.diagnose(said.split("\n"), exit_code=max(code, 0), signal=max(-code, 0), oom_kills=0)
    return Finding(found.reason, f"preflight's probe died: {found.message}", found.remedy, deterministic=False)


def summary(result: Mapping[str, Any]) -> bytes:
    """The termination message: at most 1 KiB, whole JSON, hashes shortened. A failure's own words hold the sum."""
    left_out = ("findings", "resolved", "stages", *(() if result["ok"] else ("memory",)))
    fields = {name: result[name] for name in result if name not in left_out}
    fields["patches"] = _few(result["patches"])
    fields = {name: value for name, value in fields.items() if value not in (None, "", [], {})}
    return termination.fit(fields, ("message", "remedy", "memory"))


def _few(patches: Mapping[str, str], budget: int = 300) -> dict[str, str]:
    """Modules and the beginnings of their hashes, as many as ``budget`` characters hold, then how many more."""
    shown: dict[str, str] = {}
    for module, sha256 in patches.items():
        budget -= len(module) + 20
        if budget < 0:
            return shown | {"…": f"+{len(patches) - len(shown)}"}
        shown[module] = sha256[:12]
    return shown


def _finish(result: dict[str, Any], state_dir: str | None) -> int:
    """Write the result, say it, and choose the exit code."""
    if state_dir is not None:
        try:
            write_json(Path(state_dir) / RESULT, result)
        except OSError as error:
            print(f"gemmaspec preflight: cannot write {state_dir}/{RESULT}: {error}", file=sys.stderr)
            result |= {"ok": False, "deterministic": False, "reason": "StateUnwritable", "message": str(error)}
    termination.write_bytes(summary(result))
    said = f"gemmaspec preflight: {result['reason']}: {result['message']} {result['remedy']}".rstrip()
    print(said, file=sys.stderr, flush=True)
    if result["ok"] or (result["deterministic"] and state_dir is not None):
        return 0
    return _EX_TEMPFAIL if state_dir is not None else _EX_CONFIG


def _earlier_failure(state_dir: str) -> dict[str, Any] | None:
    """Stage A's result when it failed for good: stage B has nothing to add."""
    try:
        earlier = json.loads((Path(state_dir) / RESULT).read_text())
    except (OSError, ValueError):
        return None
    return earlier if isinstance(earlier, dict) and earlier.get("ok") is False else None


def _refused(error: mount.MountError) -> dict[str, Any]:
    summary = {"stage": "preflight", "ok": False, "reason": error.reason, "message": error.message}
    return summary | {"remedy": error.remedy, "deterministic": True, "patches": {}, "findings": []}


def main(arguments: Sequence[str] | None = None) -> int:
    """0: proved, or failed for good and written down; 75: try again; 78: the pin itself cannot be read."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    at = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(prog="gemmaspec_engine.preflight")
    parser.add_argument("--stage", choices=("a", "b"))
    stage = parser.parse_args(words[:at]).stage
    try:
        pin = mount.load()
    except mount.MountError as error:
        return _finish(_refused(error), None)
    if stage == "b" and (earlier := _earlier_failure(pin.state_dir)) is not None:
        return _finish(earlier, pin.state_dir)
    started = time.monotonic()
    preflight = Preflight(pin, stage or "ab", words[at + 1 :])
    preflight.run()
    took = {"seconds": round(time.monotonic() - started, 1), "processorSeconds": round(_processor_seconds(), 1)}
    return _finish(preflight.result() | took, pin.state_dir)


def _processor_seconds() -> float:
    """Time that this process and the probe spent computing: what a busy machine does not change."""
    own, probe = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + probe.ru_utime + probe.ru_stime


if __name__ == "__main__":
    sys.exit(main())
