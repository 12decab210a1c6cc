"""A small model hub on the loopback that speaks the protocol of huggingface_hub (HF_ENDPOINT).

The client is the real one; what is fake is the hub's contents. It can cut a download short, and refuse a token.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34


class FakeHub:
    """Repositories as ``{name: {path: bytes}}``, all at one commit."""

    def __init__(self, files: dict[str, dict[str, bytes]], token: str | None = None) -> None:
        self.files = files
        self.token = token
        self.served: list[str] = []
        self.cut_after: int | None = None
        hub = self

        class Handler(_Handler):
            owner = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FakeHub:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    owner: FakeHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_: object) -> None:
        return

    def _answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        if self.owner.token and self.headers.get("Authorization") != f"Bearer {self.owner.token}":
            self._send(401, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "a token is needed"}, body)
            return
        told = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        tree = re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path)
        if told and told[1] in self.owner.files:
            self._repository(told[1], told[2], body)
        elif tree and tree[1] in self.owner.files:
            listed = [self._entry(name, content) for name, content in self.owner.files[tree[1]].items()]
            self._send(200, json.dumps(listed).encode(), {"Content-Type": "application/json"}, body)
        elif file and file[1] in self.owner.files and file[3] in self.owner.files[file[1]]:
            self._file(self.owner.files[file[1]][file[3]], file[3], body)
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)

    def _entry(self, name: str, content: bytes) -> dict[str, Any]:
        return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def _repository(self, name: str, revision: str | None, body: bool) -> None:
        if revision not in (None, "main", COMMIT):
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, body)
            return
        siblings = [{"rfilename": path, "size": len(content)} for path, content in self.owner.files[name].items()]
        told = {"id": name, "modelId": name, "sha": COMMIT, "private": False, "tags": [], "siblings": siblings}
        self._send(200, json.dumps(told).encode(), {"Content-Type": "application/json"}, body)

    def _file(self, content: bytes, name: str, body: bool) -> None:
        headers = {
            "X-Repo-Commit": COMMIT,
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        start = 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if asked:
            start = int(asked[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if body:
            self.owner.served.append(f"{name}@{start}")
        self._send(206 if asked else 200, content[start:], headers, body)

    def _send(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if not body:
            return
        limit = self.owner.cut_after
        if limit is not None and len(content) > limit:
            self.wfile.write(content[:limit])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(content)
