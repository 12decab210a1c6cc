"""What must hold after a mutation: it acts, or it is refused in words; reverted, everything is as it was."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gemmaspec.api import identity
from gemmaspec.api.spec import Strategy
from gemmaspec.core import analysis, plan, trial
from gemmaspec.core.owner import Owner
from gemmaspec.core.problem import Stalling
from gemmaspec.core.resolve import Resolved, resolve
from gemmaspec.recipes import load
from tests.fuzz.mirror import Mirror
from tests.fuzz.mutations import Mutation
from tests.integration.scene import CHILDREN, Scene, has_converged

# A machine that is busy with other things takes its time; nothing is promised by it.
SETTLE_SECONDS = 240.0
# Some values are never served by a fake kubelet: what is not by then is judged as it is.
SERVED_SECONDS = 6.0
OWNER = Owner("ns", "tried", "uid")
# Longer texts are compared by their hashes.
LONG = 1000
# A revision that is taken up again is the newest one, and numbered so.
_BOOKKEEPING = (f"{identity.GROUP}/revision-number",)


@dataclass
class Verdict:
    """What became of a mutation, in words. how: refused (by the API server), stalled, acted (on children or status),
    decides (acts on what will be decided, and on nothing now), same. wrong: what must not be. seconds: until it was
    answered, and until all was as before.
    """

    identity: str
    field: str
    kind: str
    text: str
    how: str
    wrong: str = ""
    seconds: tuple[float, ...] = ()

    @classmethod
    def of(cls, mutation: Mutation, how: str, wrong: str = "") -> Verdict:
        """About a mutation."""
        return cls(mutation.identity, mutation.field, mutation.kind, str(mutation), how, wrong)

    @property
    def entry(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


def look_of(child: Mapping[str, Any]) -> str:
    """A child as text: all but bookkeeping, byte for byte; of long texts in it the hash."""
    return json.dumps(_shortened(_kept(child)), sort_keys=True)


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shortened(below) for key, below in value.items()}
    if isinstance(value, list):
        return [_shortened(below) for below in value]
    if isinstance(value, str) and len(value) > LONG:
        return hashlib.sha256(value.encode()).hexdigest()
    return value


def _kept(child: Mapping[str, Any]) -> dict[str, Any]:
    metadata = child["metadata"]
    given = metadata.get("annotations", {})
    annotations = {k: v for k, v in given.items() if not k.startswith("deployment.") and k not in _BOOKKEEPING}
    left = ("uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "annotations")
    kept = {key: value for key, value in metadata.items() if key not in left} | {"annotations": annotations}
    # What it is stands in events of watches, and not in lists.
    body = {key: _allocated(value) for key, value in child.items() if key not in ("status", "kind", "apiVersion")}
    return body | {"metadata": kept}


def _allocated(spec: Any) -> Any:
    """A Service's spec without the port that the API server draws for its nodes: it draws another one each time."""
    if not isinstance(spec, dict) or "ports" not in spec:
        return spec
    ports = [{key: value for key, value in port.items() if key != "nodePort"} for port in spec["ports"]]
    return {**spec, "ports": ports}


