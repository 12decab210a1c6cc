"""What must hold after a mutation: it acts, or it is refused in words; reverted, everything is as it was."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gemmaspec.api import identity
from gemmaspec.api.spec import Strategy
from gemmaspec.core import analysis, plan, trial
from gemmaspec.core.owner import Owner
from gemmaspec.core.problem import Stalling
from gemmaspec.core.resolve import Resolved, resolve
from gemmaspec.recipes import load
from testbed.deadline import wait_for
from tests.fuzz.mutations import Mutation
from tests.integration.scene import Scene

# A machine that is busy with other things takes its time; nothing is promised by it.
SETTLE_SECONDS = 240.0
OWNER = Owner("ns", "tried", "uid")
# A revision that is taken up again is the newest one, and numbered so.
_BOOKKEEPING = (f"{identity.GROUP}/revision-number",)


@dataclass
class Verdict:
    """What became of a mutation. how: refused (by the API server), stalled, acted (on children or status), decides
    (acts on what will be decided, and on nothing now), same. wrong: what must not be.
    """

    mutation: Mutation
    how: str
    wrong: str = ""


def shape(children: Mapping[tuple[str, str], dict[str, Any]]) -> str:
    """Children as text: all but bookkeeping, byte for byte."""
    found = {f"{plural}/{name}": _kept(child) for (plural, name), child in children.items()}
    return json.dumps(found, sort_keys=True)


def _kept(child: dict[str, Any]) -> dict[str, Any]:
    metadata = child["metadata"]
    given = metadata.get("annotations", {})
    annotations = {k: v for k, v in given.items() if not k.startswith("deployment.") and k not in _BOOKKEEPING}
    left = ("uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "annotations")
    kept = {key: value for key, value in metadata.items() if key not in left} | {"annotations": annotations}
    return {key: _allocated(value) for key, value in child.items() if key != "status"} | {"metadata": kept}


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


def _unlike(before: str, after: str) -> list[tuple[str, str]]:
    """From where on two texts differ, child by child."""
    was, now = json.loads(before), json.loads(after)
    pairs = [(json.dumps(was.get(key)), json.dumps(now.get(key))) for key in sorted({*was, *now})]
    return [(ours[n:], theirs[n:]) for ours, theirs in pairs if ours != theirs for n in [_common(ours, theirs)]]


def _common(one: str, other: str) -> int:
    same = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return max(0, same - 40)


class Subject:
    """One resource under mutation."""

    def __init__(self, scene: Scene, name: str, base: Mapping[str, Any]) -> None:
        self.scene = scene
        self.name = name
        self.base = base
        self._put(base)
        self._settle()
        self._shape = self._now()
        self._children = {key: shape({key: child}) for key, child in scene.children(name).items()}
        self._said = self._told()
        self._stored = self._resource()["spec"]

    def mutate(self, mutation: Mutation) -> Verdict:
        """Apply a mutation, judge, revert, judge."""
        before = self._pods()
        code, said = self._put(mutation.apply(self.base))
        if code >= 400:
            return Verdict(mutation, "refused", self._judge_refusal(mutation, code, said, before))
        resource = self._resource()
        if resource["spec"] == self._stored:
            return Verdict(mutation, "same")
        verdict = Verdict(mutation, "acted")
        try:
            self._settle()
            self._judge(verdict, resource["spec"], before)
        except TimeoutError as error:
            verdict.wrong = verdict.wrong or str(error)[:1500]
        try:
            self._put(self.base)
            self._settle(back=True)
        except TimeoutError as error:
            verdict.wrong = verdict.wrong or f"not reverted: {error}"[:1500]
        return verdict

    def _judge(self, verdict: Verdict, spec: Mapping[str, Any], before: dict[str, str]) -> None:
        stalled = self._condition("Stalled")
        changed = self._now() != self._shape
        if stalled["status"] == "True":
            verdict.how = "stalled"
            names = [str(step) for step in verdict.mutation.path if isinstance(step, str)]
            if not self._stands() or not before.items() <= self._pods().items():
                verdict.wrong = f"a spec that can't run moved what runs: {stalled['message']}"
            elif not any(name in stalled["message"] for name in names):
                verdict.wrong = f"the message names no field: {stalled['message']}"
        elif not changed and self._told() == self._said:
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
        if self._now() != self._shape or not before.items() <= self._pods().items():
            return "a refused spec moved what runs"
        return ""

    def _settle(self, back: bool = False) -> None:
        """Wait for the newest generation's answer; ``back``: until the children are those of before."""
        quickly = time.monotonic() + 6.0

        def settled() -> bool:
            resource = self._resource()
            if resource.get("status", {}).get("observedGeneration") != resource["metadata"]["generation"]:
                return False
            if back:
                return self.scene.converged(self.name) and self._now() == self._shape
            done = self._condition("Stalled")["status"] == "True" or self.scene.converged(self.name)
            return done or time.monotonic() > quickly  # some values are never served by a fake kubelet

        wait_for(settled, f"the answer to {self.name}", SETTLE_SECONDS, every=0.2, fail=self._story)

    def _now(self) -> str:
        """Children as text, less the revisions that are kept for a return."""
        current = (None, self._resource().get("status", {}).get("revision"))
        children = self.scene.children(self.name)
        labels = {key: child["metadata"]["labels"].get("gemmaspec.io/revision") for key, child in children.items()}
        return shape({key: child for key, child in children.items() if labels[key] in current})

    def _stands(self) -> bool:
        """Whether every child of before is as it was: what could not be made so may have left something beside them."""
        now = self.scene.children(self.name)
        return all(key in now and shape({key: now[key]}) == text for key, text in self._children.items())

    def _told(self) -> Any:
        """What the status says of the spec itself: figures and conditions move with the moment."""
        status = self._resource().get("status", {})
        k = status.get("k", {})
        return k.get("desired"), k.get("actuator"), status.get("replicas"), status.get("endpoint")

    def _story(self) -> str:
        now = self._now()
        other = [f"{ours[:300]} for {was[:300]}" for was, ours in _unlike(self._shape, now)]
        return f"children: {other}\nstatus: {json.dumps(self._resource().get('status'))[:1500]}"

    def _put(self, spec: Mapping[str, Any]) -> tuple[int, str]:
        body = {
            "apiVersion": "gemmaspec.io/v1alpha1",
            "kind": "GemmaSpecDeploy",
            "metadata": {"name": self.name, "namespace": self.scene.namespace},
            "spec": spec,
        }
        path = self.scene.path("gemmaspecdeploys", self.name)
        return self.scene.apply_body(path, body)

    def _resource(self) -> dict[str, Any]:
        return self.scene.resource(self.name)

    def _condition(self, kind: str) -> dict[str, Any]:
        found = self._resource().get("status", {}).get("conditions", ())
        return dict(next((entry for entry in found if entry["type"] == kind), {"status": "Unknown", "message": ""}))

    def _pods(self) -> dict[str, str]:
        """Engine pods that are not on their way out: uid by name."""
        return {
            pod["metadata"]["name"]: pod["metadata"]["uid"]
            for pod in self.scene.owned("pods", self.name)
            if "deletionTimestamp" not in pod["metadata"]
        }
