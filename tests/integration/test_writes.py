"""What many resources cost the API server: so many writes each, none when nothing happens, none after a restart.

`make scale` measures the same for thousands.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.integration.fake_engine import SILENCE
from tests.integration.scene import Scene

pytestmark = pytest.mark.control_plane
RESOURCES = 20
CHILDREN = {"serviceaccounts", "services", "poddisruptionbudgets", "configmaps", "deployments"}
# One when its children are made, one when its engine serves, and one in between where the pod shows first.
STATUSES = 3
IDLE_SECONDS = 3.0


def test_writes_of_many_resources(scene: Scene) -> None:
    scene.kubelet.serve(SILENCE)
    scene.operator.start()
    mark = scene.plane.audit.mark()
    names = [f"one-of-many-{number}" for number in range(RESOURCES)]
    for name in names:
        scene.apply(name)
    scene.until(lambda: all(map(scene.converged, names)), "convergence of all", 60)
    scene.quiet()
    written = Counter((event.verb, event.resource, event.subresource) for event in scene.writes(mark))
    statuses = written.pop(("patch", "gemmaspecdeploys", "status"))
    assert written == {("create", kind, ""): RESOURCES for kind in CHILDREN}
    assert 2 * RESOURCES <= statuses <= STATUSES * RESOURCES

    mark = scene.plane.audit.mark()
    scene.never(lambda: scene.writes(mark), "an idle operator writes", IDLE_SECONDS)
    asked = {event.verb for event in scene.plane.audit.events(mark, user=scene.operator.user)}
    assert asked <= {"watch"}, "an idle operator asks for nothing but its watches"

    scrapes = [engine.scrapes for engine in scene.engines()]
    mark = scene.plane.audit.mark()
    scene.operator.restart()
    scene.until(
        lambda: all(now.scrapes > before for now, before in zip(scene.engines(), scrapes, strict=True)),
        "scrapes of all engines by the operator that was started again",
    )
    scene.never(lambda: scene.writes(mark), "an operator that was started again writes", IDLE_SECONDS)
