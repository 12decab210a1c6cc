"""Patches: fetched, verified, and loaded by every Python process in the place of the image's module."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import gemmaspec_engine
from gemmaspec_engine.environment import engine_environment
from gemmaspec_engine.patches import bring
from gemmaspec_engine.pin import Pin, parse

PACKAGE = Path(gemmaspec_engine.__file__).resolve().parent
PATCHED = "VALUE = 'patched'\n"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def pinned(tmp_path: Path, **patch: Any) -> Pin:
    fields = {"module": "fake_vllm.models.mtp", "sha256": digest(PATCHED)} | patch
    content = {
        "files": {"a": "0" * 64},
        "stateDir": str(tmp_path),
        "patches": [fields],
        "patchDir": str(tmp_path / "patches"),
        "preflight": {"fetchSeconds": 5},
    }
    return parse(json.dumps(content))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.py"
    path.write_text(PATCHED)
    return path


class Server(http.server.ThreadingHTTPServer):
    """Answers with ``status`` and ``content`` and counts the requests."""

    status, content, asked = 200, PATCHED.encode(), 0


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert isinstance(self.server, Server)
            self.server.asked += 1
            self.send_response(self.server.status)
            self.end_headers()
            self.wfile.write(self.server.content)

        def log_message(self, *args: object) -> None:
            pass

    with Server(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def test_a_mounted_patch_is_copied_read_only(tmp_path: Path, source: Path) -> None:
    assert bring(pinned(tmp_path, path=str(source))) == []
    copy = tmp_path / "patches" / "fake_vllm.models.mtp.py"
    assert copy.read_text() == PATCHED
    assert copy.stat().st_mode & 0o777 == 0o444


def test_a_verified_copy_needs_its_source_no_more(tmp_path: Path, source: Path) -> None:
    pin = pinned(tmp_path, path=str(source))
    assert bring(pin) == []
    source.unlink()
    assert bring(pin) == []


def test_a_wrong_hash_brings_nothing(tmp_path: Path, source: Path) -> None:
    source.write_text("VALUE = 'other'\n")
    (found,) = bring(pinned(tmp_path, path=str(source)))
    assert found.reason == "PatchHashMismatch"
    assert digest("VALUE = 'other'\n") in found.message
    assert digest(PATCHED) in found.message
    assert found.deterministic
    assert not (tmp_path / "patches").exists()


def test_a_missing_file(tmp_path: Path) -> None:
    (found,) = bring(pinned(tmp_path, path="/no/such/file.py"))
    assert (found.reason, found.deterministic) == ("PatchSourceMissing", True)


def test_a_patch_from_the_network(tmp_path: Path, server: Server) -> None:
    url = f"http://127.0.0.1:{server.server_port}/mtp.py"
    assert bring(pinned(tmp_path, url=url)) == []
    assert bring(pinned(tmp_path, url=url)) == []
    assert server.asked == 1


@pytest.mark.parametrize(
    ("status", "deterministic"), [(404, True), (403, True), (429, False), (500, False), (503, False)]
)
def test_what_a_server_says(tmp_path: Path, server: Server, status: int, deterministic: bool) -> None:
    server.status = status
    (found,) = bring(pinned(tmp_path, url=f"http://127.0.0.1:{server.server_port}/mtp.py"))
    assert (found.reason, found.deterministic) == ("PatchSourceMissing", deterministic)
    assert str(status) in found.message


def test_no_server_may_pass(tmp_path: Path) -> None:
    (found,) = bring(pinned(tmp_path, url="http://127.0.0.1:9/mtp.py"))
    assert (found.reason, found.deterministic) == ("PatchSourceMissing", False)


def test_what_is_no_module_is_refused(tmp_path: Path, server: Server) -> None:
    server.content = b"x" * (9 << 20)
    (found,) = bring(pinned(tmp_path, url=f"http://127.0.0.1:{server.server_port}/mtp.py"))
    assert "more than" in found.message


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A directory of packages as an image would have it: fake_vllm, with its own module."""
    models = tmp_path / "image" / "fake_vllm" / "models"
    models.mkdir(parents=True)
    for package in (models.parent, models):
        (package / "__init__.py").write_text("")
    (models / "mtp.py").write_text("VALUE = 'bundled'\n")
    (models / "other.py").write_text("from .mtp import VALUE\n")
    return tmp_path / "image"


