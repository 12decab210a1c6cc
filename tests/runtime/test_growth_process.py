"""The memory of the operator's process, kopf and TLS included, after thousands of watches against a fake API server.

`make campaign ARGS="-s tests/runtime/test_growth_process.py"`. A memory allocator takes its time to find its size: what
is judged is the second half.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from testbed.api import Api
from testbed.controlplane import reserve_port
from testbed.deadline import wait_for
from testbed.pki import Authority, kubeconfig

SECONDS = 120.0
LOOKS = 12
# Eight watches are renewed each ten minutes: a hundred in two hours. The operator may grow by a page for each.
MOST_BYTES_A_WATCH = 400.0
FEWEST_WATCHES = 2000

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(300)]


@contextmanager
def operator(folder: Path, **environment: str) -> Iterator[tuple[int, Api, int]]:
    """The operator before a fake API server: its process id, a way to that server, and its port of metrics."""
    authority = Authority.create("fake")
    authority.issue("api", hosts=["127.0.0.1"]).write(folder, "api")
    with reserve_port() as held, reserve_port() as other:
        port, metrics = held.getsockname()[1], other.getsockname()[1]
    config, user = folder / "kubeconfig", authority.issue("operator")
    config.write_text(kubeconfig(f"https://127.0.0.1:{port}", authority.identity.certificate, "operator", user))
    known = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    given = [str(port), str(folder / "api.crt"), str(folder / "api.key")]
    server = subprocess.Popen([sys.executable, "-m", "tests.runtime.fake_api", *given], env=known)
    api = Api(config)
    wait_for(lambda: api.ready("/counts"), "the fake API server", 60)
    options = {"KUBECONFIG": str(config), "KUBERNETES_SERVICE_HOST": "", "GEMMASPEC_HEALTH_PORT": "0"}
    options["GEMMASPEC_METRICS_PORT"] = str(metrics)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gemmaspec.runtime"], env=known | options, stdout=log, stderr=log
        )
    try:
        yield process.pid, api, metrics
        assert process.poll() is None, (folder / "log").read_text()[-3000:]
    finally:
        process.kill()
        server.kill()
        process.wait(60)
        server.wait(60)


def resident(process_id: int) -> int:
    """Bytes that are in memory."""
    found = re.search(r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{process_id}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024


def test_thousands_of_watches_leave_nothing_behind(tmp_path: Path) -> None:
    looks: list[tuple[int, int, int]] = []
    with operator(tmp_path) as (process_id, api, metrics):
        for _ in range(LOOKS):
            time.sleep(SECONDS / LOOKS)
            urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=30).read()
            counts: dict[str, Any] = json.loads(api.get("/counts")[1])
            files = len(list(Path(f"/proc/{process_id}/fd").iterdir()))
            looks.append((counts["watches"], resident(process_id), files))
            print(f"{counts}: {looks[-1][1] / 2**20:.2f} MiB, {files} open files", flush=True)
    (early, was, files), (late, now, _) = looks[LOOKS // 2 - 1], looks[-1]
    assert late - early > FEWEST_WATCHES
    assert (now - was) / (late - early) < MOST_BYTES_A_WATCH
    assert max(look[2] for look in looks) < files + 10
