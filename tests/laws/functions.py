"""Functions of any shape: a tree of steps, waits, groups, scopes and try blocks, interpreted.

A step is named by its place in the tree, so that what it depends on can be told without the engine:
`0.1.2` is the third part of the second part of the first one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from hypothesis import strategies as st

from saga import ChildRolledBack, RollBack, StepFailed, TimedOut, saga
from saga.authoring.definition import SagaDefinition
from saga.core.retry import Retry
from tests.laws.contracts import (
    SOON,
    UNDO_RETRY,
    Began,
    Born,
    Ended,
    Failed,
    Grown,
    Hint,
    Make,
    News,
    Question,
    Seen,
    Unmake,
    Word,
)
from tests.laws.races import Race, Races

FAILURES = (StepFailed, TimedOut, ChildRolledBack, RollBack)
IN_ORDER = frozenset({"seq", "try", "pass on", "say on", "scope", "finally", "generator"})
"""The ways of having parts one behind the other; in the others they are siblings."""
RACES = frozenset({"any", "some", "fast"})


@dataclass(frozen=True)
class Step:
    has_undo: bool = False
    kind: str | None = None
    attempts: int = 1
    has_deadline: bool = False


@dataclass(frozen=True)
class Child:
    has_timeout: bool = False


@dataclass(frozen=True)
class Sleep:
    pass


@dataclass(frozen=True)
class Wait:
    name: str
    has_timeout: bool = False


@dataclass(frozen=True)
class Next:
    has_timeout: bool = False
    is_picky: bool = False


@dataclass(frozen=True)
class Ask:
    pass


@dataclass(frozen=True)
class Say:
    how: str


@dataclass(frozen=True)
class Give:
    """The saga rolls back."""


@dataclass(frozen=True)
class Many:
    how: str
    parts: tuple[Any, ...]


@dataclass(frozen=True)
class Function:
    """A description of a saga that is a function."""

    tree: Any
    options: tuple[tuple[str, Any], ...] = ()
    runs: int = 1
    remembers_all: bool = False
    """What a branch knows, others know too, so that what they ask for depends on the order."""

    @property
    def is_parallel(self) -> bool:
        return bool(dict(self.options).get("parallel_undo"))

    @property
    def continues_when_stuck(self) -> bool:
        return dict(self.options).get("when_stuck") == "continue"

    @property
    def halts(self) -> bool:
        return False

    def trigger(self) -> Began:
        script = f"{self}"
        SCRIPTS[script] = self
        RACES_OF[script] = Races()
        return Began(script=script)

    @property
    def races(self) -> Races:
        return RACES_OF[f"{self}"]

    def definition(self) -> SagaDefinition:
        return _definition(self.options)

    def depends(self, step: str, settled: Sequence[str]) -> set[str]:
        """On which of the *settled* steps one depends that is issued now."""
        return {each for each in settled if self.is_before(each, step)}

    def is_before(self, one: str, other: str) -> bool:
        """Whether the place of one is before that of the other in one flow."""
        node, ones, others = self.tree, one.split(".")[1:], other.split(".")[1:]
        for mine, theirs in zip(ones, others, strict=False):
            if mine != theirs:
                return node.how in IN_ORDER and int(mine) < int(theirs)
            node = node.parts[int(mine)]
        return False


SCRIPTS: dict[str, Function] = {}
"""What the sagas of this process do, by what their triggers say."""
RACES_OF: dict[str, Races] = {}


@cache
def _definition(options: tuple[tuple[str, Any], ...]) -> SagaDefinition:
    """One for all scripts, as it takes longer to define a saga than to run one."""

    async def law(ctx, began):
        script = SCRIPTS[began.script]
        races = RACES_OF[began.script]
        flow = Flow([], [], races, began.run, remembers_all=script.remembers_all)
        result = await run(ctx, script.tree, "s", flow)
        if began.run < script.runs:
            await ctx.continue_as_new(Began(script=began.script, run=began.run + 1))
        return Ended(said=f"{result}")

    define = saga(
        "law",
        version=1,
        starts_on=Began,
        listens=(News,),
        rolled_back=Failed,
        **dict(options),
    )
    return define(law)


@dataclass
class Flow:
    """What code knows where it stands."""

    known: list[str]
    passed: list[str]
    """The pivots that are behind it."""
    races: Races
    run: int
    is_scoped: bool = False
    remembers_all: bool = False

    @property
    def said(self) -> str:
        return " ".join(self.known[-4:])

    def branch(self) -> Flow:
        return self if self.remembers_all else replace(self, known=list(self.known))


async def run(ctx, node, place, flow) -> str:
    """Interpret a tree; the value says what has come of it."""
    match node:
        case Many():
            value = await (_in_order if node.how in IN_ORDER else _beside)(ctx, node, place, flow)
        case Give():
            raise RollBack("given up", code="given_up")
        case Step():
            value = await _make(ctx, node, place, flow)
        case Say(how="tell"):
            value = await ctx.tell(Hint(place=place))
        case Say(how="show"):
            value = await ctx.show(place=f"{place} {flow.said}")
        case Say(how="patched"):
            value = ctx.patched(place)
        case Say(how="signal"):
            value = await ctx.signal("law", "another", "a", {"number": 1})
        case Say():
            value = await ctx.publish(Seen(place=f"{place} {flow.said}"))
        case _:
            value = await _wait(ctx, node, place)
    if value is not None:
        flow.known.append(f"{value}")
    return f"{value}"


async def _wait(ctx, node, place):
    timeout = "9s" if getattr(node, "has_timeout", False) else None
    match node:
        case Sleep():
            await ctx.sleep("7s")
            return place
        case Wait():
            return (await ctx.wait(node.name, Word, timeout=timeout)).number
        case Next():
            where = (lambda news: news.number % 2 == 0) if node.is_picky else None
            return (await ctx.next(News, where=where, timeout=timeout)).number
        case Ask():
            asked = await ctx.update("ask", Question)
            asked.answer(asked.payload.number)
            return asked.payload.number
    born = Born(key=place)
    return (await ctx.child(born, outcome=Grown, timeout=timeout, id=place)).number


async def _make(ctx, node, place, flow) -> str:
    """Behind a pivot nothing has an undo, and in a scope there is none."""
    has_undo = node.has_undo and not flow.passed
    kind = None if flow.is_scoped and node.kind == "pivot" else node.kind
    made = await ctx.do(
        Make(place=place, said=flow.said),
        undo=Unmake if has_undo else None,
        id=place,
        kind=kind,
        retry=Retry(attempts=node.attempts, initial="5s"),
        timeout=SOON if node.has_deadline else None,
        undo_retry=UNDO_RETRY if has_undo else None,
    )
    if kind == "pivot":
        flow.passed.append(place)
    return f"{made.number}"


async def _in_order(ctx, node, place, flow) -> str:
    value = ""
    inner = replace(flow, is_scoped=True) if node.how == "scope" else flow
    parts = [(part, f"{place}.{number}") for number, part in enumerate(node.parts)]
    try:
        async with ctx.scope() if node.how == "scope" else nullcontext():
            if node.how == "generator":
                return await _left_early(ctx, parts, inner)
            if node.how == "finally":
                return await _finally(ctx, parts, inner)
            for part, where in parts:
                value = await run(ctx, part, where, inner)
    except FAILURES as error:
        if node.how == "say on":
            await ctx.publish(Seen(place=f"{place} {flow.said}"))
        if node.how not in ("try", "pass on"):
            raise
        value = f"{type(error).__name__} {getattr(error, 'step', '')}"
        flow.known.append(value)
        if node.how == "pass on":
            raise
    return value


async def _finally(ctx, parts, flow) -> str:
    """The last part comes whatever has become of those before."""
    value = ""
    try:
        for part, where in parts[:-1]:
            value = await run(ctx, part, where, flow)
    finally:
        await run(ctx, *parts[-1], flow)
    return value


async def _left_early(ctx, parts, flow) -> str:
    """All parts but the last are taken from a generator, which still says something at its end."""
    async for value, is_last in _one_by_one(ctx, parts, flow):
        if is_last:
            return await run(ctx, *parts[-1], flow)
        flow.known.append(value)
    return await run(ctx, *parts[-1], flow)


async def _one_by_one(ctx, parts, flow):
    try:
        for number, (part, where) in enumerate(parts[:-1], 2):
            yield await run(ctx, part, where, flow), number == len(parts)
    finally:
        await ctx.show(ended=parts[0][1])


async def _beside(ctx, node, place, flow) -> str:
    race = (flow.run, place)
    parts = [
        _seen(race, number, flow.races, ctx, part, f"{place}.{number}", flow.branch())
        for number, part in enumerate(node.parts)
    ]
    if node.how not in RACES:
        return f"{await _grouped(ctx, node.how, parts)}"
    try:
        value = await _grouped(ctx, node.how, parts)
    except FAILURES:
        flow.races.decide(race, len(parts), is_won=False)
        raise
    flow.races.decide(race, len(parts), is_won=True)
    return f"{value}"


async def _seen(race: Race, branch: int, races: Races, *part: Any) -> str:
    """A branch, whose end is seen; one that is left is not."""
    try:
        value = await run(*part)
    except FAILURES:
        races.end(race, branch, is_done=False)
        raise
    races.end(race, branch, is_done=True)
    return value


def _grouped(ctx, how: str, parts: list[Any]) -> Awaitable[Any]:
    match how:
        case "any":
            return ctx.any(*parts)
        case "some":
            return ctx.some((len(parts) + 1) // 2, *parts)
        case "one at once":
            return ctx.all(*parts, at_once=1)
    return ctx.all(*parts, fail="fast" if how == "fast" else "wait")


KINDS = st.sampled_from([None, None, None, None, "pivot", "retriable", "read_only", "harmless"])


def undoable(step: Step) -> Step:
    return replace(step, has_undo=step.has_undo and step.kind not in ("read_only", "harmless"))


STEPS = st.builds(
    Step, st.sampled_from([True, True, False]), KINDS, st.integers(1, 2), st.booleans()
).map(undoable)
LEAVES = st.one_of(
    *(STEPS, STEPS, STEPS, STEPS, STEPS),
    st.just(Sleep()),
    st.builds(Wait, st.sampled_from("ab"), st.booleans()),
    st.sampled_from([Next(), Next(has_timeout=True), Next(is_picky=True), Ask(), Give()]),
    st.builds(Child, st.booleans()),
    st.builds(Say, st.sampled_from(["tell", "show", "publish", "patched", "signal"])),
)
WAYS_OF_MANY = (
    *("seq", "seq", "seq", "all", "fast", "one at once", "any", "some"),
    *("try", "pass on", "scope", "scope"),
)


def parts_of(leaves, ways: Sequence[str], leaves_max: int):
    """Leaves, and groups of them and of groups."""
    return st.recursive(
        leaves,
        lambda within: st.builds(
            Many, st.sampled_from(ways), st.lists(within, min_size=1, max_size=3).map(tuple)
        ),
        max_leaves=leaves_max,
    )


def trees(leaves, ways: Sequence[str], *, leaves_max: int = 7):
    """Trees of these leaves; the first parts of a saga come one behind the other."""
    inner = parts_of(leaves, ways, leaves_max)
    parts = st.one_of(
        st.lists(inner, min_size=1, max_size=2), st.lists(inner, min_size=3, max_size=4)
    )
    return parts.map(lambda drawn: Many("seq", tuple(drawn)))


OPTIONS = st.fixed_dictionaries(
    {
        "parallel_undo": st.booleans(),
        "when_stuck": st.sampled_from(["halt", "continue"]),
        "deadline": st.sampled_from([None, None, "60s"]),
    }
).map(lambda options: tuple(options.items()))
PIVOT = Step(kind="pivot")


def _behind_a_pivot(tree: Many) -> Many:
    return Many("seq", (PIVOT, *tree.parts))


FUNCTIONS = st.builds(
    Function,
    st.one_of(
        *(trees(LEAVES, WAYS_OF_MANY), trees(LEAVES, WAYS_OF_MANY)),
        trees(LEAVES, WAYS_OF_MANY).map(_behind_a_pivot),
    ),
    OPTIONS,
    st.sampled_from([1, 1, 2]),
    st.booleans(),
)
