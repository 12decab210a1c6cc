"""``python3 -m gemmaspec_engine.launch -- <vLLM arguments>``: the engine container's first process.

Holds, with the operator up or down: the pinned files are the ones on disk; vLLM starts only when its memory is
free; boots are spaced and capped, and at the cap the container stays up without touching the GPU and says why.
Then it runs vLLM and, when that ends, leaves the engine's own root-cause line as the termination message.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from gemmaspec_engine import boots, fingerprint, memory, mount, rootcause, supervise, termination
from gemmaspec_engine.environment import engine_environment
from gemmaspec_engine.health import HealthWatch, PulseWatch
from gemmaspec_engine.leaving import DRAIN, MIDDLEWARE, SECRET, Parting
from gemmaspec_engine.pin import Pin
from gemmaspec_engine.signals import Signals
from gemmaspec_engine.standin import StandIn
from gemmaspec_engine.state import RESULT, read_json

__all__ = ["main"]

# sysexits.h; the operator reads the reason, a person at a shell the code.
_EX_CONFIG = 78
_EX_TEMPFAIL = 75
_EX_IOERR = 74
_STALLED_REMEDY = "It was killed and is started again; its log shows what it did last (kubectl logs --previous)."
_SAY_EVERY_SECONDS = 30.0
_LOOK_EVERY_SECONDS = 2.0


class Refused(Exception):
    """vLLM is not started: the reason, and the container's exit code."""

    def __init__(self, reason: str, message: str, exit_code: int, remedy: str = "") -> None:
        super().__init__(message)
        self.reason, self.message, self.exit_code, self.remedy = reason, message, exit_code, remedy


class Stopped(Exception):
    """SIGTERM came while the launcher waited; the text says for what."""


