"""The way from this machine to the Service: one base URL that outlives the engine's pods."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from testbed import Cluster
from testbed.cluster import ClusterError
from testbed.relay import copy
from testbed.usercluster import UserCluster

_FORWARD_SECONDS: Final = 20.0
_STOP_SECONDS: Final = 5.0


@contextmanager
def door(cluster: Cluster | UserCluster, service: str, port: int, namespace: str) -> Iterator[str]:
    """``http://…`` of a Service, without a trailing slash or /v1, while the context lasts.

    On the testbed connections are made from a node to the Service's cluster address, so that kube-proxy carries
    them as it does for any pod. On a cluster of the user's, kubectl port-forward carries them; it holds on to one
    pod, so a new one is started when that has gone. Raises ClusterError when there is nothing to lead to.
    """
    if isinstance(cluster, Cluster):
        with cluster.forward(f"svc/{service}", port, namespace) as local:
            yield f"http://127.0.0.1:{local}"
        return
    command = [*cluster.kubectl.command, "port-forward", "-n", namespace, f"svc/{service}", f":{port}"]
    with _Forwarding(command) as local:
        yield f"http://127.0.0.1:{local}"


class _Forwarding:
    """A local port behind which there is always a port-forward that works, as far as there can be one."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="door", daemon=True)
        self._process: asyncio.subprocess.Process | None = None
        self._port = 0
        self._talk: asyncio.Task[None] | None = None
        self._one_at_a_time = asyncio.Lock()

    def __enter__(self) -> int:
        self._thread.start()
        return asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(_FORWARD_SECONDS + _STOP_SECONDS)

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(_STOP_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOP_SECONDS)

    async def _open(self) -> int:
        await self._forwarded()
        server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        return int(server.sockets[0].getsockname()[1])

    async def _close(self) -> None:
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def _forwarded(self) -> int:
        """The port of a port-forward that lives. Raises ClusterError."""
        async with self._one_at_a_time:
            if self._process is None or self._process.returncode is not None:
                self._process = await asyncio.create_subprocess_exec(
                    *self._command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
                )
                self._port = await asyncio.wait_for(_announced(self._process), _FORWARD_SECONDS)
                self._talk = asyncio.create_task(_drained(self._process))
            return self._port

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", await self._forwarded())
        except (OSError, TimeoutError, ClusterError):
            writer.transport.abort()  # as a Service without endpoints would
            return
        await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))
        for end in (writer, far_writer):
            with contextlib.suppress(OSError):
                end.close()


async def _announced(process: asyncio.subprocess.Process) -> int:
    assert process.stdout is not None
    said = b""
    while line := await process.stdout.readline():
        said += line
        if found := re.search(rb"Forwarding from 127\.0\.0\.1:(\d+)", line):
            return int(found[1])
    await process.wait()
    raise ClusterError(f"no port-forward: {said.decode(errors='replace').strip() or 'no output'}")


async def _drained(process: asyncio.subprocess.Process) -> None:
    """Read on, for ever: it says a line for each connection, and would stop when nobody listened."""
    assert process.stdout is not None
    while await process.stdout.read(1 << 12):
        pass
    await process.wait()
