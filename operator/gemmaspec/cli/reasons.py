"""What each reason of a condition, event or termination message means, and what to do: the runbook's text.

``python -m gemmaspec.cli.reasons FILE`` writes the runbook from it. A test holds it against the code, so that no
reason is without an entry; what vLLM's own failures mean comes from the tables that recognise them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gemmaspec_engine import explanations, knownbad


@dataclass(frozen=True)
class Reason:
    """One reason: where it shows, what it means, what to do ("" where nothing is wrong)."""

    name: str
    group: str
    meaning: str
    remedy: str = ""


_WELL = "When all is well, or on its way"
_SPEC = "The spec can't be made so (Stalled)"
_POD = "The pod does not start"
_PROOF = "Preflight refuses the engine"
_WEIGHTS = "Weights"
_ENGINE = "The engine fails"
_LAUNCHER = "The launcher"
_SPECULATION = "Speculation"
_ROLLOUT = "Rollouts"

GROUPS: Final = (_WELL, _SPEC, _POD, _PROOF, _WEIGHTS, _ENGINE, _LAUNCHER, _SPECULATION, _ROLLOUT)

_DELETE = "Delete the pod; if it comes back, report it with the log of the pod's first container."
_PAIR = "Use the drafter that was trained for this target, or set `speculative.method: off`."
_PIN = "Correct the pin, or the image: `gemmaspec plan -f FILE` shows what is asked for."
_OVERLAY = "See the log of the container `transformers`; pin another version or commit, or use mode `Verify`."

_OWN: Final = (
    # --- all is well
    Reason("Serving", _WELL, "As many engines as `replicas` asks for serve."),
    Reason("Settled", _WELL, "What runs is what the spec asks for; nothing is left to do."),
    Reason("Progressing", _WELL, "Nothing stands in the way."),
    Reason("ScaledToZero", _WELL, "`replicas` is 0: no engine runs, the GPUs are free."),
    Reason("Starting", _WELL, "Engines boot. A 31B engine takes minutes; `kubectl logs` shows how far it is."),
    Reason("RollingOut", _WELL, "Engines of the revision that the spec renders are taking their boxes."),
    Reason("Analysing", _WELL, "A new revision runs and is compared with the last good one."),
    Reason("RollingBack", _WELL, "The last good revision is taking its boxes back."),
    Reason("Proved", _WELL, "Preflight found the engine to be the one that was pinned."),
    Reason("NotProved", _WELL, "Preflight of this revision has not ended yet."),
    Reason("Downloading", _WELL, "The weights are on their way; the share is in the message."),
    Reason("Cached", _WELL, "The box had the weights already."),
    Reason("SpeculationOff", _WELL, "The spec asks for K = 0 or `method: off`."),
    Reason("KHeld", _WELL, "Somebody holds K for a while; `gemmaspec set-k NAME --clear` ends it."),
    Reason("NotMeasured", _WELL, "No drafts were counted yet: no traffic, or no metrics. K does not move on that."),
    Reason("Accepting", _WELL, "The target accepts drafts."),
    Reason("OnTrial", _WELL, "K stays as it is while the revision is compared with the last good one."),
    Reason("WaitingForMemory", _WELL, "The launcher waits until an earlier engine has given its memory back."),
    # --- the spec
    Reason("InvalidSpec", _SPEC, "Fields contradict each other; the message names field, value and way out.", "Edit."),
    Reason("MissingField", _SPEC, "Neither spec nor recipe sets a field that is needed.", "Set the named field."),
    Reason(
        "UnknownRecipe",
        _SPEC,
        "This operator has no recipe of that name.",
        "`gemmaspec recipes` lists them; a newer operator may have it.",
    ),
    Reason(
        "ImageRequired",
        _SPEC,
        "The recipe's source names no image that a registry has.",
        "Set `engine.image` to your own build, by digest.",
    ),
    Reason(
        "ImageNotPinned",
        _SPEC,
        "The image is given by tag.",
        "Use `repo@sha256:…`, or accept the risk with `engine.allowTag: true`.",
    ),
    Reason(
        "PatchRequired",
        _SPEC,
        "The recipe needs a patch that only you can bring.",
        "Set `engine.patches` as the recipe's notes say (`gemmaspec recipes NAME`).",
    ),
    Reason(
        "HostPathNotAllowed",
        _SPEC,
        "A cache on the host lies outside the folders that the administrator allows.",
        "Use a PVC, or have GEMMASPEC_HOST_PATH_PREFIXES (chart: `hostPathPrefixes`) extended.",
    ),
    Reason(
        "LiveUnavailable",
        _SPEC,
        "`actuator: Live` was asked for where it can't be had.",
        "Use `Auto` or `Restart`, give the operator its key, or use a version that docs/live-k-matrix.md lists.",
    ),
    Reason(
        "EngineModeUnavailable",
        _SPEC,
        "`control.mode: Engine` needs a vLLM with adaptive verification of its own.",
        "Use a newer image, or mode `Rollback` or `Adaptive`.",
    ),
    Reason(
        "ApiRejected",
        _SPEC,
        "The API server, or an admission policy, refuses an object of this resource.",
        "Its words are in the message: correct the field, or have the policy changed.",
    ),
    Reason(
        "NameTaken",
        _SPEC,
        "An object of the needed name belongs to somebody else; it is left alone.",
        "Rename this resource, or remove that object.",
    ),
    Reason(
        "DefinitionOutdated",
        _SPEC,
        "The operator is newer than the custom resource definition.",
        "Apply the definition of the operator's release (`kubectl apply --server-side -f crds/`).",
    ),
    # --- the pod
    Reason(
        "Unschedulable",
        _POD,
        "No node takes the pod; the scheduler's words are in the message.",
        "Free a box, correct `nodes.selector` and tolerations, or lower the memory that is asked for.",
    ),
    Reason(
        "NodesUnlabelled",
        _POD,
        "No node says that it is a GB10 box.",
        "Run GPU feature discovery, or label by hand: the command is in the message. Or set `nodes.selector`.",
    ),
    Reason(
        "PodsRefused",
        _POD,
        "The API server refuses the pod: quota, pod security or an admission policy.",
        "The words are in the message; engines need what docs/security.md lists.",
    ),
    Reason(
        "WaitingForReference",
        _POD,
        "A Secret or ConfigMap that the spec names is missing.",
        "Create it; the pod goes on by itself.",
    ),
    Reason(
        "ImagePullFailed",
        _POD,
        "The node can't pull the image.",
        "Check name, digest, architecture (GB10 is arm64) and pull secrets.",
    ),
    Reason(
        "ContainerFailed",
        _POD,
        "The container could not be started.",
        "`kubectl describe pod` has the runtime's words; check `nodes.runtimeClassName`.",
    ),
    Reason(
        "ImageDiffers",
        _POD,
        "Engines of one revision run different images: the tag was moved.",
        "Pin the digest.",
    ),
    # --- preflight
    Reason(
        "PreflightFailed",
        _PROOF,
        "Preflight found something that no retry changes; the engine is parked before it loads weights.",
        "The message has the finding, which is listed here under its own name.",
    ),
    Reason("PreflightMissing", _PROOF, "The launcher found no result of preflight.", _DELETE),
    Reason("PreflightUnreadable", _PROOF, "The launcher can't read the result of preflight.", _DELETE),
    Reason(
        "ProbeTimeout",
        _PROOF,
        "Questions to vLLM were not answered in time.",
        "It is tried again. On a box that swaps or throttles, find out why.",
    ),
    Reason("VllmVersionMismatch", _PROOF, "The image holds another vLLM than `engine.vllm` says.", _PIN),
    Reason(
        "TransformersVersionMismatch",
        _PROOF,
        "The engine would import another transformers.",
        "Correct `engine.transformers`, or set `mode: Install`.",
    ),
    Reason(
        "TransformersCommitMismatch",
        _PROOF,
        "The engine would import another commit of transformers.",
        "Correct `engine.transformers.git.commit`, or set `mode: Install`.",
    ),
    Reason("TransformersNotInOverlay", _PROOF, "The image's transformers wins over the installed one.", _OVERLAY),
    Reason("TransformersVersionMissing", _PROOF, "The package index has no such version.", _OVERLAY),
    Reason("TransformersUnfetched", _PROOF, "The package index or git server can't be reached.", _OVERLAY),
    Reason("TransformersUnfit", _PROOF, "That transformers can't be installed into this image.", _OVERLAY),
    Reason("InstallerMissing", _PROOF, "The image has no pip (or git) to install with.", "Use an image that has."),
    Reason("PatchHashMismatch", _PROOF, "The patch has another hash than the spec.", "Pin the hash of what you mean."),
    Reason(
        "PatchSourceMissing",
        _PROOF,
        "The patch's source is not there.",
        "Create the ConfigMap with that key, or correct `engine.patches[].source`.",
    ),
    Reason("PatchImportFailed", _PROOF, "The patched module can't be imported in this image.", _PIN),
    Reason("PatchNotImported", _PROOF, "The engine would not import the patched file.", _PIN),
    Reason(
        "AssistantUnknown",
        _PROOF,
        "This transformers does not know Gemma 4's drafters: acceptance would be 0 %.",
        "transformers 5.8 or newer: another image, or `engine.transformers` with `mode: Install`.",
    ),
    Reason("ModelTypeUnknown", _PROOF, "This transformers does not know the model.", "Use a newer transformers."),
    Reason("SpeculativeKeyUnknown", _PROOF, "This vLLM does not take a speculative setting.", _PIN),
    Reason("SchedulerClassMissing", _PROOF, "The agent can't be imported into this vLLM.", "Set `actuator: Restart`."),
    Reason("SchedulerClassUnfit", _PROOF, "This vLLM's scheduler has changed.", "Set `actuator: Restart`."),
    Reason("DrafterKindWrong", _PROOF, "This is no drafter for that target.", _PAIR),
    Reason("DrafterVocabMismatch", _PROOF, "Target and drafter have different vocabularies.", _PAIR),
    Reason("DrafterHiddenMismatch", _PROOF, "The drafter expects another hidden size of the target.", _PAIR),
    Reason("DrafterKVMismatch", _PROOF, "The drafter reads keys and values of another shape.", _PAIR),
    Reason("DrafterTooShort", _PROOF, "The drafter's context is shorter than the target's.", "A warning only."),
    Reason(
        "UtilizationDoesNotFit",
        _PROOF,
        "The box has less free memory than the engine would take; on a GB10 it would wedge the host.",
        "The message names the largest utilization that fits. Or free memory, or lower `reserveGiB`.",
    ),
    Reason(
        "KVCacheDoesNotFit",
        _PROOF,
        "`memory.kvCacheBytes` is more than the box has free beside the weights.",
        "Lower it; the message has the figures.",
    ),
    Reason(
        "BudgetUnknown",
        _PROOF,
        "`utilizationMode: Auto` can't compute the model's need.",
        "Set `memory.utilization` and mode `Fixed`.",
    ),
    Reason("PinInvalid", _PROOF, "The pin that the operator mounts can't be read.", _DELETE),
    Reason(
        "FilesChanged",
        _PROOF,
        "Files of the pin differ from their hashes.",
        "Somebody edited the ConfigMap: delete the pod, the operator restores it.",
    ),
    Reason("StateUnwritable", _PROOF, "The pod's state directory can't be written.", "Free disk space on the node."),
    # --- weights
    Reason(
        "ModelNotFound", _WEIGHTS, "The hub or the cache has no such model.", "Correct `model.target` or `drafter`."
    ),
    Reason("RevisionNotFound", _WEIGHTS, "The model has no such revision.", "Correct `revision`."),
    Reason(
        "HubTokenRejected",
        _WEIGHTS,
        "The hub refuses the token, or the model's licence was not accepted with it.",
        "Accept the licence on the hub; correct the Secret of `cache.download.tokenSecretRef`.",
    ),
    Reason("CacheFull", _WEIGHTS, "The cache has no room for the weights.", "Free or enlarge the volume."),
    Reason("DownloadFailed", _WEIGHTS, "The download broke off; it goes on where it stopped.", "Check the network."),
    Reason(
        "NotDownloaded",
        _WEIGHTS,
        "The cache lacks the weights and nothing may fetch them.",
        "Fill the cache, or set `cache.weights` to a volume that the operator may fill.",
    ),
    # --- the engine
    Reason("EngineExited", _ENGINE, "vLLM ended by itself, without an error line.", "Read `kubectl logs --previous`."),
    Reason(
        "OOMKilled",
        _ENGINE,
        "The kernel killed the engine for memory: the container's limit, or the node's last free page.",
        "Raise `engine.resources.limits.memory`, or lower `memory.utilization`.",
    ),
    Reason(
        "EngineKilled",
        _ENGINE,
        "vLLM was killed by a signal.",
        "With kernel out-of-memory kills on the node, lower `memory.utilization`.",
    ),
    Reason(
        "EngineStalled",
        _ENGINE,
        "Requests ran and no token moved for the stated time: the engine was killed and boots anew.",
        "If it comes back, set `speculative.k: 0` and report it to vLLM with the log.",
    ),
    # --- the launcher
    Reason(
        "BootLimit",
        _LAUNCHER,
        "The engine failed as often as `rollout.maxRestarts` allows; it is parked and the GPU is free.",
        "Correct what the last error names, then change the spec or delete the pod.",
    ),
    Reason("BackOff", _LAUNCHER, "The launcher waits before the next boot of a failed engine.", "Read the last error."),
    Reason(
        "MemoryNotFree",
        _LAUNCHER,
        "Memory that the engine needs did not become free in time.",
        "Find who holds it (`nvidia-smi`, `free -h`); another engine may still run on the box.",
    ),
    Reason("MemoryUnknown", _LAUNCHER, "Free memory can't be read.", "Check /proc/meminfo in the pod."),
    Reason("Stopped", _LAUNCHER, "The pod was asked to stop."),
    # --- speculation
    Reason(
        "DraftRejected",
        _SPECULATION,
        "The target has rejected every draft since this engine began, over several requests: a broken pair.",
        "Look for a wrong patch, transformers or drafter (see the sources under *Preflight*). K stays 0 until the "
        "spec changes.",
    ),
    Reason(
        "DraftsDoNotPay",
        _SPECULATION,
        "Drafts cost more time than they save on this traffic; K was lowered.",
        "Nothing: recovery is tried by itself. If this is your traffic, set `speculative.k` to the K that runs.",
    ),
    Reason("KLowered", _SPECULATION, "The K that runs is below the one that was asked for.", "See DraftsDoNotPay."),
    Reason("TrialAfterHold", _SPECULATION, "The hold is over: a higher K is tried."),
    Reason("TrialPassed", _SPECULATION, "The trial ended without a proof for or against the higher K, which stays."),
    Reason(
        "RecoveryProved", _SPECULATION, "Acceptance is proved to have recovered; K goes up, or stays up after a trial."
    ),
    Reason("RecoveryNotProved", _SPECULATION, "The higher K did not pay; the next try comes after a longer hold."),
    Reason(
        "AgentFailed",
        _SPECULATION,
        "Our code in the engine raised; the engine goes on with a static K.",
        "Report the log line; deleting the pod starts the agent again.",
    ),
    Reason(
        "AgentSilent",
        _SPECULATION,
        "The agent in an engine has not answered the operator for minutes: K stays what it is there.",
        "Look for a NetworkPolicy on port 8471, a changed key of the operator, and the agent's words in the engine's "
        "log; deleting the pod starts the agent again.",
    ),
    Reason(
        "AgentOnlyWatches",
        _SPECULATION,
        "The agent can't move K in this engine (the message says why) and only reports.",
        "Use a version of docs/live-k-matrix.md, or `actuator: Restart`.",
    ),
    Reason(
        "GraphsMissing",
        _SPECULATION,
        "Steps run without full CUDA graphs though the spec did not ask for it: a third of the speed is lost.",
        "Remove compilation flags from extraArgs; check that the attention backend supports full graphs.",
    ),
    # --- rollouts
    Reason("FirstRevision", _ROLLOUT, "There is no earlier revision to compare with."),
    Reason("InitialDelay", _ROLLOUT, "The new engine serves; its first seconds don't count."),
    Reason("FewDrafts", _ROLLOUT, "Too few drafts for a verdict.", "Send traffic, or let `onInconclusive` decide."),
    Reason("FewSpans", _ROLLOUT, "Too little comparable load for a verdict on speed.", "As for FewDrafts."),
    Reason("AnalysisPassed", _ROLLOUT, "The new revision is as good as the last good one, and is that now."),
    Reason("AcceptanceHolds", _ROLLOUT, "Tokens per step are as good as before."),
    Reason("DraftsPay", _ROLLOUT, "Whatever the new drafter does, it can't lose more than is allowed."),
    Reason("SpeedHolds", _ROLLOUT, "Tokens per second of a request are as good as before."),
    Reason("RevisionPromoted", _ROLLOUT, "The new revision is the last good one now."),
    Reason("Reverted", _ROLLOUT, "The spec asks again for what runs, or for another revision: the trial is over."),
    Reason(
        "Inconclusive",
        _ROLLOUT,
        "There was not enough evidence in time.",
        "`onInconclusive: Hold` waits for traffic; `Promote` takes the revision as it is.",
    ),
    Reason(
        "RolledBack",
        _ROLLOUT,
        "The new revision was worse or dead; the last good one runs, the spec is as you wrote it.",
        "Read the comparison in the message; correct the spec or put the earlier one back.",
    ),
    Reason("ServingLastGood", _ROLLOUT, "Engines of the last good revision serve.", "As for RolledBack."),
    Reason(
        "ServingEarlierSpec", _ROLLOUT, "The newest spec can't be made so; engines of an earlier one serve.", "Edit."
    ),
    Reason("AcceptanceWorse", _ROLLOUT, "The new revision gains fewer tokens a step.", "As for RolledBack."),
    Reason("SpeedWorse", _ROLLOUT, "The new revision is slower per request.", "As for RolledBack."),
    Reason("EngineRestarts", _ROLLOUT, "The new engine restarted more than `failureLimit` allows.", "Read its error."),
    Reason("EngineParked", _ROLLOUT, "The new engine is parked.", "See the reason of `EngineHealthy`."),
    Reason(
        "ProgressDeadlineExceeded",
        _ROLLOUT,
        "The new engine was not ready within `progressDeadlineSeconds`.",
        "See the pod's conditions; a slow box needs a longer deadline.",
    ),
    Reason(
        "LastGoodLost",
        _ROLLOUT,
        "The record of the last good revision is gone; what runs is left alone.",
        "Change the spec to what you want to run.",
    ),
)


def _table() -> Mapping[str, Reason]:
    entries = {entry.name: entry for entry in _OWN}
    for failure in explanations.known():
        told = "vLLM's own words, in the message, were recognised as this."
        entries.setdefault(failure.reason, Reason(failure.reason, _ENGINE, told, failure.remedy))
    for finding in knownbad.known():
        meaning = f"Known bad: {finding.message} ({finding.source})."
        entries.setdefault(finding.reason, Reason(finding.reason, _PROOF, meaning, finding.remedy))
    return entries


REASONS: Final = _table()
"""Every reason by its name."""


def runbook() -> str:
    """The runbook in Markdown; each reason is an anchor of its own name in lower case."""
    parts = [_HEAD]
    for group in GROUPS:
        parts.append(f"## {group}\n")
        for entry in sorted((entry for entry in REASONS.values() if entry.group == group), key=lambda one: one.name):
            remedy = f" **Do:** {entry.remedy}" if entry.remedy else ""
            parts.append(f"### {entry.name}\n{entry.meaning}{remedy}\n")
    return "\n".join(parts)


_HEAD: Final = """# Runbook

Each reason that a condition, an event or a pod's termination message can have. Generated by `make generate` from
[reasons.py](../operator/gemmaspec/cli/reasons.py); alerts have [a page of their own](alerts.md).

Start with `kubectl describe gsd NAME`: the conditions say where it stands.
- `Stalled=True`: nothing happens until the spec (or what the message names) changes.
- `Reconciling=True`: it is on its way; the message says to what.
- `Ready=False` with neither: something is waited for, and goes on by itself.
- `Preflight=False`: the engine is not the one that was pinned; it was stopped before it loaded weights.
- `SpeculationHealthy=False`: it serves, but drafts do not earn what they cost. Serving comes first.
"""

if __name__ == "__main__":
    Path(sys.argv[1]).write_text(runbook(), encoding="utf-8")
