"""OCI images written without Docker: the same input gives the same bytes, so the same digest."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import stat
import tarfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from testbed.cache import built, digest_of

_MEDIA = "application/vnd.oci.image."
_EPOCH = "1970-01-01T00:00:00Z"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def sha256(data: bytes) -> str:
    """The digest of some bytes, as OCI writes it."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Tree:
    """A file system in the making: paths without a leading slash, written in sorted order by `write`.

    Times are zero and owners root, whatever the sources say. A later entry replaces an earlier one.
    """

    def __init__(self) -> None:
        self._entries: dict[str, tuple[tarfile.TarInfo, Path | bytes | None]] = {}

    def folder(self, path: str, mode: int = 0o755) -> None:
        """A folder, and those above it."""
        path = path.strip("/")
        if not path:
            return
        self._parents(path)
        self._entries[path] = (self._info(path, tarfile.DIRTYPE, mode), None)

    def link(self, path: str, target: str) -> None:
        """A symbolic link."""
        path = path.strip("/")
        self._parents(path)
        info = self._info(path, tarfile.SYMTYPE, 0o777)
        info.linkname = target
        self._entries[path] = (info, None)

    def data(self, path: str, content: bytes | str, mode: int = 0o644) -> None:
        """A file with this content."""
        path = path.strip("/")
        self._parents(path)
        content = content.encode() if isinstance(content, str) else content
        info = self._info(path, tarfile.REGTYPE, mode)
        info.size = len(content)
        self._entries[path] = (info, content)

    def copy(self, path: str, source: Path) -> None:
        """A copy of a file of this machine; a link stays a link."""
        path = path.strip("/")
        found = source.lstat()
        if stat.S_ISLNK(found.st_mode):
            self.link(path, str(source.readlink()))
            return
        self._parents(path)
        info = self._info(path, tarfile.REGTYPE, 0o755 if found.st_mode & 0o111 else 0o644)
        info.size = found.st_size
        self._entries[path] = (info, source)

    def copy_folder(self, path: str, source: Path, skip: Callable[[Path], bool] = lambda _: False) -> None:
        """A copy of a folder and all in it, but for what `skip(path relative to source)` refuses."""
        self.folder(path)
        for place, folders, files in os.walk(source):
            inside = Path(place).relative_to(source)
            folders[:] = [name for name in folders if not skip(inside / name)]
            for name in files + [n for n in folders if Path(place, n).is_symlink()]:
                if not skip(inside / name):
                    self.copy(f"{path}/{inside / name}", Path(place, name))

    def __contains__(self, path: str) -> bool:
        return path.strip("/") in self._entries

    def write(self, out: IO[bytes]) -> None:
        """Write everything as a tar stream."""
        with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:
            for path in sorted(self._entries):
                info, content = self._entries[path]
                if isinstance(content, Path):
                    with content.open("rb") as handle:
                        tar.addfile(info, handle)
                else:
                    tar.addfile(info, None if content is None else io.BytesIO(content))

    def _parents(self, path: str) -> None:
        parent = path.rpartition("/")[0]
        if parent and parent not in self._entries:
            self.folder(parent)

    @staticmethod
    def _info(path: str, kind: bytes, mode: int) -> tarfile.TarInfo:
        info = tarfile.TarInfo(path)
        info.type, info.mode = kind, mode
        return info


@dataclass(frozen=True)
class Layer:
    """A layer's tar file, its digest and its size in bytes."""

    tar: Path
    digest: str
    size: int


