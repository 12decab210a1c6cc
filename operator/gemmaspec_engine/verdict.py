"""Judges what the probe found against what was pinned.  Pure: facts in, findings out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gemmaspec_engine import budget, knownbad, memory, modelfit
from gemmaspec_engine.explanations import explain
from gemmaspec_engine.finding import Finding
from gemmaspec_engine.pin import Pin
from gemmaspec_engine.versions import matches, within

__all__ = ["Memory", "judge", "judge_kv_cache", "judge_memory", "wrong_image"]

Facts = Mapping[str, Any]

# The hub's own words, by exception class: asking again changes nothing.  Anything else may be the network.
_HUB_SAYS_NO = (
    "RepositoryNotFoundError",
    "RevisionNotFoundError",
    "RemoteEntryNotFoundError",
    "EntryNotFoundError",
    "GatedRepoError",
    "HFValidationError",
)
_PASSING = ("DeviceUnavailable", "EngineTimeout", "PortInUse", "StorageFailed", "OutOfMemory", "DeviceFault")
_WRONG_IMAGE = "Use the image that has this version (spec.engine.image), or correct spec.engine.vllm."


def judge(pin: Pin, facts: Facts, env: Mapping[str, str]) -> list[Finding]:
    """Everything that the facts of the probe say against starting this engine, most fundamental first."""
    versions = facts["versions"]
    if "error" in versions:
        return [_explained("ImportFailed", versions, "vLLM or transformers cannot be imported: ")]
    if wrong := wrong_image(pin, versions):
        return wrong
    findings = [*_patches(pin, facts), *_arguments(facts), *_scheduler(facts)]
    findings += [*_assistant(facts), *_configs(facts), *_known_bad(pin, facts, env)]
    if not any(finding.fatal for finding in findings) and "error" in (facts.get("resolved") or {}):
        findings.append(_explained("BadConfiguration", facts["resolved"], "vLLM refuses this configuration: "))
    return findings


def _explained(otherwise: str, failure: Facts, said: str) -> Finding:
    known = explain(failure["error"])
    reason = otherwise if known.reason == "EngineFailed" else known.reason
    return Finding(reason, said + failure["error"], known.remedy, deterministic=known.reason not in _PASSING)


def wrong_image(pin: Pin, versions: Facts) -> list[Finding]:
    """What speaks against the versions that the engine would import."""
    findings, wanted = [], pin.transformers
    if pin.vllm is not None and not matches(versions["vllm"], pin.vllm):
        text = f"the image has vLLM {versions['vllm']}, pinned is {pin.vllm}"
        findings.append(Finding("VllmVersionMismatch", text, _WRONG_IMAGE))
    if wanted is None:
        return findings
    found, file = versions["transformers"], str(versions["transformersFile"])
    install = "Set spec.engine.transformers.mode: Install, or use an image that has it."
    if wanted.version is not None and not matches(found, wanted.version):
        text = f"the engine imports transformers {found} from {file}, pinned is {wanted.version}"
        findings.append(Finding("TransformersVersionMismatch", text, install))
    elif wanted.overlay_dir is not None and not file.startswith(wanted.overlay_dir.rstrip("/") + "/"):
        text = f"the engine imports transformers from {file}, not from the overlay {wanted.overlay_dir}"
        findings.append(Finding("TransformersNotInOverlay", text, install))
    elif wanted.git_commit is not None and wanted.git_commit not in str(versions["transformersOrigin"]):
        text = f"nothing proves that transformers {found} is commit {wanted.git_commit}"
        findings.append(Finding("TransformersCommitMismatch", text, install))
    return findings


def _patches(pin: Pin, facts: Facts) -> list[Finding]:
    findings: list[Finding] = []
    imported = facts.get("patches")
    if not isinstance(imported, Mapping):
        return findings
    for patch in pin.patches:
        found = imported if "error" in imported else imported.get(patch.module)
        if isinstance(found, Mapping):
            text = f"{patch.module} cannot be imported from its patch: {found['error']}"
            remedy = "The patch does not fit this vLLM: use the patch made for it, or another image."
            findings.append(Finding("PatchImportFailed", text, remedy))
        elif found != patch.sha256:
            text = f"the engine imports {patch.module} with hash {found}, pinned is {patch.sha256}"
            findings.append(Finding("PatchNotImported", text, "Check spec.engine.env for PYTHON* variables."))
    return findings


def _arguments(facts: Facts) -> list[Finding]:
    arguments = facts["arguments"]
    if "error" in arguments:
        return [_explained("BadArgument", arguments, "")]
    known, given = facts.get("speculativeFields"), arguments.get("speculative_config") or {}
    if not isinstance(known, Sequence):
        return []
    wrong = sorted(key for key in given if key.replace("-", "_") not in known)
    if not wrong:
        return []
    text = f"this vLLM's speculative config has no {', '.join(wrong)}"
    return [Finding("SpeculativeKeyUnknown", text, "Remove it, or use a vLLM that knows it (spec.engine.image).")]


def _scheduler(facts: Facts) -> list[Finding]:
    found = facts.get("scheduler")
    if found is None:
        return []
    remedy = "This image cannot carry the agent: set control.actuator: Restart, or use another vLLM version."
    if "error" in found:
        return [Finding("SchedulerClassMissing", f"the scheduler class: {found['error']}", remedy)]
    if found["problems"]:
        text = f"{found['class']} does not fit this vLLM: {'; '.join(found['problems'])}"
        return [Finding("SchedulerClassUnfit", text, remedy)]
    return []


def _method(facts: Facts) -> str | None:
    method = (facts["arguments"].get("speculative_config") or {}).get("method")
    return str(method) if method else None


def _assistant(facts: Facts) -> list[Finding]:
    types = facts.get("modelTypes")
    if _method(facts) not in ("mtp", "gemma4_mtp") or not isinstance(types, Sequence) or "gemma4_assistant" in types:
        return []
    text = f"transformers {facts['versions']['transformers']} does not know gemma4_assistant (5.8.0 is the first)"
    remedy = "Set spec.engine.transformers.version to 5.8.0 or later with mode: Install, or use a newer image."
    return [Finding("AssistantUnknown", text, remedy)]


def _configs(facts: Facts) -> list[Finding]:
    configs, findings = facts.get("configs") or {}, []
    for who, config in configs.items():
        if "error" in config:
            findings.append(_unread(who, config))
        elif finding := _unknown_type(who, config, facts):
            findings.append(finding)
    if findings or "drafter" not in configs:
        return findings
    longest = (facts.get("resolved") or {}).get("maxModelLen") or facts["arguments"].get("max_model_len")
    length = longest if isinstance(longest, int) else None
    return modelfit.check(configs["target"], configs["drafter"], _method(facts) or "mtp", length)


def _unread(who: str, failure: Facts) -> Finding:
    text = f"the {who}'s config.json cannot be read: {failure['error']}"
    remedy = "Check the model's name and revision, the token, and that the weights cache or the hub is reachable."
    missing = failure.get("kind") in (*_HUB_SAYS_NO, "FileNotFoundError", "JSONDecodeError")
    return Finding("ModelNotFound", text, remedy, deterministic=missing)


def _unknown_type(who: str, config: Facts, facts: Facts) -> Finding | None:
    types, kind = facts.get("modelTypes"), config.get("model_type")
    if not isinstance(types, Sequence) or kind in types:
        return None
    if config.get("auto_map") and facts["arguments"].get("trust_remote_code"):
        return None
    text = f"the {who}'s model_type {kind!r} is unknown to transformers {facts['versions']['transformers']} and vLLM"
    remedy = "Use a newer image, spec.engine.transformers.mode: Install, or another model."
    return Finding("ModelTypeUnknown", text, remedy)


def _known_bad(pin: Pin, facts: Facts, env: Mapping[str, str]) -> list[Finding]:
    arguments, configs = facts["arguments"], facts.get("configs") or {}
    if "error" in arguments:
        return []
    read = {who: config for who, config in configs.items() if "error" not in config}
    combination = knownbad.Combination(
        vllm=facts["versions"]["vllm"],
        transformers=facts["versions"]["transformers"],
        device=pin.memory.device,
        image=pin.image,
        method=_method(facts),
        speculative=arguments.get("speculative_config") or {},
        arguments=arguments,
        env=env,
        patched=frozenset(patch.module for patch in pin.patches),
        target=read.get("target"),
        drafter=read.get("drafter"),
    )
    return knownbad.check(combination)


@dataclass(frozen=True)
class Memory:
    """The verdict about memory: what was found wrong, the utilization to use, and the sum in words."""

    findings: tuple[Finding, ...]
    utilization: float | None
    text: str


def judge_memory(pin: Pin, facts: Facts | None, figures: memory.Figures) -> Memory:
    """Does the engine's memory fit?  With mode Auto ``facts`` must hold configs and weights."""
    wanted, text = pin.memory, ""
    if wanted.mode == "Auto":
        try:
            needed = _needed(pin, facts or {})
        except (KeyError, TypeError, ValueError) as error:
            remedy = "Set spec.memory.utilizationMode: Fixed and spec.memory.utilization."
            finding = Finding("BudgetUnknown", f"the memory budget cannot be computed: {error!r}", remedy)
            return Memory((finding,), None, "")
        utilization = budget.utilization_for(needed, figures.total)
        text = f"{needed}; of {memory.gib(figures.total)} that is utilization {utilization:g}; "
        wanted = replace(wanted, utilization=utilization)
        if wanted.max_utilization is not None and utilization > wanted.max_utilization:
            return Memory(
                (_over_the_request(wanted.max_utilization, utilization, text, figures.total),), utilization, text
            )
    if wanted.device == "cpu":
        wanted, figures = _as_vllm_on_cpu(wanted, facts, figures)
    verdict = memory.weigh(wanted, figures, pin.vllm)
    if verdict.fits:
        return Memory((), wanted.utilization, text + verdict.text)
    return Memory((_does_not_fit(verdict, figures, text),), wanted.utilization, text + verdict.text)


