"""Finds, in the last lines that vLLM printed, the one line that says why it died.

vLLM is several processes.  A fault in a worker is logged there, raised again in the engine core, and at last in
the API server as "Engine core initialization failed. See root cause above": the last line of the log, which is what
kubelet would show, says nothing.  Pure text in, text out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from gemmaspec_engine.explanations import UNKNOWN, explain

__all__ = ["Cause", "Diagnosis", "diagnose", "root_cause"]


@dataclass(frozen=True)
class Cause:
    """The line that explains the failure, and the process that printed it ("" when it did not say)."""

    line: str
    process: str = ""
    passed_on: bool = False
    """The line only reports that another process is gone; that one itself said nothing."""


@dataclass(frozen=True)
class Diagnosis:
    """A failed engine, explained: a stable reason, one line of the engine's own words, and what to do."""

    reason: str
    message: str
    remedy: str


_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_PROCESS = re.compile(r"^\((?P<name>[A-Za-z][\w.:-]*) pid=\d+\)\s?")
_LOGGED = re.compile(
    r"^(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d(?:[.,]\d+)? \[[^\]]*\]\s?"
)
_RAISED = re.compile(
    r"^(?:[A-Za-z_]\w*\.)*(?P<type>[A-Z]\w*(?:Error|Exception|Interrupt|Exit|Timeout|Expired|NotFound|Unavailable))"
    r"(?::\s*(?P<text>.*))?$"
)
_ARGPARSE = re.compile(r"^(?P<prog>[\w./ -]+?): error: (?P<text>.+)$")
_INTERPRETER = re.compile(r"^\S*python\S*: (?P<text>No module named .+|Error while finding module specification .+)$")
_NATIVE = re.compile(
    r"^(?:Fatal Python error: .+|\s*what\(\):\s+.+|Bus error.*|Segmentation fault.*|Illegal instruction.*)$"
)
_FRAME = re.compile(r'^  File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>\S+)')
_PYDANTIC_TAIL = re.compile(r" \[type=\w+, input_value=.*$")
_LINKED = ("During handling of the above exception", "The above exception was the direct cause")
_FATAL = (
    "EngineCore failed to start",
    "EngineCore encountered a fatal error",
    "EngineCore hit an exception",
    "WorkerProc failed to start",
    "WorkerProc hit an exception",
)
# Lines that only pass on, in another process, what was said before.
_DERIVED = re.compile(
    r"Engine core initialization failed|Frontend process failed during engine core|WorkerProc initialization failed"
    r"|died unexpectedly|died with exit code|EngineDeadError|EngineCore encountered an issue"
    r"|^(?:\w+\.)*(?:SystemExit|KeyboardInterrupt|CancelledError|BrokenPipeError|ConnectionResetError|EOFError)\b"
    r"|Event loop is closed|cannot schedule new futures|RPC call to .* timed out"
)


@dataclass
class _Line:
    process: str
    level: str
    text: str


@dataclass
class _Found:
    """A candidate: the last exception of one chain of tracebacks."""

    line: str
    process: str
    fatal: bool
    noise: bool
    index: int


@dataclass
class _Reader:
    """What is remembered of each process while its lines, mixed with those of others, go by."""

    found: list[_Found] = field(default_factory=list)
    fatal: set[str] = field(default_factory=set)
    ignored: set[str] = field(default_factory=set)
    linked: set[str] = field(default_factory=set)
    frame: dict[str, str] = field(default_factory=dict)
    """Where the traceback that is going by has got to: file, line and, once it came, the source text."""
    waiting: dict[str, _Found] = field(default_factory=dict)
    """Candidates whose text goes on in the next line (pydantic prints its findings below the heading)."""

    def take(self, index: int, line: _Line) -> None:
        if self._mark(line) or self._continued(line):
            return
        text = _error_in(line.text)
        if text is None:
            self._follow(line)
            return
        if ":" not in text and line.process in self.frame:  # a bare "AssertionError" says nothing without its place
            text = f"{text} at {self.frame[line.process]}"
        found = _Found(text, line.process, line.process in self.fatal, line.process in self.ignored, index)
        self.ignored.discard(line.process)
        if line.process in self.linked and not _DERIVED.search(text):
            self._forget_last_of(line.process)  # the later exception of a chain is the one written for people
        self.linked.discard(line.process)
        self.found.append(found)
        if text.rstrip().endswith(":") or "validation error" in text:
            self.waiting[line.process] = found

    def _follow(self, line: _Line) -> None:
        if frame := _FRAME.match(line.text):
            self.frame[line.process] = f"{frame['file'].rsplit('/', 1)[-1]}:{frame['line']} in {frame['function']}"
        elif line.text.startswith("    ") and line.text.strip(" ^~"):
            place = self.frame.get(line.process)
            if place is not None and place.count(":") == 1:  # without its source line yet
                self.frame[line.process] = f"{place}: {line.text.strip()}"

    def _mark(self, line: _Line) -> bool:
        if any(mark in line.text for mark in _FATAL):
            self.fatal.add(line.process)
            return True
        if line.text.startswith(_LINKED):
            self.linked.add(line.process)
            return True
        if line.text.startswith("Exception ignored in"):
            self.ignored.add(line.process)
            return True
        return False

    def _continued(self, line: _Line) -> bool:
        found = self.waiting.get(line.process)
        if found is None:
            return False
        if not line.text.startswith(" ") and "validation error" not in found.line:
            del self.waiting[line.process]
            return False
        if line.text.startswith("  ") or found.line.rstrip().endswith(":"):
            found.line = f"{found.line} {_PYDANTIC_TAIL.sub('', line.text.strip())}"
            del self.waiting[line.process]
        return True

    def _forget_last_of(self, process: str) -> None:
        for at in range(len(self.found) - 1, -1, -1):
            if self.found[at].process == process:
                del self.found[at]
                return


