"""A saga's function finds no event loop, and what is left of its async generators ends in the turn.

`tests/FAULTS.md`, number 2.
"""

import asyncio
import gc
import sys
from contextlib import aclosing

import pytest

from saga.authoring import StepFailed, TimedOut
from saga.testing import (
    cancelled,
    completed,
    given,
    issued,
    refused,
    replied,
    rolled_back,
    signalled,
    undo_issued,
)
from tests.toys import (
    CONTRACTS,
    Notify,
    OrderConfirmed,
    OrderPlaced,
    OrderRejected,
    Paid,
    Pay,
    Refund,
    Reserve,
    Reserved,
    Ship,
    Unreserve,
    as_saga,
)

PLACED = OrderPlaced()
SHELF = replied(Reserve, Reserved())


def running(function, **options):
    """A saga of *function* to which nothing has happened yet."""
    return given(as_saga(function, **options), contracts=CONTRACTS)


async def _timeout(ctx):
    async with asyncio.timeout(5):
        await ctx.do(Ship())


async def _timeout_without_end(ctx):
    async with asyncio.timeout(None):
        await ctx.do(Ship())


async def _task_group(ctx):
    async with asyncio.TaskGroup() as group:
        group.create_task(ctx.do(Ship()))


async def _create_task(ctx):
    async def branch():
        await ctx.do(Ship())

    branching = branch()
    try:
        await asyncio.create_task(branching)
    finally:
        branching.close()


async def _ensure_future(ctx):
    async def branch():
        await ctx.do(Ship())

    branching = branch()
    try:
        await asyncio.ensure_future(branching)
    finally:
        branching.close()


async def _gather(ctx):
    await asyncio.gather(ctx.do(Ship()))


async def _wait_for(ctx):
    await asyncio.wait_for(ctx.do(Ship()), 5)


async def _sleep(ctx):
    await asyncio.sleep(1)


async def _sleep_zero(ctx):
    await asyncio.sleep(0)


async def _current_task(ctx):
    asyncio.current_task()


async def _future(ctx):
    await asyncio.Future()


async def _future_of_the_loop(ctx):
    await asyncio.get_running_loop().create_future()


async def _call_later(ctx):
    asyncio.get_running_loop().call_later(0, print)


async def _call_soon(ctx):
    asyncio.get_event_loop().call_soon(print)


async def _event(ctx):
    await asyncio.Event().wait()


async def _queue(ctx):
    await asyncio.Queue().get()


async def _to_thread(ctx):
    await asyncio.to_thread(print)


async def _open_connection(ctx):
    await asyncio.open_connection("localhost", 1)


async def _run(ctx):
    async def main():
        return 1

    starting = main()
    try:
        asyncio.run(starting)
    finally:
        starting.close()


async def _run_until_complete(ctx):
    loop = asyncio.new_event_loop()
    starting = asyncio.sleep(0)
    try:
        loop.run_until_complete(starting)
    finally:
        starting.close()
        loop.close()


TOOLS = (
    (_timeout, "timeout= of ctx.do"),
    (_timeout_without_end, "timeout= of ctx.do"),
    (_task_group, "ctx.all(…)"),
    (_create_task, "ctx.all(…)"),
    (_ensure_future, "ctx.all(…)"),
    (_gather, "ctx.all(…)"),
    (_wait_for, "ctx.wait(…)"),
    (_sleep, "ctx.wait(…)"),
    (_sleep_zero, "ctx.sleep(…)"),
    (_current_task, "ctx.all(…)"),
    (_future, "ctx.wait(…)"),
    (_future_of_the_loop, "ctx.wait(…)"),
    (_call_later, "ctx.sleep(…)"),
    (_call_soon, "ctx.all(…)"),
    (_event, "ctx.wait(…)"),
    (_queue, "ctx.wait(…)"),
    (_to_thread, "effect services"),
    (_open_connection, "ctx.wait(…)"),
    (_run, "ctx.all(…)"),
    (_run_until_complete, "ctx.all(…)"),
)


