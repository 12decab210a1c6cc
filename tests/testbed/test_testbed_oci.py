from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from testbed.cache import ROOT_VARIABLE
from testbed.oci import Config, Image, Layer, Tree, image, layer


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def _written(tree: Tree) -> bytes:
    out = io.BytesIO()
    tree.write(out)
    return out.getvalue()


def _sample(source: Path) -> Tree:
    tree = Tree()
    tree.copy_folder("app", source, skip=lambda inside: inside.name == "skipped")
    tree.data("etc/passwd", "root:x:0:0\n")
    tree.folder("tmp", 0o1777)
    return tree


def _source(folder: Path, stamp: int) -> Path:
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "run").write_text("#!/bin/sh\n")
    (folder / "sub" / "run").chmod(0o700)
    (folder / "skipped").write_text("x")
    (folder / "link").symlink_to("sub")
    for path in folder.rglob("*"):
        os.utime(path, (stamp, stamp), follow_symlinks=False)
    return folder


def test_same_content_gives_same_bytes_whatever_the_times(tmp_path: Path) -> None:
    first, second = _source(tmp_path / "a", 1_000), _source(tmp_path / "b", 2_000_000)
    assert _written(_sample(first)) == _written(_sample(second))


def test_tree_keeps_modes_links_and_parents_and_drops_owners(tmp_path: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(_written(_sample(_source(tmp_path / "a", 5))))) as archive:
        members = {member.name: member for member in archive.getmembers()}
    assert list(members) == sorted(members)
    assert members["app/sub/run"].mode == 0o755
    assert members["app/link"].linkname == "sub"
    assert members["tmp"].mode == 0o1777
    assert members["etc"].isdir()
    assert "app/skipped" not in members
    assert {(m.uid, m.gid, m.mtime) for m in members.values()} == {(0, 0, 0)}


def _image(content: str) -> Image:
    one = layer("sample", content, lambda tree, _: tree.data("file", content))
    return image("example.local/sample", "1", [one], Config(entrypoint=["/file"], environment={"A": "b"}))


def test_archive_names_one_manifest_by_tag_and_by_digest() -> None:
    made = _image("hello")
    out = io.BytesIO()
    made.write(out)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
        files = {one.name: handle.read() for one in archive.getmembers() if (handle := archive.extractfile(one))}

    def blob(digest: str) -> bytes:
        data = files[f"blobs/{digest.replace(':', '/')}"]
        assert "sha256:" + hashlib.sha256(data).hexdigest() == digest
        return data

    described = json.loads(files["index.json"])["manifests"]
    names = [one["annotations"]["io.containerd.image.name"] for one in described]
    assert names == ["example.local/sample:1", f"example.local/sample@{made.digest}"]
    manifest = json.loads(blob(described[0]["digest"]))
    settings = json.loads(blob(manifest["config"]["digest"]))
    assert settings["config"]["Entrypoint"] == ["/file"]
    assert settings["rootfs"]["diff_ids"] == [one["digest"] for one in manifest["layers"]]
    assert len(blob(manifest["layers"][0]["digest"])) == manifest["layers"][0]["size"]


def test_digest_follows_the_content_only() -> None:
    assert _image("hello").digest == _image("hello").digest
    assert _image("hello").digest != _image("other").digest


def test_layer_is_made_once(cache: Path) -> None:
    made: list[str] = []

    def fill(tree: Tree, stage: Path) -> None:
        made.append(stage.name)
        tree.data("x", "y")

    first, second = layer("once", "k", fill), layer("once", "k", fill)
    assert isinstance(first, Layer)
    assert first == second
    assert len(made) == 1
    assert not [p for p in cache.rglob("*") if p.name in ("stage", "unfinished")]
