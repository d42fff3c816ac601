"""Turns as rows, and what happens when a row is not what was written."""

import sqlite3
from pathlib import Path
from uuid import UUID

import orjson
import pytest
from eventsourcing.persistence import StoredEvent, Tracking
from eventsourcing.sqlite import SQLiteDatastore, SQLiteProcessRecorder
from hypothesis import given
from hypothesis import strategies as st

from saga.adapters.mapper import TURN, to_entries, to_history, to_state
from saga.adapters.sqlite import SqliteCatalogue, SqliteDatabase, SqliteEventStore
from saga.core.events import Json, SignalReceived
from saga.core.history import Entry, turn_of
from saga.core.identity import Instant, MessageId
from saga.errors import CorruptHistory
from saga.ports.bus import Source
from saga.testing import samples
from saga.testing.samples import MOMENT, saga

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("ab_é\x00", max_size=3), inner),
    max_leaves=8,
)


@given(JSON)
def test_a_payload_comes_back_as_the_text_it_was(value) -> None:
    """Whatever JSON a user puts into a payload, also what looks like a tag of the library's own."""
    text = Json(orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode())
    body = SignalReceived(name="n", payload=text)
    entry = Entry(saga(1), 3, Instant(5), MessageId("m"), body)

    state = to_state(turn_of([entry]))

    assert to_entries(saga(1), TURN, state) == [entry]
    assert orjson.dumps(orjson.loads(state), option=orjson.OPT_SORT_KEYS) == state


def test_a_state_is_json_that_any_tool_reads() -> None:
    """Sorted keys, payloads as a part of it, no class names; shared time and cause stand once."""
    first, second = map(to_state, samples.history(saga(1), 0, 2).turns)

    assert orjson.loads(first)["saga"] == saga(1)
    assert orjson.loads(second) == {
        "at": MOMENT + 2,
        "cause": "m-1",
        "entries": [
            {
                "intent_id": f"{saga(1)}/step-2/do/1",
                "outcome": "done",
                "reply": {"contract": "stock.evt.stock-reserved.v1", "payload": {"units": 3}},
                "type": "reply-received",
            },
            {
                "attempt": 1,
                "contract": "stock.int.reserve-stock.v1",
                "direction": "do",
                "kind": "plain",
                "payload": {"order_id": "order-1"},
                "step": "step-4",
                "type": "intent-issued",
            },
        ],
        "version": 3,
    }


@pytest.mark.parametrize(
    ("topic", "entry", "problem"),
    [
        ("saga-started", b"{}", "'saga-started' is no kind of row that this version of saga knows"),
        ("turn", b'{"type":"os:system"}', "there is no entry 'os:system' in this version of saga"),
        ("turn", b"not json", "the turn cannot be read"),
        ("turn", b"[]", "the entry None cannot be read"),
        ("turn", b'{"type":"saga-started"}', "the entry 'saga-started' cannot be read"),
        (
            "turn",
            b'{"type":"timer-armed","purpose":"tea"}',
            "'tea' in 'purpose' of 'timer-armed' is",
        ),
    ],
)
def test_a_row_that_cannot_be_read_is_named(topic: str, entry: bytes, problem: str) -> None:
    """The error tells saga, version and what is wrong; nothing that a row names is imported."""
    state = b'{"at":1,"cause":"m","entries":[%s],"version":7}' % entry

    with pytest.raises(CorruptHistory, match=problem) as caught:
        to_entries(saga(1), topic, state, version=7)

    assert (caught.value.saga_id, caught.value.version) == (saga(1), 7)
    assert f"saga {saga(1)}, entry 7: " in str(caught.value)


def test_a_gap_in_a_history_is_named() -> None:
    """A turn that was removed is missed, at the first place as at any other; so is an entry."""
    turns = samples.history(saga(1), 0, 4).turns
    rows = [(number, TURN, to_state(turn)) for number, turn in enumerate(turns, 1)]
    shorter = to_state(turn_of(samples.entries(saga(1), 0, 1)))

    gap = to_history(saga(1), [rows[0], *rows[2:]])
    beheaded = to_history(saga(1), rows[1:])
    shortened = to_history(saga(1), [(1, TURN, shorter), *rows[1:]])

    assert isinstance(gap, CorruptHistory)
    assert (gap.version, gap.problem) == (3, "is missing, with turn 2; turn 3 follows")
    assert isinstance(beheaded, CorruptHistory)
    assert beheaded.version == 1
    assert isinstance(shortened, CorruptHistory)
    assert (shortened.version, shortened.problem) == (2, "is missing; 3 follows")


async def test_the_library_reads_and_writes_the_same_tables(
    database: SqliteDatabase, path: Path
) -> None:
    """Its recorder, unchanged, finds our turns and positions, and we find what it records."""
    store = SqliteEventStore(database)
    await store.append(
        samples.batch(samples.history(saga(1), 0, 2), positions={Source("t", 0): 4}), at=MOMENT
    )
    (originator_id,) = {row[0] for row in rows_of(path, "SELECT originator_id FROM stored_events")}
    datastore = SQLiteDatastore(str(path), single_row_tracking=True)
    theirs = SQLiteProcessRecorder(datastore)

    found = theirs.select_events(UUID(originator_id))
    assert [each.originator_version for each in found] == [1, 2]
    assert [
        entry for each in found for entry in to_entries(saga(1), each.topic, each.state)
    ] == samples.entries(saga(1), 0, 4)
    assert theirs.max_notification_id() == 2
    assert theirs.max_tracking_id("bus:t:0") == 4
    third = to_state(turn_of(samples.entries(saga(1), 4)))
    more = [StoredEvent(UUID(originator_id), 3, TURN, third)]
    theirs.insert_events(more, tracking=Tracking("bus:t:0", 9))
    assert [each.id for each in theirs.select_notifications(2, 9)] == [2, 3]
    assert await store.positions([Source("t", 0)]) == {Source("t", 0): 9}
    assert await store.load([saga(1)]) == {saga(1): samples.entries(saga(1), 0, 6)}
    datastore.close()


async def test_only_the_saga_with_a_corrupt_row_suffers(
    database: SqliteDatabase, path: Path
) -> None:
    """The others load; the log names the place where it stops."""
    store = SqliteEventStore(database)
    sagas = [saga(number) for number in range(9)]
    await store.append(
        samples.batch(
            *(samples.history(each, 0, 2) for each in sagas),
            outgoing=[samples.record("shop.int")],
        ),
        at=MOMENT,
    )
    *_, (rowid,) = (
        row for row in rows_of(path, "SELECT rowid FROM stored_events ORDER BY rowid LIMIT 8")
    )
    with sqlite3.connect(path) as other:
        other.execute("UPDATE stored_events SET state = x'ff' WHERE rowid = ?", (rowid,))
    other.close()

    loaded = await store.load(sagas)
    assert loaded.keys() == set(sagas)
    error = loaded[sagas[3]]
    assert isinstance(error, CorruptHistory)
    assert (error.saga_id, error.version) == (sagas[3], 3)
    assert [each for each in sagas if isinstance(loaded[each], CorruptHistory)] == [sagas[3]]
    (backlog,) = await store.backlog(limit=1)
    assert len(backlog.entries) == 34
    with pytest.raises(CorruptHistory, match=sagas[3]):
        [item async for item in SqliteCatalogue(database).log()]


def rows_of(path: Path, sql: str) -> list[tuple]:
    """What another program reads in the file."""
    with sqlite3.connect(path) as other:
        rows = other.execute(sql).fetchall()
    other.close()
    return rows
