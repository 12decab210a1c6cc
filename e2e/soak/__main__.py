"""``python -m soak``: traffic and random faults for an hour on real parts; writes bench/results/soak.md.

Two boxes, an engine on each, clients that never stop. Status 0 when nothing was lost, nothing drifted, no engine was
started that nobody had killed or moved, and the operator's memory is flat.
"""

from __future__ import annotations

import argparse
import platform
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from demo.door import door
from demo.evidence import collect
from soak.accounts import account
from soak.boots import Boots
from soak.children import children, drift
from soak.faults import Faults
from soak.memory import Watcher, slope
from soak.page import Report, page, wrongs
from stories import NAMESPACE, PORT, Site, two_boxes
from testbed.progress import say
from traffic import Call, Traffic

_RESULT: Final = Path(__file__).resolve().parents[2] / "bench" / "results" / "soak.md"
_EVIDENCE: Final = Path(__file__).resolve().parents[2] / "out" / "soak"
NAME: Final = "soaked"
ENGINES: Final = 2
BOOT_SECONDS: Final = 600.0
STREAMS: Final = 3
_PAUSE: Final = 1.0  # seconds between answer and next request: engines have to serve, not to sweat
_TOKENS: Final = 48
_MIX_SECONDS: Final = 300.0  # after which clients ask for the other kind of text
_BETWEEN: Final = (20.0, 60.0)  # seconds of peace between two faults
# After one of the API server: until all of Kubernetes watches again. A client of client-go that was cut off tries again
# after up to 30 s and as much again by chance (`tools/cache`, the reflector's backoff); until kube-proxy and the
# controller of endpoints do, a Service leads to an engine that was killed meanwhile.
_WATCHING_AGAIN: Final = 60.0
# Kills of the operator, and of the box that it is on, come in this first share of the time: what follows is one
# long life, in which growth would show.
_OPERATORS_SHARE: Final = 0.4
# Without it a control plane that is away, on a machine that is busy, has the controllers take both boxes for lost once
# it is back, and a Service then leads nowhere: Kubernetes' own doing, of which nothing here is about.
_CONTROLLERS: Final = ("--node-monitor-grace-period=180s",)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="of traffic with faults")
    parser.add_argument("--seed", type=int, default=1, help="for the order of the faults")
    parser.add_argument("--dry", action="store_true", help="write no result")
    return parser.parse_args()


def main() -> int:
    """0 when all held."""
    options = _arguments()
    with two_boxes("soak", controller_flags=_CONTROLLERS) as site:
        try:
            report = _soak(site, options)
        except BaseException:
            say(f"evidence: {collect(site.own, _EVIDENCE, [NAMESPACE, site.operator.namespace])}")
            raise
    text = page(report)
    print(text)
    if not options.dry:
        _RESULT.write_text(text)
    return int(bool(wrongs(report)))


def _soak(site: Site, options: argparse.Namespace) -> Report:
    resource = site.apply(
        NAME,
        replicas=ENGINES,
        engine={"resources": {"requests": {"memory": _more_than_half()}}},  # one engine = one box
        speculative={"control": {"mode": "Adaptive", "actuator": "Live"}},
        rollout={"maxRestarts": 20},
    )
    resource.wait(lambda body: body.get("status", {}).get("readyReplicas") == ENGINES, "both engines", BOOT_SECONDS)
    faults, boots = Faults(site, resource, ENGINES), Boots(resource)
    faults.recovered()
    before, mark = children(resource), site.own.audit.mark()
    with door(site.cluster, NAME, PORT, NAMESPACE) as base:
        traffic = Traffic(
            f"{base}/v1", model="tiny", streams=STREAMS, max_tokens=_TOKENS, pause=_PAUSE, pooled=False, seed=9
        )
        begun = time.time()
        with traffic.background(), Watcher(site.own, boots.look) as watcher:
            _disturb(faults, traffic, options)
            faults.recovered()
            boots.look()
        lasted = time.time() - begun
    written = site.own.audit.mutations(mark, user=site.operator.user)
    return Report(
        arguments=" ".join(sys.argv[1:]),
        machine=f"{platform.machine()}, Python {platform.python_version()}",
        minutes=lasted / 60,
        calls=list(traffic.calls),
        kills=faults.kills,
        done=faults.done,
        looks=watcher.looks,
        slope=slope(watcher.looks),
        drift=drift(before, children(resource)),
        pods=(boots.pods, ENGINES + faults.drained),
        restarts=(boots.restarts, len(faults.kills)),
        writes=Counter(f"{e.verb} {e.resource}{'/' + e.subresource if e.subresource else ''}" for e in written),
        history=resource.status().get("history", []),
    )


def _more_than_half() -> str:
    """Of this machine's memory: every box of the testbed sees all of it, and is to take one engine."""
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    return f"{int(0.55 * int(line.split()[1]))}Ki"


def _disturb(faults: Faults, traffic: Traffic, options: argparse.Namespace) -> None:
    dice = random.Random(options.seed)
    begun = time.monotonic()
    end = begun + 60 * options.minutes
    bag: list[str] = []
    told, kind = 0, ""
    while True:
        traffic.code_share = float(int((time.monotonic() - begun) / _MIX_SECONDS) % 2 == 0)
        pause = max(dice.uniform(*_BETWEEN), _WATCHING_AGAIN if kind.startswith("API server") else 0.0)
        if time.monotonic() + pause >= end:
            time.sleep(max(0.0, end - time.monotonic()))
            return
        time.sleep(pause)
        bag = bag or dice.sample(sorted(faults.kinds), len(faults.kinds))  # each kind once, then each again
        late = time.monotonic() - begun > _OPERATORS_SHARE * (end - begun)
        kind, number = bag.pop(), dice.randrange(2)
        if late and kind == "operator killed":
            continue
        if late and kind == "box emptied":
            number = _away_from_operator(faults, number)
        done = faults.strike(kind, number)
        summary = traffic.summary()
        say(f"{kind}: {done.what}; as before after {done.recovered:.0f} s; {summary.ok} ok, {summary.failed} failed")
        lost = account(list(traffic.calls), faults.kills).lost
        if len(lost) > told:
            told = _tell(lost[told:], len(lost), faults)


def _tell(lost: Sequence[Call], total: int, faults: Faults) -> int:
    """What was lost since the last fault, and all logs while they are there. Returns how many were lost in all."""
    for call in lost:
        say(f"lost: {call}")
    say(f"kills: {', '.join(f'{kill.asked:.2f} to {kill.done:.2f}' for kill in faults.kills)}")
    folder = _EVIDENCE / f"{total}-lost"
    say(f"evidence: {collect(faults.site.own, folder, [NAMESPACE, faults.site.operator.namespace])}")
    return total


def _away_from_operator(faults: Faults, number: int) -> int:
    nodes = sorted({pod["spec"]["nodeName"] for pod in faults.resource.pods()})
    away = [i for i, node in enumerate(nodes) if node != faults.operators_node()]
    return away[0] if away else number


if __name__ == "__main__":
    sys.exit(main())
