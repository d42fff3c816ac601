"""Functions and courses that lead where faults have been: what a replay might tell otherwise.

Groups keep failures, races drop branches, scopes are left in a rollback; several things are told in
one turn behind a pause, and cancels come between a failure and what follows from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from hypothesis import strategies as st

from tests.laws import functions
from tests.laws.course import IN_PLOTS, WORDS, Happened
from tests.laws.functions import Ask, Child, Function, Give, Many, Next, Say, Sleep, Step, Wait

IN_ONE_TURN: Final[tuple[tuple[str, ...], ...]] = (
    ("hold", "fail", "fail", "resume"),
    ("hold", "fail", "done", "fail", "resume"),
    ("hold", "fail", "signal", "signal", "resume"),
    ("hold", "signal", "fail", "done", "done", "resume"),
    ("hold", "done", "fail", "signal", "timer", "resume"),
    ("hold", "time", "fail", "fail", "resume"),
    ("hold", "timer", "timer", "resume"),
    ("hold", "fail", "help", "fail", "resume"),
    ("fail", "hold", "fail", "signal", "signal", "resume"),
    ("hold", "child", "fail", "news", "update", "resume"),
)
"""What a saga is told of at once, when it goes on."""
LATE: Final[tuple[tuple[str, ...], ...]] = (
    ("time", "fail"),
    ("time", "late reply", "repeat"),
    ("fail", "second reply", "help"),
    ("fail", "fail", "late reply"),
    ("fail", "help", "fail", "done"),
    ("done", "second reply", "repeat"),
)
"""Answers come late, twice, or otherwise than before."""
ON_THE_WAY_BACK: Final[tuple[tuple[str, ...], ...]] = (
    ("fail", "go back", "done", "undo ends"),
    ("hold", "fail", "go back", "resume"),
    ("hold", "done", "go back", "fail", "undo ends", "resume"),
    ("go back", "fail", "undo ends", "undo ends"),
    ("go back", "timer", "late reply"),
    ("fail", "hold", "cancel", "time", "resume"),
    ("fail", "undo ends", "undo ends", "help"),
    ("fail", "hold", "undo ends", "undo ends", "resume"),
    ("undo ends", "go back", "help", "undo ends"),
    ("turn fails", "operator", "operator"),
    ("fail", "turn fails", "cancel", "operator"),
)
"""A cancel comes between a failure and what follows from it; something holds up a rollback."""
_NUMBERS: Final = st.integers(0, 99)
_WORDS_MAX: Final = 6


def _with_numbers(plot: tuple[str, ...], numbers: list[int]) -> tuple[Happened, ...]:
    return tuple(zip(plot, numbers, strict=False))


def _plotted(plots: Sequence[tuple[str, ...]]) -> st.SearchStrategy[tuple[Happened, ...]]:
    """Plots and single things, one behind the other."""
    numbers = st.lists(_NUMBERS, min_size=_WORDS_MAX, max_size=_WORDS_MAX)
    plotted = st.builds(_with_numbers, st.sampled_from(plots), numbers)
    single = st.tuples(st.tuples(st.sampled_from((*WORDS, *IN_PLOTS, *IN_PLOTS)), _NUMBERS))
    parts = st.lists(st.one_of(plotted, single), min_size=2, max_size=9)
    return parts.map(lambda drawn: tuple(each for part in drawn for each in part))


_KINDS = st.sampled_from([None, None, None, None, None, "retriable", "read_only", "harmless"])
_STEPS = st.builds(
    Step, st.sampled_from([True, True, True, False]), _KINDS, st.integers(1, 2), st.booleans()
).map(functions.undoable)
_BESIDE = st.one_of(
    st.just(Sleep()),
    st.builds(Wait, st.sampled_from("ab"), st.booleans()),
    st.sampled_from([Next(), Next(has_timeout=True), Next(is_picky=True), Ask(), Give()]),
    st.builds(Child, st.booleans()),
    st.builds(Say, st.sampled_from(["tell", "show", "publish"])),
)
_WAYS_OF_MANY = (
    *("seq", "all", "fast", "one at once", "any", "some"),
    *("try", "try", "say on", "scope", "scope", "finally", "generator"),
)
"""Nobody only notes a failure and passes it on: past the pivot, others may not look at that."""


def _trees(steps: st.SearchStrategy[Step]) -> st.SearchStrategy[Many]:
    """A step whose failure a group may keep for a while, beside what goes on, and what follows."""
    goes_on = st.builds(lambda *drawn: Many("seq", drawn), _BESIDE, steps)
    leaves = st.one_of(steps, steps, steps, steps, _BESIDE, goes_on, goes_on)
    within = functions.parts_of(leaves, _WAYS_OF_MANY, 6)
    outer = st.sampled_from(["fast", "fast", "one at once", "one at once", "all", *_WAYS_OF_MANY])
    inner = st.sampled_from(["all", "all", "all", "fast", "seq", *_WAYS_OF_MANY])
    kept = st.builds(_kept, outer, inner, steps, st.lists(within, max_size=2), within)
    behind = st.lists(within, max_size=1)
    return st.builds(lambda *drawn: Many("seq", (drawn[0], *drawn[1])), kept, behind)


def _kept(outer: str, inner: str, step: Step, beside: list[Any], other: Any) -> Many:
    return Many(outer, (Many(inner, (step, *beside)), other))


def _past(tree: Many, *, runs: bool) -> Function:
    parts = (Step(kind="pivot"), *tree.parts, Step(kind="harmless"))
    return Function(Many("seq", parts), remembers_all=runs)


_FORWARD = st.builds(
    Step,
    st.just(value=False),
    st.sampled_from([None, "retriable", "read_only", "harmless"]),
    st.just(1),
    st.booleans(),
)
BEFORE: Final = st.builds(
    Function, _trees(_STEPS), functions.OPTIONS, st.sampled_from([1, 1, 1, 2]), st.booleans()
)
"""There is a way back, at the first."""
PAST: Final = st.builds(_past, _trees(_FORWARD), runs=st.booleans())
"""The first step is a pivot."""
BEFORE_PLOTTED: Final = _plotted((*IN_ONE_TURN, *LATE, *ON_THE_WAY_BACK))
PAST_PLOTTED: Final = _plotted((*IN_ONE_TURN, *IN_ONE_TURN, *LATE)).map(
    lambda happens: (("done", 0), *happens)
)
"""The pivot is done first."""
