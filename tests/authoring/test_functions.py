"""Durable functions: groups, sleeps, chance, time, and what a function may not do."""

import asyncio
from datetime import UTC, datetime, timedelta, timezone

import pytest

from saga.authoring import RollBack, StepFailed, TimedOut
from saga.testing import (
    after,
    armed,
    cancelled,
    completed,
    failed,
    given,
    issued,
    noted,
    planned,
    published,
    redelivered,
    refused,
    replied,
    rollback_due,
    rolled_back,
    signalled,
    timed_out,
    undo_issued,
)
from tests.toys import (
    CONTRACTS,
    EXACT,
    ONCE,
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
    Unship,
    as_saga,
)


def running(function, **options):
    """A saga of *function* to which nothing has happened yet."""
    return given(as_saga(function, **options), contracts=CONTRACTS)


def test_all_gives_results_in_order_of_definition():
    """Whatever the order of completion."""

    async def order(ctx, placed):
        reserved, paid, nothing = await ctx.all(ctx.do(Reserve()), ctx.do(Pay()), ctx.sleep("1s"))
        assert nothing is None
        return OrderConfirmed(order_id=f"{reserved.shelf} {paid.receipt}")

    (
        running(order)
        .when(OrderPlaced())
        .then(issued(Reserve), issued(Pay), armed("sleep", "sleep-1", "1s"))
        .when(after("1s"), replied(Pay, Paid()))
        .then()
        .when(replied(Reserve, Reserved()))
        .then(completed(OrderConfirmed(order_id="s-1 r-1")))
    )


@pytest.mark.parametrize("count", [0, 1])
def test_empty_group_completes_at_once(count):
    """So does one of nothing but finished branches."""

    async def order(ctx, placed):
        async def nothing():
            return "x"

        assert await ctx.all(*(nothing() for _ in range(count))) == ("x",) * count
        return OrderConfirmed()

    running(order).when(OrderPlaced()).then(completed(OrderConfirmed()))


def test_failing_branch_waits_for_its_siblings():
    """Then the first failure, in order of definition, is raised, and all of it is rolled back."""

    async def order(ctx, placed):
        await ctx.all(
            ctx.do(Reserve(), undo=Unreserve),
            ctx.do(Pay(), undo=Refund),
            ctx.do(Ship(), undo=Unship),
        )

    (
        running(order)
        .when(OrderPlaced())
        .when(refused(Ship, "no van"), refused(Pay, "no money"))
        .then()
        .when(replied(Reserve, Reserved()))
        .then(planned("reserve"), undo_issued(Unreserve))
        .when(replied(Unreserve))
        .then(rolled_back(OrderRejected, reason="no money", failed_step="pay"))
    )


def test_branches_may_be_coroutines():
    """Each goes through its steps beside the others."""

    async def order(ctx, placed):
        async def paying():
            paid = await ctx.do(Pay(), undo=Refund)
            await ctx.do(Ship(order_id=paid.receipt), undo=Unship)
            return paid.receipt

        receipt, reserved = await ctx.all(paying(), ctx.do(Reserve(), undo=Unreserve))
        return OrderConfirmed(order_id=receipt + reserved.shelf)

    (
        running(order)
        .when(OrderPlaced())
        .then(issued(Reserve), issued(Pay))
        .when(replied(Pay, Paid()))
        .then(issued(Ship(order_id="r-1")))
        .when(replied(Reserve, Reserved()))
        .then()
        .when(replied(Ship))
        .then(completed(OrderConfirmed(order_id="r-1s-1")))
    )


def test_branches_may_catch_and_nest():
    """A group within a branch of a group; a failure caught inside concerns nobody else."""

    async def order(ctx, placed):
        async def careful():
            try:
                await ctx.all(ctx.do(Pay()), ctx.do(Ship()))
            except StepFailed as failure:
                return failure.step
            return "fine"

        step, _ = await ctx.all(careful(), ctx.sleep("1s"))
        return OrderConfirmed(order_id=step)

    (
        running(order)
        .when(OrderPlaced(), refused(Pay, "no"), replied(Ship), after("1s"))
        .then(issued(Pay), issued(Ship), completed(OrderConfirmed(order_id="pay")))
    )


