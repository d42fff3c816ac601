"""Whoever places orders, outside of everything that fails: keeps a log of what was acknowledged."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from random import Random
from typing import Self

from saga.adapters.clocks import SystemClock
from saga.adapters.opening import open_bus
from saga.contracts import Command, CommandAct
from saga.core.events import CancelMode
from saga.core.identity import saga_id
from saga.errors import BusUnavailable
from saga.ports import Record, TopicSpec
from saga.publishing.writer import EventWriter
from saga.runtime.publisher import Publisher
from saga.testing.world.evidence import Log, SagaName, Trigger
from tests.chaos.application import FlawedOrdered, Ordered, OrderPlaced, app
from tests.chaos.deployment import Deployment

AMOUNT_MAX = 500
TROUBLE_SHARE = 0.3
REPEATED_SHARE = 0.1
CANCELLED_SHARE = 0.05
RETRY_S = 0.3


class Client:
    def __init__(self, deployment: Deployment, seed: int) -> None:
        self._deployment = deployment
        self._rng = Random(seed)
        self._numbers = 0
        self._opened = open_bus(deployment.settings)
        self._publisher = Publisher(
            self._opened.bus,
            EventWriter(
                deployment.names,
                clock=SystemClock(),
                source="/chaos/client",
                contracts=app.contracts,
                sagas=app.registry,
                new_id=self._new_id,
            ),
        )
        self.log = Log()

    async def __aenter__(self) -> Self:
        specs = [
            TopicSpec(topic, self._deployment.partitions)
            for topic in app.topics(self._deployment.names)
        ]
        await self._opened.bus.create_topics(specs)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._opened.close()

    def drawn(self) -> Trigger:
        """An order that goes through, or meets some trouble."""
        self._numbers += 1
        script: dict[str, str] = {}
        if self._rng.random() < TROUBLE_SHARE:
            word = self._rng.choice(("refuse", "fail:1", "slow:0.2"))
            script[self._rng.choice(("reserve", "pay", "send"))] = word
        amount = self._rng.randint(1, AMOUNT_MAX)
        order = OrderPlaced(order_id=f"o-{self._numbers}", script=script, amount=amount)
        return self._trigger("order", order)

    def flawed(self) -> Trigger:
        self._numbers += 1
        return self._trigger("flawed", FlawedOrdered(order_id=f"o-{self._numbers}", script={}))

    async def place(self, orders: Sequence[Trigger]) -> None:
        """Publish until it is acknowledged; some orders twice."""
        self.log.triggers += [order for order in orders if order not in self.log.triggers]
        prepared = [
            self._publisher.writer.record(order.event, message_id=order.message_id)
            for order in orders
        ]
        again = [each for each in prepared if self._rng.random() < REPEATED_SHARE]
        await self.publish([each.record for each in (*prepared, *again)])
        for order in orders:
            order.is_acknowledged = True

    async def publish(self, records: Sequence[Record]) -> None:
        """Publish until it is acknowledged."""
        await self._insist(partial(self._opened.bus.publish, records))

    async def cancel(self, order: Trigger) -> None:
        (name,) = order.starts
        command = Command(
            command_id=f"cancel-{order.message_id}",
            act=CommandAct.CANCEL,
            saga_id=name.saga_id,
            mode=CancelMode.GRACEFUL,
            reason="changed mind",
        )
        self.log.commands[command.command_id] = command
        await self._insist(partial(self._publisher.command, command, key=name.key))

    async def _insist(self, publish: Callable[[], Awaitable[object]]) -> None:
        while True:
            try:
                await publish()
            except BusUnavailable:
                await asyncio.sleep(RETRY_S)
            else:
                return

    async def place_orders(
        self, until: Callable[[], bool], *, each_s: float = 0.05, at_once: int = 4
    ) -> None:
        """Place orders, and cancel some, until somebody says that it is enough."""
        while not until():
            orders = [self.drawn() for _ in range(at_once)]
            await self.place(orders)
            for order in orders:
                if self._rng.random() < CANCELLED_SHARE:
                    await self.cancel(order)
            await asyncio.sleep(each_s)

    def _trigger(self, definition: str, order: Ordered) -> Trigger:
        name = SagaName(definition, order.order_id, saga_id(definition, order.order_id))
        return Trigger(order, f"m-{self._numbers}", (name,))

    def _new_id(self) -> str:
        self._numbers += 1
        return f"client-{self._numbers}"
