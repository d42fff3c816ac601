"""Servers in the background, for work by hand: started once, found again, stopped by command.

All that is theirs is in one folder (`.saga/infra`): data, logs, and `state.json`, which says who
runs where. `up` prefers the ports everybody knows and keeps the ones it got.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

from infra.kafka import Kafka
from infra.locks import exclusive
from infra.postgres import Postgres
from infra.processes import ServerProcess

KAFKA_PORT = 9092
POSTGRES_PORT = 5432
STOP_TIMEOUT_S = 30.0
_OTHERS_MAY_PASS = 0o001


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A server in the background.

    Attributes:
        name: `kafka` or `postgres`.
        address: as `SAGA_BUS` or `SAGA_STORE` takes it.
        port: where it listens.
        pid: its process.
        created: when the process was started, which tells it from a successor with the same id.
        log: its log file.
    """

    name: str
    address: str
    port: int
    pid: int
    created: float
    log: str

    @property
    def process(self) -> ServerProcess | None:
        """Its process, unless it has ended."""
        return ServerProcess.find(self.pid, self.created)


class StandingServers:
    """The servers of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._state = self.folder / "state.json"
        self._lock = self.folder / "lock"

    def running(self) -> list[Standing]:
        """Those that run now."""
        return [standing for standing in self._known() if standing.process is not None]

    def up(self) -> list[Standing]:
        """Starts what does not run, and returns all.

        Raises:
            NotInstalled: a program is missing; the error says what to install.
            NotStarted: a server ended or hung; the error quotes its log.
        """
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
                shutil.rmtree(self._kafka_folder, ignore_errors=True)
                shutil.rmtree(self._postgres_folder, ignore_errors=True)
                self._state.unlink(missing_ok=True)
            return running

    @property
    def _kafka_folder(self) -> Path:
        return self.folder / "kafka"

    @property
    def _postgres_folder(self) -> Path:
        return postgres_home(self.folder)

    def _start_kafka(self, port: int) -> Standing:
        server = Kafka(self._kafka_folder, preferred_port=port, outlives_owner=True)
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
        server = Postgres(self._postgres_folder, preferred_port=port, outlives_owner=True)
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


def postgres_home(folder: Path) -> Path:
    """Where a PostgreSQL keeps its data whose other belongings are in *folder*.

    As root it runs as somebody else, who cannot enter a checkout in root's home.
    """
    is_closed = any(not path.stat().st_mode & _OTHERS_MAY_PASS for path in folder.parents)
    if os.geteuid() == 0 and is_closed:
        return Path(f"/var/tmp/saga-infra-{crc32(bytes(folder)):08x}/postgres")  # noqa: S108 - made by root, for one checkout
    return folder / "postgres"
