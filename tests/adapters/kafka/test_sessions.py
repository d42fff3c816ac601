"""Fetch sessions: aiokafka's fetcher reads the same as without them, and names what has changed.

The brokers here keep sessions as KIP-227 says; what is said to them goes through aiokafka's bytes.
"""

import asyncio
import random
import struct
from collections import defaultdict
from contextlib import asynccontextmanager, suppress

import pytest
from aiokafka import TopicPartition
from aiokafka import errors as kafka
from aiokafka.cluster import ClusterMetadata
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.protocol.metadata import MetadataResponse_v1
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from saga.adapters.kafka import KafkaBus, KafkaConnection
from saga.adapters.kafka._aiokafka import fetch_in_sessions, sessions
from saga.adapters.kafka._aiokafka.sessions import FetchSession
from saga.ports.bus import Record, TopicSpec
from tests.adapters.kafka.fixtures import QUICK, fetch_until, read
from tests.patience import HANG_S

OUT_OF_RANGE, NOT_LEADER, UNKNOWN_SESSION, WRONG_EPOCH = 1, 6, 70, 71
NEWEST = 11
ANSWER_BATCHES = 2


class Cluster:
    """Two brokers, what they have stored, and the sessions that each of them keeps."""

    def __init__(self, places) -> None:
        self.logs: dict[TopicPartition, list[tuple[int, bytes]]] = {at: [] for at in places}
        self.leaders = {at: 1 + place % 2 for place, at in enumerate(places)}
        self.sessions: dict[int, dict[int, list]] = {1: {}, 2: {}}
        self.keeps_sessions = True
        self._ids = iter(range(1, 1_000_000))

    def end(self, at) -> int:
        log = self.logs[at]
        return log[-1][0] if log else 0

    def append(self, at, count: int = 1) -> None:
        """One batch."""
        begin = self.end(at)
        builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, 0, 1 << 20)
        for offset in range(count):
            builder.append(offset, 1_700_000_000_000, b"k", value_of(at, begin + offset), [])
        batch = bytearray(builder.build())
        batch[:8] = struct.pack(">q", begin)
        self.logs[at].append((begin + count, bytes(batch)))

    def session(self, node: int, asked) -> tuple[int, int, list]:
        """An error, or the session's id and [epoch, {partition: [position, end that was told]}]."""
        named = {
            TopicPartition(topic, each[0]): [each[-3] if len(each) > 3 else each[1], None]
            for topic, partitions in asked.topics
            for each in partitions
        }
        ours = self.sessions[node]
        if asked.session_epoch <= 0:
            ours.pop(asked.session_id, None)
            number = next(self._ids) if self.keeps_sessions and not asked.session_epoch else 0
            if number:
                ours[number] = [1, named]
            return 0, number, [0, named]
        if asked.session_id not in ours:
            return UNKNOWN_SESSION, 0, [0, {}]
        session = ours[asked.session_id]
        if session[0] != asked.session_epoch:
            return WRONG_EPOCH, 0, [0, {}]
        session[0] += 1
        for at, (position, _) in named.items():
            session[1].setdefault(at, [0, None])[0] = position
        for topic, partitions in asked.forgotten_topics_data:
            for partition in partitions:
                del session[1][topic, partition]
        return 0, asked.session_id, session

    def told(self, node: int, at, position: int) -> tuple[int, int, bytes]:
        """Error, end and batches of one partition."""
        end = self.end(at)
        if self.leaders[at] != node:
            return NOT_LEADER, -1, b""
        if not 0 <= position <= end:
            return OUT_OF_RANGE, -1, b""
        later = [batch for after, batch in self.logs[at] if after > position]
        return 0, end, b"".join(later[:ANSWER_BATCHES])

    def has_news(self, node: int, read) -> bool:
        """Whether an answer need not wait."""
        return any(
            code or data for at in read for code, _, data in [self.told(node, at, read[at][0])]
        )

    def news(self, node: int, read, *, is_whole: bool) -> list[tuple[str, list]]:
        """What is to be said of the partitions that are *read*; ends are not said twice."""
        topics = defaultdict(list)
        for at, place in read.items():
            code, end, data = self.told(node, at, place[0])
            if is_whole or code or data or end != place[1]:
                place[1] = end
                topics[at.topic].append((at.partition, code, end, end, 0, [], -1, data))
        return list(topics.items())