def run(pin: Pin, image: Path, code: str, **env: str) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(image)} | env
    return subprocess.run(
        [sys.executable, "-c", code],
        env=engine_environment(pin, environ, PACKAGE),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_every_process_imports_the_pinned_bytes(tmp_path: Path, source: Path, image: Path) -> None:
    pin = pinned(tmp_path, path=str(source))
    bring(pin)
    code = (
        "import sys, subprocess, inspect, fake_vllm.models.mtp as m; from fake_vllm.models import other\n"
        "print(m.VALUE, other.VALUE, m.__file__, m.__gemmaspec_sha256__, inspect.getsource(m).strip())\n"
        "if len(sys.argv) == 1: subprocess.run([sys.executable, '-c', sys.orig_argv[2], 'child'])\n"
    )
    done = run(pin, image, code)
    line = f"patched patched {tmp_path}/patches/fake_vllm.models.mtp.py {digest(PATCHED)} {PATCHED.strip()}"
    assert done.stdout.splitlines() == [line, line], done.stderr


def test_a_multiprocessing_child_does_so_too(tmp_path: Path, source: Path, image: Path) -> None:
    pin = pinned(tmp_path, path=str(source))
    bring(pin)
    (image / "job.py").write_text("def ask(_):\n    from fake_vllm.models.mtp import VALUE\n    return VALUE\n")
    code = (
        "import multiprocessing, job\n"
        "if __name__ == '__main__':\n"
        "    for how in ('spawn', 'fork'):\n"
        "        with multiprocessing.get_context(how).Pool(1) as pool: print(pool.map(job.ask, [0]))\n"
    )
    assert run(pin, image, code).stdout.splitlines() == ["['patched']", "['patched']"]


def test_bytes_that_changed_after_preflight_are_not_run(tmp_path: Path, source: Path, image: Path) -> None:
    pin = pinned(tmp_path, path=str(source))
    bring(pin)
    copy = tmp_path / "patches" / "fake_vllm.models.mtp.py"
    copy.chmod(0o644)
    copy.write_text("print('evil')\n")
    done = run(pin, image, "import fake_vllm.models.mtp")
    assert done.returncode == 1
    assert "evil" not in done.stdout
    assert "ImportError: gemmaspec:" in done.stderr
    assert digest(PATCHED) in done.stderr


def test_without_the_hook_no_engine_runs(tmp_path: Path, source: Path, image: Path) -> None:
    pin = pinned(tmp_path, path=str(source))
    done = subprocess.run(
        [sys.executable, "-c", "print('running')"],
        env=engine_environment(pin, {"PYTHONPATH": ""}, PACKAGE) | {"GEMMASPEC_PINNED_IMPORTS": "{"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "running" not in done.stdout
    assert "pinned imports cannot be installed" in done.stderr


def test_the_image_s_own_sitecustomize_still_runs(tmp_path: Path, source: Path, image: Path) -> None:
    (image / "sitecustomize.py").write_text("print('the image was here')\n")
    pin = pinned(tmp_path, path=str(source))
    bring(pin)
    done = run(pin, image, "import fake_vllm.models.mtp as m; print(m.VALUE)")
    assert done.stdout.splitlines() == ["the image was here", "patched"]


def test_without_patches_nothing_is_added() -> None:
    pin = parse(json.dumps({"files": {"a": "0" * 64}, "stateDir": "/x"}))
    assert engine_environment(pin, {"PYTHONPATH": "/etc/gemmaspec/engine", "A": "b"}, PACKAGE) == {
        "PYTHONPATH": "/etc/gemmaspec/engine",
        "A": "b",
    }
    assert engine_environment(pin, {}, PACKAGE) == {}


def test_the_overlay_comes_before_the_image() -> None:
    content = {
        "files": {"a": "0" * 64},
        "stateDir": "/x",
        "transformers": {"mode": "Install", "version": "5.8.0", "overlayDir": "/overlay"},
    }
    env = engine_environment(parse(json.dumps(content)), {"PYTHONPATH": "/etc/gemmaspec/engine"}, PACKAGE)
    assert env["PYTHONPATH"].split(":") == ["/overlay", "/etc/gemmaspec/engine"]
