"""`ctx.continue_as_new`: a saga ends its run and begins the next, as the same saga.

`given` loads each saga after every turn as a store does: from its last run on.
"""

from itertools import pairwise

import pytest

from saga.authoring import SagaRegistry, saga
from saga.contracts import ContractRegistry, Event, message_of, upcast
from saga.core.events import Event as Happened
from saga.core.events import ProgressReceived, ReplyOutcome, ReplyReceived, SagaStarted, TimerFired
from saga.core.history import History, RecordedTurn, turns
from saga.core.identity import DO, Instant, MessageId, intent_id, saga_id
from saga.core.intents import Continued, IntentIssued, TimerArmed
from saga.core.replay import replay
from saga.core.retry import ONCE
from saga.core.state import parts_of
from saga.errors import DefinitionError, ReplayMismatch
from saga.testing import (
    after,
    armed,
    cancelled,
    completed,
    continued,
    failed,
    given,
    issued,
    noted,
    operator,
    patched,
    planned,
    published,
    redelivered,
    refused,
    replied,
    rolled_back,
    signalled,
    timed_out,
    undo_issued,
)
from saga.testing.happenings import Plain
from tests.toys import (
    CONTRACTS,
    EXACT,
    Notify,
    OrderConfirmed,
    OrderPlaced,
    OrderRejected,
    OrderSeen,
    Paid,
    Pay,
    Refund,
    Reserve,
    Reserved,
    Ship,
    Unreserve,
    as_saga,
)

PLACED = OrderPlaced(amount=2)
NEXT = OrderPlaced(amount=1)
SHELF = replied(Reserve, Reserved())


def running(function, *happened, history=(), **options):
    return given(as_saga(function, **options), *happened, history=history, contracts=CONTRACTS)


async def countdown(ctx, placed):
    """One run for each piece."""
    await ctx.do(Pay(amount=placed.amount), undo=Refund, retry=ONCE)
    if placed.amount > 1:
        return await ctx.continue_as_new(OrderPlaced(amount=placed.amount - 1))
    return OrderConfirmed()


async def monthly(ctx, placed):
    """Every id that a run can have."""
    ctx.publish(OrderSeen())
    await ctx.sleep("1d")
    await ctx.wait("go", timeout="1h")
    await ctx.do(Ship(), timeout="30s")
    await ctx.continue_as_new(placed)


async def race(ctx, placed):
    if placed.amount == 1:
        return OrderConfirmed()
    await ctx.any(ctx.do(Pay(), undo=Refund, timeout="1m", retry=ONCE), ctx.do(Ship()))
    return await ctx.continue_as_new(NEXT)


class TestARun:
    def test_a_run_ends_and_the_next_begins_with_its_trigger(self):
        run = running(countdown, PLACED).when(replied(Pay, Paid()))

        run.then(continued(NEXT, run=2), issued(Pay(amount=1), step="2.pay"))
        run.when(replied(Pay, Paid())).then(completed(OrderConfirmed()))

    def test_every_id_of_a_later_run_begins_with_its_number(self):
        run = running(monthly, PLACED).when(after("1d"), signalled("go"), replied(Ship))
        run.then(issued(Ship, step="ship"), continued(PLACED), published(OrderSeen()))
        again = run.when(after("1d"), signalled("go"))
        again.then(armed("wait", "2.wait-go-1", "1h"), issued(Ship, step="2.ship"))

        armings = [each.body for each in run.history if isinstance(each.body, TimerArmed)]
        names = [timer.timer_id.partition("/")[2] for timer in armings]
        assert len(set(names)) == len(names)
        assert "2.sleep-1/sleep" in names
        assert "2.ship/do/1/deadline" in names
        publications = [e.body.publication for e in run.history if hasattr(e.body, "publication")]
        assert publications == ["order-seen-1", "2.order-seen-1"]

    def test_ids_and_chance_of_each_run_are_its_own(self):
        seen = []

        async def drawing(ctx, placed):
            seen.append((ctx.uuid(), ctx.random()))
            if placed.amount > 1:
                await ctx.wait("go")
                await ctx.continue_as_new(NEXT)
            await ctx.wait("end")

        running(drawing, PLACED).when(signalled("go"))
        assert len(set(seen)) == 2

    def test_what_an_earlier_run_did_is_not_undone_any_more(self):
        run = running(countdown, PLACED, replied(Pay, Paid())).when(refused(Pay))
        run.then(rolled_back(OrderRejected, failed_step="2.pay"))
        running(countdown, PLACED, replied(Pay, Paid())).when(cancelled()).when(
            replied(Pay, Paid())
        ).then(planned("2.pay"), undo_issued(Refund, step="2.pay"))

    def test_a_run_that_waits_for_nothing_begins_and_ends_in_one_turn(self):
        async def quick(ctx, placed):
            if placed.amount > 1:
                await ctx.continue_as_new(OrderPlaced(amount=placed.amount - 1))
            await ctx.do(Ship())

        run = running(quick).when(OrderPlaced(amount=4))
        run.then(issued(Ship, step="4.ship"))
        assert [e.body.run for e in run.history if isinstance(e.body, Continued)] == [2, 3, 4]

    def test_runs_that_go_in_a_circle_park_the_saga(self):
        async def circle(ctx, placed):
            await ctx.continue_as_new(placed)

        running(circle).when(PLACED).then_parked("so they go in a circle")

    def test_a_run_may_follow_a_pivot(self):
        """From its own start on the next run can be undone."""

        async def past(ctx, placed):
            await ctx.do(Reserve(), undo=Unreserve)
            if placed.amount > 1:
                await ctx.do(Pay(), kind="pivot")
                await ctx.continue_as_new(NEXT)
            await ctx.do(Ship())

        run = running(past, PLACED, SHELF, replied(Pay, Paid()), SHELF).when(refused(Ship))
        run.then(planned("2.reserve"), undo_issued(Unreserve, step="2.reserve"))

    def test_a_patch_is_taken_anew_by_each_run(self):
        async def patching(ctx, placed):
            ctx.patched("p")
            await ctx.wait("go")
            await ctx.continue_as_new(placed)

        running(patching, PLACED).when(signalled("go")).then(patched("p"))


