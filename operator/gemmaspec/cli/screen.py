"""The screen of one resource: a pure function of the resource, its pods, the time and the width."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gemmaspec.cli import age
from gemmaspec.cli.enginepod import EnginePod

# Below this many columns a pod's node and revision, and a bar's length, give way.
WIDE: Final = 100
DECISIONS: Final = 5
# Conditions of which "True" is bad news.
_BAD: Final = ("Stalled", "RolledBack")
_PROGRESS: Final = "Reconciling"

Values = Mapping[str, Any]


def screen(resource: Values, pods: Sequence[EnginePod] | None, now: float, width: int) -> Group:
    """The screen. pods: None where one may not look at them. now: seconds since the epoch. width: columns."""
    status: Values = resource.get("status") or {}
    parts: list[RenderableType] = [*_head(resource, status)]
    if status:
        parts += [
            Text(),
            _k(status, now),
            *_acceptance(status, now, width),
            *_speed(status, now),
            *_benchmark(status, now),
        ]
    parts += [Text(), _pods(pods, now, width)]
    if status.get("conditions"):
        parts += [Text(), _conditions(status["conditions"], now)]
    if status.get("history"):
        parts += [Text(), decisions(status["history"][-DECISIONS:], now)]
    return Group(*parts)


def _head(resource: Values, status: Values) -> Iterator[Text]:
    metadata = resource["metadata"]
    yield Text.assemble((metadata["name"], "bold"), f"  namespace {metadata['namespace']}", *_ready(resource, status))
    if not status:
        yield Text("The operator has not looked at it yet: `gemmaspec doctor` tells whether one runs.", "yellow")
        return
    seen, asked = status.get("observedGeneration"), metadata.get("generation")
    if asked is not None and seen != asked:
        yield Text(
            f"The operator has not seen this spec yet (generation {asked}; it has seen {seen or 'none'}).", "yellow"
        )
    engine = status.get("engine") or {}
    known = [status.get("target"), engine.get("recipe")]
    known += [f"vLLM {engine['vllm']}"] if engine.get("vllm") else []
    known += [f"revision {status['revision']}"] if status.get("revision") else []
    yield Text(" · ".join(word for word in known if word))
    if status.get("endpoint"):
        yield Text(status["endpoint"], "dim")


def _ready(resource: Values, status: Values) -> Iterator[str]:
    wanted = (resource.get("spec") or {}).get("replicas", 1)
    if status:
        yield f"  {status.get('readyReplicas', 0)}/{wanted} ready"


def _k(status: Values, now: float) -> Text:
    k = status.get("k") or {}
    if k.get("effective") is None:
        return Text.assemble(("K", "bold"), "  not known yet")
    lowered = k["effective"] != k.get("desired")
    shown = Text.assemble(
        ("K", "bold"),
        f"  {k.get('desired', '–')} desired, ",
        (f"{k['effective']} effective", "yellow" if lowered else "green"),
        f" for {age.of(k.get('since'), now)} by {k.get('actuator', '–')}",
    )
    for reason in (k.get("reason"), k.get("actuatorReason")):
        if reason:
            shown.append(f"\n   {reason}")
    if held := k.get("held"):
        what = f"K {held['k']} until {held['until']}: " if held.get("until") else ""
        shown.append(f"\n   {what}{held.get('message', '')}", "yellow")
    return shown


def _acceptance(status: Values, now: float, width: int) -> Iterator[RenderableType]:
    acceptance = status.get("acceptance") or {}
    rates = acceptance.get("perPosition") or []
    if not rates:
        yield Text.assemble(("acceptance", "bold"), "  not measured yet")
        return
    known = [
        (acceptance.get("tokensPerStep"), "{:.2f} tokens per step"),
        (acceptance.get("mean"), "{:.0%} of draft tokens accepted"),
        (acceptance.get("drafts"), "{} drafts"),
        (acceptance.get("windowSeconds"), "in {} s"),
    ]
    words = ", ".join(form.format(value) for value, form in known if value is not None).replace(
        " drafts, in", " drafts in"
    )
    yield Text.assemble(("acceptance", "bold"), f"  {words}, {age.of(acceptance.get('measuredAt'), now)} ago")
    cells = 40 if width >= WIDE else 20
    for position, rate in enumerate(rates):
        full = round(cells * min(1.0, max(0.0, rate)))
        bar = "█" * full + "░" * (cells - full)
        yield Text.assemble(f"   position {position}  ", (bar, "cyan"), f"  {rate:.2f}")


def _speed(status: Values, now: float) -> Iterator[Text]:
    speed = status.get("throughput") or {}
    known = [
        (speed.get("tokensPerSecond"), "{:.1f} tok/s"),
        (speed.get("stepMilliseconds"), "{:.1f} ms a step"),
        (speed.get("runningRequests"), "{:.1f} running requests"),
    ]
    words = [form.format(value) for value, form in known if value is not None]
    measured = f", {age.of(speed.get('measuredAt'), now)} ago" if words else "not measured yet"
    yield Text.assemble(("speed", "bold"), f"  {', '.join(words)}{measured}")


def _benchmark(status: Values, now: float) -> Iterator[Text]:
    found = status.get("benchmark") or {}
    if not found:
        return
    since = found.get("finishedAt") or found.get("startedAt")
    when = f", {age.of(since, now)} ago" if since else ""
    head = f"  {found.get('request', '–')}: {found.get('phase', '–')}{when}"
    yield Text.assemble(("benchmark", "bold"), f"{head}\n   {found.get('message', '')}".rstrip())


def _pods(pods: Sequence[EnginePod] | None, now: float, width: int) -> RenderableType:
    if pods is None:
        return Text("pods  you may not list them: ask for the right to list pods in this namespace", "yellow")
    if not pods:
        return Text.assemble(("pods", "bold"), "  none")
    table = _table("pod", "state", "K", "restarts", "age", *(("revision", "node") if width >= WIDE else ()))
    for pod in pods:
        state = "Ready" if pod.ready and pod.state == "Running" else pod.state
        row = [pod.name, state, "–" if pod.k is None else str(pod.k), str(pod.restarts), age.of(pod.created, now)]
        table.add_row(*map(Text, [*row, pod.revision, pod.node or "–"][: len(table.columns)]))
    return table


def _conditions(conditions: Sequence[Values], now: float) -> Table:
    table = _table("condition", "", "reason", "for", "message")
    for entry in conditions:
        table.add_row(
            Text(entry["type"]),
            Text(entry["status"], _style(entry)),
            Text(entry["reason"]),
            Text(age.of(entry.get("lastTransitionTime"), now)),
            Text(entry["message"]),
        )
    return table


def _style(condition: Values) -> str:
    if condition["status"] == "Unknown" or condition["type"] == _PROGRESS:
        return "dim" if condition["status"] != "True" else "yellow"
    return "green" if (condition["status"] == "True") is (condition["type"] not in _BAD) else "red"


def decisions(history: Sequence[Values], now: float) -> Table:
    """The decisions of a history, oldest first."""
    table = _table("decision", "ago", "K", "message")
    for entry in history:
        moved = entry.get("toK") is not None
        k = f"{_number(entry.get('fromK'))}→{entry['toK']}" if moved else entry.get("revision") or "–"
        table.add_row(*map(Text, [entry["reason"], age.of(entry["time"], now), k, entry["message"]]))
    return table


def _number(value: int | None) -> str:
    return "–" if value is None else str(value)


def _table(*headings: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading, overflow="fold", no_wrap=heading in ("age", "ago", "for", "K", ""))
    return table
