"""What the user asks for: ``.spec`` of a GemmaSpecDeploy.

No field that a recipe can set has a schema default: a stored default could not be told from an
explicit value, and explicit values must win over the recipe. Defaults are resolved by the plan
(:mod:`gemmaspec.core.resolve`).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from gemmaspec.api import flags
from gemmaspec.api.schema import Key, Model, ModelName, Name, Quantity, Revision, Word, rule, rules

DEFAULT_K_MAX = 8
MAX_K = 32
MAX_REPLICAS = 256
# Numbers as text, for messages: CEL's string() has no bound on its length, and the cost budget multiplies by it.
DIGITS = "[" + ", ".join(f"'{number}'" for number in range(MAX_K + 1)) + "]"


class Method(StrEnum):
    """How drafts are made: the values vLLM's ``--speculative-config`` takes, and ``off``."""

    MTP = "mtp"
    DFLASH = "dflash"
    EAGLE3 = "eagle3"
    NGRAM = "ngram"
    SUFFIX = "suffix"
    OFF = "off"

    @property
    def needs_drafter(self) -> bool:
        """Whether the method drafts with weights of its own."""
        return self in (Method.MTP, Method.DFLASH, Method.EAGLE3)


class Mode(StrEnum):
    """Who moves K."""

    FIXED = "Fixed"
    ROLLBACK = "Rollback"
    ADAPTIVE = "Adaptive"
    ENGINE = "Engine"


class Actuator(StrEnum):
    """How K is changed: ``Live`` by the agent in the engine, between two steps; ``Restart`` by a new revision;
    ``Auto`` takes Live where that vLLM was tested on that device.
    """

    AUTO = "Auto"
    LIVE = "Live"
    RESTART = "Restart"


class Accelerator(StrEnum):
    """What the engine runs on."""

    GB10 = "GB10"
    ANY = "Any"
    CPU = "CPU"


class SecretKeyRef(Model):
    """A key of a Secret in the resource's own namespace."""

    name: Name = Field(description="Name of the Secret.")
    key: Key = Field(description="Key inside the Secret.")


class ConfigMapKeyRef(Model):
    """A key of a ConfigMap in the resource's own namespace."""

    name: Name = Field(description="Name of the ConfigMap.")
    key: Key = Field(description="Key inside the ConfigMap.")


class EnvSource(Model):
    """Where an environment variable's value comes from."""

    secret_key_ref: SecretKeyRef | None = Field(None, description="Key of a Secret that holds the value.")
    config_map_key_ref: ConfigMapKeyRef | None = Field(None, description="Key of a ConfigMap that holds the value.")


class EnvVar(Model):
    """One environment variable of the engine."""

    name: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] = Field(
        description="Variable name. PYTHONPATH, PYTHONHOME, PYTHONSTARTUP, LD_*, VLLM_PLUGINS, VLLM_API_KEY, "
        "HF_TOKEN and GEMMASPEC_* belong to the operator."
    )
    value: Annotated[str, Field(max_length=4096)] | None = Field(None, description="Literal value.")
    value_from: EnvSource | None = Field(None, description="Take the value from a Secret or a ConfigMap.")
    model_config = Model.model_config | {
        "json_schema_extra": rules(
            rule(
                "!(self.name in ['PYTHONPATH', 'PYTHONHOME', 'PYTHONSTARTUP', 'VLLM_PLUGINS', 'HF_TOKEN', "
                "'VLLM_API_KEY']) && !self.name.startsWith('LD_') && !self.name.startsWith('GEMMASPEC_')",
                "the variable belongs to the operator; remove it",
                saying="self.name + ' is a variable that the operator sets; remove it' + (self.name == 'VLLM_API_KEY' "
                "? ' and use service.apiKeySecretRef' : self.name == 'HF_TOKEN' ? ' and use "
                "cache.download.tokenSecretRef' : '')",
                reason="FieldValueForbidden",
                at=".name",
            ),
            rule(
                "has(self.value) != has(self.valueFrom)",
                "a variable has either value or valueFrom; give exactly one of them",
                saying="'variable ' + self.name + ' has either value or valueFrom; give exactly one of them'",
            ),
            rule(
                "!has(self.valueFrom) || has(self.valueFrom.secretKeyRef) != has(self.valueFrom.configMapKeyRef)",
                "valueFrom has either secretKeyRef or configMapKeyRef; give exactly one of them",
                saying="'valueFrom of variable ' + self.name + ' has either secretKeyRef or configMapKeyRef; give "
                "exactly one of them'",
            ),
        )
    }


