"""Run by every Python interpreter whose PYTHONPATH names this directory: installs the pinned imports.

Whatever ``sitecustomize`` the image brings itself runs afterwards, as it would without this one.
"""

import importlib.machinery
import importlib.util
import sys
from pathlib import Path


def _install() -> None:
    """Without the hook the engine would run the unpatched module, so a failure ends the interpreter."""
    try:
        from gemmaspec_engine.pinned_import import install

        install()
    except Exception as error:  # whatever it is, going on would be worse
        raise SystemExit(f"gemmaspec: pinned imports cannot be installed: {error}") from error


def _run_next() -> None:
    here = Path(__file__).absolute().parent
    others = [path for path in sys.path if Path(path).absolute() != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


_install()
_run_next()
