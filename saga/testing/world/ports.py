"""The ports as one process sees them: every call may fail, crash the process, or be slow."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from typing_extensions import override

from saga.adapters.memory import MemoryCatalogue, MemoryEventStore
from saga.core.history import Entry
from saga.core.identity import Instant, SagaId
from saga.core.status import SagaStatus
from saga.errors import BusUnavailable, CorruptHistory, StoreUnavailable
from saga.ports import (
    Appended,
    Backlog,
    Batch,
    Bus,
    Catalogue,
    DueTimer,
    EventStore,
    History,
    Inbound,
    Record,
    SagaSummary,
    Source,
    TopicSpec,
    UnhandledRecord,
)
from saga.ports.bus import MemberView, ResumeAt
from saga.ports.store import UnhandledKind
from saga.testing.world.broker import Member, SimulatedBus, WorldClock
from saga.testing.world.process import Process

LATE_REPLY_S_MAX = 3.0
STALL_S_MAX = 0.8
GHOST_S = 0.3

Filter = Callable[[Sequence[Record]], Sequence[Record]]
T = TypeVar("T")


class ProcessClock(WorldClock):
    """A clock that stands still for who is dead or frozen."""

    def __init__(self, process: Process) -> None:
        super().__init__(process.surroundings)
        self._process = process

    @override
    async def sleep(self, seconds: float) -> None:
        await self._process.call("clock.sleep", lambda: super(ProcessClock, self).sleep(seconds))


class ProcessConsumer(MemberView):
    """A member of a group, as its process sees it. Partitions may stall one by one."""

    def __init__(self, process: Process, member: Member) -> None:
        super().__init__(member)
        self._process = process
        self._member = member
        self._stalled: dict[Source, float] = {}
        self._kept_back: list[Inbound] = []

    @override
    async def fetch(self, *, records_max: int, timeout_s: float) -> list[Inbound]:
        faults = self._process.surroundings.faults
        if faults.hits("small fetch", faults.rates.small_fetch):
            records_max = faults.rng.randint(1, 3)

        async def take() -> None:
            # What was fetched is kept even if the call fails: the client has it in its buffer.
            taken = await self._member.fetch(records_max=records_max, timeout_s=timeout_s)
            lost, self._member.lost = self._member.lost, frozenset()
            self._kept_back = [each for each in self._kept_back if _source(each) not in lost]
            self._kept_back += taken

        await self._process.call("consumer.fetch", take, error=BusUnavailable)
        return self._let_through()

    @override
    async def seek(self, offsets: Mapping[Source, int]) -> None:
        self._kept_back = [each for each in self._kept_back if _source(each) not in offsets]
        await self._process.call(
            "consumer.seek", lambda: self._member.seek(offsets), error=BusUnavailable
        )

    @override
    async def commit(self, offsets: Mapping[Source, int]) -> None:
        if self._member.is_cut_off:
            raise BusUnavailable("this member was taken for dead")
        await self._process.call(
            "consumer.commit", lambda: self._member.commit(offsets), error=BusUnavailable
        )

    @override
    async def close(self) -> None:
        await self._process.call("consumer.close", self._member.close)

    def _let_through(self) -> list[Inbound]:
        """Partitions are fetched one by one: some stall for a while, and come in any order."""
        surroundings = self._process.surroundings
        faults, now_s = surroundings.faults, surroundings.loop.time()
        by_source: dict[Source, list[Inbound]] = {}
        for record in self._kept_back:
            by_source.setdefault(_source(record), []).append(record)
        self._kept_back = []
        through: list[list[Inbound]] = []
        for source, records in by_source.items():
            if source not in self._stalled and faults.hits(
                "stalled partition", faults.rates.stalled_partition
            ):
                self._stalled[source] = now_s + faults.rng.uniform(0, STALL_S_MAX)
            if faults.is_on and self._stalled.get(source, now_s) > now_s:
                self._kept_back += records
            else:
                self._stalled.pop(source, None)
                through.append(records)
        if faults.is_on:
            faults.rng.shuffle(through)
        return [record for records in through for record in records]


class ProcessBus(Bus):
    """The bus as one process sees it. *losing* leaves out the records that get lost."""

    def __init__(
        self, process: Process, bus: SimulatedBus, *, losing: Filter | None = None
    ) -> None:
        self._process = process
        self._bus = bus
        self._losing = losing
        self.members: list[Member] = []

    @override
    async def create_topics(self, topics: Sequence[TopicSpec]) -> None:
        await self._process.call(
            "bus.create_topics", lambda: self._bus.create_topics(topics), error=BusUnavailable
        )

    @override
    async def publish(self, records: Sequence[Record]) -> None:
        faults = self._process.surroundings.faults
        left = records if self._losing is None else self._losing(records)
        if len(left) > 1 and faults.hits("torn publish", faults.rates.torn_publish):
            part = left[: faults.rng.randint(1, len(left) - 1)]
            await self._process.call(
                "bus.publish", lambda: self._bus.publish(part), error=BusUnavailable
            )
            raise BusUnavailable("bus.publish: made up, some were published")
        await self._process.call(
            "bus.publish", lambda: self._bus.publish(left), error=BusUnavailable
        )

    @override
    async def subscribe(
        self, group: str, topics: Sequence[str], *, resume_at: ResumeAt | None = None
    ) -> ProcessConsumer:
        joined: list[Member] = []

        async def join() -> Member:
            joined.append(await self._bus.subscribe(group, topics, resume_at=resume_at))
            self.members.append(joined[0])
            return joined[0]

        try:
            member = await self._process.call("bus.subscribe", join, error=BusUnavailable)
        except BusUnavailable:
            for ghost in joined:  # it has joined and does not know: the group gives up on it
                self._process.surroundings.loop.call_later(GHOST_S, self._bus.give_up, ghost)
            raise
        return ProcessConsumer(self._process, member)

    @override
    async def bounds(self, sources: Sequence[Source]) -> Mapping[Source, tuple[int, int]]:
        return await self._process.call(
            "bus.bounds", lambda: self._bus.bounds(sources), error=BusUnavailable
        )

    @override
    async def close(self) -> None:
        """The bus outlives its clients."""


class ProcessStore(EventStore):
    """The event store as one process sees it."""

    def __init__(self, process: Process, store: MemoryEventStore) -> None:
        self._process = process
        self._store = store

    @override
    async def append(self, batch: Batch, *, at: Instant) -> Appended:
        return await self._process.call(
            "store.append", lambda: self._store.append(batch, at=at), error=StoreUnavailable
        )

    @override
    async def load(self, saga_ids: Sequence[SagaId]) -> Mapping[SagaId, History | CorruptHistory]:
        return await self._process.call(
            "store.load", lambda: self._store.load(saga_ids), error=StoreUnavailable
        )

    @override
    async def positions(self, sources: Sequence[Source]) -> Mapping[Source, int]:
        return await self._process.call(
            "store.positions", lambda: self._store.positions(sources), error=StoreUnavailable
        )

    @override
    async def due_timers(self, *, until: Instant, limit: int) -> Sequence[DueTimer]:
        return await self._process.call(
            "store.due_timers",
            lambda: self._store.due_timers(until=until, limit=limit),
            error=StoreUnavailable,
        )

    @override
    async def backlog(self, *, limit: int, after: int = 0) -> Sequence[Backlog]:
        return await self._process.call(
            "store.backlog",
            lambda: self._store.backlog(limit=limit, after=after),
            error=StoreUnavailable,
        )


class ProcessCatalogue(Catalogue):
    """The catalogue as one process sees it."""

    def __init__(self, process: Process, catalogue: MemoryCatalogue) -> None:
        self._process = process
        self._catalogue = catalogue

    @override
    async def sagas(
        self,
        *,
        status: SagaStatus | None = None,
        definition: str | None = None,
        after: SagaId | None = None,
        limit: int = 100,
    ) -> Sequence[SagaSummary]:
        ask = partial(
            self._catalogue.sagas, status=status, definition=definition, after=after, limit=limit
        )
        return await self._ask("catalogue.sagas", ask)

    @override
    async def summaries(self, saga_ids: Sequence[SagaId]) -> Sequence[SagaSummary]:
        return await self._ask("catalogue.summaries", lambda: self._catalogue.summaries(saga_ids))

    @override
    async def unhandled(
        self,
        *,
        kind: UnhandledKind | None = None,
        saga_id: SagaId | None = None,
        after: int = 0,
        limit: int = 100,
    ) -> Sequence[UnhandledRecord]:
        ask = partial(
            self._catalogue.unhandled, kind=kind, saga_id=saga_id, after=after, limit=limit
        )
        return await self._ask("catalogue.unhandled", ask)

    @override
    async def timers(self, *, limit: int = 100) -> Sequence[DueTimer]:
        return await self._ask("catalogue.timers", lambda: self._catalogue.timers(limit=limit))

    @override
    def log(self, *, after: int = 0) -> AsyncIterator[tuple[int, Entry]]:
        return self._catalogue.log(after=after)

    async def _ask(self, point: str, ask: Callable[[], Awaitable[T]]) -> T:
        return await self._process.call(point, ask, error=StoreUnavailable)


def _source(record: Inbound) -> Source:
    return Source(record.topic, record.partition)
