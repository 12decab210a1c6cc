"""The launcher as a process, with ``fake_vllm`` scripts in the place of vLLM."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import gemmaspec_engine

pytestmark = pytest.mark.slow

SOURCE = Path(gemmaspec_engine.__file__).resolve().parent
DEADLINE = 20.0
# In a pod the launcher is process 1, and the kernel ends what it leaves behind; here PR_SET_PDEATHSIG does.
DIES_WITH_ITS_LAUNCHER = "import ctypes\nctypes.CDLL(None).prctl(1, signal.SIGKILL)\n"


def until(what: Callable[[], Any], why: str) -> Any:
    """Poll until ``what`` returns something true."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {DEADLINE:g} s: {why}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Pod:
    """What a pod gives the launcher: a mount with the pinned files, a state directory, a termination log."""

    root: Path
    port: int
    env: dict[str, str] = field(default_factory=dict)
    running: list[subprocess.Popen[str]] = field(default_factory=list)
    prefix: tuple[str, ...] = ()

    def write_engine(self, script: str) -> None:
        """Install ``script`` as the fake API server."""
        path = self.root / "fake_vllm" / "vllm" / "entrypoints" / "openai" / "api_server.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"import os, signal, socket, subprocess, sys, time\n{DIES_WITH_ITS_LAUNCHER}{script}")

    def write_pin(self, **changes: Any) -> None:
        mount, files = self.root / "mount", {}
        for path in SOURCE.glob("*.py"):
            copy = mount / "gemmaspec_engine" / path.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
            files[f"gemmaspec_engine/{path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
        fields = {
            "files": files,
            "memory": {"device": "cpu"},
            "boot": {"backoffSeconds": 0},
            "maxRestarts": 1,
            "stateDir": str(self.root / "state"),
        }
        (mount / "pin.json").write_text(json.dumps(fields | changes))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{self.root / 'mount'}:{self.root / 'fake_vllm'}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "GEMMASPEC_TERMINATION_LOG": str(self.root / "termination-log"),
        } | self.env
        command = [*self.prefix, sys.executable, "-m", "gemmaspec_engine.launch", "--"]
        command += ["--port", str(self.port), *arguments]
        process = subprocess.Popen(
            command, env=env, cwd=self.root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.running.append(process)
        return process

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=DEADLINE)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    @property
    def last_words(self) -> dict[str, Any]:
        words: dict[str, Any] = json.loads((self.root / "termination-log").read_text())
        return words

    @property
    def boots(self) -> dict[str, Any]:
        record: dict[str, Any] = json.loads((self.root / "state" / "boots.json").read_text())
        return record

    def get(self, path: str) -> tuple[int, dict[str, Any]] | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())
        except OSError:
            return None


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    (tmp_path / "state").mkdir()
    pod = Pod(tmp_path, free_port())
    pod.write_pin()
    pod.write_engine("print('serving', sys.argv[1:], flush=True)\n")
    yield pod
    for process in pod.running:
        process.kill()
        process.communicate()


def test_vllm_gets_its_arguments_and_its_output_passes_through(pod: Pod) -> None:
    pod.write_engine("print('out', sys.argv[1:]); sys.stderr.write('err\\n')")
    done = pod.run("--model", "a b", '--flag={"x": 1}')
    ours = "'--middleware', 'gemmaspec_engine.leaving.Leaving'"
    assert done.stdout == f"out ['--port', '{pod.port}', '--model', 'a b', '--flag={{\"x\": 1}}', {ours}]\n"
    assert "err\n" in done.stderr
    assert done.returncode == 0
    assert pod.last_words["reason"] == "EngineExited"


def test_a_failure_leaves_its_root_cause(pod: Pod) -> None:
    pod.write_engine("raise ValueError('Free memory on device (1/2 GiB) on startup is less than desired')")
    done = pod.run()
    assert done.returncode == 1
    words = pod.last_words
    assert (words["stage"], words["reason"], words["exitCode"], words["boots"]) == (
        "launch",
        "FreeMemoryTooLow",
        1,
        1,
    )
    assert words["message"].startswith("ValueError: Free memory on device (1/2 GiB)")
    assert "utilization" in words["remedy"]