async def first_of(ctx, placed):
    """Whichever answers first."""
    await ctx.any(
        ctx.do(Pay(), undo=Refund, retry=EXACT, timeout="1h"), ctx.do(Ship(), undo=Unship)
    )
    return OrderConfirmed()


def test_losers_in_flight_are_awaited_and_undone_before_completion():
    """What a loser still does is undone like what it has done."""
    (
        running(first_of)
        .when(OrderPlaced())
        .then(issued(Pay), issued(Ship))
        .when(replied(Ship))
        .then()
        .then_status("running")
        .then_waits_for("reply to pay")
        .when(replied(Pay, Paid()))
        .then(planned("pay"), undo_issued(Refund(receipt="r-1")))
        .when(replied(Refund))
        .then(completed(OrderConfirmed()))
    )


def test_loser_that_misses_its_deadline_is_undone_blindly():
    """It is not tried again."""
    (
        running(first_of)
        .when(OrderPlaced(), replied(Ship))
        .when(after("1h"))
        .then(planned("pay"), undo_issued(Refund(receipt=None)))
    )


def test_loser_that_pauses_before_a_retry_is_not_issued_again():
    """It is undone at once."""
    (
        running(first_of)
        .when(OrderPlaced(), failed(Pay))
        .when(replied(Ship))
        .then(planned("pay"), undo_issued(Refund))
        .when(after("50s"))
        .then_nothing()
    )


def test_refused_loser_leaves_nothing_to_undo():
    """The saga completes as soon as that is known."""
    (
        running(first_of)
        .when(OrderPlaced(), replied(Ship))
        .when(refused(Pay))
        .then(completed(OrderConfirmed()))
    )


def test_any_fails_when_all_branches_fail():
    """With the first failure in order of definition."""
    (
        running(first_of)
        .when(OrderPlaced(), refused(Ship, "no van"))
        .then(issued(Pay), issued(Ship))
        .when(refused(Pay, "no money"))
        .then(rolled_back(OrderRejected, failed_step="pay"))
    )


def test_any_of_waits_drops_the_losing_wait_and_keeps_its_signal():
    """Even where signals for both had come before."""

    async def order(ctx, placed):
        await ctx.do(Reserve())
        first = await ctx.any(ctx.wait("a", timeout="1h"), ctx.wait("b"))
        second = await ctx.wait("b")
        return OrderConfirmed(order_id=f"{first} {second}")

    (
        running(order)
        .when(OrderPlaced(), signalled("b", 2), signalled("a", 1))
        .when(replied(Reserve, Reserved()))
        .then(completed(OrderConfirmed(order_id="1 2")))
    )


def test_any_of_step_and_sleep_is_a_timeout_of_ones_own():
    """The sleep wins; the step is undone once its answer is there."""

    async def order(ctx, placed):
        async def give_up():
            await ctx.sleep("1m")

        if await ctx.any(ctx.do(Pay(), undo=Refund), give_up()) is None:
            raise RollBack("too slow", code="slow")
        return OrderConfirmed()

    (
        running(order)
        .when(OrderPlaced(), after("1m"))
        .then(issued(Pay), rollback_due("too slow", code="slow"))
        .then_waits_for("reply to pay")
        .when(replied(Pay, Paid()))
        .then(planned("pay"), undo_issued(Refund(receipt="r-1")))
    )
    (
        running(order)
        .when(OrderPlaced(), replied(Pay, Paid()))
        .then(issued(Pay), completed(OrderConfirmed()))
        .when(after("1m"))
        .then_nothing()
    )