class Client:
    """In the place of aiokafka's: its requests come to a `Cluster`, or do not.

    Attributes:
        named: of each exchange how many partitions were asked and answered.
        faults: what becomes of the next exchanges: lost on the way, or on the way back.
    """

    def __init__(self, brokers: Cluster, newest: int = NEWEST) -> None:
        self._loop = asyncio.get_running_loop()
        self._metadata_max_age_ms = 10_000
        self.cluster = ClusterMetadata()
        self.brokers = brokers
        self.newest = newest
        self.named: list[tuple[int, int]] = []
        self.faults: list[str] = []
        self.errors: list[int] = []
        self.waiting: set[asyncio.Event] = set()
        self.learn()

    def learn(self, *, leaderless=(), unknown=()) -> None:
        """Who leads what, as metadata are read now and then."""
        topics = defaultdict(list)
        for at, leader in self.brokers.leaders.items():
            if at not in unknown:
                found = -1 if at in leaderless else leader
                topics[at.topic].append((0, at.partition, found, [], []))
        brokers = [(1, "one", 1, None), (2, "two", 1, None)]
        told = [(0, topic, False, partitions) for topic, partitions in topics.items()]
        self.cluster.update_metadata(MetadataResponse_v1(brokers, 1, told))

    def force_metadata_update(self):
        self.learn()
        done = self._loop.create_future()
        done.set_result(True)
        return done

    def wake(self) -> None:
        """Have those answered that wait for records."""
        while self.waiting:
            self.waiting.pop().set()

    async def send(self, node, request, **_):
        made = request.prepare({1: (0, self.newest)})
        asked = type(made).decode(made.encode())
        fault = self.faults.pop() if self.faults else None
        await asyncio.sleep(0)
        if fault == "lost":
            raise kafka.KafkaConnectionError("lost on the way")
        answer = await self._answer(node, asked, made.RESPONSE_TYPE)
        if fault == "unheard":
            raise kafka.RequestTimedOutError("lost on the way back")
        return made.RESPONSE_TYPE.decode(answer.encode())

    async def _answer(self, node, asked, response):
        has_sessions = self.newest >= sessions.SESSIONS_SINCE
        if not has_sessions:
            asked.session_id, asked.session_epoch, asked.forgotten_topics_data = 0, -1, []
        code, number, (epoch, read) = self.brokers.session(node, asked)
        if self.errors:
            code, read = self.errors.pop(), {}
        if not code and not self.brokers.has_news(node, read):
            woken = asyncio.Event()
            self.waiting.add(woken)
            await woken.wait()
        topics = self.brokers.news(node, read, is_whole=not epoch)
        self.named.append(tuple(sum(len(each) for _, each in t) for t in (asked.topics, topics)))
        if self.newest < NEWEST:
            topics = [(topic, [self._older(each) for each in told]) for topic, told in topics]
        return response(0, code, number, topics) if has_sessions else response(0, topics)

    def _older(self, told):
        """Without the preferred replica, and before version 5 without the begin of the log."""
        return (*told[:4], *told[4 if self.newest > 4 else 5 : 6], told[-1])