class TestWhatPassesOver:
    async def counting(self, ctx, placed):
        await ctx.do(Ship())
        got = await ctx.wait("add", int)
        await ctx.continue_as_new(OrderPlaced(amount=placed.amount + got))

    def test_signals_that_nobody_has_read_are_the_next_runs(self):
        run = running(self.counting, PLACED, signalled("add", 10), signalled("add", 20))
        run.when(replied(Ship)).then(
            continued(OrderPlaced(amount=12), run=2), issued(Ship, step="2.ship")
        )
        run.when(replied(Ship)).then(continued(OrderPlaced(amount=32), run=3), issued(Ship))

    def test_a_signal_that_the_run_before_has_had_is_a_duplicate(self):
        run = running(self.counting, PLACED, replied(Ship), signalled("add", 10))
        run.when(redelivered()).then_nothing().then_was("duplicate")

    def test_the_same_id_with_another_content_is_known_as_such(self):
        run = running(self.counting, PLACED, replied(Ship), signalled("add", 10))
        event = run._last  # noqa: SLF001  # nothing says "under the same id"
        changed = Happened(type(event.fact)(name="add", payload="11"), event.at, event.cause)
        run._take(changed)  # noqa: SLF001  # as above
        run.then_was("id_conflict")

    def test_a_reply_that_the_run_before_has_had_is_a_duplicate(self):
        run = running(countdown, PLACED, replied(Pay, Paid()))
        run.when(redelivered()).then_nothing().then_was("duplicate")

    def test_a_late_reply_to_an_earlier_run_is_noted(self):
        run = running(countdown, OrderPlaced(amount=3), replied(Pay, Paid()), replied(Pay, Paid()))
        run.when(replied(Pay, Paid(receipt="late"), step="pay")).then(noted("earlier_run"))
        run.when(replied(Pay, Paid())).then(completed(OrderConfirmed()))

    def test_progress_of_a_step_of_an_earlier_run_is_no_news(self):
        run = running(countdown, PLACED, replied(Pay, Paid()))
        intent = intent_id(run.state.saga_id, "pay", DO, 1)
        run.when(Plain(ProgressReceived(intent_id=intent))).then_was("no_news")

    def test_a_reply_to_a_step_of_this_run_that_was_never_issued_is_unknown(self):
        run = running(countdown, PLACED, replied(Pay, Paid()))
        run.when(Plain(_reply_to(run, "2.ship")))
        run.then_was("unknown_intent")
        run.when(Plain(_reply_to(run, "3.pay")))
        run.then_was("unknown_intent")

    def test_the_first_trigger_is_a_duplicate_in_every_run(self):
        run = running(countdown, OrderPlaced(amount=3), replied(Pay, Paid()), replied(Pay, Paid()))
        run.when(OrderPlaced(amount=3)).then_nothing().then_was("duplicate")
        run.when(OrderPlaced(amount=7)).then_was("key_taken")

    def test_a_timer_of_the_run_before_is_stale(self):
        async def sleeping(ctx, placed):
            await ctx.any(ctx.sleep("1d"), ctx.wait("go"))
            await ctx.continue_as_new(placed)

        run = running(sleeping, PLACED)
        timer = next(iter(run.state.timers))
        run.when(signalled("go"))
        run.when(Plain(TimerFired(timer_id=timer)))
        run.then(noted("stale"))

    def test_only_the_run_just_ended_is_remembered(self):
        """So that the entry does not grow with the number of runs."""
        run = running(monthly, PLACED)
        for _ in range(4):
            run.when(after("1d"), signalled("go"), replied(Ship))
        causes = [len(e.body.causes) for e in run.history if isinstance(e.body, Continued)]
        assert causes == [4, 3, 3, 3]


