"""One function that may use everything: its trigger brings a plan drawn by chance, and it follows.

A plan is a list of calls, nested where they are groups, children or scopes. `Asked` begins a saga
that follows one, `HelpAsked` another that is a child, with children of its own. Whoever knows the
plan knows what is to be expected; the application needs no dice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from random import Random
from typing import Any, Final

from pydantic import JsonValue

from saga import (
    ChildRolledBack,
    Context,
    EffectContext,
    Effects,
    Event,
    Intent,
    Refused,
    Retry,
    RollBack,
    SagaApp,
    StepFailed,
    TimedOut,
    on,
    saga,
)
from saga.testing import World, WorldState, after, cancelled, operator, signalled, updated
from saga.testing.happenings import Plain as Told
from saga.testing.happenings import TimerAct
from saga.testing.world.driver import Happens, Somewhere
from saga.testing.world.process import current_process

RETRY: Final = Retry(attempts=3, initial="80ms", cap="300ms")
PATIENT: Final = Retry(attempts=None, initial="80ms", cap="300ms")
LIMITS: Final[Any] = {"retry": RETRY, "timeout": "700ms"}
FAILURES: Final = (StepFailed, TimedOut, ChildRolledBack)
Plan = list[JsonValue]


class Asked(Event, topic="all.asked", version=1, key="key"):
    key: str
    plan: list[JsonValue]


class HelpAsked(Event, topic="all.help-asked", version=1, key="key"):
    key: str
    plan: list[JsonValue]


class SharedAsked(Event, topic="all.shared-asked", version=1, key="key"):
    """Begins two sagas; the first of them to say so is the child."""

    key: str
    plan: list[JsonValue]


class Answered(Event, topic="all.answered", version=1):
    key: str
    said: list[JsonValue]


class Failed(Event, topic="all.failed", version=1):
    key: str
    reason: str
    code: str | None
    residue: list[str]


class News(Event, topic="all.news", version=1, key="about"):
    """Said by sagas of each other, and by somebody else."""

    about: str
    number: int


class Counted(Event, topic="hands.counted", version=1):
    """What a service says it has counted; an operator who enters it says otherwise."""

    number: int


class Count(Intent[Counted], topic="hands.count", version=1):
    key: str
    script: str


class Work(Intent[None], topic="hands.work", version=1):
    key: str
    script: str


class Unwork(Intent[None], topic="hands.unwork", version=1):
    key: str
    script: str


hands = Effects("hands")


@hands.on(Work)
async def work(intent: Work, ctx: EffectContext) -> None:
    """Do what the script says: `refuse`, `fail:2`, `slow:1.5`, `long:1.5`, which tells progress."""
    words = dict(word.partition(":")[::2] for word in intent.script.split())
    if ctx.attempt == 1 and "slow" in words:
        await asyncio.sleep(float(words["slow"]))
    for _ in range(round(float(words.get("long", "0")) / 0.25)):
        await asyncio.sleep(0.25)
        if ctx.cancelled:
            raise Refused("nobody waits any more", code="too_late")
        await ctx.progress("still at it")
    if "refuse" in words:
        raise Refused("planned: no", code="no")
    if ctx.attempt <= int(words.get("fail", "0")):
        raise RuntimeError("planned: failed")


@hands.on(Count)
async def count(intent: Count, ctx: EffectContext) -> Counted:
    """As the script says, and then a number that no operator enters."""
    await work(Work(key=intent.key, script=intent.script), ctx)
    return Counted(number=1)


@hands.on(Unwork)
async def unwork(intent: Unwork, ctx: EffectContext) -> None:
    """Undo, or fail as often as the script says."""
    words = dict(word.partition(":")[::2] for word in intent.script.split())
    if ctx.attempt <= int(words.get("undofail", "0")):
        raise RuntimeError("planned: cannot undo now")


async def _follow(ctx: Context, key: str, plan: Any) -> list[JsonValue]:
    """Everything in the plan, one after the other; what came of each."""
    said: list[JsonValue] = []
    for name, *words in plan:
        for kind in (_act, _say, _hear, _group):
            came = await kind(ctx, key, name, words)
            if came is not _NOT_MINE:
                said.append(came)
                break
        else:
            raise AssertionError(name)
        ctx.show(at=name, so_far=len(said))
    return said


_NOT_MINE: Final[Any] = object()


async def _act(ctx: Context, key: str, name: str, words: Any) -> JsonValue:
    match name, words:
        case "do", (step, script):
            intent = Work(key=key, script=script)
            await ctx.do(intent, undo=Unwork, id=step, undo_retry=PATIENT, **LIMITS)
            return None
        case "count", (step, script):
            intent = Count(key=key, script=script)
            return (await ctx.do(intent, id=step, kind="read_only", **LIMITS)).number
        case "plain", (step, kind, script):
            retry = PATIENT if kind == "retriable" else RETRY
            intent = Work(key=key, script=script)
            await ctx.do(intent, id=step, kind=kind, retry=retry, timeout="700ms")
            return None
        case "child", (step, child, plan, timeout):
            asked = (SharedAsked if step.endswith("-shared") else HelpAsked)(key=child, plan=plan)
            answered = await ctx.child(asked, outcome=Answered, timeout=timeout, id=step)
            return len(answered.said)
        case "again", (plan,):
            await ctx.continue_as_new(Asked(key=ctx.key, plan=plan))
        case "fail", (code,):
            raise RollBack("planned: enough", code=code)
    return _NOT_MINE


async def _say(ctx: Context, key: str, name: str, words: Any) -> JsonValue:
    match name, words:
        case "tell", (script,):
            ctx.tell(Work(key=key, script=script))
        case "publish", (about, number):
            ctx.publish(News(about=about, number=number))
        case "signal", (definition, other, signal, number):
            await ctx.signal(definition, other, signal, number)
        case "log", (text,):
            ctx.log.info(text)
        case _:
            return _NOT_MINE
    return None


async def _hear(ctx: Context, _: str, name: str, words: Any) -> JsonValue:
    try:
        match name, words:
            case "sleep", (length,):
                await ctx.sleep(length)
                return None
            case "until", (seconds,):
                await ctx.sleep_until(ctx.now() + timedelta(seconds=seconds))
                return None
            case "update", (timeout,):
                request = await ctx.update("ask", int, timeout=timeout)
                if request.payload % 2:
                    request.refuse("odd", "only even numbers")
                else:
                    request.answer(request.payload)
                return "asked"
            case "wait", (signal, timeout):
                return await ctx.wait(signal, int, timeout=timeout)
            case "next", (remainder, timeout):
                where = None if remainder is None else (lambda news: news.number % 2 == remainder)
                return ["news", (await ctx.next(News, where=where, timeout=timeout)).number]
    except TimedOut:
        return "nothing came"
    return _NOT_MINE


async def _group(ctx: Context, key: str, name: str, words: Any) -> JsonValue:
    match name, words:
        case "all", (fail, at_once, plans):
            branches = (_follow(ctx, key, plan) for plan in plans)
            return list(await ctx.all(*branches, fail=fail, at_once=at_once))
        case "some", (count, plans):
            return list(await ctx.some(count, *(_follow(ctx, key, plan) for plan in plans)))
        case "any", (plans,):
            return await ctx.any(*(_follow(ctx, key, plan) for plan in plans))
        case "try", (plan, instead):
            try:
                return await _follow(ctx, key, plan)
            except FAILURES:
                return await _follow(ctx, key, instead)
        case "scope", (plan,):
            try:
                async with ctx.scope():  # type: ignore[attr-defined]
                    return await _follow(ctx, key, plan)
            except (*FAILURES, RollBack) as error:
                return type(error).__name__
        case "patched", (patch, plan):
            # Code that is changed while sagas run: as it was before the change, and after it.
            process = current_process()
            is_deployed = process is None or process.surroundings.is_mended
            return await _follow(ctx, key, plan) if is_deployed and ctx.patched(patch) else None
    return _NOT_MINE


@saga(
    "everything",
    version=1,
    starts_on=Asked,
    listens=on(News, early="2s"),
    rolled_back=Failed,
)
async def everything(ctx: Context, asked: Asked) -> Answered:
    return Answered(key=asked.key, said=await _follow(ctx, asked.key, asked.plan))


@saga(
    "helper",
    version=1,
    starts_on=(HelpAsked, SharedAsked),
    listens=News,
    rolled_back=Failed,
    parallel_undo=True,
    deadline="5s",
)
async def helper(ctx: Context, asked: HelpAsked | SharedAsked) -> Answered:
    return Answered(key=asked.key, said=await _follow(ctx, asked.key, asked.plan))


@saga("witness", version=1, starts_on=SharedAsked, rolled_back=Failed)
async def witness(ctx: Context, asked: SharedAsked) -> Answered:
    """Begins beside a helper, and may be quicker."""
    await ctx.do(Work(key=asked.key, script=""), undo=Unwork, undo_retry=PATIENT, **LIMITS)
    await ctx.sleep("200ms")
    return Answered(key=asked.key, said=[])


app = SagaApp(sagas=[everything, helper, witness], effects=[hands])
ACTS: Final = ("retry", "skip", "compensate", "release")
STEPS: Final = ("s1", "s2")
ENTERED: Final = Counted(number=2)
MOVES: Final = ("1ms", "300ms", "3s", "1h")
MODES: Final = ("graceful", "immediate", "abandon")
SIGNALS: Final = ("go", "stop")
DEPTH_MAX: Final = 3


class Drawn:
    """Plans drawn by chance, in which no step has the name of another one of its saga."""

    def __init__(self, rng: Random, keys: Sequence[str], number: object) -> None:
        self._rng = rng
        self._keys = keys
        self._number = number
        self._steps = 0
        self._children = 0
        self._trouble = rng.choice((0.05, 0.15, 0.35))

    def whole(self, *, is_first: bool = True) -> Plan:
        """What a saga does; behind its pivot, where it has one, it only goes forward."""
        plan = self.plan(self._rng.randint(1, 5), 0)
        if self._rng.random() < 0.15 and is_first:
            again = Drawn(self._rng, self._keys, f"{self._number}-again").whole(is_first=False)
            plan.append(["again", again])
        elif self._rng.random() < 0.15:
            plan.append(["fail", "planned"])
        elif self._rng.random() < 0.2:
            plan.append(["plain", self._step(), "pivot", self._script()])
            plan += [self._behind_pivot() for _ in range(self._rng.randint(0, 3))]
        return plan

    def plan(self, length: int, depth: int) -> Plan:
        """So many calls."""
        return [self._call(depth) for _ in range(length)]

    def _call(self, depth: int) -> Plan:
        rng = self._rng
        kinds = {
            self._do: 6,
            self._plain: 2,
            self._count: 2,
            self._sleep: 1,
            self._wait: 2,
            self._update: 1,
            self._next: 3,
            self._said: 3,
        }
        if depth < DEPTH_MAX:
            kinds |= {self._child: 3, self._group: 3, self._nested: 2}
        chosen: Callable[[int], Plan] = rng.choices(list(kinds), list(kinds.values()))[0]
        return chosen(depth)

    def _behind_pivot(self) -> Plan:
        kinds = (self._said, self._sleep, self._wait, self._next, self._update)
        if self._rng.random() < 0.4:
            script = self._script().replace("refuse", "fail:3")  # of which there is no way back
            script = script.replace("long", "slow")  # which refuses when nobody waits any more
            return ["plain", self._step(), "retriable", script]
        return self._rng.choice(kinds)(0)

    def _do(self, _: int) -> Plan:
        return ["do", self._step(), self._script()]

    def _plain(self, _: int) -> Plan:
        kind = self._rng.choice(("read_only", "harmless"))
        return ["plain", self._step(), kind, self._script()]

    def _count(self, _: int) -> Plan:
        return ["count", self._step(), self._script()]

    def _sleep(self, _: int) -> Plan:
        if self._rng.random() < 0.1:
            return ["sleep", "2h"]  # too long, unless an operator has it fire
        if self._rng.random() < 0.5:
            return ["sleep", f"{self._rng.randint(1, 900)}ms"]
        return ["until", self._rng.uniform(-1, 1)]

    def _wait(self, _: int) -> Plan:
        return ["wait", self._rng.choice(SIGNALS), f"{self._rng.randint(100, 1500)}ms"]

    def _update(self, _: int) -> Plan:
        return ["update", f"{self._rng.randint(100, 1500)}ms"]

    def _next(self, _: int) -> Plan:
        return ["next", self._rng.choice((None, 0, 1)), f"{self._rng.randint(100, 2000)}ms"]

    def _said(self, _: int) -> Plan:
        rng = self._rng
        key, number = rng.choice(self._keys), rng.randint(0, 9)
        return rng.choice(
            (
                ["tell", self._script()],
                ["publish", key, number],
                ["signal", rng.choice(("everything", "helper")), key, rng.choice(SIGNALS), number],
                ["log", "a line"],
            )
        )

    def _child(self, depth: int) -> Plan:
        rng = self._rng
        self._children += 1
        key = f"k-{self._number}-{self._children}"
        if rng.random() < 0.1:
            key = rng.choice(self._keys)  # which may be somebody else's
        plan = self.plan(rng.randint(0, 3), depth + 1)
        if rng.random() < 0.2:
            plan.append(["fail", "of-child"])
        elif rng.random() < 0.1:
            plan.append(["plain", self._step(), "pivot", self._script()])
        timeout = f"{rng.randint(300, 3000)}ms" if rng.random() < 0.3 else None
        step = self._step()
        return ["child", f"{step}-shared" if rng.random() < 0.15 else step, key, plan, timeout]

    def _group(self, depth: int) -> Plan:
        rng = self._rng
        plans: Plan = [self.plan(rng.randint(0, 2), depth + 1) for _ in range(rng.randint(1, 4))]
        match rng.randrange(4):
            case 0:
                return ["some", rng.randint(0, len(plans)), plans]
            case 1:
                return ["any", plans]
            case _:
                fail, at_once = rng.choice(("wait", "fast")), rng.choice((None, 1, 2))
                return ["all", fail, at_once, plans]

    def _nested(self, depth: int) -> Plan:
        rng = self._rng
        plan = self.plan(rng.randint(1, 3), depth + 1)
        match rng.randrange(3):
            case 0:
                return ["try", plan, self.plan(rng.randint(0, 1), depth + 1)]
            case 1 if hasattr(Context, "scope"):
                if rng.random() < 0.5:
                    plan.append(["fail", "of-scope"])
                return ["scope", plan]
            case _:
                return ["patched", f"patch-{self._step()}", plan]

    def _step(self) -> str:
        self._steps += 1
        return f"s{self._steps}"

    def _script(self) -> str:
        rng, words = self._rng, []
        if rng.random() < self._trouble:
            doing = ("refuse", "fail:1", "fail:2", "fail:9", "slow:0.3", "slow:1.2", "long:1.5")
            words.append(rng.choice(doing))
        if rng.random() < self._trouble:
            words.append(f"undofail:{rng.randint(1, 3)}")
        return " ".join(words)


def stories(rng: Random) -> list[Sequence[Happens]]:
    """What happens in one world, beside what goes wrong in it."""
    count = rng.randint(1, 4)
    keys = [f"k-{number}" for number in range(count)]
    return [_story(rng, keys, number) for number in range(count)]


def _story(rng: Random, keys: Sequence[str], number: int) -> Sequence[Happens]:
    asked = Asked(key=keys[number], plan=Drawn(rng, keys, number).whole())
    story: list[Happens] = [asked]
    for _ in range(rng.randint(0, 5)):
        story.append(after(f"{rng.randint(0, 900)}ms"))
        story.append(_happens(rng, keys) if rng.random() < 0.7 else by_hand(rng, keys))
    while rng.random() < 0.5:
        story.append(after(f"{rng.randint(0, 900)}ms"))
        story.append(by_hand(rng, keys))
    return story


def by_hand(
    rng: Random, keys: Sequence[str], *, steps: Sequence[str] = STEPS, entered: Event = ENTERED
) -> Happens:
    """What an operator enters, moves or runs again: of some saga, or of the story's own."""
    step = rng.choice((None, None, None, *steps))
    match rng.randrange(7):
        case 0 | 1 | 2:
            reply = rng.choice((None, entered))
            act = operator("mark", step, state="done", reply=reply)
        case 3:
            act = operator("mark", step, state="undone")
        case 4:
            act = operator("fire-timer", step)
        case 5:
            act = operator("move-timer", step, to=rng.choice(MOVES))
        case _:
            key = f"again-{rng.randint(1, 3)}" if rng.random() < 0.7 else rng.choice(keys)
            act = operator("rerun", key=key)
    assert isinstance(act, Told | TimerAct), act
    return Somewhere(act) if rng.random() < 0.6 else act