class Consumer:
    """The parts of aiokafka's consumer that fetch."""

    def __init__(
        self,
        client: Client,
        *,
        retry_backoff_ms: int = 0,
        backoff_s: float = 0.0,
        look_s: float = 0.01,
    ) -> None:
        self._client = self.client = client
        self.state = SubscriptionState()
        self.state.subscribe({at.topic for at in client.brokers.logs})
        self._fetcher = self.fetcher = Fetcher(
            client,
            self.state,
            fetcher_timeout=look_s,
            prefetch_backoff=backoff_s,
            retry_backoff_ms=retry_backoff_ms,
            auto_offset_reset="none",
            isolation_level="read_committed",
        )

    def assign(self, positions) -> None:
        self.state.assign_from_subscribed(set(positions))
        for at, position in positions.items():
            self._fetcher.seek_to(at, position)

    async def take(self, records_max: int = 500):
        return await self._fetcher.fetched_records(set(), 0, records_max)

    def highwater(self, at):
        return self.state.subscription.assignment.state_value(at).highwater


@asynccontextmanager
async def consumer_of(client: Client, *, in_sessions: bool = True, **options):
    consumer = Consumer(client, **options)
    if in_sessions:
        fetch_in_sessions(consumer)
    try:
        async with asyncio.timeout(HANG_S):
            yield consumer
    finally:
        with suppress(asyncio.CancelledError):
            await consumer.fetcher.close()


def value_of(at, offset: int) -> bytes:
    return b"%b/%d/%d" % (at.topic.encode(), at.partition, offset)


def places(topics: int, partitions: int) -> list[TopicPartition]:
    return [TopicPartition(f"t{n}", p) for n in range(topics) for p in range(partitions)]