def test_losing_coroutine_ends_where_it_stands():
    """Its `finally` runs, but can want nothing any more."""

    async def order(ctx, placed):
        async def slow():
            try:
                await ctx.do(Pay(), undo=Refund)
                await ctx.do(Notify())
            finally:
                await ctx.do(Reserve())

        await ctx.any(slow(), ctx.wait("stop"))
        return OrderConfirmed()

    (
        running(order)
        .when(OrderPlaced(), signalled("stop"))
        .then(issued(Pay))
        .when(replied(Pay, Paid()))
        .then(undo_issued(Refund))
        .when(replied(Refund))
        .then(completed(OrderConfirmed()))
    )


def test_caught_failure_may_be_answered_by_another_step():
    async def order(ctx, placed):
        for amount in (3, 2, 1):
            try:
                paid = await ctx.do(Pay(amount=amount), undo=Refund, retry=ONCE)
            except StepFailed as failure:
                if not failure.refused:
                    raise
                continue
            return OrderConfirmed(order_id=paid.receipt)
        raise RollBack("nothing worked")

    (
        running(order)
        .when(OrderPlaced(), refused(Pay))
        .then(issued(Pay(amount=3), step="pay"), issued(Pay(amount=2), step="pay-2"))
        .when(replied(Pay, Paid()))
        .then(completed(OrderConfirmed(order_id="r-1")))
    )


def test_steps_may_be_named():
    """A name of its own keeps a step's identity when code around it moves."""

    async def order(ctx, placed):
        await ctx.do(Pay(), id="deposit")
        await ctx.do(Pay())

    (
        running(order)
        .when(OrderPlaced(), replied("deposit", Paid()))
        .then(issued(Pay, step="deposit"), issued(Pay, step="pay"))
    )


def test_sleep_is_late_never_early():
    """And a timer that was handled is a duplicate."""

    async def order(ctx, placed):
        await ctx.sleep(timedelta(days=2))
        return OrderConfirmed()

    (
        running(order)
        .when(OrderPlaced())
        .then_waits_for("timer sleep-1")
        .when(after("47h"))
        .then_nothing()
        .when(after("1h"))
        .then(completed(OrderConfirmed()))
        .when(redelivered())
        .then_was("duplicate")
    )


@pytest.mark.parametrize(
    ("moment", "length"),
    [
        (datetime(2026, 1, 2, 7, tzinfo=timezone(timedelta(hours=7))), "1d"),
        (datetime(2025, 12, 31, tzinfo=UTC), "0s"),
        (datetime.min.replace(tzinfo=UTC), "0s"),
    ],
)
def test_sleep_until_a_moment_of_any_zone_and_one_that_is_past_is_due_at_once(moment, length):
    async def order(ctx, placed):
        await ctx.sleep_until(moment)
        return OrderConfirmed()

    (
        running(order)
        .when(OrderPlaced())
        .then(armed("sleep", "sleep-1", length))
        .when(after(length))
        .then(completed(OrderConfirmed()))
    )


def test_moment_to_sleep_until_counts_from_when_it_is_awaited():
    """Not from when the call was made."""

    async def order(ctx, placed):
        call = ctx.sleep_until(datetime(2026, 1, 2, tzinfo=UTC))
        await ctx.sleep("20h")
        await call
        return OrderConfirmed()

    scenario = running(order).when(OrderPlaced(), after("20h"))
    scenario.then(armed("sleep", "sleep-1", "4h"))
    scenario.when(after("4h")).then(completed(OrderConfirmed()))


def test_sleep_until_the_last_moment_there_is_can_be_stored():
    async def order(ctx, placed):
        await ctx.sleep_until(datetime.max.replace(tzinfo=timezone(-timedelta(hours=12))))

    running(order).when(OrderPlaced()).then_status("running")


