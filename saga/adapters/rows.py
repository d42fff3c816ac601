"""What event stores of any database have in common: their rows, and what they remember of them."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from operator import attrgetter, call
from typing import Any, Final, Generic, NamedTuple, TypeVar

import orjson

from saga.adapters.headers import UNREADABLE, decode_headers, encode_headers
from saga.adapters.mapper import to_entries, to_state
from saga.core.events import Json, ReplyOutcome
from saga.core.history import TIME_END, Entry
from saga.core.identity import Instant, SagaId, TimerId, instant, is_saga_id
from saga.core.status import SagaStatus
from saga.errors import CorruptHistory
from saga.ports.bus import Position, Source
from saga.ports.effects_store import InboxRow, Kept
from saga.ports.store import (
    KEY_BYTES_LISTED,
    Awaited,
    Batch,
    DefinitionPause,
    DueTimer,
    PausedBy,
    Place,
    Rebase,
    Rows,
    SagaSummary,
    Skip,
    SkipReason,
    StoreStatistics,
    UnhandledKind,
    UnhandledRecord,
)

_HEX: Final = re.compile(r"[0-9a-f]{32}")
SAGAS_KNOWN_MAX: Final = 65_536
TURNS_READ_AT_ONCE: Final = 500
"""So many turns are decoded before others run: some milliseconds."""
SUMMARY_COLUMNS: Final = (
    "saga_id, definition, definition_version, key, status, started_at, updated_at, waiting_for, "
    "reason, version, paused"
)
"""What is written with every turn."""
SUMMARY_SHOWN: Final = f"{SUMMARY_COLUMNS}, shown"
"""With what few sagas have: it is written only where one of a batch does, and is read."""
from_summary: Final = attrgetter(*SUMMARY_COLUMNS.replace("status", "status.value").split(", "))
from_summary_shown: Final = attrgetter(*SUMMARY_SHOWN.replace("status", "status.value").split(", "))
saga_id_in: Final = attrgetter("saga_id")
_shown: Final = attrgetter("shown")
BY_DEFINITION: Final = frozenset({PausedBy.DEFINITION.value, PausedBy.BOTH.value})
PAUSED_BY_DEFINITION: Final = "paused IN ('both', 'definition')"
PAUSE_COLUMNS: Final = "definition, changes, told"
UNHANDLED_COLUMNS: Final = (
    'kind, reason, message, topic, partition, "offset", key, value, headers, timestamp, kept_at, '
    "saga_id"
)
UNHANDLED_LISTED: Final = UNHANDLED_COLUMNS.replace(
    "key, value", f"substr(key, 1, {KEY_BYTES_LISTED}), NULL"
)
"""The same without what may be large."""
COUNT_BACKLOG: Final = "SELECT count(*), min(appended_at) FROM backlog"

SKIPPED: Final = "skipped/"
"""Before the name of a fact of the store: how many records of a kind were skipped."""

Text = Callable[[str], str]
Known = TypeVar("Known")
T = TypeVar("T")
K = TypeVar("K")


def as_it_is(text: str) -> str:
    """For a database that can keep every text."""
    return text


class KnownSagas(Generic[Known]):
    """A cache of what was committed lately: never wrong, only missing or old.

    It holds at most two times *sagas_max*, and what was committed at once beyond that.
    """

    def __init__(self, sagas_max: int = SAGAS_KNOWN_MAX) -> None:
        self._sagas_max = sagas_max
        self._young: dict[SagaId, Known] = {}
        self._old: dict[SagaId, Known] = {}

    def get(self, saga_id: SagaId) -> Known | None:
        return self._young.get(saga_id) or self._old.get(saga_id)

    def remember(self, known: Mapping[SagaId, Known]) -> None:
        """Only after the commit."""
        self._young.update(known)
        if len(self._young) >= self._sagas_max:
            self._old, self._young = self._young, {}


def originator_of_number(number: int) -> str:
    """32 hex digits, as the library writes UUIDs."""
    return f"{number:032x}"


def is_originator(originator_id: object) -> bool:
    return isinstance(originator_id, str) and _HEX.fullmatch(originator_id) is not None


def number_of(originator_id: str) -> int:
    return int(originator_id, 16)


def timer_name(timer_id: TimerId) -> tuple[SagaId, str]:
    """The saga of a timer, and the rest of its id."""
    saga_id, _, name = timer_id.partition("/")
    return SagaId(saga_id), name


class DamagedRow(ValueError):
    """Raised where a row cannot be read: others are."""


_STATUSES: Final = {status.value: status for status in SagaStatus}
_OUTCOMES: Final = frozenset(outcome.value for outcome in ReplyOutcome)
_UNHANDLED_KINDS: Final = frozenset(kind.value for kind in UnhandledKind)
_IS: Final[dict[str, Callable[[Any], bool]]] = {
    "text": str.__instancecheck__,
    "bytes": bytes.__instancecheck__,
    "number": lambda value: type(value) is int and value >= 0,
    "position": lambda value: type(value) is int and value >= -1,  # -1: nothing was read yet
    "time": lambda value: type(value) is int and 0 <= value < TIME_END,
    "saga id": lambda value: isinstance(value, str) and is_saga_id(value),
    "status": _STATUSES.__contains__,
    "kind": _UNHANDLED_KINDS.__contains__,
    "outcome": _OUTCOMES.__contains__,
    "flag": lambda value: type(value) in {bool, int} and value in {0, 1},
}


class Columns(NamedTuple):
    """Of each column its name, the kind of its values, and whether a value is one of these."""

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    checks: tuple[Callable[[Any], bool], ...]


def columns(text: str) -> Columns:
    """`name:kind, …` with underscores for the spaces of a kind, a question mark for null."""
    names, kinds = zip(*(each.strip().split(":") for each in text.split(",")), strict=True)
    plain = tuple(kind.removesuffix("?").replace("_", " ") for kind in kinds)
    checks = (
        _or_null(_IS[name]) if kind.endswith("?") else _IS[name]
        for name, kind in zip(plain, kinds, strict=True)
    )
    return Columns(names, plain, tuple(checks))


def _or_null(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


SUMMARY: Final = columns(
    "saga_id:saga_id, definition:text, definition_version:number, key:text, status:status, "
    "started_at:time, updated_at:time, waiting_for:text?, reason:text?, version:number, "
    "paused:text?, shown:text?"
)
UNHANDLED: Final = columns(
    "kind:kind, reason:text, message:text, topic:text, partition:number, offset:number, "
    "key:bytes?, value:bytes?, headers:bytes, timestamp:time, kept_at:time, "
    "saga_id:saga_id?, record_id:number"
)
AWAITED: Final = columns("saga_id:saga_id")
PAUSE: Final = columns("definition:text, changes:number, told:text")
TIMER: Final = columns("saga_id:saga_id, name:text, due_at:time")
POSITION: Final = columns("application_name:text, notification_id:position")
INBOX: Final = columns(
    "attempt:number, outcome:outcome, contract:text?, payload:text?, code:text?, message:text?, "
    "digest:bytes?, handled_at:time, undone:flag"
)
BACKLOG_FILE: Final = columns(
    "backlog_id:number, first_position:number, last_position:number, appended_at:time"
)


def check_row(table: str, place: object, of: Columns, row: Sequence[Any]) -> None:
    """Raise DamagedRow, which names row, column and value, where a value is none of its column."""
    if all(map(call, of.checks, row)):
        return
    for name, kind, check, value in zip(*of, row, strict=False):
        if not check(value):
            raise DamagedRow(f"{table}, row {place}: its {name} is {value!r:.60}, no {kind}")


def inbox_read(found: Iterable[tuple[K, Sequence[Any]]], read: Callable[..., InboxRow]) -> Kept[K]:
    """*found* are keys, and the columns that *read* makes a row of."""
    kept = Kept[K]()
    for key, row in found:
        try:
            check_row("saga_inbox", key, INBOX, row)
            kept[key] = read(key, *row)
        except DamagedRow as damage:
            kept.damaged[key] = str(damage)
    return kept


def rows_read(read: Callable[[Sequence[Any]], T], found: Iterable[Sequence[Any]]) -> Rows[T]:
    rows = Rows[T]()
    for row in found:
        try:
            rows.append(read(row))
        except DamagedRow as damage:
            rows.damaged.append(str(damage))
    return rows


async def page_read(
    read: Callable[[Sequence[Any]], T],
    fetch: Callable[[Any, int], Awaitable[Sequence[Sequence[Any]]]],
    limit: int,
) -> Rows[T]:
    """As many readable rows as there are, up to *limit*; *fetch* goes on behind a row's last cell.

    It is asked with None at first.
    """
    page, place = Rows[T](), None
    while True:
        left = limit - len(page)
        found = await fetch(place, left)
        more = rows_read(read, found)
        page += more
        page.damaged += more.damaged
        if len(found) < left or len(page) >= limit:
            return page
        place = found[-1][-1]


def to_timer(row: Sequence[Any], *, text: Text = as_it_is) -> DueTimer:
    """*row* is saga id, name and due time."""
    check_row("timers", row[1], TIMER, row)
    saga_id, name, due_at = row
    return DueTimer(TimerId(f"{saga_id}/{text(name)}"), SagaId(saga_id), Instant(due_at))


def to_pause(row: Sequence[Any], *, text: Text = as_it_is) -> DefinitionPause:
    """*row* has the `PAUSE_COLUMNS`; raises DamagedRow."""
    check_row("paused_definitions", row[0], PAUSE, row)
    definition, changes, told = row
    return DefinitionPause(text(definition), changes, text(told))


def from_pause(pause: DefinitionPause) -> tuple[str, int, str]:
    """In the order of `PAUSE_COLUMNS`."""
    return pause.definition, pause.changes, pause.told


def to_awaited(row: Sequence[Any], *, text: Text = as_it_is) -> Awaited:
    """*row* is saga id, reason and since when; only the first must be sound."""
    check_row("unhandled", "of a saga", AWAITED, row)
    saga_id, reason, kept_at = row
    since = instant(kept_at) if type(kept_at) is int else Instant(0)
    return Awaited(SagaId(saga_id), text(str(reason)), since)


def check_new_sagas(batch: Batch) -> None:
    """A saga begins with its summary in the same batch."""
    begun = {history.saga_id for history in batch.histories if not history.expected_turns}
    begun.difference_update(map(saga_id_in, batch.summaries))
    assert not begun, f"sagas begin without a summary: {begun}"


def tracking_name(source: Source) -> str:
    """The name under which the library tracks *source*."""
    return f"bus:{source.topic}:{source.partition}"


def from_place(source: Source, place: Place) -> tuple[str, int, str | None, str | None]:
    """Name, offset, topic id and cluster id."""
    return tracking_name(source), place.offset, *place.origin


REBASES: Final = "rebase/"
"""Begins the name of a fact of the store that says what an operator has accepted."""


def from_rebase(rebase: Rebase) -> tuple[str, str]:
    """Name and value of the fact; names are in the order of time."""
    told = {
        "reason": rebase.reason,
        "before": [[*source, offset] for source, offset in rebase.before.items()],
        "after": [[*source, offset] for source, offset in rebase.after.items()],
    }
    return f"{REBASES}{rebase.at:020d}", orjson.dumps(told).decode()


def to_rebase(row: Sequence[Any], *, text: Text = as_it_is) -> Rebase:
    name, value = row
    told = orjson.loads(text(value))
    places = [
        {Source(topic, partition): offset for topic, partition, offset in told[which]}
        for which in ("before", "after")
    ]
    at = Instant(int(text(name).removeprefix(REBASES)))
    return Rebase(at=at, reason=told["reason"], before=places[0], after=places[1])


def covered(positions: Mapping[Source, int], stored: Mapping[Source, int]) -> tuple[str, ...]:
    """The sources whose stored position is not below the new one."""
    return tuple(
        f"{source.topic}:{source.partition}"
        for source, offset in positions.items()
        if stored.get(source, -1) >= offset
    )


def turns_of(batch: Batch) -> list[tuple[SagaId, int, bytes]]:
    """Of each new turn saga, number in the history and state."""
    return [
        (history.saga_id, number, to_state(turn))
        for history in batch.histories
        for number, turn in enumerate(history.turns, history.expected_turns + 1)
    ]


def moved(batch: Batch, stored: Mapping[SagaId, int | None]) -> tuple[SagaId, ...]:
    """The sagas whose number of turns in *stored* is not the expected one."""
    return tuple(
        history.saga_id
        for history in batch.histories
        if (stored.get(history.saga_id) or 0) != history.expected_turns
    )


def readable(rows: Iterable[tuple[SagaId, str, bytes]]) -> list[Entry]:
    """Turns that cannot be read are left out."""
    entries: list[Entry] = []
    for saga_id, topic, state in rows:
        with suppress(CorruptHistory):
            entries += to_entries(saga_id, topic, state)
    return entries


def beginnings_in(
    rows: Iterable[tuple[str, int, str, bytes]],
) -> dict[SagaId, Sequence[Entry]]:
    """*rows* are saga ids with the numbers, topics and states of turns; others are left out."""
    found: dict[SagaId, Sequence[Entry]] = {}
    for saga_id, number, topic, state in rows:
        with suppress(CorruptHistory):
            version = 1 if number == 1 else 0
            found[SagaId(saga_id)] = to_entries(SagaId(saga_id), topic, state, version=version)
    return found


def to_summary(row: Sequence[Any], *, text: Text = as_it_is) -> SagaSummary:
    """*text* gives back what the database was given, here and below; raises DamagedRow."""
    check_row("saga_index", row[0] if len(row) == len(SUMMARY.names) else row[-1], SUMMARY, row)
    saga_id, definition, definition_version, key, status, started_at, updated_at, *rest = row
    waiting_for, reason, version, paused, shown = rest[:5]
    return SagaSummary(
        saga_id=SagaId(saga_id),
        definition=text(definition),
        definition_version=definition_version,
        key=text(key),
        status=_STATUSES[status],
        started_at=Instant(started_at),
        updated_at=Instant(updated_at),
        waiting_for=None if waiting_for is None else text(waiting_for),
        reason=None if reason is None else text(reason),
        version=version,
        paused=paused,
        shown=None if shown is None else _to_shown(saga_id, shown),
    )


def _to_shown(saga_id: str, shown: str) -> Json:
    """In canonical form, as no database has to keep it."""
    with suppress(ValueError):
        members = orjson.loads(shown)
        if isinstance(members, dict):
            return Json(orjson.dumps(members, option=orjson.OPT_SORT_KEYS).decode())
    raise DamagedRow(f"saga_index, row {saga_id}: its shown is {shown!r:.60}, no JSON object")


def show_anything(batch: Batch) -> bool:
    return any(map(_shown, batch.summaries))


def apart(batch: Batch) -> tuple[dict[SagaId, SagaSummary], dict[SagaId, SagaSummary]]:
    """The last summary of each saga: of those with a history in *batch*, and of the others."""
    written = {each.saga_id for each in batch.histories}
    of_turns: dict[SagaId, SagaSummary] = {}
    found: dict[SagaId, SagaSummary] = {}
    for each in batch.summaries:
        (of_turns if each.saga_id in written else found)[each.saga_id] = each
    return of_turns, found


def to_unhandled(row: Sequence[Any], *, text: Text = as_it_is) -> UnhandledRecord:
    check_row("unhandled", row[-1], UNHANDLED, row)
    kind, reason, message, topic, partition, offset, key, value, headers, *rest = row
    timestamp, kept_at, saga_id, record_id = rest
    try:
        decoded = decode_headers(headers)
    except UNREADABLE as error:
        raise DamagedRow(
            f"unhandled, row {record_id}: its headers cannot be read: {error}"
        ) from None
    return UnhandledRecord(
        kind=UnhandledKind(kind),
        reason=text(reason),
        message=text(message),
        position=Position(text(topic), partition, offset),
        key=key,
        value=value,
        headers=decoded,
        timestamp=Instant(timestamp),
        kept_at=Instant(kept_at),
        saga_id=None if saga_id is None else SagaId(saga_id),
        record_id=record_id,
    )


def from_unhandled(record: UnhandledRecord) -> tuple[Any, ...]:
    """In the order of `UNHANDLED_COLUMNS`."""
    return (
        record.kind.value,
        record.reason,
        record.message,
        *record.position,
        record.key,
        record.value,
        encode_headers(record.headers),
        record.timestamp,
        record.kept_at,
        record.saga_id,
    )


def skipped_name(skip: Skip) -> str:
    return f"{SKIPPED}{skip.reason}/{skip.topic}/{skip.source}"


def to_skipped(rows: Iterable[tuple[Any, Any]], *, text: Text = as_it_is) -> dict[Skip, int]:
    """*rows* are names and values; those that say nothing, or of a later version, are left out."""
    counts: dict[Skip, int] = {}
    for name, number in rows:
        with suppress(ValueError):
            _, reason, topic, source = text(str(name)).split("/", 3)
            counts[Skip(topic, source, SkipReason(reason))] = int(number)
    return counts


def in_order(saga_ids: Iterable[SagaId], summaries: Rows[SagaSummary]) -> Rows[SagaSummary]:
    """In the order of *saga_ids*, each once."""
    by_id = {summary.saga_id: summary for summary in summaries}
    found = [by_id[saga_id] for saga_id in dict.fromkeys(saga_ids) if saga_id in by_id]
    return Rows(found, summaries.damaged)


def where(*conditions: tuple[str, object]) -> tuple[str, list[Any]]:
    """SQL and values of the conditions whose value is not None."""
    given = [each for each in conditions if each[1] is not None]
    return " AND ".join(["true", *(text for text, _ in given)]), [value for _, value in given]


def to_statistics(
    sagas: Iterable[tuple[str, str, int]],
    unhandled: Iterable[tuple[str, str, int]],
    backlog: tuple[int, Instant | None],
    timers_due: tuple[int, Instant | None],
) -> StoreStatistics:
    """*backlog* and *timers_due* are how many, and since when."""
    return StoreStatistics(
        sagas={(str(name), SagaStatus(status)): count for name, status, count in sagas},
        unhandled={
            (UnhandledKind(kind), str(reason)): count
            for kind, reason, count in unhandled
            if kind in _UNHANDLED_KINDS
        },
        backlog=backlog[0],
        backlog_since=backlog[1],
        timers_due=timers_due[0],
        timers_due_since=timers_due[1],
    )