class Chat(Model):
    """How chat completions are parsed and templated."""

    tool_call_parser: Word | None = Field(
        None, description="vLLM tool-call parser, such as `gemma4`; also turns on automatic tool choice."
    )
    reasoning_parser: Word | None = Field(None, description="vLLM reasoning parser, such as `gemma4`.")
    template_kwargs: dict[str, Any] | None = Field(
        None,
        description="Arguments given to the chat template by default, such as `{enable_thinking: true}`.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )


class ModelSpec(Model):
    """The target model."""

    target: ModelName | None = Field(
        None, description="Target model: a Hugging Face id, or an absolute path inside the engine's image."
    )
    revision: Revision | None = Field(None, description="Commit, tag or branch of the target's repository.")
    served_name: ModelName | None = Field(None, description="Model name that clients put into requests.")
    quantization: Word | None = Field(None, description="vLLM quantization method, such as `compressed-tensors`.")
    dtype: Word | None = Field(None, description="Weight and activation type, such as `auto` or `bfloat16`.")
    max_model_len: Annotated[int, Field(ge=1, le=16_777_216)] | None = Field(
        None, description="Context length in tokens, prompt and output together."
    )
    kv_cache_dtype: Word | None = Field(None, description="Type of the KV cache, such as `fp8`.")
    load_format: Word | None = Field(None, description="vLLM weight loader, such as `fastsafetensors`.")
    trust_remote_code: bool | None = Field(
        None, description="Let the engine run code that comes with the model's repository."
    )
    chat: Chat | None = Field(None, description="Chat parsing and templating.")


class Scheduling(Model):
    """How vLLM batches requests."""

    max_num_seqs: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None, description="Most sequences that run in one step."
    )
    max_num_batched_tokens: Annotated[int, Field(ge=1, le=16_777_216)] | None = Field(
        None, description="Most tokens, prefill and decode together, that one step computes."
    )
    prefix_caching: bool | None = Field(None, description="Reuse the KV cache of equal prompt beginnings.")
    chunked_prefill: bool | None = Field(None, description="Split long prompts over several steps.")
    enforce_eager: bool | None = Field(None, description="Run without CUDA graphs.")


class ResourceAmounts(Model):
    """Amounts of node resources."""

    cpu: Quantity | None = Field(None, description="CPU cores, such as `2` or `500m`.")
    memory: Quantity | None = Field(None, description="Memory, such as `4Gi`.")


class Resources(Model):
    """The engine container's resource requests and limits; the GPU is added by the operator."""

    requests: ResourceAmounts | None = Field(
        None, description="What the scheduler reserves. The default is the memory budget (see `memory`)."
    )
    limits: ResourceAmounts | None = Field(
        None, description="What the kubelet enforces. It does not cap CUDA memory on unified-memory nodes."
    )


class TransformersMode(StrEnum):
    """What is done about transformers: prove the image's own, or bring the one that is asked for."""

    VERIFY = "Verify"
    INSTALL = "Install"


class Git(Model):
    """A commit of a git repository."""

    url: Annotated[str, Field(min_length=1, max_length=512, pattern=r"^https://[^\s]+$")] = Field(
        description="Address of the repository."
    )
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$", max_length=40)] = Field(description="The whole commit id.")


class Transformers(Model):
    """The transformers library that the engine must import."""

    version: Annotated[str, Field(min_length=1, max_length=128)] | None = Field(
        None, description="A version such as `5.14.1`, or comparisons such as `>=5.8,<5.15`."
    )
    git: Git | None = Field(None, description="A commit, for versions that no package index has.")
    mode: TransformersMode | None = Field(
        None,
        description="`Verify` (default) proves the version in the image; `Install` puts exactly this one beside it.",
    )
    model_config = Model.model_config | {
        "json_schema_extra": rules(
            rule("has(self.version) || has(self.git)", "transformers names nothing; give version, or git"),
            rule(
                "!has(self.git) || (has(self.mode) && self.mode == 'Install')",
                "a commit can't be verified in an image; set mode: Install, or give version",
                at=".git",
            ),
        )
    }