@dataclass
class Launcher:
    """One run of the launcher: what it was told, and what it has found out."""

    pin: Pin
    arguments: Sequence[str]
    signals: Signals

    def __post_init__(self) -> None:
        self.state_dir = Path(self.pin.state_dir)
        self.record = boots.Record()
        self.host, self.port = _endpoint(self.arguments)

    def run(self) -> termination.LastWords:
        """Everything after the pinned files were found unchanged."""
        self.record = boots.notice_kill(boots.load(self.state_dir), time.time())
        if parked := self._why_parked():
            return self._park(*parked)
        self._check_patches()
        self._take_utilization()
        self._wait_before_boot()
        self._wait_for_memory()
        self._save(boots.begin(self.record))
        _say(f"boot {self.record.boots} of at most {self.pin.max_restarts + 1}")
        return self._boot()

    def _save(self, record: boots.Record) -> None:
        try:
            boots.save(self.state_dir, record)
        except OSError as error:
            # A boot that cannot be counted is a boot without a cap.
            remedy = "Mount a writable emptyDir at the pin's stateDir."
            raise Refused("StateUnwritable", f"cannot write the boot record: {error}", _EX_IOERR, remedy) from None
        self.record = record

    def _why_parked(self) -> tuple[str, str, str] | None:
        """(reason, message, remedy) when no boot may happen in this pod any more."""
        if not self.record.readable:
            text = f"the boot record in {self.state_dir} is damaged, so further boots cannot be capped"
            return "BootLimit", text, "Delete the pod to start afresh."
        failed = _preflight_failure(self.state_dir)
        if failed is not None:
            return failed
        if self.record.at_cap(self.pin.max_restarts):
            last = self.record.last
            told = f"; last: {last.reason}: {last.message}" if last else ""
            text = f"{self.record.boots} boots without lasting service, no more are allowed{told}"
            return "BootLimit", text, "Correct the cause, then change the spec or delete the pod."
        return None

    def _check_patches(self) -> None:
        """The patches that preflight brought are rehashed at each start, as the mounted files are."""
        changed = fingerprint.changed(Path("/"), {p.file(self.pin.patch_dir)[1:]: p.sha256 for p in self.pin.patches})
        if changed:
            remedy = "Delete the pod: preflight brings the patches again."
            raise Refused("FilesChanged", "; ".join(map(str, changed)), _EX_CONFIG, remedy)

    def _take_utilization(self) -> None:
        """With mode Auto the utilization is what preflight computed from the model."""
        if self.pin.memory.mode != "Auto":
            return
        found = (read_json(self.state_dir / RESULT) or {}).get("utilization")
        if not isinstance(found, float) or not 0 < found <= 1:
            text = f"preflight left no utilization in {self.state_dir / RESULT}"
            raise Refused("PreflightMissing", text, _EX_CONFIG, "Delete the pod to repeat preflight.")
        self.pin = replace(self.pin, memory=replace(self.pin.memory, utilization=found))
        self.arguments = [*self.arguments, "--gpu-memory-utilization", f"{found:g}"]

    def _park(self, reason: str, message: str, remedy: str) -> termination.LastWords:
        """Keep the container up without vLLM until it is asked to stop."""
        _say(f"parked, vLLM is not started: {reason}: {message}. {remedy}")
        answer = self._answer(reason, message, remedy)
        with ExitStack() as doors:
            for port in (*_agent_port(), self.port):  # kubelet asks at both whether the container lives
                standin = doors.enter_context(StandIn(self.host, port, answer, parked=True))
                if standin.error:
                    _say(f"cannot answer on port {port}: {standin.error}")
            self.signals.sleep(None)
        return self._words(reason, message, 0, remedy)

    def _wait_before_boot(self) -> None:
        seconds = boots.pause(self.record, self.pin.boot, time.time())
        if seconds <= 0:
            return
        last = self.record.last
        text = f"{self.record.failures} failed boot(s); the next one starts in {seconds:.0f} s"
        text += f"; last: {last.reason}: {last.message}" if last else ""
        _say(text)
        with StandIn(self.host, self.port, self._answer("BackOff", text, "")):
            if self.signals.sleep(seconds):
                raise Stopped(text)

    def _wait_for_memory(self) -> None:
        verdict = self._weigh()
        if verdict.fits:
            _say(f"memory: {verdict.text}")
            return
        deadline = time.monotonic() + self.pin.memory.wait_seconds
        said = float("-inf")
        with StandIn(self.host, self.port, self._answer("WaitingForMemory", verdict.text, "")) as standin:
            while not verdict.fits:
                now = time.monotonic()
                if now >= deadline:
                    raise Refused("MemoryNotFree", verdict.text, _EX_TEMPFAIL, _memory_remedy(verdict))
                if now - said >= _SAY_EVERY_SECONDS:
                    _say(f"WaitingForMemory: {verdict.text}; giving up in {deadline - now:.0f} s")
                    said = now
                standin.say(self._answer("WaitingForMemory", verdict.text, ""))
                if self.signals.sleep(min(_LOOK_EVERY_SECONDS, deadline - now)):
                    raise Stopped(f"WaitingForMemory: {verdict.text}")
                verdict = self._weigh()
        _say(f"memory is free now: {verdict.text}")

    def _weigh(self) -> memory.Verdict:
        try:
            figures = memory.read()
        except (OSError, ValueError) as error:
            raise Refused("MemoryUnknown", f"free memory cannot be read: {error}", _EX_IOERR) from None
        return memory.weigh(self.pin.memory, figures, self.pin.vllm)

    def _boot(self) -> termination.LastWords:
        """Run vLLM to its end and explain it."""
        kills_before = memory.oom_kills()
        watch = HealthWatch(self.host, self.port, self.pin.boot.healthy_seconds)
        pulses = [PulseWatch(port) for port in _agent_port()]
        hung: list[str] = []

        def hangs() -> bool:
            hung[:] = [words for pulse in pulses if (words := pulse.lost())]
            return bool(hung)

        parting = Parting(self.host, self.port)
        env = engine_environment(self.pin, os.environ, mount.package())
        env |= {SECRET: parting.secret, DRAIN: _given(self.arguments, "--shutdown-timeout", "0")}
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *self.arguments]
        command += ["--middleware", MIDDLEWARE]
        try:
            end, lines = supervise.run(command, self.signals, lambda: self._credit(watch), env, hangs, parting.over)
        finally:
            watch.stop()
            for pulse in pulses:
                pulse.stop()
        if hung:
            words = self._words("EngineStalled", hung[0], end.exit_code or 1, _STALLED_REMEDY)
        elif self.signals.stop_asked:
            words = self._words("Stopped", "asked to stop", end.exit_code)
        else:
            kills = memory.oom_kills() - kills_before
            found = rootcause.diagnose(lines, exit_code=end.code, signal=end.signal, oom_kills=kills)
            # vLLM's API server ends with 0 when its engine core died in service.
            code = end.exit_code or (0 if found.reason == "EngineExited" else 1)
            words = self._words(found.reason, found.message, code, found.remedy)
        ending = boots.Ending(words.reason, words.message, words.exit_code, time.time())
        self._note(boots.end(self.record, ending, failed=bool(hung) or not self.signals.stop_asked))
        return words

    def _credit(self, watch: HealthWatch) -> None:
        if watch.proved and self.record.boots:
            _say(f"healthy for {self.pin.boot.healthy_seconds:g} s: earlier boots no longer count")
            self._note(boots.prove(self.record))

    def _note(self, record: boots.Record) -> None:
        """Save if possible: a full disk must neither stop a healthy engine nor hide why a failed one ended."""
        self.record = record
        try:
            boots.save(self.state_dir, record)
        except OSError as error:
            _say(f"cannot write the boot record: {error}")

    def _answer(self, reason: str, message: str, remedy: str) -> dict[str, object]:
        counts = {"boots": self.record.boots, "maxBoots": self.pin.max_restarts + 1}
        return {"reason": reason, "message": message, "remedy": remedy, **counts}

    def _words(self, reason: str, message: str, exit_code: int, remedy: str = "") -> termination.LastWords:
        return termination.LastWords("launch", reason, message, exit_code, self.record.boots, remedy)


