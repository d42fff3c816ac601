"""Fetch sessions (KIP-227), which aiokafka lacks: only what has changed is sent and read.

A broker remembers which partitions a session reads, and from where. A request names those whose
position has moved since the last one, an answer those with something new. So a fetch costs about
the same for ten partitions and for a thousand. aiokafka names all of them, in Python, both ways.

A session goes on only from an answer that was read. After anything else, be it an error, a request
that was cancelled or another assignment, one begins anew: its first request names everything.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.protocol.fetch import FetchRequest

from saga.adapters.kafka._aiokafka.layouts import pack_at_once

KNOWN_VERSIONS: Final = ("0.14.0",)
"""Of aiokafka; any other one fetches in its own way."""
SESSIONS_SINCE: Final = 7
"""The version of a fetch that brought sessions."""
EPOCH_MAX: Final = 2**31 - 1


def fetch_in_sessions(consumer: AIOKafkaConsumer) -> None:
    """Have *consumer*, which has just started, fetch in sessions from now on."""
    if version("aiokafka") in KNOWN_VERSIONS:
        pack_at_once(consumer._client)
        _Fetching(consumer)


class FetchSession:
    """What one broker knows of the partitions that we read from it.

    Args:
        partitions: each with aiokafka's state of it.
        session_id: of a session that the first request is to end.

    Attributes:
        epoch: of the next request; 0 begins a session.
        is_sure: whether the broker is known to have what was sent.
        sent: what it reads for us, and from where.
        unsettled: what may have changed since it was sent, as few of many partitions do.
    """

    def __init__(self, partitions: Mapping[TopicPartition, Any], session_id: int = 0) -> None:
        self.partitions: Final = partitions
        self.id = session_id
        self.epoch = 0
        self.is_sure = False
        self.sent: dict[TopicPartition, int] = {}
        self.unsettled = dict(partitions)

    def ask(self, fetcher: Fetcher, pauses: list[Any]) -> SessionFetch | None:
        """The next request, None where there is nothing to read.

        What is paused, was fetched already or has no position is not read; *pauses* gets the
        futures that end a pause.
        """
        if not self.is_sure:
            self.epoch = 0
        self.is_sure = False
        in_hand, sent, looked_at = fetcher._records, self.sent, self.unsettled
        self.unsettled = {}
        moved: dict[TopicPartition, int] = {}
        forgotten: list[TopicPartition] = []
        for at, state in looked_at.items():
            position = state._position
            if state._paused or position is None or at in in_hand:
                self.unsettled[at] = state
                if state._paused:
                    pauses.append(state._resume_fut)
                if sent.pop(at, None) is not None:
                    forgotten.append(at)
            elif sent.get(at) != position:
                moved[at] = position
        sent.update(moved)
        return SessionFetch(fetcher, self, moved, forgotten) if sent else None

    def read(self, response: Any) -> list[tuple[str, list[tuple[int, int, int]]]]:
        """Go on; returns what was asked of those partitions that *response* is about.

        Raises:
            KafkaError: one of them was not asked for.
        """
        asked = []
        for topic, partitions in response.topics:
            positions = []
            for partition, code, end, *_ in partitions:
                at = TopicPartition(topic, partition)
                if at not in self.sent:
                    raise kafka.KafkaError(f"{at} was not asked for")
                self.touch(at)
                if not code:
                    # It is not told again, even if a seek has made the records useless meanwhile.
                    self.partitions[at].highwater = end
                positions.append((partition, self.sent[at], 0))
            asked.append((topic, positions))
        if response.API_VERSION >= SESSIONS_SINCE:
            self.id = response.session_id
            self.epoch = self.epoch % EPOCH_MAX + 1
            self.is_sure = self.id != 0
        return asked

    def touch(self, at: TopicPartition) -> None:
        """Have the next request look at this partition, if it is one of ours."""
        if at in self.partitions:
            self.unsettled[at] = self.partitions[at]


class SessionFetch(FetchRequest):  # type: ignore[misc]  # aiokafka ships no types
    """Names what has changed, or everything where a session begins.

    Once it is answered, its topics are those of the answer, and aiokafka looks at no others.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        session: FetchSession,
        moved: Mapping[TopicPartition, int],
        forgotten: Sequence[TopicPartition],
    ) -> None:
        super().__init__(
            fetcher._fetch_max_wait_ms,
            fetcher._fetch_min_bytes,
            fetcher._fetch_max_bytes,
            fetcher._isolation_level,
            [],
        )
        self.session = session
        self._moved = moved
        self._forgotten = forgotten
        self._partition_bytes = fetcher._max_partition_fetch_bytes

    def build(self, request_struct_class: Any) -> Any:
        session, has_sessions = self.session, request_struct_class.API_VERSION >= SESSIONS_SINCE
        goes_on = has_sessions and session.epoch > 0
        named = list((self._moved if goes_on else session.sent).items())
        if not goes_on:
            random.shuffle(named)  # what comes first is read first, up to so many bytes
        size = self._partition_bytes
        self._topics = _by_topic((at, (at.partition, offset, size)) for at, offset in named)
        request = super().build(request_struct_class)
        if has_sessions:
            request.session_id, request.session_epoch = session.id, session.epoch
            request.forgotten_topics_data = (
                _by_topic((at, at.partition) for at in self._forgotten) if goes_on else []
            )
        return request

    def answered(self, response: Any) -> None:
        self._topics = self.session.read(response)


