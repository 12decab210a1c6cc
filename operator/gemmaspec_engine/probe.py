"""Asks the image's own vLLM and transformers, in a process of its own that has the engine's environment.

``python3 -m gemmaspec_engine.probe OUT STAGES [--weights] -- <vLLM arguments>`` writes facts as JSON to OUT; what they
mean is ``verdict``'s business.  Each question that fails leaves ``{"error": ...}`` and does not stop the others.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import inspect
import io
import json
import os
import runpy
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from gemmaspec_engine import mount, pinned_import, rootcause, verdict
from gemmaspec_engine.budget import tensor_bytes

__all__ = ["main"]

Facts = dict[str, Any]

_VALUES = (
    "model",
    "revision",
    "quantization",
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
    "kv_cache_dtype",
    "gpu_memory_utilization",
    "kv_cache_memory_bytes",
    "trust_remote_code",
    "data_parallel_size",
    "tensor_parallel_size",
    "enforce_eager",
    "scheduler_cls",
    "moe_backend",
    "dtype",
    "speculative_config",
)


class _Parsed(BaseException):
    """vLLM's own main would now start the server: the arguments are good."""


def versions() -> Facts:
    """What ``import`` really finds."""
    vllm, transformers = importlib.import_module("vllm"), importlib.import_module("transformers")
    origin = metadata.distribution("transformers").read_text("direct_url.json")
    return {
        "vllm": vllm.__version__,
        "transformers": transformers.__version__,
        "transformersFile": transformers.__file__,
        "transformersOrigin": json.loads(origin) if origin else None,
    }


def patches() -> Facts:
    """For each pinned module, the hash of the bytes that were executed on import."""
    found = {}
    for name in json.loads(os.environ.get(pinned_import.ENV) or "{}"):
        try:
            found[name] = getattr(importlib.import_module(name), "__gemmaspec_sha256__", None)
        except Exception as error:  # noqa: BLE001  a patch may fail in any way
            found[name] = {"error": _line(error)}
    return found


def model_types() -> list[str]:
    """Model types that this transformers or this vLLM can configure."""
    auto = importlib.import_module("transformers.models.auto.configuration_auto")
    config = importlib.import_module("vllm.transformers_utils.config")
    return sorted({*auto.CONFIG_MAPPING_NAMES, *getattr(config, "_CONFIG_REGISTRY", {})})


def parsed(arguments: list[str]) -> argparse.Namespace:
    """The arguments as vLLM's own server parses and validates them.

    Runs the very module that the launcher starts, up to the moment when it would start its event loop: the parser
    lives in other packages in 0.21-0.28 than in 0.32, that moment is the same.
    """
    uvloop: Any = importlib.import_module("uvloop")
    found: list[argparse.Namespace] = []

    def caught(coroutine: Any, *_args: Any, **_options: Any) -> None:
        found.append(coroutine.cr_frame.f_locals["args"])
        coroutine.close()
        raise _Parsed

    original, uvloop.run, sys.argv = uvloop.run, caught, ["api_server.py", *arguments]
    try:
        runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")
    except _Parsed:
        return found[0]
    finally:
        uvloop.run = original
    raise RuntimeError("vLLM's server ended before it started its event loop")


def asked(namespace: argparse.Namespace) -> Facts:
    """The arguments that matter to a verdict."""
    return {name: getattr(namespace, name, None) for name in _VALUES}


def speculative_fields() -> list[str]:
    """The keys that ``--speculative-config`` may have."""
    return [field.name for field in dataclasses.fields(importlib.import_module("vllm.config").SpeculativeConfig)]


def scheduler(path: str | None) -> Facts:
    """Import the scheduler class and compare what it overrides with what vLLM will call."""
    if not path:
        return {"class": None, "problems": []}
    module, _, name = str(path).rpartition(".")
    found = getattr(importlib.import_module(module), name)
    interface = importlib.import_module("vllm.v1.core.sched.interface").SchedulerInterface
    problems = [] if issubclass(found, interface) else [f"{path} is no {interface.__name__}"]
    for method, own in vars(found).items():
        base = _inherited(found, method)
        if base is not None and inspect.isfunction(own) and (problem := _unfit(own, base)):
            problems.append(f"{method}: {problem}")
    return {"class": path, "problems": problems}


def _inherited(found: type, method: str) -> Any:
    for base in found.__mro__[1:]:
        if method in vars(base) and inspect.isfunction(vars(base)[method]):
            return vars(base)[method]
    return None


def _unfit(own: Callable[..., Any], base: Callable[..., Any]) -> str:
    """Why ``own`` cannot be called as ``base`` is; "" when it can."""
    mine, theirs = inspect.signature(own).parameters, inspect.signature(base).parameters
    kinds = {parameter.kind for parameter in mine.values()}
    if {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD} <= kinds:
        return ""
    missing = [name for name in theirs if name not in mine]
    extra = [n for n, p in mine.items() if n not in theirs and p.default is p.empty and p.kind.value not in (2, 4)]
    if missing:
        return f"does not take {', '.join(missing)}"
    return f"wants {', '.join(extra)}, which vLLM does not pass" if extra else ""


