"""The environment that vLLM's processes get, so that each of them imports what was pinned."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from gemmaspec_engine.pin import Pin

__all__ = ["engine_environment"]


def engine_environment(pin: Pin, environ: Mapping[str, str], package: Path) -> dict[str, str]:
    """``environ`` with PYTHONPATH and the list of pinned modules; ``package`` is gemmaspec_engine's directory."""
    first: list[str] = []
    changed = dict(environ)
    if pin.patches:
        first += [str(package / "site"), str(package.parent)]
        pinned = {patch.module: [patch.file(pin.patch_dir), patch.sha256] for patch in pin.patches}
        changed["GEMMASPEC_PINNED_IMPORTS"] = json.dumps(pinned)
    if pin.transformers is not None and pin.transformers.overlay_dir is not None:
        first.append(pin.transformers.overlay_dir)
    existing = [path for path in environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    paths = list(dict.fromkeys(first + existing))
    if paths:
        changed["PYTHONPATH"] = os.pathsep.join(paths)
    return changed
