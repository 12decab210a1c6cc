"""Labels that the API server would refuse are told of the spec's own field, before any child is touched."""

from __future__ import annotations

from typing import Any

import pytest

from gemmaspec.core.problem import Stalling
from gemmaspec.core.resolve import resolve

SPEC: dict[str, Any] = {
    "model": {"target": "m"},
    "engine": {"image": "example.org/vllm:1", "allowTag": True},
    "nodes": {"accelerator": "CPU"},
}


@pytest.mark.parametrize(
    ("change", "field", "named"),
    [
        ({"nodes": {"selector": {"ks": "惜"}}}, "spec.nodes.selector", "'惜'"),
        ({"nodes": {"selector": {"-a": "b"}}}, "spec.nodes.selector", "'-a'"),
        ({"nodes": {"selector": {"A.b/c": "d"}}}, "spec.nodes.selector", "'A.b/c'"),
        ({"nodes": {"selector": {"/c": "d"}}}, "spec.nodes.selector", "'/c'"),
        ({"nodes": {"selector": {"a" * 64: "d"}}}, "spec.nodes.selector", "'aaa"),
        ({"nodes": {"tolerations": [{"key": "a b", "operator": "Exists"}]}}, "spec.nodes.tolerations[0].key", "'a b'"),
        ({"nodes": {"tolerations": [{"key": "a", "value": "b c"}]}}, "spec.nodes.tolerations[0].value", "'b c'"),
        ({"service": {"labels": {"a": "b/"}}}, "spec.service.labels", "'b/'"),
        ({"service": {"annotations": {"a b": "any text at all: 惜"}}}, "spec.service.annotations", "'a b'"),
    ],
)
def test_what_the_api_server_would_refuse_is_named(change: dict[str, Any], field: str, named: str) -> None:
    with pytest.raises(Stalling) as refused:
        resolve(SPEC | change, {})
    assert str(refused.value).startswith(f"{field}: {named}")


def test_what_it_takes_is_taken() -> None:
    nodes = {
        "selector": {"a": "", "nvidia.com/gpu.product": "NVIDIA-GB10", "x_Y.z-1": "A_b.C-1"},
        "tolerations": [{"operator": "Exists"}, {"key": "a.b/c", "value": "d"}, {"key": "a", "value": ""}],
    }
    service = {"labels": {"a": ""}, "annotations": {"a.b/C": "any text at all: 惜 "}}
    assert resolve(SPEC | {"nodes": nodes, "service": service}, {}).spec.nodes is not None
