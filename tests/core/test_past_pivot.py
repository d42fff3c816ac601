"""Past the pivot: a failure goes to the code, and one left uncaught parks the saga on its step."""

from contextlib import nullcontext, suppress

import pytest

from saga.authoring import RollBack, StepFailed, TimedOut
from saga.core.intents import SagaParked, StepSettled
from saga.testing import (
    completed,
    failed,
    given,
    intent_told,
    issued,
    noted,
    operator,
    parked,
    published,
    refused,
    replied,
    resumed,
    rolled_back,
    signalled,
    timed_out,
    turn_failed,
    undo_issued,
)
from tests.toys import (
    CONTRACTS,
    ONCE,
    Notify,
    OrderConfirmed,
    OrderPlaced,
    OrderRejected,
    OrderSeen,
    Paid,
    Pay,
    Reserve,
    Reserved,
    Ship,
    Unreserve,
    as_saga,
)


def past_pivot(function, **options):
    """A saga whose pivot is behind it, then *function*."""

    async def order(ctx, placed):
        await ctx.do(Pay(), kind="pivot")
        return await function(ctx, placed)

    scenario = given(as_saga(order, **options), OrderPlaced(), contracts=CONTRACTS)
    return scenario.when(replied(Pay, Paid()))


def ship(ctx, **options):
    return ctx.do(Ship(), **{"retry": ONCE, **options})


def notify(ctx):
    return ctx.do(Notify(), retry=ONCE)


@pytest.mark.parametrize("kind", [None, "retriable", "read_only", "harmless"])
@pytest.mark.parametrize("failure", [refused(Ship, code="no"), failed(Ship, code="no")])
def test_failure_that_the_code_catches_does_not_park(kind, failure):
    """Of whatever kind the step is."""

    async def order(ctx, placed):
        try:
            await ship(ctx, kind=kind)
        except StepFailed as error:
            await ctx.do(Notify(order_id=error.code))
        return OrderConfirmed()

    (
        past_pivot(order)
        .when(failure)
        .then(issued(Notify(order_id="no")))
        .then_status("running")
        .when(replied(Notify))
        .then(completed(OrderConfirmed()))
    )


def test_missed_deadline_can_be_caught_too():
    async def order(ctx, placed):
        try:
            await ship(ctx, timeout="1m")
        except StepFailed as error:
            return OrderConfirmed(order_id=error.code)

    past_pivot(order).when(timed_out(Ship)).then(completed(OrderConfirmed(order_id="timeout")))


def test_late_success_of_a_step_whose_failure_was_caught_is_noted():
    async def order(ctx, placed):
        try:
            await ship(ctx, timeout="1m")
        except StepFailed:
            await ctx.wait("go")

    scenario = past_pivot(order).when(timed_out(Ship))
    scenario.when(replied(Ship)).then(noted("late_success")).then_steps(ship="done")


def test_uncaught_failure_parks_and_a_retry_goes_on_as_if_it_had_not_been():
    async def order(ctx, placed):
        await ship(ctx)
        await notify(ctx)
        return OrderConfirmed()

    (
        past_pivot(order)
        .when(refused(Ship, "no van"))
        .then(parked("step ship failed for good and there is no way back: no van"))
        .then_waits_for("operator")
        .when(operator("retry"))
        .then(issued(Ship, attempt=2))
        .when(refused(Ship, "no van again"))
        .then(parked("no van again"))
        .when(operator("retry"), replied(Ship))
        .then(issued(Ship, attempt=3), resumed(), issued(Notify))
        .when(replied(Notify))
        .then(completed(OrderConfirmed()))
    )


def test_late_success_frees_a_saga_that_parked():
    async def order(ctx, placed):
        await ship(ctx, timeout="1m")
        return OrderConfirmed()

    (
        past_pivot(order)
        .when(timed_out(Ship))
        .then_parked("ship")
        .when(replied(Ship))
        .then(noted("late_success"), resumed(), completed(OrderConfirmed()))
    )


