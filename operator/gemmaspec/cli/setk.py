"""``gemmaspec set-k``: another K for a while, beside the spec (docs/live-k.md, "K for a while")."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

from gemmaspec.api.spec import MAX_K
from gemmaspec.cli import duration
from gemmaspec.cli import output as outputs
from gemmaspec.cli.access import Access, ContextOption, KubeconfigOption, NamespaceOption
from gemmaspec.cli.lookup import NameArgument
from gemmaspec.cli.output import Output, OutputOption
from gemmaspec.core import hold, moment
from gemmaspec.core.hold import Hold

if TYPE_CHECKING:
    from gemmaspec.adapters.reader import Reader

# An agent is told within a pass; a shorter time would be over before anybody has seen it.
LEAST_SECONDS: Final = 10


def set_k(
    name: NameArgument,
    k: Annotated[
        int | None, typer.Argument(help=f"Draft tokens a step, 0 to {MAX_K}; 0 switches speculation off.")
    ] = None,
    for_: Annotated[str, typer.Option("--for", help="For how long: 10m, 1h30m, 90s; a day at most.")] = "",
    clear: Annotated[bool, typer.Option("--clear", help="End it now.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before engines restart.")] = False,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Hold K for a while, whatever the policy says. The spec stays as it is; the end comes by itself."""
    access = Access(namespace, context, kubeconfig)
    length = None if clear else _checked(k, for_)
    if clear and (k is not None or for_):
        _refuse("--clear", "goes with neither K nor --for: it ends what is held")
    resource = access.ask(lambda reader, where: reader.resource(where, name))
    now = time.time()
    before = hold.read(resource["metadata"].get("annotations") or {}, now)
    wanted: Hold | None
    if length is None or k is None:
        # An end that has passed lets go; with the annotation gone, agents would wait for the end that they know.
        wanted = Hold(before.k, now - 1) if before and before.until > now else None
    else:
        wanted = Hold(k, now + length)
        _possible(resource, k, length, yes)

    async def write(reader: Reader, where: str) -> None:
        await reader.annotate(where, name, hold.ANNOTATION, wanted.text() if wanted else None)

    access.ask(write)
    _tell(name, wanted, now, output)


def _checked(k: int | None, for_: str) -> int:
    """Seconds to hold it for. Ends the program where K or the time can't be."""
    if k is None:
        _refuse("K", "is missing: `gemmaspec set-k NAME K --for 10m`, or --clear to end what is held")
    if not 0 <= k <= MAX_K:
        _refuse("K", f"{k} is none that an engine can have: 0 to {MAX_K}")
    if not for_:
        _refuse("--for", "is missing: a K to stay belongs into spec.speculative.k; for a while, say --for 10m")
    try:
        length = duration.seconds(for_)
    except ValueError as problem:
        _refuse("--for", str(problem))
    if not LEAST_SECONDS <= length <= hold.MOST_SECONDS:
        _refuse("--for", f"{for_!r} is outside 10s to 24h; a K to stay belongs into spec.speculative.k")
    return length


def _possible(resource: Mapping[str, Any], k: int, length: int, yes: bool) -> None:
    """End the program where the engines can't have this K, or where nobody agrees to what it costs."""
    status = resource.get("status") or {}
    known = status.get("k") or {}
    if known.get("desired") is None:
        _refuse("NAME", "the operator has not served this resource yet: see `gemmaspec status` and `gemmaspec doctor`")
    if k > 0 and ((resource.get("spec") or {}).get("speculative") or {}).get("method") == "off":
        _refuse("K", f"{k} needs a drafter, and spec.speculative.method is off; 0 is all that can be held")
    if known.get("actuator") == "Live":
        return
    replicas = (resource.get("spec") or {}).get("replicas", 1)
    boot = (status.get("control") or {}).get("bootSeconds")
    each = f"about {boot} s each" if boot else "minutes each, for a large model"
    cost = (
        f"K is changed by restart here ({known.get('actuatorReason') or 'the actuator is Restart'}): {replicas} "
        f"engine(s) boot, {each}, and once more when the {length} s are over. A box serves nothing meanwhile"
    )
    if yes:
        typer.echo(cost, err=True)
    elif not sys.stdin.isatty():
        _refuse("--yes", f"is missing, and nobody can be asked. {cost}")
    elif not typer.confirm(f"{cost}. Go on?", err=True):
        raise typer.Exit(1)


def _tell(name: str, wanted: Hold | None, now: float, output: Output) -> None:
    active = wanted is not None and wanted.until > now
    if output is not Output.TEXT:
        outputs.write({"k": wanted.k, "until": moment.text(wanted.until)} if active and wanted else None, output)
    elif active and wanted:
        typer.echo(f"K of {name} is held at {wanted.k} until {moment.text(wanted.until)}.")
        typer.echo(f"`gemmaspec status {name}` shows it, `gemmaspec set-k {name} --clear` ends it.")
    else:
        typer.echo(f"K of {name} is held by nobody" + ("; its engines go back." if wanted else "."))


def _refuse(field: str, why: str) -> NoReturn:
    typer.echo(f"Error: {field}: {why}", err=True)
    raise typer.Exit(1)
