"""The bus: topics of keyed partitions, offsets and consumer groups, as Apache Kafka has them.

It promises no more than Kafka can give: order within a partition, delivery at least once, and
groups whose members may for a moment both own a partition. Correctness rests on the event store.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from itertools import chain
from typing import Final, NamedTuple, Protocol, runtime_checkable

from typing_extensions import override

from saga.core.identity import Instant
from saga.core.values import value

HEADERS_USUAL_BYTES: Final = 2_048
OWN_HEADERS_BYTES_MAX: Final = 16_384
"""Of headers that saga writes itself: a dozen ids and names, none longer than an id may be."""


class Source(NamedTuple):
    topic: str
    partition: int


class Position(NamedTuple):
    topic: str
    partition: int
    offset: int


class Origin(NamedTuple):
    """Which topic of which cluster: what is made anew has another id; None is not known."""

    topic_id: str | None = None
    cluster_id: str | None = None

    def filled(self, found: Origin) -> Origin:
        """With what *found* knows and this one does not."""
        return Origin(self.topic_id or found.topic_id, self.cluster_id or found.cluster_id)


UNKNOWN_ORIGIN: Final = Origin()


class Progress(NamedTuple):
    """The next offset to fetch of a source, and its end, None where that is not known."""

    following: int
    end: int | None

    @property
    def lag(self) -> int:
        """How many records are there that were not fetched, as far as is known."""
        return 0 if self.end is None else max(0, self.end - self.following)


Headers = Sequence[tuple[str, bytes | None]]
"""A tuple, as they were received, or what saga itself writes and has not made bytes of yet."""


@value
class Record:
    """A record to publish; without *partition* the key chooses (murmur2, as Kafka's clients do)."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None

    @property
    def size(self) -> int:
        """Bytes of key, value and headers together."""
        return sum(map(len, filter(None, chain((self.key, self.value), *self.headers))))

    def fits(self, bytes_max: int) -> bool:
        """Whether key, value and headers together have at most *bytes_max* bytes."""
        size = len(self.value or b"") + len(self.key or b"")
        if type(self.headers) is not tuple and size <= bytes_max - OWN_HEADERS_BYTES_MAX:
            return True  # no bytes need to be made of them
        return self.size <= bytes_max


@value
class Inbound:
    """A record as it was received, byte for byte."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp: Instant
    """When it was published, as its publisher said it, within what can be stored and shown."""

    @property
    def position(self) -> Position:
        return Position(self.topic, self.partition, self.offset)


SET_ASIDE: Final = "x-saga-set-aside"
"""The first header of a record that stands for what its bus could not give; says why."""


def why_set_aside(inbound: Inbound) -> str | None:
    """Why *inbound* only stands for records that no reader can be given; None where it is one."""
    headers = inbound.headers
    if type(headers) is not tuple or not headers or headers[0][0] != SET_ASIDE:
        return None
    return (headers[0][1] or b"").decode("utf-8", "backslashreplace")


@value
class TopicSpec:
    """How a topic is to be: *retention_s* None keeps records for ever."""

    name: str
    partitions: int
    retention_s: int | None = None


STOPPED_S: Final = 5.0
"""How often a source that is not read is judged again: an operator may have seen to it."""


class RecordLimits:
    """How large a record may be: as topics have said, and *otherwise* where none has.

    Attributes:
        surely_fits: key and value of so many bytes fit, with headers as they usually are.
    """

    def __init__(self, otherwise: int) -> None:
        self._otherwise = otherwise
        self._of: dict[str, int] = {}
        self.surely_fits = otherwise - HEADERS_USUAL_BYTES

    def learn(self, limits: Mapping[str, int]) -> bool:
        """Take over what `Bus.limits` has answered; whether something of it is new."""
        is_new = any(self._of.get(topic) != limit for topic, limit in limits.items())
        if is_new:
            self._of |= limits
            self.surely_fits = min(self._otherwise, *self._of.values()) - HEADERS_USUAL_BYTES
        return is_new

    def why_too_large(self, record: Record) -> str | None:
        """Why the topic of *record* does not take it; None where it does, as far as is known."""
        limit = self._of.get(record.topic)
        if limit is None or record.fits(limit):
            return None
        sizes = f"a record of {record.size} bytes, of which its topic {record.topic} takes {limit}"
        return f"{sizes}: say less, or raise its max.message.bytes"


ResumeAt = Callable[[Sequence[Source]], Awaitable[Mapping[Source, int | str]]]
"""Asked on assignment: of each source the next offset to read, or why it is not to be read.

One left out starts at its begin. Sources that are not read are asked for again, now and then.
"""


def why_foreign(source: Source, stored: Origin, found: Origin) -> str | None:
    """Why a position in *stored* says nothing about *found*; None if it does."""
    place = f"{source.topic}[{source.partition}]"
    if _differs(stored.cluster_id, found.cluster_id):
        return (
            f"{place} is on the bus {found.cluster_id}, but its position belongs to the bus "
            f"{stored.cluster_id}: this is another cluster, or a file made anew"
        )
    if _differs(stored.topic_id, found.topic_id):
        return (
            f"{place} has the topic id {found.topic_id}, but its position belongs to the topic "
            f"{stored.topic_id}: the topic was made anew"
        )
    return None


def _differs(stored: str | None, found: str | None) -> bool:
    return stored is not None and found is not None and stored != found


def why_lost(source: Source, following: int, begin: int, end: int) -> str | None:
    """Why *following* cannot be the next offset of a source with these bounds; None if it can."""
    place = f"{source.topic}[{source.partition}]"
    if following > end:
        return (
            f"{place} ends at {end}, but {following - 1} was handled: "
            f"the topic was made anew, or this store belongs to another bus"
        )
    if following < begin:
        return (
            f"{place} begins at {begin}, but {following} is next: "
            f"retention removed records before they were handled"
        )
    return None


def why_misplaced(
    source: Source, stored: int, belongs: Origin, bounds: tuple[int, int], found: Origin
) -> str | None:
    """Why nobody reads on behind the offset *stored* of the topic *belongs*; None if one does."""
    foreign = why_foreign(source, belongs, found) if stored >= 0 else None
    return foreign or why_lost(source, stored + 1, *bounds)


class Consumer(Protocol):
    """One member of a group; of topics with equal partition counts it has the same partitions."""

    async def fetch(self, *, records_max: int, timeout_s: float) -> list[Inbound]:
        """Up to *records_max* records, in order per partition; rebalances happen in here.

        Raises:
            BusUnavailable: try again later; nothing was lost.
        """

    async def seek(self, offsets: Mapping[Source, int]) -> None:
        """Read on from these offsets; records of the sources that were buffered are dropped."""

    async def commit(self, offsets: Mapping[Source, int]) -> None:
        """Remember for the group the *next* offset to read of each source; forward or back."""

    def assignment(self) -> frozenset[Source]:
        """The sources this member reads now."""

    @property
    def progress(self) -> Mapping[Source, Progress]:
        """Of each source that this member reads, how far: from memory, without asking anybody."""

    @property
    def stopped(self) -> Mapping[Source, str]:
        """Assigned sources that are not read, as their next record is not there; with reasons."""

    @property
    def waits_for(self) -> str | None:
        """What this member lacks to read all of its topics, in words; None when nothing."""

    async def close(self) -> None:
        """Leave the group at once, so that the others need not wait for a timeout."""


class MemberView(Consumer):
    """The half of a consumer that only looks, as *member* has it; a subclass gives the other."""

    def __init__(self, member: Consumer) -> None:
        self.member = member

    @override
    def assignment(self) -> frozenset[Source]:
        return self.member.assignment()

    @property
    @override
    def progress(self) -> Mapping[Source, Progress]:
        return self.member.progress

    @property
    @override
    def stopped(self) -> Mapping[Source, str]:
        return self.member.stopped

    @property
    @override
    def waits_for(self) -> str | None:
        return self.member.waits_for


OnRevoke = Callable[[float], Awaitable[bool]]
"""Asked to handle all that was fetched, within so many seconds; whether it was, or abandoned."""


@runtime_checkable
class HearsOfRevocation(Protocol):
    """What a consumer has besides that hears of a rebalance while its sources are still its own."""

    def on_revoke(self, drain: OnRevoke) -> None:
        """Have *drain* awaited before others read on; after False, `resume_at` says where we do."""


class Bus(Protocol):
    async def create_topics(self, topics: Sequence[TopicSpec]) -> None:
        """Make the topics that are not there; those that are stay as they are.

        Raises:
            BusUnavailable: try again later.
        """

    async def publish(self, records: Sequence[Record]) -> None:
        """Publish all, in order per partition, durably; an error may leave some of them published.

        Raises:
            BusUnavailable: try again later; repeat all.
            MessageTooLarge: a record exceeds the limit; none was published.
            TopicMissing: none was published, unless the topic was there a moment ago.
        """

    async def origins(self, topics: Collection[str]) -> Mapping[str, Origin]:
        """Which topic of which cluster each is now; those that are not there are left out.

        Raises:
            BusUnavailable: try again later.
        """

    async def limits(self, topics: Collection[str]) -> Mapping[str, int]:  # noqa: ARG002  # default
        """How many bytes key, value and headers of one record may have; asked anew each time.

        A topic whose limit cannot be known now is left out: what it refuses, `publish` tells.

        Raises:
            BusUnavailable: try again later.
        """
        return {}

    async def subscribe(
        self, group: str, topics: Sequence[str], *, resume_at: ResumeAt | None = None
    ) -> Consumer:
        """Join *group* at *resume_at*, else at its commits, or at the begin if those are gone."""

    async def bounds(self, sources: Sequence[Source]) -> Mapping[Source, tuple[int, int]]:
        """Of each source the first offset kept and the next one to be written.

        Raises:
            TopicMissing: a source is not there.
            BusUnavailable: try again later.
        """

    async def close(self) -> None:
        """Publish the records that were accepted, and release all resources."""
