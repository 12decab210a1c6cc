"""A model hub and a package index for pods that reach neither: both real protocols, over plain HTTP.

Runs in a pod of its own (standard library only): ``python3 server.py REPOSITORIES.json PORT``. The hub answers what
huggingface_hub asks for (HF_ENDPOINT), the index what pip asks for (the simple API). Repositories are
``{"token": …, "repositories": {name: {"folder": path} | {"files": {path: text}}}}``, all at one commit; wheels are
those in the folder ``WHEELS``. ``/asked`` tells what the hub was asked, ``/served`` which files (or ranges) went out.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

COMMIT: Final = "5ca1ab1e" * 5
WHEELS: Final = "/tmp/wheels"
_MODEL: Final = re.compile(r"/api/models/(?P<name>[^/]+/[^/]+)(?:/(?P<what>revision|tree)/(?P<revision>[^/]+))?")
_FILE: Final = re.compile(r"/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")


class Repositories:
    """What the hub holds, and what it has given away."""

    def __init__(self, description: dict[str, Any]) -> None:
        self.token = str(description.get("token", ""))
        self.files = {name: _files(entry) for name, entry in description["repositories"].items()}
        self.asked: list[str] = []
        self.served: list[str] = []
        self.lock = threading.Lock()


def _files(entry: dict[str, Any]) -> dict[str, bytes]:
    if "folder" not in entry:
        return {path: text.encode() for path, text in entry["files"].items()}
    folder = Path(entry["folder"])
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _oid(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """One request to hub or index."""

    protocol_version = "HTTP/1.1"
    repositories: Repositories

    def do_HEAD(self) -> None:
        """The same without a body."""
        self.do_GET()

    def do_GET(self) -> None:
        """Hub, index, or what was served."""
        path = unquote(urlsplit(self.path).path)
        wheel = re.fullmatch(r"/wheels/([^/]+\.whl)", path)
        if path in ("/asked", "/served"):
            told = self.repositories.asked if path == "/asked" else self.repositories.served
            self._say(200, json.dumps(told).encode())
        elif package := re.fullmatch(r"/simple/([^/]+)/", path):
            self._index(package[1])
        elif wheel and (file := Path(WHEELS, wheel[1])).is_file():
            self._say(200, file.read_bytes(), {"Content-Type": "application/octet-stream"})
        elif self.headers.get("Authorization") != f"Bearer {self.repositories.token}":
            self._say(401, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "a token is needed"})
        else:
            self._hub(path)

    def _index(self, package: str) -> None:
        wheels = sorted(Path(WHEELS).glob(f"{package.replace('-', '_')}-*.whl"))
        links = "".join(f'<a href="/wheels/{wheel.name}">{wheel.name}</a>\n' for wheel in wheels)
        page = f"<!DOCTYPE html><html><body>\n{links}</body></html>".encode()
        self._say(200 if wheels else 404, page, {"Content-Type": "text/html"})

    def _hub(self, path: str) -> None:
        repositories = self.repositories.files
        with self.repositories.lock:
            self.repositories.asked.append(f"{self.command} {path}")
        found = _MODEL.fullmatch(path) or _FILE.fullmatch(path)
        if found is None or found["name"] not in repositories:
            self._say(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif found["revision"] not in (None, "main", COMMIT):
            self._say(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif found.re is _MODEL:
            self._repository(found["name"], tree=found["what"] == "tree")
        elif (content := repositories[found["name"]].get(found["path"])) is None:
            self._say(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        else:
            self._file(f"{found['name']}/{found['path']}", content)

    def _repository(self, name: str, tree: bool) -> None:
        """What the repository is, or the list of its files."""
        held = sorted(self.repositories.files[name].items())
        if tree:
            listed = [
                {"type": "file", "path": path, "size": len(content), "oid": _oid(content)} for path, content in held
            ]
            self._say(200, json.dumps(listed).encode())
            return
        siblings = [{"rfilename": path, "size": len(content)} for path, content in held]
        told = {"id": name, "modelId": name, "sha": COMMIT, "private": False, "tags": [], "siblings": siblings}
        self._say(200, json.dumps(told).encode())

    def _file(self, name: str, content: bytes) -> None:
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{_oid(content)}"', "Accept-Ranges": "bytes"}
        status, part = 200, re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if part:
            first, last = int(part[1]), min(int(part[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            status, content = 206, content[first : last + 1]
        if self.command == "GET":
            with self.repositories.lock:
                self.repositories.served.append(f"{name}@{part[0]}" if part else name)
        self._say(status, content, headers | {"Content-Type": "application/octet-stream"})

    def _say(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in ({"Content-Type": "application/json"} | (headers or {})).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


def main(arguments: list[str]) -> None:
    """Serve for ever."""
    description, port = arguments
    Path(WHEELS).mkdir(exist_ok=True)
    Handler.repositories = Repositories(json.loads(Path(description).read_text()))
    ThreadingHTTPServer(("0.0.0.0", int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
