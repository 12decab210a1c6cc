"""What a tenant who may only write resources in a namespace of his own tries, and is refused (docs/security.md)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from gemmaspec.api.spec import GemmaSpecDeploySpec
from gemmaspec.core.observation import Observation, Resource
from gemmaspec.core.owner import Owner
from gemmaspec.core.reconcile import Settings, reconcile
from gemmaspec.recipes import load
from testbed import ControlPlane, KubectlError
from testbed.kubectl import Kubectl
from tests.integration.test_schema import WRONG, merged

pytestmark = pytest.mark.control_plane

TENANT, OTHER, STRICT = "tenant-a", "tenant-b", "tenant-strict"
ENFORCED = {"pod-security.kubernetes.io/enforce": "restricted"}

# Through the spec: refused at `kubectl apply`.
SPECS: dict[str, dict[str, Any]] = {
    "privileged container": {"engine": {"securityContext": {"privileged": True}}},
    "host network": {"nodes": {"hostNetwork": True}},
    "host processes": {"hostPID": True},
    "a pod template": {"podTemplate": {"spec": {"hostNetwork": True}}},
    "a volume of the host": {"volumes": [{"name": "root", "hostPath": {"path": "/"}}]},
    "another service account": {"serviceAccountName": "default"},
    "a container beside": {"initContainers": [{"name": "x", "image": "x"}]},
    "a Secret of another namespace as key": {
        "service": {"apiKeySecretRef": {"name": "s", "key": "k", "namespace": OTHER}}
    },
    "a Secret of another namespace in a variable": {
        "engine": {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "namespace": OTHER}}}]}
    },
    "a ConfigMap of another namespace as patch": {
        "engine": {
            "patches": [
                {
                    "module": "vllm.a",
                    "sha256": "0" * 64,
                    "source": {"configMap": {"name": "a", "key": "b", "namespace": OTHER}},
                }
            ]
        }
    },
    "code before ours": {"engine": {"env": [{"name": "PYTHONPATH", "value": "/tmp"}]}},
    "a library before all": {"engine": {"env": [{"name": "LD_PRELOAD", "value": "/tmp/x.so"}]}},
    "plug-ins": {"engine": {"env": [{"name": "VLLM_PLUGINS", "value": "x"}]}},
    "our own settings": {"engine": {"env": [{"name": "GEMMASPEC_PIN", "value": "/tmp/pin.json"}]}},
    "another guard": {"engine": {"extraArgs": ["--middleware=os.system"]}},
    "another scheduler": {"engine": {"extraArgs": ["--scheduler-cls=x.y"]}},
    "another worker, abbreviated": {"engine": {"extraArgs": ["--worker-c=x.y"]}},
    "arguments from a file": {"engine": {"extraArgs": ["--config=/etc/x.yaml"]}},
    "files of the pod as media": {"engine": {"extraArgs": ["--allowed-local-media-path=/"]}},
    "a path out of the cache": {"cache": {"weights": {"hostPath": {"path": "/var/lib/models/../../../etc"}}}},
}

# Past the schema, for the operator to refuse: nothing is made of it.
HOST_PATHS = ["/", "/etc/kubernetes", "/var/lib/models-of-somebody-else", "/root"]

# Around the resource: what its rights do not give.
AROUND: dict[str, list[str]] = {
    "read Secrets at home": ["get", "secrets", "-n", TENANT],
    "read Secrets of a neighbour": ["get", "secrets", "-n", OTHER],
    "read the operator's key": ["get", "secret", "gemmaspec-operator-key", "-n", "gemmaspec-system"],
    "see a neighbour's resources": ["get", "gsd", "-n", OTHER],
    "see resources everywhere": ["get", "gsd", "-A"],
    "run a pod": ["run", "x", "--image=x", "-n", TENANT],
    "edit what the operator made": ["scale", "deployment/x", "--replicas=9", "-n", TENANT],
    "write the status": ["patch", "gsd", "own", "-n", TENANT, "--subresource=status", "--type=merge", "-p", "{}"],
    "act as the operator": ["get", "pods", "-A", "--as=system:serviceaccount:gemmaspec-system:gemmaspec-operator"],
    "take the operator's token": ["create", "token", "gemmaspec-operator", "-n", "gemmaspec-system"],
    "give himself rights": ["create", "clusterrolebinding", "x", "--clusterrole=cluster-admin", "--user=eve"],
}

_ROLE = f"""
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: tenant, namespace: {TENANT}}}
rules:
  - {{apiGroups: [gemmaspec.io], resources: [gemmaspecdeploys], verbs: ["*"]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: tenant, namespace: {TENANT}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: tenant}}
