"""Servers for as long as one command runs: those that stand in the background, or ones of its own.

The command finds their addresses in its environment, `SAGA_BUS` and `SAGA_STORE`. Ctrl-C is left to
it: the servers go on until it has ended, and stop after it however it ends.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from infra.kafka import Kafka
from infra.locks import exclusive
from infra.postgres import Postgres
from infra.scratch import scratch_folder
from infra.standing import StandingServers, postgres_home

_VARIABLES = {"kafka": "SAGA_BUS", "postgres": "SAGA_STORE"}


class Lending:
    """Runs commands with servers.

    Args:
        standing: used if both of them run, unless they are to be fast.
        kept: where servers of the command's own have their data; None throws it away.
        is_fast: whether Kafka is to be measured.
        tell: is given sentences for people.
    """

    def __init__(
        self,
        standing: StandingServers,
        *,
        kept: Path | None,
        is_fast: bool,
        tell: Callable[[str], None],
    ) -> None:
        self._standing = standing
        self._kept = kept
        self._is_fast = is_fast
        self._tell = tell

    def run(self, command: Sequence[str]) -> int:
        """Runs *command* and returns its exit code, as a shell would.

        Raises:
            NotInstalled, NotStarted: a server cannot be had.
        """
        with self._addresses() as addresses:
            child = subprocess.Popen(command, env={**os.environ, **addresses})
            with _left_to(child):
                code = child.wait()
        return code if code >= 0 else 128 - code

    @contextmanager
    def _addresses(self) -> Iterator[Mapping[str, str]]:
        running = (
            {} if self._is_fast else {server.name: server for server in self._standing.running()}
        )
        if running.keys() == _VARIABLES.keys():
            self._tell("Using the Kafka and the PostgreSQL of `make up`.")
            yield {_VARIABLES[name]: server.address for name, server in running.items()}
            return
        self._tell("Starting a Kafka and a PostgreSQL ...")
        with ExitStack() as stack:
            if self._kept is None:
                folder = stack.enter_context(scratch_folder())
                home = folder / "postgres"
            else:
                folder = self._kept.absolute()
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(exclusive(folder / "lock"))
                home = postgres_home(folder)
            kafka, postgres = Kafka(folder / "kafka", is_fast=self._is_fast), Postgres(home)
            stack.callback(kafka.kill)
            stack.callback(postgres.kill)
            kafka.start()
            postgres.start()
            yield {"SAGA_BUS": f"kafka://{kafka.bootstrap}", "SAGA_STORE": postgres.url()}
            if self._kept is not None:
                kafka.stop()
                postgres.stop()
                self._tell("Kafka and PostgreSQL have stopped; `make up` first keeps them running.")


@contextmanager
def _left_to(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """Ctrl-C reaches *child* from the terminal, and other signals through us."""

    def pass_on(number: int, _: object) -> None:
        child.send_signal(number)

    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
        signal.SIGTERM: signal.signal(signal.SIGTERM, pass_on),
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
