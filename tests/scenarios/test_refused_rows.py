"""A row that a database refuses for good, in a commit of many: its own record alone is harmed."""

import pytest

from saga.adapters.opening import open_bus
from saga.core.identity import saga_id
from saga.ports import Record
from saga.settings import Settings
from tests.patience import HANG_S
from tests.scenarios.test_damaged_rows import APP, Asked, Files, Server, opened


@pytest.fixture
def files(tmp_path):
    return Files(f"{tmp_path}/a.db")


@pytest.fixture
def server(postgres, tmp_path):
    return Server(postgres, f"{tmp_path}/bus.db")


IN_A_FILE = (
    "CREATE TRIGGER refusing BEFORE INSERT ON {table} WHEN {when} "
    "BEGIN SELECT RAISE(ABORT, 'not this one'); END"
)
ON_A_SERVER = (
    "CREATE FUNCTION refused() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF {when} THEN "
    "RAISE EXCEPTION 'not this one' USING ERRCODE = 'check_violation'; END IF; RETURN new; END $$; "
    "CREATE TRIGGER refusing BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION refused()"
)
PLACES = [
    pytest.param("files", id="in a file"),
    pytest.param("server", id="on a server", marks=pytest.mark.connected),
]


def refuse(place, table: str, in_a_file: str, on_a_server: str) -> None:
    is_file = isinstance(place, Files)
    when = in_a_file if is_file else on_a_server
    place.damage((IN_A_FILE if is_file else ON_A_SERVER).format(table=table, when=when))


async def make_tables(place) -> None:
    async with APP.service(**place.settings) as service:
        await service.publish(Asked(name="first"))
        await service.idle(timeout=HANG_S)


async def go_on(service, name: str) -> None:
    await service.signal(saga_id("row", name), "go", "now")
    outcome = await service.outcome(saga_id("row", name), timeout=HANG_S)
    assert outcome.status.value == "completed"


async def letters(place):
    store = opened(place)
    kept = await store.catalogue.unhandled()
    await store.close()
    return kept


STATE = (
    "CAST(new.state AS TEXT) LIKE '%\"bad\"%'",
    "convert_from(new.state, 'UTF8') LIKE '%\"bad\"%'",
)
ROWS = {
    "a first turn": ("stored_events", *STATE),
    "its row of the index": ("saga_index", "new.key = 'bad'", "new.key = 'bad'"),
}


@pytest.mark.parametrize("what", ROWS)
@pytest.mark.parametrize("kind", PLACES)
async def test_a_record_whose_rows_the_event_store_refuses_is_a_dead_letter(request, kind, what):
    """Those of the same commit are begun, and go on."""
    place = request.getfixturevalue(kind)
    await make_tables(place)
    refuse(place, *ROWS[what])
    async with APP.service(**place.settings) as service:
        for name in ("good", "bad", "other"):
            await service.publish(Asked(name=name))
        await service.idle(timeout=HANG_S)
        for name in ("first", "good", "other"):
            await go_on(service, name)

    [letter] = await letters(place)
    assert (letter.reason, letter.key) == ("unstorable", b"bad")
    assert "not this one" in letter.message


@pytest.mark.parametrize("kind", PLACES)
async def test_a_saga_whose_later_turn_the_event_store_refuses_is_parked(request, kind):
    place = request.getfixturevalue(kind)
    await make_tables(place)
    async with APP.service(**place.settings) as service:
        for name in ("good", "bad"):
            await service.publish(Asked(name=name))
        await service.idle(timeout=HANG_S)
        refuse(
            place,
            "stored_events",
            "CAST(new.state AS TEXT) LIKE '%poison%'",
            "convert_from(new.state, 'UTF8') LIKE '%poison%'",
        )
        await service.signal(saga_id("row", "bad"), "go", "poison")
        await go_on(service, "good")
        await service.idle(timeout=HANG_S)

    store = opened(place)
    [summary] = await store.catalogue.summaries([saga_id("row", "bad")])
    await store.close()
    assert summary.status.value == "parked"
    assert "not this one" in summary.reason


@pytest.mark.parametrize("kind", PLACES)
async def test_a_dead_letter_that_the_store_refuses_is_kept_with_what_it_takes(request, kind):
    """Here that is all but the key; others are kept whole, and sagas go on."""
    place = request.getfixturevalue(kind)
    await make_tables(place)
    refuse(
        place, "unhandled", "new.saga_id IS NULL AND new.key = x'626164'", "new.key = 'bad'::bytea"
    )
    opened_bus = open_bus(Settings.read({}, **place.settings))
    for name in ("bad", "worse"):
        record = Record("dev.saga.rows.evt.asked.v1", name.encode(), b"{", ())
        await opened_bus.bus.publish([record])
    await opened_bus.close()
    async with APP.service(**place.settings) as service:
        await service.publish(Asked(name="good"))
        await service.idle(timeout=HANG_S)
        await go_on(service, "good")

    assert {each.key for each in await letters(place)} == {None, b"worse"}
