"""A containerd root that holds a cluster's images already: a node is given links to its files, not the images.

Unpacking thousands of small files takes most of a cluster's start; linking them takes a moment. Layers are
never written to, so nodes can share the files; only containerd's databases are copied.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from testbed.cache import built, cache_root, digest_of, locked
from testbed.install import system_program
from testbed.node import NodePlace, NodeSpec
from testbed.oci import Image
from testbed.parts import NodeMachine
from testbed.progress import step

_GROUP = "testbed-image-store"
_KEPT = 2
_COPY_SECONDS = 300.0


def image_store(images: Sequence[Image], snapshotter: str) -> Path:
    """The root with these images unpacked, made once per set of images and version of containerd."""
    version = subprocess.run(
        [system_program("containerd") or "containerd", "--version"], capture_output=True, check=True, timeout=30
    ).stdout
    key = digest_of([version, snapshotter, *(image.by_digest for image in images)])[:12]
    made = built("stores/images", key, lambda folder: _unpack(folder, images, snapshotter))
    _forget_old(made)
    return made / "containerd"


def _unpack(folder: Path, images: Sequence[Image], snapshotter: str) -> None:
    """Load the images into a containerd of its own, and keep what it wrote."""
    home = cache_root() / "clusters" / "image-store"
    machine = NodeMachine(home, _GROUP, NodeSpec("image-store"), NodePlace(1))
    with locked(home.parent / "image-store.lock"), step(f"unpacking {len(images)} images"):
        machine.remove()  # of a builder that was killed
        machine.start()
        try:
            machine.start_containerd(snapshotter, None)
            for image in images:
                machine.load(image)
            machine.stop()
            (home / "containerd").rename(folder / "containerd")
        finally:
            machine.remove()


def link(store: Path, root: Path) -> None:
    """Give a node the images of a store, as its containerd's root. A root that is there already is kept."""
    if root.exists():
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    unfinished = root.with_name(root.name + ".unfinished")
    copy = ["cp", "--archive", "--link", "--no-target-directory", str(store), str(unfinished)]
    subprocess.run(copy, check=True, timeout=_COPY_SECONDS)
    for database in store.rglob("*.db"):
        own = unfinished / database.relative_to(store)
        own.unlink()
        shutil.copy2(database, own)
    unfinished.rename(root)


def _forget_old(newest: Path) -> None:
    """Remove older stores. Nodes that were given their files keep them."""
    stores = [path for path in newest.parent.glob("images-*") if path != newest and path.suffix != ".unfinished"]
    for old in sorted(stores, key=lambda path: path.stat().st_mtime, reverse=True)[_KEPT - 1 :]:
        with locked(newest.parent / "locks" / f"{old.name}.lock"):
            shutil.rmtree(old, ignore_errors=True)