def _memory_remedy(verdict: memory.Verdict) -> str:
    if verdict.utilization:
        return f"Set spec.memory.utilization to at most {verdict.utilization:.2f}, or free memory on the box."
    return "Free memory on the box: something else uses it."


def _preflight_failure(state_dir: Path) -> tuple[str, str, str] | None:
    """What preflight found, when it is something that no restart can change."""
    try:
        result = read_json(state_dir / RESULT)
    except (OSError, ValueError) as error:
        text = f"the preflight result cannot be read: {error}"
        return "PreflightUnreadable", text, "Delete the pod to repeat preflight."
    if result is None or result.get("ok") is not False or result.get("deterministic") is not True:
        return None
    message = str(result.get("message", ""))
    return str(result.get("reason", "PreflightFailed")), message, str(result.get("remedy", ""))


def _endpoint(arguments: Sequence[str]) -> tuple[str, int]:
    """Host and port from vLLM's own arguments; its defaults are all IPv4 addresses and 8000."""
    port = _given(arguments, "--port", "8000")
    return _given(arguments, "--host", ""), int(port) if port.isdigit() else 8000


def _given(arguments: Sequence[str], name: str, default: str) -> str:
    """The last value of one of vLLM's arguments."""
    found = default
    for at, argument in enumerate(arguments):
        if argument.startswith(f"{name}="):
            found = argument.removeprefix(f"{name}=")
        elif argument == name and at + 1 < len(arguments):
            found = arguments[at + 1]
    return found


def _agent_port() -> list[int]:
    """The agent's port, where the engine would have an agent."""
    try:
        port = json.loads(os.environ.get("GEMMASPEC_AGENT") or "{}").get("port")
    except (ValueError, AttributeError):
        return []  # the agent itself says what is wrong with it
    return [port] if isinstance(port, int) and port > 0 else []


def _say(text: str) -> None:
    print(f"gemmaspec launch: {text}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The launcher's exit code; everything after the first ``--`` goes to vLLM untouched."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    vllm_arguments = words[1:] if words[:1] == ["--"] else words
    signals, launcher = Signals(), None
    try:
        launcher = Launcher(mount.load(), vllm_arguments, signals)
        last = launcher.run()
    except mount.MountError as error:
        last = termination.LastWords("launch", error.reason, error.message, _EX_CONFIG, 0, error.remedy)
    except Refused as refused:
        count = launcher.record.boots if launcher else 0
        last = termination.LastWords(
            "launch", refused.reason, refused.message, refused.exit_code, count, refused.remedy
        )
    except Stopped as stopped:
        last = termination.LastWords("launch", "Stopped", str(stopped), 0, launcher.record.boots if launcher else 0)
    _say(f"{last.reason}: {last.message}" + (f". {last.remedy}" if last.remedy else ""))
    termination.write(last)
    return last.exit_code


if __name__ == "__main__":
    sys.exit(main())