class PatchSource(Model):
    """Where the bytes of a patch come from. They are fetched in the pod, never by the operator."""

    config_map: ConfigMapKeyRef | None = Field(None, description="A key of a ConfigMap.")
    url: Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^https?://[^\s]+$")] | None = Field(
        None, description="An address that the pod can reach."
    )
    model_config = Model.model_config | {
        "json_schema_extra": rules(
            rule("has(self.configMap) != has(self.url)", "a patch has one source; give either configMap or url")
        )
    }


class Patch(Model):
    """A Python module of the engine whose source is replaced by pinned bytes."""

    module: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$", max_length=256)] = Field(
        description="Dotted name, such as `vllm.model_executor.models.gemma4_mtp`."
    )
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", max_length=64)] = Field(
        description="SHA-256 of the file, in hexadecimal digits. Every engine process loads exactly these bytes."
    )
    source: PatchSource = Field(description="Where the bytes come from.")


class Engine(Model):
    """The engine: which vLLM, and what it is started with."""

    image: Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[^\s]+$")] | None = Field(
        None, description="Container image of vLLM, by digest: `repository@sha256:…`."
    )
    allow_tag: bool | None = Field(
        None, description="Accept an image by tag. A tag can change under you, and then nothing is pinned."
    )
    vllm: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[0-9]+\.[0-9]+(\.[0-9]+)?.*$")] | None = Field(
        None, description="vLLM version in the image; decides which command-line keys are used."
    )
    transformers: Transformers | None = Field(None, description="The transformers library that must be imported.")
    patches: Annotated[list[Patch], Field(max_length=8)] | None = Field(
        None,
        description="Modules of the engine that are replaced by pinned bytes.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["module"]},
    )
    scheduling: Scheduling | None = Field(None, description="Batching.")
    extra_args: (
        Annotated[
            list[
                Annotated[str, Field(min_length=1, max_length=256, json_schema_extra=rules(*flags.extra_args_rules()))]
            ],
            Field(max_length=32),
        ]
        | None
    ) = Field(
        None,
        description="Further vLLM flags, each with its value one item: `--name` or `--name=value`. Only flags of a "
        "known list are taken, and none that a typed field sets.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    env: Annotated[list[EnvVar], Field(max_length=32)] | None = Field(
        None,
        description="Further environment variables of the engine.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    resources: Resources | None = Field(None, description="Requests and limits of the engine container.")
    run_as_user: Annotated[int, Field(ge=1, le=2147483647)] | None = Field(
        None,
        description="User and group id of everything in the engine's pod; claims are given to that group. With it the "
        "pod meets the pod security standard `restricted`, provided that the image works for such a user. Without it "
        "the image's own user runs, mostly root.",
    )
    model_config = Model.model_config | {
        "json_schema_extra": rules(
            rule(
                "!has(self.image) || self.image.matches('@sha256:[0-9a-f]{64}$') || "
                "(has(self.allowTag) && self.allowTag)",
                "the image is not pinned by digest; use repository@sha256:…, or set engine.allowTag: true to accept "
                "a tag that can change",
                saying="self.image + ' is not pinned by digest; use repository@sha256:…, or set engine.allowTag: true "
                "to accept a tag that can change'",
                at=".image",
            )
        )
    }


class UtilizationMode(StrEnum):
    """Who sets memory utilization: the spec, or preflight from what weights, KV cache and drafter need."""

    FIXED = "Fixed"
    AUTO = "Auto"


class Memory(Model):
    """How much of the device's memory the engine takes."""

    utilization: float | None = Field(
        None,
        description="Share of the device's memory that the engine plans with, above 0 and at most 0.98. On GB10 "
        "memory is shared with the host: leave room.",
        json_schema_extra=rules(
            rule(
                "self > 0.0 && self <= 0.98",
                "utilization must be above 0 and at most 0.98, a share of the device's memory; GB10 recipes use "
                "0.55 to 0.85",
            )
        ),
    )
    utilization_mode: UtilizationMode | None = Field(
        None,
        description="`Fixed` (default) takes utilization as given; `Auto` computes it in the pod from weights, KV "
        "cache, drafter and overhead, up to 0.85 or what engine.resources.requests.memory asks for. Not on CPU.",
    )
    reserve_gi_b: Annotated[float, Field(ge=0, le=1024)] | None = Field(
        None,
        alias="reserveGiB",
        description="GiB that stay free for the host beside the engine; the launcher waits until utilization and "
        "reserve both fit.",
    )
    kv_cache_bytes: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Size of the KV cache in bytes; overrides what utilization would leave for it."
    )