class TestAsyncio:
    """Each of its tools parks the saga, with the line, and with what to use instead."""

    @pytest.mark.parametrize(
        ("tool", "instead"), TOOLS, ids=lambda each: getattr(each, "__name__", "")
    )
    @pytest.mark.parametrize("has_loop", [True, False])
    def test_parks_with_what_to_use_instead(self, tool, instead, has_loop):
        """Whether a loop runs around the turn or not: a replay is to give the same."""

        async def order(ctx, placed):
            await tool(ctx)

        async def in_a_loop():
            self._park(order, instead, line=tool.__code__.co_firstlineno)
            assert asyncio.get_running_loop() is loops[0]

        loops = []
        if has_loop:
            with asyncio.Runner() as runner:
                loops.append(runner.get_loop())
                runner.run(in_a_loop())
        else:
            self._park(order, instead, line=tool.__code__.co_firstlineno)

    @staticmethod
    def _park(order, instead, *, line):
        scenario = running(order).when(PLACED).then_parked(instead).then_parked(f"{__file__}:")
        where = scenario.state.reason.partition(f"{__file__}:")[2].partition(":")[0]
        assert line <= int(where) <= line + 12

    def test_in_an_undo_or_the_outcome_of_a_rollback_too(self):
        async def order(ctx, placed):
            await ctx.do(Reserve(), undo=undo)
            await ctx.do(Ship())

        def undo(intent, reply):
            asyncio.get_running_loop().call_soon(print)
            return Refund()

        def outcome(trigger, report):
            asyncio.get_event_loop().create_future()

        happens = (PLACED, SHELF, refused(Ship, "no van"))
        running(order).when(*happens).then_parked("no asyncio (call_soon")

        async def failing(ctx, placed):
            await ctx.do(Ship())

        happens = (PLACED, refused(Ship, "no van"))
        running(failing, rolled_back=outcome).when(*happens).then_parked(
            "no asyncio (create_future"
        )

    def test_in_an_undo_a_loop_of_its_own_is_refused_with_the_line(self):
        async def order(ctx, placed):
            await ctx.do(Reserve(), undo=undo)
            await ctx.do(Ship())

        async def main():
            """Never begun."""

        def undo(intent, reply):
            starting = main()
            try:
                asyncio.run(starting)
            finally:
                starting.close()

        scenario = running(order).when(PLACED, SHELF, refused(Ship, "no van"))
        line = undo.__code__.co_firstlineno + 3
        scenario.then_parked("ctx.sleep(…)").then_parked(f"{__file__}:{line}: ")

    def test_what_needs_no_loop_is_left_alone(self):
        async def order(ctx, placed):
            async with asyncio.Lock(), asyncio.Semaphore(1):
                await asyncio.wait_for(ctx.do(Ship()), None)

        running(order).when(PLACED).then(issued(Ship)).when(replied(Ship)).then(completed())


