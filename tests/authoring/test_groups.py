"""Groups: what waits, what fails fast, what is enough of several, and how many run at one time."""

from contextlib import suppress
from itertools import count

import pytest
from hypothesis import given as hypothesis_given
from hypothesis import settings
from hypothesis import strategies as st

from saga.authoring import RollBack, StepFailed, TimedOut
from saga.errors import DefinitionError
from saga.testing import (
    after,
    cancelled,
    completed,
    given,
    issued,
    published,
    refused,
    replied,
    rollback_due,
    rolled_back,
    signalled,
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
    Refund,
    Ship,
    Unship,
    as_saga,
)


def running(function, **options):
    return given(as_saga(function, **options), contracts=CONTRACTS)


def notify(ctx, name):
    return ctx.do(Notify(order_id=name), id=name, retry=ONCE)


async def later(ctx, name):
    """The same as a coroutine."""
    return await notify(ctx, name)


def steps(scenario):
    return list(scenario.state.steps)


class TestFailingFast:
    def test_failure_is_raised_at_once_and_siblings_are_undone_before_the_end(self):
        async def order(ctx, placed):
            pay, ship = ctx.do(Pay(), undo=Refund), ctx.do(Ship(), undo=Unship)
            try:
                await ctx.all(pay, ship, notify(ctx, "n"), fail="fast")
            except StepFailed as failure:
                return OrderConfirmed(order_id=failure.step)

        (
            running(order)
            .when(OrderPlaced(), replied(Pay, Paid()))
            .when(refused("n"))
            .then()  # what is in flight settles first
            .when(replied(Ship))
            .then(undo_issued(Unship))
            .when(replied(Unship))
            .then(undo_issued(Refund))
            .when(replied(Refund))
            .then(completed(OrderConfirmed(order_id="n")))
        )

    def test_uncaught_failure_rolls_back_once_what_the_siblings_asked_for_has_settled(self):
        async def order(ctx, placed):
            await ctx.all(ctx.do(Pay(), undo=Refund), notify(ctx, "n"), fail="fast")

        (
            running(order)
            .when(OrderPlaced(), refused("n", code="no"))
            .then(issued(Pay), issued(Notify), rollback_due(code="no", failed_step="n"))
            .when(replied(Pay, Paid()))
            .then(undo_issued(Refund(receipt="r-1")))
            .when(replied(Refund))
            .then(rolled_back(OrderRejected, code="no", failed_step="n"))
        )

    def test_siblings_do_nothing_from_that_moment_on(self):
        """Not in what they go on with, nor what is nested in them, nor what waits its turn."""

        async def sibling(ctx):
            await ctx.any(ctx.wait("go"), ctx.sleep("1h"))
            ctx.publish(OrderSeen())

        async def order(ctx, placed):
            nested = ctx.all(sibling(ctx), sibling(ctx))
            waiting = later(ctx, "never")
            with suppress(StepFailed):
                await ctx.all(nested, notify(ctx, "n"), waiting, at_once=2, fail="fast")
            await ctx.wait("end")
            return OrderConfirmed()

        scenario = running(order).when(OrderPlaced(), refused("n"))

        assert scenario.state.timers == {}
        assert list(scenario.state.waited) == ["wait-end-1"]
        scenario.when(after("2h")).then_nothing().when(signalled("go")).then()
        scenario.when(signalled("end")).then(completed(OrderConfirmed()))
        assert steps(scenario) == ["n"]

    def test_all_succeed_as_without(self):
        async def order(ctx, placed):
            done = await ctx.all(ctx.do(Pay()), ctx.do(Ship()), fail="fast")
            return OrderConfirmed(order_id=repr([type(each).__name__ for each in done]))

        (
            running(order)
            .when(OrderPlaced(), replied(Ship))
            .then(issued(Pay), issued(Ship))
            .when(replied(Pay, Paid()))
            .then(completed(OrderConfirmed(order_id="['Paid', 'NoneType']")))
        )

    @pytest.mark.parametrize("failure", [RollBack("why"), TimedOut("wait")])
    def test_whatever_a_branch_may_raise_is_a_failure(self, failure):
        async def fails():
            raise failure

        async def order(ctx, placed):
            with suppress(RollBack, TimedOut):
                await ctx.all(ctx.sleep("1h"), fails(), fail="fast")
            return OrderConfirmed()

        running(order).when(OrderPlaced()).then(completed(OrderConfirmed()))


