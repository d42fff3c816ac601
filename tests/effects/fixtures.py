"""A service at work on a bus in memory, a clock moved by hand and a store without threads."""

# ruff: noqa: SLF001 - only tests ask how far a service has come

import asyncio
from collections.abc import Callable
from typing import Self

from saga.adapters.clocks import ManualClock
from saga.adapters.sqlite import SqliteDatabase, SqliteEffectsStore
from saga.contracts import ContractModel, ContractRegistry, TopicNames, contract_of, encode
from saga.contracts import cloudevents as ce
from saga.core.identity import Direction, SagaId, StepId, idempotency_key, intent_id, saga_id
from saga.effects import (
    EffectContext,
    Effects,
    EffectsService,
    EffectsSettings,
    Refused,
    Subscription,
)
from saga.ports import Inbound, Record, Source, TopicSpec
from tests.fakes import FlakyBus, LockedDisk
from tests.records import header
from tests.toys import Paid, Pay, Refund

NAMES = TopicNames("test", "toys")
ROUNDS_MAX = 4_000
SAGA = saga_id("order", "o-1")
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def wallet_effects() -> tuple[Effects, list[str]]:
    """A service that charges wallets, and the calls that its handlers got."""
    effects = Effects("wallets")
    calls: list[str] = []

    @effects.on_start
    async def make_tables(db):
        await db.execute("CREATE TABLE IF NOT EXISTS ledger (order_id TEXT, amount INTEGER)")

    @effects.on(Pay)
    async def pay(intent: Pay, ctx: EffectContext) -> Paid:
        calls.append(ctx.intent_id)
        await ctx.db.execute(
            "INSERT INTO ledger VALUES (:order_id, :amount)",
            order_id=intent.order_id,
            amount=intent.amount,
        )
        if intent.amount > 500:
            raise Refused("over the limit", code="limit")
        if intent.amount < 0:
            raise ValueError("negative amount")
        return Paid(receipt=f"r-{intent.order_id}-{ctx.attempt}")

    @effects.on(Refund)
    async def refund(intent: Refund, ctx: EffectContext) -> None:
        calls.append(ctx.intent_id)
        await ctx.db.execute(
            "INSERT INTO ledger SELECT order_id, -amount FROM ledger WHERE order_id = :order_id",
            order_id=intent.order_id,
        )

    return effects, calls


def intent(
    model: ContractModel,
    *,
    step: str = "pay",
    attempt: int = 1,
    direction: Direction = Direction.DO,
    saga: SagaId = SAGA,
    key: str = "o-1",
    undoes: type[ContractModel] | None = None,
) -> Record:
    name = contract_of(type(model)).contract_name
    headers = ce.Said(
        id=intent_id(saga, StepId(step), direction, attempt),
        contract_name=name,
        source="/test/toys/sagas/order",
        at=ManualClock().now(),
        saga_id=saga,
        causation_id="trigger",
        idempotency_key=idempotency_key(saga, StepId(step), direction),
        undoes=contract_of(undoes).contract_name if undoes else None,
        traceparent=TRACEPARENT,
    )
    return Record(NAMES.topic(name), key.encode(), encode(model).encode(), headers)


def undo(model: ContractModel, *, attempt: int = 1, undoes=Pay, **more) -> Record:
    """The intent that undoes the step of `intent`."""
    return intent(model, attempt=attempt, direction=Direction.UNDO, undoes=undoes, **more)


class Scenario:
    """One service with its bus, store and clock; after `crash`, another on the same data."""

    def __init__(self, effects: Effects, **settings) -> None:
        self.effects = effects
        self.clock = ManualClock()
        self.bus = FlakyBus(clock=self.clock)
        self.disk = LockedDisk(":memory:", isolation_level=None)
        self.dead_letters: list[tuple[Inbound, str, str]] = []
        self.dead_letter_error: Exception | None = None
        self.settings = EffectsSettings(**{"threads": 0} | settings)
        models = [*effects.intents, *effects.facts]
        self.contracts = ContractRegistry(models)
        self.store, self.service = self._make()

    async def __aenter__(self) -> Self:
        subscription = self.service.subscription
        topics = {*subscription.topics_read, *subscription.topics_written}
        await self.bus.create_topics([TopicSpec(topic, 1) for topic in sorted(topics)])
        await self.service.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        await self.store.close()
        self.disk.close()

    async def stop(self) -> None:
        """Stop the service; time goes on while it does."""
        stopping = asyncio.ensure_future(self.service.stop())
        await self.until(stopping.done)
        stopping.result()

    async def crash(self) -> None:
        """Kill the process: what is not committed is gone, and it never does anything again."""
        self.store.abandon()
        self.service._running.cancel()
        await asyncio.wait([self.service._running])
        await self.service.consumer.close()
        self.bus.is_stuck = False
        self.store, self.service = self._make()
        await self.service.start()

    async def seek(self, offsets: dict[Source, int]) -> None:
        """Have records read once more, as a rebalance may."""
        await self.service.consumer.seek(offsets)

    async def send(self, *records: Record) -> None:
        """Publish records and wait until they are dealt with."""
        before = self.dealt_with
        await self.bus.publish(records)
        await self.until(lambda: self.dealt_with - before >= len(records))

    @property
    def dealt_with(self) -> int:
        in_hand = self.service._records
        return sum(last + 1 for last in in_hand._last.values()) - in_hand.count

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Let things happen, and time pass, until *is_so*."""
        for _ in range(ROUNDS_MAX):
            for _ in range(12):
                await asyncio.sleep(0)
            if is_so():
                return
            self.clock.advance(0.005)
        raise AssertionError("it has not happened")

    def replies(self) -> list[Record]:
        """The answers that were published, in their order."""
        return [
            reply
            for reply in self.bus.replies
            if reply.topic in self.service.subscription.topics_written
        ]

    def answers(self) -> list[tuple[str, str]]:
        return [(header(reply, ce.TYPE), reply.value.decode()) for reply in self.replies()]

    def ledger(self) -> list[tuple[str, int]]:
        return self.disk.execute("SELECT order_id, amount FROM ledger ORDER BY rowid").fetchall()

    def committed(self, topic: str) -> int:
        return max(
            (
                offset
                for (group, source), offset in self.bus.committed.items()
                if group == self.service.subscription.group and source.topic == topic
            ),
            default=0,
        )

    def _make(self) -> tuple[SqliteEffectsStore, EffectsService]:
        store = SqliteEffectsStore(SqliteDatabase(":memory:", connection=self.disk))
        service = EffectsService(
            Subscription(self.effects, self.contracts, NAMES),
            bus=self.bus,
            store=store,
            clock=self.clock,
            dead_letters=self._keep_dead_letter,
            settings=self.settings,
        )
        return store, service

    async def _keep_dead_letter(self, inbound: Inbound, reason: str, message: str) -> None:
        if self.dead_letter_error is not None:
            raise self.dead_letter_error
        self.dead_letters.append((inbound, reason, message))
