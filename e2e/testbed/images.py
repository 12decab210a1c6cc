"""The images that pods of the testbed run: pause, the operator, the engine. None is pulled from anywhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from dockerfile_parse import DockerfileParser

from testbed.cache import digest_of
from testbed.engine import ensure_engine
from testbed.golang import PAUSE, PROMETHEUS, programs
from testbed.node import PAUSE_IMAGE
from testbed.oci import Config, Image, Layer, Tree, image, layer
from testbed.progress import clear_line, step

REPOSITORY = Path(__file__).resolve().parents[2]
DOCKERFILE = REPOSITORY / "operator" / "Dockerfile"
OPERATOR_REPOSITORY = "gemmaspec.local/operator"
ENGINE_REPOSITORY = "gemmaspec.local/vllm-cpu"
NONROOT = 65532  # the number that distroless images made customary
MODELS = REPOSITORY / "e2e" / "tinypair" / "pair"
MODELS_INSIDE = "models/tiny-gemma4"

_LAYOUT = "3"  # part of every key: raise it when the code below puts something else into a layer
_PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
_LIBRARY = f"usr/local/lib/{_PYTHON}"
_SITE = f"{_LIBRARY}/site-packages"
_UNUSED = {
    "test",
    "tests",
    "idlelib",
    "tkinter",
    "turtledemo",
    "ensurepip",
    "lib2to3",
    "site-packages",
    "dist-packages",
}
_SBOM = "usr/share/gemmaspec/sbom.cdx.json"
_LICENSE = "usr/share/gemmaspec/LICENSE"
_LOCKED = ("--frozen", "--no-dev", "--no-emit-project", "--quiet", "--project", str(REPOSITORY))
_BUILD_SECONDS = 900.0
_PASSWD = f"root:x:0:0::/root:/sbin/nologin\nnonroot:x:{NONROOT}:{NONROOT}::/home/nonroot:/sbin/nologin\n"
_GROUP = f"root:x:0:\nnonroot:x:{NONROOT}:\n"
_MERGED = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}


def pause_image() -> Image:
    """The container that holds a pod's namespaces."""
    program = programs(PAUSE) / "pause"
    key = digest_of([_LAYOUT, program.read_bytes()])
    only = layer("pause", key, lambda tree, _: tree.copy("pause", program))
    repository, tag = PAUSE_IMAGE.rsplit(":", 1)
    return image(repository, tag, [only], Config(entrypoint=["/pause"], user="65535:65535"))


def operator_image(tag: str = "dev") -> Image:
    """The operator: this machine's Python and its libraries, the locked dependencies, the project's packages.

    Three layers, each cached by what went into it: a change of the project's code rewrites a small one.
    """
    layers = [python_layer(), dependency_layer(), code_layer()]
    return image(OPERATOR_REPOSITORY, tag, layers, operator_config())


def operator_config() -> Config:
    """How the operator's container starts: what the last stage of its Dockerfile says."""
    stage = DockerfileParser(path=str(DOCKERFILE))
    said = {step["instruction"]: step["value"] for step in last_stage()}
    return Config(
        entrypoint=json.loads(said["ENTRYPOINT"]),
        user=said["USER"],
        workdir=said["WORKDIR"],
        environment={"PATH": "/usr/local/bin:/usr/bin:/bin", **stage.envs},
        labels=stage.labels,
    )


def last_stage() -> list[dict[str, str]]:
    """The instructions of the last stage of the operator's Dockerfile, comments apart."""
    steps = [step for step in DockerfileParser(path=str(DOCKERFILE)).structure if step["instruction"] != "COMMENT"]
    last = max(number for number, step in enumerate(steps) if step["instruction"] == "FROM")
    return steps[last + 1 :]


def packaged() -> list[Path]:
    """The folders of code that the Dockerfile puts beside the dependencies."""
    steps = DockerfileParser(path=str(DOCKERFILE)).structure
    copied = [step["value"].split() for step in steps if step["instruction"] == "COPY"]
    return [REPOSITORY / source for source, *_, target in copied if target.startswith("site/")]


def bill_of_materials() -> str:
    """The locked dependencies as CycloneDX JSON; without its serial number and time, which change at each call."""
    bill = json.loads(_uv("export", *_LOCKED, "--format", "cyclonedx1.5"))
    del bill["serialNumber"], bill["metadata"]["timestamp"]
    return json.dumps(bill, indent=2) + "\n"