def test_what_the_code_says_while_an_uncaught_failure_passes_is_not_heard():
    """It is told of the failure only once that counts: after a retry it goes on without it."""

    async def order(ctx, placed):
        try:
            await ship(ctx)
        except StepFailed:
            ctx.publish(OrderSeen(order_id="except"))
            raise
        finally:
            ctx.publish(OrderSeen(order_id="finally"))
            await ctx.tell(Notify())
        return OrderConfirmed()

    (
        past_pivot(order)
        .when(refused(Ship))
        .then(parked("ship"))
        .when(operator("retry"), replied(Ship))
        .then(
            issued(Ship, attempt=2),
            published(OrderSeen(order_id="finally")),
            intent_told(Notify),
            completed(OrderConfirmed()),
        )
    )


def test_code_that_turns_a_failure_into_another_parks_on_the_step_all_the_same():
    async def order(ctx, placed):
        try:
            await ship(ctx)
        except StepFailed as error:
            raise RollBack("cannot ship") from error

    (
        past_pivot(order)
        .when(refused(Ship))
        .then(parked("step ship failed for good"))
        .when(operator("retry"), replied(Ship))
        .then(issued(Ship, attempt=2), completed())
    )


def test_failure_that_has_led_to_something_before_it_is_left_uncaught_parks_the_whole():
    """What it led to is recorded, so the code cannot go on as though it had not been told."""

    async def order(ctx, placed):
        try:
            await ship(ctx)
        finally:
            await notify(ctx)

    scenario = past_pivot(order).when(refused(Ship, "no van")).then(issued(Notify))
    scenario.when(replied(Notify)).then(parked("past its pivot, so it can only go forward"))
    scenario.when(operator("retry", "ship")).then(noted("refused"))
    scenario.when(operator("compensate")).then(
        rolled_back(OrderRejected, residue=("pay", "notify"))
    )


def test_retriable_step_before_the_pivot_parks_as_ever():
    async def order(ctx, placed):
        await ctx.do(Reserve(), undo=Unreserve)
        await ctx.do(Ship(), kind="retriable", retry=ONCE)

    scenario = given(as_saga(order), OrderPlaced(), replied(Reserve, Reserved()))
    scenario.when(failed(Ship)).then(parked("step ship failed for good"))
    scenario.when(operator("retry"), replied(Ship)).then(issued(Ship), completed())


