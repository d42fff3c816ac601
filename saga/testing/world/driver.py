"""Whoever uses the sagas of a world: publishes triggers, signals and cancels, and keeps a log of
it.

What was published was acknowledged, or it is unknown whether it happened. Only the unknown may go
either way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random

from saga.contracts import Command, CommandAct
from saga.core.events import CancelMode
from saga.core.identity import SagaId, saga_id
from saga.errors import BusUnavailable
from saga.ports import Record
from saga.runtime.publisher import Publisher
from saga.testing.world.assembly import Durable
from saga.testing.world.ports import ProcessBus, ProcessClock
from saga.testing.world.process import Process
from saga.testing.world.sample_messages import (
    ChoiceOrdered,
    FlawedOrdered,
    Ordered,
    ParallelOrdered,
    PatientOrdered,
    PivotOrdered,
    SequenceOrdered,
    StubbornOrdered,
    WideOrdered,
)

ORDERING_S = 1.2
"""How long triggers come in."""
TRIES_MAX = 4
SIGNALLED_SHARE = 0.7
CANCELLED_SHARE = 0.15
REPEATED_SHARE = 0.2
CONTRADICTED_SHARE = 0.1
STUCK_SHARE = 0.5
GARBAGE_SHARE = 0.4


class Said(StrEnum):
    """What the driver knows of something it has published."""

    OK = "ok"
    UNKNOWN = "unknown"


@dataclass(slots=True)
class Order:
    """A trigger, and what the driver means to do with it."""

    definition: str
    trigger: Ordered
    message_id: str
    at_s: float
    said: Said | None = None
    saga_id: SagaId | None = None
    follow_ups: list[tuple[float, str]] = field(default_factory=list)


@dataclass(slots=True)
class Log:
    """Everything that was published from outside."""

    orders: list[Order] = field(default_factory=list)
    conflicting: list[tuple[str, str]] = field(default_factory=list)
    """Message ids of second triggers of the same key with another content."""
    garbage: list[bytes] = field(default_factory=list)
    commands: dict[str, Command] = field(default_factory=dict)


_SHAPES: dict[str, tuple[type[Ordered], str]] = {
    "sequence": (SequenceOrdered, "abc"),
    "parallel": (ParallelOrdered, "abcde"),
    "wide": (WideOrdered, "abcde"),
    "choice": (ChoiceOrdered, "abcde"),
    "patient": (PatientOrdered, "ab"),
    "pivot": (PivotOrdered, "ab"),
    "stubborn": (StubbornOrdered, "abc"),
    "flawed": (FlawedOrdered, "ab"),
}
_WEIGHTS = (4, 4, 3, 4, 3, 2, 2, 2)


def drawn_orders(rng: Random) -> list[Order]:
    """The orders of one world."""
    trouble = rng.choice((0.05, 0.2, 0.4))
    orders: list[Order] = []
    for number in range(rng.randint(3, 8)):
        name = rng.choices(list(_SHAPES), _WEIGHTS)[0]
        model, steps = _SHAPES[name]
        script = {step: " ".join(_words(rng, trouble, name, step)) for step in steps}
        script = {step: words for step, words in script.items() if words}
        if name == "flawed":
            script["flaw"] = rng.choice(("start", "middle", "nowhere"))
        if name == "pivot" and rng.random() < trouble:
            script["c"] = f"fail:{rng.randint(1, 3)}"
        key = f"{name}-{number}"
        order = Order(
            name, model(order_id=key, script=script), f"m-{number}", rng.uniform(0, ORDERING_S)
        )
        if name == "patient" and rng.random() < SIGNALLED_SHARE:
            order.follow_ups.append((rng.uniform(-0.2, 1.5), "signal"))
        if rng.random() < CANCELLED_SHARE:
            order.follow_ups.append((rng.uniform(0, 1.5), rng.choice(("graceful", "immediate"))))
        if rng.random() < REPEATED_SHARE:
            order.follow_ups.append((rng.uniform(0, 3), "again"))
        if rng.random() < CONTRADICTED_SHARE:
            order.follow_ups.append((rng.uniform(0.1, 3), "conflict"))
        orders.append(order)
    return sorted(orders, key=lambda order: order.at_s)


def _words(rng: Random, trouble: float, name: str, step: str) -> list[str]:
    words: list[str] = []
    if rng.random() < trouble:
        words.append(rng.choice(("refuse", "fail:1", "fail:2", "fail:9", "slow:0.3", "slow:1.2")))
    if rng.random() < trouble:
        words.append(f"undofail:{rng.randint(1, 3)}")
    if name == "stubborn" and step == "b" and rng.random() < STUCK_SHARE:
        words.append("undofail:9")
    return words


class Driver:
    """A client of the bus, in a process that never crashes."""

    def __init__(self, process: Process, durable: Durable, orders: Sequence[Order]) -> None:
        self._process = process
        self._rng = process.surroundings.faults.rng
        self._durable = durable
        self._numbers = 0
        self._bus = ProcessBus(process, durable.bus)
        self._clock = ProcessClock(process)
        self._publisher = Publisher(
            self._bus,
            contracts=durable.app.contracts,
            sagas=durable.app.registry,
            names=durable.names,
            clock=self._clock,
            new_id=self._new_id,
            source="/world/driver",
        )
        self.log = Log(orders=list(orders))

    async def drive(self) -> None:
        """Do everything in its time."""
        acts: list[tuple[float, int, str, Order | None]] = []
        for number, order in enumerate(self.log.orders):
            acts.append((order.at_s, number, "order", order))
            acts += [
                (max(order.at_s + after_s, 0.0), number, act, order)
                for after_s, act in order.follow_ups
            ]
        if self._rng.random() < GARBAGE_SHARE:
            acts += [
                (self._rng.uniform(0, ORDERING_S), -1, "garbage", None)
                for _ in range(self._rng.randint(1, 3))
            ]
        for at_s, _, act, about in sorted(acts, key=lambda each: (each[0], each[1], each[2])):
            await self._clock.sleep(at_s - self._clock.monotonic_s())
            if about is None:
                await self._garbage()
            else:
                await self._do(act, about)

    async def release(self, parked: SagaId, key: str) -> None:
        """An operator's act: let a saga go on."""
        await self._command(CommandAct.RELEASE, parked, key, reason="mended", actor="operator")

    async def _do(self, act: str, order: Order) -> None:
        target = saga_id(order.definition, order.trigger.order_id)
        key = order.trigger.order_id
        match act:
            case "order" | "again":
                await self._order(order)
            case "conflict":
                await self._conflict(order)
            case "signal":
                await self._command(
                    CommandAct.SIGNAL, target, key, name="approval", payload={"by": "boss"}
                )
            case "graceful" | "immediate":
                await self._command(
                    CommandAct.CANCEL, target, key, mode=CancelMode(act), reason="changed mind"
                )
            case _:
                raise AssertionError(act)

    async def _order(self, order: Order) -> None:
        prepared = self._publisher.prepare(order.trigger, message_id=order.message_id)
        order.saga_id = prepared.saga_id
        is_sent = await self._send([prepared.record])
        if order.said is not Said.OK:
            order.said = Said.OK if is_sent else Said.UNKNOWN

    async def _conflict(self, order: Order) -> None:
        other = order.trigger.model_copy(update={"script": {"a": "refuse", "other": "yes"}})
        self._numbers += 1
        message_id = f"conflict-{self._numbers}"
        prepared = self._publisher.prepare(other, message_id=message_id)
        self.log.conflicting.append((order.trigger.order_id, message_id))
        await self._send([prepared.record])

    async def _garbage(self) -> None:
        topics = sorted(
            source.topic
            for source in self._durable.bus.partitions
            if source.partition == 0 and ".dlq." not in source.topic
        )
        heard = [topic for topic in topics if self._is_heard(topic)]
        self._numbers += 1
        value = self._rng.choice((b'{"order_id": 7', b"\xff\xfe", b"[1, 2]", b'{"order_id": NaN}'))
        value += b" " * self._numbers  # so that each can be told from the others
        self.log.garbage.append(value)
        await self._send([Record(self._rng.choice(heard), b"garbage", value)])

    def _is_heard(self, topic: str) -> bool:
        name = self._durable.names.contract_name(topic)
        return name is not None and not name.startswith(
            ("sim.evt.work", "sim.evt.notic", "sim.evt.appr")
        )

    async def _command(self, act: CommandAct, target: SagaId, key: str, **said: object) -> None:
        self._numbers += 1
        command = Command.model_validate(
            {"command_id": f"command-{self._numbers}", "act": act, "saga_id": target, **said}
        )
        self.log.commands[command.command_id] = command
        for _ in range(TRIES_MAX):
            try:
                await self._publisher.command(command, key=key)
            except BusUnavailable:
                await self._clock.sleep(0.1)
            else:
                return

    async def _send(self, records: Sequence[Record]) -> bool:
        for _ in range(self._rng.randint(1, TRIES_MAX)):
            try:
                await self._bus.publish(records)
            except BusUnavailable:
                await self._clock.sleep(0.1)
            else:
                return True
        return False

    def _new_id(self) -> str:
        self._numbers += 1
        return f"driver-{self._numbers}"
