"""Bringing weights: the real hub client against a hub on the loopback."""

import json
import os
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from gemmaspec_engine.preflight import _all_cached
from gemmaspec_engine.weights import Failure, Repository, explain, parse_model, size_of
from tests.engine.fake_hub import COMMIT, FakeHub

pytestmark = pytest.mark.slow

TARGET, DRAFTER = "example/target", "example/drafter"
BIG = bytes(range(256)) * 4096
FILES = {
    TARGET: {
        "config.json": b"{}",
        "model.safetensors": BIG,
        "model.gguf": b"not for vLLM",
        "original/x.pth": b"nor this",
    },
    DRAFTER: {"config.json": b'{"a": 1}', "model.safetensors": b"drafter"},
}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def bring(
    hub: str, home: Path, *models: str, token: str = "", state: Path | None = None
) -> tuple[int, dict[str, object], str]:
    log = home / "termination"
    home.mkdir(exist_ok=True)
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
        "HF_ENDPOINT": hub,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_ETAG_TIMEOUT": "5",
        "GEMMASPEC_TERMINATION_LOG": str(log),
        "PYTHONPATH": "operator",
    } | ({"HF_TOKEN": token} if token else {})
    command = [sys.executable, "-m", "gemmaspec_engine.weights", "--port", str(free_port())]
    command += ["--state-dir", str(state)] if state else []
    for model in models:
        command += ["--model", model]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, json.loads(log.read_text()), done.stdout + done.stderr


def snapshot(home: Path, name: str) -> Path:
    return home / "hub" / ("models--" + name.replace("/", "--")) / "snapshots" / COMMIT


def test_target_and_drafter_are_brought_without_formats_that_vllm_does_not_load(tmp_path: Path) -> None:
    with FakeHub(FILES) as hub:
        code, said, output = bring(hub.url, tmp_path / "hf", TARGET, f"{DRAFTER}@{COMMIT}")
    assert (code, said["ok"], said["reason"]) == (0, True, "Cached"), output
    assert (snapshot(tmp_path / "hf", TARGET) / "model.safetensors").read_bytes() == BIG
    assert (snapshot(tmp_path / "hf", DRAFTER) / "config.json").read_bytes() == b'{"a": 1}'
    assert not (snapshot(tmp_path / "hf", TARGET) / "model.gguf").exists()
    assert not (snapshot(tmp_path / "hf", TARGET) / "original").exists()


def test_a_second_start_fetches_nothing_again_and_needs_no_hub_for_pinned_bytes(tmp_path: Path) -> None:
    with FakeHub(FILES) as hub:
        bring(hub.url, tmp_path / "hf", f"{TARGET}@{COMMIT}")
        hub.served.clear()
        bring(hub.url, tmp_path / "hf", TARGET)
        assert "model.safetensors@0" not in hub.served
    code, said, output = bring("http://127.0.0.1:9", tmp_path / "hf", f"{TARGET}@{COMMIT}")
    assert (code, said["ok"]) == (0, True), output


def test_preflight_asks_no_hub_once_both_pinned_models_are_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def arguments(target: str, revision: str) -> list[str]:
        drafter = json.dumps({"method": "mtp", "model": DRAFTER, "revision": COMMIT})
        return ["--model", target, "--revision", revision, "--speculative-config", drafter, "--enforce-eager"]

    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    with FakeHub(FILES) as hub:
        bring(hub.url, tmp_path / "hf", f"{TARGET}@{COMMIT}")
        assert not _all_cached(arguments(TARGET, COMMIT)), "the drafter is missing"
        bring(hub.url, tmp_path / "hf", f"{DRAFTER}@{COMMIT}")
    assert _all_cached(arguments(TARGET, COMMIT))
    assert _all_cached(arguments("/models/in-the-image", "main"))
    assert not _all_cached(arguments(TARGET, "main")), "a branch may have moved"
    assert not _all_cached(["--model", "/models/in-the-image"])


