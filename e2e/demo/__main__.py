"""``python -m demo``: the whole line on real parts, from an empty machine to a rolled-back K."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Final

from rich.console import Console

from demo import figure, page
from demo.board import Board, Step, StepFailed
from demo.evidence import collect
from demo.installation import REPOSITORY, remove_operator
from demo.record import Record
from demo.screen import screen, summary
from demo.story import PROMETHEUS_SAW, PROMETHEUS_SCRAPES, STEPS, Setting, Story
from testbed import Cluster
from testbed.engine import ensure_engine
from testbed.golang import PROMETHEUS, programs
from testbed.install import install, require_root
from testbed.progress import say
from testbed.usercluster import UserCluster

CLUSTER: Final = "demo"
OUT: Final = REPOSITORY / "out" / "demo"
_PREPARED: Final = "A Kubernetes cluster with both images"
_PICTURED: Final = "Figures, picture and page are written"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="demo", description="Cluster, operator, engine, traffic, rollback of K: on real parts"
    )
    parser.add_argument("--keep", action="store_true", help="leave everything running at the end, and tell how to look")
    parser.add_argument("--out", type=Path, default=OUT, help="where figures and pictures go")
    parser.add_argument("--context", help="use the cluster of this kubeconfig context instead of starting one")
    parser.add_argument("--operator-image", help="with --context: the operator's image, where the cluster can pull it")
    parser.add_argument("--engine-image", help="with --context: vLLM for CPUs with the tiny pair, likewise")
    parser.add_argument("--prometheus-image", help="with --context: Prometheus; without it nothing is monitored")
    chosen = parser.parse_args()
    if chosen.context and not (chosen.operator_image and chosen.engine_image):
        parser.error(
            "--context needs --operator-image and --engine-image: push both where your cluster can pull them. "
            "operator/Dockerfile builds the first; the second is vLLM for CPUs with e2e/tinypair/pair as "
            "/models/tiny-gemma4"
        )
    if not chosen.context and (chosen.operator_image or chosen.engine_image or chosen.prometheus_image):
        parser.error("the options that name images go with --context: the testbed builds and loads its own")
    return chosen


def _prepare(arguments: argparse.Namespace) -> Setting:
    """The cluster and the images. On a bare machine the Go programs and vLLM's environment are made side by side."""
    if arguments.context:
        images = {"operator": arguments.operator_image, "engine": arguments.engine_image}
        if arguments.prometheus_image:
            images["prometheus"] = arguments.prometheus_image
        cluster = UserCluster(arguments.context, images)
        monitored = "prometheus" in images
        return Setting(cluster, arguments.operator_image, arguments.engine_image, monitored=monitored)
    require_root()
    with ThreadPoolExecutor(2) as pool:
        built, engine = pool.submit(_build), pool.submit(ensure_engine)
    built.result()
    engine.result()
    running = Cluster.up(CLUSTER)
    return Setting(running, running.images["operator"])


def _build() -> None:
    install()
    programs(PROMETHEUS)


def _machine(setting: Setting) -> dict[str, object]:
    """What the figures were measured on."""
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "kubernetes": setting.cluster.kubectl.json("version")["serverVersion"]["gitVersion"],
        "operator": version("gemmaspec"),
        "operator_image": setting.operator_image,
        "engine_image": setting.engine_image or getattr(setting.cluster, "images", {}).get("engine"),
        "load_at_start": os.getloadavg()[0],
    }


def _remove(setting: Setting, record: Record) -> None:
    """Take away what the demo brought; a cluster of the user's keeps what was there before."""
    if isinstance(setting.cluster, Cluster):
        setting.cluster.down()
        return
    kubectl = setting.cluster.kubectl
    kubectl("delete", "namespace", setting.namespace, "--ignore-not-found", "--timeout=90s", timeout=100)
    remove_operator(kubectl, setting.operator_image, keep_crd=bool(record.facts.get("crd_was_there", True)))


def _how_to_look(setting: Setting) -> str:
    kubectl = "kubectl --context=" + setting.cluster.name
    end = f"{kubectl} delete namespace {setting.namespace}   # and the operator: kubectl delete -k manifests/install"
    if isinstance(setting.cluster, Cluster):
        kubectl = " ".join(setting.cluster.kubectl.command)
        end = f"python -m testbed down --name {CLUSTER}"
    return "\n".join(
        [
            "Everything still runs. To look around:",
            f"  {kubectl} -n {setting.namespace} get gsd,pods",
            f"  {kubectl} -n {setting.namespace} describe gsd tiny",
            f"  {kubectl} -n {setting.namespace} logs -l gemmaspec.io/deploy=tiny -c engine -f",
            "To end it:",
            f"  {end}",
        ]
    )


def _play(setting: Setting, board: Board, record: Record, out: Path) -> None:
    story = Story(setting, board, record)
    try:
        story.play()
        with board.step(_PICTURED) as step:
            figure.write(record, out)
            page.write(record, out)
            step.detail = str(out)
    except StepFailed:
        namespaces = [setting.namespace, *([story.operator.namespace] if story.operator else [])]
        collect(setting.cluster, out / "logs", namespaces)
        raise
    finally:
        record.steps = [step.body() for step in board.steps]
        record.write(out / "demo.json")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """0 when every step happened."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    begun = time.time()
    monitored = not arguments.context or arguments.prometheus_image
    played = [title for title in STEPS if monitored or title not in (PROMETHEUS_SCRAPES, PROMETHEUS_SAW)]
    board = Board([Step(title) for title in (_PREPARED, *played, _PICTURED)], begun)
    record = Record(begun)
    setting = None
    try:
        board.heard = say
        with board.step(_PREPARED) as step:
            setting = _prepare(arguments)
            record.machine = _machine(setting)
            step.detail = f"Kubernetes {record.machine['kubernetes']}, {setting.operator_image}"
        board.heard = lambda _: None
        with screen(board, console):
            _play(setting, board, record, arguments.out)
    except StepFailed as failure:
        console.print(f"[bold red]The demo stopped.[/] {failure}", highlight=False)
        console.print(f"Logs, events and objects: {arguments.out / 'logs'}", highlight=False)
        return 1
    finally:
        if setting is not None and not arguments.keep:
            say("taking everything down")
            _remove(setting, record)
    console.print(summary(record))
    console.print(f"All steps happened, in {time.time() - begun:.0f} s.", highlight=False)
    for name in ("demo.png", "demo.html", "demo.json"):
        console.print(f"  {arguments.out / name}", highlight=False)
    if arguments.keep:
        console.print(_how_to_look(setting), highlight=False, soft_wrap=True)
    return 0


def main() -> int:
    """The demo's exit status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that everything is taken down
    return run(_arguments(), Console())


if __name__ == "__main__":
    sys.exit(main())