class _Fetching:
    """The sessions of one consumer, in the place of what its fetcher asks and its client sends."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._fetcher = consumer._fetcher
        self._cluster = consumer._client.cluster
        self._sessions: dict[int | None, FetchSession] = {}
        self._assignment: Any = None
        self._layout: Any = None
        self._has_leaderless = False
        self._send = consumer._client.send
        consumer._client.send = self._send_in_session
        consumer._fetcher._get_actions_per_node = self._actions
        # What is paused is looked at until it is resumed; all else that changes follows an answer.
        subscriptions = consumer._fetcher._subscriptions
        for name in ("seek", "pause"):
            setattr(subscriptions, name, self._noted(getattr(subscriptions, name)))

    def _actions(self, assignment: Any) -> tuple[Any, ...]:
        """Requests by broker, no resets, how long to wait, whether to look for leaders, pauses."""
        fetcher = self._fetcher
        if assignment is not self._assignment or self._cluster._partitions is not self._layout:
            self._group(assignment)
        backoffs = self._backoffs()
        requests: list[tuple[int | None, SessionFetch]] = []
        pauses: list[Any] = []
        for node, session in self._sessions.items():
            if node not in backoffs and node not in fetcher._in_flight:
                request = session.ask(fetcher, pauses)
                if request is not None:
                    requests.append((node, request))
        wait_s = min(backoffs.values(), default=fetcher._fetcher_timeout)
        return requests, {}, wait_s, self._has_leaderless, pauses

    def _noted(self, change: Callable[..., None]) -> Callable[..., None]:
        def changed(at: TopicPartition, *position: int) -> None:
            change(at, *position)
            for session in self._sessions.values():
                session.touch(at)

        return changed

    def _backoffs(self) -> dict[int | None, float]:
        """How long brokers are left alone, so that what was fetched from them is taken first."""
        backoffs: dict[int | None, float] = {}
        for at, records in self._fetcher._records.items():
            if wait_s := records.calculate_backoff():
                node = self._cluster.leader_for_partition(at)
                backoffs[node] = max(wait_s, backoffs.get(node, 0.0))
        return backoffs

    def _group(self, assignment: Any) -> None:
        """Partitions by their leaders; a session goes on where it has the same ones as before."""
        self._assignment, self._layout = assignment, self._cluster._partitions
        led: dict[int | None, dict[TopicPartition, Any]] = defaultdict(dict)
        for at, state in assignment._tp_state.items():
            led[self._cluster.leader_for_partition(at)][at] = state
        self._has_leaderless = bool(led.pop(None, None)) | bool(led.pop(-1, None))
        known, self._sessions = self._sessions, {}
        for node, partitions in led.items():
            session = known.get(node)
            if session is None or session.partitions != partitions:
                session = FetchSession(partitions, 0 if session is None else session.id)
            self._sessions[node] = session

    async def _send_in_session(self, node: int, request: Any, **options: Any) -> Any:
        response = await self._send(node, request, **options)
        if isinstance(request, SessionFetch):
            if getattr(response, "error_code", 0):
                # The broker was restarted, or has dropped the session for younger ones.
                request.session.epoch = 0
                response = await self._send(node, request, **options)
            if code := getattr(response, "error_code", 0):
                raise kafka.for_code(code)(f"a fetch from {node}")
            request.answered(response)
        return response


def _by_topic(parts: Iterable[tuple[TopicPartition, Any]]) -> list[tuple[str, list[Any]]]:
    topics: dict[str, list[Any]] = defaultdict(list)
    for at, part in parts:
        topics[at.topic].append(part)
    return list(topics.items())
