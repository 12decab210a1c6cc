"""What a person's tools ask the cluster: reads, for which the right to look is enough, and a single write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gemmaspec.adapters.cluster import COLLECTIONS, METADATA_ONLY, Cluster, Missing, Rejected
from gemmaspec.api import identity
from gemmaspec.core import names

DEFINITION: Final = f"{identity.PLURAL}.{identity.GROUP}"
OPERATOR_SELECTOR: Final = "app.kubernetes.io/name=gemmaspec"
OPERATOR_NAMESPACE: Final = "gemmaspec-system"
METRICS_PORT: Final = 8080
_RESOURCES: Final = f"/apis/{identity.GROUP}/{identity.VERSION}"

Object = dict[str, Any]


class Reader:
    """Questions about resources and about what they need. Every one has the client's deadline."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    @property
    def server(self) -> str:
        """The API server's address."""
        return self._cluster.server

    async def resource(self, namespace: str, name: str) -> Object:
        """One resource. Raises Missing."""
        return await self._cluster.get(f"{COLLECTIONS[identity.KIND].format(namespace=namespace)}/{name}")

    async def annotate(self, namespace: str, name: str, annotation: str, value: str | None) -> None:
        """Set an annotation of a resource, or remove it: the one write of a person's tools. Raises Missing."""
        patch = {"metadata": {"annotations": {annotation: value}}}
        await self._cluster.merge(identity.KIND, namespace, name, patch)

    async def resources(self, namespace: str | None) -> list[Object]:
        """All resources of a namespace, or of the cluster for None. Raises Missing without the definition."""
        if namespace is None:
            return await self._items(f"{_RESOURCES}/{identity.PLURAL}")
        return await self._items(COLLECTIONS[identity.KIND].format(namespace=namespace))

    async def visible_resources(self, namespace: str | None, own: str) -> list[Object]:
        """The same, but for None those of the namespace ``own`` where one may not list all."""
        try:
            return await self.resources(namespace)
        except Rejected as refusal:
            if namespace is not None or refusal.status != 403:
                raise
            return await self.resources(own)

    async def pods(self, namespace: str, name: str) -> list[Object] | None:
        """The engine pods of a resource; None where one may not look at pods."""
        query = {"labelSelector": names.selector_text(name)}
        try:
            return await self._items(f"/api/v1/namespaces/{namespace}/pods", query)
        except Rejected as refusal:
            if refusal.status != 403:
                raise
            return None

    async def version(self) -> str:
        """The API server's version."""
        return str((await self._cluster.get("/version")).get("gitVersion", "unknown"))

    async def is_served(self) -> bool:
        """Whether the API server serves the resource. Everybody may ask."""
        return await self._cluster.serves_resource()

    async def definition(self) -> Object:
        """The installed definition. Raises Missing."""
        return await self._cluster.get(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{DEFINITION}")

    async def operators(self) -> list[Object]:
        """The operator's Deployments, in all namespaces; in the one of our manifests where one may not list all."""
        query = {"labelSelector": OPERATOR_SELECTOR}
        try:
            return await self._items("/apis/apps/v1/deployments", query)
        except Rejected as refusal:
            if refusal.status != 403:
                raise
            return await self._items(f"/apis/apps/v1/namespaces/{OPERATOR_NAMESPACE}/deployments", query)

    async def nodes(self) -> list[Object]:
        """All nodes."""
        return await self._items("/api/v1/nodes")

    async def runtime_classes(self) -> list[str]:
        """Names of the runtime classes."""
        return [entry["metadata"]["name"] for entry in await self._items("/apis/node.k8s.io/v1/runtimeclasses")]

    async def has_secret(self, namespace: str, name: str) -> bool:
        """Whether there is such a Secret; its data is not asked for."""
        try:
            await self._cluster.get(f"/api/v1/namespaces/{namespace}/secrets/{name}", accept=METADATA_ONLY)
        except Missing:
            return False
        return True

    async def operator_metrics(self, namespace: str) -> str | None:
        """The operator's metrics, through the API server's proxy; None where no pod of it runs."""
        query = {"labelSelector": OPERATOR_SELECTOR, "fieldSelector": "status.phase=Running"}
        pods = await self._items(f"/api/v1/namespaces/{namespace}/pods", query)
        if not pods:
            return None
        pod = pods[0]["metadata"]["name"]
        return await self._cluster.get_text(f"/api/v1/namespaces/{namespace}/pods/{pod}:{METRICS_PORT}/proxy/metrics")

    async def pod_monitors(self) -> int | None:
        """How many PodMonitors are ours; None where Prometheus' operator, which reads them, is not installed."""
        try:
            found = await self._items(
                "/apis/monitoring.coreos.com/v1/podmonitors", {"labelSelector": OPERATOR_SELECTOR}
            )
        except Missing:
            return None
        return len(found)

    async def _items(self, path: str, query: Mapping[str, str] | None = None) -> list[Object]:
        return list((await self._cluster.get(path, query)).get("items", ()))
