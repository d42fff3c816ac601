"""The checker from outside: reads topics, store and ledger when everything has come to rest.

It shares its checks with the simulated worlds. On top: money is neither made nor lost.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from saga.adapters.opening import OpenedStore, open_bus, open_store
from saga.contracts import contract_of
from saga.core.history import Entry
from saga.core.identity import Instant, SagaId
from saga.core.status import SagaStatus
from saga.effects.request import group_of
from saga.errors import BusUnavailable, StoreUnavailable
from saga.ports import Inbound, Source
from saga.ports.store import UnhandledKind
from saga.runtime.router import Router
from saga.testing.world.broker import Published
from saga.testing.world.checks import check_all
from saga.testing.world.evidence import Evidence, Line, Log, headers_of
from tests.chaos.application import OrderPlaced, app
from tests.chaos.deployment import Deployment
from tests.patience import HANG_S, until

REST_S_MAX = 2 * HANG_S
REST_POLL_S = 0.2
SAGAS_MAX = 1_000_000
MOVED_BY_AN_ORDER = {"shelf": -1, "parcel": 0, "customer": -1, "merchant": 1, "road": 1}
_LEDGER = "SELECT number, saga_id, step, direction, intent_id FROM ledger ORDER BY number"
_BOOKS = "SELECT saga_id, debit, credit, amount FROM ledger"


@asynccontextmanager
async def opened(deployment: Deployment) -> AsyncIterator[OpenedStore]:
    store = open_store(deployment.settings)
    try:
        yield store
    finally:
        await store.close()


async def records(deployment: Deployment) -> list[Inbound]:
    """Every record on every topic of the deployment, partition by partition."""
    found: list[Inbound] = []
    async with AIOKafkaConsumer(
        bootstrap_servers=deployment.bus.removeprefix("kafka://"),
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    ) as consumer:
        known = await consumer.topics()
        sources = [
            TopicPartition(topic, number)
            for topic in app.topics(deployment.names)
            if topic in known
            for number in range(deployment.partitions)
        ]
        consumer.assign(sources)
        ends = await consumer.end_offsets(sources)
        while any([await consumer.position(at) < ends[at] for at in sources]):
            for at, page in (await consumer.getmany(timeout_ms=200)).items():
                found += [_inbound(at, one) for one in page]
    return sorted(found, key=lambda one: one.position)


def _inbound(at: TopicPartition, one: ConsumerRecord) -> Inbound:
    when = Instant(one.timestamp * 1000)
    return Inbound(at.topic, at.partition, one.offset, one.key, one.value, tuple(one.headers), when)


class Move(NamedTuple):
    saga_id: str
    debit: str
    credit: str
    amount: int


class Left(NamedTuple):
    evidence: Evidence
    moves: Sequence[Move]


class Outside:
    """Looks at the deployment of *deployment*, and at nothing in its processes' memory."""

    def __init__(self, deployment: Deployment, log: Log) -> None:
        self._deployment = deployment
        self._log = log
        names = deployment.names
        self.heard = frozenset(Router(app.registry, app.contracts, names).topics)
        """Topics that the orchestrators read."""
        self._served = {
            group_of(service.name, names): frozenset(
                names.topic(contract_of(model).contract_name) for model in service.intents
            )
            for service in app.effects
        }
        """Topics that each group of effect services reads."""

    async def rest(self, *, timeout_s: float = REST_S_MAX, parked: int = 0) -> None:
        """Wait until nothing is left to do; *parked* sagas are expected to wait for an operator.

        That is so when two looks find nothing, and nothing was published between them.
        """
        deadline = time.monotonic() + timeout_s
        calm: dict[Source, int] | None = None
        async with opened(self._deployment) as store:
            while True:
                ends = await self._ends()
                try:
                    restless = await self._restless(store, ends, parked)
                except (StoreUnavailable, BusUnavailable) as error:
                    restless = str(error)
                if restless is None and calm == ends:
                    return
                if restless is not None and time.monotonic() > deadline:
                    raise AssertionError(f"it does not come to rest: {restless}")
                calm = None if restless else ends
                await asyncio.sleep(REST_POLL_S)

    async def another_ends(self) -> None:
        """Wait until one more saga has ended than now."""
        async with opened(self._deployment) as store:

            async def ended() -> int:
                found = [
                    await store.catalogue.sagas(status=status, limit=SAGAS_MAX)
                    for status in SagaStatus
                    if status.is_ended
                ]
                return sum(map(len, found))

            before = await ended()

            async def are_more() -> bool:
                return await ended() > before

            await until(are_more)

    async def check(self) -> list[str]:
        return judged(await self.gather())

    async def _restless(
        self, store: OpenedStore, ends: dict[Source, int], parked: int
    ) -> str | None:
        for status in SagaStatus:
            if not status.is_ended:
                found = await store.catalogue.sagas(status=status, limit=1 + parked)
                if len(found) > (parked if status is SagaStatus.PARKED else 0):
                    one = found[-1]
                    return f"{one.key} is {one.status.value}, {one.waiting_for}: {one.reason}"
        if await store.store.backlog(limit=1):
            return "the backlog is not empty"
        heard = {source: end for source, end in ends.items() if source.topic in self.heard}
        stored = await store.store.positions(list(heard))
        for source, end in heard.items():
            if stored.get(source, -1) < end - 1:
                return f"{source} is read up to {stored.get(source)} of {end}"
        return await self._unserved(ends)

    async def _unserved(self, ends: dict[Source, int]) -> str | None:
        opened = open_bus(self._deployment.settings)
        try:
            groups = await opened.bus.describe_groups(self._served.keys())
        finally:
            await opened.close()
        for group, topics in self._served.items():
            committed = groups[group].committed
            for source, end in ends.items():
                if source.topic in topics and committed.get(source, 0) < end:
                    return f"{source} is served up to {committed.get(source)} of {end}"
        return None

    async def _ends(self) -> dict[Source, int]:
        async with AIOKafkaConsumer(
            bootstrap_servers=self._deployment.bus.removeprefix("kafka://")
        ) as consumer:
            sources = [
                TopicPartition(topic, number)
                for topic in self.heard.union(*self._served.values()) & await consumer.topics()
                for number in range(self._deployment.partitions)
            ]
            assert sources, "none of the topics is there"
            found = await consumer.end_offsets(sources)
        return {Source(at.topic, at.partition): end for at, end in found.items()}

    async def gather(self) -> Left:
        histories: dict[SagaId, list[Entry]] = defaultdict(list)
        async with opened(self._deployment) as store:
            async for _, entry in store.catalogue.log():
                histories[entry.saga_id].append(entry)
            summaries = await store.catalogue.sagas(limit=SAGAS_MAX)
            unhandled = await store.catalogue.unhandled(limit=SAGAS_MAX)
            timers = await store.catalogue.timers(limit=SAGAS_MAX)
        lines = [Line(*row) for row in self._deployment.booked(_LEDGER)]
        published = [Published(n, one) for n, one in enumerate(await records(self._deployment))]
        evidence = Evidence(
            log=self._log,
            histories=dict(histories),
            stored_at={},
            published=published,
            unhandled=[each for each in unhandled if each.kind is UnhandledKind.DEAD],
            summaries={one.saga_id: one for one in summaries},
            timers=frozenset(one.timer_id for one in timers),
            ledger=lines,
            heard=self.heard,
            names=self._deployment.names,
            is_ordered=False,
        )
        return Left(evidence, [Move(*row) for row in self._deployment.booked(_BOOKS)])