def operator_base_image() -> Image:
    """The operator's image without its code: what a node can hold before the code is known."""
    return image(f"{OPERATOR_REPOSITORY}-base", "dev", [python_layer(), dependency_layer()], Config())


def engine_image() -> Image:
    """vLLM for CPUs as a skeleton: its heavy files are mounted into the container by a runtime handler.

    The digest names the engine's environment and the models inside, so it changes when they do.
    """
    environment = {"PATH": "/opt/vllm/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LANG": "C.UTF-8"}
    labels = {"gemmaspec.local/engine": ensure_engine().name}
    start = ["python3", "-m", "vllm.entrypoints.openai.api_server"]
    config = Config(entrypoint=start, environment=environment, labels=labels)
    layers = [layer("engine", digest_of([_LAYOUT]), _engine_skeleton)]
    if MODELS.is_dir():
        key = digest_of([_LAYOUT, *_contents(MODELS)])
        layers.append(layer("models", key, lambda tree, _: tree.copy_folder(MODELS_INSIDE, MODELS, _hidden)))
    return image(ENGINE_REPOSITORY, "0.32.0", layers, config)


def prometheus_image() -> Image:
    """Prometheus, as its own image has it: the program, and nothing that it does not need."""
    folder = programs(PROMETHEUS)
    key = digest_of([_LAYOUT, folder.name])

    def fill(tree: Tree, _: Path) -> None:
        tree.copy("bin/prometheus", folder / "prometheus")

    config = Config(entrypoint=["/bin/prometheus"], user=f"{NONROOT}:{NONROOT}", workdir="/")
    return image("gemmaspec.local/prometheus", "3.15.0", [layer("prometheus", key, fill)], config)


IMAGES = {
    "pause": pause_image,
    "operator": operator_image,
    "engine": engine_image,
    "prometheus": prometheus_image,
}
BASES = {**IMAGES, "operator": operator_base_image}  # per image what of it seldom changes


def python_layer() -> Layer:
    """This machine's Python: interpreter, standard library, and every shared library they load."""
    program = base_interpreter()
    key = digest_of(
        [
            _LAYOUT,
            sys.version,
            str(program),
            str(program.stat().st_mtime_ns),
            os.confstr("CS_GNU_LIBC_VERSION") or "",
        ]
    )
    return layer("python", key, lambda tree, stage: _python(tree, stage, program))


def dependency_layer() -> Layer:
    """The operator's locked dependencies, without those of development."""
    requirements = _uv("export", *_LOCKED, "--no-header")
    key = digest_of([_LAYOUT, sys.version, str(base_interpreter()), requirements])
    return layer("dependencies", key, lambda tree, stage: _dependencies(tree, stage, requirements))


def code_layer() -> Layer:
    """The project's own packages, the metadata that tells their version, their licence, and what they come with."""
    sources = packaged()
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    metadata = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    contents = [part for source in sources for part in _contents(source)]
    bill = bill_of_materials()

    def fill(tree: Tree, stage: Path) -> None:
        for source in sources:
            shutil.copytree(source, stage / source.name, ignore=shutil.ignore_patterns("__pycache__"))
        _compile(stage, f"/{_SITE}")
        tree.copy_folder(_SITE, stage)
        tree.data(f"{_SITE}/{project['name']}-{project['version']}.dist-info/METADATA", metadata)
        tree.data(_SBOM, bill)
        tree.copy(_LICENSE, REPOSITORY / "LICENSE")

    return layer("code", digest_of([_LAYOUT, sys.version, metadata, bill, *contents]), fill)


def base_interpreter() -> Path:
    """The interpreter behind the running one (not that of a virtual environment)."""
    return Path(sys.base_prefix, "bin", _PYTHON).resolve()


def _contents(folder: Path) -> Iterator[str | bytes]:
    """Relative names and bytes of all files, in order: what a key is made of."""
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and not _hidden(inside) and "__pycache__" not in inside.parts:
            yield str(inside)
            yield path.read_bytes()


def _hidden(inside: Path) -> bool:
    return inside.name.startswith(".")


def _skeleton(tree: Tree) -> None:
    """What every image needs whatever it runs. /lib and its kind are links into /usr, as on Debian."""
    for path in (
        "usr/bin",
        "usr/sbin",
        "usr/lib",
        "usr/lib64",
        "etc",
        "proc",
        "sys",
        "dev",
        "run",
        "var/tmp",
    ):
        tree.folder(path)
    for path, target in _MERGED.items():
        tree.link(path, target)
    tree.folder("tmp", 0o1777)
    tree.folder("home/nonroot", 0o777)
    tree.data("etc/passwd", _PASSWD)
    tree.data("etc/group", _GROUP)
    tree.data("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")


