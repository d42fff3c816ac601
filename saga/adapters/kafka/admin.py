"""Questions beside producers and consumers: topics, bounds, settings, groups.

aiokafka's own clients create the topics they ask about wherever a broker allows it; nothing here
does, so clients are given only topics that were found here.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from dataclasses import field, replace
from functools import partial
from typing import Any, Final, TypeVar

from aiokafka import errors as kafka
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.admin import CreateTopicsRequest, DescribeConfigsRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.offset import OffsetRequest

from saga.adapters.clocks import SystemClock
from saga.adapters.kafka._aiokafka import READ_UNCOMMITTED, OriginsRequest, origins_in
from saga.adapters.kafka.connection import (
    REQUEST_TIMEOUT_MS,
    KafkaConnection,
    described,
    within,
)
from saga.adapters.kafka.diagnosis import connecting
from saga.core.retry import Retry
from saga.core.values import value
from saga.errors import BusUnavailable, TopicMissing
from saga.ports.bus import Origin, Source, TopicSpec
from saga.retrying import Backoff

T = TypeVar("T")

ANSWER_S: Final = 10.0
PARTITION_S: Final = 0.1
"""So much longer may it take to make topics, for each partition of them."""
CONNECT_S: Final = 6.0
"""Leaves time to find out why there is no connection."""
METADATA_MAX_AGE_MS: Final = 300_000
FRAMING_BYTES: Final = 65_536
"""The most that a batch takes beyond the keys, values and headers in it."""
AS_THE_BROKERS: Final = -1
KEPT_FOR_EVER_MS: Final = -1
SETTLING: Final = Retry(attempts=None, initial="50ms", cap="500ms", jitter=0.5)
"""For a cluster that elects a leader, or is making a topic."""
_EARLIEST: Final = -2
_LATEST: Final = -1
_TOPIC_RESOURCE: Final = 2


@value
class TopicState:
    """*replicas* are the fewest of any partition; *configs* include the brokers' defaults.

    A leader is None while its partition has none; without `describe` there are no *configs*.
    """

    name: str
    leaders: Mapping[int, int | None]
    replicas: int
    configs: Mapping[str, str] = field(default_factory=dict)

    @property
    def partitions(self) -> int:
        return len(self.leaders)

    @property
    def leaderless(self) -> list[int]:
        return sorted(number for number, leader in self.leaders.items() if leader is None)

    @property
    def retention_s(self) -> float | None:
        """None is for ever."""
        kept_ms = int(self.configs.get("retention.ms") or KEPT_FOR_EVER_MS)
        return None if kept_ms < 0 else kept_ms / 1000


@value
class TopicFlaw:
    """A warning keeps nothing from working today."""

    topic: str
    problem: str
    is_warning: bool = False


@value(kw_only=True)
class GroupState:
    """*committed* are the next offsets to read."""

    name: str
    members: int
    committed: Mapping[Source, int]


class Cluster:
    """All methods raise `BusUnavailable` where no broker answers in time, or none may answer us."""

    def __init__(self, connection: KafkaConnection) -> None:
        self._connection = connection
        self._client: Any = None
        self._starting = asyncio.Lock()
        self._is_closed = False

    async def layouts(self, topics: Collection[str]) -> dict[str, TopicState]:
        """Those *topics* that exist, without their settings."""
        if not topics:
            return {}
        async with self._asking("describe topics") as client:
            answer = await self._ask_any(
                client, MetadataRequest(sorted(topics), allow_auto_topic_creation=False)
            )
            known = {broker.nodeId for broker in client.cluster.brokers()}
            if not known.issuperset(row[0] for row in answer.brokers):
                await client.force_metadata_update()
        layouts: dict[str, TopicState] = {}
        for code, name, _, partitions in answer.topics:
            error = kafka.for_code(code)
            if error is kafka.TopicAuthorizationFailedError:
                failure = BusUnavailable(f"kafka: this user may not describe the topic {name}")
                failure.passes = False
                raise failure
            if error is kafka.UnknownTopicOrPartitionError or not partitions:
                continue
            leaders = {row[1]: row[2] if row[2] >= 0 else None for row in partitions}
            layouts[name] = TopicState(name, leaders, min(len(row[3]) for row in partitions))
        return layouts

    async def origins(self, topics: Collection[str]) -> dict[str, Origin]:
        """Those *topics* that exist, each with its id, where the brokers tell it, and theirs."""
        if not topics:
            return {}
        async with self._asking("ask for topic ids") as client:
            return origins_in(await self._ask_any(client, OriginsRequest(sorted(topics))))

    async def bounds(
        self, sources: Collection[Source], *, isolation: int = READ_UNCOMMITTED
    ) -> dict[Source, tuple[int, int]]:
        """The first offset kept and the next one to be written; raises `TopicMissing`.

        With *isolation* READ_COMMITTED the end is where the first open transaction begins.
        """
        if not sources:
            return {}

        async with within(ANSWER_S, "bounds"):
            return await _once_settled(partial(self._bounds, sources, isolation), "bounds")

    async def create(
        self, specs: Collection[TopicSpec], *, replicas: int | None, record_bytes_max: int
    ) -> None:
        """Topics that exist stay as they are; all can be written to when this returns."""
        if not specs:
            return
        rows = [_new_topic(spec, replicas, record_bytes_max=record_bytes_max) for spec in specs]
        most_s = ANSWER_S + PARTITION_S * sum(spec.partitions for spec in specs)
        async with self._asking("create topics", most_s) as client:
            answer = await self._ask_controller(
                client, CreateTopicsRequest(rows, REQUEST_TIMEOUT_MS, validate_only=False)
            )
        for name, code, *message in answer.topic_errors:
            error = kafka.for_code(code)
            if error not in (kafka.NoError, kafka.TopicAlreadyExistsError):
                reason = message[0] if message and message[0] else error.__name__
                failure = BusUnavailable(f"kafka: the topic {name} cannot be created: {reason}")
                # Brokers that are still to come may be what is missing.
                failure.passes = error.retriable or error is kafka.InvalidReplicationFactorError
                raise failure
        await self._until_led({spec.name for spec in specs}, most_s)

    async def describe(self, topics: Collection[str]) -> dict[str, TopicState]:
        """Those *topics* that exist, with their settings."""
        layouts = await self.layouts(topics)
        configs = await self.configs(layouts)
        return {
            name: replace(layout, configs=configs.get(name, {})) for name, layout in layouts.items()
        }

    async def configs(
        self, topics: Collection[str], *, may_lack: bool = False
    ) -> dict[str, dict[str, str]]:
        """Topics that are not there are left out, and with *may_lack* those that are refused."""
        if not topics:
            return {}
        resources = [(_TOPIC_RESOURCE, name, None) for name in sorted(topics)]
        async with self._asking("describe settings") as client:
            answer = await self._ask_any(client, DescribeConfigsRequest(resources))
        configs: dict[str, dict[str, str]] = {}
        for code, message, _, name, entries in answer.resources:
            error = kafka.for_code(code)
            if error is kafka.UnknownTopicOrPartitionError:
                continue
            if error is kafka.TopicAuthorizationFailedError and may_lack:
                continue
            if error is not kafka.NoError:
                raise BusUnavailable(f"kafka: settings of {name}: {message or error.__name__}")
            configs[name] = {entry[0]: entry[1] or "" for entry in entries}
        return configs

    async def record_limits(self, topics: Collection[str]) -> dict[str, int]:
        """`max.message.bytes` of those that are there, and that we may ask about."""
        configs = await self.configs(topics, may_lack=True)
        named = ((name, configs[name].get("max.message.bytes")) for name in configs)
        return {name: int(limit) for name, limit in named if limit}

    async def close(self) -> None:
        self._is_closed = True
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()

    @asynccontextmanager
    async def _asking(self, what: str, seconds: float = ANSWER_S) -> AsyncIterator[AIOKafkaClient]:
        async with within(seconds, what):
            yield await self._connected()

    async def _connected(self) -> AIOKafkaClient:
        async with self._starting:
            if self._is_closed:
                raise BusUnavailable("the bus is closed")
            if self._client is None:
                client = AIOKafkaClient(
                    metadata_max_age_ms=METADATA_MAX_AGE_MS, **self._connection.options()
                )
                try:
                    async with connecting(self._connection, CONNECT_S, "connect"):
                        await _bootstrap(client)
                except BaseException:
                    await client.close()
                    raise
                self._client = client
            return self._client

    async def _ask_any(self, client: AIOKafkaClient, request: Any) -> Any:
        last: kafka.KafkaError = kafka.NodeNotReadyError("no broker is known")
        for node_id in sorted(broker.nodeId for broker in client.cluster.brokers()):
            try:
                return await client.send(node_id, request)
            except kafka.KafkaError as error:
                if not error.retriable:
                    raise
                last = error
        if self._client is client:
            # Begin again from the first addresses: all brokers known may have moved.
            self._client = None
            await client.close()
        raise BusUnavailable(f"kafka: no broker answers: {described(last)}")

    async def _ask_controller(self, client: AIOKafkaClient, request: Any) -> Any:
        if client.cluster.controller is None:
            await client.force_metadata_update()
        controller = client.cluster.controller
        if controller is None:
            raise BusUnavailable("kafka: the cluster has no controller now")
        return await client.send(controller.nodeId, request)

    async def _until_led(self, topics: Collection[str], most_s: float) -> None:
        """Wait as long as more partitions get a leader, and at most so long."""
        time, led = asyncio.get_running_loop().time, set[Source]()
        until_s = time() + most_s

        async def ask() -> list[Source]:
            leaders = await self._leaders(topics)
            now_led = {source for source, leader in leaders.items() if leader is not None}
            if not now_led <= led:
                led.update(now_led)
                waiting.reschedule(min(until_s, time() + ANSWER_S))
            if len(now_led) < len(leaders) or len({at.topic for at in leaders}) < len(topics):
                raise kafka.LeaderNotAvailableError(", ".join(sorted(topics)))
            return list(leaders)

        async with within(ANSWER_S, "create topics") as waiting:
            sources = await _once_settled(ask, "create topics")
            waiting.reschedule(until_s)
            # A broker learns that it leads after the metadata says so.
            await _once_settled(partial(self._bounds, sources, READ_UNCOMMITTED), "create topics")

    async def _bounds(
        self, sources: Collection[Source], isolation: int
    ) -> dict[Source, tuple[int, int]]:
        leaders = await self._leaders({source.topic for source in sources})
        by_leader: dict[int, list[Source]] = defaultdict(list)
        for source in sources:
            if source not in leaders:
                raise TopicMissing(source.topic, source.partition)
            leader = leaders[source]
            if leader is None:
                raise kafka.LeaderNotAvailableError(f"{source.topic}[{source.partition}]")
            by_leader[leader].append(source)
        begins, ends = await asyncio.gather(
            self._offsets(by_leader, _EARLIEST, isolation),
            self._offsets(by_leader, _LATEST, isolation),
        )
        return {source: (begins[source], ends[source]) for source in sources}

    async def _leaders(self, topics: Collection[str]) -> dict[Source, int | None]:
        layouts = await self.layouts(topics)
        return {
            Source(layout.name, number): leader
            for layout in layouts.values()
            for number, leader in layout.leaders.items()
        }

    async def _offsets(
        self, by_leader: Mapping[int, Sequence[Source]], at: int, isolation: int
    ) -> dict[Source, int]:
        client = await self._connected()
        requests = {}
        for node_id, sources in by_leader.items():
            by_topic: dict[str, list[tuple[int, int]]] = defaultdict(list)
            for topic, partition in sources:
                by_topic[topic].append((partition, at))
            requests[node_id] = OffsetRequest(-1, isolation, list(by_topic.items()))
        answers = await asyncio.gather(*(client.send(*request) for request in requests.items()))
        offsets: dict[Source, int] = {}
        for topic, rows in (topic for answer in answers for topic in answer.topics):
            for partition, code, _, offset in rows:
                error = kafka.for_code(code)
                if error is not kafka.NoError:
                    raise error(f"{topic}[{partition}]")
                offsets[Source(topic, partition)] = offset
        return offsets


async def describe_groups(
    connection: KafkaConnection, groups: Collection[str]
) -> dict[str, GroupState]:
    """A group that never was has no members and no offsets; raises `BusUnavailable`."""
    async with within(ANSWER_S, "describe groups"):
        admin = AIOKafkaAdminClient(**connection.options())
        try:
            await admin.start()
            # The cluster may be making its topic of offsets, which it does for the first group.
            return {
                name: await _once_settled(partial(_group, admin, name), "describe groups")
                for name in groups
            }
        finally:
            await admin.close()


def flaws_of(
    wanted: Iterable[TopicSpec], found: Mapping[str, TopicState], *, record_bytes_max: int
) -> list[TopicFlaw]:
    """The number of partitions may differ from the settings', but should be the same for all.

    Only with equal numbers does one worker read all records of a saga; it matters to speed alone.
    """
    specs = list(wanted)
    states = [found[spec.name] for spec in specs if spec.name in found]
    usual = Counter(state.partitions for state in states).most_common(1)
    flaws: list[TopicFlaw] = []
    for spec in specs:
        state = found.get(spec.name)
        if state is None:
            flaws.append(TopicFlaw(spec.name, "does not exist; `saga topics create` makes it"))
        else:
            flaws += _flaws(spec, state, partitions=usual[0][0], record_bytes_max=record_bytes_max)
    return flaws


async def _bootstrap(client: AIOKafkaClient) -> None:
    await client.bootstrap()
    if not client.cluster.brokers():
        # A broker that refuses a token after having taken it answers so.
        raise kafka.KafkaConnectionError("no broker is known")


async def _once_settled(ask: Callable[[], Awaitable[T]], what: str) -> T:
    """Ask again, without a limit, while Kafka says that its trouble passes."""
    backoff = Backoff("kafka", SystemClock(), SETTLING, log_level=logging.DEBUG)
    while True:
        try:
            return await ask()
        except kafka.KafkaError as error:
            if not error.retriable:
                raise
            await backoff.pause(what, error)


def _new_topic(
    spec: TopicSpec, replicas: int | None, *, record_bytes_max: int
) -> tuple[str, int, int, list[Any], list[tuple[str, str]]]:
    kept_ms = KEPT_FOR_EVER_MS if spec.retention_s is None else spec.retention_s * 1000
    configs = {
        "cleanup.policy": "delete",
        "retention.ms": str(kept_ms),
        "max.message.bytes": str(record_bytes_max + FRAMING_BYTES),
    }
    if replicas is not None:  # one broker may be away
        configs["min.insync.replicas"] = str(max(1, replicas - 1))
    copies = AS_THE_BROKERS if replicas is None else replicas
    return spec.name, spec.partitions, copies, [], list(configs.items())


async def _group(admin: AIOKafkaAdminClient, name: str) -> GroupState:
    [answer] = await admin.describe_consumer_groups([name])
    members = 0
    for code, _, _, _, _, found, *_ in answer.groups:
        error = kafka.for_code(code)
        if error not in (kafka.NoError, kafka.GroupIdNotFound):
            raise error(name)
        members += len(found)
    committed = await admin.list_consumer_group_offsets(name)
    return GroupState(
        name=name,
        members=members,
        committed={
            Source(place.topic, place.partition): offset.offset
            for place, offset in committed.items()
            if offset.offset >= 0
        },
    )


def _flaws(
    spec: TopicSpec, state: TopicState, *, partitions: int, record_bytes_max: int
) -> Iterator[TopicFlaw]:
    def flaw(problem: str, *, is_warning: bool = False) -> TopicFlaw:
        return TopicFlaw(state.name, problem, is_warning)

    in_sync_min = int(state.configs.get("min.insync.replicas") or 1)
    message_bytes_max = int(state.configs.get("max.message.bytes") or 0)
    cleanup_policy = state.configs.get("cleanup.policy", "")
    if state.partitions != partitions:
        yield flaw(f"has {state.partitions} partitions, most others have {partitions}")
    if state.leaderless:
        numbers = ", ".join(map(str, state.leaderless))
        yield flaw(f"partitions without a leader now: {numbers}")
    if in_sync_min > state.replicas:
        yield flaw(
            f"min.insync.replicas is {in_sync_min}, replicas are {state.replicas}: nothing can be "
            f"published"
        )
    if message_bytes_max < record_bytes_max:
        yield flaw(f"max.message.bytes is {message_bytes_max}, less than {record_bytes_max}")
    if "compact" in cleanup_policy:
        yield flaw(
            f"cleanup.policy is {cleanup_policy}: compaction removes all but the last record of a "
            f"key, and all records of a saga have the same key",
            is_warning=True,
        )
    wanted_s, kept_s = spec.retention_s, state.retention_s
    if wanted_s is not None and kept_s is not None and kept_s < wanted_s:
        yield flaw(
            f"keeps records for {kept_s:g} s, less than the {wanted_s} s that the settings say",
            is_warning=True,
        )