def test_a_child_that_is_killed(pod: Pod) -> None:
    pod.write_engine("os.kill(os.getpid(), signal.SIGSEGV)")
    assert pod.run().returncode == 128 + signal.SIGSEGV
    assert pod.last_words["reason"] == "EngineKilled"


def test_a_changed_file_starts_nothing(pod: Pod) -> None:
    changed = pod.root / "mount" / "gemmaspec_engine" / "health.py"
    changed.write_text(changed.read_text() + "# changed\n")
    done = pod.run()
    assert done.returncode == 78
    assert "serving" not in done.stdout
    words = pod.last_words
    assert (words["reason"], words["boots"]) == ("FilesChanged", 0)
    digest = hashlib.sha256(changed.read_bytes()).hexdigest()
    pinned = json.loads((pod.root / "mount" / "pin.json").read_text())["files"]["gemmaspec_engine/health.py"]
    assert words["message"] == f"gemmaspec_engine/health.py has sha256 {digest}, pinned is {pinned}"
    assert not (pod.root / "state" / "boots.json").exists()


def test_a_changed_pin_starts_nothing(pod: Pod) -> None:
    pod.env["GEMMASPEC_PIN_SHA256"] = hashlib.sha256((pod.root / "mount" / "pin.json").read_bytes()).hexdigest()
    assert pod.run().returncode == 0
    pod.write_pin(maxRestarts=99)
    assert pod.run().returncode == 78
    assert pod.last_words["reason"] == "FilesChanged"
    assert "pin.json" in pod.last_words["message"]


def test_a_bad_pin_is_explained(pod: Pod) -> None:
    pod.write_pin(maxRestarts="3")
    assert pod.run().returncode == 78
    assert pod.last_words["reason"] == "PinInvalid"
    assert "maxRestarts" in pod.last_words["message"]


def test_at_the_cap_it_parks_and_says_so(pod: Pod) -> None:
    pod.write_engine("raise RuntimeError('broken drafter')")
    for boot in (1, 2):
        assert pod.run().returncode == 1
        assert pod.last_words["boots"] == boot
    parked = pod.start()
    status, answer = until(lambda: pod.get("/health"), "the port answers")
    assert status == 503
    assert answer["reason"] == "BootLimit"
    assert (answer["boots"], answer["maxBoots"]) == (2, 2)
    assert "RuntimeError: broken drafter" in answer["message"]
    assert until(lambda: pod.get("/livez"), "livez answers")[0] == 200
    parked.send_signal(signal.SIGTERM)
    assert parked.wait(DEADLINE) == 0
    assert pod.last_words["reason"] == "BootLimit"
    assert pod.boots["boots"] == 2


def test_a_deterministic_preflight_failure_parks(pod: Pod) -> None:
    result = {"ok": False, "deterministic": True, "reason": "VersionMismatch", "message": "m", "remedy": "r"}
    (pod.root / "state" / "preflight.json").write_text(json.dumps(result))
    parked = pod.start()
    status, answer = until(lambda: pod.get("/health"), "the port answers")
    assert (status, answer["reason"], answer["message"], answer["remedy"]) == (
        503,
        "VersionMismatch",
        "m",
        "r",
    )
    parked.terminate()
    assert parked.wait(DEADLINE) == 0
    assert not (pod.root / "state" / "boots.json").exists()


