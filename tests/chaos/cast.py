"""
The processes of a deployment: real ones, on a real Kafka and a real PostgreSQL.
"""

import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from infra.processes import ServerProcess
from saga.contracts import TopicNames
from saga.settings import Settings

ROOT = Path(__file__).parents[2]
APP = "tests.chaos.trade:app"
SERVING = b"serving"
START_S = 40.0
STOP_S = 30.0
POLL_S = 0.02


@dataclass
class Member:
    """
    A process that is started again where it was.
    """

    name: str
    role: str
    process: ServerProcess
    log: Path
    log_start: int
    starts: int = 1

    def is_serving(self) -> bool:
        """
        Whether it has said so since it was started last.
        """
        with self.log.open("rb") as file:
            file.seek(self.log_start)
            return SERVING in file.read()


@dataclass
class Cast:
    """
    All processes of a deployment, in *folder* with their logs and their services' ledger.
    """

    bus: str
    store: str
    namespace: str
    folder: Path
    partitions: int = 4
    members: dict[str, Member] = field(default_factory=dict)

    @property
    def settings(self) -> Settings:
        """
        What every process is told.
        """
        return Settings.read(
            {},
            app=APP,
            bus=self.bus,
            store=self.store,
            effects_store=f"sqlite:///{self.folder}/effects.db",
            env="test",
            namespace=self.namespace,
            partitions=self.partitions,
            early_hold="2s",
        )

    @property
    def names(self) -> TopicNames:
        """
        How its topics are called.
        """
        return self.settings.topic_names

    @property
    def ledger(self) -> Path:
        """
        The services' own database.
        """
        return self.folder / "effects.db"

    def start(self, name: str, *, waits: bool = True) -> Member:
        """
        Start the process *name*, again if there was one: `orchestrator…` or `effects…`.
        """
        role = name.partition("-")[0]
        log = self.folder / f"{name}.log"
        begin = log.stat().st_size if log.exists() else 0
        command = [sys.executable, "-m", "saga", "run", "--roles", role]
        process = ServerProcess.spawn(
            command, folder=ROOT, log=log, environment={**_outside(), **self._environment()}
        )
        before = self.members.get(name)
        starts = 1 if before is None else before.starts + 1
        member = self.members[name] = Member(name, role, process, log, begin, starts)
        if waits:
            self.wait_for(name)
        return member

    def wait_for(self, name: str) -> None:
        """
        Return once *name* serves.
        """
        member = self.members[name]
        deadline = time.monotonic() + START_S
        while not member.is_serving():
            assert member.process.is_running(), f"{name} ended: {self.end_of_log(name)}"
            assert time.monotonic() < deadline, f"{name} does not serve: {self.end_of_log(name)}"
            time.sleep(POLL_S)

    def kill(self, name: str) -> None:
        """
        Kill -9.
        """
        self.members[name].process.kill()

    def freeze(self, name: str) -> None:
        """
        Stop its clock.
        """
        self.members[name].process.signal(signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """
        Let it go on.
        """
        self.members[name].process.signal(signal.SIGCONT)

    def stop(self, name: str) -> int | None:
        """
        Stop it as a deploy does; its exit code.
        """
        process = self.members[name].process
        process.signal(signal.SIGCONT)
        process.signal(signal.SIGTERM)
        assert process.has_ended(timeout_s=STOP_S), f"{name} does not stop: {self.end_of_log(name)}"
        return process.exit_code

    def end(self) -> None:
        """
        Kill everybody.
        """
        for member in self.members.values():
            member.process.kill()

    def revive(self) -> list[str]:
        """
        Start everybody again who has ended; what ended by itself is named.
        """
        gone = [name for name, one in self.members.items() if not one.process.is_running()]
        for name in gone:
            self.start(name, waits=False)
        return gone

    def end_of_log(self, name: str, *, lines: int = 15) -> str:
        """
        What it said last.
        """
        return "\n".join(self.members[name].log.read_text("utf-8").splitlines()[-lines:])

    def _environment(self) -> dict[str, str]:
        given = self.settings.model_dump(exclude_defaults=True)
        return {f"SAGA_{name.upper()}": str(value) for name, value in given.items()}


def _outside() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1"}