class TestAtOnce:
    @pytest.mark.parametrize("branch", [notify, later])
    def test_so_many_run_at_one_time_in_the_order_of_definition(self, branch):
        async def order(ctx, placed):
            await ctx.all(*(branch(ctx, f"s{n}") for n in range(6)), at_once=2)
            return OrderConfirmed()

        scenario = running(order).when(OrderPlaced())
        assert steps(scenario) == ["s0", "s1"]
        scenario.when(replied("s1"))
        assert steps(scenario) == ["s0", "s1", "s2"]
        scenario.when(replied("s2"), replied("s0"))
        assert steps(scenario) == ["s0", "s1", "s2", "s3", "s4"]
        scenario.when(replied("s4"), replied("s5"), replied("s3"))
        scenario.then_status("completed")

    @pytest.mark.parametrize("branch", [notify, later])
    def test_waiting_group_goes_on_after_a_failure_and_a_fast_one_does_not(self, branch):
        def failing(fail):
            async def order(ctx, placed):
                branches = [branch(ctx, f"s{n}") for n in range(3)]
                try:
                    await ctx.all(*branches, at_once=1, fail=fail)
                except StepFailed as failure:
                    return OrderConfirmed(order_id=failure.step)

            return running(order).when(OrderPlaced(), refused("s0"))

        waiting = failing("wait")
        assert steps(waiting) == ["s0", "s1"]
        waiting.when(refused("s1"), replied("s2"))
        waiting.then(issued(Notify), completed(OrderConfirmed(order_id="s0")))
        fast = failing("fast").then_status("completed")
        assert steps(fast) == ["s0"]

    def test_what_has_not_begun_never_begins_once_the_saga_is_cancelled(self):
        async def order(ctx, placed):
            await ctx.all(*(later(ctx, f"s{n}") for n in range(3)), at_once=1)

        scenario = running(order).when(OrderPlaced(), cancelled(), replied("s0"))
        assert steps(scenario) == ["s0"]
        scenario.then_status("rolled_back_with_residue")

    def test_of_thousands_that_are_done_at_once_all_begin(self):
        """One that begins and ends in one go leads to no call within a call."""

        async def order(ctx, placed):
            await ctx.all(*(ctx.publish(OrderSeen()) for _ in range(3_000)), at_once=1)
            return OrderConfirmed()

        running(order).when(OrderPlaced()).then_status("completed")

    def test_branch_that_begins_later_depends_on_what_was_before_the_group(self):
        async def order(ctx, placed):
            await notify(ctx, "before")
            await ctx.all(*(later(ctx, f"s{n}") for n in range(2)), at_once=1)
            await notify(ctx, "behind")

        scenario = running(order).when(OrderPlaced())
        scenario.when(*(replied(step) for step in ("before", "s0", "s1")))
        behind = {step.id: step.after for step in scenario.state.steps.values()}
        assert behind["s1"] == ("before",)
        assert behind["behind"] == ("s0", "s1")

    def test_group_limits_its_own_branches_alone(self):
        async def order(ctx, placed):
            inner = [
                ctx.all(*(notify(ctx, f"{name}{n}") for n in range(3)), at_once=2) for name in "abc"
            ]
            await ctx.all(*inner, at_once=2)

        scenario = running(order).when(OrderPlaced())
        assert steps(scenario) == ["a0", "a1", "b0", "b1"]
        scenario.when(replied("a0"), replied("a1"), replied("a2"))
        assert steps(scenario)[-2:] == ["c0", "c1"]


