"""Migrations: what a history calls things, what the new code calls them, and that no id is two."""

import pytest

from saga import saga
from saga.authoring import SagaRegistry
from saga.contracts import ContractRegistry, contract_of, message_of
from saga.core.events import (
    Event,
    Migrated,
    ReplyOutcome,
    ReplyReceived,
    SagaStarted,
    TimerFired,
)
from saga.core.fold import fold
from saga.core.history import RecordedTurn, last_migration, pinned_in, turns
from saga.core.identity import DO, Instant, MessageId, StepId, intent_id, saga_id
from saga.core.intents import IntentIssued, Noted, SagaCompleted, Verdict
from saga.core.migrations import new_name
from saga.core.replay import replay
from saga.core.state import parts_of
from saga.errors import DefinitionError, ReplayMismatch
from tests.toys import (
    OrderConfirmed,
    OrderPlaced,
    Paid,
    Pay,
    Refund,
    Reserve,
    Reserved,
    Ship,
    Unreserve,
)

ID = saga_id("order", "o-1")
DAY_US = 24 * 3600 * 1_000_000


class Recorded:
    """One saga, turn by turn: what each version decides, and when it is migrated."""

    def __init__(self, *functions):
        versions = [
            saga("order", version=number, starts_on=OrderPlaced)(function)
            for number, function in enumerate(functions, 1)
        ]
        models = [model for each in versions for model in each.contracts()]
        self.registry = SagaRegistry(versions, ContractRegistry([*models, OrderConfirmed]))
        self.decider = self.registry.find("order", 1).decider
        self.state = self.decider.initial_state(ID)
        self.history = []
        trigger = message_of(OrderPlaced())
        self.take(SagaStarted("order", 1, self.decider.fingerprint, "o-1", trigger))

    def take(self, fact):
        number = len(self.history)
        event = Event(fact, Instant(number * DAY_US), MessageId(f"m-{number}"))
        decision = self.decider.handle(self.state, event)
        self.history += RecordedTurn(ID, len(self.history) + 1, event, decision.intents)
        return decision.intents

    def replied(self, step):
        answers = {Reserve: Reserved(), Pay: Paid()}
        contract = self.state.steps[step].contract
        found = [each for of, each in answers.items() if contract_of(of).contract_name == contract]
        reply = message_of(found[0]) if found else None
        id_ = intent_id(ID, StepId(step), DO, 1)
        return self.take(ReplyReceived(id_, ReplyOutcome.DONE, reply))

    def migrate(self, version, **steps):
        """As a worker does: a replay of all, then one turn."""
        before = version - 1
        fact = Migrated(
            from_version=before,
            definition_version=version,
            reason="new rules",
            steps=tuple(steps.items()),
        )
        event = Event(fact, self.history[-1].at, MessageId(f"migrate-{version}"))
        ahead = RecordedTurn(ID, len(self.history) + 1, event, [])
        decider = self.registry.find("order", version).decider
        state = replay(decider, ID, self.history, ahead=ahead)
        self.state.program.close()
        self.decider, self.state = decider, state
        return self.take(fact)

    def is_rebuilt(self):
        """Whether a replay of all gives what the live saga is, and the entries alone do too."""
        rebuilt = replay(self.decider, ID, self.history)
        if rebuilt.program is not None:
            rebuilt.program.close()
        live = parts_of(self.state)
        return live == parts_of(rebuilt) == parts_of(fold(ID, self.history))


def issued(intents):
    return [f"{each.step}/{each.direction.value}" for each in intents if type(each) is IntentIssued]


async def pays(ctx, placed):
    await ctx.do(Reserve(), undo=Unreserve)
    await ctx.do(Pay(), undo=Refund)
    return OrderConfirmed()


async def holds(ctx, placed):
    await ctx.do(Reserve(), undo=Unreserve, id="hold")
    await ctx.do(Pay(), undo=Refund, id="charge")
    await ctx.do(Ship())
    return OrderConfirmed()


async def keeps(ctx, placed):
    await ctx.do(Reserve(), undo=Unreserve, id="keep")
    await ctx.do(Pay(), undo=Refund, id="charge")
    await ctx.do(Ship(), id="send")
    return OrderConfirmed()


def test_what_was_issued_keeps_its_id_and_what_comes_has_the_new_one():
    recorded = Recorded(pays, holds)
    assert recorded.migrate(2, reserve="hold", pay="charge") == []
    assert recorded.is_rebuilt()

    assert issued(recorded.replied("reserve")) == ["charge/do"]
    assert recorded.is_rebuilt()
    assert issued(recorded.replied("charge")) == ["ship/do"]
    decided = recorded.replied("ship")
    assert SagaCompleted in map(type, decided)
    assert recorded.is_rebuilt()


