"""Questions to the cluster that no producer and no consumer asks: topics, bounds, settings.

One connection a broker, opened when the first question comes. No question ever creates a topic: the
metadata requests of aiokafka's own clients do, wherever a broker allows it, so nothing is handed to
them before it was found to exist here.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from aiokafka import errors as kafka
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.admin import CreateTopicsRequest, DescribeConfigsRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.offset import OffsetRequest

from saga.adapters.kafka.connection import REQUEST_TIMEOUT_MS, RETRY_BACKOFF_MS, KafkaConnection
from saga.adapters.kafka.diagnosis import connecting
from saga.adapters.kafka.failures import described, within
from saga.core.values import value
from saga.errors import BusUnavailable, TopicMissing
from saga.ports.bus import Source

ANSWER_S: Final = 10.0
CONNECT_S: Final = 6.0
"""Leaves time to find out why there is no connection."""
METADATA_MAX_AGE_MS: Final = 300_000
READ_UNCOMMITTED: Final = 0
READ_COMMITTED: Final = 1
_EARLIEST: Final = -2
_LATEST: Final = -1
_TOPIC_RESOURCE: Final = 2


@value
class Layout:
    """How a topic stands in the cluster: of each partition its leader (None: there is none now),
    and the smallest number of replicas of any of them.
    """

    name: str
    leaders: Mapping[int, int | None]
    replicas: int


class Cluster:
    """A Kafka cluster, to be asked. Connects by itself, and again when it must."""

    def __init__(self, connection: KafkaConnection) -> None:
        self._connection = connection
        self._client: Any = None
        self._starting = asyncio.Lock()
        self._is_closed = False

    async def layouts(self, topics: Collection[str]) -> dict[str, Layout]:
        """Of those *topics* that exist, how they stand.

        Raises:
            BusUnavailable: nobody answers.
        """
        if not topics:
            return {}
        async with self._asking("describe topics") as client:
            answer = await self._ask_any(
                client, MetadataRequest(sorted(topics), allow_auto_topic_creation=False)
            )
            known = {broker.nodeId for broker in client.cluster.brokers()}
            if not known.issuperset(row[0] for row in answer.brokers):
                await client.force_metadata_update()
        found: dict[str, Layout] = {}
        for code, name, _, partitions in answer.topics:
            error = kafka.for_code(code)
            if error is kafka.TopicAuthorizationFailedError:
                raise BusUnavailable(f"kafka: this user may not describe the topic {name}")
            if error is kafka.UnknownTopicOrPartitionError or not partitions:
                continue
            leaders = {row[1]: row[2] if row[2] >= 0 else None for row in partitions}
            found[name] = Layout(name, leaders, min(len(row[3]) for row in partitions))
        return found

    async def bounds(
        self, sources: Collection[Source], *, isolation: int = READ_UNCOMMITTED
    ) -> dict[Source, tuple[int, int]]:
        """Of each source the first offset kept and the next one to be written; with *isolation*
        READ_COMMITTED, the end of what is not held up by an open transaction.

        Raises:
            TopicMissing: a source does not exist.
            BusUnavailable: nobody answers.
        """
        if not sources:
            return {}
        async with within(ANSWER_S, "bounds"):
            while True:
                layouts = await self.layouts({source.topic for source in sources})
                try:
                    return await self._bounds(layouts, sources, isolation)
                except kafka.KafkaError as error:
                    if not error.retriable:
                        raise
                    await asyncio.sleep(RETRY_BACKOFF_MS / 1000)

    async def create(self, wanted: Sequence[tuple[str, int, int, Mapping[str, str]]]) -> None:
        """Make topics, given as name, partitions, replicas (-1: as the brokers are set) and
        settings; those that are there stay as they are. They can be written to when this returns.

        Raises:
            BusUnavailable: nobody answers, or the controller refuses.
        """
        if not wanted:
            return
        rows: list[Any] = [
            (name, count, copies, [], list(how.items())) for name, count, copies, how in wanted
        ]
        async with self._asking("create topics") as client:
            answer = await self._ask_controller(
                client, CreateTopicsRequest(rows, REQUEST_TIMEOUT_MS, validate_only=False)
            )
        for name, code, *message in answer.topic_errors:
            error = kafka.for_code(code)
            if error not in (kafka.NoError, kafka.TopicAlreadyExistsError):
                reason = message[0] if message and message[0] else error.__name__
                raise BusUnavailable(f"kafka: the topic {name} cannot be created: {reason}")
        await self._until_led([row[0] for row in rows])

    async def configs(self, topics: Collection[str]) -> dict[str, dict[str, str]]:
        """The settings of topics that exist, those that are the brokers' defaults included.

        Raises:
            BusUnavailable: nobody answers, or this user may not ask.
        """
        if not topics:
            return {}
        resources = [(_TOPIC_RESOURCE, name, None) for name in sorted(topics)]
        async with self._asking("describe settings") as client:
            answer = await self._ask_any(client, DescribeConfigsRequest(resources))
        found: dict[str, dict[str, str]] = {}
        for code, message, _, name, entries in answer.resources:
            error = kafka.for_code(code)
            if error is kafka.UnknownTopicOrPartitionError:
                continue
            if error is not kafka.NoError:
                raise BusUnavailable(f"kafka: settings of {name}: {message or error.__name__}")
            found[name] = {entry[0]: entry[1] or "" for entry in entries}
        return found

    async def close(self) -> None:
        """Let go of the connections."""
        self._is_closed = True
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()

    @asynccontextmanager
    async def _asking(self, what: str) -> AsyncIterator[AIOKafkaClient]:
        async with within(ANSWER_S, what):
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
        """Ask the brokers one after another, until one answers."""
        brokers = sorted(broker.nodeId for broker in client.cluster.brokers())
        last: kafka.KafkaError = kafka.NodeNotReadyError("no broker is known")
        for node_id in brokers:
            try:
                return await client.send(node_id, request)
            except kafka.KafkaError as error:
                if not error.retriable:
                    raise
                last = error
        await self._reconnect(client)
        raise BusUnavailable(f"kafka: no broker answers: {described(last)}")

    async def _ask_controller(self, client: AIOKafkaClient, request: Any) -> Any:
        if client.cluster.controller is None:
            await client.force_metadata_update()
        controller = client.cluster.controller
        if controller is None:
            raise BusUnavailable("kafka: the cluster has no controller now")
        return await client.send(controller.nodeId, request)

    async def _reconnect(self, client: AIOKafkaClient) -> None:
        """Begin again from the addresses given: all brokers known may have moved."""
        if self._client is client:
            self._client = None
            await client.close()

    async def _until_led(self, topics: Collection[str]) -> None:
        async with within(ANSWER_S, "create topics"):
            while True:
                found = await self.layouts(topics)
                led = [one for one in found.values() if None not in one.leaders.values()]
                if len(led) == len(set(topics)):
                    break
                await asyncio.sleep(RETRY_BACKOFF_MS / 1000)
        # A leader hears of it a little later than those who ask for one, and then answers.
        await self.bounds([Source(one.name, number) for one in led for number in one.leaders])

    async def _bounds(
        self, layouts: Mapping[str, Layout], sources: Collection[Source], isolation: int
    ) -> dict[Source, tuple[int, int]]:
        by_leader: dict[int, list[Source]] = defaultdict(list)
        for source in sources:
            layout = layouts.get(source.topic)
            if layout is None or source.partition not in layout.leaders:
                raise TopicMissing(source.topic, source.partition)
            leader = layout.leaders[source.partition]
            if leader is None:
                raise kafka.LeaderNotAvailableError(f"{source.topic}[{source.partition}]")
            by_leader[leader].append(source)
        answers = await asyncio.gather(
            *(
                self._offsets(node, of_node, at, isolation)
                for at in (_EARLIEST, _LATEST)
                for node, of_node in by_leader.items()
            )
        )
        begins: dict[Source, int] = {}
        ends: dict[Source, int] = {}
        for number, answer in enumerate(answers):
            (begins if number < len(by_leader) else ends).update(answer)
        return {source: (begins[source], ends[source]) for source in sources}

    async def _offsets(
        self, node_id: int, sources: Sequence[Source], at: int, isolation: int
    ) -> dict[Source, int]:
        by_topic: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for topic, partition in sources:
            by_topic[topic].append((partition, at))
        client = await self._connected()
        answer = await client.send(node_id, OffsetRequest(-1, isolation, list(by_topic.items())))
        found: dict[Source, int] = {}
        for topic, rows in answer.topics:
            for partition, code, _, offset in rows:
                error = kafka.for_code(code)
                if error is not kafka.NoError:
                    raise error(f"{topic}[{partition}]")
                found[Source(topic, partition)] = offset
        return found


async def _bootstrap(client: AIOKafkaClient) -> None:
    await client.bootstrap()
    if not client.cluster.brokers():
        # So answers one who refuses a token, after having taken it.
        raise kafka.KafkaConnectionError("no broker is known")