def _engine_skeleton(tree: Tree, _: Path) -> None:
    _skeleton(tree)
    for path in ("opt/vllm", "etc/alternatives", "models"):
        tree.folder(path)
    tree.data("etc/ld.so.cache", b"")


def _python(tree: Tree, stage: Path, program: Path) -> None:
    with step(f"operator image: Python {sys.version.split()[0]} with its libraries"):
        _skeleton(tree)
        tree.copy(f"usr/local/bin/{_PYTHON}", program)
        tree.link("usr/local/bin/python3", _PYTHON)
        ignore = shutil.ignore_patterns("__pycache__", *_UNUSED, "config-*", "*.a", "*.exe")
        shutil.copytree(sysconfig.get_path("stdlib"), stage, ignore=ignore, dirs_exist_ok=True)
        _compile(stage, f"/{_LIBRARY}")
        tree.copy_folder(_LIBRARY, stage)
        _add_libraries(tree, [program, *stage.rglob("*.so")])
        tree.folder(_SITE)
        tree.link(f"{_LIBRARY}/dist-packages", "site-packages")  # where Debian's Python looks instead
        authorities = Path("/etc/ssl/certs/ca-certificates.crt")
        if authorities.exists():
            tree.copy("etc/ssl/certs/ca-certificates.crt", authorities.resolve())


def _dependencies(tree: Tree, stage: Path, requirements: str) -> None:
    with step("operator image: installing the locked dependencies"):
        listed, target = stage / "requirements.txt", stage / "site"
        listed.write_text(requirements)
        flags = ["--no-deps", "--quiet", "--link-mode=copy", f"--python={base_interpreter()}"]
        _uv("pip", "install", *flags, f"--target={target}", "-r", str(listed))
        shutil.rmtree(target / "bin", ignore_errors=True)  # their first lines name this machine's Python
        _compile(target, f"/{_SITE}")
        tree.copy_folder(_SITE, target, _hidden)
        _add_libraries(tree, target.rglob("*.so"), target)


def _uv(*arguments: str) -> str:
    command = [sys.executable, "-m", "uv", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False)
    if done.returncode:
        raise RuntimeError(f"uv {' '.join(arguments[:2])}: {clear_line(done.stderr)}")
    return done.stdout


def _compile(stage: Path, inside: str) -> None:
    """Byte-compile a folder: on a read-only root file system no process could keep what it compiles.

    Unchecked hashes, since the times of the sources are not kept.
    """
    mode = ["--invalidation-mode", "unchecked-hash", "-s", str(stage), "-p", inside, "-q", "-q", "-j", "2"]
    command = [str(base_interpreter()), "-m", "compileall", *mode, str(stage)]
    subprocess.run(command, check=False, timeout=_BUILD_SECONDS)  # fails on templates that are no Python: harmless


def _add_libraries(tree: Tree, programs_and_modules: Iterable[Path], stage: Path | None = None) -> None:
    """Add what the dynamic linker would load for these files, where it looks without a cache."""
    found: dict[str, Path] = {}
    files = [str(path) for path in programs_and_modules]
    if files:
        found = dict(linked(_ldd(files)))
    home = next((path.parent for name, path in found.items() if name.startswith("libc.so")), None)
    for name, path in found.items():
        if stage is not None and path.is_relative_to(stage):
            continue  # a wheel's own library, found through the wheel
        standard = str(path.parent).startswith(("/lib", "/usr/lib")) and not path.is_relative_to("/usr/local")
        place = path.parent if standard or home is None else home
        target = re.sub(r"^/(lib(64)?)/", r"/usr/\1/", f"{place}/{name}").lstrip("/")
        if target not in tree:
            tree.copy(target, path.resolve())


def _ldd(files: list[str]) -> str:
    done = subprocess.run(["ldd", *files], capture_output=True, text=True, timeout=300, check=False)
    return done.stdout  # status 1 when one of the files is static: the others were listed all the same


def linked(said: str) -> Iterator[tuple[str, Path]]:
    """(name it is asked for, path) of each library in the output of ldd; one without a path is not there."""
    for line in said.splitlines():
        if found := re.match(r"\s+(\S+) => (/\S+) \(0x", line):
            yield found[1], Path(found[2])
        elif found := re.match(r"\s+(/\S+) \(0x", line):
            yield Path(found[1]).name, Path(found[1])
