"""docs/metrics.md, made from the collectors: ``python -m gemmaspec.runtime.metrics_reference docs/metrics.md``."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

from gemmaspec.runtime import families, metrics
from gemmaspec_engine.agent.host import Agent, Engine
from gemmaspec_engine.agent.settings import Config

_HEAD = """# Metrics

<!-- Generated from the collectors by `make generate`; do not edit. -->

Three sources, each with its own port. [manifests/monitoring](../manifests/monitoring) brings
PodMonitors, recording rules, [alerts](alerts.md) and Grafana dashboards (`kubectl apply -k manifests/monitoring`).

| source | port | who may read it |
|---|---|---|
| the operator's pod | 8080 (`metrics`) | the cluster |
| the agent in each engine that moves K live | 8471 (`agent`) | the cluster; only figures are open there |
| vLLM in each engine | the Service's (`http`) | as vLLM's own `/metrics`, see below |

"""
_RESOURCE = """## Of each resource, by the operator

Every series has the labels `namespace` and `name` of its resource; scrape with `honorLabels: true`, or Prometheus
renames them. A series goes with its resource, its position or its pod. *Series* says how many a resource has at most.

| metric | type | further labels | series | meaning |
|---|---|---|---|---|
"""
_OPERATOR = """
## Of the operator

| metric | type | labels | meaning |
|---|---|---|---|
"""
_AGENT = """
## Of the agent in an engine

Exact counts from inside the scheduler ([live K](live-k.md)); engines whose K is moved by restart have none.

| metric | type | meaning |
|---|---|---|
"""
_VLLM = """
## Of vLLM

The rules and the dashboard read these of vLLM's own (the same names from 0.19.1 to 0.33.0):
`vllm:num_requests_running`, `vllm:num_requests_waiting`, `vllm:generation_tokens_total`, `vllm:prompt_tokens_total`,
`vllm:kv_cache_usage_perc`, `vllm:time_to_first_token_seconds`. Its per-position counters
(`vllm:spec_decode_num_accepted_tokens_per_pos_total`) fall at deep positions merely because K was lowered: use
`gemmaspec_conditional_acceptance_ratio`.

The API key does not close `/metrics`: neither vLLM nor the guard in front of its other routes asks for it there
([security.md](security.md)). Where something else does (a mesh, a proxy), give the PodMonitor the key:
`authorization: {credentials: {name: SECRET, key: KEY}}`.
"""


def render() -> str:
    """The whole page."""
    return _HEAD + _RESOURCE + _rows(_of_resources()) + _OPERATOR + _rows(_own()) + _AGENT + _rows(_agent()) + _VLLM


def _rows(cells: Iterable[Iterable[str]]) -> str:
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in cells)


def _code(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words) or "–"


def _of_resources() -> Iterable[list[str]]:
    for family in families.OF_RESOURCES:
        name = family.name + ("_total" if family.kind == "counter" else "")
        yield [f"`{name}`", family.kind, _code(family.labels), family.bound, family.meaning]


def _own() -> Iterable[list[str]]:
    for metric, labels in metrics.OWN.items():
        for family in metric.collect():
            name = family.name + ("_total" if family.type == "counter" else "")
            yield [f"`{name}`", family.type, _code(labels), family.documentation]


def _agent() -> Iterable[list[str]]:
    engine = Engine("0.32.0", (0, 1, 2, 4), 4, 8, 2048, asynchronous=True, runner="V2")
    text = Agent(engine, Config(port=None)).metrics()
    for name, meaning in re.findall(r"^# HELP (\S+) (.*)$", text, re.MULTILINE):
        found = re.search(rf"^# TYPE {name} (\S+)$", text, re.MULTILINE)
        yield [f"`{name}`", found[1] if found else "", f"{meaning.rstrip('.')}."]


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render(), encoding="utf-8")
