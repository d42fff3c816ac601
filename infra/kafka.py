"""A Kafka cluster on this machine, in KRaft mode: one broker, or several for leader failover.

Each broker is also a controller, with data, settings and log in a folder of its own. Ports are
drawn at the first start and then kept, so that clients find a restarted broker where it was.
"""

from __future__ import annotations

import secrets
import signal
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from infra.failures import NotStarted
from infra.ports import HOST, START_ATTEMPTS_MAX, free_port
from infra.processes import Server, ServerProcess, run, wait_until_ready
from infra.programs import java, kafka_jars

START_TIMEOUT_S = 180.0
FORMAT_TIMEOUT_S = 180.0
SCRAM = ("SCRAM-SHA-256", "SCRAM-SHA-512")
_REPLICAS_MAX = 3
_CLUSTER_ID = "cluster.id"
_PORT_TAKEN = "Address already in use"
_LOGGING = Path(__file__).with_name("kafka-log4j2.yaml")
_READY = b"Kafka Server started"
# Short-lived, small and many: no time for the optimising compiler, one thread for the collector.
_SMALL_JVM = ("-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_FAST_JVM = ("-Xms512m", "-Xmx1g")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """One more way into every broker; *name* in capitals, *properties* without its prefix."""

    name: str
    protocol: str
    properties: Mapping[str, str] = field(default_factory=dict)


class Kafka:
    def __init__(
        self,
        folder: Path,
        *,
        brokers: int = 1,
        preferred_port: int | None = None,
        listeners: Sequence[Listener] = (),
        properties: Mapping[str, str] | None = None,
        users: Mapping[str, str] | None = None,
        outlives_owner: bool = False,
        is_fast: bool = False,
    ) -> None:
        """Prepares a cluster of *brokers* in *folder*, where one may have been before.

        Args:
            preferred_port: the first broker's port, if it is free at the first start.
            properties: settings of every broker that go before ours.
            users: names and passwords that listeners with SCRAM know, made at the first start.
            is_fast: whether it is to be measured: it starts slower, takes more memory, and its code
                is compiled as in production.
        """
        assert brokers >= 1, brokers
        self.folder = folder.absolute()
        self._listeners = tuple(listeners)
        self._preferred_port = preferred_port
        self._users = dict(users or {})
        self._properties = {**_replication(brokers), **(properties or {})}
        self.brokers = tuple(
            Broker(
                number,
                self.folder / f"broker-{number}",
                is_bound=not outlives_owner,
                is_fast=is_fast,
            )
            for number in range(1, brokers + 1)
        )
        self._has_started = False

    @property
    def bootstrap(self) -> str:
        """The brokers' addresses, `host:port,…`, those that are down included."""
        return self.bootstrap_of("PLAINTEXT")

    def bootstrap_of(self, listener: str) -> str:
        return ",".join(broker.address(listener) for broker in self.brokers)

    def start(self) -> None:
        """Starts all brokers that do not run, and waits until they serve."""
        runtime, jars = java(), kafka_jars()
        for attempt in range(1, START_ATTEMPTS_MAX + 1):
            if not self._has_started:
                self._draw_ports()
            try:
                self._start(runtime, jars)
            except NotStarted as error:
                self.kill()
                is_unlucky = not self._has_started and _PORT_TAKEN in error.end_of_log
                if not is_unlucky or attempt == START_ATTEMPTS_MAX:
                    raise
            else:
                self._has_started = True
                return

    def stop(self) -> None:
        """Stops all brokers as an operator would: they hand over, write down and close."""
        # Asked together: one alone would wait for a majority of controllers that is gone.
        for broker in self.brokers:
            broker.ask_to_stop()
        for broker in self.brokers:
            broker.stop()

    def kill(self) -> None:
        for broker in self.brokers:
            broker.kill()

    def restart(self) -> None:
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _draw_ports(self) -> None:
        names = ["PLAINTEXT", *(listener.name for listener in self._listeners), "CONTROLLER"]
        for broker in self.brokers:
            is_first = broker is self.brokers[0]
            broker.ports = {
                name: free_port(
                    preferred=self._preferred_port if is_first and name == "PLAINTEXT" else None
                )
                for name in names
            }

    def _start(self, runtime: Path, jars: Path) -> None:
        waiting = [broker for broker in self.brokers if not broker.is_running]
        for broker in waiting:
            broker.write_properties({**self._shared_properties(), **self._properties})
            if not broker.is_formatted:
                self._format(broker, runtime, jars)
        for broker in waiting:
            broker.spawn(runtime, jars)
        for broker in waiting:
            broker.wait_until_ready()

    def _format(self, broker: Broker, runtime: Path, jars: Path) -> None:
        path = self.folder / _CLUSTER_ID
        if not path.exists():
            path.write_text(
                urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("="), "ascii"
            )
        command = broker.command(runtime, jars, "kafka.tools.StorageTool")
        # In one word: an id may begin with a dash, which alone would be taken for an option.
        command += ["format", f"--cluster-id={path.read_text('ascii')}"]
        command += ["--config", broker.properties_path]
        for name, password in self._users.items():
            for mechanism in SCRAM:
                command += ["--add-scram", f"{mechanism}=[name={name},password={password}]"]
        run("Kafka's storage tool", command, log=broker.log, timeout_s=FORMAT_TIMEOUT_S)

    def _shared_properties(self) -> dict[str, str]:
        extra = {listener.name: listener.protocol for listener in self._listeners}
        protocols = {"PLAINTEXT": "PLAINTEXT", **extra, "CONTROLLER": "PLAINTEXT"}
        voters = [f"{b.number}@{b.address('CONTROLLER')}" for b in self.brokers]
        properties = {
            "process.roles": "broker,controller",
            "controller.quorum.voters": ",".join(voters),
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.security.protocol.map": ",".join(f"{k}:{v}" for k, v in protocols.items()),
        }
        for listener in self._listeners:
            prefix = f"listener.name.{listener.name.lower()}."
            properties |= {prefix + name: value for name, value in listener.properties.items()}
        return properties


class Broker(Server):
    """A broker of a `Kafka`, which starts it first; then it can be stopped and started alone."""

    def __init__(self, number: int, folder: Path, *, is_bound: bool, is_fast: bool = False) -> None:
        self.number = number
        self.folder = folder
        self.log = folder / "broker.log"
        self.properties_path = folder / "server.properties"
        self.ports: dict[str, int] = {}
        self._is_bound = is_bound
        self._jvm = _FAST_JVM if is_fast else _SMALL_JVM
        self._command: list[str | Path] = []
        self._log_start = 0

    @property
    def is_formatted(self) -> bool:
        return (self.folder / "data" / "meta.properties").exists()

    def address(self, listener: str = "PLAINTEXT") -> str:
        assert self.ports, "a broker has an address once it was started"
        return f"{HOST}:{self.ports[listener]}"

    def start(self) -> None:
        """Starts it again where it was, and waits until it serves."""
        if not self.is_running:
            self._spawn()
        self.wait_until_ready()

    def stop(self) -> None:
        """Stops it as an operator would, and kills it when that takes half a minute."""
        self.ask_to_stop()
        self._await_end()

    def restart(self) -> None:
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Stops its clock with SIGSTOP: connections stay open and nothing answers."""
        self.process.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.signal(signal.SIGCONT)

    def ask_to_stop(self) -> None:
        self._ask_to_stop(signal.SIGTERM)

    def write_properties(self, shared: Mapping[str, str]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        listeners = [f"{name}://{self.address(name)}" for name in self.ports]
        advertised = [line for line in listeners if not line.startswith("CONTROLLER:")]
        properties = {
            **shared,
            "node.id": str(self.number),
            "listeners": ",".join(listeners),
            "advertised.listeners": ",".join(advertised),
            "log.dirs": str(self.folder / "data"),
        }
        lines = [f"{name}={_escaped(value)}\n" for name, value in sorted(properties.items())]
        self.properties_path.write_text("".join(lines), "utf-8")

    def command(self, java: Path, jars: Path, program: str) -> list[str | Path]:
        logging = f"-Dlog4j2.configurationFile={_LOGGING}"
        return [java, *self._jvm, "-cp", f"{jars}/*", logging, program]

    def spawn(self, java: Path, jars: Path) -> None:
        self._command = [*self.command(java, jars, "kafka.Kafka"), self.properties_path]
        self._spawn()

    def wait_until_ready(self) -> None:
        wait_until_ready(
            self.process,
            self._is_ready,
            name=f"Kafka broker {self.number}",
            log=self.log,
            timeout_s=START_TIMEOUT_S,
        )

    def _spawn(self) -> None:
        assert self._command, f"broker {self.number} is started by its cluster first"
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        self._process = ServerProcess.spawn(
            self._command, folder=self.folder, log=self.log, is_bound=self._is_bound
        )

    def _is_ready(self) -> bool:
        with self.log.open("rb") as file:
            file.seek(self._log_start)
            return _READY in file.read()


def _replication(brokers: int) -> dict[str, str]:
    replicas = min(brokers, _REPLICAS_MAX)
    in_sync = 2 if replicas == _REPLICAS_MAX else 1
    internal = ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic")
    return {
        "default.replication.factor": str(replicas),
        "min.insync.replicas": str(in_sync),
        **{f"{topic}.replication.factor": str(replicas) for topic in internal},
        **{f"{topic}.min.isr": str(in_sync) for topic in internal[1:]},
        **{f"{topic}.num.partitions": "4" for topic in internal},
        "group.initial.rebalance.delay.ms": "0",
        # A killed broker is let in again when its old session ends: 3 s later, not 9.
        "broker.session.timeout.ms": "3000",
        "broker.heartbeat.interval.ms": "500",
        "auto.create.topics.enable": "false",
    }


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n")