def test_kubelet_leaves_a_parked_launcher_alone(pod: Pod) -> None:
    """Startup and liveness probes ask at the engine's port, or at the agent's where the engine would have one."""
    result = {"ok": False, "deterministic": True, "reason": "VersionMismatch", "message": "m", "remedy": "r"}
    (pod.root / "state" / "preflight.json").write_text(json.dumps(result))
    pod.env["GEMMASPEC_AGENT"] = json.dumps({"port": (agent := free_port())})
    pod.start()
    assert until(lambda: pod.get("/health?or=parked"), "the port answers")[0] == 200
    assert (pod.get("/health") or (0,))[0] == 503, "a parked engine is not ready"
    with urllib.request.urlopen(f"http://127.0.0.1:{agent}/livez", timeout=5) as answer:
        assert answer.status == 200


def test_a_damaged_boot_record_parks(pod: Pod) -> None:
    (pod.root / "state" / "boots.json").write_text("{")
    pod.start()
    assert until(lambda: pod.get("/health"), "the port answers")[1]["reason"] == "BootLimit"


def test_without_a_boot_record_nothing_is_started(pod: Pod) -> None:
    pod.write_pin(stateDir=str(pod.root / "absent"))
    done = pod.run()
    assert (done.returncode, pod.last_words["reason"]) == (74, "StateUnwritable")
    assert "serving" not in done.stdout


def test_it_backs_off_between_failed_boots(pod: Pod) -> None:
    pod.write_pin(boot={"backoffSeconds": 30, "backoffMaxSeconds": 30})
    pod.write_engine("raise RuntimeError('x')")
    assert pod.run().returncode == 1
    waiting = pod.start()
    assert until(lambda: pod.get("/health"), "the port answers")[1]["reason"] == "BackOff"
    assert (pod.get("/health?or=parked") or (0,))[0] == 503, "kubelet would take the engine for started"
    waiting.terminate()
    assert waiting.wait(DEADLINE) == 0
    assert pod.last_words["reason"] == "Stopped"
    assert pod.boots["boots"] == 1


def test_it_waits_for_memory_and_gives_up(pod: Pod) -> None:
    pod.write_pin(memory={"device": "cpu", "neededBytes": 1 << 60, "waitSeconds": 3600})
    waiting = pod.start()
    status, answer = until(lambda: pod.get("/health"), "the port answers")
    assert (status, answer["reason"]) == (503, "WaitingForMemory")
    waiting.terminate()
    assert waiting.wait(DEADLINE) == 0

    pod.write_pin(memory={"device": "cuda", "utilization": 1.0, "reserveBytes": 1 << 30, "waitSeconds": 0.3})
    assert pod.run().returncode == 75
    assert pod.last_words["reason"] == "MemoryNotFree"
    assert "utilization 0." in pod.last_words["message"]
    assert not (pod.root / "state" / "boots.json").exists()


def test_a_stop_is_passed_on_and_the_drain_awaited(pod: Pod) -> None:
    pod.write_engine(
        "def drain(n, f):\n    os.write(1, b'draining\\n'); time.sleep(0.3); os.write(1, b'drained\\n'); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, drain)\nos.write(1, b'ready\\n')\ntime.sleep(60)\n"
    )
    process = pod.start()
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=DEADLINE)
    assert out == "draining\ndrained\n"
    assert process.returncode == 0
    assert pod.last_words["reason"] == "Stopped"
    assert (pod.boots["failures"], pod.boots["running"]) == (0, False)


def test_what_the_engine_leaves_behind_is_killed_and_orphans_are_reaped(pod: Pod) -> None:
    pod.write_engine(
        "orphan = 'import os, time; os.fork() and os._exit(0); print(os.getpid(), flush=True); time.sleep(0.1)'\n"
        "left = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], stdout=2)\n"
        "subprocess.run([sys.executable, '-c', orphan]); time.sleep(0.5)\n"
        "print(left.pid, flush=True); os._exit(1)\n"
    )
    started = time.monotonic()
    done = pod.run()
    orphan, left = (int(line) for line in done.stdout.split())
    assert done.returncode == 1
    assert not Path(f"/proc/{left}").exists()
    assert not Path(f"/proc/{orphan}").exists()
    assert time.monotonic() - started < DEADLINE