class TestAsyncGenerators:
    """One that is left early ends in the turn, and what it asks for then is done."""

    @staticmethod
    async def shelves(ctx):
        try:
            while True:
                yield await ctx.do(Reserve(), undo=None)
        finally:
            await ctx.do(Notify())

    def test_what_it_wants_at_its_end_is_issued_at_once(self):
        async def order(ctx, placed):
            async for _shelf in self.shelves(ctx):
                break
            await ctx.do(Ship())
            return OrderConfirmed()

        (
            running(order)
            .when(PLACED)
            .then(issued(Reserve))
            .when(SHELF)
            .then(issued(Ship), issued(Notify))
            .when(replied(Ship))
            .then()
            .when(replied(Notify))
            .then(completed(OrderConfirmed()))
        )

    def test_the_function_is_through_when_its_generators_are(self):
        async def order(ctx, placed):
            async for _shelf in self.shelves(ctx):
                return OrderConfirmed()
            return None

        (
            running(order)
            .when(PLACED, SHELF)
            .then(issued(Reserve), issued(Notify))
            .when(replied(Notify))
            .then(completed(OrderConfirmed()))
        )

    def test_a_failure_rolls_back_behind_them(self):
        async def order(ctx, placed):
            await ctx.do(Pay(), undo=Refund)
            async for _shelf in self.shelves(ctx):
                await ctx.do(Ship())

        (
            running(order)
            .when(PLACED, refused(Pay, "no", code="no"))
            .then(
                issued(Pay),
                rolled_back(OrderRejected(reason="no", code="no", failed_step="pay")),
            )
        )
        (
            running(order)
            .when(PLACED, replied(Pay, Paid()), SHELF)
            .when(refused(Ship, "no van"))
            .then(issued(Notify))
            .when(replied(Notify))
            .then(undo_issued(Refund))
        )

    def test_its_own_failure_is_the_function_s(self):
        async def order(ctx, placed):
            await ctx.do(Pay(), undo=Refund)
            async for _shelf in self.shelves(ctx):
                break
            return OrderConfirmed()

        (
            running(order)
            .when(PLACED, replied(Pay, Paid()), SHELF)
            .when(refused(Notify, "nobody is there"))
            .then(undo_issued(Refund))
        )

    def test_a_bug_at_its_end_parks(self):
        async def generator(ctx):
            try:
                yield 1
            finally:
                raise KeyError("oops")

        async def order(ctx, placed):
            async for _ in generator(ctx):
                break
            await ctx.do(Ship())

        running(order).when(PLACED).then_parked("KeyError")

    def test_several_end_in_the_order_in_which_they_were_left(self):
        async def generator(ctx, name):
            try:
                yield name
            finally:
                await ctx.do(Notify(), id=name)

        async def order(ctx, placed):
            first, second, third = (generator(ctx, name) for name in ("first", "second", "third"))
            for each in (first, second, third):
                await anext(each)
            del each, second
            del first, third
            return OrderConfirmed()

        scenario = running(order).when(PLACED)
        assert list(scenario.state.steps) == ["second", "first", "third"]

    def test_one_in_a_circle_ends_with_the_function_whenever_the_collector_comes(self):
        """When that is, is chance, so it must not show."""

        async def helper(ctx):
            shelves = self.shelves(ctx)
            try:
                async for shelf in shelves:
                    {}[shelf]
            except KeyError as error:
                circle = error  # it knows this frame, which knows it
                return circle.args

        def order_with(collect):
            async def order(ctx, placed):
                await helper(ctx)
                collect()
                await ctx.do(Ship())
                collect()
                return OrderConfirmed()

            return order

        for collect in (gc.collect, lambda: None):
            scenario = running(order_with(collect)).when(PLACED, SHELF)
            collect()
            (
                scenario.then(issued(Reserve), issued(Ship))
                .when(replied(Ship))
                .then(issued(Notify))
                .when(replied(Notify))
                .then(completed(OrderConfirmed()))
            )

    def test_that_of_a_loser_never_asks_for_anything(self):
        async def loser(ctx):
            async for _shelf in self.shelves(ctx):
                await ctx.do(Ship())

        async def order(ctx, placed):
            await ctx.any(loser(ctx), ctx.wait("stop"))
            await ctx.do(Pay())
            return OrderConfirmed()

        (
            running(order)
            .when(PLACED, SHELF, signalled("stop"))
            .then(issued(Reserve), issued(Ship), issued(Pay))
            .when(replied(Pay, Paid()))
            .then(completed(OrderConfirmed(), residue=("reserve", "ship")))
        )

    def test_that_of_a_branch_ends_beside_it(self):
        async def branch(ctx):
            async for _shelf in self.shelves(ctx):
                return await ctx.do(Ship())
            return None

        async def order(ctx, placed):
            await ctx.all(branch(ctx), ctx.wait("go"))
            return OrderConfirmed()

        (
            running(order)
            .when(PLACED, SHELF, replied(Ship), signalled("go"))
            .then(issued(Reserve), issued(Ship), issued(Notify))
            .when(replied(Notify))
            .then(completed(OrderConfirmed()))
        )

    def test_one_whose_next_value_a_loser_waits_for_is_let_be(self):
        """Nothing can be asked of it any more."""

        async def order(ctx, placed):
            shelves = self.shelves(ctx)
            await ctx.any(shelves.__anext__(), ctx.wait("stop"))
            return OrderConfirmed()

        scenario = running(order).when(PLACED, signalled("stop"))
        scenario.then(issued(Reserve), completed(OrderConfirmed(), residue=("reserve",)))

    def test_one_that_is_closed_by_hand_or_read_to_its_end_is_no_news(self):
        async def one(ctx):
            yield await ctx.do(Reserve())

        async def order(ctx, placed):
            async with aclosing(self.shelves(ctx)) as shelves:
                async for _shelf in shelves:
                    break
            async for _shelf in one(ctx):
                pass
            return OrderConfirmed()

        (
            running(order)
            .when(PLACED, SHELF)
            .then(issued(Reserve), issued(Notify))
            .when(replied(Notify))
            .then(issued(Reserve))
            .when(replied(Reserve, Reserved(), step="reserve-2"))
            .then(completed(OrderConfirmed()))
        )

    def test_a_cancel_lets_go_of_them(self):
        async def order(ctx, placed):
            await ctx.do(Pay(), undo=Refund)
            async for _shelf in self.shelves(ctx):
                await ctx.do(Ship())

        (
            running(order)
            .when(PLACED, replied(Pay, Paid()), SHELF, cancelled(mode="immediate"))
            .when(replied(Refund))
            .then_status("rolled_back_with_residue")
        )

    @pytest.mark.parametrize("is_loser", [False, True])
    def test_what_one_waits_for_is_let_go_of_without_a_word(self, monkeypatch, is_loser):
        """Also where that waits once more at its end, which Python would complain of."""
        complaints = []
        monkeypatch.setattr(sys, "unraisablehook", complaints.append)
        ended = []

        async def reserves(ctx):
            try:
                return await ctx.do(Reserve())
            finally:
                await ctx.do(Notify())
                ended.append("never comes")

        async def shelves(ctx):
            yield await reserves(ctx)

        async def reads(ctx):
            async for _shelf in shelves(ctx):
                pass

        async def order(ctx, placed):
            await ctx.any(reads(ctx), ctx.wait("stop"))
            await ctx.do(Ship())

        scenario = running(order).when(PLACED)
        if is_loser:
            scenario.when(signalled("stop")).then(issued(Ship))
        scenario.state.program.close()
        del scenario
        gc.collect()
        assert not complaints
        assert not ended

    def test_a_report_names_the_line_at_which_one_waits(self):
        async def shelves(ctx):
            yield await ctx.do(Reserve(), undo=Unreserve)

        async def order(ctx, placed):
            await ctx.do(Pay(), kind="pivot")
            async for _shelf in shelves(ctx):
                pass

        scenario = running(order).when(PLACED, replied(Pay, Paid()))

        line = shelves.__code__.co_firstlineno + 1
        scenario.then_parked(f"test_seclusion.py:{line}: step 'reserve' can be undone")

    def test_the_hooks_of_others_come_back(self):
        async def order(ctx, placed):
            await ctx.do(Ship())

        async def main():
            before = sys.get_asyncgen_hooks()
            running(order).when(PLACED, replied(Ship))
            assert sys.get_asyncgen_hooks() == before
            assert before.finalizer is not None

        asyncio.run(main())


def test_errors_of_the_saga_s_own_may_be_caught_by_a_generator():
    """What is thrown into the function goes through its generators as through anything."""

    async def waits(ctx):
        for _ in range(2):
            try:
                yield await ctx.wait("go", timeout="1s")
            except TimedOut:
                yield None

    async def order(ctx, placed):
        async for _ in waits(ctx):
            try:
                await ctx.do(Ship(), id=f"ship-{_}")
            except StepFailed:
                return OrderConfirmed()
        return None

    (
        running(order)
        .when(PLACED, signalled("go", 1), refused(Ship, "no", step="ship-1"))
        .then(issued(Ship), completed(OrderConfirmed()))
    )
