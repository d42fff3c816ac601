"""Growth: what one more turn costs a saga that is long or wide already.

Each curve is a function from sizes to points `(size, cost)`. A cost is a number of bytecode
instructions, so that it is the same on every machine, and `exponent` says how it grows: 0 is flat,
1 is linear. No store and no bus take part.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from math import log
from typing import Any, Final

from benchmarks.timing import counting
from saga.authoring import Context, SagaDefinition, SagaRegistry, StepFailed, saga
from saga.contracts import ContractRegistry, Event, Intent, canonical, message_of
from saga.core import events, intents
from saga.core.decider import RECORDED
from saga.core.events import ReplyOutcome, ReplyReceived
from saga.core.history import Entry, RecordedTurn
from saga.core.identity import Instant, IntentId, MessageId, intent_id, saga_id
from saga.core.replay import replay
from saga.core.retry import ONCE
from saga.core.state import waiting_for

SIZES: Final = (10, 30, 100, 300, 1_000, 3_000, 10_000)
Points = list[tuple[int, float]]
Curve = Callable[[Sequence[int]], Points]

_FUTURE_US: Final = 3_600_000_000


class Begun(Event, topic="growth.begun", version=1, key="name"):
    name: str
    size: int


class Do(Intent[None], topic="growth.do", version=1):
    number: int = 0


class Undo(Intent[None], topic="growth.undo", version=1):
    number: int = 0


class Told(Event, topic="growth.told", version=1):
    number: int = 0


_CONTRACTS: Final = (Begun, Do, Undo, Told)


def exponent(points: Points) -> float:
    """How a cost grows: the slope of the straight line through its logarithms."""
    logs = [(log(size), log(cost)) for size, cost in points]
    mean_x = sum(x for x, _ in logs) / len(logs)
    mean_y = sum(y for _, y in logs) / len(logs)
    spread = sum((x - mean_x) ** 2 for x, _ in logs)
    return sum((x - mean_x) * (y - mean_y) for x, y in logs) / spread


def instructions(act: Callable[[], object]) -> int:
    """How many bytecode instructions *act* takes, in all that it calls."""
    with counting() as count:
        act()
    return count()


class Running:
    """One saga that is turned by hand; what it has asked for waits in `open`, oldest first."""

    def __init__(self, definition: SagaDefinition, size: int = 0) -> None:
        registry = ContractRegistry([*definition.contracts(), *_CONTRACTS])
        registered = SagaRegistry([definition], registry).find(definition.name, definition.version)
        assert registered is not None
        self.decider = decider = registered.decider
        self.saga_id = saga_id(decider.name, "one")
        self.state = decider.initial_state(self.saga_id)
        self.history: list[Entry] = []
        self.open: deque[IntentId] = deque()
        self.timers: deque[intents.TimerArmed] = deque()
        self._taken = 0
        self._at = _FUTURE_US
        self.take(
            events.SagaStarted(
                definition=decider.name,
                definition_version=decider.version,
                fingerprint=decider.fingerprint,
                key="one",
                trigger=message_of(Begun(name="one", size=size)),
            )
        )

    def take(self, fact: events.Fact, *, not_before: int = 0) -> None:
        """One turn, with what the index is told of it."""
        self._taken += 1
        self._at = max(self._at + 1, not_before)
        at = Instant(self._at)
        event = events.Event(fact, at, MessageId(f"message-{self._taken}"))
        decision = self.decider.handle(self.state, event)
        waiting_for(decision.state)
        if decision.disposition is RECORDED:
            self.history += RecordedTurn(
                self.saga_id, len(self.history) + 1, event, decision.intents
            )
        for decided in decision.intents:
            if isinstance(decided, intents.IntentIssued):
                self.open.append(
                    intent_id(self.saga_id, decided.step, decided.direction, decided.attempt)
                )
            elif isinstance(decided, intents.TimerArmed):
                self.timers.append(decided)

    def answer(self, outcome: ReplyOutcome = ReplyOutcome.DONE, *, newest: bool = False) -> None:
        answered = self.open.pop() if newest else self.open.popleft()
        self.take(ReplyReceived(intent_id=answered, outcome=outcome))

    def repeat_first(self) -> None:
        """The answer to the first step comes once more."""
        reply = next(each.body for each in self.history if isinstance(each.body, ReplyReceived))
        self.take(reply)

    def fire(self) -> None:
        """The oldest timer that still stands is due."""
        while (timer := self.timers.popleft()).timer_id not in self.state.timers:
            pass
        self.take(events.TimerFired(timer_id=timer.timer_id), not_before=timer.due_at)

    def signal(self, name: str = "go") -> None:
        self.take(events.SignalReceived(name=name, payload=canonical(1)))

    def close(self) -> None:
        if self.state.program is not None:
            self.state.program.close()


def _as_saga(function: Callable[..., Any], **options: Any) -> SagaDefinition:
    return saga("growth", version=1, starts_on=Begun, **options)(function)


def _long(
    function: Callable[..., Any],
    go_on: Callable[[Running], object],
    measured: Callable[[Running], object] | None = None,
) -> Curve:
    """The cost of going on once more, after so many times."""

    def curve(sizes: Sequence[int]) -> Points:
        running, times = Running(_as_saga(function)), 0
        points: Points = []
        for size in sorted(sizes):
            for _ in range(size - times):
                go_on(running)
            times = size
            points.append((size, instructions(partial(measured or go_on, running))))
            times += measured is None
        running.close()
        return points

    return curve


def _wide(
    function: Callable[..., Any],
    go_on: Callable[[Running], object],
    prepare: Callable[[Running, int], object] | None = None,
    **options: Any,
) -> Curve:
    """The cost of going on once, in the middle of a saga that has or had so many at a time."""

    def curve(sizes: Sequence[int]) -> Points:
        points: Points = []
        for size in sizes:
            running = Running(_as_saga(function, **options), size)
            if prepare is not None:
                prepare(running, size)
            for _ in range(size // 2):
                go_on(running)
            points.append((size, instructions(partial(go_on, running))))
            running.close()
        return points

    return curve


def _replayed(
    function: Callable[..., Any],
    go_on: Callable[[Running], object],
    now: Callable[..., Any] | None = None,
    *,
    is_wide: bool = False,
) -> Curve:
    """The cost of an entry when a history of so many turns is replayed, perhaps by other code."""

    def curve(sizes: Sequence[int]) -> Points:
        points: Points = []
        for size in sizes:
            running = Running(_as_saga(function), size if is_wide else 0)
            for _ in range(size):
                go_on(running)
            running.close()
            decider = Running(_as_saga(now or function)).decider
            cost = instructions(partial(_replay, decider, running.history))
            points.append((size, cost / len(running.history)))
        return points

    return curve


def _replay(decider: Any, history: Sequence[Entry]) -> None:
    state = replay(decider, history[0].saga_id, history)
    if state.program is not None:
        state.program.close()


# The functions. A loop that never ends is as long as it is driven.


async def _steps(ctx: Context, _: Begun) -> None:
    while True:
        await ctx.do(Do(), undo=Undo)


async def _hurried_steps(ctx: Context, _: Begun) -> None:
    while True:
        await ctx.do(Do(), timeout="1h")


async def _longer_hurried_steps(ctx: Context, _: Begun) -> None:
    while True:
        await ctx.do(Do(), timeout="2h")


async def _other_kind_of_steps(ctx: Context, _: Begun) -> None:
    while True:
        await ctx.do(Do(), kind="read_only", timeout="1h")


async def _failing_steps(ctx: Context, _: Begun) -> None:
    while True:
        with suppress(StepFailed):
            await ctx.do(Do(), retry=ONCE)


async def _scopes(ctx: Context, _: Begun) -> None:
    while True:
        with suppress(StepFailed):
            async with ctx.scope():
                await ctx.do(Do(), undo=Undo)
                await ctx.do(Do(), retry=ONCE)


async def _many_in_a_scope(ctx: Context, begun: Begun) -> None:
    async with ctx.scope():
        await ctx.all(*[ctx.do(Do(), undo=Undo) for _ in range(begun.size)])
        await ctx.do(Do(), retry=ONCE)


async def _races(ctx: Context, _: Begun) -> None:
    while True:
        await ctx.any(ctx.do(Do()), ctx.do(Do()))


async def _races_with_time(ctx: Context, _: Begun) -> None:
    while True:
        await ctx.any(ctx.do(Do()), ctx.sleep("1h"), ctx.wait("go"))


async def _races_of_branches(ctx: Context, _: Begun) -> None:
    async def branch() -> None:
        await ctx.all(ctx.do(Do()), ctx.do(Do()))

    while True:
        await ctx.any(branch(), branch())


async def _pairs(ctx: Context, _: Begun) -> None:
    while True:
        await ctx.all(ctx.do(Do()), ctx.do(Do()))


async def _sleeps(ctx: Context, _: Begun) -> None:
    while True:
        await ctx.sleep("1h")


async def _waits(ctx: Context, _: Begun) -> None:
    while True:
        await ctx.wait("go")


async def _never_waits(ctx: Context, _: Begun) -> None:
    await ctx.sleep("1h")


async def _tells(ctx: Context, _: Begun) -> None:
    while True:
        await ctx.publish(Told())
        await ctx.wait("go")


async def _makes_generators(ctx: Context, _: Begun) -> None:
    async def numbers() -> Any:
        while True:
            yield await ctx.do(Do())

    while True:
        async for _each in numbers():
            break


async def _many_steps(ctx: Context, begun: Begun) -> None:
    await ctx.all(*[ctx.do(Do(), undo=Undo, timeout="1h") for _ in range(begun.size)])


async def _many_sleeps(ctx: Context, begun: Begun) -> None:
    await ctx.all(*[ctx.sleep("1h") for _ in range(begun.size)])


async def _many_waits(ctx: Context, begun: Begun) -> None:
    await ctx.all(*[ctx.wait("go", timeout="1h") for _ in range(begun.size)])


async def _many_names(ctx: Context, begun: Begun) -> None:
    await ctx.all(*[ctx.wait(f"go-{n}", timeout="1h") for n in range(begun.size)])


async def _many_races(ctx: Context, begun: Begun) -> None:
    async def branch() -> None:
        while True:
            await ctx.any(ctx.do(Do()), ctx.sleep("1h"), ctx.wait("go"))

    await ctx.all(*[branch() for _ in range(begun.size)])


async def _many_generators(ctx: Context, begun: Begun) -> None:
    async def branch() -> None:
        async def numbers() -> Any:
            while True:
                yield await ctx.do(Do())

        while True:
            async for _each in numbers():
                break

    await ctx.all(*[branch() for _ in range(begun.size)])


async def _so_many_steps(ctx: Context, begun: Begun) -> None:
    for number in range(begun.size):
        await ctx.do(Do(number=number), undo=Undo)
    await ctx.wait("go")


async def _loses_many(ctx: Context, begun: Begun) -> None:
    await ctx.any(*[ctx.do(Do(), undo=Undo) for _ in range(begun.size)])


def _roll_back(running: Running, size: int) -> None:
    for _ in range(size):
        running.answer()
    _cancel(running, events.CancelMode.GRACEFUL)


def _cancel(running: Running, mode: events.CancelMode) -> None:
    running.take(events.CancelRequested(mode=mode, reason="on purpose"))


def _cancel_in_flight(running: Running, _: int) -> None:
    _cancel(running, events.CancelMode.GRACEFUL)


def _cancel_at_once(running: Running, size: int) -> None:
    for _ in range(size - 1):
        running.answer(newest=True)
    _cancel(running, events.CancelMode.IMMEDIATE)


def _win(running: Running, _: int) -> None:
    running.answer(newest=True)


def _win_after_all(running: Running, size: int) -> None:
    for _ in range(size):
        running.answer(newest=True)


def _answer_both(running: Running) -> None:
    running.answer()
    running.answer()


def _answer_four(running: Running) -> None:
    _answer_both(running)
    _answer_both(running)


def _lose(running: Running) -> None:
    running.answer(newest=True)
    running.answer()  # the loser's: it is late


def _fail(running: Running) -> None:
    running.answer(ReplyOutcome.FAILED)


def _leave_scope(running: Running) -> None:
    running.answer()
    _fail(running)
    running.answer()


def _leave_wide_scope(running: Running, size: int) -> None:
    for _ in range(size):
        running.answer()
    _fail(running)


CURVES: Final[dict[str, Curve]] = {
    "a step": _long(_steps, Running.answer),
    "a step with a deadline": _long(_hurried_steps, Running.answer),
    "a step that fails": _long(_failing_steps, _fail),
    "an answer that came before": _long(_steps, Running.answer, Running.repeat_first),
    "a scope that is undone": _long(_scopes, _leave_scope),
    "a race of two steps": _long(_races, _lose),
    "a race with a sleep and a wait": _long(_races_with_time, Running.answer),
    "a race of branches": _long(_races_of_branches, _answer_four),
    "a group of two": _long(_pairs, _answer_both),
    "a sleep": _long(_sleeps, Running.fire),
    "a wait": _long(_waits, Running.signal),
    "a signal that nobody waits for": _long(_never_waits, Running.signal),
    "an event": _long(_tells, Running.signal),
    "an async generator": _long(_makes_generators, Running.answer),
    "an answer beside many": _wide(_many_steps, Running.answer),
    "an answer beside many, once cancelled": _wide(_many_steps, Running.answer, _cancel_in_flight),
    "a sleep beside many": _wide(_many_sleeps, Running.fire),
    "a wait beside many": _wide(_many_waits, Running.signal),
    "a timeout beside many waits": _wide(_many_names, Running.fire),
    "a race beside many": _wide(_many_races, Running.answer),
    "an async generator beside many": _wide(_many_generators, Running.answer),
    "an undo": _wide(_so_many_steps, Running.answer, _roll_back),
    "an undo, side by side": _wide(
        _many_steps,
        Running.answer,
        _cancel_at_once,
        parallel_undo=True,
    ),
    "an undo of siblings, one by one": _wide(_many_steps, Running.answer, _cancel_at_once),
    "an undo in a scope": _wide(_many_in_a_scope, Running.answer, _leave_wide_scope),
    "an answer of a loser": _wide(_loses_many, Running.answer, _win),
    "an undo of losers": _wide(_loses_many, Running.answer, _win_after_all),
    "an entry replayed: steps": _replayed(_steps, Running.answer),
    "an entry replayed: steps of another kind": _replayed(
        _hurried_steps, Running.answer, _other_kind_of_steps
    ),
    "an entry replayed: longer deadlines": _replayed(
        _hurried_steps, Running.answer, _longer_hurried_steps
    ),
    "an entry replayed: races": _replayed(_races_with_time, Running.answer),
    "an entry replayed: many at a time": _replayed(_many_steps, Running.answer, is_wide=True),
    "an entry replayed: many waits": _replayed(_many_waits, Running.signal, is_wide=True),
}
