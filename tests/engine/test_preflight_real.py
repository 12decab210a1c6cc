"""Preflight and launcher against real vLLM and transformers (the CPU environment that the testbed builds)."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import gemmaspec_engine
from testbed.engine import MODEL_INFO, ensure_engine
from tests.engine.gemma4 import Config
from tinypair.manifest import FOLDER as PAIR

pytestmark = pytest.mark.engine
SOURCE = Path(gemmaspec_engine.__file__).resolve().parent
MODULE = "vllm.model_executor.models.gemma4_mtp"
PROBE_SECONDS = 180
"""Issue B allows 60 s on an idle node; a test machine runs several engines at once."""


def text_config(layers: int, vocabulary: int, shared: int = 0) -> Config:
    kinds = ["full_attention" if (layers - at) % 2 else "sliding_attention" for at in range(layers)]
    return {
        "model_type": "gemma4_text",
        "vocab_size": vocabulary,
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_kv_shared_layers": shared,
        "head_dim": 32,
        "global_head_dim": 32,
        "max_position_embeddings": 2048,
        "sliding_window": 128,
        "hidden_size_per_layer_input": 0,
        "vocab_size_per_layer_input": 0,
        "layer_types": kinds,
        "dtype": "float32",
    }


def target() -> Config:
    return {"architectures": ["Gemma4ForCausalLM"]} | text_config(4, 512)


def drafter(vocabulary: int = 512, kind: str = "gemma4_assistant") -> Config:
    return {
        "architectures": ["Gemma4AssistantForCausalLM"],
        "model_type": kind,
        "dtype": "float32",
        "backbone_hidden_size": 64,
        "use_ordered_embeddings": False,
        "tie_word_embeddings": True,
        "text_config": text_config(1, vocabulary, shared=1),
    }


@pytest.fixture(scope="session")
def environment() -> Path:
    return ensure_engine()


@dataclass
class Pod:
    """A pod whose image is the real engine environment."""

    root: Path
    environment: Path
    caches: Path

    def pin(self, **changes: Any) -> None:
        (self.root / "state").mkdir(exist_ok=True)
        digest = hashlib.sha256((SOURCE / "pin.py").read_bytes()).hexdigest()
        fields: dict[str, Any] = {
            "files": {"gemmaspec_engine/pin.py": digest},
            "stateDir": str(self.root / "state"),
            "memory": {"device": "cpu"},
            "preflight": {"memorySeconds": 0},
        }
        (self.root / "pin.json").write_text(json.dumps(fields | changes))

    def model(self, name: str, config: Config) -> str:
        folder = self.root / name
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config))
        return str(folder)

    def arguments(self, *more: str, draft: Config | None = None) -> list[str]:
        speculative = {"method": "mtp", "model": self.model("drafter", draft or drafter()), "num_speculative_tokens": 4}
        base = ["--model", self.model("target", target()), "--dtype", "float32", "--max-model-len", "512"]
        return [*base, "--max-num-seqs", "4", "--speculative-config", json.dumps(speculative), *more]

    def start(self, module: str, arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
        env = os.environ | {
            "PYTHONPATH": str(self.root),
            "PYTHONDONTWRITEBYTECODE": "1",
            "GEMMASPEC_TERMINATION_LOG": str(self.root / "termination-log"),
            "GEMMASPEC_PIN": str(self.root / "pin.json"),
            "VLLM_CACHE_ROOT": str(self.caches),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        }
        command = [str(self.environment / "bin" / "python"), "-m", f"gemmaspec_engine.{module}", "--", *arguments]
        with log.open("wb") as out:
            return subprocess.Popen(command, env=env, cwd=self.root, stdout=out, stderr=subprocess.STDOUT)

    def run(self, module: str, arguments: list[str]) -> tuple[int, dict[str, Any]]:
        """Exit code and last words."""
        log = self.root / f"{module}.log"
        process = self.start(module, arguments, log)
        try:
            code = process.wait(PROBE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"{module} did not end: {log.read_text()[-2000:]}") from None
        content = (self.root / "termination-log").read_bytes()
        assert len(content) <= 1024
        return code, json.loads(content)


@pytest.fixture
def pod(tmp_path: Path, environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Pod:
    (tmp_path / "gemmaspec_engine").symlink_to(SOURCE)
    caches = tmp_path_factory.getbasetemp() / "vllm-caches"
    if not caches.exists():
        shutil.copytree(environment / MODEL_INFO, caches)
    pod = Pod(tmp_path, environment, caches)
    pod.pin()
    return pod


KV = ("--kv-cache-memory-bytes", "100000000")


@pytest.mark.parametrize(
    ("pinned", "more", "draft", "reason"),
    [
        ({}, (*KV, "--no-such-flag", "1"), None, "BadArgument"),
        ({}, KV, drafter(vocabulary=256), "DrafterVocabMismatch"),
        ({}, (*KV, "--max-model-len", "99999"), None, "BadConfiguration"),
        (
            {"memory": {"device": "cpu", "utilization": 0.99}},
            ("--gpu-memory-utilization", "0.99"),
            None,
            "UtilizationDoesNotFit",
        ),
        ({}, KV, None, None),
    ],
)
def test_what_is_wrong_is_found_before_weights_load(
    pod: Pod, pinned: dict[str, Any], more: tuple[str, ...], draft: Config | None, reason: str | None
) -> None:
    pod.pin(**pinned)
    code, words = pod.run("preflight", pod.arguments(*more, draft=draft))
    assert words["reason"] == (reason or "Proved"), words
    assert words["ok"] is (reason is None)
    assert code in (0, 75)
    assert not list(pod.root.glob("*/*.safetensors"))


def patch_of(pod: Pod) -> dict[str, Any]:
    """The image's own drafter module with one more line."""
    bundled = next((pod.environment / "lib").glob(f"python3*/site-packages/{MODULE.replace('.', '/')}.py"))
    source = pod.root / "patch.py"
    source.write_text(bundled.read_text() + "\nimport sys\nsys.stderr.write('the patch was here\\n')\n")
    return {"module": MODULE, "sha256": hashlib.sha256(source.read_bytes()).hexdigest(), "path": str(source)}


