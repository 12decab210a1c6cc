"""Preflight as a process, in a pretended image: exit codes, the result's file, the termination message."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import gemmaspec_engine
from gemmaspec_engine.preflight import summary
from tests.engine import fake_image
from tests.engine.gemma4 import assistant, target_31b

pytestmark = pytest.mark.slow

SOURCE = Path(gemmaspec_engine.__file__).resolve().parent


@dataclass
class Pod:
    """What a pod gives preflight."""

    root: Path

    def pin(self, **changes: Any) -> None:
        digest = hashlib.sha256((SOURCE / "pin.py").read_bytes()).hexdigest()
        fields: dict[str, Any] = {
            "files": {"gemmaspec_engine/pin.py": digest},
            "stateDir": str(self.root / "state"),
            "memory": {"device": "cpu"},
            "preflight": {"memorySeconds": 0},
        }
        (self.root / "pin.json").write_text(json.dumps(fields | changes))

    def model(self, name: str, config: dict[str, Any], size: int = 1000) -> str:
        folder = self.root / name
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config))
        header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
        return str(folder)

    def run(
        self, *arguments: str, options: tuple[str, ...] = (), module: str = "preflight"
    ) -> subprocess.CompletedProcess[str]:
        env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{self.root}:{self.root / 'image'}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "GEMMASPEC_TERMINATION_LOG": str(self.root / "termination-log"),
        }
        command = [sys.executable, "-m", f"gemmaspec_engine.{module}", *options, "--", *arguments]
        return subprocess.run(command, env=env, cwd=self.root, capture_output=True, text=True, timeout=60, check=False)

    def serve(self, *more: str, drafter: dict[str, Any] | None = None) -> tuple[str, ...]:
        """vLLM arguments for a pair that fits, unless another drafter is given."""
        target = self.model("target", target_31b())
        assistant_path = self.model("assistant", drafter or assistant(target_31b()))
        speculative = {"method": "mtp", "model": assistant_path, "num_speculative_tokens": 4}
        return ("--model", target, "--speculative-config", json.dumps(speculative), *more)

    @property
    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.root / "state" / "preflight.json").read_text())
        return found

    @property
    def last_words(self) -> dict[str, Any]:
        content = (self.root / "termination-log").read_bytes()
        assert len(content) <= 1024
        words: dict[str, Any] = json.loads(content)
        return words


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    fake_image.write(tmp_path / "image")
    (tmp_path / "state").mkdir()
    (tmp_path / "gemmaspec_engine").symlink_to(SOURCE)
    pod = Pod(tmp_path)
    pod.pin()
    return pod


def test_a_good_pin_is_proved(pod: Pod) -> None:
    pod.pin(vllm="0.32.0", transformers={"version": "5.19.0"})
    done = pod.run(*pod.serve("--scheduler-cls", "plugin.Good"))
    assert done.returncode == 0, done.stderr
    words = pod.last_words
    assert (words["stage"], words["ok"], words["reason"]) == ("preflight", True, "Proved")
    assert (words["vllm"], words["transformers"], words["dynamicK"]) == ("0.32.0", "5.19.0", True)
    assert pod.result["resolved"]["maxModelLen"] == 256
    assert "serving" not in done.stdout


def test_a_failure_for_good_parks_the_launcher(pod: Pod) -> None:
    pod.pin(vllm="0.21.0")
    assert pod.run(*pod.serve()).returncode == 0
    assert pod.last_words["reason"] == "VllmVersionMismatch"
    assert (pod.result["ok"], pod.result["deterministic"]) == (False, True)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--no-such-flag",), "BadArgument"),
        (("--scheduler-cls", "no.such.Class"), "SchedulerClassMissing"),
        (("--scheduler-cls", "plugin.Nobody"), "SchedulerClassMissing"),
        (("--scheduler-cls", "plugin.Stranger"), "SchedulerClassUnfit"),
        (("--scheduler-cls", "plugin.Narrow"), "SchedulerClassUnfit"),
        (("--scheduler-cls", "plugin.Greedy"), "SchedulerClassUnfit"),
    ],
)
def test_arguments_and_scheduler(pod: Pod, arguments: tuple[str, ...], reason: str) -> None:
    assert pod.run(*pod.serve(*arguments)).returncode == 0
    assert pod.last_words["reason"] == reason


def test_a_drafter_of_another_target(pod: Pod) -> None:
    drafter = assistant(target_31b())
    drafter["text_config"]["vocab_size"] = 256
    assert pod.run(*pod.serve(drafter=drafter)).returncode == 0
    assert pod.last_words["reason"] == "DrafterVocabMismatch"
    assert pod.result["resolved"] is None  # vLLM's own slow step was not taken


def test_stage_a_needs_no_model(pod: Pod) -> None:
    done = pod.run("--model", "/no/such/model", options=("--stage", "a"))
    assert (done.returncode, pod.last_words["ok"]) == (0, True)
    assert pod.run("--model", "/no/such/model", options=("--stage", "b")).returncode == 0
    assert pod.last_words["reason"] == "ModelNotFound"


def test_stage_b_keeps_what_stage_a_found(pod: Pod) -> None:
    pod.pin(vllm="0.21.0")
    pod.run(*pod.serve(), options=("--stage", "a"))
    found = pod.result
    assert pod.run(*pod.serve(), options=("--stage", "b")).returncode == 0
    assert pod.result == found
    assert pod.last_words["reason"] == "VllmVersionMismatch"


def test_what_may_pass_is_tried_again(pod: Pod) -> None:
    url = "http://127.0.0.1:9/p.py"
    patch = {"module": "vllm.models", "sha256": "1" * 64, "url": url}
    pod.pin(patches=[patch], patchDir=str(pod.root / "patches"), preflight={"fetchSeconds": 2})
    assert pod.run(*pod.serve()).returncode == 75
    assert pod.last_words["reason"] == "PatchSourceMissing"
    assert pod.result["deterministic"] is False


def test_memory_is_looked_at_before_vllm_is_asked(pod: Pod) -> None:
    pod.pin(memory={"device": "cuda", "utilization": 1.0, "reserveBytes": 1 << 30})
    assert pod.run(*pod.serve()).returncode == 0
    assert pod.last_words["reason"] == "UtilizationDoesNotFit"
    assert not (pod.root / "state" / "probe.json").exists()


def test_auto_hands_the_utilization_to_the_launcher(pod: Pod) -> None:
    pod.pin(memory={"device": "cuda", "mode": "Auto", "overheadBytes": 1 << 20})
    assert pod.run(*pod.serve()).returncode == 0
    utilization = pod.result["utilization"]
    assert 0 < utilization < 0.9
    assert "weights 0.0 GiB + drafter 0.0 GiB + KV cache" in pod.result["memory"]
    assert pod.last_words["memory"] == pod.result["memory"]
    done = pod.run(*pod.serve(), module="launch")
    assert "serving" in done.stdout, done.stderr
    assert f"utilization {utilization:g} ×" in done.stderr
    (pod.root / "state" / "preflight.json").unlink()
    assert pod.run(*pod.serve(), module="launch").returncode == 78
    assert pod.last_words["reason"] == "PreflightMissing"


def test_a_kv_cache_larger_than_the_machine_is_refused(pod: Pod) -> None:
    arg_utils = pod.root / "image" / "vllm" / "engine" / "arg_utils.py"
    arg_utils.write_text(arg_utils.read_text().replace("1 << 20", "1 << 50"))
    assert pod.run(*pod.serve()).returncode == 0
    assert pod.last_words["reason"] == "KVCacheDoesNotFit"
    assert "1048576.0 GiB (kvCacheBytes)" in pod.last_words["message"]
    assert (pod.result["ok"], pod.result["deterministic"]) == (False, True)


def test_the_launcher_rehashes_the_patches(pod: Pod) -> None:
    source = pod.root / "patch.py"
    source.write_text("_CONFIG_REGISTRY = {}\n")
    module, digest = "vllm.transformers_utils.config", hashlib.sha256(source.read_bytes()).hexdigest()
    pod.pin(patches=[{"module": module, "sha256": digest, "path": str(source)}], patchDir=str(pod.root / "patches"))
    assert pod.run(*pod.serve()).returncode == 0, pod.last_words
    assert pod.last_words["patches"] == {module: digest[:12]}
    assert "serving" in pod.run(*pod.serve(), module="launch").stdout
    copy = pod.root / "patches" / f"{module}.py"
    copy.chmod(0o644)
    copy.write_text("changed")
    assert pod.run(*pod.serve(), module="launch").returncode == 78
    assert pod.last_words["reason"] == "FilesChanged"
    assert module in pod.last_words["message"]


def test_a_patch_that_does_not_import(pod: Pod) -> None:
    source = pod.root / "patch.py"
    source.write_text("import no_such_module\n")
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    patch = {"module": "vllm.models", "sha256": digest, "path": str(source)}
    pod.pin(patches=[patch], patchDir=str(pod.root / "patches"))
    assert pod.run(*pod.serve()).returncode == 0
    assert pod.last_words["reason"] == "PatchImportFailed"
    assert "no_such_module" in pod.last_words["message"]


def test_an_image_without_vllm(pod: Pod) -> None:
    (pod.root / "image" / "vllm" / "__init__.py").write_text("import no_such_library\n")
    assert pod.run(*pod.serve()).returncode == 0
    assert pod.last_words["reason"] == "ImportFailed"


def test_a_probe_that_dies_is_tried_again(pod: Pod) -> None:
    (pod.root / "image" / "vllm" / "__init__.py").write_text("import os; os.kill(os.getpid(), 11)\n")
    assert pod.run(*pod.serve()).returncode == 75
    assert pod.last_words["reason"] == "EngineKilled"


def test_a_probe_that_hangs_is_cut(pod: Pod) -> None:
    (pod.root / "image" / "vllm" / "__init__.py").write_text("import time; time.sleep(600)\n")
    pod.pin(preflight={"probeSeconds": 0.5})
    assert pod.run(*pod.serve()).returncode == 75
    assert pod.last_words["reason"] == "ProbeTimeout"


def test_a_pin_that_cannot_be_read(pod: Pod) -> None:
    (pod.root / "pin.json").write_text("{")
    assert pod.run(*pod.serve()).returncode == 78
    assert pod.last_words["reason"] == "PinInvalid"


def test_many_long_patches_fit_the_message(pod: Pod) -> None:
    names = [f"vllm.{'x' * 60}.module{at}" for at in range(12)]
    patches = [{"module": name, "sha256": "1" * 64, "path": "/no/such"} for name in names]
    pod.pin(patches=patches, patchDir=str(pod.root / "patches"))
    assert pod.run(*pod.serve()).returncode == 0
    assert pod.last_words["reason"] == "PatchSourceMissing"


def test_the_sum_is_whole_beside_many_patches() -> None:
    """The longest words of a proof: ten patches, every warning, an Auto sum of six digits."""
    shape = "1100.5 GiB = weights 262.0 GiB + drafter 10.9 GiB + KV cache 826.0 GiB (256 × 262144 tokens of 800.0 KiB)"
    total = f"{shape} + overhead 8.0 GiB; of 1121.7 GiB that is utilization 0.98; "
    told = total + "1103.4 GiB needed (utilization 0.98 × 1121.7 GiB = 1099.3 GiB, reserve 16.0 GiB), 1110.0 GiB free"
    patched = {f"vllm.{'x' * 60}.module{at}": "1" * 64 for at in range(10)}
    result: dict[str, Any] = {"stage": "preflight", "ok": True, "reason": "Proved", "remedy": "", "memory": told}
    result |= {"message": "vLLM 0.32.0, transformers 5.19.0, 10 patch(es)", "deterministic": False}
    result |= {"vllm": "0.32.0", "transformers": "5.19.0", "utilization": 0.98, "patches": patched, "dynamicK": True}
    result |= {"warnings": ["DrafterQuantizationRequested", "DenseMtpSlow", "Fp8ScalesIgnored"], "seconds": 44.1}
    content = summary(result)
    assert len(content) <= 1024
    assert json.loads(content)["memory"] == told
