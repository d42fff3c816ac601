"""Machines of any course: two states in turn go through stages, as a script in the trigger says.

A stage has acts, and goes on once it has what it needs. A step is named by its stage and its place
in that; what it depends on is whatever had settled before.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from saga import (
    Acts,
    ChildRolledBack,
    Next,
    State,
    StepDone,
    StepFailed,
    TimedOut,
    Transitions,
    answer,
    child,
    continue_as_new,
    do,
    drop,
    machine,
    publish,
    refuse,
    tell,
)
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
    Made,
    Make,
    News,
    Question,
    Seen,
    Unmake,
    Word,
)
from tests.laws.races import AT_THE_END, Decided, Races


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Step(Frozen):
    has_undo: bool = False
    kind: Literal["pivot", "retriable", "read_only", "harmless"] | None = None
    attempts: int = 1
    has_deadline: bool = False
    is_child: bool = False


class Stage(Frozen):
    """What a state does; *needs* replies, or one thing from outside, before it goes on."""

    steps: tuple[Step, ...] = ()
    says: Literal["tell", "publish"] | None = None
    needs: Literal["all", "first", "signal", "news", "update"] = "all"
    when_failed: Literal["back", "on", "drop"] = "back"
    """Of a failure of a step: roll back, go on, or drop all steps and go on."""
    drops: bool = False
    """Where it needs the first reply, it drops the other steps: it is a race."""


class Script(Frozen):
    stages: tuple[Stage, ...]
    end: Literal["done", "back", "again"] = "done"
    sorts: bool = False
    """What a stage has learned is known in an order that is not that of arrival."""


class Machine(Frozen):
    """A description of a saga that is a machine."""

    script: Script
    options: tuple[tuple[str, Any], ...] = ()

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
        script = self.script.model_dump_json()
        RACES_OF[script] = Races()
        return Began(script=script)

    @property
    def races(self) -> Races:
        return RACES_OF[self.script.model_dump_json()]

    def definition(self) -> SagaDefinition:
        return _definition(self.options)

    def depends(self, step: str, settled: Sequence[str]) -> set[str]:
        return {*settled} - {step}


RACES_OF: dict[str, Races] = {}


class _Going(State):
    script: str
    run: int
    stage: int = 0
    known: tuple[str, ...] = ()
    settled: int = 0


class Odd(_Going):
    def enter(self) -> Acts:
        return acts_of(self)

    def handle(
        self, event: Made | Grown | StepDone | StepFailed | ChildRolledBack | Word | News | Question
    ) -> Next[Odd | Even | Done | Back]:
        return following(self, Even, event)


class Even(_Going, timeout="20s"):
    def enter(self) -> Acts:
        return acts_of(self)

    def handle(
        self,
        event: Made
        | Grown
        | StepDone
        | StepFailed
        | ChildRolledBack
        | Word
        | News
        | Question
        | TimedOut,
    ) -> Next[Odd | Even | Done | Back]:
        return following(self, Odd, event)


class Done(State):
    known: tuple[str, ...]


class Back(State, rolls_back=True):
    reason: str
    code: str = "given_up"


EVERYWHERE = (Odd, Even, Done, Back)
ROW = dict.fromkeys(
    (Made, Grown, StepDone, StepFailed, ChildRolledBack, Word, News, Question), EVERYWHERE
)
TABLE: Transitions = {Odd: ROW, Even: ROW | {TimedOut: EVERYWHERE}}


def acts_of(state) -> Acts:
    """What a stage does on being entered."""
    stage = Script.model_validate_json(state.script).stages[state.stage]
    acts: list[Any] = []
    for number, step in enumerate(stage.steps):
        place = f"{state.stage}-{number}"
        if step.is_child:
            born = Born(key=f"{state.run}-{place}")
            acts.append(
                child(born, outcome=Grown, timeout=SOON if step.has_deadline else None, id=place)
            )
            continue
        make = Make(place=place, said=" ".join(state.known[-4:]))
        acts.append(
            do(
                make,
                undo=Unmake if step.has_undo else None,
                id=place,
                kind=step.kind,
                retry=Retry(attempts=step.attempts, initial="5s"),
                timeout=SOON if step.has_deadline else None,
                undo_retry=UNDO_RETRY if step.has_undo else None,
            )
        )
    if stage.says == "tell":
        acts.append(tell(Hint(place=f"{state.stage}")))
    if stage.says == "publish":
        acts.append(publish(Seen(place=" ".join(state.known))))
    return tuple(acts)


def following(state, other, event) -> Any:
    """What comes next of what has come."""
    script = Script.model_validate_json(state.script)
    stage = script.stages[state.stage]
    beside: tuple[Any, ...] = (_answered(event),) if isinstance(event, Question) else ()
    is_failure = isinstance(event, StepFailed | ChildRolledBack | TimedOut)
    if is_failure and stage.when_failed == "back":
        return Back(reason=str(event)), *beside
    is_own = isinstance(event, Made | Grown | StepDone | StepFailed | ChildRolledBack)
    said = getattr(event, "step", None) if is_failure else getattr(event, "number", "")
    known = (*state.known, f"{type(event).__name__}:{said}")
    known = tuple(sorted(known)) if script.sorts else known
    settled = state.settled + is_own
    if is_failure and stage.when_failed == "drop":
        return _next(state, other, known, (*beside, *_dropped(state, stage)))
    has_all = {
        "all": settled >= len(stage.steps),
        "first": settled >= 1 or not stage.steps,
        "signal": isinstance(event, Word),
        "news": isinstance(event, News),
        "update": isinstance(event, Question),
    }[stage.needs]
    if is_own and has_all and stage.drops and stage.needs == "first":
        beside = (*beside, *(_dropped(state, stage, event.step) if event.step else ()))
    if has_all or isinstance(event, TimedOut):
        return _next(state, other, known, beside)
    return type(state)(
        script=state.script, run=state.run, stage=state.stage, known=known, settled=settled
    ), *beside


def _answered(question: Question) -> Any:
    """Of every five, one is refused."""
    return answer(question.number) if question.number % 5 else refuse("no", "not this one")


def _dropped(state, stage: Stage, winner: str | None = None) -> list[Any]:
    """Give up the steps of a stage, but for the winner."""
    places = [f"{state.stage}-{number}" for number in range(len(stage.steps))]
    losers = [place for place in places if place != winner]
    winners = frozenset(() if winner is None else (winner,))
    race = (state.run, f"{state.stage}")
    RACES_OF[state.script].decided[race] = Decided(winners, frozenset(losers))
    return [drop(place) for place in losers]


def _next(state, other, known, beside) -> Any:
    script = Script.model_validate_json(state.script)
    if state.stage + 1 < len(script.stages):
        going = {"script": state.script, "run": state.run, "stage": state.stage + 1}
        return other(known=known, **going), *beside
    if script.end == "back":
        return Back(reason="given up"), *beside
    through = Decided(frozenset(), frozenset())
    RACES_OF[state.script].decided[state.run, AT_THE_END] = through
    if script.end == "again" and state.run == 1:
        return Done(known=known), *beside, continue_as_new(Began(script=state.script, run=2))
    return Done(known=known), *beside, Ended(said=" ".join(known))


@cache
def _definition(options: tuple[tuple[str, Any], ...]) -> SagaDefinition:
    def law(began: Began) -> Next[Odd]:
        return Odd(script=began.script, run=began.run)

    define = machine(
        "law",
        version=1,
        starts_on=Began,
        transitions=TABLE,
        listens=(News,),
        signals={"a": Word},
        updates={"ask": Question},
        rolled_back=Failed,
        **dict(options),
    )
    return define(law)


def _is_undoable(step: Step) -> bool:
    return not step.is_child and step.kind not in ("read_only", "harmless")


def _without_undo_behind_pivots(stages: Sequence[Stage]) -> Script:
    """Behind a pivot nothing has an undo."""
    has_passed, result = False, []
    for stage in stages:
        steps = [
            step.model_copy(
                update={"has_undo": step.has_undo and _is_undoable(step) and not has_passed}
            )
            for step in stage.steps
        ]
        has_passed = has_passed or any(step.kind == "pivot" for step in steps)
        result.append(stage.model_copy(update={"steps": tuple(steps)}))
    return Script(stages=tuple(result))


STEPS = st.builds(
    Step,
    has_undo=st.sampled_from([True, True, False]),
    kind=st.sampled_from([None, None, None, None, None, "pivot", "retriable", "harmless"]),
    attempts=st.integers(1, 2),
    has_deadline=st.booleans(),
    is_child=st.sampled_from([False, False, False, False, True]),
).map(lambda step: step.model_copy(update={"kind": None}) if step.is_child else step)
STAGES = st.builds(
    Stage,
    steps=st.lists(STEPS, max_size=3).map(tuple),
    says=st.sampled_from([None, None, "tell", "publish"]),
    needs=st.sampled_from(["all", "all", "all", "first", "first", "signal", "news", "update"]),
    when_failed=st.sampled_from(["back", "back", "on", "drop"]),
    drops=st.booleans(),
)


def _started_by_something(script: Script) -> bool:
    """A stage that waits for all of nothing would wait for ever."""
    return all(stage.steps or stage.needs not in ("all", "first") for stage in script.stages)


SCRIPTS = (
    st.lists(STAGES, min_size=1, max_size=4)
    .map(_without_undo_behind_pivots)
    .map(lambda script: Script(stages=tuple(map(_with_need, script.stages))))
)


def _with_need(stage: Stage) -> Stage:
    """A stage without steps waits for something from outside."""
    if stage.steps or stage.needs not in ("all", "first"):
        return stage
    return stage.model_copy(update={"needs": "signal"})


ENDS = st.sampled_from(["done", "done", "done", "back", "again"])
OPTIONS = st.fixed_dictionaries(
    {
        "parallel_undo": st.booleans(),
        "when_stuck": st.sampled_from(["halt", "continue"]),
        "deadline": st.sampled_from([None, None, "60s"]),
    }
).map(lambda options: tuple(options.items()))
MACHINES = st.builds(
    lambda script, end, options: Machine(
        script=script.model_copy(update={"end": end}), options=options
    ),
    SCRIPTS,
    ENDS,
    OPTIONS,
)