def test_now_is_the_time_of_the_turn():
    """It moves with what happens, not with the machine."""

    async def order(ctx, placed):
        before = ctx.now()
        await ctx.sleep("90s")
        return OrderConfirmed(order_id=f"{before.isoformat()} {ctx.now() - before}")

    (
        running(order)
        .when(OrderPlaced(), after("1h"))
        .then(completed(OrderConfirmed(order_id="2026-01-01T00:00:00+00:00 0:01:30")))
    )


def test_chance_and_ids_are_the_same_in_every_replay():
    """But differ from call to call, and from saga to saga."""
    drawn = []

    async def order(ctx, placed):
        drawn.append((ctx.random(), ctx.random(), ctx.uuid(), ctx.uuid()))
        await ctx.sleep("1s")
        return OrderConfirmed(order_id=f"{ctx.random()} {ctx.uuid()}")

    running(order).when(OrderPlaced(), after("1s")).then(completed(OrderConfirmed))
    assert len(drawn) > 1
    assert len(set(drawn)) == 1
    assert len(set(drawn[0])) == 4
    assert all(0 <= one < 1 for one in drawn[0][:2])
    running(order).when(OrderPlaced(order_id="o-2"))
    assert len(set(drawn)) == 2


def test_publish_tells_at_once_awaited_or_not():
    async def order(ctx, placed):
        ctx.publish(OrderSeen())
        await ctx.publish(OrderSeen(order_id="again"))
        await ctx.do(Ship())

    (
        running(order)
        .when(OrderPlaced())
        .then(published(OrderSeen()), published(OrderSeen(order_id="again")), issued(Ship))
    )


def test_context_knows_saga_and_key():
    async def order(ctx, placed):
        return OrderConfirmed(order_id=f"{ctx.saga_id} {ctx.key}")

    scenario = running(order).when(OrderPlaced(order_id="o-9"))
    expected = OrderConfirmed(order_id=f"{scenario.state.saga_id} o-9")
    scenario.then(completed(expected))


def test_step_failed_says_what_happened():
    async def order(ctx, placed):
        try:
            await ctx.do(Pay(), retry=ONCE)
        except StepFailed as one:
            return OrderConfirmed(order_id=f"{one.step} {one.code} {one.message} {one.refused}")

    (
        running(order)
        .when(OrderPlaced(), refused(Pay, "no", code="limit"))
        .then(issued(Pay), completed(OrderConfirmed(order_id="pay limit no True")))
    )
    (
        running(order)
        .when(OrderPlaced(), failed(Pay, "boom"))
        .then(issued(Pay), completed(OrderConfirmed(order_id="pay failed boom False")))
    )


def test_cancel_ends_a_group_of_everything():
    """Steps settle, sleeps and waits end."""

    async def order(ctx, placed):
        await ctx.all(ctx.do(Pay(), undo=Refund), ctx.sleep("1h"), ctx.wait("x", timeout="1d"))

    (
        running(order)
        .when(OrderPlaced(), cancelled())
        .when(replied(Pay, Paid()))
        .then(planned("pay"), undo_issued(Refund))
        .when(after("2d"))
        .then_nothing()
    )


async def _awaits_asyncio(ctx, placed):
    await asyncio.sleep(0)


async def _awaits_twice(ctx, placed):
    call = ctx.sleep("1s")
    await call
    await call


async def _awaits_any_of_nothing(ctx, placed):
    await ctx.any()


async def _groups_a_number(ctx, placed):
    await ctx.all(7)


async def _uses_an_id_twice(ctx, placed):
    both = ctx.do(Pay(), id="a"), ctx.do(Pay(), id="a")
    await ctx.all(*both)


async def _uses_a_slash(ctx, placed):
    await ctx.do(Pay(), id="a/b")


async def _undoes_reading(ctx, placed):
    await ctx.do(Pay(), undo=Refund, kind="read_only")


async def _undoes_what_is_harmless(ctx, placed):
    await ctx.do(Pay(), undo=Refund, kind="harmless")