def _happens(rng: Random, keys: Sequence[str]) -> Happens:
    match rng.randrange(13):
        case 0 | 1 | 2:
            return signalled(rng.choice(SIGNALS), rng.choice((1, 2, "no number")))
        case 3 | 4 | 5:
            return News(about=rng.choice([*keys, "nobody"]), number=rng.randint(0, 9))
        case 6:
            return operator(rng.choice(("pause", "resume")))
        case 7:
            return operator(rng.choice(("pause", "resume")), definition=True)
        case 10:
            return updated("ask", rng.choice((1, 2, 4, "no number")))
        case 11:
            return Somewhere(cancelled("planned", mode=rng.choice(MODES)))
        case 12:
            return Somewhere(operator(rng.choice(ACTS)))
        case 8:
            return operator(rng.choice(ACTS), rng.choice((None, "s1", "s2")))
        case _:
            return cancelled("planned", mode=rng.choice(MODES))


def everything_world(seed: int) -> World:
    """The world of *seed*."""
    return World(app, seed, triggers=stories, check=[nobody_is_parked])


def nobody_is_parked(world: WorldState) -> None:
    """No plan has a flaw: what is stuck is skipped."""
    parked = [f"{saga.key}: {saga.reason}" for saga in world.sagas if saga.status == "parked"]
    assert not parked, parked
