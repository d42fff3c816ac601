"""Servers in the background, or for as long as one command runs.

All that is theirs is in one folder (`.saga/infra`): data, logs, and `state.json`, which says who
runs where. `up` prefers the ports everybody knows and keeps the ones it got.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

from infra.kafka import Kafka
from infra.locks import exclusive
from infra.postgres import Postgres
from infra.processes import STOP_TIMEOUT_S, ServerProcess
from infra.scratch import scratch_folder

KAFKA_PORT = 9092
POSTGRES_PORT = 5432
VARIABLES = {"kafka": "SAGA_BUS", "postgres": "SAGA_STORE"}
_OTHERS_MAY_PASS = 0o001


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A server in the background; *created* tells its process from a successor with the same id."""

    name: str
    address: str
    port: int
    pid: int
    created: float
    log: str

    @property
    def process(self) -> ServerProcess | None:
        return ServerProcess.find(self.pid, self.created)


class StandingServers:
    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._state = self.folder / "state.json"
        self._lock = self.folder / "lock"

    def running(self) -> list[Standing]:
        return [standing for standing in self._known() if standing.process is not None]

    def up(self) -> list[Standing]:
        with exclusive(self._lock):
            running = {standing.name: standing for standing in self.running()}
            ports = {standing.name: standing.port for standing in self._known()}
            # Noted one by one: if the second cannot be started, the first is not forgotten.
            if "kafka" not in running:
                running["kafka"] = self._start_kafka(ports.get("kafka", KAFKA_PORT))
                self._note(running)
            if "postgres" not in running:
                running["postgres"] = self._start_postgres(ports.get("postgres", POSTGRES_PORT))
                self._note(running)
            return [running["kafka"], running["postgres"]]

    def down(self, *, erase: bool) -> list[Standing]:
        """Stops what runs, and returns it. With *erase* the data goes too."""
        with exclusive(self._lock):
            running = self.running()
            for standing in running:
                process = standing.process
                if process is None:
                    continue
                # PostgreSQL would wait for its clients after the signal that others end at.
                is_postgres = standing.name == "postgres"
                process.signal(signal.SIGINT if is_postgres else signal.SIGTERM)
                if not process.has_ended(timeout_s=STOP_TIMEOUT_S):
                    process.kill()
            if erase:
                shutil.rmtree(self.folder / "kafka", ignore_errors=True)
                shutil.rmtree(postgres_home(self.folder), ignore_errors=True)
                self._state.unlink(missing_ok=True)
            return running

    def _start_kafka(self, port: int) -> Standing:
        server = Kafka(self.folder / "kafka", preferred_port=port, outlives_owner=True)
        server.start()
        (broker,) = server.brokers
        return Standing(
            name="kafka",
            address=f"kafka://{server.bootstrap}",
            port=broker.ports["PLAINTEXT"],
            pid=broker.process.pid,
            created=broker.process.created,
            log=str(broker.log),
        )

    def _start_postgres(self, port: int) -> Standing:
        server = Postgres(postgres_home(self.folder), preferred_port=port, outlives_owner=True)
        server.start()
        assert server.port is not None, "a server that was started has a port"
        return Standing(
            name="postgres",
            address=server.url(),
            port=server.port,
            pid=server.process.pid,
            created=server.process.created,
            log=str(server.log),
        )

    def _known(self) -> list[Standing]:
        try:
            stored: list[dict[str, Any]] = json.loads(self._state.read_text("utf-8"))
        except FileNotFoundError:
            return []
        return [Standing(**fields) for fields in stored]

    def _note(self, running: dict[str, Standing]) -> None:
        known = {standing.name: standing for standing in self._known()} | running
        text = json.dumps([asdict(standing) for standing in known.values()], indent=2)
        new = self._state.with_suffix(".new")
        new.touch(mode=0o600)  # it has the password
        new.write_text(text, "utf-8")
        new.replace(self._state)


def lend(
    command: Sequence[str],
    standing: StandingServers,
    *,
    kept: Path | None,
    is_fast: bool,
    tell: Callable[[str], None],
) -> int:
    """Runs *command*, which finds a Kafka and a PostgreSQL in its environment; its exit code.

    Ctrl-C is left to it: servers of its own stop after it, however it ends.

    Args:
        standing: used if both of them run, unless they are to be fast.
        kept: where servers of the command's own have their data; None throws it away.

    Raises:
        NotInstalled, NotStarted: a server cannot be had.
    """
    running = {} if is_fast else {server.name: server for server in standing.running()}
    addresses: Mapping[str, str] = {name: server.address for name, server in running.items()}
    with ExitStack() as stack:
        if running.keys() == VARIABLES.keys():
            tell("Using the Kafka and the PostgreSQL of `make up`.")
        else:
            tell("Starting a Kafka and a PostgreSQL ...")
            addresses = stack.enter_context(_own_servers(kept, is_fast=is_fast, tell=tell))
        told = {VARIABLES[name]: address for name, address in addresses.items()}
        child = subprocess.Popen(command, env={**os.environ, **told})
        with _signals_left_to(child):
            code = child.wait()
    return code if code >= 0 else 128 - code


@contextmanager
def _own_servers(
    kept: Path | None, *, is_fast: bool, tell: Callable[[str], None]
) -> Iterator[Mapping[str, str]]:
    with ExitStack() as stack:
        if kept is None:
            folder = stack.enter_context(scratch_folder())
            home = folder / "postgres"
        else:
            folder = kept.absolute()
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(exclusive(folder / "lock"))
            home = postgres_home(folder)
        kafka = stack.enter_context(Kafka(folder / "kafka", is_fast=is_fast))
        postgres = stack.enter_context(Postgres(home))
        yield {"kafka": f"kafka://{kafka.bootstrap}", "postgres": postgres.url()}
        if kept is not None:
            kafka.stop()
            postgres.stop()
            tell("Kafka and PostgreSQL have stopped; `make up` first keeps them running.")


@contextmanager
def _signals_left_to(child: subprocess.Popen[bytes]) -> Iterator[None]:
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


def postgres_home(folder: Path) -> Path:
    """Where PostgreSQL has its data: outside of *folder* if the server's user could not enter."""
    is_closed = any(not path.stat().st_mode & _OTHERS_MAY_PASS for path in folder.parents)
    if os.geteuid() == 0 and is_closed:
        return Path(f"/var/tmp/saga-infra-{crc32(bytes(folder)):08x}/postgres")  # noqa: S108 - made by root, for one checkout
    return folder / "postgres"