class TestSome:
    @pytest.mark.parametrize("branch", [notify, later])
    def test_first_successes_in_the_order_of_definition(self, branch):
        async def order(ctx, placed):
            async def named(name):
                await branch(ctx, name)
                return name

            done = await ctx.some(2, named("a"), named("b"), named("c"), named("d"))
            return OrderConfirmed(order_id=repr(done))

        (
            running(order)
            .when(OrderPlaced(), replied("d"), refused("a"))
            .when(replied("b"))
            .then(completed(OrderConfirmed(order_id="('b', 'd')"), residue=("c",)))
        )

    def test_what_the_others_have_done_is_undone(self):
        async def two(ctx):
            await ctx.do(Pay(), undo=Refund)
            await ctx.do(Ship(), undo=Unship)

        async def order(ctx, placed):
            await ctx.some(1, two(ctx), notify(ctx, "n"))
            return OrderConfirmed()

        (
            running(order)
            .when(OrderPlaced(), replied(Pay, Paid()), replied("n"))
            .when(replied(Ship))
            .then(undo_issued(Unship))
            .when(replied(Unship))
            .then(undo_issued(Refund))
            .when(replied(Refund))
            .then(completed(OrderConfirmed()))
        )

    def test_it_fails_as_soon_as_too_few_can_succeed(self):
        """The first failure in the order of definition is raised; all that did not fail is lost."""

        async def order(ctx, placed):
            branches = notify(ctx, "a"), notify(ctx, "b"), ctx.do(Pay(), undo=Refund)
            try:
                await ctx.some(3, *branches, notify(ctx, "d"))
            except StepFailed as failure:
                return OrderConfirmed(order_id=failure.step)

        (
            running(order)
            .when(OrderPlaced(), refused("d"), replied(Pay, Paid()))
            .when(refused("a"))
            .then(undo_issued(Refund))
            .when(replied(Refund))
            .then(completed(OrderConfirmed(order_id="a"), residue=("b",)))
        )

    def test_of_none_nothing_begins(self):
        async def order(ctx, placed):
            nothing = await ctx.some(0, later(ctx, "a"), ctx.all(later(ctx, "b")))
            nothing += await ctx.some(0)
            return OrderConfirmed(order_id=repr(nothing))

        running(order).when(OrderPlaced()).then(completed(OrderConfirmed(order_id="()")))

    def test_one_result_is_a_tuple_too(self):
        async def order(ctx, placed):
            return OrderConfirmed(order_id=repr(await ctx.some(1, ctx.publish(OrderSeen()))))

        (
            running(order)
            .when(OrderPlaced())
            .then(published(OrderSeen()), completed(OrderConfirmed(order_id="(None,)")))
        )


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda ctx: ctx.some(3, ctx.sleep("1s"), ctx.sleep("1s")), "ctx.some(3, …): expected"),
        (lambda ctx: ctx.some(-1, ctx.sleep("1s")), "ctx.some(-1, …): expected"),
        (lambda ctx: ctx.some(*(True, ctx.sleep("1s"))), "ctx.some(True, …): expected"),
        (lambda ctx: ctx.some(ctx.sleep("1s"), ctx.sleep("1s")), "ctx.some("),
        (lambda ctx: ctx.some(1, 7), "int cannot run side by side"),
        (lambda ctx: ctx.any(), "ctx.any() of nothing can never succeed"),
        (lambda ctx: ctx.all(ctx.sleep("1s"), fail="quick"), "expected 'wait' or 'fast'"),
        (lambda ctx: ctx.all(ctx.sleep("1s"), at_once=0), "at_once=0): expected a number from 1"),
        (lambda ctx: ctx.all(ctx.sleep("1s"), at_once="2"), "at_once='2'): expected a number"),
        (lambda ctx: ctx.all(ctx.sleep("1s"), at_once=True), "at_once=True): expected a number"),
    ],
)
def test_group_that_makes_no_sense_parks_the_saga_with_its_place(call, problem):
    async def order(ctx, placed):
        await call(ctx)

    scenario = running(order).when(OrderPlaced()).then_parked(problem)
    assert f"{__file__}:" in scenario.state.reason


def test_some_that_is_never_awaited_is_refused_on_import():
    async def order(ctx, placed):
        ctx.some(1, ctx.sleep("1s"))

    with pytest.raises(DefinitionError, match="never awaited"):
        as_saga(order)


@pytest.mark.filterwarnings("error")
def test_races_within_all_within_some_leave_nothing_behind():
    """Async generators and coroutines at any depth; what has lost or never began is closed."""

    async def ticks(ctx):
        try:
            for number in count():
                await ctx.sleep("1m")
                yield number
        finally:
            ctx.publish(OrderSeen())

    async def first_tick(ctx):
        async for number in ticks(ctx):
            return number
        return None

    async def race(ctx, name):
        return await ctx.any(first_tick(ctx), ctx.wait(name), later(ctx, name))

    async def order(ctx, placed):
        done = await ctx.some(
            1,
            ctx.all(race(ctx, "a"), race(ctx, "b"), race(ctx, "c"), at_once=1, fail="fast"),
            ctx.all(race(ctx, "d"), race(ctx, "e"), race(ctx, "f"), at_once=2),
        )
        return OrderConfirmed(order_id=repr(done))

    scenario = running(order).when(OrderPlaced())
    assert steps(scenario) == ["a", "d", "e"]
    # The finally of a generator that had begun and lost is not heard.
    scenario.when(signalled("d", 1), refused("a"), refused("f"), signalled("e", 2))
    scenario.then(issued(Notify, step="f"))
    (
        scenario.when(signalled("f", 3))
        .then(completed(OrderConfirmed(order_id="((1, 2, 3),)"), residue=("d", "e")))
        .then_status("completed")
    )


# A model of groups, to compare with: what each event begins, what it ends, what comes out.


def _groups(inner):
    branches = st.lists(inner, min_size=1, max_size=4)  # none that is over at once
    limits = st.one_of(st.none(), st.integers(1, 3))
    return st.one_of(
        st.tuples(st.sampled_from(["wait", "fast"]), limits, branches),
        st.tuples(st.just("some"), st.integers(1, 4), branches),
        st.tuples(st.just("any"), st.none(), branches),
        st.tuples(st.sampled_from(["seq", "try"]), st.none(), branches),
    )