def test_a_patch_and_another_transformers_are_what_the_engine_imports(pod: Pod) -> None:
    """Also downloads transformers from the package index; the engine then fails for lack of weights, as itself."""
    overlay = {"mode": "Install", "version": "5.17.0", "overlayDir": str(pod.root / "overlay")}
    pod.pin(vllm="0.32.0", transformers=overlay, patches=[patch_of(pod)], patchDir=str(pod.root / "patches"))
    code, words = pod.run("preflight", pod.arguments(*KV))
    assert (code, words["reason"], words["transformers"]) == (0, "Proved", "5.17.0")
    code, words = pod.run("launch", pod.arguments(*KV, "--port", str(_free_port())))
    assert code == 1
    assert (words["stage"], words["boots"]) == ("launch", 1)
    assert words["reason"] == "ModelNotFound", words


def test_a_real_engine_is_supervised_to_its_end(pod: Pod) -> None:
    pod.pin(patches=[patch_of(pod)], patchDir=str(pod.root / "patches"), boot={"healthySeconds": 2})
    port = _free_port()
    speculative = {"method": "mtp", "model": str(PAIR / "assistant"), "num_speculative_tokens": 2}
    arguments = ["--model", str(PAIR / "target"), "--dtype", "float32", "--max-model-len", "512", *KV]
    arguments += ["--max-num-seqs", "2", "--port", str(port), "--speculative-config", json.dumps(speculative)]
    code, words = pod.run("preflight", arguments)
    assert (code, words["ok"]) == (0, True), words
    log = pod.root / "launch.log"
    process = pod.start("launch", arguments, log)
    try:
        _await(f"http://127.0.0.1:{port}/health", process, log)
        assert "the patch was here" in log.read_text()
        _await_proof(pod.root / "state" / "boots.json", process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
    assert json.loads((pod.root / "termination-log").read_text())["reason"] == "Stopped"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
        return found


def _await(url: str, process: subprocess.Popen[bytes], log: Path, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"no health: {log.read_text()[-3000:]}")


def _await_proof(record: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if json.loads(record.read_text())["boots"] == 0:
            return
        time.sleep(0.2)
    raise AssertionError("the boot was not proved")
