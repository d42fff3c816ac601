"""One id has one content, and belongs to its source, whatever it names: the first one stands."""

import pytest

from saga.contracts import CommandAct
from saga.contracts import cloudevents as ce
from saga.core.events import CancelMode
from saga.core.identity import saga_id
from tests.runtime.fixtures import NAMES, Scenario, order_id
from tests.runtime.toys import AlarmSet, OrderPlaced, Reserve, Reserved, alarms, ledger, orders

LEDGER = saga_id("ledger", "o-1")
SIGNAL = (CommandAct.SIGNAL, {"name": "stamp", "payload": "a"})
CANCEL = (CommandAct.CANCEL, {"reason": "late"})
RETRY = (CommandAct.RETRY, {"reason": "again"})
SAID = [
    SIGNAL,
    (CommandAct.SIGNAL, {"name": "stamp", "payload": "b"}),
    (CommandAct.SIGNAL, {"name": "seal", "payload": "a"}),
    (CommandAct.SIGNAL, {"name": "stamp", "payload": "a", "actor": "ann"}),
    CANCEL,
    (CommandAct.CANCEL, {"reason": "early"}),
    (CommandAct.CANCEL, {"reason": "late", "mode": CancelMode.IMMEDIATE}),
    (CommandAct.ABANDON, {"reason": "late"}),
    RETRY,
    (CommandAct.COMPENSATE, {"reason": "again"}),
    (CommandAct.RELEASE, {"reason": "again"}),
    (CommandAct.SKIP, {"reason": "again"}),
    (CommandAct.RETRY, {"reason": "again", "step": "pay"}),
]


@pytest.fixture
async def scenario() -> Scenario:
    made = Scenario(ledger, orders(), alarms())
    await made.take(made.event(OrderPlaced(order_id="o-1", amount=1), "o-1", id="m-1"))
    return made


def command(scenario: Scenario, said, *, id: str = "c-1", source: str | None = None):
    act, fields = said
    record = scenario.command(LEDGER, act, id=id, **fields)
    if source is None:
        return record
    headers = (*record.headers, (ce.SOURCE, source.encode()))
    return scenario.record(record.topic, record.key, record.value, headers)


def reasons(scenario: Scenario) -> list[str]:
    return [letter.reason for letter in scenario.dead_letters()]


@pytest.mark.parametrize("number", range(len(SAID)))
async def test_the_same_again_is_a_duplicate(scenario, number):
    await scenario.take(command(scenario, SAID[number]))
    before = len(scenario.history(LEDGER))
    unit = await scenario.take(command(scenario, SAID[number]))

    assert unit.counts["duplicate"] == 1
    assert len(scenario.history(LEDGER)) == before
    assert reasons(scenario) == []


@pytest.mark.parametrize("number", range(1, len(SAID)))
@pytest.mark.parametrize("is_alive", [True, False], ids=["in memory", "from its history"])
async def test_another_content_under_one_id_is_a_conflict(scenario, number, is_alive):
    """Exit 0, accepted, and nothing was cancelled."""
    await scenario.take(command(scenario, SIGNAL))
    before = len(scenario.history(LEDGER))
    if not is_alive:
        scenario.restart()
    await scenario.take(command(scenario, SAID[number]))

    assert reasons(scenario) == ["id_conflict"]
    assert scenario.dead_letters()[0].message == "the same id came before with another content"
    assert len(scenario.history(LEDGER)) == before
    scenario.check()


async def test_a_signal_under_the_id_of_a_cancel_is_a_conflict(scenario):
    await scenario.take(command(scenario, RETRY))
    await scenario.take(command(scenario, SIGNAL))

    assert reasons(scenario) == ["id_conflict"]


async def test_a_command_under_the_id_of_a_trigger_is_a_conflict(scenario):
    await scenario.take(command(scenario, CANCEL, id="m-1"))

    assert reasons(scenario) == ["id_conflict"]
    assert scenario.status(LEDGER) == "running"


async def test_both_in_one_batch(scenario):
    await scenario.take(command(scenario, SIGNAL), command(scenario, CANCEL))

    assert reasons(scenario) == ["id_conflict"]
    assert scenario.status(LEDGER) == "running"


async def test_an_id_belongs_to_its_source(scenario):
    """Two programs may count alike."""
    await scenario.take(
        command(scenario, SIGNAL, source="/a"), command(scenario, SIGNAL, source="/b")
    )

    assert reasons(scenario) == []
    assert scenario.status(LEDGER) == "completed"
    assert {entry.source for entry in scenario.history(LEDGER)} == {None, "/a", "/b"}
    scenario.check()


async def test_the_usual_source_is_left_out_of_the_history(scenario):
    """As is a missing one; another stands beside the actor."""
    usual = NAMES.source("publisher")
    signal = (CommandAct.SIGNAL, {"name": "seal", "payload": 1, "actor": "ann"})
    await scenario.take(
        command(scenario, signal, id="c-1", source=usual),
        command(scenario, signal, id="c-2"),
        command(scenario, signal, id="c-3", source="/elsewhere"),
    )

    facts = [entry for entry in scenario.history(LEDGER) if getattr(entry.body, "actor", None)]
    assert [(entry.body.actor, entry.source) for entry in facts] == [
        ("ann", None),
        ("ann", None),
        ("ann", "/elsewhere"),
    ]


async def test_a_key_that_is_taken_is_not_said_to_be_an_id(scenario):
    await scenario.take(scenario.event(OrderPlaced(order_id="o-1", amount=9), "o-1", id="m-2"))

    assert set(reasons(scenario)) == {"key_taken"}
    assert "same id" not in scenario.dead_letters()[0].message


async def test_one_id_of_two_sources_names_two_triggers(scenario):
    """So what the second one meets is a key that is taken."""
    event = scenario.event(OrderPlaced(order_id="o-1", amount=9), "o-1", id="m-1")
    headers = (*event.headers, (ce.SOURCE, b"/another/shop"))
    await scenario.take(scenario.record(event.topic, event.key, event.value, headers))

    assert set(reasons(scenario)) == {"key_taken"}


async def test_a_command_under_the_id_of_a_timer_does_not_stop_the_timer(scenario):
    """Whoever knows how timers are named must not disarm one."""
    alarm = saga_id("alarm", "a-1")
    await scenario.take(scenario.event(AlarmSet(name="a-1"), "a-1"))
    (timer,) = await scenario.store.due_timers(until=scenario.clock.now() + 10**9, limit=9)
    await scenario.take(
        scenario.command(alarm, CommandAct.RETRY, id=timer.timer_id, key="a-1", reason="x")
    )
    scenario.clock.advance(61)
    await scenario.take_due()

    assert "TimerFired" in scenario.bodies(alarm)
    assert reasons(scenario) == []


async def test_the_answers_of_services_say_from_where_they_came(scenario):
    """A reply is known by its intent all the same."""
    reply = scenario.reply(scenario.on(Reserve)[0], Reserved(shelf="s"))
    unit = await scenario.take(reply, reply)

    assert unit.counts["duplicate"] == 1
    entries = [entry for entry in scenario.history(order_id()) if entry.source is not None]
    assert {entry.source for entry in entries} == {"/test/service"}