class TestNothingMayBeInFlight:
    def test_a_branch_cannot_end_the_run_of_its_siblings(self):
        async def branch(ctx, placed):
            await ctx.continue_as_new(placed)

        async def racing(ctx, placed):
            await ctx.all(ctx.do(Ship()), branch(ctx, placed))

        running(racing).when(PLACED).then_parked("nothing may be in flight when a run ends")

    def test_a_group_that_is_through_is_no_hindrance(self):
        async def last(ctx):
            await ctx.continue_as_new(NEXT)

        async def grouping(ctx, placed):
            if placed.amount == 1:
                return OrderConfirmed()
            await ctx.all(ctx.do(Ship()), ctx.do(Notify()))
            return await ctx.all(last(ctx))

        running(grouping, PLACED, replied(Ship)).when(replied(Notify)).then(
            continued(NEXT), completed(OrderConfirmed())
        )

    def test_the_run_waits_for_what_lost_a_race_and_undoes_it(self):
        run = running(race, PLACED).when(replied(Ship))
        run.then()  # Pay is still under way
        run.when(replied(Pay, Paid())).then(planned("pay"), undo_issued(Refund))
        run.when(replied(Refund)).then(continued(NEXT), completed(OrderConfirmed()))

    def test_what_lost_a_race_without_effect_holds_up_nothing(self):
        run = running(race, PLACED, replied(Ship))
        run.when(refused(Pay)).then(continued(NEXT), completed(OrderConfirmed()))

    def test_a_saga_that_is_about_to_continue_can_be_cancelled(self):
        run = running(race, PLACED, replied(Ship)).when(cancelled(mode="immediate"))
        run.then(planned("pay"), undo_issued(Refund))
        run.when(replied(Refund)).then(
            rolled_back(OrderRejected, code="cancelled", residue=("ship",))
        )

    def test_a_stuck_undo_holds_up_the_next_run_until_somebody_acts(self):
        run = running(race, PLACED, replied(Ship), replied(Pay, Paid()))
        run.when(refused(Refund)).then_parked("cannot undo pay")
        run.when(operator("skip", "pay")).then(continued(NEXT), completed(OrderConfirmed()))

    def test_a_loser_that_has_no_undo_is_given_up(self):
        async def plain(ctx, placed):
            if placed.amount == 1:
                return OrderConfirmed()
            await ctx.any(ctx.do(Pay(), timeout="1m"), ctx.do(Ship()))
            return await ctx.continue_as_new(NEXT)

        run = running(plain, PLACED).when(replied(Ship))
        run.then(continued(NEXT), completed(OrderConfirmed()))
        assert not run.state.timers