def root_cause(lines: Iterable[str]) -> Cause | None:
    """The line that explains why vLLM ended, or None when nothing in ``lines`` looks like an error.

    Preferred is what a worker or the engine core reported as its own fatal error; then the last exception that is
    not merely passed on; then, failing all else, a passed-on one or the last line logged as an error.
    """
    reader, logged = _Reader(), ""
    for index, raw in enumerate(lines):
        line = _parse(raw)
        if line.level in ("ERROR", "CRITICAL") and line.text.strip():
            logged = line.text.strip()
        reader.take(index, line)
    own = [found for found in reader.found if not _DERIVED.search(found.line) and not found.noise]
    fatal = [found for found in own if found.fatal]
    workers = [found for found in fatal if found.process.startswith(("Worker", "VllmWorker"))]
    for best in (workers[:1], fatal[:1], own[-1:], reader.found[-1:]):
        if best:
            return Cause(best[0].line, best[0].process, passed_on=bool(_DERIVED.search(best[0].line)))
    return Cause(logged) if logged else None


def _parse(raw: str) -> _Line:
    # A progress bar rewrites its line: what stays on the screen is what follows the last carriage return.
    text = _ANSI.sub("", raw.rstrip("\r\n")).rsplit("\r", 1)[-1]
    process, level = "", ""
    if match := _PROCESS.match(text):
        process, text = match["name"], text[match.end() :]
    if match := _LOGGED.match(text):
        level, text = match["level"], text[match.end() :]
    return _Line(process, level, text.rstrip())


def _error_in(text: str) -> str | None:
    for pattern in (_RAISED, _NATIVE):
        if pattern.match(text):
            return text.strip()
    if match := _ARGPARSE.match(text):
        return f"{match['prog'].rsplit('/', 1)[-1]}: {match['text']}"
    if match := _INTERPRETER.match(text):
        return match["text"]
    return None


_OOM_REMEDY = "The kernel killed a process for memory: lower spec.memory.utilization or raise spec.memory.reserveGiB."


def diagnose(lines: Iterable[str], *, exit_code: int, signal: int, oom_kills: int) -> Diagnosis:
    """Explain an engine that ended by itself.

    ``exit_code`` is its own (0 when a signal ended it), ``signal`` the number that killed it (0: none),
    ``oom_kills`` how many processes of this container the kernel has killed for memory during this boot.
    """
    cause = root_cause(lines)
    if oom_kills > 0:
        told = f"; the engine said: {cause.line}" if cause else ""
        return Diagnosis("OOMKilled", f"the kernel killed {oom_kills} process(es) for memory{told}", _OOM_REMEDY)
    if cause is not None:
        killed = re.search(r"(?:proc\(s\): \{[^}]*: |exit code:? )-(\d+)", cause.line)
        if killed:
            return _killed(int(killed[1]), cause.line)
        if cause.passed_on:
            return Diagnosis("EngineKilled", f"an engine process ended without a word: {cause.line}", _SILENT_REMEDY)
        known = explain(cause.line)
        return Diagnosis(known.reason, cause.line, known.remedy)
    if signal:
        return _killed(signal, "")
    if exit_code == 0:
        return Diagnosis("EngineExited", "vLLM ended by itself without an error", UNKNOWN.remedy)
    return Diagnosis(UNKNOWN.reason, f"vLLM exited with code {exit_code} without an error line", UNKNOWN.remedy)


_SILENT_REMEDY = (
    "Probably it was killed: look at the node's kernel log (dmesg) for its out-of-memory killer or a GPU fault (Xid)."
)
_SIGNALS = {4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 9: "SIGKILL", 11: "SIGSEGV", 15: "SIGTERM"}


def _killed(signal: int, told: str) -> Diagnosis:
    """An engine process ended by a signal that nobody here sent."""
    name = _SIGNALS.get(signal, f"signal {signal}")
    message = f"an engine process was killed by {name}" + (f": {told}" if told else "")
    if signal == 9:
        # On a GB10 the host's own OOM killer does not show in this container's counter.
        remedy = (
            "Probably the host's out-of-memory killer (see dmesg): lower spec.memory.utilization or raise reserveGiB."
        )
        return Diagnosis("OOMKilled", message, remedy)
    return Diagnosis(
        "EngineKilled", message, "Read the engine's log (kubectl logs --previous) and the node's kernel log."
    )
