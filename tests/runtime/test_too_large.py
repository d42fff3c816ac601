"""A record that its topic does not take parks the saga that says it, and nobody else."""

import pytest

from saga.contracts import contract_of
from saga.errors import MessageTooLarge
from saga.ports import Record
from saga.ports.bus import RecordLimits
from tests.runtime.fixtures import NAMES, Scenario, order_id
from tests.runtime.test_turns import placed
from tests.runtime.toys import OrderDone, Reserve, Reserved, Ship, orders

EVIL = order_id("evil")
NEIGHBOURS = [f"o-{number}" for number in range(20)]
LIMIT = 2_500
SHELF = "s" * 3_000


def topic_of(contract) -> str:
    return NAMES.topic(contract_of(contract).contract_name)


@pytest.fixture(params=[True, False], ids=["one file", "apart"])
def scenario(make_scenario, request):
    return make_scenario(orders(), shares_file=request.param)


async def serve(scenario: Scenario, *records) -> None:
    """Have a new process take these."""
    scenario.restart()
    await scenario.make_topics()
    scenario.bus.append(records)
    async with scenario.serving():
        await scenario.until(lambda: scenario.orchestrator.is_idle)
        await scenario.while_passing(3)  # sweeps have been made


def limit(scenario: Scenario, contract, size: int | None, *, is_told: bool = True) -> None:
    scenario.bus.topic_limits = {} if size is None else {topic_of(contract): size}
    scenario.bus.tells_limits = is_told


async def to_the_end(scenario: Scenario) -> None:
    """Reserve the evil order in a very long place; all others end well."""
    await serve(scenario, *(placed(scenario, name) for name in (*NEIGHBOURS[:9], "evil")))
    replies = [
        scenario.reply(each, Reserved(shelf=SHELF if each.key == b"evil" else "s"))
        for each in scenario.on(Reserve)
    ]
    await serve(scenario, *replies)
    await serve(scenario, *(scenario.reply(each) for each in scenario.on(Ship)))


async def test_an_outcome_that_its_topic_does_not_take_parks_its_saga(scenario):
    """With contract, size and limit; its neighbours end, after a restart too."""
    limit(scenario, OrderDone, LIMIT)
    await to_the_end(scenario)

    assert scenario.status(EVIL) == "parked"
    reason = scenario.reason(EVIL)
    assert "toys.evt.order-done.v1: a record of 3" in reason
    assert f"its topic {topic_of(OrderDone)} takes {LIMIT}" in reason
    assert {scenario.status(order_id(name)) for name in NEIGHBOURS[:9]} == {"completed"}
    assert len(scenario.on(OrderDone)) == 9
    assert scenario.orchestrator.problems() == ["not started yet, or stopped"]

    await serve(scenario, placed(scenario, "later"))
    assert scenario.status(order_id("later")) == "running"


async def test_after_a_release_it_goes_on_if_the_limit_was_raised(scenario):
    """It is asked for anew before the saga parks again."""
    limit(scenario, OrderDone, LIMIT)
    await to_the_end(scenario)
    await serve(scenario, scenario.release(EVIL))
    assert scenario.status(EVIL) == "parked"

    limit(scenario, OrderDone, None)
    await serve(scenario, scenario.release(EVIL, id="release-2"))

    assert scenario.status(EVIL) == "completed"
    assert len(scenario.on(OrderDone)) == 10
    scenario.check()


async def test_an_intent_that_its_topic_does_not_take_parks_its_saga(make_scenario):
    scenario = make_scenario(orders(note="n" * 3_000), shares_file=False)
    limit(scenario, Reserve, LIMIT)
    await serve(scenario, placed(scenario, "evil"))

    assert scenario.status(EVIL) == "parked"
    assert "toys.int.reserve.v1: a record of 3" in scenario.reason(EVIL)
    assert scenario.on(Reserve) == []


@pytest.fixture
def surprised(make_scenario):
    """The limit is lowered while records are on their way: only the bus itself refuses."""
    scenario = make_scenario(orders(), shares_file=False)
    limit(scenario, OrderDone, LIMIT, is_told=False)
    return scenario


async def test_a_record_refused_after_its_turn_holds_up_no_neighbour(surprised):
    """After a restart neither; it leaves, in its order, once the topic takes it."""
    await to_the_end(surprised)
    await serve(surprised, *(placed(surprised, name) for name in NEIGHBOURS[9:12]))

    done = {record.key for record in surprised.on(OrderDone)}  # a batch may be published again
    assert len(done) == 9
    assert {surprised.status(order_id(name)) for name in NEIGHBOURS[9:12]} == {"running"}
    assert surprised.orchestrator.problems() == ["not started yet, or stopped"]

    limit(surprised, OrderDone, None)
    surprised.restart()
    async with surprised.serving():
        await surprised.until(lambda: b"evil" in {each.key for each in surprised.on(OrderDone)})
    surprised.check()


async def test_a_saga_whose_stored_intent_is_refused_parks(make_scenario):
    """Before and after a restart, and again where it is released in vain."""
    scenario = make_scenario(orders(note="n" * 3_000), shares_file=False)
    limit(scenario, Reserve, LIMIT, is_told=False)
    await serve(scenario, placed(scenario, "evil"))
    assert scenario.status(EVIL) == "parked"
    assert f"too large for {topic_of(Reserve)}" in scenario.reason(EVIL)

    await serve(scenario, scenario.release(EVIL))
    assert scenario.status(EVIL) == "parked"
    assert scenario.bodies(EVIL).count("TurnFailed") == 2

    limit(scenario, Reserve, None)
    await serve(scenario, scenario.release(EVIL, id="release-2"))
    assert scenario.status(EVIL) == "running"
    assert len(scenario.on(Reserve)) == 1
    scenario.check()


async def test_who_waits_for_a_saga_whose_record_is_refused_is_told(make_scenario):
    scenario = make_scenario(orders(note="n" * 3_000), shares_file=False)
    limit(scenario, Reserve, LIMIT, is_told=False)
    await scenario.make_topics()
    scenario.bus.append([placed(scenario, "evil")])
    async with scenario.serving():
        with scenario.waiters.waiting(EVIL) as outcome:
            await scenario.until(outcome.done)
            assert outcome.result().status == "parked"
        limit(scenario, Reserve, None)
        await scenario.until(lambda: scenario.on(Reserve))


def test_limits_are_those_that_were_heard_last():
    limits = RecordLimits(10_000)
    record = Record("t", b"k" * 100, b"v" * 900, (("h", b"x"),))
    assert (limits.why_too_large(record), limits.surely_fits) == (None, 10_000 - 2_048)

    assert limits.learn({"t": 1_001})
    assert "a record of 1002 bytes, of which its topic t takes 1001" in limits.why_too_large(record)
    assert not limits.learn({"t": 1_001})
    assert limits.learn({"t": 1_002})
    assert limits.why_too_large(record) is None
    assert isinstance(MessageTooLarge("x", topic="t").topic, str)