def judged(left: Left) -> list[str]:
    evidence = left.evidence
    return [*check_all(evidence), *_unbalanced(left), *_changed(evidence)]


def _unbalanced(left: Left) -> Iterator[str]:
    """What an order moves, a finished one leaves moved, and an undone one takes back."""
    moved: dict[tuple[str, str], int] = defaultdict(int)
    for saga_id, debit, credit, amount in left.moves:
        moved[saga_id, debit] -= amount
        moved[saga_id, credit] += amount
    amounts = {
        name.saga_id: order.event.amount
        for order in left.evidence.log.triggers
        for name in order.starts
        if isinstance(order.event, OrderPlaced)
    }
    for saga_id, amount in amounts.items():
        summary = left.evidence.summaries.get(saga_id)
        is_done = summary is not None and summary.status is SagaStatus.COMPLETED
        for account, share in MOVED_BY_AN_ORDER.items():
            wanted = share * amount if is_done else 0
            if moved[saga_id, account] != wanted:
                yield f"{saga_id}: {account} has {moved[saga_id, account]}, expected {wanted}"


def _changed(evidence: Evidence) -> Iterator[str]:
    """What comes twice from anybody has the same id and the same bytes."""
    first: dict[tuple[str, str], Inbound] = {}
    for _, record in evidence.published:
        record_id = headers_of(record).get("ce_id")
        if record_id is None or ".dlq." in record.topic:
            continue
        known = first.setdefault((record.topic, record_id), record)
        if (known.key, known.value) != (record.key, record.value):
            yield f"{record_id} is on {record.topic} with two contents"
