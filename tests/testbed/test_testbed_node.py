from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
import yaml

from testbed import node
from testbed.enginespec import engine_mounts, python_of, with_mounts
from testbed.node import NodePlace, NodeSpec

_FOLDER = Path("/c/n1")


@pytest.fixture(autouse=True)
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "cni_folder", lambda: Path("/cni"))


def test_kubelet_learns_taints_and_reservations() -> None:
    spec = NodeSpec("n1", taints=["gpu=yes:NoSchedule", "old:NoExecute"], reserved={"memory": "8Gi"})
    config = yaml.safe_load(node.kubelet_config(_FOLDER, Path("/pki"), spec, NodePlace(1)))
    assert config["registerWithTaints"] == [
        {"key": "gpu", "value": "yes", "effect": "NoSchedule"},
        {"key": "old", "value": "", "effect": "NoExecute"},
    ]
    assert config["systemReserved"] == {"memory": "8Gi"}
    assert config["address"] == "10.99.0.11"


@pytest.mark.parametrize("taint", ["gpu=yes", "gpu=yes:Sometimes", ""])
def test_taint_that_is_none_is_refused(taint: str) -> None:
    with pytest.raises(ValueError, match="is not key=value:Effect"):
        node.kubelet_config(_FOLDER, Path("/pki"), NodeSpec("n1", taints=[taint]), NodePlace(1))


@pytest.mark.parametrize("engine", [None, Path("/c/n1/engine-spec.json")])
def test_containerd_has_the_engines_handler_only_with_an_engine(engine: Path | None) -> None:
    config = tomllib.loads(node.containerd_config(_FOLDER, "native", True, engine))
    cri = config["plugins"]["io.containerd.grpc.v1.cri"]
    assert cri["restrict_oom_score_adj"] is True
    assert cri["containerd"]["snapshotter"] == "native"
    handlers = cri["containerd"]["runtimes"]
    assert ("host-vllm" in handlers) == (engine is not None)
    assert "base_runtime_spec" not in handlers["runc"]
    if engine:
        assert handlers["host-vllm"]["base_runtime_spec"] == str(engine)


def test_pods_of_two_nodes_have_different_ranges() -> None:
    ranges = [json.loads(node.cni_config(NodePlace(n)))["plugins"][0]["ipam"]["ranges"][0][0]["subnet"] for n in (1, 2)]
    assert ranges == ["10.244.1.0/24", "10.244.2.0/24"]


@pytest.mark.parametrize(("bits", "may"), [("000001fffeffffff", False), ("000001ffffffffff", True)])
def test_capability_to_lower_the_oom_score(bits: str, may: bool) -> None:
    assert node.may_lower_oom_score(f"Name:\tx\nCapEff:\t{bits}\n") is may


def test_node_spec_survives_json() -> None:
    spec = NodeSpec("n1", {"a": "b"}, ("x=y:NoSchedule",), {"nvidia.com/gpu": "1"}, {"cpu": "1"})
    assert NodeSpec.from_json(json.loads(json.dumps(vars(spec)))) == spec


def test_engine_mounts_name_the_python_behind_the_environment(tmp_path: Path) -> None:
    python = tmp_path / "python"
    (python / "bin").mkdir(parents=True)
    environment = tmp_path / "venv"
    environment.mkdir()
    (environment / "pyvenv.cfg").write_text(f"home = {python / 'bin'}\nversion = 3.11.7\n")
    assert python_of(environment) == python
    mounts = engine_mounts(environment)
    assert (str(python), str(python)) in mounts
    assert mounts[-1] == (str(environment), "/opt/vllm")


def test_system_python_is_already_part_of_usr(tmp_path: Path) -> None:
    (tmp_path / "pyvenv.cfg").write_text("home = /usr/bin\n")
    assert [target for _, target in engine_mounts(tmp_path)].count("/usr") == 1


def test_base_specification_keeps_what_it_had() -> None:
    spec = {"process": {"cwd": "/"}, "mounts": [{"destination": "/proc"}]}
    made = with_mounts(spec, [("/a", "/b")])
    assert [mount["destination"] for mount in made["mounts"]] == ["/proc", "/b"]
    assert made["mounts"][1]["options"] == ["rbind", "ro"]
    assert len(spec["mounts"]) == 1