def test_a_download_that_was_cut_goes_on_at_the_next_try(tmp_path: Path) -> None:
    with FakeHub(FILES) as hub:
        hub.cut_after = 300_000
        code, said, output = bring(hub.url, tmp_path / "hf", TARGET)
        if code == 0:  # the client itself resumed until the file was whole
            assert any(entry.startswith("model.safetensors@") and not entry.endswith("@0") for entry in hub.served)
        else:
            assert (code, said["ok"], said["reason"]) == (75, False, "DownloadFailed"), output
            hub.cut_after = None
            assert bring(hub.url, tmp_path / "hf", TARGET)[0] == 0
    assert (snapshot(tmp_path / "hf", TARGET) / "model.safetensors").read_bytes() == BIG


def test_a_missing_or_wrong_token_is_told_with_the_way_out(tmp_path: Path) -> None:
    with FakeHub(FILES, token="right") as hub:
        code, said, output = bring(hub.url, tmp_path / "hf", TARGET, token="wrong")
        assert (code, said["reason"]) == (75, "HubTokenRejected"), output
        assert "spec.cache.download" in str(said["remedy"])
        assert "wrong" not in json.dumps(said)
        assert bring(hub.url, tmp_path / "hf", TARGET, token="right")[0] == 0


def test_an_unknown_model_and_an_unknown_revision_are_told_apart(tmp_path: Path) -> None:
    with FakeHub(FILES) as hub:
        assert bring(hub.url, tmp_path / "a", "example/none")[1]["reason"] == "ModelNotFound"
        assert bring(hub.url, tmp_path / "b", f"{TARGET}@v9")[1]["reason"] == "RevisionNotFound"


def test_nothing_is_downloaded_for_an_engine_that_can_never_start(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    failed = {"ok": False, "deterministic": True, "reason": "DrafterVocabMismatch"}
    (state / "preflight.json").write_text(json.dumps(failed))
    with FakeHub(FILES) as hub:
        code, said, output = bring(hub.url, tmp_path / "hf", TARGET, state=state)
        assert (code, said["ok"], said["reason"]) == (0, False, "NotDownloaded"), output
        assert "DrafterVocabMismatch" in str(said["message"])
        assert hub.served == []


@pytest.mark.parametrize("found", [None, "{", '{"ok": true}', '{"ok": false, "deterministic": false}'])
def test_a_preflight_that_refused_nothing_for_good_lets_weights_come(tmp_path: Path, found: str | None) -> None:
    state = tmp_path / "state"
    state.mkdir()
    if found is not None:
        (state / "preflight.json").write_text(found)
    with FakeHub(FILES) as hub:
        code, said, output = bring(hub.url, tmp_path / "hf", DRAFTER, state=state)
    assert (code, said["reason"]) == (0, "Cached"), output


def test_progress_is_served_while_another_pod_downloads(tmp_path: Path) -> None:
    import fcntl

    cache = tmp_path / "hf" / "hub"
    cache.mkdir(parents=True)
    port = free_port()
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": "operator", "HF_HUB_DISABLE_XET": "1"}
    environment["GEMMASPEC_TERMINATION_LOG"] = str(tmp_path / "log")
    with FakeHub(FILES) as hub, (cache / ".gemmaspec-example--target.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [sys.executable, "-m", "gemmaspec_engine.weights", "--port", str(port), "--model", TARGET]
        environment["HF_ENDPOINT"] = hub.url
        waiting = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            assert waiting.stdout is not None
            assert "another pod downloads it" in waiting.stdout.readline()
            told = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/progress", timeout=10))
            wanted = len(BIG) + 2
            assert told == {"bytesDone": 0, "bytesTotal": wanted, "models": [TARGET]}
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert waiting.wait(60) == 0
            waiting.stdout.close()
        finally:
            waiting.kill()


def test_names_are_read_strictly() -> None:
    assert parse_model("org/name@abc") == Repository("org/name", "abc")
    assert parse_model("org/name") == Repository("org/name", None)
    for wrong in ("name", "/models/tiny", "a/b/c", "org/"):
        with pytest.raises(ValueError, match="org/name"):
            parse_model(wrong)


def test_a_full_disk_is_told() -> None:
    failure = explain(OSError(28, "no space"), Repository("org/name", None))
    assert isinstance(failure, Failure)
    assert failure.reason == "CacheFull"
    assert "volume" in failure.remedy


def test_sizes_count_unfinished_downloads(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "a.incomplete").write_bytes(b"12345")
    assert size_of(tmp_path) == 5
    assert size_of(tmp_path / "nowhere") == 0
