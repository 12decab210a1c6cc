"""What outlives a pod: the weights, and what torch.compile and Triton made for this engine."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from gemmaspec.api.spec import ClaimOfPod, Compile, HostPath, ImageVolume, Weights
from gemmaspec.core import names
from gemmaspec.core.resolve import Resolved

# Shorter than a digest, for people who look into the directory: 48 bits tell any number of images apart.
KEY_LENGTH = 12


def sealed(resolved: Resolved) -> ImageVolume | None:
    """The image that holds the weights: read-only, so nothing is downloaded; None where they are."""
    weights = resolved.spec.cache.weights if resolved.spec.cache else None
    return weights.image_volume if weights else None


def host_paths(resolved: Resolved) -> list[tuple[str, HostPath]]:
    """Directories of the node that are asked for, each with the field that does."""
    cache = resolved.spec.cache
    asked = (("weights", cache.weights), ("compile", cache.compile)) if cache else ()
    return [(f"spec.cache.{field}.hostPath.path", it.host_path) for field, it in asked if it and it.host_path]


def volumes(resolved: Resolved) -> list[dict[str, Any]]:
    """The volumes `weights` and, where one is asked for, `compile`."""
    cache, image = resolved.spec.cache, sealed(resolved)
    if image:
        policy = {"pullPolicy": str(image.pull_policy)} if image.pull_policy else {}
        weights: dict[str, Any] = {"image": {"reference": image.reference} | policy}
    else:
        weights = _place(cache.weights if cache else None)
    found = [{"name": "weights"} | weights]
    return [*found, {"name": "compile"} | _place(cache.compile)] if cache and cache.compile else found


def _own(asked: ClaimOfPod) -> dict[str, Any]:
    """A claim that Kubernetes makes for each pod, bound where the pod is."""
    named = {"storageClassName": asked.storage_class_name} if asked.storage_class_name else {}
    wanted = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": asked.size}}}
    return {"ephemeral": {"volumeClaimTemplate": {"spec": wanted | named}}}


def _place(asked: Weights | Compile | None) -> dict[str, Any]:
    if isinstance(asked, Weights) and asked.per_pod:
        return _own(asked.per_pod)
    if asked and asked.pvc:
        return {"persistentVolumeClaim": {"claimName": asked.pvc.claim_name}}
    if asked and asked.host_path:
        return {"hostPath": {"path": asked.host_path.path, "type": "DirectoryOrCreate"}}
    return {"emptyDir": {}}


def mounts(resolved: Resolved) -> list[dict[str, Any]]:
    """Where the containers find them. Of the compile cache an engine sees only what engines like it left there."""
    weights = {"name": "weights", "mountPath": names.WEIGHTS_DIR} | ({"readOnly": True} if sealed(resolved) else {})
    if not (resolved.spec.cache and resolved.spec.cache.compile):
        return [weights]
    return [weights, {"name": "compile", "mountPath": names.COMPILE_DIR, "subPath": compile_key(resolved)}]


def environment(resolved: Resolved) -> dict[str, str]:
    """Variables that name the directories."""
    found = compile_variables(resolved) or _below(names.CACHE_DIR)
    if sealed(resolved):  # code of a model's repository is copied there before it is imported
        found["HF_MODULES_CACHE"] = f"{names.CACHE_DIR}/modules"
    return found


def compile_variables(resolved: Resolved) -> dict[str, str]:
    """Variables that name the compile cache; none where the spec asks for none."""
    asked = resolved.spec.cache is not None and resolved.spec.cache.compile is not None
    return _below(names.COMPILE_DIR) if asked else {}


def _below(root: str) -> dict[str, str]:
    return {
        "VLLM_CACHE_ROOT": f"{root}/vllm",
        "TRITON_CACHE_DIR": f"{root}/triton",
        "TORCHINDUCTOR_CACHE_DIR": f"{root}/inductor",
    }


def compile_key(resolved: Resolved) -> str:
    """Directory of this engine's compiled code: a hash of its image and of what replaces parts of that image.

    Model and K are no part of it: vLLM keeps what it compiled by the hash of configuration and code.
    """
    engine = resolved.spec.engine
    transformers = engine.transformers.model_dump(mode="json") if engine and engine.transformers else None
    patches = [(patch.module, patch.sha256) for patch in (engine.patches if engine else None) or ()]
    value = json.dumps([resolved.image, transformers, patches], sort_keys=True)
    return hashlib.sha256(value.encode()).hexdigest()[:KEY_LENGTH]
