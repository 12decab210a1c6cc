"""The Kubernetes API: the only module that imports the client, and the one place where its errors are sorted.

The official asyncio client says where the API server is and who we are. Requests are plain JSON over aiohttp: its
model classes would cost more processor time than the API server spends (0.68 against 0.41 of it, for 1,000
resources).
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import orjson
import yaml
from kubernetes.aio import client, config

from gemmaspec.adapters.trust import as_kubectl_does
from gemmaspec.api import identity
from gemmaspec.core.names import FIELD_MANAGER

REQUEST_SECONDS: Final = 15.0
CONNECTIONS: Final = 32
JSON: Final = "application/json"
# Who writes what a person asked the command line for. Not kubectl: Flux takes back what kubectl set.
TOOL_MANAGER: Final = "gemmaspec-cli"
POD_NAMESPACE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
# Asks for an object's metadata alone: the engine files in a ConfigMap are hundreds of kilobytes, and known to us.
METADATA_ONLY: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
COLLECTIONS: Final[Mapping[str, str]] = {
    "ServiceAccount": "/api/v1/namespaces/{namespace}/serviceaccounts",
    "Service": "/api/v1/namespaces/{namespace}/services",
    "ConfigMap": "/api/v1/namespaces/{namespace}/configmaps",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets",
    "Deployment": "/apis/apps/v1/namespaces/{namespace}/deployments",
    "Job": "/apis/batch/v1/namespaces/{namespace}/jobs",
    "Event": "/api/v1/namespaces/{namespace}/events",
    identity.KIND: f"/apis/{identity.GROUP}/{identity.VERSION}/namespaces/{{namespace}}/{identity.PLURAL}",
}


class ApiFailure(Exception):
    """The API server did not do it. ``status`` is the HTTP status, 0 where there was no answer."""

    def __init__(self, status: int, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message
        self.retry_after = retry_after


class Taken(ApiFailure):
    """An object of that name exists already."""


class Stale(ApiFailure):
    """The object has changed, or is another one, since it was observed."""


class Missing(ApiFailure):
    """There is no such object."""


class Rejected(ApiFailure):
    """The API server refuses this very request, and would again: invalid, forbidden, or against a quota."""


class Undeclared(ApiFailure):
    """The installed definition lacks a field, or a value of one, that this release writes: it is an older one."""


class NoKubeconfig(Exception):
    """There is no kubeconfig, it can't be read, or it has no such context."""


