"""The ports as one process sees them: every call may fail, crash the process, or be slow."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from inspect import iscoroutinefunction
from typing import Any, cast

from typing_extensions import override

from saga.adapters.memory import MemoryCatalogue, MemoryEventStore
from saga.core.durations import SECOND_US
from saga.core.identity import Instant
from saga.errors import BusUnavailable, SagaError, StoreUnavailable
from saga.ports import Bus, Catalogue, EventStore, Inbound, Record, SnapshotStore, Source
from saga.ports.bus import MemberView, ResumeAt
from saga.testing.world.broker import Member, SimulatedBus, WorldClock
from saga.testing.world.process import Process

LATE_REPLY_S_MAX = 3.0
STALL_S_MAX = 0.8
GHOST_S = 0.3
CLOCKS_AHEAD_S = (-3_600, -60, 0, 60, 3_600)

Filter = Callable[[Sequence[Record]], Sequence[Record]]


class Forwarded:
    """A port whose coroutine functions are called through `call`; all else is *inner*'s own."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    async def call(self, name: str, act: Callable[[], Awaitable[Any]]) -> Any:
        """Do *act*, a call of the method *name*."""
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.inner, name)
        if not iscoroutinefunction(attribute):
            return attribute

        async def forward(*args: Any, **kwargs: Any) -> Any:
            return await self.call(name, partial(attribute, *args, **kwargs))

        setattr(self, name, forward)
        return forward


class ProcessPort(Forwarded):
    """A port as its process sees it: *kind* names it where something goes wrong."""

    def __init__(
        self, process: Process, inner: object, kind: str, error: type[SagaError] | None
    ) -> None:
        super().__init__(inner)
        self._process = process
        self._kind = kind
        self._error = error

    @override
    async def call(self, name: str, act: Callable[[], Awaitable[Any]]) -> Any:
        return await self._process.call(f"{self._kind}.{name}", act, error=self._error)


def store_of(process: Process, store: MemoryEventStore) -> EventStore:
    return cast("EventStore", ProcessPort(process, store, "store", StoreUnavailable))


def snapshots_of(process: Process, store: MemoryEventStore) -> SnapshotStore:
    return cast("SnapshotStore", ProcessPort(process, store, "store", StoreUnavailable))


def catalogue_of(process: Process, catalogue: MemoryCatalogue) -> Catalogue:
    return cast("Catalogue", ProcessPort(process, catalogue, "catalogue", StoreUnavailable))


class ProcessClock(WorldClock):
    """A clock that stands still for who is dead or frozen, is wrong, and is set now and then."""

    def __init__(self, process: Process) -> None:
        super().__init__(process.surroundings)
        self._process = process
        self._faults = process.surroundings.faults
        self._ahead_s = 0
        if self._faults.hits("skewed clock", self._faults.rates.skewed_clock):
            self._set()

    @override
    def now(self) -> Instant:
        return Instant(super().now() + self._ahead_s * SECOND_US)

    @override
    async def sleep(self, seconds: float) -> None:
        if self._faults.hits("clock set", self._faults.rates.clock_set):
            self._set()
        wakes_at_s = self.monotonic_s() + seconds  # time may leap while the call is slow

        async def sleep() -> None:
            await super(ProcessClock, self).sleep(wakes_at_s - self.monotonic_s())

        await self._process.call("clock.sleep", sleep)

    def _set(self) -> None:
        self._ahead_s = self._faults.rng.choice(CLOCKS_AHEAD_S)


class ProcessConsumer(MemberView):
    """Partitions may stall one by one."""

    member: Member

    def __init__(self, process: Process, member: Member) -> None:
        super().__init__(member)
        self._process = process
        self._port = ProcessPort(process, member, "consumer", BusUnavailable)
        self._stalled: dict[Source, float] = {}
        self._kept_back: list[Inbound] = []

    @override
    async def fetch(self, *, records_max: int, timeout_s: float) -> list[Inbound]:
        faults = self._process.surroundings.faults
        if faults.hits("small fetch", faults.rates.small_fetch):
            records_max = faults.rng.randint(1, 3)

        async def take() -> None:
            # What was fetched is kept even if the call fails: the client has it in its buffer.
            taken = await self.member.fetch(records_max=records_max, timeout_s=timeout_s)
            lost, self.member.lost = self.member.lost, frozenset()
            self._kept_back = [each for each in self._kept_back if _source(each) not in lost]
            self._kept_back += taken

        await self._port.call("fetch", take)
        return self._let_through()

    @override
    async def seek(self, offsets: Mapping[Source, int]) -> None:
        self._kept_back = [each for each in self._kept_back if _source(each) not in offsets]
        await self._port.seek(offsets)

    @override
    async def commit(self, offsets: Mapping[Source, int]) -> None:
        if self.member.is_cut_off:
            raise BusUnavailable("this member was taken for dead")
        await self._port.commit(offsets)

    @override
    async def close(self) -> None:
        await self._process.call("consumer.close", self.member.close)

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


class ProcessBus(ProcessPort):
    """*losing* leaves out the records that get lost."""

    inner: SimulatedBus

    def __init__(
        self, process: Process, bus: SimulatedBus, *, losing: Filter | None = None
    ) -> None:
        super().__init__(process, bus, "bus", BusUnavailable)
        self._losing = losing
        self.members: list[Member] = []

    @property
    def as_bus(self) -> Bus:
        """The same, as the type checker wants it."""
        return cast("Bus", self)

    async def publish(self, records: Sequence[Record]) -> None:
        """Publish all that do not get lost, or only some, and fail."""
        faults = self._process.surroundings.faults
        left = records if self._losing is None else self._losing(records)
        is_torn = len(left) > 1 and faults.hits("torn publish", faults.rates.torn_publish)
        if is_torn:
            left = left[: faults.rng.randint(1, len(left) - 1)]
        await self.call("publish", partial(self.inner.publish, left))
        if is_torn:
            raise BusUnavailable("bus.publish: made up, some were published")

    async def limits(self, topics: Collection[str]) -> Mapping[str, int]:
        """What is asked only to be told beforehand fails nobody."""
        return await self.inner.limits(topics)

    async def subscribe(
        self, group: str, topics: Sequence[str], *, resume_at: ResumeAt | None = None
    ) -> ProcessConsumer:
        """Join; who has joined and does not know is a ghost, which the group gives up later."""
        joined: list[Member] = []

        async def join() -> None:
            joined.append(await self.inner.subscribe(group, topics, resume_at=resume_at))
            self.members.append(joined[0])

        try:
            await self.call("subscribe", join)
        except BusUnavailable:
            for ghost in joined:
                self._process.surroundings.loop.call_later(GHOST_S, self.inner.give_up, ghost)
            raise
        return ProcessConsumer(self._process, joined[0])

    async def close(self) -> None:
        """Do nothing: the bus outlives its clients."""


def _source(record: Inbound) -> Source:
    return Source(record.topic, record.partition)
