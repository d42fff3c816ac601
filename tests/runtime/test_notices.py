"""Services are told of intents for which nobody waits any more, and say that they work on."""

import json
from dataclasses import replace

import pytest

from saga import Context, saga
from saga.contracts import CommandAct
from saga.contracts import cloudevents as ce
from saga.core.durations import SECOND_US
from saga.core.events import CancelMode, ProgressReceived
from saga.core.identity import Instant
from saga.core.intents import TimerMoved
from saga.ports import Appended, Batch, DueTimer
from tests.records import header
from tests.runtime.fixtures import NAMES, Scenario, order_id
from tests.runtime.toys import OrderPlaced, Reserve, Reserved, Ship, Unreserve

CANCELLED = "toys.ctl.intent-cancelled.v1"
PROGRESS = "toys.evt.intent-progress.v1"


async def move(scenario: Scenario, timer: DueTimer, *, to_s: int, id: str) -> None:
    """An operator moves *timer*, which was due after 30 s."""
    due_at = timer.due_at + (to_s - 30) * SECOND_US
    said = {"timer": timer.timer_id, "due_at": due_at, "reason": "not yet"}
    await scenario.take(scenario.command(timer.saga_id, CommandAct.MOVE_TIMER, id=id, **said))


@saga("order", version=1, starts_on=OrderPlaced)
async def racing(ctx: Context, placed: OrderPlaced) -> None:
    """A step with a deadline beside one without; the first to be done wins."""
    first = ctx.do(Reserve(order_id=placed.order_id), undo=Unreserve, timeout="30s")
    await ctx.any(first, ctx.do(Ship(order_id=placed.order_id)))
    await ctx.sleep("1d")


@pytest.fixture
def scenario():
    return Scenario(racing)


async def begun(scenario: Scenario) -> Scenario:
    await scenario.take(scenario.event(OrderPlaced(order_id="o-1", amount=3), "o-1"))
    return scenario


def told(scenario: Scenario) -> list[tuple[str, str]]:
    """The intents of the notices, without their saga, and why nobody waits."""
    notices = [json.loads(record.value) for record in scenario.on(CANCELLED)]
    return [(each["intent_id"].partition("/")[2], each["reason"]) for each in notices]


def progress(scenario: Scenario, step: str = "reserve", attempt: int = 1, note=None):
    intent = f"{order_id()}/{step}/do/{attempt}"
    value = json.dumps({"note": note} if note else {}).encode()
    headers = ((ce.CAUSATION_ID, intent.encode()), (ce.ID, f"p-{scenario.clock.now()}".encode()))
    return scenario.record(NAMES.topic(PROGRESS), b"o-1", value, headers)


async def test_a_missed_deadline_is_told(scenario: Scenario) -> None:
    await begun(scenario)
    scenario.clock.advance(31)
    await scenario.take_due()

    assert told(scenario) == [("reserve/do/1", "its time is up")]
    (notice,) = scenario.on(CANCELLED)
    assert notice.key == b"o-1"
    assert header(notice, ce.CAUSATION_ID) == f"{order_id()}/reserve/do/1"
    scenario.check()


async def test_a_step_that_lost_a_race_is_told(scenario: Scenario) -> None:
    await begun(scenario)
    (ship,) = scenario.on(Ship)
    await scenario.take(scenario.reply(ship))

    assert told(scenario) == [("reserve/do/1", "its step was given up")]
    scenario.check()


async def test_a_run_may_end_while_what_lost_its_race_is_under_way() -> None:
    """The next run knows nothing of it, and begins all the same."""

    @saga("order", version=1, starts_on=OrderPlaced)
    async def again(ctx: Context, placed: OrderPlaced) -> None:
        if placed.amount:
            await ctx.any(ctx.do(Reserve(order_id="o-1"), kind="read_only"), ctx.sleep("1s"))
            await ctx.continue_as_new(OrderPlaced(order_id="o-1", amount=placed.amount - 1))
        await ctx.do(Ship(order_id="o-1"))

    scenario = await begun(Scenario(again))
    for _ in range(3):
        scenario.clock.advance(2)
        await scenario.take_due()

    (ship,) = scenario.on(Ship)
    assert header(ship, ce.ID) == f"{order_id()}/4.ship/do/1"
    scenario.check()


async def test_an_immediate_cancel_is_told_and_a_graceful_one_waits(scenario: Scenario) -> None:
    await begun(scenario)
    saga = order_id()
    await scenario.take(scenario.command(saga, CommandAct.CANCEL, id="c-1", reason="no"))
    assert told(scenario) == []
    mode = CancelMode.IMMEDIATE
    again = scenario.command(saga, CommandAct.CANCEL, id="c-2", reason="now", mode=mode)
    await scenario.take(again)

    assert told(scenario) == [
        ("reserve/do/1", "its saga goes on without it"),
        ("ship/do/1", "its saga goes on without it"),
    ]


