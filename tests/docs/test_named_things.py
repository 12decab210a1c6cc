"""What the docs tell readers to type, open and set: each verb, option, file, link, value and field of it exists.

Not what comes out of a command: that is for the stories, which play most of them.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest
import typer
import yaml

from gemmaspec.cli.main import app

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDERS: Final = ("tests", "e2e", "docs", "manifests", "charts", "crds", "operator", "bench")
PAGES: Final = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])
VALUES: Final = yaml.safe_load((ROOT / "charts/gemmaspec/values.yaml").read_text(encoding="utf-8"))
DEFINITION: Final = yaml.safe_load((ROOT / "crds/gemmaspec.io_gemmaspecdeploys.yaml").read_text(encoding="utf-8"))
SCHEMA: Final = DEFINITION["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
FENCE: Final = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
SPAN: Final = re.compile(r"`([^`\n]+)`")
LINK: Final = re.compile(r"\]\(([^)\s]+)\)")
A_PATH: Final = re.compile(rf"(?:{'|'.join(FOLDERS)})(?:/[\w.*-]+)+/?")
A_FIELD: Final = re.compile(r"\.?(spec|status)((?:\.(?!py$)[a-z]\w*)+)")
A_VALUE: Final = re.compile(rf"({'|'.join(VALUES)})((?:\.\w+)+)")
PLACEHOLDER: Final = re.compile(r"[A-Z]+|….*")
# Programs of other people in fences, which nothing here can check.
FOREIGN: Final = {"git", "cd", "curl", "docker", "export", "sed", "sudo"}
# Where the options are that the verbs of the Makefile pass on from ARGS; the others pass them to pytest.
OPTIONS: Final = {
    "demo": "e2e/demo",
    "soak": "e2e/soak",
    "scale": "bench",
    "faults": "tests/faults",
    "fuzz": "tests/fuzz",
}


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def lines(body: str) -> Iterator[list[str]]:
    """Commands in a fence: continued lines are one; comments and here-documents are none."""
    body = re.sub(r"<<'?(\w+)'?\n.*?\n *\1$", "", body.replace("\\\n", " "), flags=re.DOTALL | re.MULTILINE)
    body = re.sub(r"'\{.*?\}'", "'{}'", body, flags=re.DOTALL)  # JSON, over several lines
    for line in body.splitlines():
        for part in re.split(r"&&|\||&$", re.sub(r"\s#.*$", "", line)):
            if part.strip():
                yield words_of(part)


def words_of(command: str) -> list[str]:
    """As a shell reads them, where the quotation marks are whole."""
    return command.split() if command.count("'") % 2 or command.count('"') % 2 else shlex.split(command)


def fenced(page: Path) -> list[list[str]]:
    """Commands in fences of no language; a fence whose first word is no program holds something else."""
    bodies = [body for language, body in FENCE.findall(page.read_text(encoding="utf-8")) if not language]
    found = [list(lines(body)) for body in bodies if body.split()[0] in {*CHECKS, *FOREIGN}]
    return [words for body in found for words in body]


def spans(page: Path) -> list[str]:
    """What stands in backticks."""
    return SPAN.findall(FENCE.sub("", page.read_text(encoding="utf-8")))


def options(words: list[str]) -> set[str]:
    return {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}


def make(words: list[str]) -> None:
    verb = words[0]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{verb}:", makefile, re.MULTILINE)
    for given in (shlex.split(word.removeprefix("ARGS=")) for word in words[1:]):
        if verb in OPTIONS:
            sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / OPTIONS[verb]).rglob("*.py"))
            assert {one for one in options(given) if f'"{one}"' not in sources} == set()
        else:
            pytests(given)
        if verb == "demo" and "--context" in given:
            assert {"--operator-image", "--engine-image"} <= options(given), "the demo asks for them"


def pytests(words: list[str]) -> None:
    """Files that exist, and words of -k that one of them holds."""
    words = words[: words.index("#")] if "#" in words else words
    known = {"-m", "-k", "-s", "-v", "-n", "-p", "--update-golden", "--keep-cluster", "--context", "--image", "--seeds"}
    assert options(words) <= known
    files = [word for word in words if word.startswith(FOLDERS)]
    asked = [words[number + 1] for number, word in enumerate(words[:-1]) if word == "-k"]
    for file in files:
        assert (ROOT / file.partition("::")[0]).exists(), file
    held = "".join(text.read_text(encoding="utf-8") for file in files for text in sources_of(ROOT / file))
    for word in re.findall(r"[\w-]+", " ".join(asked)):
        assert word in {"not", "and", "or"} or word in held, f"-k {word}"


def sources_of(path: Path) -> list[Path]:
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


def python(words: list[str]) -> None:
    if words[0] == "-m":
        assert importlib.util.find_spec(words[1]), words[1]
    else:
        assert (ROOT / words[0]).is_file(), words[0]
        told = (ROOT / words[0]).read_text(encoding="utf-8")
        assert {one for one in options(words[1:]) if f'"{one}"' not in told} == set()


def gemmaspec(words: list[str]) -> None:
    """By the command line's own definition."""
    group: Any = typer.main.get_command(app)
    verb = group.commands.get(words[0], group)
    known = {option for parameter in verb.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert verb is not group or PLACEHOLDER.fullmatch(words[0]) or words[0].startswith("-"), words[0]
    assert options(words) <= known | {"--install-completion"}
    assert [
        word
        for word in words[1:]
        if word.startswith(tuple(f"{folder}/" for folder in FOLDERS)) and not (ROOT / word).exists()
    ] == []


def kubectl(words: list[str]) -> None:
    if "gemmaspec" in words:
        gemmaspec(words[words.index("gemmaspec") + 1 :] or ["--version"])
    for option, given in pairwise(words):
        if option in ("-f", "-k") and given != "-" and not PLACEHOLDER.fullmatch(given):
            assert given.startswith(FOLDERS), given
            assert (ROOT / given).exists(), given
    named = DEFINITION["spec"]["names"]
    for word in words:
        if word.startswith("gsd"):
            assert word.partition("/")[0] in (*named["shortNames"], named["singular"], named["plural"])


def helm(words: list[str]) -> None:
    for word in words:
        if word.startswith("charts/"):
            assert (ROOT / word / "Chart.yaml").is_file(), word
    for option, given in pairwise(words):
        if option.startswith("--set"):
            value(given.partition("=")[0])


def value(path: str) -> None:
    """A value of the chart, or of what its own schema takes."""
    schema = yaml.safe_load((ROOT / "charts/gemmaspec/values.schema.json").read_text(encoding="utf-8"))
    found(schema, path)


def found(schema: dict[str, Any], path: str) -> None:
    """Follow a dotted path through a JSON schema."""
    for step in path.split("."):
        schema = schema.get("items", schema)
        inner = schema.get("properties", {}).get(step, schema.get("additionalProperties"))
        open_ended = schema.get("type") in (None, "string") or schema.get("x-kubernetes-preserve-unknown-fields")
        assert inner or (open_ended and not schema.get("properties")), f"{path}: {step}"
        schema = inner if isinstance(inner, dict) else {}


CHECKS: Final[dict[str, Callable[[list[str]], None]]] = {
    "make": make,
    "pytest": pytests,
    "python": python,
    ".venv/bin/python": python,
    "gemmaspec": gemmaspec,
    "kubectl": kubectl,
    "helm": helm,
}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_can_be_typed(page: Path) -> None:
    told = [
        *fenced(page),
        *(words_of(span) for span in spans(page) if span.partition(" ")[0] in CHECKS and " " in span),
    ]
    for words in told:
        if words[0] in CHECKS:
            CHECKS[words[0]]([word for word in words[1:] if word])
        else:
            assert words[0] in FOREIGN, words


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in LINK.findall(text):
        if "://" not in target:
            file, _, part = target.partition("#")
            there = (page.parent / file).resolve() if file else page
            assert there.exists(), target
            assert not part or part in anchors(there), target


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_that_are_named_exist(page: Path) -> None:
    named = [span.replace("-N.", "-*.") for span in spans(page) if A_PATH.fullmatch(span)]
    assert [one for one in named if not any(ROOT.glob(one.rstrip("/")))] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_fields_and_values_that_are_named_exist(page: Path) -> None:
    for span in spans(page):
        if match := A_FIELD.fullmatch(span):
            found(SCHEMA, "".join(match.groups()))
        elif match := A_VALUE.fullmatch(span):
            value("".join(match.groups()))
