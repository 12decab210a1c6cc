"""The agent's HTTP port: a few daemon threads inside the engine's process.

=========  ==========================================================  =====
/livez     200, or 503 when requests wait and no token comes           open
/metrics   Prometheus text                                             open
/status    JSON: K, acceptance, steps, progress, overhead              token
/k         PUT: settings                                               token
/state     GET, PUT: what the policies have learnt                     token
=========  ==========================================================  =====
"""

from __future__ import annotations

import json
import logging
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

from gemmaspec_engine.agent.host import Agent

__all__ = ["Port", "serve"]

BODY_MOST = 512 * 1024
"""State of an adaptive policy is some 20 KiB."""
AT_ONCE = 8
"""Connections served at a time; more are closed: nobody may fill the engine's process with threads."""
READ_SECONDS = 5.0
RETRY_SECONDS = 2.0
log = logging.getLogger("vllm.gemmaspec")


class Port(socketserver.TCPServer):
    """Answers each connection in a daemon thread, a few at a time."""

    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, host: str, port: int, agent: Agent) -> None:
        self.agent = agent
        self._slots = threading.BoundedSemaphore(AT_ONCE)
        super().__init__((host, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answers in a thread, or hangs up when too many are answered already."""
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        arguments = (request, client_address)
        threading.Thread(target=self._answer, args=arguments, name="gemmaspec-port", daemon=True).start()

    def _answer(self, request: Any, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except Exception as error:  # noqa: BLE001  a client that went away, mostly
            log.debug("gemmaspec agent: port: %r", error)
        finally:
            self._slots.release()
            self.shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing on stderr: the engine's log is not for the port's clients."""


class _Handler(BaseHTTPRequestHandler):
    timeout = READ_SECONDS
    server: Port

    def do_GET(self) -> None:
        self._guarded(self._get)

    def do_PUT(self) -> None:
        self._guarded(self._put)

    def _guarded(self, answer: Callable[[], None]) -> None:
        try:
            answer()
        except (TimeoutError, ConnectionError):
            return
        except Exception as error:
            count = self.server.agent.controller.exceptions
            count["port"] = count.get("port", 0) + 1
            log.exception("gemmaspec agent: port")
            self._json(500, {"error": repr(error)})

    def _get(self) -> None:
        agent, path = self.server.agent, self.path.partition("?")[0]
        if path == "/livez":
            live, figures = agent.livez()
            self._json(200 if live else 503, figures)
        elif path == "/metrics":
            self._answer(200, "text/plain; version=0.0.4; charset=utf-8", agent.metrics().encode())
        elif path not in ("/status", "/state"):
            self._json(404, {"error": "there are /livez, /metrics, /status, /k and /state"})
        elif self._allowed():
            self._json(200, agent.status() if path == "/status" else agent.controller.export_state())

    def _put(self) -> None:
        agent, path = self.server.agent, self.path.partition("?")[0]
        body = self._body()
        if body is None:
            return
        if path not in ("/k", "/state"):
            self._json(404, {"error": "PUT goes to /k or /state"})
        elif self._allowed():
            try:
                value = json.loads(body)
                if path == "/state":
                    agent.controller.load_state(value if isinstance(value, dict) else {})
                    agent.restored = "port"
                    self._json(200, agent.k_json())
                else:
                    self._json(200, agent.put_k(value))
            except PermissionError as error:
                self._json(409, {"error": str(error)})
            except ValueError as error:  # SettingsError, a policy's refusal, or no JSON
                self._json(422, {"error": str(error)})

    def _body(self) -> bytes | None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > BODY_MOST:
            self._json(413, {"error": f"Content-Length must be at most {BODY_MOST}"})
            return None
        return self.rfile.read(int(length))

    def _allowed(self) -> bool:
        if self.server.agent.authorized(self.headers.get("Authorization")):
            return True
        self._json(401, {"error": "bearer token missing or wrong"})
        return False

    def _json(self, code: int, value: object) -> None:
        self._answer(code, "application/json", (json.dumps(value) + "\n").encode())

    def _answer(self, code: int, kind: str, body: bytes) -> None:
        self.send_response_only(code)
        if code == 401:
            self.send_header("WWW-Authenticate", "Bearer")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def serve(agent: Agent, opened: Callable[[int], None] = lambda _: None) -> threading.Thread | None:
    """Opens the port in a thread of its own; None when the configuration has none. A port in use is tried again."""
    if agent.config.port is None:
        return None
    thread = threading.Thread(target=_run, args=(agent, opened), name="gemmaspec-agent", daemon=True)
    thread.start()
    return thread


def _run(agent: Agent, opened: Callable[[int], None]) -> None:
    said = False
    while True:
        try:
            with _bind(agent) as port:
                opened(port.server_address[1])
                port.serve_forever(poll_interval=3600.0)
        except Exception as error:  # noqa: BLE001
            if not said:
                log.error("gemmaspec agent: port %s: %r; trying again", agent.config.port, error)
                said = True
        time.sleep(RETRY_SECONDS)


def _bind(agent: Agent) -> Port:
    wanted = agent.config.port
    assert wanted is not None
    try:
        return _DualStack(agent.config.host or "::", wanted, agent)
    except OSError:
        return Port(agent.config.host, wanted, agent)


class _DualStack(Port):
    """IPv6 and IPv4: a kubelet probes the address family of its cluster."""

    address_family = socket.AF_INET6

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()