def _over_the_request(most: float, utilization: float, text: str, total: int) -> Finding:
    remedy = (
        "Lower spec.model.maxModelLen or spec.engine.scheduling.maxNumSeqs, or ask for the memory: "
        f"spec.engine.resources.requests.memory {math.ceil(utilization * total / memory.GIB)}Gi."
    )
    words = f"{text}the pod requests memory for at most {most:g}"
    return Finding("UtilizationDoesNotFit", words, remedy)


def _does_not_fit(verdict: memory.Verdict, figures: memory.Figures, text: str) -> Finding:
    remedy = "Free memory on the box (other engines, other GPU processes)"
    if verdict.utilization:
        remedy = f"Set spec.memory.utilization to at most {verdict.utilization:.2f}, or free memory on the box"
    # What even an empty box cannot give does not come by waiting: no host runs in less than a GiB.
    never = verdict.needed > figures.total - memory.GIB
    return Finding("UtilizationDoesNotFit", text + verdict.text, f"{remedy}.", deterministic=never)


def _as_vllm_on_cpu(wanted: Any, facts: Facts | None, figures: memory.Figures) -> tuple[Any, memory.Figures]:
    """vLLM ≥ 0.32 claims utilization × total on a CPU too (0.92 when nobody says), unless the KV cache has a size of
    its own; total and free are cut to the container's limit."""
    found = facts or {}
    share = wanted.utilization or (found.get("arguments") or {}).get("gpu_memory_utilization")
    resolved, version = found.get("resolved") or {}, (found.get("versions") or {}).get("vllm")
    claims = within(version, "0.32") and "kvCacheBytes" in resolved and not resolved["kvCacheBytes"]
    if wanted.needed_bytes is not None or not share or not claims:
        return wanted, figures
    total = min(figures.total, figures.cgroup_limit or figures.total)
    left = figures.available if figures.cgroup_left is None else min(figures.available, figures.cgroup_left)
    return replace(wanted, device="cuda", utilization=share), replace(figures, total=total, available=left, free=left)