class Drafter(Model):
    """The draft model."""

    model: ModelName | None = Field(
        None, description="Draft model: a Hugging Face id, or an absolute path inside the engine's image."
    )
    revision: Revision | None = Field(None, description="Commit, tag or branch of the drafter's repository.")


class Recovery(Model):
    """How K comes back after it was lowered."""

    hold_seconds: Annotated[int, Field(ge=1, le=604_800)] | None = Field(
        None, description="How long a lowered K is held before the desired K is tried again. Default 1800."
    )
    max_hold_seconds: Annotated[int, Field(ge=1, le=2_592_000)] | None = Field(
        None, description="The hold doubles after each failed trial, up to this. Default 86400."
    )


class Control(Model):
    """How K is watched and moved."""

    mode: Mode | None = Field(
        None,
        description="`Fixed` reports only; `Rollback` (default) lowers K on evidence and raises it again later; "
        "`Adaptive` moves K both ways within kMin and kMax, step by step (Live only); `Engine` drafts k tokens, of "
        "which vLLM's adaptive verification chooses how many it verifies (vLLM ≥ 0.30, on a GPU).",
    )
    k_min: Annotated[int, Field(ge=0, le=MAX_K)] | None = Field(None, description="Least K. Default 0.")
    k_max: Annotated[int, Field(ge=0, le=MAX_K)] | None = Field(
        None,
        description=f"Greatest K. Default {DEFAULT_K_MAX}. Where it is set and the actuator is Live, engines are "
        "started for every K up to it, and k can be edited without a restart.",
    )
    actuator: Actuator | None = Field(
        None,
        description="`Live` changes K in the running engine; `Restart` by a new revision. `Auto` (default) takes Live "
        "where this vLLM was tested on this device.",
    )
    window_seconds: Annotated[int, Field(ge=5, le=86_400)] | None = Field(
        None, description="How far back evidence is taken from. Default 120."
    )
    min_drafts: Annotated[int, Field(ge=20, le=1_000_000)] | None = Field(
        None, description="Least number of drafts in the window before K is judged. Default 400."
    )
    min_dwell_seconds: Annotated[int, Field(ge=0, le=604_800)] | None = Field(
        None, description="Least time between two changes of K. Default 300."
    )
    min_gain: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None,
        description="Least relative gain in expected tokens per second that another K must promise. Default 0.1.",
    )
    recovery: Recovery | None = Field(None, description="How K comes back.")
    model_config = Model.model_config | {
        "json_schema_extra": rules(
            rule(
                "!has(self.kMin) || self.kMin <= (has(self.kMax) ? self.kMax : 8)",
                "kMin is above kMax (default 8); lower kMin or raise kMax",
                saying=f"'kMin ' + {DIGITS}[self.kMin] + ' is above kMax ' + "
                f"{DIGITS}[has(self.kMax) ? self.kMax : 8] + '; lower kMin or raise kMax'",
                at=".kMin",
            ),
            rule(
                "!has(self.mode) || self.mode != 'Engine' || !has(self.actuator) || self.actuator != 'Live'",
                "mode 'Engine' leaves K to vLLM, and actuator 'Live' to the agent; choose one of them",
                at=".mode",
            ),
        )
    }