async def test_what_is_answered_in_time_is_told_of_nothing(scenario: Scenario) -> None:
    await begun(scenario)
    (reserve,) = scenario.on(Reserve)
    (ship,) = scenario.on(Ship)
    await scenario.take(scenario.reply(reserve, Reserved(shelf="s-1")), scenario.reply(ship))

    assert [intent for intent, _ in told(scenario)] == ["ship/do/1"]  # which lost


async def test_progress_puts_a_deadline_off_in_the_due_index(scenario: Scenario) -> None:
    await begun(scenario)
    scenario.clock.advance(20)
    await scenario.take(progress(scenario, note="half"))
    scenario.clock.advance(20)
    await scenario.take_due()

    bodies = [entry.body for entry in scenario.history(order_id())]
    assert isinstance(bodies[-2], ProgressReceived)
    assert isinstance(bodies[-1], TimerMoved)
    assert told(scenario) == []
    scenario.clock.advance(11)
    await scenario.take_due()
    assert told(scenario) == [("reserve/do/1", "its time is up")]
    scenario.check()


async def test_a_timer_that_was_found_due_before_it_was_moved_fires_later(
    scenario: Scenario,
) -> None:
    await begun(scenario)
    scenario.clock.advance(29)
    await scenario.take(progress(scenario))
    (moved,) = await scenario.store.due_timers(until=scenario.clock.now() + 60_000_000, limit=9)
    stale = type(moved)(moved.timer_id, moved.saga_id, scenario.clock.now())
    before = scenario.history(order_id())
    await scenario.take(due=[stale])

    assert scenario.history(order_id()) == before
    assert await scenario.store.due_timers(until=moved.due_at, limit=9) == [moved]
    scenario.check()


async def test_a_timer_that_another_worker_has_moved_fires_at_its_new_time(
    scenario: Scenario,
) -> None:
    """What memory says of it is old, and is not written over what the store says."""
    await begun(scenario)
    (timer,) = scenario.store.inner.timers(9)
    behind = scenario.turns, scenario.cache, scenario.router
    scenario.restart()
    act, said = CommandAct.FIRE_TIMER, {"timer": timer.timer_id, "reason": "now"}
    await scenario.take(scenario.command(order_id(), act, id="c-1", **said))
    scenario.turns, scenario.cache, scenario.router = behind
    await scenario.take_due()

    assert scenario.bodies(order_id())[-2:] == ["TimerFired", "TimerArmed"]  # to try again
    scenario.check()


async def test_a_move_is_not_written_over_by_a_worker_that_knew_an_earlier_one(
    scenario: Scenario, monkeypatch
) -> None:
    """It had found the timer due before both; that it does not fire yet is in no history."""
    await begun(scenario)
    (found,) = scenario.store.inner.timers(9)
    await move(scenario, found, to_s=60, id="c-1")
    scenario.restart()
    append = scenario.store.append

    async def append_late(batch: Batch, *, at: Instant) -> Appended:
        monkeypatch.setattr(scenario.store, "append", append)
        behind = scenario.turns, scenario.cache, scenario.router
        scenario.restart()
        await move(scenario, found, to_s=45, id="c-2")
        scenario.turns, scenario.cache, scenario.router = behind
        return await append(batch, at=at)

    monkeypatch.setattr(scenario.store, "append", append_late)
    scenario.clock.advance(31)
    await scenario.take(due=[found])

    (timer,) = scenario.store.inner.timers(9)
    assert timer.due_at - found.due_at == 15 * SECOND_US


async def test_a_timer_whose_move_was_not_written_to_the_due_index_is_written_there(
    scenario: Scenario,
) -> None:
    """Else it would be found due again and again."""
    await begun(scenario)
    (timer,) = scenario.store.inner.timers(9)
    early = replace(timer, due_at=Instant(timer.due_at - 10 * SECOND_US))
    await scenario.store.append(Batch(timers_armed=[early]), at=scenario.clock.now())
    scenario.clock.advance(25)
    await scenario.take_due()

    assert scenario.store.inner.timers(9) == [timer]
    scenario.check()


async def test_progress_on_what_was_never_asked_is_a_dead_letter(scenario: Scenario) -> None:
    await begun(scenario)
    await scenario.take(progress(scenario, step="nothing"))

    (letter,) = scenario.dead_letters()
    assert letter.reason == "unknown_intent"


async def test_progress_without_a_cause_is_a_dead_letter(scenario: Scenario) -> None:
    await begun(scenario)
    await scenario.take(scenario.record(NAMES.topic(PROGRESS), b"o-1", b"{}"))

    (letter,) = scenario.dead_letters()
    assert letter.reason == "no_causation"