class TestRefusals:
    """Each parks the saga, with file and line, before anything is recorded."""

    @pytest.mark.parametrize(
        ("trigger", "why"),
        [
            (OrderPlaced(order_id="o-2"), "key, so fill that of its trigger from ctx.key"),
            (OrderSeen(), "version 1 of saga 'order', the newest, starts on OrderPlaced"),
            (Ship(), "version 1 of saga 'order', the newest, starts on OrderPlaced"),
            (OrderPlaced, "was given a class"),
            ("next", "is no contract"),
        ],
        ids=["key", "event", "intent", "class", "text"],
    )
    def test_what_does_not_start_this_saga_is_refused(self, trigger, why):
        async def wrong(ctx, placed):
            await ctx.do(Ship())
            await ctx.continue_as_new(trigger)

        run = running(wrong, PLACED)
        run.when(replied(Ship)).then_parked(why)
        assert f"{__file__}:" in run.state.reason

    def test_mended_code_goes_on_when_the_saga_is_released(self):
        """So it may be with a saga that was run again: its trigger still says the old key."""

        def going_on(key_of):
            async def order(ctx, placed):
                await ctx.wait("go")
                await ctx.continue_as_new(OrderPlaced(order_id=key_of(ctx)))

            return order

        run = running(going_on(lambda _: "o-0"), PLACED).when(signalled("go"))
        run.then_parked("its key is 'o-0', and this saga's 'o-1'")
        mended = running(going_on(lambda ctx: ctx.key), history=run.history)
        mended.when(operator("release"), signalled("go")).then_status("running")
        assert mended.state.run_number == 2

    def test_a_step_id_that_looks_like_that_of_a_run_is_refused(self):
        async def alike(ctx, placed):
            await ctx.do(Ship(), id="2.ship")
            await ctx.continue_as_new(placed)

        running(alike, PLACED).when(replied(Ship)).then_parked("looks like one of a later run")

    def test_a_call_that_is_never_awaited_is_refused_on_import(self):
        with pytest.raises(DefinitionError, match="is never awaited"):

            @saga("order", version=1, starts_on=OrderPlaced)
            async def forgotten(ctx, placed):
                ctx.continue_as_new(placed)

    def test_what_was_forgotten_is_found_when_the_run_ends(self):
        async def forgetting(ctx, placed):
            calls = [ctx.do(Ship())]
            await ctx.wait("go")
            assert calls
            await ctx.continue_as_new(placed)

        running(forgetting, PLACED).when(signalled("go")).then_parked("was never awaited")


class Old(Event, topic="shop.renewed", version=1, key="order_id"):
    order_id: str = "o-1"


class New(Event, topic="shop.renewed", version=2, key="order_id"):
    order_id: str = "o-1"
    months: int = 1


@upcast
def renewed(old: Old) -> New:
    return New(order_id=old.order_id, months=12)


class TestVersions:
    @staticmethod
    def decider(*sagas):
        registry = SagaRegistry(sagas, ContractRegistry([*CONTRACTS, OrderPlaced, Old, New]))
        return registry.find("order", min(each.version for each in sagas)).decider

    @staticmethod
    def start(decider, trigger):
        key = "o-1"
        state = decider.initial_state(saga_id("order", key))
        fact = SagaStarted("order", decider.version, decider.fingerprint, key, message_of(trigger))
        return state, Happened(fact, Instant(1), MessageId("m-1"))

    async def old(self, ctx, placed):
        await ctx.continue_as_new(placed)

    async def new(self, ctx, placed):
        assert ctx.version == 2
        await ctx.do(Ship())

    def test_the_next_run_is_decided_by_the_newest_version(self):
        decider = self.decider(as_saga(self.old, version=1), as_saga(self.new, version=2))
        state, event = self.start(decider, PLACED)

        decision = decider.handle(state, event)

        begun, ship = decision.intents
        assert isinstance(begun, Continued)
        assert (begun.definition_version, begun.run) == (2, 2)
        assert isinstance(ship, IntentIssued)
        assert state.run.definition.version == 2

    def test_a_replay_takes_the_version_that_was_the_newest_then(self):
        """A third one has been deployed since."""

        async def newest(ctx, placed):
            await ctx.do(Notify())

        before = self.decider(as_saga(self.old, version=1), as_saga(self.new, version=2))
        state, event = self.start(before, PLACED)
        decided = list(before.handle(state, event).intents)
        now = self.decider(
            *(as_saga(self.old, version=1), as_saga(self.new, version=2)),
            as_saga(newest, version=3),
        )
        history = [*RecordedTurn(state.saga_id, 1, event, decided)]
        rebuilt = replay(now, state.saga_id, history)
        assert parts_of(rebuilt) == parts_of(state)
        assert rebuilt.run.definition.version == 2

    def test_an_old_trigger_is_read_as_the_newest_one(self):
        seen = []

        async def renewing(ctx, placed):
            seen.append(placed)
            if isinstance(placed, OrderPlaced):
                await ctx.continue_as_new(Old())
            await ctx.do(Ship())

        decider = self.decider(as_saga(renewing, starts_on=(OrderPlaced, New)))
        state, event = self.start(decider, PLACED)
        decider.handle(state, event)
        assert seen == [PLACED, New(months=12)]


