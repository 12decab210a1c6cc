"""The engine files of this release: what runs inside the vLLM container, read from the installed package."""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping
from importlib import resources
from importlib.resources.abc import Traversable

from gemmaspec_engine.agent.plugin import ENTRY_POINTS, METADATA

PACKAGE = "gemmaspec_engine"

# What the pod starts with `python3 -m`, what vLLM imports by name, and the import hook that patched modules need.
ENTRIES = ("launch", "guard", "preflight", "probe", "pinned_import", "weights")
# With the agent that moves K in the running engine.
PLUGIN = "agent.plugin"
LIVE_ENTRIES = (*ENTRIES, "agent.scheduler", PLUGIN)
SITE = "site/sitecustomize.py"


def engine_files(entries: Collection[str] = ENTRIES) -> Mapping[str, str]:
    """Path -> text of the modules that ``entries`` need, and no others.

    A change of a file restarts engines: a file that an engine does not import is not delivered to it.
    """
    root = resources.files(PACKAGE)
    found: dict[str, str] = {}
    waiting = [PACKAGE, *(f"{PACKAGE}.{entry}" for entry in entries)]
    while waiting:
        module = waiting.pop()
        located = _locate(root, module)
        if located is None or located[0] in found:
            continue
        path, text = located
        found[path] = text
        waiting += sorted(_imports(module, path, text))
    if PLUGIN in entries:  # vLLM finds it by the metadata of a distribution beside the package
        found |= {f"{PACKAGE}.dist-info/METADATA": METADATA, f"{PACKAGE}.dist-info/entry_points.txt": ENTRY_POINTS}
    found[f"{PACKAGE}/{SITE}"] = root.joinpath(SITE).read_text(encoding="utf-8")
    return dict(sorted(found.items()))


def _locate(root: Traversable, module: str) -> tuple[str, str] | None:
    parts = module.split(".")[1:]
    for candidate in ("/".join([*parts, "__init__.py"]), "/".join(parts) + ".py"):
        file = root.joinpath(candidate)
        if candidate != ".py" and file.is_file():
            return f"{PACKAGE}/{candidate}", file.read_text(encoding="utf-8")
    return None


def _imports(module: str, path: str, text: str) -> set[str]:
    package = module if path.endswith("__init__.py") else module.rsplit(".", 1)[0]
    named: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            named.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            named.add(base)
            named.update(f"{base}.{alias.name}" for alias in node.names)
    wanted = {name for name in named if name == PACKAGE or name.startswith(PACKAGE + ".")}
    return wanted | {".".join(name.split(".")[:i]) for name in wanted for i in range(1, name.count(".") + 1)}
