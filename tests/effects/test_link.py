"""A handler is told that nobody waits any more, and says that it still works."""

import asyncio
import json

import pytest

from saga.contracts import cloudevents as ce
from saga.core.identity import Direction, StepId, intent_id
from saga.effects import EffectContext, Effects
from saga.ports import Record
from tests.effects.fixtures import NAMES, SAGA, Scenario, intent
from tests.records import header
from tests.toys import Paid, Pay

PROGRESS = NAMES.topic("shop.evt.intent-progress.v1")
CANCELLED = NAMES.topic("shop.ctl.intent-cancelled.v1")


def notice(step: str = "pay", attempt: int = 1) -> Record:
    name = intent_id(SAGA, StepId(step), Direction.DO, attempt)
    value = json.dumps({"intent_id": name, "reason": "its time is up"}).encode()
    return Record(CANCELLED, b"o-1", value, ())


def told(scenario: Scenario) -> list[Record]:
    return [record for record in scenario.bus.replies if record.topic == PROGRESS]


@pytest.fixture
def patient():
    """A service whose handler works until it is told to stop."""
    effects = Effects("patient")

    @effects.on(Pay)
    async def pay(intent: Pay, ctx: EffectContext) -> Paid:
        while not ctx.cancelled:
            await scenario.clock.sleep(1)
        raise TimeoutError("nobody waits")

    scenario = Scenario(effects)
    return scenario


async def test_a_handler_at_work_sees_that_nobody_waits(patient: Scenario) -> None:
    async with patient as scenario:
        await scenario.bus.publish([intent(Pay())])
        await scenario.until(lambda: scenario.service.in_hand)
        await scenario.bus.publish([notice(step="another"), notice()])
        await scenario.until(scenario.replies)

        ((contract, payload),) = scenario.answers()
    assert contract == "shop.evt.intent-failed.v1"
    assert "nobody waits" in payload


async def test_the_next_attempt_is_not_the_one_that_was_given_up(patient: Scenario) -> None:
    async with patient as scenario:
        await scenario.bus.publish([intent(Pay(), attempt=1), intent(Pay(), attempt=2)])
        await scenario.until(lambda: scenario.service.in_hand)
        await scenario.bus.publish([notice(attempt=1)])
        await scenario.until(scenario.replies)
        assert [header(each, ce.CAUSATION_ID)[-4:] for each in scenario.replies()] == ["do/1"]
        await scenario.bus.publish([notice(attempt=2)])
        await scenario.until(lambda: len(scenario.replies()) == 2)


async def test_a_notice_that_nobody_can_read_holds_nothing_up(patient: Scenario) -> None:
    async with patient as scenario:
        await scenario.send(Record(CANCELLED, b"o-1", b"[]", ()), notice())

        assert scenario.dead_letters == []


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_handler_says_that_it_works(kind: str, threads: int) -> None:
    """Each time under another id, so that none is taken for the answer, or for another."""
    effects = Effects("worker")

    if kind == "async":

        @effects.on(Pay)
        async def pay(intent: Pay, ctx: EffectContext) -> Paid:
            await ctx.progress()
            await scenario.clock.sleep(1)
            await ctx.progress("half of it")
            return Paid(receipt="r-1")
    else:

        @effects.on(Pay)
        def pay_in_thread(intent: Pay, ctx: EffectContext) -> Paid:
            ctx.progress("half of it")
            return Paid(receipt="r-1")

    async with Scenario(effects, threads=threads) as scenario:
        await scenario.send(intent(Pay()))
        await scenario.until(lambda: told(scenario))
        records = told(scenario)

        assert json.loads(records[-1].value) == {"note": "half of it"}
        assert {record.key for record in records} == {b"o-1"}
        ids = {header(record, ce.ID) for record in (*records, *scenario.replies())}
        assert len(ids) == len(records) + 1
        causes = {header(record, ce.CAUSATION_ID) for record in records}
        assert causes == {intent_id(SAGA, StepId("pay"), Direction.DO, 1)}


async def test_a_bus_that_is_away_does_not_hold_up_the_work() -> None:
    effects = Effects("worker")
    went_on = asyncio.Event()

    @effects.on(Pay)
    async def pay(intent: Pay, ctx: EffectContext) -> Paid:
        scenario.bus.is_away = True
        await ctx.progress("half of it")
        scenario.bus.is_away = False
        went_on.set()
        return Paid(receipt="r-1")

    async with Scenario(effects) as scenario:
        await scenario.send(intent(Pay()))

        assert went_on.is_set()
        assert len(scenario.replies()) == 1


async def test_a_context_made_by_hand_has_nobody_at_the_other_end() -> None:
    """As in a unit test of a handler."""
    ctx = EffectContext(
        intent_id="i", idempotency_key="k", saga_id=SAGA, key="o-1", attempt=1, db=None
    )

    assert not ctx.cancelled
    assert await ctx.progress("half of it") is None