def test_undo_of_what_was_issued_before_has_the_id_of_before():
    recorded = Recorded(pays, holds)
    recorded.replied("reserve")
    recorded.migrate(2, reserve="hold", pay="charge")

    id_ = intent_id(ID, StepId("pay"), DO, 1)
    assert issued(recorded.take(ReplyReceived(id_, ReplyOutcome.REFUSED, message="no"))) == [
        "reserve/undo"
    ]
    assert recorded.is_rebuilt()


def test_names_change_again_with_each_migration():
    recorded = Recorded(pays, holds, keeps)
    recorded.migrate(2, reserve="hold", pay="charge")
    recorded.replied("reserve")
    recorded.migrate(3, hold="keep", ship="send")
    assert recorded.is_rebuilt()

    assert issued(recorded.replied("charge")) == ["send/do"]
    assert pinned_in(recorded.history).version == 3
    assert recorded.is_rebuilt()


def test_code_that_decides_otherwise_is_refused_at_the_first_entry():
    recorded = Recorded(pays, holds)

    with pytest.raises(ReplayMismatch) as mismatch:
        recorded.migrate(2)
    assert mismatch.value.version == 2
    assert "reserve/do/1" in mismatch.value.recorded
    assert "hold/do/1" in mismatch.value.decided


def test_two_recorded_names_that_would_be_one_are_refused():
    recorded = Recorded(pays, holds)
    recorded.replied("reserve")

    with pytest.raises(ReplayMismatch) as mismatch:
        recorded.migrate(2, reserve="pay")
    assert mismatch.value.decided == "one name for both: pay"


def test_new_step_never_has_the_id_of_one_that_is_called_otherwise():
    async def again(ctx, placed):
        await ctx.do(Reserve(), undo=Unreserve, id="hold")
        await ctx.do(Ship(), id="reserve")

    recorded = Recorded(pays, again)
    recorded.migrate(2, reserve="hold")

    with pytest.raises(DefinitionError, match="give the new one another name"):
        recorded.replied("reserve")


def test_two_names_may_change_places():
    async def swapped(ctx, placed):
        await ctx.do(Reserve(), undo=Unreserve, id="pay")
        await ctx.do(Pay(), undo=Refund, id="reserve")
        return OrderConfirmed()

    recorded = Recorded(pays, swapped)
    recorded.replied("reserve")
    recorded.migrate(2, reserve="pay", pay="reserve")
    recorded.replied("pay")
    assert recorded.state.status == "completed"
    assert recorded.is_rebuilt()


def test_scopes_sleeps_and_waits_have_names_too():
    async def tours(ctx, placed):
        async with ctx.scope("trip"):
            await ctx.do(Reserve(), undo=Unreserve)
            await ctx.sleep("1h")
            await ctx.do(Pay(), undo=Refund)

    async def travels(ctx, placed):
        async with ctx.scope("journey"):
            await ctx.do(Reserve(), undo=Unreserve)
            await ctx.sleep("1h")
            async with ctx.scope("fare"):
                await ctx.do(Pay(), undo=Refund)

    recorded = Recorded(tours, travels)
    recorded.replied("reserve")
    recorded.migrate(2, trip="journey")
    [timer] = recorded.state.timers
    decided = recorded.take(TimerFired(timer_id=timer))
    assert [each.scope for each in decided if type(each) is IntentIssued] == ["trip/fare"]
    assert recorded.is_rebuilt()


def test_refused_migration_is_none():
    fact = Migrated(from_version=1, definition_version=2, reason="r")
    event = Event(fact, Instant(1), MessageId("m"))
    note = Noted(verdict=Verdict.REFUSED, subject="migrate", detail="no")
    assert last_migration([RecordedTurn(ID, 2, event, [note])]) is None
    assert last_migration([RecordedTurn(ID, 2, event, [])]) is fact


def test_replay_may_end_at_any_turn_of_a_migrated_history():
    """With the migrations that it has by then."""
    recorded = Recorded(pays, holds)
    recorded.migrate(2, reserve="hold", pay="charge")
    recorded.replied("reserve")
    recorded.replied("charge")
    for turn in turns(recorded.history)[2:]:
        state = replay(recorded.decider, ID, recorded.history[: turn.version - 1])
        state.program.close()


@pytest.mark.parametrize(
    ("name", "new"),
    [
        ("pay", "charge"),
        ("pay-2", "charge-2"),
        ("3.pay", "3.charge"),
        ("3.pay-12", "3.charge-12"),
        ("payment", "payment"),
        ("pay-late", "pay-late"),
        ("trip/pay", "trip/charge"),
        ("ship-1", "sent"),
        ("ship-2", "ship-2"),
    ],
)
def test_new_name_of_a_name(name, new):
    assert new_name(name, {"pay": "charge", "ship-1": "sent"}) == new
