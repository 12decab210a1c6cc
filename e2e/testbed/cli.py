"""The testbed's command line: a real cluster from nothing, and nothing from a cluster."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from testbed.cluster import DEFAULT_IMAGES, DEFAULT_NAME, Cluster, ClusterError
from testbed.engine import ensure_engine
from testbed.golang import KUBERNETES, KUBERNETES_VERSION, programs
from testbed.images import IMAGES
from testbed.install import NotInstallableError
from testbed.install import install as install_everything
from testbed.kubectl import KubectlError
from testbed.machine import MachineError
from testbed.progress import say

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
_console = Console()

NAME_VARIABLE = "GEMMASPEC_CLUSTER"
Name = Annotated[str, typer.Option("--name", envvar=NAME_VARIABLE, help="The cluster's name.")]
_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command()
def install() -> None:
    """Fetch and build what is missing: Debian packages, the Go programs, vLLM for processors."""
    with _explained():
        install_everything()
        ensure_engine()
    _console.print(f"Kubernetes {KUBERNETES_VERSION}: {programs(KUBERNETES)}")


@app.command()
def up(
    name: Name = DEFAULT_NAME,
    nodes: Annotated[int, typer.Option(min=1, max=20, help="How many nodes.")] = 1,
    image: Annotated[list[str] | None, typer.Option(help=f"Images to load: {', '.join(IMAGES)}.")] = None,
) -> None:
    """Start a cluster, or find it running with as many nodes; remains of a broken one are removed."""
    begun = time.monotonic()
    with _explained():
        cluster = Cluster.up(name, nodes, image or DEFAULT_IMAGES)
    say(f"cluster {name} is up after {time.monotonic() - begun:.1f} s")
    for reference in cluster.images.values():
        _console.print(f"image {reference}", soft_wrap=True, highlight=False)
    _console.print(f"export KUBECONFIG={cluster.kubeconfig}", soft_wrap=True, highlight=False)


@app.command()
def down(name: Name = DEFAULT_NAME) -> None:
    """End a cluster and remove every trace of it."""
    begun = time.monotonic()
    with _explained():
        Cluster(name).down()
    say(f"cluster {name} is gone after {time.monotonic() - begun:.1f} s")


@app.command()
def status(name: Name = DEFAULT_NAME) -> None:
    """Show the machines of a cluster and their programs. Status 1 when it is not up."""
    with _explained():
        cluster = Cluster.attach(name)
        table = Table("machine", "address", "programs")
        for machine in [cluster.control, *cluster.nodes()]:
            listed = machine.programs() if machine.pid else {}
            words = [program if code is None else f"{program} (ended: {code})" for program, code in listed.items()]
            place = getattr(machine, "place", None)
            address = place.address if place else f"127.0.0.1:{cluster.state().port}"
            table.add_row(machine.name, address, ", ".join(words) or "stopped")
        _console.print(table)
        _console.print(cluster.kubectl("get", "nodes,pods", "-A", "-o", "wide"), highlight=False)


@app.command(context_settings=_PASS_ON)
def kubectl() -> None:
    """kubectl against the cluster: `python -m testbed kubectl get pods -A`."""
    with _explained():
        command = [*Cluster.attach(_chosen()).kubectl.command, *_rest("kubectl")]
    os.execv(command[0], command)


@app.command(context_settings=_PASS_ON)
def shell() -> None:
    """A shell on a node or on `control`, or one command there: `python -m testbed shell n1 ip route`."""
    with _explained():
        cluster = Cluster.attach(_chosen())
        node, *words = _rest("shell") or ["n1"]
        machine = cluster.control if node == "control" else cluster.node(node)
        command = machine.command(words or [os.environ.get("SHELL", "/bin/sh")])
    os.execvp(command[0], command)


def _chosen() -> str:
    return os.environ.get(NAME_VARIABLE, DEFAULT_NAME)


def _rest(verb: str) -> list[str]:
    """What stands behind the verb, untouched: the option parser would keep a `--` for itself."""
    return sys.argv[sys.argv.index(verb) + 1 :]


@app.command()
def images(
    load: Annotated[bool, typer.Option(help="Also give them to the running cluster's nodes.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Also write them there, as archives for `ctr images import`.")
    ] = None,
    name: Name = DEFAULT_NAME,
) -> None:
    """Build the images that pods run, and show them."""
    table = Table("image", "tag", "MB", "digest")
    with _explained():
        for kind, make in IMAGES.items():
            made = make()
            table.add_row(kind, made.by_tag, f"{made.size / 1e6:.0f}", made.digest)
            if out is not None:
                out.mkdir(parents=True, exist_ok=True)
                with (out / f"{kind}.tar").open("wb") as file:
                    made.write(file)
        if load:
            Cluster.attach(name).load(*IMAGES)
    _console.print(table)


class _explained:  # noqa: N801  reads as a phrase: `with _explained():`
    """Turn what a user can act on into one line and status 1; anything else keeps its trace."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (ClusterError, NotInstallableError, MachineError, KubectlError, TimeoutError)):
            say(str(error))
            raise typer.Exit(1) from error