async def rounds(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def read_all(consumer: Consumer, positions) -> None:
    """Until nothing is left; each record is the one that is next."""
    brokers = consumer.client.brokers
    while any(positions[at] < brokers.end(at) for at in positions):
        consumer.client.wake()
        follow(await consumer.take(), positions)
        await rounds(5)


def follow(taken, positions) -> None:
    for at, records in taken.items():
        for record in records:
            assert record.offset == positions[at], f"{at} is at {positions[at]}"
            assert record.value == value_of(at, record.offset)
            positions[at] += 1


async def until_calm(client: Client) -> None:
    """Until those who fetch wait for records, or for somebody to take those that they have."""
    before = None
    while before != (before := (len(client.named), len(client.waiting))):
        await rounds(30)


class Weather:
    """One random history: what happens to a consumer and its brokers, and what it must read."""

    def __init__(self, seed: int, consumer: Consumer) -> None:
        self.chance = random.Random(seed)
        self.consumer = consumer
        self.client = consumer.client
        self.brokers = self.client.brokers
        self.positions = dict.fromkeys(self.brokers.logs, 0)
        consumer.assign(self.positions)

    async def step(self) -> None:
        acts = [self.append] * 5 + [self.take] * 5 + [self.seek, self.pause, self.resume]
        acts += [self.fault, self.evict, self.lead, self.learn, self.reassign, self.client.wake]
        act = self.chance.choice(acts)
        if act == self.take:
            await self.take()
        else:
            act()
        await rounds(self.chance.randrange(12))

    def append(self) -> None:
        self.brokers.append(self.any_place(), self.chance.choice((1, 1, 3)))
        self.client.wake()

    async def take(self) -> None:
        follow(await self.consumer.take(self.chance.choice((1, 3, 500))), self.positions)

    def seek(self) -> None:
        at = self.any_place()
        self.positions[at] = self.chance.randint(0, self.brokers.end(at))
        self.consumer.fetcher.seek_to(at, self.positions[at])

    def pause(self) -> None:
        self.consumer.state.pause(self.any_place())

    def resume(self) -> None:
        self.consumer.state.resume(self.any_place())

    def fault(self) -> None:
        self.client.faults.append(self.chance.choice(("lost", "unheard")))

    def evict(self) -> None:
        self.brokers.sessions[self.chance.choice((1, 2))].clear()
        self.brokers.keeps_sessions = self.chance.random() < 0.8

    def lead(self) -> None:
        self.brokers.leaders[self.any_place()] = self.chance.choice((1, 2))

    def learn(self) -> None:
        self.client.learn()

    def reassign(self) -> None:
        share = [at for at in self.positions if self.chance.random() < 0.8]
        self.consumer.assign({at: self.positions[at] for at in share or self.positions})

    def any_place(self) -> TopicPartition:
        assigned = sorted(self.consumer.state.assigned_partitions())
        return self.chance.choice(assigned)

    async def clear_up(self) -> None:
        """All is well again, and all is read."""
        self.client.faults.clear()
        self.client.learn()
        for at in self.consumer.state.assigned_partitions():
            self.consumer.state.resume(at)
        read = {at: self.positions[at] for at in self.consumer.state.assigned_partitions()}
        await read_all(self.consumer, read)
        while any(self.consumer.highwater(at) != self.brokers.end(at) for at in read):
            self.client.wake()
            await rounds(5)


@pytest.mark.parametrize("in_sessions", [True, False])
@pytest.mark.parametrize("seed", range(40))
async def test_whatever_happens_records_come_once_and_in_order(seed, in_sessions):
    client = Client(Cluster(places(3, 3)), newest=random.Random(seed).choice((4, 6, 7, 10, 11, 11)))
    backoff_s = (0.0, 0.1)[seed % 2]
    async with consumer_of(client, in_sessions=in_sessions, backoff_s=backoff_s) as consumer:
        weather = Weather(seed, consumer)
        for _ in range(150):
            await weather.step()
        await weather.clear_up()


@pytest.mark.parametrize("seed", range(8))
async def test_what_a_request_does_not_look_at_has_not_changed(seed, monkeypatch):
    ask = sessions.FetchSession.ask

    def asked(session, fetcher, pauses):
        for at in session.partitions.keys() - session.unsettled.keys():
            state = session.partitions[at]
            assert not state.paused
            assert at not in fetcher._records  # noqa: SLF001  # as it looks at it
            assert state.position == session.sent[at]
        return ask(session, fetcher, pauses)

    monkeypatch.setattr(sessions.FetchSession, "ask", asked)
    async with consumer_of(Client(Cluster(places(3, 3)))) as consumer:
        weather = Weather(seed, consumer)
        for _ in range(150):
            await weather.step()
        await weather.clear_up()


@pytest.mark.parametrize("topics", [5, 50, 250])
async def test_a_fetch_names_as_many_partitions_as_have_changed(topics: int):
    client = Client(Cluster(places(topics, 4)))
    positions = dict.fromkeys(client.brokers.logs, 0)
    async with consumer_of(client, look_s=HANG_S) as consumer:
        consumer.assign(positions)
        await rounds(10)
        client.wake()
        await until_calm(client)
        assert client.named == [(2 * topics, 2 * topics)] * 2  # one a broker
        for place in (0, 4, 8):
            client.named.clear()
            client.brokers.append(places(topics, 4)[place])
            client.wake()
            await read_all(consumer, positions)
            await until_calm(client)
            client.wake()
            await until_calm(client)
            assert max(client.named) <= (1, 1)


async def test_what_is_paused_is_not_read_until_it_is_resumed():
    client = Client(Cluster(places(1, 4)))
    paused, *others = client.brokers.logs
    async with consumer_of(client) as consumer:
        consumer.assign(dict.fromkeys(client.brokers.logs, 0))
        await until_calm(client)
        consumer.state.pause(paused)
        client.wake()
        await until_calm(client)
        assert paused not in {at for ours in client.brokers.sessions[1].values() for at in ours[1]}

        client.brokers.append(paused)
        client.brokers.append(others[1])
        await read_all(consumer, dict.fromkeys(others, 0))
        consumer.state.resume(paused)
        await read_all(consumer, {paused: 0})


async def test_everything_is_paused_and_resumed():
    client = Client(Cluster(places(1, 4)))
    positions = dict.fromkeys(client.brokers.logs, 0)
    async with consumer_of(client, look_s=HANG_S) as consumer:
        consumer.assign(positions)
        await until_calm(client)
        for at in positions:
            consumer.state.pause(at)
            client.brokers.append(at)
        client.wake()
        await until_calm(client)
        assert not await consumer.take()
        await until_calm(client)
        for at in positions:
            consumer.state.resume(at)
        await read_all(consumer, positions)


async def test_the_end_of_a_partition_is_known_although_a_seek_came_in_between():
    """It is told once; aiokafka drops what it comes with."""
    client = Client(Cluster(places(1, 2)))
    at = places(1, 2)[0]
    client.brokers.append(at, 5)
    async with consumer_of(client) as consumer:
        consumer.assign(dict.fromkeys(client.brokers.logs, 0))
        await rounds(2)
        consumer.fetcher.seek_to(at, 5)
        while consumer.highwater(at) is None:
            client.wake()
            await rounds(1)
        assert consumer.highwater(at) == 5
        assert not await consumer.take()


async def test_a_broker_is_left_alone_while_its_records_wait_to_be_taken():
    client = Client(Cluster(places(1, 4)))
    first, second, *_ = client.brokers.logs  # of different brokers
    client.brokers.append(first)
    async with consumer_of(client, backoff_s=HANG_S, look_s=HANG_S) as consumer:
        consumer.assign(dict.fromkeys(client.brokers.logs, 0))
        await until_calm(client)
        assert len(client.waiting) == 1
        assert len(client.named) == 1
        client.brokers.append(second)
        client.wake()
        await until_calm(client)
        assert len(client.waiting) == 0
        await read_all(consumer, {first: 0, second: 0})
        await until_calm(client)
        assert len(client.waiting) == 2


async def test_what_waits_too_long_to_be_taken_is_not_fetched_again():
    client = Client(Cluster(places(1, 4)))
    first, _, third, _ = client.brokers.logs  # of one broker
    client.brokers.append(first)
    async with consumer_of(client, look_s=HANG_S) as consumer:
        consumer.assign(dict.fromkeys(client.brokers.logs, 0))
        await until_calm(client)
        assert all(first not in ours[1] for ours in client.brokers.sessions[1].values())
        client.brokers.append(third)
        client.wake()
        await until_calm(client)
        await read_all(consumer, {first: 0, third: 0})


async def test_a_session_that_the_broker_has_dropped_begins_anew_at_once(caplog):
    client = Client(Cluster(places(2, 4)))
    positions = dict.fromkeys(client.brokers.logs, 0)
    async with consumer_of(client, retry_backoff_ms=1_000 * int(HANG_S)) as consumer:
        consumer.assign(positions)
        await until_calm(client)
        for ours in client.brokers.sessions.values():
            ours.clear()
        for _ in range(2):
            for at in places(1, 2):  # of different brokers
                client.brokers.append(at)
            await read_all(consumer, positions)
            await until_calm(client)
        assert all(len(ours) == 1 for ours in client.brokers.sessions.values())
        assert not caplog.records


async def test_a_broker_that_keeps_no_session_is_asked_for_everything():
    client = Client(Cluster(places(2, 4)))
    client.brokers.keeps_sessions = False
    positions = dict.fromkeys(client.brokers.logs, 0)
    async with consumer_of(client) as consumer:
        consumer.assign(positions)
        for at in positions:
            client.brokers.append(at)
            await read_all(consumer, positions)
        assert min(asked for asked, _ in client.named) >= 3  # all but what is in hand


async def test_a_broker_that_refuses_a_new_session_too_is_left_alone_for_a_while(caplog):
    client = Client(Cluster(places(1, 1)))
    client.errors = [UNKNOWN_SESSION] * 9
    async with consumer_of(client, retry_backoff_ms=1_000 * int(HANG_S)) as consumer:
        consumer.assign(dict.fromkeys(client.brokers.logs, 0))
        await rounds(50)
        assert len(client.named) == 2
        assert "FetchSessionIdNotFound" in caplog.text


async def test_an_answer_about_something_else_ends_the_session_and_not_the_fetcher(caplog):
    client = Client(Cluster(places(1, 1)))
    (at,) = client.brokers.logs
    async with consumer_of(client) as consumer:
        consumer.assign({at: 0})
        await until_calm(client)
        stranger = TopicPartition("other", 0)
        client.brokers.logs[stranger], client.brokers.leaders[stranger] = [], 1
        for ours in client.brokers.sessions[1].values():
            ours[1][stranger] = [0, None]
        client.wake()
        await until_calm(client)
        assert "other" in caplog.text
        client.brokers.append(at)
        await read_all(consumer, {at: 0})


async def test_a_partition_without_a_leader_is_looked_for():
    client = Client(Cluster(places(1, 4)))
    lost, unknown, *_ = client.brokers.logs
    client.learn(leaderless=[lost], unknown=[unknown])
    for at in client.brokers.logs:
        client.brokers.append(at)
    async with consumer_of(client, look_s=HANG_S) as consumer:
        positions = dict.fromkeys(client.brokers.logs, 0)
        consumer.assign(positions)
        await read_all(consumer, positions)


async def test_another_aiokafka_fetches_in_its_own_way(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sessions, "version", lambda _: "0.14.1")
    client = Client(Cluster(places(1, 4)))
    positions = dict.fromkeys(client.brokers.logs, 0)
    async with consumer_of(client) as consumer:
        consumer.assign(positions)
        for at in positions:
            client.brokers.append(at)
        await read_all(consumer, positions)
        assert client.brokers.sessions == {1: {}, 2: {}}


def test_the_aiokafka_that_is_installed_is_one_that_is_known():
    assert sessions.version("aiokafka") in sessions.KNOWN_VERSIONS


class TestOnKafka:
    """A real broker keeps sessions as the one above does."""

    @pytest.fixture
    def answers(self, monkeypatch: pytest.MonkeyPatch):
        """Of each answer how many partitions it is about."""
        answers: list[int] = []
        own = FetchSession.read

        def read_and_note(session, response):
            answers.append(sum(len(partitions) for _, partitions in response.topics))
            return own(session, response)

        monkeypatch.setattr(FetchSession, "read", read_and_note)
        return answers

    @pytest.fixture
    def spoil(self, monkeypatch: pytest.MonkeyPatch):
        """Have the next request name another session, or another epoch."""
        own = FetchSession.ask
        what: list[str] = []

        def ask(session, *arguments):
            request = own(session, *arguments)
            if what:
                name = what.pop()
                setattr(session, name, getattr(session, name) + 1)
            return request

        monkeypatch.setattr(FetchSession, "ask", ask)
        return what.append

    @pytest.fixture
    async def bus(self, kafka):
        bus = KafkaBus(KafkaConnection(servers=(kafka.bootstrap,)), consumers=QUICK)
        yield bus
        await bus.close()

    @pytest.mark.parametrize("spoiled", [None, "id", "epoch"])
    async def test_answers_are_about_what_is_new(
        self, bus, namespace: str, answers, spoil, spoiled
    ):
        """Also after a session that the broker does not know, or not like this."""
        topic = f"{namespace}.t"
        await bus.create_topics([TopicSpec(topic, 50)])
        consumer = await bus.subscribe(f"{namespace}.g", [topic])
        for _ in range(2 if spoiled else 1):
            await fetch_until(lambda: 50 in answers, consumer)
            await fetch_until(lambda: not answers[-1], consumer)
            answers.clear()
            await bus.publish([Record(topic, b"k", b"1", ())])
            await read(consumer, 1)
            await fetch_until(lambda: len(answers) > 3, consumer)
            assert max(answers) == 1
            if spoiled:
                spoil(spoiled)
        assert not bus.counts