class TestGroups:
    def test_waiting_group_waits_and_only_its_uncaught_failure_parks(self):
        async def order(ctx, placed):
            await ctx.all(ship(ctx), notify(ctx))
            return OrderConfirmed()

        (
            past_pivot(order)
            .when(refused(Ship))
            .then()
            .then_waits_for("reply to notify")
            .when(replied(Notify))
            .then(parked("ship"))
            .when(operator("retry"))
            .then(issued(Ship, attempt=2))
            .when(replied(Ship))
            .then(completed(OrderConfirmed()))
        )

    def test_failure_of_a_group_can_be_caught(self):
        async def order(ctx, placed):
            try:
                await ctx.all(ship(ctx), notify(ctx))
            except StepFailed as error:
                return OrderConfirmed(order_id=error.step)

        (
            past_pivot(order)
            .when(refused(Ship), replied(Notify))
            .then(completed(OrderConfirmed(order_id="ship")))
        )

    def test_all_that_failed_can_be_tried_again_in_any_order(self):
        async def order(ctx, placed):
            async def branch(call):
                return await call

            await ctx.all(
                branch(ship(ctx)), ctx.all(notify(ctx), branch(ctx.do(Reserve(), retry=ONCE)))
            )
            return OrderConfirmed()

        (
            past_pivot(order)
            .when(refused(Ship), refused(Notify))
            .then()
            .when(refused(Reserve))
            .then(parked("ship"), parked("notify"), parked("reserve"))
            .when(operator("retry", "notify"), replied(Notify))
            .then(issued(Notify, attempt=2))
            .then_status("parked")
            .when(operator("retry", "reserve"), operator("retry", "ship"))
            .then(issued(Reserve, attempt=2), issued(Ship, attempt=2))
            .when(replied(Ship), replied(Reserve, Reserved()))
            .then(completed(OrderConfirmed()))
        )

    def test_what_a_sibling_says_before_the_failure_surfaces_stands(self):
        """And what the code says behind it does not."""

        async def order(ctx, placed):
            async def sibling():
                await notify(ctx)
                ctx.publish(OrderSeen(order_id="sibling"))

            try:
                await ctx.all(ship(ctx), sibling())
            finally:
                ctx.publish(OrderSeen(order_id="finally"))

        (
            past_pivot(order)
            .when(refused(Ship), replied(Notify))
            .then(published(OrderSeen(order_id="sibling")), parked("ship"))
            .when(operator("retry"), replied(Ship))
            .then(issued(Ship), published(OrderSeen(order_id="finally")), completed())
        )

    def test_fast_group_parks_at_once_and_its_siblings_go_on(self):
        """It may yet succeed."""

        async def order(ctx, placed):
            async def sibling():
                await notify(ctx)
                await ctx.do(Reserve())

            await ctx.all(ship(ctx), sibling(), fail="fast")
            return OrderConfirmed()

        (
            past_pivot(order)
            .when(refused(Ship))
            .then(parked("ship"))
            .when(replied(Notify))
            .then(issued(Reserve))
            .when(operator("retry"), replied(Reserve, Reserved()), replied(Ship))
            .then(issued(Ship), completed(OrderConfirmed()))
        )

    def test_caught_failure_of_a_group_is_not_tried_again_by_a_later_one(self):
        async def order(ctx, placed):
            try:
                await ctx.all(ship(ctx), notify(ctx))
            except StepFailed:
                await ctx.do(Reserve(), retry=ONCE)

        (
            past_pivot(order)
            .when(refused(Ship), refused(Notify))
            .then(issued(Reserve))
            .when(refused(Reserve))
            .then(parked("reserve"))
            .when(operator("retry", "ship"))
            .then(noted("refused"))
            .when(operator("retry"), replied(Reserve, Reserved()))
            .then(issued(Reserve), completed())
        )

    @pytest.mark.parametrize("at_once", [1, 2, None])
    def test_limited_group_goes_on_and_what_failed_can_be_tried_again(self, at_once):
        async def order(ctx, placed):
            calls = [ctx.do(Notify(), id=f"n{n}", retry=ONCE) for n in range(4)]
            await ctx.all(*calls, at_once=at_once)
            return OrderConfirmed()

        scenario = past_pivot(order).when(refused("n0"), refused("n1"), replied("n2"))
        scenario.when(replied("n3")).then_parked("n1")
        scenario.when(operator("retry", "n1"), operator("retry", "n0"), replied("n1"))
        scenario.when(replied("n0")).then(completed(OrderConfirmed()))


def test_a_history_that_parked_before_the_code_was_told_replays_unchanged():
    """Releases before this one never told it; today's code may even catch the failure."""

    async def careless(ctx, placed):
        await ship(ctx)
        return OrderConfirmed()

    async def careful(ctx, placed):
        try:
            await ship(ctx)
        except StepFailed:
            await notify(ctx)
        return OrderConfirmed()

    recorded = past_pivot(careless).when(refused(Ship)).history
    assert [type(each.body) for each in recorded[-2:]] == [StepSettled, SagaParked]

    def again(function):
        async def order(ctx, placed):
            await ctx.do(Pay(), kind="pivot")
            return await function(ctx, placed)

        return given(as_saga(order), history=recorded, contracts=CONTRACTS)

    again(careless).when(operator("retry"), replied(Ship)).then(
        issued(Ship), completed(OrderConfirmed())
    )
    again(careful).when(operator("retry"), refused(Ship)).then(issued(Ship), issued(Notify))


def test_a_step_with_an_undo_parks_the_saga_before_it_is_issued():
    """It says which step, behind which pivot, and where it is written."""

    async def late(ctx, placed):
        await ctx.do(Reserve(), undo=Unreserve)

    scenario = past_pivot(late)

    scenario.then_parked("step 'reserve' can be undone, but comes after the pivot 'pay'")
    line = late.__code__.co_firstlineno + 1
    assert f"{__file__}:{line}: " in scenario.state.reason
    assert set(scenario.state.steps) == {"pay"}