def _needed(pin: Pin, facts: Facts) -> budget.Budget:
    resolved, weights = facts["resolved"], facts["weights"]
    for who, found in weights.items():
        if not isinstance(found, int):
            raise ValueError(f"the {who}'s weights: {found.get('error')}")
    request = budget.Request(
        max_model_len=resolved["maxModelLen"],
        max_num_seqs=resolved["maxNumSeqs"],
        max_num_batched_tokens=resolved["maxNumBatchedTokens"],
        kv_element_bytes=_element_bytes(resolved["cacheDtype"], resolved["dtype"]),
    )
    config, drafter = facts["configs"]["target"], weights.get("drafter", 0)
    return budget.budget(config, request, weights["target"], drafter, _overhead(pin), resolved.get("kvCacheBytes"))


def _overhead(pin: Pin) -> int:
    if pin.memory.overhead_bytes is not None:
        return pin.memory.overhead_bytes
    return 0 if pin.memory.device == "cpu" else budget.DEFAULT_OVERHEAD_BYTES


def judge_kv_cache(pin: Pin, facts: Facts, figures: memory.Figures) -> list[Finding]:
    """Does a KV cache of a given size fit beside the weights?  vLLM takes it as it is, whatever the utilization.

    On a GB10 all of the engine must stay within its budget, since that is what the scheduler counts; on a CPU within
    what is free; of a GPU with memory of its own nothing is known here.
    """
    kv, device = (facts.get("resolved") or {}).get("kvCacheBytes"), pin.memory.device
    if not kv or device == "discrete" or pin.memory.mode == "Auto":
        return []
    sizes = {who: found for who, found in (facts.get("weights") or {}).items() if isinstance(found, int)}
    needed = budget.Budget(sizes.get("target", 0), sizes.get("drafter", 0), kv, _overhead(pin), "kvCacheBytes")
    if device == "cpu":
        total = min(figures.total, figures.cgroup_limit or figures.total)
        room = figures.available if figures.cgroup_left is None else min(figures.available, figures.cgroup_left)
        named, never = "free", needed.total > total
    else:
        share = pin.memory.utilization or 0.0
        room, never = int(share * figures.total), True
        named = f"in the engine's budget (utilization {share:g} of {memory.gib(figures.total)})"
    if needed.total <= room:
        return []
    most = max(0, room - (needed.total - kv))
    remedy = f"Set spec.memory.kvCacheBytes to at most {most}" if most else "Use smaller weights"
    remedy += ", or free memory on the box." if device == "cpu" else ", or raise spec.memory.utilization."
    text = f"{needed} needed, {memory.gib(room)} {named}"
    return [Finding("KVCacheDoesNotFit", text, remedy, deterministic=never)]


def _element_bytes(cache: str, model: str) -> int:
    kind = model if cache == "auto" else cache
    if kind.startswith(("fp8", "int8", "nvfp4")):
        return 1
    return 4 if kind == "float32" else 2
