"""Every name, label and selector in one place."""

from __future__ import annotations

from typing import Final

from gemmaspec.api import identity

FIELD_MANAGER: Final = "gemmaspec"
MANAGED_BY: Final = "app.kubernetes.io/managed-by"
OWNER_LABEL: Final = f"{identity.GROUP}/deploy"
REVISION_LABEL: Final = f"{identity.GROUP}/revision"
PIN_ANNOTATION: Final = f"{identity.GROUP}/pin"
K_ANNOTATION: Final = f"{identity.GROUP}/k"
ACTUATOR_ANNOTATION: Final = f"{identity.GROUP}/actuator"
SPEC_ANNOTATION: Final = f"{identity.GROUP}/spec"
LEARNED_ANNOTATION: Final = f"{identity.GROUP}/learned"
NUMBER_ANNOTATION: Final = f"{identity.GROUP}/revision-number"
BENCHMARK_LABEL: Final = f"{identity.GROUP}/benchmark"
BENCHMARK_ANNOTATION: Final = f"{identity.GROUP}/benchmark-result"

ENGINE_CONTAINER: Final = "engine"
ENGINE_MOUNT: Final = "/etc/gemmaspec/engine"
PIN_PATH: Final = f"{ENGINE_MOUNT}/pin.json"
BENCHMARK_CONTAINER: Final = "benchmark"
PREFLIGHT_CONTAINER: Final = "preflight"
WEIGHTS_CONTAINER: Final = "weights"
PATCH_DIR: Final = "/etc/gemmaspec/patches"
PATCH_SOURCES: Final = "/etc/gemmaspec/patch-sources"
OVERLAY_DIR: Final = "/opt/gemmaspec/overlay"
STATE_DIR: Final = "/run/gemmaspec"
CACHE_DIR: Final = "/cache"
WEIGHTS_DIR: Final = f"{CACHE_DIR}/huggingface"
COMPILE_DIR: Final = f"{CACHE_DIR}/compiled"


def labels(name: str) -> dict[str, str]:
    """Labels of every child of the resource ``name``."""
    return {
        "app.kubernetes.io/name": "gemmaspec-engine",
        "app.kubernetes.io/instance": name,
        MANAGED_BY: FIELD_MANAGER,
        OWNER_LABEL: name,
    }


def selector(name: str) -> dict[str, str]:
    """Labels that select the engine pods of the resource ``name``, of every revision."""
    return {"app.kubernetes.io/name": "gemmaspec-engine", OWNER_LABEL: name}


def selector_text(name: str) -> str:
    """The selector in the form that the scale subresource reports."""
    return ",".join(f"{key}={value}" for key, value in sorted(selector(name).items()))


def revision_object(name: str, revision: str) -> str:
    """Name of the Deployment and ConfigMap of one revision."""
    return f"{name}-{revision}"


def learned_object(name: str) -> str:
    """Name of the ConfigMap with what the agents have learnt; no revision (a hash) is called so."""
    return f"{name}-learned"


def benchmark_object(name: str, mark: str) -> str:
    """Name of a benchmark's Job and of the ConfigMap with its result."""
    return f"{name}-bench-{mark}"


def benchmark_pods(name: str) -> str:
    """Under which owner the pods of benchmarks are known, beside the resource's engines; no resource is called so."""
    return f"{name}/benchmark"


def resource_of(key: tuple[str, str]) -> tuple[str, str]:
    """The resource, by namespace and name, to which what is known under a key belongs."""
    return key[0], key[1].partition("/")[0]


def endpoint(name: str, namespace: str, port: int) -> str:
    """OpenAI-compatible base URL inside the cluster."""
    return f"http://{name}.{namespace}.svc:{port}/v1"