class Speculative(Model):
    """Speculative decoding: who drafts, and how many tokens a step."""

    method: Method | None = Field(None, description="How drafts are made; `off` turns speculation off.")
    drafter: Drafter | None = Field(None, description="The draft model, for methods that have one.")
    k: Annotated[int, Field(le=MAX_K)] | None = Field(
        None,
        description="Desired K, the draft tokens a step; 0 turns speculation off.",
        json_schema_extra=rules(
            rule("self >= 0", "k is a number of draft tokens and can't be negative; 0 turns speculation off")
        ),
    )
    control: Control | None = Field(None, description="How K is watched and moved.")
    model_config = Model.model_config | {
        "json_schema_extra": rules(
            rule(
                "!has(self.k) || self.k <= (has(self.control) && has(self.control.kMax) ? self.control.kMax : 8)",
                "k is above control.kMax (default 8); lower k or raise control.kMax",
                saying=f"{DIGITS}[self.k] + ' is above control.kMax ' + {DIGITS}[has(self.control) && "
                "has(self.control.kMax) ? self.control.kMax : 8] + '; lower k or raise control.kMax'",
                at=".k",
            ),
            rule(
                "!has(self.k) || !has(self.control) || !has(self.control.kMin) || self.k == 0 || "
                "self.k >= self.control.kMin",
                "k is below control.kMin; raise k or lower control.kMin",
                saying=f"{DIGITS}[self.k] + ' is below control.kMin ' + {DIGITS}[self.control.kMin] + '; raise k or "
                "lower control.kMin'",
                at=".k",
            ),
            rule(
                "!has(self.method) || !(self.method in ['ngram', 'suffix', 'off']) || !has(self.drafter)",
                "ngram, suffix and off have no draft model; remove drafter, or choose mtp, dflash or eagle3",
                saying="'method ' + self.method + ' has no draft model; remove drafter, or choose mtp, dflash or "
                "eagle3'",
                at=".drafter",
            ),
        )
    }


class Toleration(Model):
    """A taint that engine pods tolerate."""

    key: Annotated[str, Field(max_length=316)] | None = Field(None, description="Taint key.")
    operator: Annotated[str, Field(pattern="^(Exists|Equal)$", max_length=8)] | None = Field(
        None, description="`Exists` or `Equal`."
    )
    value: Annotated[str, Field(max_length=63)] | None = Field(None, description="Taint value for `Equal`.")
    effect: Annotated[str, Field(pattern="^(NoSchedule|PreferNoSchedule|NoExecute)$", max_length=16)] | None = Field(
        None, description="Taint effect; empty matches all."
    )
    model_config = Model.model_config | {
        "json_schema_extra": rules(
            rule(
                "(has(self.key) && self.key != '') || (has(self.operator) && self.operator == 'Exists')",
                "without a key every taint is tolerated, and that is said by operator 'Exists'; give the key, or the "
                "operator",
                at=".key",
            ),
            rule(
                "!has(self.value) || self.value == '' || !has(self.operator) || self.operator != 'Exists'",
                "operator 'Exists' takes no value; remove value, or choose 'Equal'",
                at=".value",
            ),
        )
    }


class Nodes(Model):
    """Where engines run. One engine takes one box."""

    accelerator: Accelerator | None = Field(
        None, description="`GB10` (default): DGX Spark class nodes; `Any`: any NVIDIA GPU; `CPU`: no GPU at all."
    )
    selector: dict[Annotated[str, Field(max_length=316)], Annotated[str, Field(max_length=63)]] | None = Field(
        None,
        description="Node labels to require. Replaces the GB10 affinity: nodes without feature discovery have no "
        "gpu.product label.",
        max_length=16,
    )
    tolerations: Annotated[list[Toleration], Field(max_length=16)] | None = Field(
        None, description="Taints to tolerate.", json_schema_extra={"x-kubernetes-list-type": "atomic"}
    )
    runtime_class_name: Annotated[str, Field(max_length=253)] | None = Field(
        None, description="RuntimeClass of engine pods. Default `nvidia` on GB10; empty for none."
    )


class ClaimRef(Model):
    """A PersistentVolumeClaim in the resource's own namespace."""

    claim_name: Name = Field(description="Name of the PersistentVolumeClaim.")


class ClaimOfPod(Model):
    """A PersistentVolumeClaim that is made for each pod and goes with it."""

    size: Quantity = Field(description="How large, such as `80Gi`: target and drafter, and 2 GiB that stay free.")
    storage_class_name: Name | None = Field(
        None, description="StorageClass, such as `local-path` of k3s; without it the cluster's default."
    )


class HostPath(Model):
    """A directory of the node. Only below prefixes that the operator's administrator allows."""

    path: Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^/[^:]*$")] = Field(
        description="Absolute path of the directory on the node.",
        json_schema_extra=rules(
            rule("!self.contains('..')", "the path may not contain '..'; give the directory itself")
        ),
    )


