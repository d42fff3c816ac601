"""Entries as rows, and what happens when a row is not what was written."""

import asyncio
import sqlite3
from pathlib import Path
from uuid import UUID

import orjson
import pytest
from eventsourcing.persistence import StoredEvent, Tracking
from hypothesis import given
from hypothesis import strategies as st

from saga.adapters.mapper import EntryMapper, saga_id_of, to_entry, to_history, to_row
from saga.adapters.sqlite import SqliteCatalogue, SqliteDatabase, SqliteEventStore
from saga.core.events import Json, SignalReceived
from saga.core.history import NAMES, Entry
from saga.core.identity import Instant, MessageId
from saga.errors import CorruptHistory
from saga.ports.bus import Source
from saga.ports.store import Batch
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

    originator_id, version, topic, state = to_row(entry)

    assert to_entry(saga_id_of(originator_id), version, topic, state) == entry
    assert orjson.dumps(orjson.loads(state), option=orjson.OPT_SORT_KEYS) == state


def test_a_state_is_json_that_any_tool_reads() -> None:
    """Sorted keys, the payload as a part of it, no class names."""
    (entry,) = samples.entries(saga(1), 1, 1)

    assert to_row(entry)[1:3] == (2, "intent-issued")
    assert orjson.loads(to_row(entry)[3]) == {
        "at": MOMENT + 2,
        "attempt": 1,
        "cause": "m-1",
        "contract": "stock.int.reserve-stock.v1",
        "direction": "do",
        "kind": "plain",
        "payload": {"order_id": "order-1"},
        "step": "step-2",
    }


@pytest.mark.parametrize(
    ("topic", "state", "problem"),
    [
        ("os:system", b"{}", "'os:system' is no entry that this version of saga knows"),
        ("saga-started", b"not json", "the state of 'saga-started' cannot be read"),
        ("saga-started", b"[]", "the state of 'saga-started' cannot be read"),
        ("saga-started", b"{}", "the state of 'saga-started' cannot be read"),
        ("saga-started", None, "cannot be read"),
        ("timer-armed", b'{"purpose":"tea"}', "cannot be read"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(topic: str, state: bytes, problem: str) -> None:
    """The error tells the saga, the version and what is wrong; nothing that a row names is
    imported.
    """
    with pytest.raises(CorruptHistory, match=problem) as caught:
        to_entry(saga(1), 7, topic, state)

    assert (caught.value.saga_id, caught.value.version) == (saga(1), 7)
    assert f"saga {saga(1)}, entry 7: " in str(caught.value)


def test_a_gap_in_a_history_is_named() -> None:
    """An entry that was removed is missed, at the first place as at any other."""
    rows = [to_row(entry)[1:] for entry in samples.entries(saga(1), 0, 4)]

    gap = to_history(saga(1), [rows[0], *rows[2:]])
    beheaded = to_history(saga(1), rows[1:])

    assert isinstance(gap, CorruptHistory)
    assert (gap.version, gap.problem) == (2, "is missing; 3 follows")
    assert isinstance(beheaded, CorruptHistory)
    assert beheaded.version == 1


def test_the_mapper_speaks_the_library_s_language() -> None:
    """Stored events of eventsourcing, with UUIDs and stable names."""
    mapper = EntryMapper()
    (entry,) = samples.entries(saga(1), 0, 1)

    stored = mapper.to_stored_event(entry)

    assert isinstance(stored, StoredEvent)
    assert stored.originator_id == UUID(saga(1))
    assert stored.topic in NAMES
    assert mapper.to_domain_event(stored) == entry


async def test_the_library_reads_and_writes_the_same_tables(database: SqliteDatabase) -> None:
    """Its recorder finds our entries and positions, and we find what it records."""
    store = SqliteEventStore(database)
    await store.append(
        Batch(histories=[samples.history(saga(1))], positions={Source("t", 0): 4}), at=MOMENT
    )
    recorder, mapper = store.recorder, EntryMapper()

    found = recorder.select_events(UUID(saga(1)))
    assert [mapper.to_domain_event(each) for each in found] == samples.entries(saga(1), 0)
    assert recorder.max_notification_id() == 2
    assert recorder.max_tracking_id("bus:t:0") == 4
    more = [mapper.to_stored_event(entry) for entry in samples.entries(saga(1), 2)]
    insert = recorder.insert_events
    ids = await asyncio.to_thread(insert, more, tracking=Tracking("other", 9))
    assert list(ids) == [3, 4]
    assert [each.id for each in recorder.select_notifications(2, 9)] == [2, 3, 4]
    assert await store.load([saga(1)]) == {saga(1): samples.entries(saga(1), 0, 4)}


async def test_only_the_saga_with_a_corrupt_row_suffers(
    database: SqliteDatabase, path: Path
) -> None:
    """The others load; the log names the place where it stops."""
    store = SqliteEventStore(database)
    sagas = [saga(number) for number in range(9)]
    await store.append(
        Batch(
            histories=[samples.history(each) for each in sagas],
            outgoing=[samples.record("shop.int")],
        ),
        at=MOMENT,
    )
    with sqlite3.connect(path) as other:
        other.execute(
            "UPDATE stored_events SET state = x'ff' "
            "WHERE originator_id = ? AND originator_version = 2",
            (UUID(sagas[3]).hex,),
        )
    other.close()

    loaded = await store.load(sagas)
    assert loaded.keys() == set(sagas)
    error = loaded[sagas[3]]
    assert isinstance(error, CorruptHistory)
    assert (error.saga_id, error.version) == (sagas[3], 2)
    assert [each for each in sagas if isinstance(loaded[each], CorruptHistory)] == [sagas[3]]
    (backlog,) = await store.backlog(limit=1)
    assert len(backlog.entries) == 17
    with pytest.raises(CorruptHistory, match=sagas[3]):
        [item async for item in SqliteCatalogue(database).log()]