def test_so_it_is_in_a_branch_beside_the_pivot():
    """The branch was under way before the pivot was behind it."""

    async def order(ctx, placed):
        async def reserve():
            await ctx.do(Ship())
            await ctx.do(Reserve(), undo=Unreserve)

        await ctx.all(ctx.do(Pay(), kind="pivot"), reserve())

    scenario = given(as_saga(order), OrderPlaced(), contracts=CONTRACTS)
    scenario.when(replied(Pay, Paid()), replied(Ship)).then_parked("comes after the pivot 'pay'")

    in_time = given(as_saga(order), OrderPlaced(), contracts=CONTRACTS)
    in_time.when(replied(Ship), replied(Pay, Paid()), replied(Reserve, Reserved()))
    in_time.then_status("completed")


def test_what_an_earlier_release_has_issued_there_is_replayed_and_goes_on():
    """Only a live turn refuses it."""

    def order_of(**options):
        async def order(ctx, placed):
            await ctx.do(Pay(), kind="pivot")
            await ctx.do(Reserve(), **options)
            return OrderConfirmed()

        return as_saga(order)

    before = given(order_of(), OrderPlaced(), contracts=CONTRACTS).when(replied(Pay, Paid()))

    later = given(order_of(undo=Unreserve), contracts=CONTRACTS, history=before.history)

    later.when(replied(Reserve, Reserved())).then(completed(OrderConfirmed()))


def test_a_release_takes_the_event_again():
    """Under the same code the saga parks again; its step was never issued."""

    async def late(ctx, placed):
        await ctx.do(Reserve(), undo=Unreserve)

    scenario = past_pivot(late).then_parked("comes after the pivot")
    scenario.when(operator("release")).then_parked("comes after the pivot")
    assert set(scenario.state.steps) == {"pay"}


def test_a_branch_that_begins_with_the_failure_and_ends_at_once_stands_before_the_parking():
    """A signal was kept for it, so the whole group is through in the turn of the failure."""

    async def branches(ctx, placed):
        await ctx.all(ship(ctx), ctx.wait("go"), at_once=1)
        return OrderConfirmed()

    scenario = past_pivot(branches).when(signalled("go"), failed(Ship)).then_parked("ship")
    scenario.when(operator("retry"), replied(Ship)).then(
        resumed(), issued(Ship), completed(OrderConfirmed())
    )


def test_a_scope_that_is_left_in_the_turn_of_the_parking_is_undone_before_it():
    """The failure was told earlier; it surfaces once the scope beside it is undone."""

    async def branches(ctx, placed):
        async def scoped():
            async with ctx.scope():
                await ctx.wait("go", timeout="9s")

        await ctx.all(ship(ctx), scoped())

    past_pivot(branches).when(failed(Ship), timed_out("go")).then_parked("ship")


@pytest.mark.parametrize("scoped", [False, True])
@pytest.mark.parametrize("first", [failed(Ship), signalled("a")])
def test_what_comes_behind_the_parking_in_its_turn_is_told_in_the_next(scoped, first):
    """Several things are told in one turn where a saga goes on behind a pause."""

    async def branches(ctx, placed):
        async def one(name):
            async with ctx.scope(name) if scoped else nullcontext():
                await ctx.wait(name)
                if scoped:
                    raise RollBack(name)

        async def notifies():
            with suppress(RollBack):
                await one("b")
            await notify(ctx)

        await ctx.all(ctx.all(ship(ctx), one("a")), notifies(), fail="fast")
        return OrderConfirmed()

    scenario = past_pivot(branches).when(operator("pause"), first)
    scenario.when(signalled("a") if first != signalled("a") else failed(Ship), signalled("b"))
    scenario.when(operator("resume")).then_parked("ship")
    scenario.when(operator("retry")).then(issued(Ship, attempt=2), issued(Notify))
    scenario.when(replied(Notify), replied(Ship)).then_status("parked" if scoped else "completed")


