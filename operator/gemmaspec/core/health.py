"""What the engine pods say about themselves: one verdict with a stable reason and the engine's own last words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gemmaspec.core.observation import Pod, Proof
from gemmaspec.core.unschedulable import explain, explain_refusal


@dataclass(frozen=True)
class Health:
    """Verdict over the pods of the current revision.

    status: ``True``, ``False`` or ``Unknown``. parked: an engine failed as often as it may and left its GPU alone.
    """

    status: str
    reason: str
    message: str
    parked: bool = False


# Waiting reasons of the kubelet, and the words that conditions use for them.
_WAITING = {
    "CreateContainerConfigError": "WaitingForReference",
    "ImagePullBackOff": "ImagePullFailed",
    "ErrImagePull": "ImagePullFailed",
    "ErrImageNeverPull": "ImagePullFailed",
    "InvalidImageName": "ImagePullFailed",
    "CreateContainerError": "ContainerFailed",
    "RunContainerError": "ContainerFailed",
}


def health(
    pods: Sequence[Pod],
    wanted: int,
    max_restarts: int,
    downloads: Mapping[str, float] | None = None,
    waits: Mapping[str, str] | None = None,
    by_label: bool = False,
    refused: str = "",
) -> Health:
    """Judge the pods of the current revision; the worst one speaks.

    downloads, waits: what the pods' own ports tell, by pod uid. by_label: whether nodes are chosen by the GB10
    affinity. refused: why the API server takes no more pods.
    """
    if wanted == 0:
        return Health("Unknown", "ScaledToZero", "replicas is 0: no engine runs and the GPUs are free")
    own = [pod for pod in pods if not pod.terminating]
    for pod in sorted(own, key=lambda pod: pod.name):
        trouble = _trouble(pod, max_restarts, by_label)
        if trouble is not None:
            return trouble
    if refused and len(own) < wanted:
        return Health("False", "PodsRefused", explain_refusal(refused))
    shares = [(downloads or {}).get(pod.uid, 0.0) for pod in own if pod.downloading]
    if shares:
        # In tenths: each change is a write of the status.
        tenths = 10 * int(10 * min(shares))
        return Health("Unknown", "Downloading", f"weights are being downloaded; at least {tenths} % are there")
    ready = sum(1 for pod in own if pod.ready)
    if any((waits or {}).get(pod.uid) == "WaitingForMemory" for pod in own if pod.running and not pod.ready):
        words = "a box's memory is not free yet, so that its engine is not started; its log tells how much is needed"
        return Health("Unknown", "WaitingForMemory", f"{ready} of {wanted} engines serve; {words}")
    if ready >= wanted:
        return Health("True", "Serving", f"{ready} of {wanted} engines serve")
    return Health("Unknown", "Starting", f"{ready} of {wanted} engines serve; the others start")


def _trouble(pod: Pod, max_restarts: int, by_label: bool) -> Health | None:
    if pod.ready:
        return None
    if pod.unschedulable is not None:
        return Health("False", *explain(pod.unschedulable, by_label))
    if pod.proof is not None and not pod.proof.ok:
        final = pod.proof.deterministic
        tail = "; the engine is parked, its GPU left free" if final else "; preflight tries again"
        return Health("False", pod.proof.reason, f"{proof_text(pod.proof)}{tail}", parked=final)
    if pod.download_failed is not None and not pod.running:
        return Health("False", pod.download_failed.reason, f"{pod.download_failed.message}")
    if pod.waiting and pod.waiting[0] in _WAITING:
        reason, message = pod.waiting
        return Health("False", _WAITING[reason], stable(message) or reason)
    if pod.ended is None or (pod.restarts == 0 and not pod.waiting and pod.running):
        return None
    words = f"{pod.ended.message} (exit code {pod.ended.exit_code})" if pod.ended.message else pod.ended.reason
    reason = pod.ended.reason if pod.ended.reason not in ("Error", "Completed") else "EngineFailed"
    if pod.restarts >= max_restarts + 1:
        parked = f"the engine failed {pod.restarts} times and is parked, its GPU left free"
        return Health("False", reason, f"{words}; {parked}; change the spec, or delete the pod", parked=True)
    return Health("False", reason, f"{words}; restart {pod.restarts} of {max_restarts}")


def proof_text(proof: Proof) -> str:
    """What preflight found, then the way out; without a stop at the end, since more may follow."""
    return ". ".join(part.rstrip(".") for part in (proof.message, proof.remedy) if part) or proof.reason


def stable(message: str) -> str:
    """The message without what comes and goes: the kubelet alternates between a failed pull and backing off from it."""
    return re.sub(r"^Back-off pulling image .*?: ErrImagePull: ", "", " ".join(message.split()))[:512]
