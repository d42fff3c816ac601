"""Entries as rows: the one place where entries become bytes and bytes become entries.

An `eventsourcing.Mapper` whose topics are the stable names of `saga.core.history` instead of Python
paths: what a row names is looked up in a closed registry, never imported. The state is canonical
JSON that any tool reads; a user's payload is embedded as the text it is and comes back as it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import orjson
from eventsourcing.persistence import Mapper, StoredEvent, Transcoder

from saga.core.events import Json
from saga.core.history import NAME_OF, NAMES, Entry, from_plain, to_plain
from saga.core.identity import SagaId
from saga.errors import CorruptHistory
from saga.ports.store import HistoryAppend

EntryRow = tuple[str, int, str, bytes]
"""originator_id (the saga id's 32 hex digits), originator_version, topic, state."""

_SORTED: Final = orjson.OPT_SORT_KEYS
_HEX_DIGITS: Final = 32
_dumps: Final = orjson.dumps
_embed: Final = orjson.Fragment

if TYPE_CHECKING:  # the library's base class is generic over the type of its ids
    _MapperOfUuids = Mapper[UUID]
else:
    _MapperOfUuids = Mapper


class JsonTranscoder(Transcoder):
    """Canonical JSON: sorted keys, no spaces."""

    def encode(self, obj: Any) -> bytes:
        """The JSON of *obj*."""
        return orjson.dumps(obj, option=_SORTED)

    def decode(self, data: bytes) -> Any:
        """What the JSON *data* says."""
        return orjson.loads(data)


class EntryMapper(_MapperOfUuids):
    """Turns entries into the library's stored events and back.

    `to_row` and `to_entry` are the same without the intermediate object, for the hot path.
    """

    def __init__(self) -> None:
        super().__init__(JsonTranscoder())

    def to_stored_event(self, domain_event: Any) -> StoredEvent:
        """The stored event of an `Entry`."""
        originator_id, version, topic, state = to_row(domain_event)
        return StoredEvent(UUID(originator_id), version, topic, state)

    def to_domain_event(self, stored_event: StoredEvent) -> Any:
        """The `Entry` of a stored event.

        Raises:
            CorruptHistory: the row cannot be read; names its saga and version.
        """
        saga_id = SagaId(str(stored_event.originator_id))
        return to_entry(
            saga_id, stored_event.originator_version, stored_event.topic, stored_event.state
        )


def to_row(entry: Entry) -> EntryRow:
    """The row that records *entry*."""
    return (
        originator_of(entry.saga_id),
        entry.version,
        NAME_OF[type(entry.body)],
        _dumps(to_plain(entry, _embed), option=_SORTED),
    )


def to_rows(histories: Iterable[HistoryAppend]) -> list[EntryRow]:
    """The rows of all new entries, history by history."""
    rows: list[EntryRow] = []
    for history in histories:
        originator_id = originator_of(history.saga_id)
        for entry in history.entries:
            state = _dumps(to_plain(entry, _embed), option=_SORTED)
            rows.append((originator_id, entry.version, NAME_OF[type(entry.body)], state))
    return rows


def to_entry(saga_id: SagaId, version: int, topic: str, state: bytes) -> Entry:
    """The entry that a row records.

    Raises:
        CorruptHistory: the row's name is not in the registry, or its state cannot be read.
    """
    if topic not in NAMES:
        raise CorruptHistory(
            saga_id, version, f"{topic!r} is no entry that this version of saga knows"
        )
    try:
        return from_plain(saga_id, version, topic, orjson.loads(state), _text)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"the state of {topic!r} cannot be read: {error}"
        raise CorruptHistory(saga_id, version, problem) from error


def to_history(
    saga_id: SagaId, rows: Iterable[tuple[int, str, bytes]]
) -> list[Entry] | CorruptHistory:
    """The whole history in *rows* (version, topic, state) in order, or what is wrong with it."""
    entries: list[Entry] = []
    try:
        for expected, (version, topic, state) in enumerate(rows, 1):
            if version != expected:
                return CorruptHistory(saga_id, expected, f"is missing; {version} follows")
            entries.append(to_entry(saga_id, version, topic, state))
    except CorruptHistory as error:
        return error
    return entries


def originator_of(saga_id: SagaId) -> str:
    """The saga id as the library writes UUIDs: 32 hex digits."""
    digits = saga_id.replace("-", "")
    assert len(digits) == _HEX_DIGITS, f"saga ids are UUIDs, not {saga_id!r}"
    return digits


def saga_id_of(originator_id: str) -> SagaId:
    """The saga id of 32 hex digits."""
    digits = originator_id
    return SagaId(f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}")


def _text(value: Any) -> Json:
    return Json(orjson.dumps(value, option=_SORTED).decode())