@pytest.mark.parametrize("is_paused", [False, True])
def test_what_comes_behind_the_parking_in_its_turn_is_told_before_what_comes_in_the_next(is_paused):
    """The signal came first, so it wins; it may not be told to who has lost."""

    async def order(ctx, placed):
        async def waits():
            await ctx.wait("go")
            return "signal"

        async def asks():
            await notify(ctx)
            return "reply"

        async def race():
            ctx.show(won_by=await ctx.any(waits(), asks()))

        await ctx.all(ship(ctx), race(), fail="fast")
        return OrderConfirmed()

    scenario = past_pivot(order).when(operator("pause"), failed(Ship), signalled("go"))
    scenario.when(operator("resume")).then_parked("ship")
    if is_paused:
        scenario.when(operator("pause"), replied(Notify), operator("resume"))
    else:
        scenario.when(replied(Notify))
    assert scenario.shown == {"won_by": "signal"}
    scenario.when(operator("retry"), replied(Ship)).then_status("completed")


def test_what_was_put_off_is_told_behind_a_failed_turn_and_a_pause_too():
    async def order(ctx, placed):
        async def waits():
            await ctx.wait("go")
            ctx.show(went=True)

        await ctx.all(ship(ctx), waits(), fail="fast")

    scenario = past_pivot(order).when(operator("pause"), failed(Ship), signalled("go"))
    scenario.when(operator("resume"), turn_failed("the code at hand raised"))
    scenario.when(operator("pause"), operator("release"), operator("resume"))
    assert scenario.shown == {"went": True}


def test_what_is_said_behind_a_scope_that_was_undone_stands_before_the_parking():
    """Its undo ends in this turn, and what follows from that comes before the failure surfaces."""

    async def order(ctx, placed):
        async def charges():
            await ctx.do(Pay(), kind="pivot")
            await ship(ctx)

        async def scoped():
            try:
                async with ctx.scope():
                    await ctx.do(Reserve(), undo=Unreserve)
                    await ctx.wait("go", timeout="9s")
            except TimedOut:
                ctx.publish(OrderSeen())
                raise

        await ctx.all(charges(), scoped())

    scenario = given(as_saga(order), OrderPlaced(), contracts=CONTRACTS)
    scenario.when(replied(Reserve, Reserved()), replied(Pay, Paid()), refused(Ship))
    scenario.when(timed_out("go")).then(undo_issued(Unreserve))
    scenario.when(replied(Unreserve)).then(published(OrderSeen()), parked("ship"))


def notifies(ctx, name, **options):
    return ctx.do(Notify(), id=name, retry=ONCE, **options)


@pytest.mark.parametrize("at_once", [1, None])
def test_a_fast_group_that_drops_what_has_succeeded_has_acted_on_the_failure(at_once):
    """Its last branch failed, so there was nothing left to stop."""

    async def order(ctx, placed):
        fast = ctx.all(notifies(ctx, "n0"), notifies(ctx, "n1"), fail="fast")
        await ctx.all(ctx.all(ship(ctx), fast), ctx.do(Reserve(), retry=ONCE), at_once=at_once)

    scenario = past_pivot(order).when(refused(Ship), replied("n0"), refused("n1"))
    scenario.when(replied(Reserve, Reserved())).then_parked("ship")
    scenario.when(operator("retry"), replied(Ship)).then_parked("past its pivot")


def test_what_has_dropped_something_in_the_turn_of_the_parking_can_be_tried_again():
    """The turn is taken back to before it, with what was dropped."""

    async def order(ctx, placed):
        await ctx.all(ship(ctx), ctx.all(notifies(ctx, "n0"), ctx.wait("go"), fail="fast"))
        return OrderConfirmed()

    scenario = past_pivot(order).when(refused(Ship), refused("n0"))
    scenario.then(parked("ship"), parked("n0"))
    scenario.when(operator("retry", "ship"), operator("retry", "n0"), signalled("go"))
    scenario.when(replied(Ship), replied("n0")).then(completed(OrderConfirmed()))


