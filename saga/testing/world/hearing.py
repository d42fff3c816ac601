"""Events of other services: each reaches every saga that listens to it and runs when it is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from saga.app import SagaApp
from saga.contracts import Event, TopicNames, Unreadable, business_key, contract_of, decode
from saga.core.events import EventReceived, SagaStarted
from saga.core.history import Entry
from saga.core.identity import SagaId, saga_id
from saga.core.intents import Continued, SagaAbandoned, SagaCompleted, SagaRolledBack
from saga.ports import Batch, Inbound, Position, Source
from saga.ports.store import UnhandledKind
from saga.runtime.router import Router
from saga.testing.world.broker import Published

_ENDS = (SagaCompleted, SagaRolledBack, SagaAbandoned)


class Heard(NamedTuple):
    """A record that concerns a saga which listens to it, as *versions* of its definition do.

    *early_us*: how long it waits for a saga that is not there yet.
    """

    message_id: str
    record: Inbound
    saga_id: SagaId
    versions: frozenset[int]
    early_us: int


@lru_cache(maxsize=16)
def topics_read(app: SagaApp, names: TopicNames) -> frozenset[str]:
    """What the orchestrators of *app* read."""
    return frozenset(Router(app.registry, app.contracts, names).topics)


def heard(
    releases: Sequence[SagaApp], published: Sequence[Published], names: TopicNames
) -> Iterator[Heard]:
    """What was published that sagas listen to, for each saga that it concerns.

    Whoever of the *releases* reads it may be the one that hears it, so they have to agree.
    """
    readers = [(release, topics_read(release, names)) for release in releases]
    for _, record in published:
        agreed: dict[SagaId, Heard] | None = None
        for release, topics in readers:
            if record.topic not in topics:
                continue
            found = {each.saga_id: each for each in _heard_by(release, record, names)}
            if agreed is None:
                agreed = found
                continue
            agreed = {
                concerned: each._replace(
                    versions=each.versions & found[concerned].versions,
                    early_us=min(each.early_us, found[concerned].early_us),
                )
                for concerned, each in agreed.items()
                if concerned in found
            }
        yield from (agreed or {}).values()


def _heard_by(app: SagaApp, record: Inbound, names: TopicNames) -> Iterator[Heard]:
    contract = names.contract_name(record.topic)
    if contract is None or contract not in app.contracts:
        return
    listening = app.registry.listening_to(app.contracts.current(contract).contract_name)
    decoded = decode(app.contracts, contract, record.value or b"") if listening else None
    if decoded is None or isinstance(decoded, Unreadable):
        return
    assert isinstance(decoded.model, Event), decoded
    ids = [value for name, value in record.headers if name == "ce_id"]
    message_id = (ids[0] or b"").decode() if ids else "/".join(map(str, record.position))
    own_key = business_key(decoded.model) if contract_of(type(decoded.model)).key else None
    reached: dict[SagaId, list[tuple[int, int]]] = {}
    for registered, one in listening:
        key = one.key_of(decoded.model, own_key)
        if key is not None:
            version = registered.saga.version, one.early_us or 0
            reached.setdefault(saga_id(registered.decider.name, key), []).append(version)
    for concerned, by in reached.items():
        versions = frozenset(version for version, _ in by)
        yield Heard(message_id, record, concerned, versions, min(early for _, early in by))


class Reading:
    """When each record was read for good, and each entry stored, as numbers that grow."""

    def __init__(self) -> None:
        self._read: dict[Source, list[tuple[int, int]]] = {}
        self._stored: dict[tuple[SagaId, int], int] = {}
        self._deferred: set[tuple[SagaId | None, Position]] = set()

    def note(self, number: int, batch: Batch) -> None:
        """All this was committed at *number*."""
        for source, offset in batch.positions.items():
            self._read.setdefault(source, []).append((offset, number))
        for history in batch.histories:
            for entry in history.entries:
                self._stored[entry.saga_id, entry.version] = number
        for record in batch.unhandled:
            if record.kind is UnhandledKind.DEFERRED:
                self._deferred.add((record.saga_id, record.position))

    def was_let_go(self, record: Inbound, concerned: SagaId, history: Sequence[Entry]) -> bool:
        """Whether a record was read for good when its saga was not there, and does not wait."""
        read = self._read.get(Source(record.topic, record.partition), ())
        at = next((number for offset, number in read if offset >= record.offset), None)
        began = self._number(history, (SagaStarted,))
        if at is None or (began is not None and began <= at):
            return False
        return (concerned, record.position) not in self._deferred

    def has_run_at_read(self, record: Inbound, history: Sequence[Entry]) -> bool:
        """Whether a saga ran before and after this record was read for good.

        One that was deferred was read when the saga was not there, or stood still; by the time it
        is tried again the saga may have ended.
        """
        if history and (history[0].saga_id, record.position) in self._deferred:
            return False
        read = self._read.get(Source(record.topic, record.partition), ())
        at = next((number for offset, number in read if offset >= record.offset), None)
        began = self._number(history, (SagaStarted,))
        if at is None or began is None or began >= at:
            return False
        ended = self._number(history, _ENDS)
        return ended is None or ended > at

    def _number(self, history: Sequence[Entry], kinds: tuple[type, ...]) -> int | None:
        found = (entry for entry in history if isinstance(entry.body, kinds))
        entry = next(found, None)
        return None if entry is None else self._stored[entry.saga_id, entry.version]


def check_hearing(
    heard: Sequence[Heard],
    histories: Mapping[SagaId, Sequence[Entry]],
    reading: Reading,
    deferred: frozenset[tuple[SagaId | None, Position]],
) -> Iterator[str]:
    """Yields the events that a saga should have heard, and has not."""
    for message_id, record, concerned, versions, early_us in heard:
        history = histories.get(concerned, ())
        if not versions.issuperset(_pinned(history)):
            continue
        if any(
            entry.cause == message_id and isinstance(entry.body, EventReceived | SagaStarted)
            for entry in history
        ):
            continue
        if (concerned, record.position) in deferred:
            continue
        if reading.has_run_at_read(record, history):
            yield f"saga {concerned} has run, listened, and never heard {message_id}"
        elif early_us and reading.was_let_go(record, concerned, history):
            yield f"{message_id} came before saga {concerned}, and does not wait for it"


def _pinned(history: Sequence[Entry]) -> Iterator[int]:
    """The versions of its definition that a saga has run under."""
    for entry in history:
        if isinstance(entry.body, SagaStarted | Continued):
            yield entry.body.definition_version