async def _sleeps_until_a_naive_time(ctx, placed):
    await ctx.sleep_until(datetime(2026, 1, 2))  # noqa: DTZ001  # as some will


async def _sleeps_until_a_length(ctx, placed):
    await ctx.sleep_until("5m")


async def _compensates_without_undo(ctx, placed):
    await ctx.do(Pay(), kind="compensatable")


async def _names_no_kind(ctx, placed):
    await ctx.do(Pay(), kind="pivotal")


async def _publishes_an_intent(ctx, placed):
    ctx.publish(Pay())


async def _does_an_event(ctx, placed):
    await ctx.do(OrderSeen())


async def _does_a_class(ctx, placed):
    await ctx.do(Pay)


async def _returns_an_intent(ctx, placed):
    return Pay()


async def _sleeps_soon(ctx, placed):
    await ctx.sleep("soon")


@pytest.mark.parametrize(
    ("function", "problem", "line"),
    [
        (_awaits_asyncio, "may only await what its context gives", 1),
        (_awaits_twice, "awaited twice", 3),
        (_awaits_any_of_nothing, "any() of nothing", 1),
        (_groups_a_number, "cannot run side by side", 1),
        (_uses_an_id_twice, "used twice", 1),
        (_uses_a_slash, "without '/'", 1),
        (_undoes_reading, "a read-only step has nothing to undo", 1),
        (_undoes_what_is_harmless, "a harmless step has nothing to undo", 1),
        (_sleeps_until_a_naive_time, "the time has no zone", 1),
        (_sleeps_until_a_length, "expected a datetime", 1),
        (_compensates_without_undo, "needs an undo", 1),
        (_names_no_kind, "kind='pivotal': expected one of compensatable, pivot", 1),
        (_publishes_an_intent, "takes an Event", 1),
        (_does_an_event, "takes an Intent", 1),
        (_does_a_class, "fill it in", 1),
    ],
)
def test_mistake_in_a_running_function_parks_it_with_file_and_line(function, problem, line):
    """Before anything is issued, and so that the author finds the place."""
    where = f"{__file__}:{function.__code__.co_firstlineno + line}"
    events = (OrderPlaced(), after("1s"))

    running(function).when(*events).then_parked(problem).then_parked(where)


@pytest.mark.parametrize("function", [_returns_an_intent, _sleeps_soon])
def test_other_mistakes_park_too(function):
    """With what was raised."""
    running(function).when(OrderPlaced()).then_parked("Error")


def test_unknown_contract_parks_with_what_to_do():
    """An intent made behind the back of the source is named with the remedy."""
    hidden = {"intent": Notify}

    async def order(ctx, placed):
        await ctx.do(hidden["intent"]())

    (
        given(as_saga(order))
        .when(OrderPlaced())
        .then_parked("shop.int.notify.v1) is not known to the application: add it to SagaApp")
    )


def test_exception_that_is_not_ours_is_a_bug():
    """The saga parks; nothing is rolled back on a guess."""

    async def order(ctx, placed):
        await ctx.do(Pay(), undo=Refund)
        raise KeyError("oops")

    (
        running(order)
        .when(OrderPlaced(), replied(Pay, Paid()))
        .then_parked("KeyError")
        .then_steps(pay="issued")
    )


def test_timed_out_wait_may_be_caught_in_a_branch():
    """Only that branch hears of it."""

    async def order(ctx, placed):
        async def patient():
            try:
                return await ctx.wait("x", int, timeout="1m")
            except TimedOut as timeout:
                return timeout.name

        return OrderConfirmed(order_id=str(await ctx.all(patient(), ctx.wait("y", int))))

    (
        running(order)
        .when(OrderPlaced(), timed_out("x"))
        .when(signalled("y", "no int"), signalled("y", 4))
        .then(noted("refused"), completed(OrderConfirmed(order_id="('x', 4)")))
    )