class PullPolicy(StrEnum):
    """When an image is pulled."""

    ALWAYS = "Always"
    IF_NOT_PRESENT = "IfNotPresent"
    NEVER = "Never"


class ImageVolume(Model):
    """An image that holds weights, mounted read-only. Needs Kubernetes 1.33 and a runtime that mounts images."""

    reference: Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[^\s@]+@sha256:[0-9a-f]{64}$")] = Field(
        description="The image, by digest: `repository@sha256:…`. It holds a Hugging Face cache (the directory `hub`); "
        "a directory `x` of it can also be named as `/cache/huggingface/x` in model.target and drafter.model."
    )
    pull_policy: PullPolicy | None = Field(None, description="When it is pulled. Default `IfNotPresent`.")


class Weights(Model):
    """Where weights are kept."""

    pvc: ClaimRef | None = Field(None, description="Keep them in a PersistentVolumeClaim.")
    per_pod: ClaimOfPod | None = Field(
        None,
        description="Keep them in a claim of the pod's own. Its restarts find them there; every new pod downloads.",
    )
    host_path: HostPath | None = Field(None, description="Keep them in a directory of the node.")
    image_volume: ImageVolume | None = Field(
        None, description="Take them from an image: nothing is downloaded, and engines need no hub."
    )
    model_config = Model.model_config | {
        "json_schema_extra": rules(
            rule(
                "[has(self.pvc), has(self.perPod), has(self.hostPath), has(self.imageVolume)]"
                ".filter(given, given).size() <= 1",
                "weights live in one place; give one of pvc, perPod, hostPath and imageVolume",
            )
        )
    }


class Compile(Model):
    """Where compiled code is kept. One engine at a time should write to a place."""

    pvc: ClaimRef | None = Field(None, description="Keep it in a PersistentVolumeClaim.")
    host_path: HostPath | None = Field(None, description="Keep it in a directory of the node.")
    model_config = Model.model_config | {
        "json_schema_extra": rules(
            rule("has(self.pvc) != has(self.hostPath)", "compiled code lives in one place; give either pvc or hostPath")
        )
    }


class Download(Model):
    """How weights are downloaded."""

    token_secret_ref: SecretKeyRef | None = Field(None, description="Secret key that holds the hub's access token.")


class Cache(Model):
    """Files that outlive a pod."""

    weights: Weights | None = Field(
        None,
        description="Weight cache; without it every pod downloads anew. A claim may be shared by several pods.",
    )
    download: Download | None = Field(None, description="Download settings.")
    compile: Compile | None = Field(
        None,
        description="Cache of vLLM, Triton and torch.compile, in a directory for each image, so that a restarted "
        "engine need not compile anew. Without it every new pod does.",
    )
    model_config = Model.model_config | {
        "json_schema_extra": rules(
            rule(
                "!has(self.download) || !has(self.weights) || !has(self.weights.imageVolume)",
                "weights from an image are not downloaded; remove cache.download",
                at=".download",
            )
        )
    }


class Strategy(StrEnum):
    """How a new revision takes the boxes: one first, or all."""

    CANARY = "Canary"
    ALL_AT_ONCE = "AllAtOnce"


class OnInconclusive(StrEnum):
    """What follows when too little was measured to tell whether a revision is worse."""

    HOLD = "Hold"
    PROMOTE = "Promote"


class WarmUp(StrEnum):
    """Whether an idle engine is asked a few prompts of the operator's own."""

    NEVER = "Never"
    WHEN_IDLE = "WhenIdle"


