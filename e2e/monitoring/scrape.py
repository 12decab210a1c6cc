"""PodMonitors as scrape configurations.

The Prometheus operator makes the same of them; only the fields that our manifests use are known here, and any other
is an error: a field that is not translated would be tested by nobody.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_KNOWN = {"port", "interval", "path", "honorLabels", "relabelings"}
_META = "__meta_kubernetes"


def scrape_configs(monitors: Sequence[Mapping[str, Any]], interval: str) -> list[dict[str, Any]]:
    """One configuration an endpoint; all are scraped at ``interval``, whatever the monitor says."""
    return [
        _config(monitor, number, endpoint, interval)
        for monitor in monitors
        for number, endpoint in enumerate(monitor["spec"]["podMetricsEndpoints"])
    ]


def _config(monitor: Mapping[str, Any], number: int, endpoint: Mapping[str, Any], interval: str) -> dict[str, Any]:
    if unknown := set(endpoint) - _KNOWN:
        raise ValueError(f"no translation for {', '.join(sorted(unknown))}")
    metadata, spec = monitor["metadata"], monitor["spec"]
    everywhere = spec.get("namespaceSelector", {}).get("any", False)
    namespaces = {} if everywhere else {"namespaces": {"names": [metadata["namespace"]]}}
    return {
        "job_name": f"podMonitor/{metadata['namespace']}/{metadata['name']}/{number}",
        "scrape_interval": interval,
        "scrape_timeout": interval,
        "metrics_path": endpoint.get("path", "/metrics"),
        "honor_labels": endpoint.get("honorLabels", False),
        "kubernetes_sd_configs": [{"role": "pod", **namespaces}],
        "relabel_configs": [
            *(_selected(label, value) for label, value in spec["selector"]["matchLabels"].items()),
            _keep([f"{_META}_pod_container_port_name"], endpoint["port"]),
            {"source_labels": [f"{_META}_pod_phase"], "regex": "(Failed|Succeeded)", "action": "drop"},
            *(_copied(f"{_META}_{source}", target) for source, target in _TARGETS.items()),
            {"target_label": "job", "replacement": f"{metadata['namespace']}/{metadata['name']}"},
            *(_relabeling(entry) for entry in endpoint.get("relabelings", ())),
        ],
    }


_TARGETS = {"namespace": "namespace", "pod_container_name": "container", "pod_name": "pod"}


def _selected(label: str, value: str) -> dict[str, Any]:
    return _keep([f"{_META}_pod_label_{re.sub(r'[^A-Za-z0-9_]', '_', label)}"], value)


def _keep(labels: list[str], value: str) -> dict[str, Any]:
    return {"source_labels": labels, "regex": re.escape(value), "action": "keep"}


def _copied(source: str, target: str) -> dict[str, Any]:
    return {"source_labels": [source], "target_label": target}


def _relabeling(entry: Mapping[str, Any]) -> dict[str, Any]:
    if unknown := set(entry) - {"sourceLabels", "targetLabel"}:
        raise ValueError(f"no translation for {', '.join(sorted(unknown))}")
    return {"source_labels": entry["sourceLabels"], "target_label": entry["targetLabel"]}
