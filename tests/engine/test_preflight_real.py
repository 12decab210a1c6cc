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
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import gemmaspec_engine
from gemmaspec.api import flags
from gemmaspec.core.arguments import engine_arguments
from gemmaspec.core.resolve import resolve
from gemmaspec.recipes import load
from gemmaspec_engine import patches
from gemmaspec_engine.finding import Finding
from gemmaspec_engine.memory import GIB, Figures
from gemmaspec_engine.pin import parse
from gemmaspec_engine.verdict import judge, judge_kv_cache, judge_memory
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

    def arguments(self, *more: str, draft: Config | None = None, name: str = "good") -> list[str]:
        own = self.model(f"drafter-{name}", draft or drafter())
        speculative = {"method": "mtp", "model": own, "num_speculative_tokens": 4}
        base = ["--model", self.model("target", target()), "--dtype", "float32", "--max-model-len", "512"]
        return [*base, "--max-num-seqs", "4", "--speculative-config", json.dumps(speculative), *more]

    def env(self) -> dict[str, str]:
        return os.environ | {
            "PYTHONPATH": str(self.root),
            "PYTHONDONTWRITEBYTECODE": "1",
            "GEMMASPEC_TERMINATION_LOG": str(self.root / "termination-log"),
            "GEMMASPEC_PIN": str(self.root / "pin.json"),
            "VLLM_CACHE_ROOT": str(self.caches),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        }

    def start(self, module: str, arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
        command = [str(self.environment / "bin" / "python"), "-m", f"gemmaspec_engine.{module}", "--", *arguments]
        with log.open("wb") as out:
            return subprocess.Popen(command, env=self.env(), cwd=self.root, stdout=out, stderr=subprocess.STDOUT)


@pytest.fixture
def pod(tmp_path: Path, environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Pod:
    return made(tmp_path, environment, tmp_path_factory)


def made(root: Path, environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Pod:
    (root / "gemmaspec_engine").symlink_to(SOURCE)
    caches = tmp_path_factory.getbasetemp() / "vllm-caches"
    if not caches.exists():
        shutil.copytree(environment / MODEL_INFO, caches)
    pod = Pod(root, environment, caches)
    pod.pin()
    return pod


KV = ("--kv-cache-memory-bytes", "100000000")
DIGEST = "registry.example/vllm@sha256:" + "a" * 64
PATCH = {"module": MODULE, "sha256": "b" * 64, "source": {"url": "https://files.example/gemma4_mtp.py"}}
ROOMY = Figures(100 * GIB, 90 * GIB, 90 * GIB)
CASES: dict[str, tuple[tuple[str, ...], Config | None, str | None]] = {
    "good": (KV, None, None),
    "flag": ((*KV, "--no-such-flag", "1"), None, "BadArgument"),
    "vocabulary": (KV, drafter(vocabulary=256), "DrafterVocabMismatch"),
    "kind": (KV, drafter(kind="gemma9_assistant"), "ModelTypeUnknown"),
    "length": ((*KV, "--max-model-len", "99999"), None, "BadConfiguration"),
    "scheduler": ((*KV, "--scheduler-cls", "no.such.Class"), None, "SchedulerClassMissing"),
    "utilization": (("--gpu-memory-utilization", "0.99"), None, "UtilizationDoesNotFit"),
    "cache": (("--kv-cache-memory-bytes", str(4000 * GIB)), None, "KVCacheDoesNotFit"),
}


def of_recipe(name: str) -> list[str]:
    """The command line of a recipe, with what only the user can add."""
    resolved = resolve({"recipe": name, "engine": {"image": DIGEST, "patches": [PATCH]}}, load())
    return engine_arguments(resolved, resolved.k)


@dataclass(frozen=True)
class Answers:
    """What real vLLM said, asked in one process: importing it takes longer than all the questions."""

    pod: Pod
    facts: dict[str, Any]

    def findings(self, name: str, **pinned: Any) -> list[Finding]:
        """Preflight's verdict over one case, under a pin."""
        pin = parse(json.dumps({"files": {"a": "0" * 64}, "stateDir": "/x", "memory": {"device": "cpu"}} | pinned))
        found = judge(pin, self.facts[name], {})
        if any(finding.fatal for finding in found):
            return found
        return [*judge_memory(pin, self.facts[name], ROOMY).findings, *judge_kv_cache(pin, self.facts[name], ROOMY)]


@pytest.fixture(scope="module")
def answers(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    pod = made(tmp_path_factory.mktemp("asked"), environment, tmp_path_factory)
    asked = {name: ("ab", pod.arguments(*more, draft=draft, name=name)) for name, (more, draft, _) in CASES.items()}
    asked |= {recipe: ("a", of_recipe(recipe)) for recipe in load()}
    questions, found, log = pod.root / "questions.json", pod.root / "answers.json", pod.root / "asked.log"
    questions.write_text(json.dumps(asked))
    script = Path(__file__).with_name("ask_vllm.py")
    command = [str(environment / "bin" / "python"), str(script), str(questions), str(found)]
    with log.open("wb") as out:
        done = subprocess.run(
            command, env=pod.env(), stdout=out, stderr=subprocess.STDOUT, timeout=PROBE_SECONDS, check=False
        )
    assert done.returncode == 0, log.read_text()[-3000:]
    return Answers(pod, json.loads(found.read_text()))


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_found_before_weights_load(answers: Answers, name: str) -> None:
    expected = CASES[name][2]
    found = answers.findings(name)
    assert [finding.reason for finding in found if finding.fatal] == ([expected] if expected else [])
    assert all(finding.message and finding.remedy for finding in found)
    assert not list(answers.pod.root.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("pinned", "reason"),
    [
        ({"vllm": "0.31.0"}, "VllmVersionMismatch"),
        ({"transformers": {"version": "5.0.0"}}, "TransformersVersionMismatch"),
        ({"vllm": "0.32.0", "transformers": {"version": ">=5.8"}}, None),
    ],
)
def test_versions_are_those_that_import_finds(answers: Answers, pinned: dict[str, Any], reason: str | None) -> None:
    assert [finding.reason for finding in answers.findings("good", **pinned)] == ([reason] if reason else [])


@pytest.mark.parametrize("recipe", sorted(load()))
def test_vllm_parses_every_recipes_command_line(answers: Answers, recipe: str) -> None:
    """As 0.32 does, which the modern twins are for; the sources' own versions are not at hand."""
    said, given = answers.facts[recipe]["arguments"], of_recipe(recipe)
    assert "error" not in said
    assert said["model"] == given[given.index("--model") + 1]
    speculative = dict(pairwise(given)).get("--speculative-config")
    assert said["speculative_config"] == (json.loads(speculative) if speculative else None)


def test_flags_take_a_value_or_none_as_the_schema_says(answers: Answers) -> None:
    said = {kind: set(names) for kind, names in answers.facts["flags"].items()}
    assert said["switches"] >= flags.SWITCHES
    # The two of partial prefills went with 0.32's predecessors; preflight tells those who still ask for them.
    gone = {"--max-num-partial-prefills", "--max-long-partial-prefills"}
    assert flags.VALUED - said["valued"] == gone
    assert not gone & said["switches"]


def patch_of(pod: Pod) -> dict[str, Any]:
    """The image's own drafter module with one more line."""
    bundled = next((pod.environment / "lib").glob(f"python3*/site-packages/{MODULE.replace('.', '/')}.py"))
    source = pod.root / "patch.py"
    source.write_text(bundled.read_text() + "\nimport sys\nsys.stderr.write('the patch was here\\n')\n")
    return {"module": MODULE, "sha256": hashlib.sha256(source.read_bytes()).hexdigest(), "path": str(source)}


@pytest.mark.campaign  # the stories on the real cluster do as much, in pods
def test_a_real_engine_is_supervised_to_its_end(pod: Pod) -> None:
    pod.pin(patches=[patch_of(pod)], patchDir=str(pod.root / "patches"), boot={"healthySeconds": 2})
    port = _free_port()
    speculative = {"method": "mtp", "model": str(PAIR / "assistant"), "num_speculative_tokens": 2}
    arguments = ["--model", str(PAIR / "target"), "--dtype", "float32", "--max-model-len", "512", *KV]
    arguments += ["--enforce-eager", "--distributed-executor-backend=uni"]  # nothing compiled, and no worker processes
    arguments += ["--max-num-seqs", "2", "--port", str(port), "--speculative-config", json.dumps(speculative)]
    assert patches.bring(parse((pod.root / "pin.json").read_text())) == []  # all that preflight leaves for the launcher
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