def layer(kind: str, key: str, fill: Callable[[Tree, Path], None]) -> Layer:
    """The layer that `fill(empty tree, scratch folder)` makes, once per key and then taken from the cache."""

    def build(folder: Path) -> None:
        tree = Tree()
        stage = folder / "stage"
        stage.mkdir()
        fill(tree, stage)
        tar = folder / "layer.tar"
        with tar.open("wb") as out:
            tree.write(out)
        shutil.rmtree(stage)
        with tar.open("rb") as handle:
            digest = "sha256:" + hashlib.file_digest(handle, "sha256").hexdigest()
        (folder / "layer.json").write_text(json.dumps({"digest": digest, "size": tar.stat().st_size}))

    home = built(f"layers/{kind}", digest_of([key])[:16], build)
    facts = json.loads((home / "layer.json").read_text())
    return Layer(home / "layer.tar", facts["digest"], facts["size"])


@dataclass(frozen=True)
class Config:
    """How an image's containers start."""

    entrypoint: Sequence[str] = ()
    user: str = ""
    workdir: str = "/"
    environment: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    def content(self, layers: Sequence[Layer]) -> bytes:
        """The OCI configuration object, canonical JSON."""
        settings: dict[str, Any] = {
            "User": self.user,
            "Env": [f"{name}={value}" for name, value in self.environment.items()],
            "Entrypoint": list(self.entrypoint),
            "WorkingDir": self.workdir,
            "Labels": dict(self.labels),
        }
        return _canonical(
            {
                "architecture": _ARCHITECTURES.get(os.uname().machine, os.uname().machine),
                "os": "linux",
                "created": _EPOCH,
                "config": {name: value for name, value in settings.items() if value},
                "rootfs": {"type": "layers", "diff_ids": [one.digest for one in layers]},
            }
        )


def _canonical(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Image:
    """A finished image. Nodes know it by its tag and by its digest.

    blobs: manifest (first) and configuration by digest; layers stay in the cache and are read when needed.
    """

    repository: str
    tag: str
    blobs: Mapping[str, bytes]
    layers: Sequence[Layer]

    @property
    def digest(self) -> str:
        """The digest of the manifest: what a pod's status calls the image's id."""
        return next(iter(self.blobs))

    @property
    def by_tag(self) -> str:
        """repository:tag"""
        return f"{self.repository}:{self.tag}"

    @property
    def by_digest(self) -> str:
        """repository@sha256:…, what a pod should name: it can mean nothing else tomorrow."""
        return f"{self.repository}@{self.digest}"

    @property
    def size(self) -> int:
        """Bytes of all layers, uncompressed."""
        return sum(one.size for one in self.layers)

    def write(self, out: IO[bytes], known: Collection[str] = ()) -> None:
        """Write the archive that `ctr images import` reads, front to back (a pipe will do).

        known: digests that the reader has already, whose layers are left out.
        """
        described = [
            {
                "mediaType": f"{_MEDIA}manifest.v1+json",
                "digest": self.digest,
                "size": len(self.blobs[self.digest]),
                "annotations": {"io.containerd.image.name": name},  # the reference that containerd gives it
            }
            for name in (self.by_tag, self.by_digest)
        ]
        index = {"schemaVersion": 2, "mediaType": f"{_MEDIA}index.v1+json", "manifests": described}
        tree = Tree()
        tree.data("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        tree.data("index.json", _canonical(index))
        for name, content in self.blobs.items():
            tree.data(f"blobs/{name.replace(':', '/')}", content)
        for one in self.layers:
            if one.digest not in known:
                tree.copy(f"blobs/{one.digest.replace(':', '/')}", one.tar)
        tree.write(out)


def image(repository: str, tag: str, layers: Sequence[Layer], config: Config) -> Image:
    """Put an image together from layers."""
    settings = config.content(layers)
    parts = [{"mediaType": f"{_MEDIA}layer.v1.tar", "digest": one.digest, "size": one.size} for one in layers]
    manifest = _canonical(
        {
            "schemaVersion": 2,
            "mediaType": f"{_MEDIA}manifest.v1+json",
            "config": {
                "mediaType": f"{_MEDIA}config.v1+json",
                "digest": sha256(settings),
                "size": len(settings),
            },
            "layers": parts,
        }
    )
    return Image(repository, tag, {sha256(manifest): manifest, sha256(settings): settings}, list(layers))
