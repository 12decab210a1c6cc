"""Carries TCP connections from a socket made elsewhere to an address that only this process's network has.

Started as a file inside a machine's network namespace, with a listening socket made in the host's: a socket
stays in the namespace it was made in. Standard library only. Arguments: descriptor, host, port, and `tied`
when the relay has to end with the process that started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_CHUNK = 1 << 16


async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Copy until the source ends, then pass the end on."""
    with contextlib.suppress(OSError):
        while chunk := await source.read(_CHUNK):
            sink.write(chunk)
            await sink.drain()
        if sink.can_write_eof():
            sink.write_eof()


async def serve(listener: socket.socket, host: str, port: int) -> None:
    """Relay each connection to host:port; who cannot be connected is hung up on."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.wait_for(asyncio.open_connection(host, port), 10)
        except (OSError, TimeoutError):
            writer.transport.abort()
            return
        await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))
        for end in (writer, far_writer):
            end.close()

    server = await asyncio.start_server(carry, sock=listener)
    await server.serve_forever()


def main(arguments: list[str]) -> None:
    """Relay for ever."""
    descriptor, host, port, *more = arguments
    if "tied" in more:
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            return
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(socket.socket(fileno=int(descriptor)), host, int(port)))


if __name__ == "__main__":
    main(sys.argv[1:])
