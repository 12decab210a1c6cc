"""Prometheus in a pod: its own discovery of pods, its own rules, and the questions that a test asks it."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import yaml

from monitoring import manifests
from monitoring.manifests import Query
from monitoring.scrape import scrape_configs
from testbed import Cluster
from testbed.deadline import wait_for
from testbed.usercluster import UserCluster

NAMESPACE: Final = "monitoring"
PORT: Final = 9090
# Short, since the stories are: production scrapes every 15 s.
INTERVAL: Final = "5s"
_NAME: Final = "prometheus"
_READY_SECONDS: Final = 120.0
_ASK_SECONDS: Final = 30.0


@dataclass(frozen=True)
class Prometheus:
    """The running server."""

    url: str

    def instant(self, expression: str) -> list[dict[str, Any]]:
        """Series of the query now."""
        return self._series("query", query=expression)

    def over(self, expression: str, begun: float, ended: float) -> list[dict[str, Any]]:
        """Series of the query between two moments (seconds since the epoch), a value each five seconds."""
        return self._series("query_range", query=expression, start=str(begun), end=str(ended), step="5")

    def without_data(self, queries: list[Query], begun: float, ended: float) -> list[Query]:
        """Those queries of a dashboard that have no number at all between the two moments."""
        return [query for query in queries if not _numbers(self.over(query.expression, begun, ended))]

    def firing(self, alert: str, resource: str) -> bool:
        """Whether an alert fires for a resource now."""
        found = [entry["labels"] for entry in self._get("alerts")["alerts"] if entry["state"] == "firing"]
        return any((labels["alertname"], labels.get("name")) == (alert, resource) for labels in found)

    def fired(self, alert: str, resource: str, begun: float, ended: float) -> bool:
        """Whether an alert fired for a resource at some time between the two moments."""
        labels = f'alertname="{alert}", name="{resource}", alertstate="firing"'
        return bool(self.over(f"ALERTS{{{labels}}}", begun, ended))

    def targets(self) -> list[dict[str, Any]]:
        """The scrape targets that relabeling left."""
        return list(self._get("targets?state=active")["activeTargets"])

    def broken_rules(self) -> list[str]:
        """What the last evaluation of each rule complained of."""
        rules = [rule for group in self._get("rules")["groups"] for rule in group["rules"]]
        return [f"{rule['name']}: {rule['lastError']}" for rule in rules if rule.get("lastError")]

    def _series(self, verb: str, **parameters: str) -> list[dict[str, Any]]:
        return list(self._get(f"{verb}?{urllib.parse.urlencode(parameters)}")["result"])

    def _get(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}", timeout=_ASK_SECONDS) as answer:
            return dict(json.load(answer)["data"])


def _numbers(series: list[dict[str, Any]]) -> list[float]:
    return [float(value) for entry in series for _, value in entry["values"] if value != "NaN"]


@contextmanager
def prometheus_on(cluster: Cluster | UserCluster) -> Iterator[Prometheus]:
    """Prometheus with our rules, scraping what our monitors select; removed at the end."""
    image = cluster.load("prometheus")["prometheus"]
    kubectl = cluster.kubectl
    kubectl.apply(json.dumps({"apiVersion": "v1", "kind": "List", "items": list(_objects(image))}))
    try:
        kubectl("wait", "-n", NAMESPACE, "--for=condition=Ready", f"pod/{_NAME}", "--timeout=120s", timeout=130)
        with cluster.forward(f"pod/{_NAME}", PORT, NAMESPACE) as local:
            running = Prometheus(f"http://127.0.0.1:{local}")
            wait_for(lambda: running.instant("up") or running.targets(), "a target of Prometheus", _READY_SECONDS)
            yield running
    finally:
        kubectl("delete", "clusterrole,clusterrolebinding", f"{NAMESPACE}-pods", "--ignore-not-found")
        kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=false")


def _objects(image: str) -> Iterator[dict[str, Any]]:
    here = {"name": _NAME, "namespace": NAMESPACE}
    yield {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    yield {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": here}
    group = "rbac.authorization.k8s.io"
    role = {"apiGroup": group, "kind": "ClusterRole", "name": f"{NAMESPACE}-pods"}
    watch = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
    named = {"name": role["name"]}
    yield {"apiVersion": f"{group}/v1", "kind": "ClusterRole", "metadata": named, "rules": watch}
    subject = {"kind": "ServiceAccount", **here}
    yield {
        "apiVersion": f"{group}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": named,
        "roleRef": role,
        "subjects": [subject],
    }
    yield {"apiVersion": "v1", "kind": "ConfigMap", "metadata": here, "data": configuration()}
    yield {"apiVersion": "v1", "kind": "Pod", "metadata": here, "spec": _pod(image)}


def configuration() -> dict[str, str]:
    """The files of Prometheus' configuration."""
    config = {
        "global": {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL},
        "rule_files": ["/etc/prometheus/rules.yaml"],
        "scrape_configs": scrape_configs(manifests.monitors(), INTERVAL),
    }
    return {"prometheus.yaml": yaml.safe_dump(config), "rules.yaml": yaml.safe_dump(manifests.rule_groups())}


def _pod(image: str) -> dict[str, Any]:
    container = {
        "name": _NAME,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": ["--config.file=/etc/prometheus/prometheus.yaml", "--storage.tsdb.path=/data"],
        "ports": [{"name": "web", "containerPort": PORT}],
        "readinessProbe": {"httpGet": {"path": "/-/ready", "port": PORT}, "periodSeconds": 1},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "config", "mountPath": "/etc/prometheus"}, {"name": "data", "mountPath": "/data"}],
    }
    return {
        "serviceAccountName": _NAME,
        "enableServiceLinks": False,
        "securityContext": {"runAsNonRoot": True, "fsGroup": 65532},
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": _NAME}}, {"name": "data", "emptyDir": {}}],
    }
