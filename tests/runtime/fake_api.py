"""A fake API server for the operator's process: lists, watches that tell of churn and end early, writes that are taken.

It knows no schema, no version but a counter, and no rights: what a real API server decides is tested in
tests/integration. Here thousands of watches come and go within a minute.

    python -m tests.runtime.fake_api PORT CERTIFICATE KEY
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import ssl
import sys
from typing import Any

from aiohttp import web

from gemmaspec.api import identity
from gemmaspec.core import names

# By group and version: plural and kind.
SERVED = {
    "v1": {
        "pods": "Pod",
        "services": "Service",
        "serviceaccounts": "ServiceAccount",
        "configmaps": "ConfigMap",
        "namespaces": "Namespace",
    },
    "policy/v1": {"poddisruptionbudgets": "PodDisruptionBudget"},
    "apps/v1": {"deployments": "Deployment"},
    "batch/v1": {"jobs": "Job"},
    identity.API_VERSION: {identity.PLURAL: identity.KIND},
}
KINDS = {plural: kind for served in SERVED.values() for plural, kind in served.items()}
WATCH_SECONDS = 0.1
PODS = 20
EVENTS_A_SECOND = 20.0
# Of the events about a pod one in so many is its end, and the next one's beginning.
VANISH_EVERY = 10
Body = dict[str, Any]


class FakeApi:
    """Objects, and who watches them. ``counts``: what was asked for so far."""

    def __init__(self) -> None:
        self.counts = {"lists": 0, "watches": 0, "events": 0}
        self._version = 100
        self._objects: dict[str, dict[str, Body]] = {plural: {} for plural in KINDS}
        self._watching: dict[str, set[asyncio.Queue[bytes]]] = {plural: set() for plural in KINDS}
        resource: Body = {"apiVersion": identity.API_VERSION, "kind": identity.KIND, "spec": {"recipe": "none-such"}}
        self._objects[identity.PLURAL]["one"] = resource | {"metadata": self._metadata("one")}
        for number in range(PODS):
            self._new_pod(f"pod-{number}")

    def _metadata(self, name: str, **more: Any) -> Body:
        self._version += 1
        known = {"name": name, "namespace": "ns", "uid": f"uid-{self._version}", "generation": 1}
        return known | {"resourceVersion": str(self._version)} | more

    def _new_pod(self, name: str) -> Body:
        labels = {names.OWNER_LABEL: "one", names.MANAGED_BY: names.FIELD_MANAGER, names.REVISION_LABEL: "r"}
        container = {"name": "engine", "image": "i", "ports": [{"containerPort": 8000}]}
        metadata = self._metadata(name, labels=labels, annotations={names.K_ANNOTATION: "4"})
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}
        self._objects["pods"][name] = pod | {"status": {"phase": "Pending"}}
        return self._objects["pods"][name]

    def _tell(self, plural: str, kind: str, body: Body) -> None:
        self.counts["events"] += 1
        line = json.dumps({"type": kind, "object": body}).encode() + b"\n"
        for queue in self._watching[plural]:
            queue.put_nowait(line)

    def _changed(self, plural: str, name: str, **change: Any) -> Body:
        """A new version of the object."""
        self._version += 1
        body = copy.deepcopy(self._objects[plural][name]) | change
        body["metadata"]["resourceVersion"] = str(self._version)
        self._objects[plural][name] = body
        return body

    async def churn(self) -> None:
        """Pods change, and now and then one is replaced, for ever."""
        number = 0
        while True:
            await asyncio.sleep(1 / EVENTS_A_SECOND)
            number += 1
            name = f"pod-{number % PODS}"
            body = self._changed("pods", name, status={"phase": "Pending", "message": str(number)})
            if number % VANISH_EVERY:
                self._tell("pods", "MODIFIED", body)
            else:
                self._tell("pods", "DELETED", body)
                self._tell("pods", "ADDED", self._new_pod(name))

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Any request."""
        served = _discovery(request.path)
        if served is not None:
            return web.json_response(served)
        plural = next((part for part in reversed(request.path.split("/")) if part in KINDS), None)
        if request.path == "/counts":
            return web.json_response(self.counts)
        if plural is None:  # events of ours
            return web.json_response({}, status=201 if request.method == "POST" else 404)
        if request.method == "PATCH":  # of the resource's status
            name, body = request.path.split("/")[-2], await request.json()
            changed = self._changed(plural, name, status=body["status"])
            self._tell(plural, "MODIFIED", changed)
            return web.json_response(changed)
        if "watch" in request.query:
            return await self._watch(request, plural)
        self.counts["lists"] += 1
        listed = {"metadata": {"resourceVersion": str(self._version)}, "items": list(self._objects[plural].values())}
        return web.json_response({"kind": "List", "apiVersion": "v1", **listed})

    async def _watch(self, request: web.Request, plural: str) -> web.StreamResponse:
        """A watch of a moment. It ends, is cut off, or expires, in turn."""
        self.counts["watches"] += 1
        turn = self.counts["watches"] % 3
        answer = web.StreamResponse()
        await answer.prepare(request)
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._watching[plural].add(queue)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WATCH_SECONDS):
                    while True:
                        await answer.write(await queue.get())
            if turn == 1:
                gone = {"kind": "Status", "code": 410, "reason": "Expired", "status": "Failure"}
                await answer.write(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")
            elif turn == 2 and request.transport:
                request.transport.abort()
        except ConnectionError:
            pass
        finally:
            self._watching[plural].discard(queue)
        return answer


def _discovery(path: str) -> Body | None:
    """What a client asks before it lists; None for another path."""
    if path == "/version":
        return {"major": "1", "minor": "36"}
    if path == "/api":
        return {"versions": ["v1"]}
    if path == "/apis":
        groups = [known.split("/") for known in SERVED if "/" in known]
        return {"groups": [_group(name, version) for name, version in groups]}
    known = path.removeprefix("/apis/").removeprefix("/api/")
    if known not in SERVED:
        return None
    verbs = ["get", "list", "watch", "create", "patch", "delete"]
    found = [
        {"name": plural, "singularName": kind.lower(), "kind": kind, "namespaced": True, "verbs": verbs}
        for plural, kind in SERVED[known].items()
    ]
    return {"groupVersion": known, "resources": found}


def _group(name: str, version: str) -> Body:
    only = {"version": version, "groupVersion": f"{name}/{version}"}
    return {"name": name, "versions": [only], "preferredVersion": only}


async def main(port: int, certificate: str, key: str) -> None:
    """Serve for ever."""
    api, application = FakeApi(), web.Application()
    application.router.add_route("*", "/{path:.*}", api.answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    trust = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trust.load_cert_chain(certificate, key)
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=trust).start()
    await api.churn()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