def means_the_same(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether two stored specs ask for the same thing: same objects, same decisions.

    Where they do not, the running operator must show it.
    """
    recipes = load()
    try:
        ours, theirs = resolve(before, recipes), resolve(after, recipes)
    except Stalling:
        return False
    return _objects(ours) == _objects(theirs) and _deciding(ours) == _deciding(theirs)


def _objects(resolved: Resolved) -> Any:
    """What is rendered, less the record of the spec as it was given: that tells "unset" from "set to the default"."""
    planned = plan.plan(OWNER, resolved, resolved.k, {"gemmaspec_engine/a.py": ""})
    return planned.revision, planned.pin, planned.shared, planned.deployment, planned.config["data"]


def _deciding(resolved: Resolved) -> Any:
    """All that decisions are made with, as the code that makes them reads it (tests/fuzz/test_deciding.py proves each
    field of it to move some decision).
    """
    rollout = resolved.spec.rollout
    limit = rollout.revision_history_limit
    return (
        resolved.control,
        resolved.prior,
        resolved.k,
        resolved.spec.replicas,
        rollout.max_restarts,
        analysis.rules(resolved),
        rollout.strategy is Strategy.ALL_AT_ONCE,
        rollout.max_unavailable or 1,
        trial.HISTORY_LIMIT if limit is None else limit,
    )


def acts_in_decisions(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether the mutation changes only what the operator decides with: no object shows it."""
    recipes = load()
    ours, theirs = resolve(before, recipes), resolve(after, recipes)
    return bool(_objects(ours) == _objects(theirs) and _deciding(ours) != _deciding(theirs))


def _unlike(before: Mapping[str, str], after: Mapping[str, str]) -> list[tuple[str, str]]:
    """From where on children differ, child by child."""
    pairs = [(before.get(key, "none"), after.get(key, "none")) for key in sorted({*before, *after})]
    return [(was[n:], now[n:]) for was, now in pairs if was != now for n in [_common(was, now)]]


def _common(one: str, other: str) -> int:
    same = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return max(0, same - 40)


class Subject:
    """One resource under mutation. The mirror tells when to look; what is judged is read from the API server."""

    def __init__(self, scene: Scene, mirror: Mirror, name: str, base: Mapping[str, Any]) -> None:
        self.scene = scene
        self.name = name
        self.base = base
        self._mirror = mirror
        self._looks: dict[tuple[str, str], str] = {}
        self._shape: dict[str, str] = {}
        self._generation = 0
        code, said = self._put(base)
        if code >= 400:
            raise ValueError(f"the base itself is refused: {said}")
        self._settle()
        if not has_converged(self._resource()):
            raise TimeoutError(f"{name} never served: {self._story()}")
        self._shape = self._current(self._read())
        self._children = self._all(self._read())
        self._said = self._told(self._resource())
        self._stored = self._resource()["spec"]

    def mutate(self, mutation: Mutation) -> Verdict:
        """Apply a mutation, judge, revert, judge."""
        began, before = time.monotonic(), self._pods()
        generation = self._generation
        code, said = self._put(mutation.apply(self.base))
        if code >= 400:
            return Verdict.of(mutation, "refused", self._judge_refusal(mutation, code, said, before))
        if json.loads(said)["spec"] == self._stored:
            wrong = "" if self._generation == generation else "the same spec counts as another"
            return Verdict.of(mutation, "same", wrong)
        verdict, turned = Verdict.of(mutation, "acted"), began
        try:
            self._settle()
            turned = time.monotonic()
            self._judge(verdict, mutation, json.loads(said)["spec"], before)
        except TimeoutError as error:
            verdict.wrong = verdict.wrong or str(error)[:1500]
        try:
            self._put(self.base)
            self._settle(back=True)
        except TimeoutError as error:
            verdict.wrong = verdict.wrong or f"not reverted: {error}"[:1500]
        verdict.seconds = (round(turned - began, 1), round(time.monotonic() - turned, 1))
        return verdict

    def _judge(self, verdict: Verdict, mutation: Mutation, spec: Mapping[str, Any], before: dict[str, str]) -> None:
        resource, children = self._resource(), self._read()
        stalled = _condition(resource, "Stalled")
        changed = self._current(children, resource) != self._shape
        if stalled["status"] == "True":
            verdict.how = "stalled"
            names = [str(step) for step in mutation.path if isinstance(step, str)]
            if not self._stands(children) or not before.items() <= self._pods().items():
                verdict.wrong = f"a spec that can't run moved what runs: {stalled['message']}"
            elif not any(name in stalled["message"] for name in names):
                verdict.wrong = f"the message names no field: {stalled['message']}"
        elif not changed and self._told(resource) == self._said:
            if means_the_same(self._stored, spec):
                verdict.how = "same"
            elif acts_in_decisions(self._stored, spec):
                verdict.how = "decides"
            else:
                verdict.wrong = "ignored: accepted, and nothing differs"

    def _judge_refusal(self, mutation: Mutation, code: int, said: str, before: dict[str, str]) -> str:
        names = [str(step) for step in mutation.path if isinstance(step, str)]
        typed = code == 500 and "typed patch object" in said  # what Kubernetes 1.36 says of a wrong type in an apply
        if code not in (400, 422) and not typed:
            return f"refused with {code}: {said}"
        if not any(name in said for name in names):
            return f"the refusal names no field: {said}"
        resource = self._resource()
        if resource["metadata"]["generation"] != self._generation:
            return "a refused spec was stored"
        if self._current(self._mirrored()) != self._shape or not before.items() <= self._pods().items():
            return "a refused spec moved what runs"
        return ""

    def _settle(self, back: bool = False) -> None:
        """Wait for the newest generation's answer; ``back``: until the children are those of before."""
        quickly = time.monotonic() + SERVED_SECONDS

        def settled() -> bool:
            resource = self._mirror.one("gemmaspecdeploys", self.name)
            if resource is None or not resource["metadata"]["generation"] == self._generation == _observed(resource):
                return False
            if back:
                return has_converged(resource) and self._current(self._mirrored()) == self._shape
            done = _condition(resource, "Stalled")["status"] == "True" or has_converged(resource)
            return done or (bool(self._shape) and time.monotonic() > quickly)

        if not self._mirror.wait(self.name, settled, SETTLE_SECONDS):
            raise TimeoutError(f"the answer to {self.name}: not within {SETTLE_SECONDS:g} s. {self._story()}")

    def _read(self) -> list[tuple[str, dict[str, Any]]]:
        """Children with their plurals, from the API server."""
        return [(plural, child) for plural in CHILDREN for child in self.scene.owned(plural, self.name)]

    def _mirrored(self) -> list[tuple[str, dict[str, Any]]]:
        return [(plural, child) for plural in CHILDREN for child in self._mirror.owned(plural, self.name)]

    def _all(self, children: Iterable[tuple[str, dict[str, Any]]]) -> dict[str, str]:
        """Children as text. A version of one is looked at once."""
        known, self._looks, found = self._looks, {}, {}
        for plural, child in children:
            metadata = child["metadata"]
            version = metadata["uid"], metadata["resourceVersion"]
            self._looks[version] = found[f"{plural}/{metadata['name']}"] = known.get(version) or look_of(child)
        return found

    def _current(
        self, children: Iterable[tuple[str, dict[str, Any]]], resource: Mapping[str, Any] | None = None
    ) -> dict[str, str]:
        """Children as text, less the revisions that are kept for a return. resource: None for what the mirror shows."""
        resource = resource or self._mirror.one("gemmaspecdeploys", self.name) or {}
        current = (None, resource.get("status", {}).get("revision"))
        kept = [entry for entry in children if entry[1]["metadata"]["labels"].get("gemmaspec.io/revision") in current]
        return self._all(kept)

    def _stands(self, children: Iterable[tuple[str, dict[str, Any]]]) -> bool:
        """Whether every child of before is as it was: what could not be made so may have left something beside them."""
        return self._children.items() <= self._all(children).items()

    @staticmethod
    def _told(resource: Mapping[str, Any]) -> Any:
        """What the status says of the spec itself: figures and conditions move with the moment."""
        status = resource.get("status", {})
        k = status.get("k", {})
        return k.get("desired"), k.get("actuator"), status.get("replicas"), status.get("endpoint")

    def _story(self) -> str:
        other = [f"{now[:300]} for {was[:300]}" for was, now in _unlike(self._shape, self._current(self._mirrored()))]
        return f"children: {other}\nstatus: {json.dumps(self._resource().get('status'))[:1500]}"

    def _put(self, spec: Mapping[str, Any]) -> tuple[int, str]:
        """Apply a spec; HTTP status and the API server's answer."""
        body = {
            "apiVersion": "gemmaspec.io/v1alpha1",
            "kind": "GemmaSpecDeploy",
            "metadata": {"name": self.name, "namespace": self.scene.namespace},
            "spec": spec,
        }
        code, said = self.scene.apply_body(self.scene.path("gemmaspecdeploys", self.name), body)
        if code < 300:
            self._generation = json.loads(said)["metadata"]["generation"]
        return code, said

    def _resource(self) -> dict[str, Any]:
        return self.scene.resource(self.name)

    def _pods(self) -> dict[str, str]:
        """Engine pods that are not on their way out: uid by name."""
        return {
            pod["metadata"]["name"]: pod["metadata"]["uid"]
            for pod in self.scene.owned("pods", self.name)
            if "deletionTimestamp" not in pod["metadata"]
        }


def _observed(resource: Mapping[str, Any]) -> int | None:
    found = resource.get("status", {}).get("observedGeneration")
    return None if found is None else int(found)


def _condition(resource: Mapping[str, Any], kind: str) -> dict[str, Any]:
    found = resource.get("status", {}).get("conditions", ())
    return dict(next((entry for entry in found if entry["type"] == kind), {"status": "Unknown", "message": ""}))