def config_of(model: str, revision: str | None) -> Facts:
    """A model's ``config.json``, from its directory or from the hub's cache or the hub."""
    place = Path(model) / "config.json"
    if Path(model).is_absolute() and not place.is_file():
        raise FileNotFoundError(f"there is no {place}")
    if not place.parent.is_dir():
        hub = importlib.import_module("huggingface_hub")
        sealed = _sealed(hub, model, revision)
        place = sealed / "config.json" if sealed else Path(hub.hf_hub_download(model, "config.json", revision=revision))
    found: Facts = json.loads(place.read_text())
    return found


def weight_bytes(model: str, revision: str | None) -> int:
    """Bytes of tensor data in a model's safetensors files, from their headers."""
    folder = Path(model)
    if not folder.is_dir():
        hub = importlib.import_module("huggingface_hub")
        sealed = _sealed(hub, model, revision)
        if sealed is None:
            files = hub.get_safetensors_metadata(model, revision=revision).files_metadata.values()
            return sum(max(t.data_offsets[1] for t in file.tensors.values()) for file in files)
        folder = sealed
    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            length = file.read(8)
            total += tensor_bytes(length + file.read(int.from_bytes(length, "little")))[0]
    if total == 0:
        raise FileNotFoundError(f"Cannot find any model weights in {model}")
    return total


def _sealed(hub: Any, model: str, revision: str | None) -> Path | None:
    """The model in a cache that nothing is added to (HF_HUB_OFFLINE); None where the hub may be asked.

    Raises FileNotFoundError when it is not there: that will not change.
    """
    constants = importlib.import_module("huggingface_hub.constants")
    if not constants.HF_HUB_OFFLINE:
        return None
    try:
        return Path(hub.snapshot_download(model, revision=revision, local_files_only=True))
    except importlib.import_module("huggingface_hub.errors").LocalEntryNotFoundError:
        where = f"{model}@{revision}" if revision else model
        raise FileNotFoundError(f"{where} is not in {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE is set") from None


def resolved(namespace: argparse.Namespace) -> Facts:
    """What vLLM makes of the arguments once it has read the two configs."""
    engine = importlib.import_module("vllm.engine.arg_utils").AsyncEngineArgs.from_cli_args(namespace)
    config = engine.create_engine_config()
    return {
        "maxModelLen": config.model_config.max_model_len,
        "maxNumSeqs": config.scheduler_config.max_num_seqs,
        "maxNumBatchedTokens": config.scheduler_config.max_num_batched_tokens,
        "kvCacheBytes": config.cache_config.kv_cache_memory_bytes,
        "cacheDtype": str(config.cache_config.cache_dtype),
        "dtype": str(config.model_config.dtype).removeprefix("torch."),
    }


def _line(error: BaseException, said: str = "") -> str:
    """The root cause of an exception, with whatever was printed on the way."""
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    cause = rootcause.root_cause((said + "\n" + text).split("\n"))
    return cause.line if cause and not isinstance(error, SystemExit) else (_last_error(said) or repr(error))


def _last_error(said: str) -> str:
    cause = rootcause.root_cause(said.split("\n"))
    return cause.line if cause else ""


def _ask(question: Callable[[], Any]) -> Any:
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return question()
    except (Exception, SystemExit) as error:  # noqa: BLE001  whatever vLLM raises is an answer
        sys.stderr.write(said.getvalue())
        traceback.print_exc()
        return {"error": _line(error, said.getvalue()), "kind": type(error).__name__}


def _models(values: Mapping[str, Any]) -> dict[str, tuple[str, str | None]]:
    speculative = values.get("speculative_config") or {}
    found = {"target": (str(values["model"]), values.get("revision"))}
    if speculative.get("model"):
        found["drafter"] = (str(speculative["model"]), speculative.get("revision"))
    return found


def gather(arguments: list[str], stages: str, weights: bool) -> Facts:
    """All facts of the wanted stages ("a", "b" or "ab")."""
    facts: Facts = {"versions": _ask(versions)}
    if "error" in facts["versions"] or verdict.wrong_image(mount.load(), facts["versions"]):
        return facts | {"arguments": {}}  # what the wrong version would say of the rest is of no use
    namespace = _ask(lambda: parsed(arguments))
    if isinstance(namespace, dict):
        facts["arguments"] = namespace
    else:
        facts["arguments"] = asked(namespace)
    facts["modelTypes"] = _ask(model_types)
    if "a" in stages:
        facts["patches"] = _ask(patches)
        facts["speculativeFields"] = _ask(speculative_fields)
        facts["scheduler"] = _ask(lambda: scheduler(facts["arguments"].get("scheduler_cls")))
    if "b" in stages and not isinstance(namespace, dict):
        models = _models(facts["arguments"])
        facts["configs"] = {who: _ask(partial(config_of, *model)) for who, model in models.items()}
        # vLLM's own configuration takes half a minute the first time: only when nothing else is wrong already.
        if not any(finding.fatal for finding in verdict.judge(mount.load(), facts, os.environ)):
            facts["resolved"] = _ask(lambda: resolved(namespace))
            if weights:
                facts["weights"] = {who: _ask(partial(weight_bytes, *model)) for who, model in models.items()}
    return facts


def main() -> int:
    """Write the facts; the exit code says only whether that worked."""
    at = sys.argv.index("--")
    out, stages, *options = sys.argv[1:at]
    facts = gather(sys.argv[at + 1 :], stages, "--weights" in options)
    Path(out).write_text(json.dumps(facts, default=str))
    return 0


if __name__ == "__main__":
    sys.exit(main())