def test_lasting_health_forgets_earlier_boots(pod: Pod) -> None:
    pod.write_pin(boot={"backoffSeconds": 0, "healthySeconds": 0.4})
    pod.write_engine("raise RuntimeError('x')")
    pod.run()
    pod.write_engine(
        "from http.server import *\nclass H(BaseHTTPRequestHandler):\n    def do_GET(self):\n"
        "        self.send_response(200); self.end_headers()\n    def log_message(self, *a): pass\n"
        f"HTTPServer(('127.0.0.1', {pod.port}), H).serve_forever()\n"
    )
    pod.start()
    until(lambda: pod.boots["boots"] == 0 and pod.boots["running"], "the record is reset")
    assert pod.boots["failures"] == 0


def test_a_launcher_killed_without_notice_is_remembered(pod: Pod) -> None:
    pod.write_pin(boot={"backoffSeconds": 30})
    pod.write_engine("time.sleep(60)")
    process = pod.start()
    until(lambda: (pod.root / "state" / "boots.json").exists(), "the boot is counted")
    process.kill()
    process.wait(DEADLINE)
    pod.start()
    answer = until(lambda: pod.get("/health"), "the port answers")[1]
    assert answer["reason"] == "BackOff"
    assert "killed without notice" in answer["message"]


def test_much_output_is_copied_whole(pod: Pod) -> None:
    pod.write_engine(
        "for n in range(40000): print(n, 'x' * 60)\nprint('ValueError: at the end', file=sys.stderr)\nsys.exit(1)"
    )
    done = pod.run()
    assert done.stdout == "".join(f"{n} {'x' * 60}\n" for n in range(40000))
    assert pod.last_words["message"] == "ValueError: at the end"


def test_the_launcher_is_light() -> None:
    """Its own imports cost about 0.1 s of CPU beyond the interpreter's start."""
    code = "import time; t = time.process_time(); import gemmaspec_engine.launch; print(time.process_time() - t)"
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE.parent)}
    costs = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True, timeout=60
        )
        costs.append(float(done.stdout))
    assert min(costs) < 0.15  # 0.06 to 0.09 s on an idle core, sources compiled anew; slack for a busy machine


NAMESPACE = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child")


@pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run([*NAMESPACE, "true"], timeout=30, check=False).returncode != 0,
    reason="this machine allows no PID namespace of one's own (unshare)",
)
def test_as_process_1_it_reaps_kills_and_stops(pod: Pod) -> None:
    """In a PID namespace of its own, as in a container: orphans become its children, and all die with it."""
    own = Path("/proc/self/ns/pid").readlink()
    pod.write_engine(
        "print('first process:', os.getppid(), flush=True)\n"
        "subprocess.Popen([sys.executable, '-c', 'import os, time; os.setsid(); time.sleep(600)'])\n"
        "orphan = 'import os, time; os.fork() and os._exit(0); time.sleep(0.1)'\n"
        "subprocess.run([sys.executable, '-c', orphan]); time.sleep(0.5)\n"
        "zombies = [p for p in os.listdir('/proc') if p.isdigit() and ' Z ' in open(f'/proc/{p}/stat').read()]\n"
        "print('zombies:', zombies, flush=True)\n"
        "signal.signal(signal.SIGTERM, lambda n, f: sys.exit(0))\n"
        # Only the launcher of this namespace may be signalled, never the machine's own first process.
        f"if os.readlink('/proc/self/ns/pid') == {str(own)!r}: sys.exit('same namespace')\n"
        "os.kill(os.getppid(), signal.SIGTERM)\ntime.sleep(60)\n"
    )
    pod.prefix = NAMESPACE
    done = pod.run()
    assert done.stdout.splitlines() == ["first process: 1", "zombies: []"], done.stderr
    assert done.returncode == 0
    assert pod.last_words["reason"] == "Stopped"
