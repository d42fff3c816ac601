"""What event stores of any database have in common: their rows, and what they remember of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Generic, TypeVar

from saga.adapters.headers import decode_headers
from saga.adapters.mapper import to_entries
from saga.core.history import Entry
from saga.core.identity import Instant, SagaId, TimerId
from saga.core.status import SagaStatus
from saga.errors import CorruptHistory
from saga.ports.bus import Position, Source
from saga.ports.store import Batch, SagaSummary, UnhandledKind, UnhandledRecord

SAGAS_KNOWN_MAX: Final = 65_536

Text = Callable[[str], str]
Place = TypeVar("Place")


class KnownSagas(Generic[Place]):
    """The number of turns, and the place or originator, of sagas that were written lately.

    Spares looking them up. Never wrong, only missing or old: a history does not shrink, and what
    was rolled back is not remembered. Holds between one and two times *sagas_max*.
    """

    def __init__(self, sagas_max: int = SAGAS_KNOWN_MAX) -> None:
        self._sagas_max = sagas_max
        self._young: dict[SagaId, tuple[int, Place]] = {}
        self._old: dict[SagaId, tuple[int, Place]] = {}

    def get(self, saga_id: SagaId) -> tuple[int, Place] | None:
        """Turns and place, if they are known."""
        return self._young.get(saga_id) or self._old.get(saga_id)

    def remember(self, saga_id: SagaId, turns: int, place: Place) -> None:
        """Take note of what was committed."""
        self._young[saga_id] = (turns, place)
        if len(self._young) >= self._sagas_max:
            self._old, self._young = self._young, {}


def originator_of_number(number: int) -> str:
    """The originator id of the saga with this *number*, as the library writes UUIDs."""
    return f"{number:032x}"


def number_of(originator_id: str) -> int:
    """The number of the saga with this originator id."""
    return int(originator_id, 16)


def timer_name(timer_id: TimerId) -> tuple[SagaId, str]:
    """The saga of a timer, and what its id says beyond that."""
    saga_id, _, name = timer_id.partition("/")
    return SagaId(saga_id), name


def timer_id_of(saga_id: str, name: str) -> TimerId:
    """The timer id that `timer_name` was given."""
    return TimerId(f"{saga_id}/{name}")


def check_new_sagas(batch: Batch) -> None:
    """See that each saga that begins with *batch* comes with its summary."""
    begun = {history.saga_id for history in batch.histories if not history.expected_turns}
    begun.difference_update(summary.saga_id for summary in batch.summaries)
    assert not begun, f"sagas begin without a summary: {begun}"


def tracking_name(source: Source) -> str:
    """The name under which the library tracks a topic-partition."""
    return f"bus:{source.topic}:{source.partition}"


def covered(positions: Mapping[Source, int], stored: Mapping[Source, int]) -> tuple[str, ...]:
    """The sources whose stored position has reached the one to be accounted for."""
    return tuple(
        f"{source.topic}:{source.partition}"
        for source, offset in positions.items()
        if stored.get(source, -1) >= offset
    )


def readable(rows: Iterable[tuple[SagaId, str, bytes]]) -> list[Entry]:
    """The entries in turns of any sagas, without the turns that cannot be read."""
    entries = []
    for saga_id, topic, state in rows:
        with suppress(CorruptHistory):
            entries += to_entries(saga_id, topic, state)
    return entries


def as_it_is(text: str) -> str:
    """How a database keeps text that can keep all of it."""
    return text


def to_summary(row: Sequence[Any], *, text: Text = as_it_is) -> SagaSummary:
    """The summary in a row of the saga index; *text* gives back what the database was given."""
    saga_id, definition, definition_version, key, status, started_at, updated_at, *rest = row
    waiting_for, reason, version = rest
    return SagaSummary(
        saga_id=SagaId(saga_id),
        definition=text(definition),
        definition_version=definition_version,
        key=text(key),
        status=SagaStatus(status),
        started_at=Instant(started_at),
        updated_at=Instant(updated_at),
        waiting_for=None if waiting_for is None else text(waiting_for),
        reason=None if reason is None else text(reason),
        version=version,
    )


def to_unhandled(row: Sequence[Any], *, text: Text = as_it_is) -> UnhandledRecord:
    """The record in a row of the unhandled ones; *text* as above."""
    kind, reason, message, topic, partition, offset, key, value, headers, *rest = row
    timestamp, kept_at, saga_id, record_id = rest
    return UnhandledRecord(
        kind=UnhandledKind(kind),
        reason=text(reason),
        message=text(message),
        position=Position(text(topic), partition, offset),
        key=key,
        value=value,
        headers=decode_headers(headers),
        timestamp=Instant(timestamp),
        kept_at=Instant(kept_at),
        saga_id=None if saga_id is None else SagaId(saga_id),
        record_id=record_id,
    )
