"""Makes the pair: ``python -m tinypair.make`` (ten minutes on one core when nothing is cached).

Each stage is cached under the hash of the sources and parameters that made it, so a changed dial trains one
assistant and nothing else. The finished pair lands in ``tinypair/pair`` with a manifest of its files' hashes.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tinypair import manifest

if TYPE_CHECKING:
    from transformers import Gemma4ForCausalLM, PreTrainedTokenizerFast

_HERE: Final = Path(__file__).parent
_TARGET_SOURCES: Final = ("languages.py", "vocabulary.py", "shapes.py", "training.py")
_ASSISTANT_SOURCES: Final = (*_TARGET_SOURCES, "drafting.py")
# What each assistant accepts of prose at position 0. The first leaves a drafter that is alive but never pays
# on prose; the second is about what published assistants show on text unlike their training.
DIALS: Final[dict[str, dict[str, Any]]] = {
    "assistant": {"prose": 0.11, "prose_from": 200, "prose_weight": 0.02},
    "assistant-mixed": {"prose": 0.60, "prose_from": 0, "prose_weight": 1.0},
}
_VOCABULARY_SEED: Final = 5
_TEXT_SEED: Final = 17

_started = time.monotonic()


def _say(line: str) -> None:
    print(f"{time.monotonic() - _started:7.1f}s {line}", flush=True)


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("GEMMASPEC_CACHE") or Path(base) / "gemmaspec") / "tinypair"


def _meaning(source: Path) -> str:
    """The program without layout, comments and docstrings: rewording retrains nothing."""
    tree = ast.parse(source.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


def _key(sources: tuple[str, ...], *parameters: object) -> str:
    digest = hashlib.sha256()
    for name in sources:
        digest.update(_meaning(_HERE / name).encode())
    digest.update(json.dumps(parameters, default=str, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def _once(folder: Path, build: Callable[[Path], None]) -> Path:
    """``folder``, built into a temporary neighbour first so that a half-made one never has its name."""
    if folder.exists():
        _say(f"cached: {folder.name}")
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        build(made)
        for file in made.iterdir():
            file.chmod(0o644)  # save_pretrained writes weights that only their owner can read
        made.rename(folder)
    return folder


def _load_target(folder: Path) -> tuple[Gemma4ForCausalLM, PreTrainedTokenizerFast]:
    from transformers import Gemma4ForCausalLM, PreTrainedTokenizerFast

    model = Gemma4ForCausalLM.from_pretrained(folder, dtype="float32")
    model.eval()
    model.requires_grad_(False)
    return model, PreTrainedTokenizerFast.from_pretrained(folder)


def _make_target(folder: Path) -> None:
    from tinypair import shapes, training, vocabulary

    tokenizer = vocabulary.learn(shapes.VOCABULARY, _VOCABULARY_SEED)
    model = training.train_target(tokenizer, training.TargetPlan(), _say)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _make_assistants(target_folder: Path, key: str, root: Path) -> dict[str, Path]:
    from tinypair import drafting

    loaded = None
    folders = {}
    for name, dial in DIALS.items():
        plan = drafting.AssistantPlan(**dial)

        def build(folder: Path, plan: drafting.AssistantPlan = plan) -> None:
            nonlocal loaded
            if loaded is None:
                target, tokenizer = _load_target(target_folder)
                _say("the target writes its own texts")
                loaded = target, tokenizer, drafting.Texts.write(target, tokenizer, _TEXT_SEED)
            target, tokenizer, texts = loaded
            drafting.train_assistant(target, texts, tokenizer, plan, _say).save_pretrained(folder)
            tokenizer.save_pretrained(folder)

        stage = _key(_ASSISTANT_SOURCES, key, dataclasses.asdict(plan), _TEXT_SEED)
        folders[name] = _once(root / f"{name}-{stage}", build)
    return folders


def make(out: Path) -> None:
    """Trains what is not cached and writes the pair and its manifest into ``out``."""
    import torch

    torch.set_num_threads(1)  # one thread: the sums' order, and so the weights, do not hang on the machine
    torch.use_deterministic_algorithms(True)
    root = _cache()
    key = _key(_TARGET_SOURCES, _VOCABULARY_SEED)
    target = _once(root / f"target-{key}", _make_target)
    folders = {"target": target, **_make_assistants(target, key, root)}
    for name, folder in folders.items():
        shutil.rmtree(out / name, ignore_errors=True)
        shutil.copytree(folder, out / name)
    manifest.write(out)
    _say(f"{out}: {manifest.size(out) / 1e6:.2f} MB")


def main() -> None:
    """Makes the pair in a Python that has torch: this one, or else the engine's."""
    parser = argparse.ArgumentParser(description="Train the tiny pair")
    parser.add_argument("--out", type=Path, default=manifest.FOLDER)
    arguments = parser.parse_args()
    if find_spec("torch") is None:  # the development environment has no torch; the engine's has
        from testbed import engine

        python = engine.ensure_engine() / "bin" / "python3"
        environment = dict(os.environ, PYTHONPATH=str(_HERE.parent))
        os.execve(python, [str(python), "-m", "tinypair.make", *sys.argv[1:]], environment)
    make(arguments.out)


if __name__ == "__main__":
    main()