def test_a_failure_that_is_caught_behind_a_group_is_told_in_a_replay_too():
    """Also in a turn in which nobody says anything."""

    async def order(ctx, placed):
        caught: list[str] = []

        async def careful():
            try:
                await ctx.all(notify(ctx), ctx.wait("go", timeout="9s"))
            except StepFailed as error:
                caught.append(error.step)

        async def report():
            await ctx.do(Reserve(order_id=f"{caught}"), retry=ONCE)

        await ctx.all(ctx.all(ship(ctx), careful()), report(), at_once=1)

    scenario = past_pivot(order).when(refused(Notify), timed_out("go"), failed(Ship))
    scenario.then(issued(Reserve(order_id="['notify']")))
    scenario.when(replied(Reserve, Reserved())).then_parked("ship")


def test_what_begins_in_the_place_of_a_kept_failure_stands_before_the_parking():
    async def order(ctx, placed):
        async def says():
            ctx.publish(OrderSeen())

        await ctx.all(ctx.all(ship(ctx), notify(ctx)), says(), at_once=1)
        return OrderConfirmed()

    scenario = past_pivot(order).when(refused(Ship), replied(Notify))
    scenario.then(published(OrderSeen()), parked("ship"))
    scenario.when(operator("retry"), replied(Ship)).then(issued(Ship), completed(OrderConfirmed()))


def test_what_begins_in_the_place_of_a_failure_told_behind_a_pause_stands_before_the_parking():
    async def order(ctx, placed):
        async def says():
            ctx.publish(OrderSeen())

        await ctx.all(ship(ctx), notify(ctx), says(), at_once=1)
        return OrderConfirmed()

    scenario = past_pivot(order).when(refused(Ship), operator("pause"), refused(Notify))
    scenario.when(operator("resume"))
    scenario.then(published(OrderSeen()), parked("ship"), parked("notify"))
    scenario.when(operator("retry", "ship"), operator("retry", "notify"))
    scenario.when(replied(Ship), replied(Notify)).then(completed(OrderConfirmed()))


@pytest.mark.parametrize("is_paused", [False, True])
def test_what_says_something_while_it_passes_lets_nothing_begin_in_its_place(is_paused):
    """Nothing of the turn stands, so what begins there does not, whether it was told in a pause."""

    async def order(ctx, placed):
        async def says_so():
            try:
                await ship(ctx)
            except StepFailed as error:
                ctx.publish(OrderSeen(order_id=error.step))
                raise

        async def tells():
            await ctx.tell(Notify())

        await ctx.all(says_so(), tells(), at_once=1)
        return OrderConfirmed()

    scenario = past_pivot(order)
    if is_paused:
        scenario.when(operator("pause"), refused(Ship), operator("resume"))
    else:
        scenario.when(refused(Ship))
    scenario.then(parked("ship")).when(operator("retry"), replied(Ship))
    scenario.then(
        issued(Ship, attempt=2), resumed(), intent_told(Notify), completed(OrderConfirmed())
    )


def test_what_is_caught_behind_a_pause_and_leads_to_nothing_lets_nothing_begin_either():
    async def order(ctx, placed):
        async def careful():
            with suppress(StepFailed):
                await notify(ctx)

        async def gives_up():
            ctx.publish(OrderSeen())
            raise RollBack("no")

        await ctx.all(ctx.all(ship(ctx), careful()), gives_up(), at_once=1)

    scenario = past_pivot(order).when(refused(Ship), operator("pause"), refused(Notify))
    scenario.when(operator("resume")).then(parked("ship"), parked("notify"))
    scenario.when(operator("retry", "ship"), operator("retry", "notify"))
    scenario.when(replied(Ship), replied(Notify)).then(published(OrderSeen()), parked("no"))


def test_a_fast_group_whose_failure_is_told_behind_a_pause_begins_nothing_more():
    async def order(ctx, placed):
        await ctx.all(ship(ctx), notify(ctx), fail="fast", at_once=1)
        return OrderConfirmed()

    scenario = past_pivot(order).when(operator("pause"), refused(Ship))
    scenario.when(operator("resume")).then(parked("ship"))
    scenario.when(operator("retry"), replied(Ship)).then(issued(Ship), issued(Notify))
    scenario.when(replied(Notify)).then(completed(OrderConfirmed()))


