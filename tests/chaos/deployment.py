"""The processes of a deployment: real ones, on a real Kafka and a real PostgreSQL."""

import os
import re
import signal
import sqlite3
import sys
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from infra.ports import HOST, free_port
from infra.processes import ServerProcess
from saga.contracts import TopicNames
from saga.settings import Settings
from tests.pages import page
from tests.patience import HANG_S, wait_until

ROOT = Path(__file__).parents[2]
APP = "tests.chaos.application:app"
SERVING = b"serving"


@dataclass
class Member:
    """A process that is started again where it was."""

    name: str
    role: str
    process: ServerProcess
    log: Path
    log_start: int
    port: int
    starts: int = 1

    def is_serving(self) -> bool:
        """Whether it has said so since it was started last."""
        with self.log.open("rb") as file:
            file.seek(self.log_start)
            return SERVING in file.read()

    def said(self, what: str) -> int:
        """How often it has said *what* since it was started last."""
        with self.log.open("rb") as file:
            file.seek(self.log_start)
            return file.read().count(what.encode())

    @property
    def share(self) -> int:
        """How many partitions it reads, as it said last since it was started last."""
        with self.log.open("rb") as file:
            file.seek(self.log_start)
            said = re.findall(rb"(\d+) partitions are assigned", file.read())
        return int(said[-1]) if said else 0

    async def page(self, path: str) -> tuple[int, str]:
        status, _, text = await page(f"{HOST}:{self.port}", path)
        return status, text

    async def counted(self, metric: str) -> float:
        _, text = await self.page("/metrics")
        (line,) = (line for line in text.splitlines() if line.startswith(f"{metric} "))
        return float(line.split()[1])


@dataclass
class Deployment:
    """All processes of a deployment, in *folder* with their logs.

    The services' ledger is in the store's database, or in *folder* if it is *apart*; *given* has
    settings for single processes, by their names.
    """

    bus: str
    store: str
    namespace: str
    folder: Path
    partitions: int = 4
    is_apart: bool = False
    given: dict[str, dict[str, str]] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)

    @property
    def settings(self) -> Settings:
        """What every process is told."""
        return Settings.read(
            {},
            app=APP,
            bus=self.bus,
            store=self.store,
            effects_store=f"sqlite:///{self.ledger}" if self.is_apart else self.store,
            env="test",
            namespace=self.namespace,
            partitions=self.partitions,
            early_hold="2s",
        )

    @property
    def names(self) -> TopicNames:
        return self.settings.topic_names

    @property
    def ledger(self) -> Path:
        """The services' own file, if they have one."""
        return self.folder / "effects.db"

    def booked(self, query: str) -> list[tuple[Any, ...]]:
        """What *query* finds in the services' ledger."""
        if not self.is_apart:
            with psycopg.connect(self.store) as database:
                return database.execute(query).fetchall()
        with closing(sqlite3.connect(self.ledger)) as ledger:
            return ledger.execute(query).fetchall()

    def start(self, name: str, *, waits: bool = True) -> Member:
        """Start the process *name*, again if there was one: `orchestrator…` or `effects…`."""
        role = name.partition("-")[0]
        log = self.folder / f"{name}.log"
        begin = log.stat().st_size if log.exists() else 0
        before = self.members.get(name)
        port = free_port() if before is None else before.port
        given = {"SAGA_HTTP": f"{HOST}:{port}", **self.given.get(name, {})}
        command = [sys.executable, "-m", "saga", "run", "--roles", role]
        told = {**_outside(), **self._environment(), **given}
        process = ServerProcess.spawn(command, folder=ROOT, log=log, environment=told)
        starts = 1 if before is None else before.starts + 1
        member = self.members[name] = Member(name, role, process, log, begin, port, starts)
        if waits:
            self.wait_for(name)
        return member

    def wait_for(self, name: str) -> None:
        member = self.members[name]

        def is_serving() -> bool:
            assert member.process.is_running(), f"{name} ended: {self.end_of_log(name)}"
            return member.is_serving()

        wait_until(is_serving, or_else=lambda: f"{name} does not serve: {self.end_of_log(name)}")

    def kill(self, name: str) -> None:
        self.members[name].process.kill()

    def freeze(self, name: str) -> None:
        self.members[name].process.signal(signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        self.members[name].process.signal(signal.SIGCONT)

    def stop(self, name: str) -> int | None:
        """Stop it as a deploy does; its exit code."""
        process = self.members[name].process
        process.signal(signal.SIGCONT)
        process.signal(signal.SIGTERM)
        assert process.has_ended(timeout_s=HANG_S), f"{name} does not stop: {self.end_of_log(name)}"
        return process.exit_code

    def end(self) -> None:
        for member in self.members.values():
            member.process.kill()

    def revive(self) -> list[str]:
        """Start everybody again who has ended; what ended by itself is named."""
        gone = [name for name, one in self.members.items() if not one.process.is_running()]
        for name in gone:
            self.start(name, waits=False)
        return gone

    def end_of_log(self, name: str, *, lines: int = 15) -> str:
        return "\n".join(self.members[name].log.read_text("utf-8").splitlines()[-lines:])

    def _environment(self) -> dict[str, str]:
        given = self.settings.model_dump(exclude_defaults=True)
        return {f"SAGA_{name.upper()}": str(value) for name, value in given.items()}


def _outside() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1"}
