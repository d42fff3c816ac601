"""An append that the store refuses is taken apart: what cannot be recorded harms nobody else.

The store is told what to refuse, as a database does that has no such number or character.
"""

from dataclasses import replace
from hashlib import sha256

import pytest

from saga.core.events import TurnFailed
from saga.core.identity import INSTANT_MAX, Instant, instant, saga_id
from saga.core.intents import SignalAwaited
from saga.ports import Batch
from saga.ports.store import DeferralReason
from tests.runtime.fixtures import Scenario, order_id
from tests.runtime.test_missing_topics import booking
from tests.runtime.test_turns import placed
from tests.runtime.toys import AlarmSet, Booked, Reserve, alarms, orders

EVIL = order_id("evil")
NEIGHBOURS = [f"o-{number}" for number in range(20)]


@pytest.fixture
def scenario(make_scenario):
    return make_scenario(orders(), booking)


def refuse(scenario: Scenario, is_refused) -> None:
    """Have the store refuse a batch, as a driver does."""

    def on_append(batch: Batch) -> None:
        if is_refused(batch):
            raise OverflowError("int too big to convert")

    scenario.store.on_append = on_append


def turns_of(batch: Batch, saga) -> list:
    return [
        entry.body
        for history in batch.histories
        if history.saga_id == saga
        for turn in history.turns
        for entry in turn
    ]


def wants_a_step(batch: Batch) -> bool:
    """Whether a turn of the evil order is in it that is no failed one."""
    bodies = turns_of(batch, EVIL)
    return bool(bodies) and not any(isinstance(body, TurnFailed) for body in bodies)


async def serve(scenario: Scenario, *records) -> None:
    """Take all of the records at once, however often the store refuses."""
    await scenario.make_topics()
    scenario.bus.append(records)
    async with scenario.serving():
        await scenario.until(lambda: scenario.orchestrator.is_idle)


def in_the_middle(scenario: Scenario) -> list:
    names = [*NEIGHBOURS[:10], "evil", *NEIGHBOURS[10:]]
    return [placed(scenario, name) for name in names]


async def test_a_turn_that_cannot_be_recorded_parks_its_saga(scenario):
    """With what the store said; the record waits behind it, and is taken after a release."""
    refuse(scenario, wants_a_step)
    await serve(scenario, *in_the_middle(scenario))

    assert scenario.status(EVIL) == "parked"
    assert "OverflowError: int too big" in scenario.reason(EVIL)
    assert [record.reason for record in scenario.deferred()] == [DeferralReason.TURN_FAILED]
    assert scenario.dead_letters() == []
    assert {scenario.status(order_id(name)) for name in NEIGHBOURS} == {"running"}
    assert len(scenario.on(Reserve)) == len(NEIGHBOURS)

    refuse(scenario, lambda batch: False)
    scenario.restart()
    await serve(scenario, scenario.release(EVIL))
    assert scenario.status(EVIL) == "running"
    assert len(scenario.on(Reserve)) == len(NEIGHBOURS) + 1
    scenario.check()


async def test_of_several_sagas_that_a_record_starts_one_is_to_blame(scenario):
    """The other goes on."""
    refuse(scenario, wants_a_step)
    await serve(scenario, placed(scenario, "evil"))

    assert scenario.status(EVIL) == "parked"
    assert scenario.status(saga_id("booking", "evil")) == "completed"
    assert [record.key for record in scenario.on(Booked)] == [b"evil"]


async def test_a_record_whose_saga_cannot_be_recorded_at_all_is_a_dead_letter(scenario):
    """Whole, in the store and as a copy; a restart does not take it again."""
    refuse(scenario, lambda batch: bool(turns_of(batch, EVIL)))
    await serve(scenario, *in_the_middle(scenario))
    scenario.restart()
    await serve(scenario, placed(scenario, "later"))

    [letter] = scenario.dead_letters()
    assert (letter.reason, letter.key) == ("unstorable", b"evil")
    assert "OverflowError: int too big" in letter.message
    assert letter.value == placed(scenario, "evil").value
    assert {scenario.status(order_id(name)) for name in (*NEIGHBOURS, "later")} == {"running"}
    assert scenario.orchestrator.counts["unstorable"] == 0
    [copy] = scenario.on("toys.dlq.order-placed.v2")
    assert (copy.key, copy.value) == (letter.key, letter.value)