def test_a_sleep_that_begins_behind_a_pause_begins_before_the_parking():
    async def order(ctx, placed):
        async def sleeps():
            await ctx.wait("go")
            await ctx.sleep("7s")

        await ctx.all(ctx.all(ship(ctx), ctx.wait("stop")), sleeps(), fail="fast")

    scenario = past_pivot(order).when(operator("pause"), refused(Ship))
    scenario.when(signalled("go"), signalled("stop"), operator("resume"))
    scenario.then(parked("ship"))
    assert any(timer.target == "sleep-1" for timer in scenario.state.timers.values())


@pytest.mark.parametrize("is_paused", [False, True])
def test_a_scope_that_is_left_behind_a_pause_is_undone_before_what_came_next(is_paused):
    async def order(ctx, placed):
        async def scoped():
            async with ctx.scope():
                await notify(ctx)

        await ctx.all(ctx.all(ship(ctx), ctx.wait("go")), scoped(), fail="fast")

    scenario = past_pivot(order)
    if is_paused:
        scenario.when(operator("pause"))
    scenario.when(refused(Ship), refused(Notify), signalled("go"))
    if is_paused:
        scenario.when(operator("resume"))
    scenario.then_parked("past its pivot, so it can only go forward")


def test_what_is_shown_while_a_failure_passes_moves_nothing_that_stands():
    async def order(ctx, placed):
        async def says():
            await notify(ctx)
            ctx.show(at="said")
            ctx.publish(OrderSeen())

        try:
            await ctx.all(ship(ctx), says())
        except StepFailed:
            ctx.show(at="failed")
            raise

    scenario = past_pivot(order).when(refused(Ship), replied(Notify))
    scenario.then(published(OrderSeen()), parked("ship"))
    assert scenario.shown == {"at": "said"}


def test_a_line_for_a_log_is_nothing_that_a_failure_has_led_to():
    async def order(ctx, placed):
        async def logs():
            try:
                await ship(ctx)
            except StepFailed as error:
                ctx.log.warning("not shipped: %s", error)
                raise

        await ctx.all(logs(), notify(ctx))
        return OrderConfirmed()

    scenario = past_pivot(order).when(refused(Ship))
    assert scenario.logged == ("warning: not shipped: refused",)
    scenario.when(replied(Notify)).then(parked("ship"))
    scenario.when(operator("retry"), replied(Ship)).then(issued(Ship), completed(OrderConfirmed()))


def test_a_late_failure_of_a_step_in_doubt_is_not_what_the_code_is_told_of():
    """The saga parks later on the missed deadline, of which it was told."""

    async def order(ctx, placed):
        await ctx.all(ship(ctx, timeout="1m"), notify(ctx))
        return OrderConfirmed()

    scenario = past_pivot(order).when(timed_out(Ship), refused(Ship), refused(Notify))
    scenario.then(parked("ship"), parked("notify"))
    scenario.when(operator("retry", "ship"), operator("retry", "notify"))
    scenario.when(replied(Ship), replied(Notify)).then(completed(OrderConfirmed()))


def test_a_failure_that_a_branch_has_caught_is_told_in_a_replay_too():
    """Also where the branch said nothing: what it remembers may show later."""

    async def order(ctx, placed):
        caught: list[str] = []

        async def careful() -> None:
            try:
                await notify(ctx)
            except StepFailed as error:
                caught.append(error.step)

        async def report() -> None:
            await ctx.do(Reserve(order_id=f"{caught}"), retry=ONCE)

        await ctx.all(ctx.all(ship(ctx), careful()), report(), at_once=1)

    scenario = past_pivot(order).when(failed(Notify), failed(Ship))
    scenario.then(issued(Reserve(order_id="['notify']")))
    scenario.when(replied(Reserve, Reserved())).then(parked("ship"))