class Cluster:
    """Writes to the cluster, and the few reads that no watch answers. Every request has a deadline."""

    def __init__(self, configuration: client.Configuration, session: aiohttp.ClientSession) -> None:
        self._configuration = configuration
        self._session = session
        self.writes = 0

    @classmethod
    async def connect(cls) -> Cluster:
        """Connect as the pod's ServiceAccount, or by kubeconfig outside a cluster."""
        settings = client.Configuration()
        try:
            config.load_incluster_config(client_configuration=settings)
        except config.ConfigException:
            await config.load_kube_config(client_configuration=settings)
        return cls._over(settings)

    @classmethod
    async def connect_as_user(cls, kubeconfig: str | None = None, context: str | None = None) -> tuple[Cluster, str]:
        """Connect as kubectl would, and tell the context's namespace ("default" where it names none).

        kubeconfig: file; None for $KUBECONFIG or ~/.kube/config. Nothing is written to it. In a pod without one, the
        pod's ServiceAccount is used. Raises NoKubeconfig.
        """
        settings = client.Configuration()
        try:
            loader = await config.load_kube_config(kubeconfig, context, settings, persist_config=False)
        except (config.ConfigException, OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
            if kubeconfig is None and context is None and cls._in_pod(settings):
                return cls._over(settings), POD_NAMESPACE.read_text(encoding="utf-8").strip()
            raise NoKubeconfig(str(error)) from error
        chosen = loader.current_context.get("context") or {}
        return cls._over(settings), str(chosen.get("namespace") or "default")

    @staticmethod
    def _in_pod(settings: client.Configuration) -> bool:
        try:
            config.load_incluster_config(client_configuration=settings)
        except config.ConfigException:
            return False
        return POD_NAMESPACE.is_file()

    @classmethod
    def _over(cls, settings: client.Configuration) -> Cluster:
        trust = as_kubectl_does(client.ApiClient(settings).rest_client.ssl_context)
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS, ssl=trust),
            timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS),
            proxy=settings.proxy or environment_proxy(settings.host),
            headers={"User-Agent": "gemmaspec"},
        )
        return cls(settings, session)

    @property
    def server(self) -> str:
        """The API server's address."""
        return str(self._configuration.host)

    async def close(self) -> None:
        """Close connections."""
        await self._session.close()

    async def create(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Create the object. Raises Taken where the name is in use. A ConfigMap comes back without its data."""
        path, query = self._path(body, item=False), {"fieldManager": FIELD_MANAGER}
        if body["kind"] != "ConfigMap":
            return await self._write("POST", path, body, query=query)
        told = await self._write("POST", path, body, query=query, accept=METADATA_ONLY)
        return {**{key: value for key, value in body.items() if key != "data"}, "metadata": told["metadata"]}

    async def apply(self, body: Mapping[str, Any], uid: str, resource_version: str) -> dict[str, Any]:
        """Server-side apply over the very object that was observed. Raises Stale where it is another by now."""
        metadata = {**body["metadata"], "uid": uid, "resourceVersion": resource_version}
        return await self._apply(self._path(body), {**body, "metadata": metadata})

    async def patch(
        self, body: Mapping[str, Any], patch: Mapping[str, Any], uid: str, resource_version: str
    ) -> dict[str, Any]:
        """Strategic-merge patch over the very object that was observed."""
        metadata = {**patch.get("metadata", {}), "uid": uid, "resourceVersion": resource_version}
        guarded = {**patch, "metadata": metadata}
        kind = "application/strategic-merge-patch+json"
        return await self._write("PATCH", self._path(body), guarded, kind, {"fieldManager": FIELD_MANAGER})

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        """Delete the very object that was observed; one that is gone already is no error."""
        options = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        path = f"{COLLECTIONS[kind].format(namespace=namespace)}/{name}"
        try:
            await self._write("DELETE", path, options)
        except Missing:
            return

    async def merge(self, kind: str, namespace: str, name: str, patch: Mapping[str, Any]) -> dict[str, Any]:
        """Merge patch of an object by a person's tool: whatever it was observed as. Raises Missing or Rejected."""
        path = f"{COLLECTIONS[kind].format(namespace=namespace)}/{name}"
        return await self._write("PATCH", path, patch, "application/merge-patch+json", {"fieldManager": TOOL_MANAGER})

    async def read(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        """The object, or None where there is none."""
        try:
            return await self._request("GET", f"{COLLECTIONS[kind].format(namespace=namespace)}/{name}")
        except Missing:
            return None

    async def get(self, path: str, query: Mapping[str, str] | None = None, accept: str = JSON) -> dict[str, Any]:
        """What the API server answers to a path. Raises Missing, Rejected (which may be: forbidden) or ApiFailure."""
        return await self._request("GET", path, query=query, accept=accept)

    async def get_text(self, path: str) -> str:
        """The same for an answer that is no JSON, such as metrics through the API server's proxy."""
        return (await self._answer("GET", path, accept="*/*")).decode(errors="replace")

    async def serves_resource(self) -> bool:
        """Whether the API server serves the custom resource: its definition is installed."""
        try:
            found = await self._request("GET", f"/apis/{identity.GROUP}/{identity.VERSION}")
        except Missing:
            return False
        return any(resource["name"] == identity.PLURAL for resource in found.get("resources", ()))

    async def write_status(self, namespace: str, name: str, uid: str, status: Mapping[str, Any]) -> dict[str, Any]:
        """Server-side apply of the whole status.

        Raises Missing or Stale where the resource is gone or another, Undeclared where its definition is too old.
        """
        body = {
            "apiVersion": identity.API_VERSION,
            "kind": identity.KIND,
            "metadata": {"name": name, "namespace": namespace, "uid": uid},
            "status": status,
        }
        try:
            return await self._apply(f"{self._path(body)}/status", body)
        except ApiFailure as failure:
            if is_undeclared(failure):
                raise Undeclared(failure.status, failure.message) from failure
            raise

    async def write_event(self, event: Mapping[str, Any]) -> None:
        """Create a Kubernetes event."""
        await self._write("POST", self._path(event, item=False), event)

    async def _apply(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return await self._write("PATCH", path, body, "application/apply-patch+yaml", query)

    @staticmethod
    def _path(body: Mapping[str, Any], item: bool = True) -> str:
        metadata = body["metadata"]
        collection = COLLECTIONS[body["kind"]].format(namespace=metadata["namespace"])
        return f"{collection}/{metadata['name']}" if item else collection

    async def _write(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any],
        content_type: str = JSON,
        query: Mapping[str, str] | None = None,
        accept: str = JSON,
    ) -> dict[str, Any]:
        self.writes += 1
        return await self._request(method, path, body, content_type, query, accept)

    async def _request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        content_type: str = JSON,
        query: Mapping[str, str] | None = None,
        accept: str = JSON,
    ) -> dict[str, Any]:
        text = await self._answer(method, path, body, content_type, query, accept)
        try:
            return dict(orjson.loads(text)) if text else {}
        except ValueError as error:  # it was done or not: the next pass sees
            raise ApiFailure(0, f"the API server's answer broke off after {len(text)} bytes") from error

    async def _answer(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        content_type: str = JSON,
        query: Mapping[str, str] | None = None,
        accept: str = JSON,
    ) -> bytes:
        headers = await self._headers(content_type, accept)
        url = self._configuration.host + path
        data = None if body is None else orjson.dumps(body)
        try:
            async with self._session.request(method, url, data=data, params=query, headers=headers) as response:
                text = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ApiFailure(0, f"no answer from the API server: {type(error).__name__}: {error}") from error
        if response.status >= 300:
            raise sort_failure(response.status, text, response.headers)
        return text

    async def _headers(self, content_type: str, accept: str) -> dict[str, str]:
        headers = {"Content-Type": content_type, "Accept": accept}
        auth = await self._configuration.auth_settings()
        if "BearerToken" in auth:
            headers["Authorization"] = str(auth["BearerToken"]["value"])
        return headers

    @asynccontextmanager
    async def opened(
        self, method: str, path: str, body: Mapping[str, Any], seconds: float
    ) -> AsyncIterator[aiohttp.StreamReader]:
        """An answer as it comes, for streams through the proxy. Raises ApiFailure, while it is read too.

        In chunks: of a body whose length is known Go's proxies read once more after its last byte, and where the answer
        has begun before that, they break it off (golang/go#40747). The last chunk is sent after that look.
        """
        headers = await self._headers(JSON, "*/*")
        limit = aiohttp.ClientTimeout(total=seconds)
        address, data = self._configuration.host + path, orjson.dumps(body)
        try:
            async with self._session.request(
                method, address, data=data, headers=headers, timeout=limit, chunked=True
            ) as response:
                if response.status >= 300:
                    raise sort_failure(response.status, await response.read(), response.headers)
                yield response.content
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ApiFailure(0, f"the stream broke off: {type(error).__name__}: {error}") from error


async def own_image(cluster: Cluster) -> str:
    """The image of the pod that this process runs in; empty outside of one, and where one may not look."""
    if not POD_NAMESPACE.is_file():
        return ""
    namespace, pod = POD_NAMESPACE.read_text(encoding="utf-8").strip(), os.environ.get("HOSTNAME", "")
    query = {"fieldSelector": f"metadata.name={pod}"}
    try:
        pods = (await cluster.get(f"/api/v1/namespaces/{namespace}/pods", query)).get("items", ())
    except ApiFailure:
        return ""
    containers = pods[0]["spec"]["containers"] if pods else ()
    return str(containers[0]["image"]) if containers else ""


def is_undeclared(failure: ApiFailure) -> bool:
    """Whether an answer to a write of a status means that the definition is older than its writer.

    A server-side apply of a field that the schema lacks is answered with 500 and these words (Kubernetes 1.36, typed
    patches of structured-merge-diff); a value that the schema does not admit, with 422.
    """
    return failure.status == 422 or (failure.status >= 400 and "field not declared in schema" in failure.message)


def environment_proxy(server: str) -> str | None:
    """The proxy that the environment names for this server. Asked once: aiohttp would look at every request."""
    parts = urlsplit(server)
    if proxy_bypass(parts.hostname or ""):
        return None
    return getproxies().get(parts.scheme)


def sort_failure(status: int, body: Any, headers: Mapping[str, str]) -> ApiFailure:
    """The failure that an HTTP answer means."""
    text = body.decode(errors="replace") if isinstance(body, bytes) else str(body)
    try:
        told = orjson.loads(text)
        message, reason = str(told.get("message", text)), str(told.get("reason", ""))
    except (ValueError, AttributeError):
        message, reason = text[:512], ""
    if status == 409 and reason == "AlreadyExists":
        return Taken(status, message)
    if status == 409:
        return Stale(status, message)
    if status == 404:
        return Missing(status, message)
    if status in (400, 403, 405, 413, 415, 422):
        return Rejected(status, message)
    wait = headers.get("Retry-After")
    return ApiFailure(status, message, float(wait) if wait and wait.isdigit() else None)
