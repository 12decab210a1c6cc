"""The way to the cluster: kubectl's options, and what went wrong on it in words that help."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import typer

from gemmaspec.api import identity

if TYPE_CHECKING:
    from gemmaspec.adapters.cluster import Cluster
    from gemmaspec.adapters.reader import Reader

Answer = TypeVar("Answer")

# All questions of a command together, a credential plug-in's start included. One question may take 15 s.
COMMAND_SECONDS: Final = 60.0

NamespaceOption = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Namespace; without it the context's own.", show_default=False)
]
ContextOption = Annotated[str | None, typer.Option("--context", help="Context of the kubeconfig.", show_default=False)]
KubeconfigOption = Annotated[
    str | None,
    typer.Option("--kubeconfig", help="Kubeconfig; without it $KUBECONFIG or ~/.kube/config.", show_default=False),
]


class Unanswered(Exception):
    """The cluster did not answer a command's question; the text says what to do."""


@dataclass(frozen=True)
class Access:
    """Which cluster is asked, as whom, and about which namespace (None for the context's own)."""

    namespace: str | None = None
    context: str | None = None
    kubeconfig: str | None = None

    def ask(self, question: Callable[[Reader, str], Awaitable[Answer]]) -> Answer:
        """What the cluster answers to a question, which gets the namespace too; ends the program where it doesn't."""
        try:
            return asyncio.run(self.answer(question))
        except Unanswered as problem:
            typer.echo(f"Error: {problem}", err=True)
            raise typer.Exit(1) from problem

    async def answer(self, question: Callable[[Reader, str], Awaitable[Answer]]) -> Answer:
        """What the cluster answers. Raises Unanswered."""
        from gemmaspec.adapters.reader import Reader

        return await self.work(lambda cluster, namespace: question(Reader(cluster), namespace), COMMAND_SECONDS)

    async def work(self, work: Callable[[Cluster, str], Awaitable[Answer]], seconds: float | None) -> Answer:
        """What comes of some work on the cluster, within so many seconds (None: as long as it takes).

        Raises Unanswered.
        """
        # The Kubernetes client takes a second to import, which commands without a cluster need not spend.
        from gemmaspec.adapters.cluster import ApiFailure, Cluster, NoKubeconfig

        try:
            async with asyncio.timeout(seconds):
                cluster, namespace = await Cluster.connect_as_user(self.kubeconfig, self.context)
                try:
                    return await work(cluster, self.namespace or namespace)
                finally:
                    await cluster.close()
        except NoKubeconfig as problem:
            raise Unanswered(
                f"no cluster is known: {problem}. Name a file with --kubeconfig or $KUBECONFIG (k3s: "
                "/etc/rancher/k3s/k3s.yaml), and one of `kubectl config get-contexts` with --context"
            ) from problem
        except TimeoutError as problem:
            raise Unanswered(
                f"no answer within {COMMAND_SECONDS:g} s; does `kubectl version` answer? If its credential plug-in "
                "waits for a login, log in first"
            ) from problem
        except ApiFailure as failure:
            raise Unanswered(advice(failure.status, failure.message)) from failure


def advice(status: int, message: str) -> str:
    """What to do about a failure of the API server, by its HTTP status (0: no answer)."""
    if status == 0:
        return f"{message}. Does `kubectl cluster-info` answer with the same --context and --kubeconfig?"
    if status == 401:
        return f"the API server does not know you ({message}): renew the kubeconfig's credentials"
    if status == 403:
        return f"{message}. Ask for the right, or see it with `kubectl auth can-i --list`; docs/plugin.md has a role"
    if status == 404:
        return (
            f"{message}. `kubectl get {identity.SHORT_NAME} -A` lists what there is; where the kind is unknown, "
            "`gemmaspec doctor` tells what is not installed"
        )
    return f"the API server answered {status}: {message}; try again, and see its log if that does not help"
