"""A Kafka cluster on this machine, in KRaft mode: one broker, or several for leader failover.

Each broker is also a controller. Its data, its settings and its log are in a folder of its own
below the one given. Ports are drawn at the first start and kept from then on, so that clients find
a restarted broker where it was.
"""

from __future__ import annotations

import secrets
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from infra.broker import Broker
from infra.failures import NotStarted
from infra.jars import kafka_jars
from infra.ports import START_ATTEMPTS_MAX, free_port
from infra.processes import run
from infra.programs import java

FORMAT_TIMEOUT_S = 60.0
SCRAM = ("SCRAM-SHA-256", "SCRAM-SHA-512")
_REPLICAS_MAX = 3
_CLUSTER_ID = "cluster.id"
_PORT_TAKEN = "Address already in use"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """One more way into every broker, beside the plain one: for example SASL over TLS.

    Attributes:
        name: its name in the broker's settings, in capitals.
        protocol: `PLAINTEXT`, `SSL`, `SASL_PLAINTEXT` or `SASL_SSL`.
        properties: settings of the listener, without the `listener.name.…` in front.
    """

    name: str
    protocol: str
    properties: Mapping[str, str] = field(default_factory=dict)


class Kafka:
    """A cluster, started with `start` or as a context manager."""

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
            listeners: additional ones, on ports of their own.
            properties: settings of every broker that go before ours.
            users: names and passwords that listeners with SCRAM know, made at the first start.
            outlives_owner: whether it goes on when this process ends.
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
        """The addresses of one listener, by its name."""
        return ",".join(broker.address(listener) for broker in self.brokers)

    def start(self) -> None:
        """Starts all brokers that do not run, and waits until they serve.

        Raises:
            NotInstalled: Java or Maven is missing.
            NotStarted: a broker ended or hung; the error quotes its log.
        """
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
        """Kills all brokers with SIGKILL."""
        for broker in self.brokers:
            broker.kill()

    def restart(self) -> None:
        """Stops what runs and starts everything again, at the same addresses."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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