trees = st.recursive(st.just(("step", None, [])), _groups, max_leaves=9)
"""What a part is, its number, and the parts of it."""


class Model:
    """One part of a tree: begins, is told how its parts end, and tells the part that it is in."""

    def __init__(self, tree, path, world, above=None):
        self.how, self.number, branches = tree
        self.path, self.world, self.above = path, world, above
        self.parts = [Model(each, f"{path}.{n}", world, self) for n, each in enumerate(branches)]
        needed = {"some": min(self.number or 1, len(branches)), "any": 1}
        self.needed = needed.get(self.how, len(branches))
        self.begun = 0
        self.is_over = False
        self.ended = {}

    def begin(self):
        if self.how == "step":
            self.world.begun.add(self.path)
            self.world.open[self.path] = self
        else:
            self.begin_more()

    def begin_more(self):
        limits = {"seq": 1, "try": 1, "some": 99, "any": 99}
        limit = limits.get(self.how, self.number or 99)
        while self.begun < len(self.parts) and self.begun - len(self.ended) < limit:
            self.begun += 1
            self.parts[self.begun - 1].begin()

    def end(self, value, *, is_done):
        self.is_over = True
        self.world.open.pop(self.path, None)
        if self.above is None:
            self.world.result = (is_done, value)
        elif not self.above.is_over:
            self.above.take(self, is_done, value)

    def take(self, part, is_done, value):
        self.ended[part] = (is_done, value)
        done = [each for each in self.parts if self.ended.get(each, (False,))[0]]
        failures = [each for each in self.parts if not self.ended.get(each, (True,))[0]]
        values = tuple(self.ended[each][1] for each in done)
        is_through = len(self.ended) == len(self.parts)
        is_race = self.how in ("any", "some", "fast")
        if is_race and len(done) == self.needed:
            self.lose(each for each in self.parts if each not in done)
            self.end(values[0] if self.how == "any" else values, is_done=True)
        elif is_race and len(failures) > len(self.parts) - self.needed:
            self.lose(each for each in self.parts if each not in failures)
            self.end(self.ended[failures[0]][1], is_done=False)
        elif failures and (self.how == "seq" or (self.how == "wait" and is_through)):
            self.end(self.ended[failures[0]][1], is_done=False)
        elif is_through:
            self.end(values, is_done=True)
        else:
            self.begin_more()

    def lose(self, parts):
        for part in parts:
            part.is_over = True
            self.world.open.pop(part.path, None)
            if part.path in self.world.begun:
                self.world.lost.add(part.path)
            part.lose(part.parts)


class ModelWorld:
    def __init__(self, tree):
        self.begun, self.lost, self.failed = set(), set(), set()
        self.open, self.result = {}, None
        Model(tree, "s", self).begin()


async def interpret(ctx, tree, path):
    how, number, branches = tree
    parts = [(each, f"{path}.{n}") for n, each in enumerate(branches)]
    if how == "step":
        await notify(ctx, path)
        return path
    if how in ("seq", "try"):
        done = []
        for part in parts:
            with suppress(*(StepFailed,) if how == "try" else ()):
                done.append(await interpret(ctx, *part))
        return tuple(done)
    running = [interpret(ctx, *part) for part in parts]
    match how:
        case "any":
            return await ctx.any(*running)
        case "some":
            return await ctx.some(min(number, len(parts)), *running)
    return await ctx.all(*running, fail=how, at_once=number)


@settings(max_examples=300)
@hypothesis_given(tree=trees, happens=st.lists(st.tuples(st.integers(0, 9), st.booleans())))
def test_groups_of_any_shape_do_what_a_simple_model_says(tree, happens):
    async def order(ctx, placed):
        try:
            done = await interpret(ctx, tree, "s")
        except StepFailed as failure:
            return OrderConfirmed(order_id=f"failed: {failure.step}")
        return OrderConfirmed(order_id=repr(done))

    scenario = running(order).when(OrderPlaced())
    model = ModelWorld(tree)
    for pick, is_done in [*happens, *[(0, True)] * 20]:
        assert set(steps(scenario)) == model.begun
        lost = {step.id for step in scenario.state.steps.values() if step.has_lost}
        assert lost == model.lost - model.failed
        assert scenario.status.is_ended == (model.result is not None)
        if model.result is not None:
            break
        name = sorted(model.open)[pick % len(model.open)]
        scenario.when(replied(name) if is_done else refused(name))
        model.failed |= set() if is_done else {name}
        model.open[name].end(name, is_done=is_done)
    is_done, value = model.result
    outcome = OrderConfirmed.model_validate_json(scenario.state.outcome.payload)
    assert outcome.order_id == (repr(value) if is_done else f"failed: {value}")