class Analysis(Model):
    """How a new revision is judged against the last good one. Without a last good one nothing is judged."""

    initial_delay_seconds: Annotated[int, Field(ge=0, le=86_400)] | None = Field(
        None, description="How long a new engine serves before its speed counts. Default 30."
    )
    min_drafts: Annotated[int, Field(ge=20, le=1_000_000)] | None = Field(
        None, description="Least number of drafts of the new engine before its acceptance is judged. Default 400."
    )
    max_loss_percent: Annotated[int, Field(ge=1, le=90)] | None = Field(
        None,
        description="Loss of tokens per step, or of tokens per second of a request, that is too much. Default 20.",
    )
    failure_limit: Annotated[int, Field(ge=0, le=100)] | None = Field(
        None, description="Restarts of a new engine that are no reason to go back. Default 1."
    )
    progress_deadline_seconds: Annotated[int, Field(ge=5, le=172_800)] | None = Field(
        None,
        description="A new engine that is not ready this long after it was asked for is given up. Default "
        "startupSeconds + drainSeconds + 600.",
    )
    timeout_seconds: Annotated[int, Field(ge=0, le=604_800)] | None = Field(
        None, description="After this long of service without enough evidence onInconclusive applies. Default 600."
    )
    on_inconclusive: OnInconclusive | None = Field(
        None,
        description="`Hold` (default) leaves the new revision where it is and goes on measuring; `Promote` takes it.",
    )
    warm_up: WarmUp | None = Field(
        None,
        description="`WhenIdle`: an engine that serves and that nobody asks anything gets prompts from the operator, "
        "one at a time, so that it can be judged without traffic: at most 36 of 128 tokens. They are compared with "
        "those of the last good revision alone, and are no part of the figures of traffic. Default `Never`.",
    )


class Rollout(Model):
    """How engines start, stop and are replaced."""

    strategy: Strategy | None = Field(
        None,
        description="`Canary` (default): one box first, the others after the analysis; `AllAtOnce`: all boxes. With "
        "one replica both replace it. Either goes back to the last good revision when the new one is worse.",
    )
    max_unavailable: Annotated[int, Field(ge=1, le=256)] | None = Field(
        None, description="Engines that may be missing while a judged revision takes the other boxes. Default 1."
    )
    revision_history_limit: Annotated[int, Field(ge=0, le=20)] | None = Field(
        None, description="Earlier revisions that are kept beside the running and the last good one. Default 2."
    )
    analysis: Analysis | None = Field(None, description="How a new revision is judged.")
    drain_seconds: Annotated[int, Field(ge=0, le=3600)] = Field(
        30, description="How long a leaving engine may finish running requests before they are cut."
    )
    startup_seconds: Annotated[int, Field(ge=30, le=86_400)] = Field(
        3600, description="How long an engine may take from its start until it is ready."
    )
    max_restarts: Annotated[int, Field(ge=0, le=100)] = Field(
        3, description="Restarts of a failing engine before it parks and leaves the GPU alone."
    )


class ServiceType(StrEnum):
    """Type of the Service."""

    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    LOAD_BALANCER = "LoadBalancer"


class Service(Model):
    """How clients reach the engines."""

    port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        None, description="Port of the Service and of the engine. Default 8000."
    )
    type: ServiceType = Field(ServiceType.CLUSTER_IP, description="Type of the Service.")
    api_key_secret_ref: SecretKeyRef | None = Field(
        None, description="Secret key with the API key that clients must send; without it the API is open."
    )
    labels: dict[Annotated[str, Field(max_length=316)], Annotated[str, Field(max_length=63)]] | None = Field(
        None, description="Further labels of the Service.", max_length=32
    )
    annotations: dict[Annotated[str, Field(max_length=316)], Annotated[str, Field(max_length=4096)]] | None = Field(
        None, description="Further annotations of the Service.", max_length=32
    )


class BenchmarkMethod(StrEnum):
    """Which prompts a benchmark measures with."""

    SOURCES = "Sources"
    LLAMA_BENCHY = "LlamaBenchy"
    BOTH = "Both"


