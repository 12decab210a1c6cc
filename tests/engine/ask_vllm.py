"""Run by the engine's own Python: preflight's probe asked about many command lines in one process.

``python ask_vllm.py QUESTIONS ANSWERS``: QUESTIONS is JSON, name → (stages, vLLM arguments); ANSWERS gets name → facts,
and under ``flags`` those of vLLM's parser that take no value and those that take one.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

from gemmaspec_engine import probe


def flags() -> dict[str, list[str]]:
    """vLLM's flags by whether they take a value; argparse says so by nargs 0."""
    make = importlib.import_module("vllm.entrypoints.launchers.cli_args").make_arg_parser
    actions = make(importlib.import_module("vllm.utils.argparse_utils").FlexibleArgumentParser())._actions
    switches = {flag for action in actions if action.nargs == 0 for flag in action.option_strings}
    valued = {flag for action in actions if action.nargs != 0 for flag in action.option_strings}
    return {"switches": sorted(switches), "valued": sorted(valued)}


def main() -> None:
    """Answer everything that was asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("questions", type=Path)
    parser.add_argument("answers", type=Path)
    given = parser.parse_args()
    asked: dict[str, tuple[str, list[str]]] = json.loads(given.questions.read_text())
    found: dict[str, Any] = {
        name: probe.gather(arguments, stages, weights=True) for name, (stages, arguments) in asked.items()
    }
    given.answers.write_text(json.dumps(found | {"flags": flags()}, default=str))


if __name__ == "__main__":
    sys.exit(main())
