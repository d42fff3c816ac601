"""Children on the command line: their topics and rights, and how a family reads."""

import json

import pytest

from tests.console.conftest import call, forget_applications

CHILD_TOPICS = ("saga.evt.child-ended.v1", "saga.evt.child-started.v1")
FAMILY = """
from saga import Context, Event, SagaApp, saga

class TripAsked(Event, topic="trips.trip-asked", version=1, key="trip"):
    trip: str

class LegAsked(Event, topic="trips.leg-asked", version=1, key="leg"):
    leg: str

class LegBooked(Event, topic="trips.leg-booked", version=1):
    leg: str

@saga("trip", version=1, starts_on=TripAsked)
async def trip(ctx: Context, asked: TripAsked) -> None:
    await ctx.child(LegAsked(leg=asked.trip), outcome=LegBooked)

@saga("leg", version=1, starts_on=LegAsked)
async def leg(ctx: Context, asked: LegAsked) -> LegBooked:
    await ctx.wait("go")
    return LegBooked(leg=asked.leg)

app = SagaApp(sagas=[trip, leg])
childless = SagaApp(sagas=[leg])
"""


@pytest.fixture
def family(tmp_path, monkeypatch):
    (tmp_path / "toys.py").write_text(FAMILY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("SAGA_APP", "toys:app")
    forget_applications()
    return tmp_path


def test_a_parents_application_lists_locks_and_describes_what_children_say(family):
    names = {row["contract"] for row in call("topics", "ls", "--json").rows}
    assert set(CHILD_TOPICS) <= names

    call("topics", "lock")
    locked = json.loads((family / "topics" / "contracts.lock.json").read_text())
    assert all(name in json.dumps(locked) for name in CHILD_TOPICS)
    assert call("topics", "check").code == 0

    document = call("topics", "asyncapi", "--json").row
    assert set(CHILD_TOPICS) <= document["channels"].keys()
    received = f"saga.trip.receive.{CHILD_TOPICS[0]}"
    assert received in document["operations"]
    assert f"saga.trip.send.{CHILD_TOPICS[0]}" not in document["operations"]


def test_topics_are_made_by_whoever_may_have_children_or_be_one(family, monkeypatch):
    for app in ("toys:app", "toys:childless"):
        monkeypatch.setenv("SAGA_APP", app)
        made = {row["topic"] for row in call("topics", "create", "--json").rows}
        assert {f"dev.saga.{name}" for name in CHILD_TOPICS} <= made


def test_rights_of_parents_and_of_those_that_may_be_children(family, monkeypatch):
    def rights() -> set[tuple[str, str]]:
        rows = call("topics", "acls", "--json").rows
        return {(row["operation"], row["name"]) for row in rows if row["who"] == "orchestrator"}

    topics = [f"dev.saga.{name}" for name in CHILD_TOPICS]
    parents = rights()
    monkeypatch.setenv("SAGA_APP", "toys:childless")
    childless = rights()
    for topic in topics:
        assert {("Read", topic), ("Write", topic)} <= parents
        assert ("Write", topic) in childless
        assert ("Read", topic) not in childless
    assert ("Write", "dev.saga.saga.ctl.command.v1") in parents


def test_a_family_is_run_shown_and_replayed(family):
    call("publish", "trips.evt.trip-asked.v1", '{"trip": "t-1"}')
    call("run", "--until-idle")
    assert call("show", "trip/t-1", "--json").row["waiting_for"] == "child leg-asked"

    call("signal", "leg/t-1", "go", "1", "--no-wait")
    call("run", "--until-idle")
    shown = call("show", "trip/t-1", "--json").row
    assert (shown["status"], shown["steps"][0]["status"]) == ("completed", "done")
    types = [row["type"] for row in call("history", "trip/t-1", "--json").rows]
    assert types[:3] == ["saga-started", "intent-issued", "child-started"]
    parent = call("history", "leg/t-1", "--json").rows[0]["data"]["parent"]
    assert parent["key"] == "t-1"
    assert call("replay", "--jobs", "0", "--json").code == 0


def test_a_replay_names_the_first_difference_of_a_child(family):
    call("publish", "trips.evt.trip-asked.v1", '{"trip": "t-1"}')
    call("run", "--until-idle")
    other = FAMILY.replace("leg=asked.trip)", "leg=asked.trip + '-x')")
    (family / "toys.py").write_text(other)

    called = call("replay", "--jobs", "0", "--definition", "trip", "--json")
    assert called.code == 1
    difference = called.rows[0]["difference"]
    assert difference["version"] == 2
    assert '"leg":"t-1"' in difference["recorded"]
    assert '"leg":"t-1-x"' in difference["decided"]