@pytest.mark.parametrize("part", ["headers", "value", "key"])
async def test_a_dead_letter_is_kept_with_what_the_store_takes_of_it(scenario, part):
    """What is left out is named by its size and hash."""
    refuse(scenario, lambda batch: any(getattr(each, part) for each in batch.unhandled))
    bad = scenario.record(placed(scenario, "x").topic, b"bad", b"no JSON", ((part, b"!"),))
    await serve(scenario, *(placed(scenario, name) for name in NEIGHBOURS[:5]), bad)

    [letter] = scenario.dead_letters()
    assert (letter.reason, letter.position.topic) == ("unstorable", bad.topic)
    assert getattr(letter, part) in (None, ())
    kept = {"headers": (b"bad", b"no JSON"), "value": (b"bad", None), "key": (None, None)}
    assert (letter.key, letter.value) == kept[part]
    if part == "value":
        assert f"7 bytes, sha256 {sha256(b'no JSON').hexdigest()}" in letter.message
    assert {scenario.status(order_id(name)) for name in NEIGHBOURS[:5]} == {"running"}


async def test_a_record_of_which_nothing_can_be_kept_is_passed_by(scenario):
    """Its position moves: nobody stands still for it."""
    refuse(scenario, lambda batch: bool(batch.unhandled))
    bad = scenario.record(placed(scenario, "x").topic, b"bad", b"no JSON")
    await serve(scenario, bad, placed(scenario, "o-1"))

    assert scenario.dead_letters() == []
    assert scenario.status(order_id("o-1")) == "running"


async def test_a_timer_whose_turn_cannot_be_recorded_parks_its_saga(make_scenario):
    """And its neighbour's timer fires."""
    scenario = make_scenario(alarms())
    evil, other = saga_id("alarm", "evil"), saga_id("alarm", "o-1")
    await serve(scenario, *(scenario.event(AlarmSet(name=name), name) for name in ("evil", "o-1")))
    refuse(scenario, lambda batch: any(isinstance(b, SignalAwaited) for b in turns_of(batch, evil)))
    scenario.restart()
    async with scenario.serving():
        await scenario.until(lambda: scenario.status(evil) == "parked")
        await scenario.until(lambda: "SignalAwaited" in scenario.bodies(other))

    assert "OverflowError" in scenario.reason(evil)
    assert scenario.status(other) == "running"


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (0, 0),
        (1_700_000_000_000_000, 1_700_000_000_000_000),
        (-1_000, 0),
        (-(2**62) * 1_000, 0),
        (1_700_000_000_000_000_000 * 1_000, INSTANT_MAX),
        (2**70, INSTANT_MAX),
    ],
)
def test_what_others_say_of_the_time_is_kept_within_what_can_be_shown(said, kept):
    assert instant(said) == kept


async def test_a_letter_whose_time_no_store_takes_is_kept_with_the_nearest(scenario):
    """As one may still be that came from elsewhere than a bus of ours."""
    refuse(scenario, lambda batch: any(each.timestamp > INSTANT_MAX for each in batch.unhandled))
    await scenario.make_topics()
    scenario.bus.append([scenario.record(placed(scenario, "x").topic, b"bad", b"no JSON")])
    for partition in scenario.bus.partitions.values():
        partition.records = [replace(each, timestamp=Instant(2**70)) for each in partition.records]
    await serve(scenario)

    [letter] = scenario.dead_letters()
    assert letter.timestamp == INSTANT_MAX