class Benchmark(Model):
    """A benchmark of every K, made once by a Job, on one engine that goes on serving."""

    request: Word = Field(
        description="A word of your choice, such as a date. Another word asks for another benchmark; none runs twice."
    )
    method: BenchmarkMethod | None = Field(
        None,
        description="`Sources` (default): Japanese and English financial analysis and Python code; `LlamaBenchy`: "
        "pp2048 and tg128 at depth 0, 4096 and 8192; `Both`.",
    )
    prompts: ConfigMapKeyRef | None = Field(
        None, description="Prompts of your own instead: a key of a ConfigMap that holds YAML, name: text."
    )
    concurrency: Annotated[list[Annotated[int, Field(ge=1, le=256)]], Field(min_length=1, max_length=8)] | None = Field(
        None,
        description="Requests at once. Default 1, 4 and 8.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    ks: Annotated[list[Annotated[int, Field(ge=0, le=MAX_K)]], Field(min_length=1, max_length=16)] | None = Field(
        None,
        description="Values of K, as far as the engine was started for them; 0 is always among them. Default 0, 1, 2, "
        "4 and 8.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    runs: Annotated[int, Field(ge=1, le=20)] | None = Field(None, description="Runs of each measurement. Default 3.")
    tokens: Annotated[int, Field(ge=2, le=32_768)] | None = Field(
        None, description="Tokens of each answer. Default 600."
    )
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(None, description="Of sampling. Default 0.7.")
    deadline_seconds: Annotated[int, Field(ge=60, le=172_800)] | None = Field(
        None, description="After so long it is given up. Default 14400."
    )


class GemmaSpecDeploySpec(Model):
    """Serve this Gemma 4 target with this drafter on these nodes, with exactly this engine, memory and K."""

    recipe: Word | None = Field(
        None, description="A published, versioned set of defaults (`gemmaspec recipes`); explicit fields win."
    )
    replicas: Annotated[int, Field(ge=0, le=MAX_REPLICAS)] = Field(
        1, description="Number of engines, one box each; 0 frees the GPUs."
    )
    model: ModelSpec | None = Field(None, description="The target model.")
    engine: Engine | None = Field(None, description="The engine and its start.")
    memory: Memory | None = Field(None, description="Memory budget.")
    speculative: Speculative | None = Field(None, description="Speculative decoding.")
    nodes: Nodes | None = Field(None, description="Where engines run.")
    cache: Cache | None = Field(None, description="Files that outlive a pod.")
    rollout: Rollout = Field(
        default_factory=lambda: Rollout(drain_seconds=30, startup_seconds=3600, max_restarts=3),
        description="Start, stop and replacement of engines.",
    )
    benchmark: Benchmark | None = Field(None, description="Measure every K once, and recommend one.")
    service: Service = Field(
        default_factory=lambda: Service(type=ServiceType.CLUSTER_IP), description="How clients reach the engines."
    )
    model_config = Model.model_config | {
        "json_schema_extra": rules(
            rule(
                "!has(self.memory) || !has(self.memory.utilizationMode) || self.memory.utilizationMode != 'Auto' || "
                "!has(self.nodes) || !has(self.nodes.accelerator) || self.nodes.accelerator != 'CPU'",
                "utilizationMode Auto computes a share of GPU memory, and a CPU engine has none; remove "
                "memory.utilizationMode, and size the KV cache with memory.kvCacheBytes",
                at=".memory.utilizationMode",
            ),
            rule(
                "has(self.recipe) || (has(self.model) && has(self.model.target))",
                "without a recipe the target model is needed; set model.target, or name a recipe",
                reason="FieldValueRequired",
                at=".model",
            ),
            rule(
                "has(self.recipe) || (has(self.engine) && has(self.engine.image))",
                "without a recipe the engine's image is needed; set engine.image, or name a recipe",
                reason="FieldValueRequired",
                at=".engine",
            ),
            rule(
                "has(self.recipe) || !has(self.speculative) || !has(self.speculative.drafter) || "
                "has(self.speculative.method)",
                "a drafter without a method; set speculative.method (mtp for Gemma 4 assistants), or name a recipe",
                reason="FieldValueRequired",
                at=".speculative",
            ),
            rule(
                "has(self.recipe) || !has(self.speculative) || !has(self.speculative.method) || "
                "!(self.speculative.method in ['mtp', 'dflash', 'eagle3']) || "
                "(has(self.speculative.drafter) && has(self.speculative.drafter.model))",
                "the methods mtp, dflash and eagle3 need a draft model; set speculative.drafter.model",
                saying="'method ' + self.speculative.method + ' needs a draft model; set speculative.drafter.model'",
                reason="FieldValueRequired",
                at=".speculative",
            ),
            rule(
                "has(self.recipe) || !has(self.speculative) || !has(self.speculative.k) || self.speculative.k == 0 || "
                "has(self.speculative.method)",
                "k without a method; set speculative.method, or name a recipe",
                reason="FieldValueRequired",
                at=".speculative",
            ),
        )
    }
