"""Answers the engine's port while there is no engine, so that a user and the operator see why.

Everything is answered with 503 and the reason as JSON, except ``/livez``: the launcher is alive and waits on
purpose.  A parked one also answers ``/health?or=parked``, which kubelet asks before it restarts a container: that
would change nothing.  One that waits to boot does not: kubelet would take the engine for started.
"""

from __future__ import annotations

import json
import socket
import threading
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from http.server import ThreadingHTTPServer
    from typing import Self

__all__ = ["StandIn"]


class StandIn:
    """The stand-in server; the reason can change while it runs. A port that cannot be had is reported, not fatal."""

    def __init__(self, host: str, port: int, fields: dict[str, object], *, parked: bool = False) -> None:
        self._address = (host, port)
        self._well = ("/livez", "/health?or=parked") if parked else ("/livez",)
        self._body = b""
        self.say(fields)
        self._server: ThreadingHTTPServer | None = None
        self.error: OSError | None = None
        """Why the port could not be opened, if so."""

    def say(self, fields: dict[str, object]) -> None:
        """What to answer from now on."""
        self._body = json.dumps(fields, ensure_ascii=False).encode()

    def __enter__(self) -> Self:
        # Imported here: a boot that need not wait should not pay for an HTTP server.
        from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
        from socketserver import TCPServer

        standin = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def answer(self) -> None:
                content = standin._body
                self.send_response(200 if self.path in standin._well else 503)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Retry-After", "30")
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_HEAD = do_POST = answer  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Probes come every few seconds: not a log line each."""

        class Server(ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
            daemon_threads = True

            def server_bind(self) -> None:
                # The inherited one asks DNS for the host's full name, which may take seconds.
                TCPServer.server_bind(self)
                self.server_name, self.server_port = "engine", self.socket.getsockname()[1]

        try:
            self._server = Server(self._address, Handler)
        except OSError as error:
            self.error = error
            return self
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