class TestReplay:
    def test_a_run_that_goes_on_with_another_trigger_is_a_difference(self):
        async def otherwise(ctx, placed):
            await ctx.do(Pay(amount=placed.amount), undo=Refund, retry=ONCE)
            if placed.amount > 1:
                await ctx.continue_as_new(OrderPlaced(amount=7))
            return OrderConfirmed()

        history = running(countdown, PLACED, replied(Pay, Paid())).history
        with pytest.raises(ReplayMismatch, match="continued"):
            running(otherwise, history=history)

    def test_a_difference_in_the_last_run_is_found_where_it_is_loaded_from(self):
        """By the version of the entry, not by its place in what was loaded."""

        async def otherwise(ctx, placed):
            await ctx.do(Pay(amount=9), undo=Refund, retry=ONCE)
            return OrderConfirmed()

        run = running(countdown, PLACED, replied(Pay, Paid()))
        last = History(turns(run.history)[1:])
        registry = SagaRegistry([as_saga(otherwise)], ContractRegistry([*CONTRACTS, OrderPlaced]))
        with pytest.raises(ReplayMismatch) as found:
            replay(registry.find("order", 1).decider, run.state.saga_id, last)
        assert found.value.version == run.history[-1].version
        assert '"amount":1' in found.value.recorded

    def test_versions_of_a_history_go_on_without_gaps(self):
        run = running(countdown, OrderPlaced(amount=3), replied(Pay, Paid()), replied(Pay, Paid()))
        for one, two in pairwise(run.history):
            assert two.version == one.version + 1

    def test_timeouts_and_retries_work_in_a_later_run(self):
        async def trying(ctx, placed):
            if placed.amount > 1:
                await ctx.continue_as_new(NEXT)
            await ctx.do(Pay(), undo=Refund, timeout="1m", retry=EXACT)

        run = running(trying, PLACED).when(failed(Pay), after("10s"))
        run.then(issued(Pay, step="2.pay", attempt=2))
        run.when(timed_out(Pay), after("20s")).then(issued(Pay, step="2.pay", attempt=3))
        run.when(timed_out(Pay)).then(undo_issued(Refund, step="2.pay"))


def _reply_to(run, step):
    return ReplyReceived(intent_id(run.state.saga_id, step, DO, 1), ReplyOutcome.DONE)


async def telling(ctx, placed):
    """What people see and what others are told."""
    ctx.show(amount=placed.amount)
    await ctx.signal("order", "o-2", "hello")
    await ctx.tell(Notify())
    if placed.amount > 1:
        await ctx.wait("go")
        return await ctx.continue_as_new(OrderPlaced(amount=placed.amount - 1))
    return await ctx.wait("end", OrderConfirmed)


class TestWhatOthersSee:
    def test_what_is_shown_passes_over(self):
        run = running(telling, PLACED)
        assert run.state.shown == {"amount": "2"}
        run.when(signalled("go"))
        assert run.state.shown == {"amount": "1"}
        (begun,) = (each.body for each in run.history if isinstance(each.body, Continued))
        assert begun.shown == (("amount", "2"),)

    def test_each_run_tells_and_signals_under_ids_of_its_own(self):
        run = running(telling, PLACED).when(signalled("go"))
        sent = [e.body.command for e in run.history if hasattr(e.body, "command")]
        assert [each.partition("/")[2] for each in sent] == ["signal/1", "2.signal/1"]
        told = [e.body.step for e in run.history if type(e.body).__name__ == "IntentTold"]
        assert told == ["notify", "2.notify"]

    def test_what_a_service_answers_to_an_earlier_runs_word_is_noted(self):
        run = running(telling, PLACED, signalled("go"))
        run.when(Plain(_reply_to(run, "notify"))).then(noted("earlier_run"))


class TestAPausedSaga:
    def test_the_next_run_begins_when_a_pause_is_over(self):
        run = running(countdown, PLACED, operator("pause")).when(replied(Pay, Paid()))
        run.then_nothing()
        run.when(operator("resume")).then(continued(NEXT), issued(Pay, step="2.pay"))

    def test_what_lost_a_race_is_undone_in_a_pause_and_the_next_run_waits(self):
        run = running(race, PLACED, replied(Ship), operator("pause"), replied(Pay, Paid()))
        run.when(replied(Refund)).then()
        run.when(operator("resume")).then(continued(NEXT), completed(OrderConfirmed()))