subjects: [{{kind: User, name: eve, apiGroup: rbac.authorization.k8s.io}}]
"""


@pytest.fixture(scope="module")
def eve(control_plane: ControlPlane, stage: object) -> Iterator[Kubectl]:
    """kubectl of the tenant, who has one resource."""
    del stage  # the definition is served
    for name in (TENANT, OTHER, "gemmaspec-system"):
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        control_plane.kubectl.apply(json.dumps(namespace))
    control_plane.kubectl.apply(_ROLE)
    user = control_plane.kubectl_as(control_plane.kubeconfig_for("eve"))
    user.apply(manifest({}, "own"))
    yield user
    control_plane.kubectl("delete", "namespace", TENANT, OTHER, "--wait=false")


def manifest(over: dict[str, Any], name: str = "tried") -> str:
    return json.dumps(
        {
            "apiVersion": "gemmaspec.io/v1alpha1",
            "kind": "GemmaSpecDeploy",
            "metadata": {"name": name, "namespace": TENANT},
            "spec": merged(WRONG["good"], over),
        }
    )


@pytest.mark.parametrize("attempt", SPECS)
def test_the_spec_gives_no_way_to_it(eve: Kubectl, attempt: str) -> None:
    with pytest.raises(KubectlError) as refused:
        eve.apply(manifest(SPECS[attempt]), "--dry-run=server")
    assert "unknown field" in refused.value.output or "is invalid" in refused.value.output


@pytest.mark.parametrize("path", HOST_PATHS)
def test_no_host_path_that_the_administrator_did_not_allow(path: str) -> None:
    spec = merged(WRONG["good"], {"cache": {"weights": {"hostPath": {"path": path}}}})
    settings = Settings(load(), {"gemmaspec_engine/launch.py": ""}, host_path_prefixes=("/var/lib/models",))
    decision = reconcile(Observation(Resource(Owner(TENANT, "tried", "u"), 1, False, spec, {}), 0.0), settings)
    assert decision.actions == ()
    assert decision.status is not None
    stalled = next(entry for entry in decision.status["conditions"] if entry["type"] == "Stalled")
    assert (stalled["status"], stalled["reason"]) == ("True", "HostPathNotAllowed")


@pytest.mark.parametrize("attempt", AROUND)
def test_the_rights_to_the_resource_give_nothing_else(eve: Kubectl, attempt: str) -> None:
    with pytest.raises(KubectlError) as refused:
        eve(*AROUND[attempt])
    assert "orbidden" in refused.value.output, refused.value.output


def of_recipe(name: str, **engine: Any) -> dict[str, Any]:
    return {"recipe": name, "engine": {"image": f"x.example/v@sha256:{'0' * 64}"} | engine}


def engines_of(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Templates of the pods that the operator makes of a spec."""
    resource = Resource(Owner(TENANT, "tried", "u"), 1, False, spec, {})
    settings = Settings(load(), {"gemmaspec_engine/launch.py": ""}, host_path_prefixes=("/",))
    bodies: list[Any] = [
        getattr(action, "body", {}) for action in reconcile(Observation(resource, 0.0), settings).actions
    ]
    return [body["spec"]["template"] for body in bodies if body.get("kind") == "Deployment"]


@pytest.mark.parametrize("recipe", ["gemma4-26b-nvfp4-modern", "tiny-cpu"])
def test_engines_of_a_named_user_meet_the_strictest_security_standard(control_plane: ControlPlane, recipe: str) -> None:
    """By the API server's own admission; without a user it refuses them, and for that reason alone."""
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": STRICT, "labels": ENFORCED}}
    control_plane.kubectl.apply(json.dumps(namespace))
    assert "created" in control_plane.kubectl.apply(engine_pod(recipe, runAsUser=65532), "--dry-run=server")
    with pytest.raises(KubectlError, match="runAsNonRoot != true") as refused:
        control_plane.kubectl.apply(engine_pod(recipe), "--dry-run=server")
    assert refused.value.output.count(" must set ") == 1, refused.value.output


def engine_pod(recipe: str, **engine: Any) -> str:
    """An engine's pod by itself, without what the cluster would have to know first."""
    (template,) = engines_of(of_recipe(recipe, **engine))
    unknown = ("serviceAccountName", "runtimeClassName")
    spec = {key: value for key, value in template["spec"].items() if key not in unknown}
    metadata = {"name": "tried", "namespace": STRICT}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})


def test_whatever_the_spec_says_pods_have_no_token_and_no_privilege() -> None:
    """Every recipe's pods: no API token, no capability, no privilege escalation, the default seccomp profile."""
    recipes = load()
    seen = 0
    for name in recipes:
        spec = of_recipe(name)
        assert GemmaSpecDeploySpec.model_validate(spec)
        for template in engines_of(spec):
            seen += 1
            pod = template["spec"]
            assert pod["automountServiceAccountToken"] is False
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            for container in [*pod["containers"], *pod["initContainers"]]:
                context = container["securityContext"]
                assert context["allowPrivilegeEscalation"] is False
                assert context["capabilities"] == {"drop": ["ALL"]}
                assert not context.get("privileged")
            assert not any(key in pod for key in ("hostNetwork", "hostPID", "hostIPC"))
    assert seen > 5, yaml.safe_dump(sorted(recipes))
