"""Asking an API server whether it is there, without a client library."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml


class Api:
    """One user's connection data, read from a kubeconfig that holds its certificates inside."""

    def __init__(self, kubeconfig: Path) -> None:
        content = yaml.safe_load(kubeconfig.read_text())
        cluster, user = content["clusters"][0]["cluster"], content["users"][0]["user"]
        self.address = urlsplit(cluster["server"]).netloc
        self.tls = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
        with tempfile.NamedTemporaryFile() as both:  # ssl reads certificates from files only
            both.write(base64.b64decode(user["client-certificate-data"]))
            both.write(base64.b64decode(user["client-key-data"]))
            both.flush()
            self.tls.load_cert_chain(both.name)

    def get(self, path: str, seconds: float = 5.0) -> tuple[int, bytes]:
        """Status and body of a GET. Raises OSError or HTTPException when nobody answers."""
        return self.send("GET", path, seconds=seconds)

    def send(
        self, method: str, path: str, body: Any = None, kind: str = "application/json", seconds: float = 5.0
    ) -> tuple[int, bytes]:
        """Status and body of any request; `body` is sent as JSON of content type `kind`."""
        connection = http.client.HTTPSConnection(self.address, timeout=seconds, context=self.tls)
        try:
            # Not escaped: an apply is read as YAML, which knows no surrogates.
            sent = None if body is None else json.dumps(body, ensure_ascii=False).encode()
            connection.request(method, path, sent, {"Content-Type": kind} if sent else {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def ready(self, path: str = "/readyz") -> bool:
        """Whether a GET answers 200 now."""
        try:
            return self.get(path)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def read(self, path: str) -> Any:
        """The parsed object at a path; None when it is not there or nobody answers."""
        try:
            status, body = self.get(path)
        except (OSError, http.client.HTTPException):
            return None
        return json.loads(body) if status == 200 else None
