"""What the operator is in the middle of when something goes wrong, and how it must end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.integration.fake_engine import BAD
from tests.integration.scene import NAME, Scene, rollout, speculative


@dataclass(frozen=True)
class Scenario:
    """``prepare`` runs undisturbed, ``act`` under the fault; ``ended``: nothing is left to do.

    then: is done as soon as the fault has struck, or, where there is none, when ``act`` has had its effect: what it
    cuts short may have come to any point, so that the engines' starts are only asked not to be double.
    """

    name: str
    prepare: Callable[[Scene], None]
    act: Callable[[Scene], object]
    ended: Callable[[Scene], bool]
    then: Callable[[Scene], object] | None = None


def serving(scene: Scene) -> None:
    """A resource that has converged, and whose drafts are accepted."""
    scene.apply()
    scene.until(lambda: serves(scene), "an engine that serves", 90)


def _settled(scene: Scene) -> bool:
    """One revision runs, and nothing is on trial."""
    running = [count for count in scene.deployments().values() if count]
    phase = scene.status().get("rollout", {}).get("phase", "Promoted")
    return scene.converged() and len(running) == 1 and phase == "Promoted"


def serves(scene: Scene) -> bool:
    """Whether an engine serves as the newest spec asks, and its drafts are accepted."""
    return _settled(scene) and scene.is_condition("SpeculationHealthy", "True")


def _lowered(scene: Scene) -> bool:
    return _settled(scene) and scene.status()["k"]["effective"] == 0


def _gone(scene: Scene) -> bool:
    return scene.read("gemmaspecdeploys") is None and not scene.children() and not scene.all("pods")


def _delete(scene: Scene) -> None:
    scene.send("DELETE", scene.path("gemmaspecdeploys", NAME), {"propagationPolicy": "Background"})


def _delete_and_make_anew(scene: Scene) -> None:
    """What it made before still stands when the new resource comes, and belongs to another uid."""
    _delete(scene)
    scene.apply()


def _change_k(scene: Scene) -> None:
    scene.apply(speculative=speculative(k=2))


def _new_revision(scene: Scene) -> None:
    """There is time for an analysis that tells: how it ends must not depend on how many scrapes were in time."""
    image = {"image": "example.org/vllm:2", "allowTag": True}
    scene.apply(engine=image, rollout=rollout({"timeoutSeconds": 120}))


SCENARIOS = (
    Scenario("create", lambda _: None, lambda scene: scene.apply(), serves),
    Scenario("K change", serving, _change_k, serves),
    Scenario(
        "rollout",
        serving,
        _new_revision,
        serves,
    ),
    Scenario("rollback of K", serving, lambda scene: scene.kubelet.serve(BAD), _lowered),
    # Nothing is left for the operator to write once a resource is gone: it is deleted in the middle of a change.
    Scenario("delete", serving, _change_k, _gone, then=_delete),
    Scenario("delete, make anew", serving, _delete_and_make_anew, serves),
)


def outcome(scene: Scene, scenario: Scenario) -> dict[str, Any]:
    """What must not depend on faults: every child, the status less its figures and times, and each engine's starts."""
    starts = _starts(scene)
    resource = scene.read("gemmaspecdeploys")
    children = {f"{plural}/{name}": _normal(child) for (plural, name), child in sorted(scene.children().items())}
    found = {
        "status": _status(resource["status"]) if resource and "status" in resource else None,
        "children": children,
        "engines": len(scene.all("pods")),
        "starts": sorted(starts.items()) if scenario.then is None else max(starts.values(), default=0),
    }
    return dict(json.loads(json.dumps(found).replace(scene.namespace, "NAMESPACE")))


def _status(status: dict[str, Any]) -> dict[str, Any]:
    kept = ("observedGeneration", "revision", "replicas", "readyReplicas", "endpoint", "lastGoodRevision")
    return {key: status[key] for key in kept if key in status} | {
        "k": [status["k"]["desired"], status["k"]["effective"], _words(status["k"])],
        "conditions": sorted([entry["type"], entry["status"], entry["reason"]] for entry in status["conditions"]),
        "history": [[entry.get("fromK"), entry.get("toK"), _words(entry)] for entry in status.get("history", ())],
    }


def _words(entry: dict[str, Any]) -> str:
    """A reason without the figures that follow its colon: they were measured at another moment."""
    return str(entry.get("reason", "")).partition(":")[0]


def _normal(child: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in child.items() if key not in ("status", "metadata", "secrets")}
    if "clusterIP" in kept.get("spec", {}):
        kept["spec"] = {key: value for key, value in kept["spec"].items() if not key.startswith("clusterIP")}
    metadata = child["metadata"]
    annotations = {k: v for k, v in metadata.get("annotations", {}).items() if k.startswith("gemmaspec.io/")}
    owners = [[entry["kind"], entry["name"], entry.get("controller")] for entry in metadata["ownerReferences"]]
    return kept | {"labels": metadata["labels"], "annotations": annotations, "owners": owners}


def _starts(scene: Scene) -> Counter[str]:
    """How many engine pods were made, by revision."""
    events = scene.plane.audit.mutations(scene.began, resource="pods", namespace=scene.namespace)
    made = [event.body for event in events if event.verb == "create" and not event.subresource and event.code == 201]
    return Counter(body["metadata"]["labels"]["gemmaspec.io/revision"] for body in made)
