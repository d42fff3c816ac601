"""Each law fails where the engine is broken on purpose: a law that cannot fail says nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from saga.authoring import steps
from saga.authoring.functions.context import Context
from saga.authoring.functions.unseen import Unseen
from saga.authoring.functions.waiters import Group
from saga.authoring.graphs.program import GraphProgram
from saga.authoring.machines.program import MachineProgram
from saga.core import (
    children,
    events,
    fold,
    forward,
    intents,
    pausing,
    plans,
    requests,
    rollback,
    waiting,
)
from saga.core.intents import PlannedUndo, RollbackGoal, RollbackPlanned
from saga.core.program import DropBranch
from saga.core.status import StepStatus
from saga.core.turn import FACT_EFFECTS, Turn
from saga.errors import SagaError
from tests.laws import test_laws, test_memory  # noqa: F401  # they have the laws
from tests.laws.searching import LAWS, search

EXAMPLES = 60
"""At most: each of these is noticed within some dozens, of those that are drawn from its number."""


def in_order_of_issue(patch: pytest.MonkeyPatch) -> None:
    def plan_undo(steps, belongs):
        return tuple(PlannedUndo(step=step.id, after=()) for step in steps if belongs(step))

    patch.setattr(plans, "plan_undo", plan_undo)


def siblings_in_order_of_their_ends(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(plans, "_latest_end", lambda step: (step.ended > 0, step.ended))


def all_groups_fail_fast(patch: pytest.MonkeyPatch) -> None:
    plainly = Context.all

    def all_fast(self, *branches, fail="wait", at_once=None):
        return plainly(self, *branches, fail="fast", at_once=at_once)

    patch.setattr(Context, "all", all_fast)


def a_choice_is_made_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Turn, "recorded_choice", lambda self, wait: None)


def nobody_acts_on_a_failure(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Unseen, "see", lambda self, failure, behind: None)


def what_was_refused_may_have_an_effect(patch: pytest.MonkeyPatch) -> None:
    wider = plans._MAY_HAVE_EFFECT | {StepStatus.REFUSED}  # noqa: SLF001  # what is broken
    patch.setattr(plans, "_MAY_HAVE_EFFECT", wider)


def nothing_is_left(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rollback, "residue_of", lambda steps: ())


def a_cancel_is_never_refused(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(requests, "_why_not_to_cancel", lambda state, mode: None)


def a_clean_up_has_an_outcome(patch: pytest.MonkeyPatch) -> None:
    def plan_late(turn, step):
        undo = (PlannedUndo(step=step.id),)
        turn.record(RollbackPlanned(goal=RollbackGoal.ROLLED_BACK, steps=undo, reason="late"))

    patch.setattr(rollback, "_plan_late", plan_late)


def losers_are_not_dropped(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(fold.EFFECTS, intents.BranchDropped, lambda state, intent, at: None)


def timers_of_losers_stay(patch: pytest.MonkeyPatch) -> None:
    plainly = forward._drop_branch  # noqa: SLF001  # what is broken

    def drop_branch(turn, command, asked):
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Turn, "disarm", lambda self, timer: None)
            plainly(turn, command, asked)

    patch.setattr(forward, "_drop_branch", drop_branch)


def what_was_held_is_told_backwards(patch: pytest.MonkeyPatch) -> None:
    plainly = pausing.tell
    patch.setattr(pausing, "tell", lambda turn, held: plainly(turn, [*held][::-1]))


def a_replay_tells_backwards_what_was_held(patch: pytest.MonkeyPatch) -> None:
    plainly = pausing.tell

    def tell(turn, held):
        plainly(turn, held if turn.recorded is None else [*held][::-1])

    patch.setattr(pausing, "tell", tell)


def no_child_is_cancelled_as_a_pause_ends(patch: pytest.MonkeyPatch) -> None:
    plainly = children.cancel

    def cancel(turn, *asked):
        if not isinstance(turn.event.fact, events.Resumed):
            plainly(turn, *asked)

    patch.setattr(children, "cancel", cancel)


def what_was_kept_overtakes_what_is_held(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(waiting, "put_off", lambda turn, command, held, *, since: False)


def all_runs_have_the_same_ids(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(steps, "prefix", lambda run: "")


def the_kernel_forgets_causes(patch: pytest.MonkeyPatch) -> None:
    def take_fact(self):
        self.has_taken_fact = True
        FACT_EFFECTS[type(self.event.fact)](self.state, self.event.fact, self.event.at)

    patch.setattr(Turn, "take_fact", take_fact)


def timers_stand_behind_the_end(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Turn, "disarm_all", lambda self: None)


def late_successes_stay(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rollback, "_append_undo", lambda turn, step, *, keeps_place: None)


def what_has_passed_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    plainly = plans._pass  # noqa: SLF001  # what is broken

    def passing(state, progress, settled, at_rest):
        free = plainly(state, progress, settled, at_rest)
        progress.passed.discard(settled)
        return free

    patch.setattr(plans, "_pass", passing)


def some_come_in_order_of_arrival(patch: pytest.MonkeyPatch) -> None:
    settle, result = Group.settle, Group.result
    arrived: dict[int, list[object]] = {}

    def noting(self, slot, value, error):
        if not self.settled_slots:
            arrived[id(self)] = []
        arrived[id(self)] += [] if error is not None else [value]
        return settle(self, slot, value, error)

    def in_order_of_arrival(self):
        is_some = self.call.needed < len(self.slots) and not self.call.gives_one
        return tuple(arrived[id(self)]) if is_some else result(self)

    patch.setattr(Group, "settle", noting)
    patch.setattr(Group, "result", in_order_of_arrival)


def who_succeeded_in_a_failed_group_stays(patch: pytest.MonkeyPatch) -> None:
    def losers(self, *, is_won):
        return [slot for slot in self.slots if not slot.is_settled]

    patch.setattr(Group, "losers", losers)


def a_machine_drops_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MachineProgram, "_drop", lambda self, id: None)


def a_graph_drops_nothing(patch: pytest.MonkeyPatch) -> None:
    plainly = GraphProgram._given  # noqa: SLF001  # what is broken

    def given(self):
        return [each for each in plainly(self) if not isinstance(each, DropBranch)]

    patch.setattr(GraphProgram, "_given", given)


def what_failed_stays(patch: pytest.MonkeyPatch) -> None:
    plainly = rollback.has_to_be_undone

    def has_to_be_undone(turn, step):
        return step.status is StepStatus.DONE and plainly(turn, step)

    patch.setattr(rollback, "has_to_be_undone", has_to_be_undone)


ORDER, JOINS = "only_after_all_that_depended", "changes_no_join"
LEFT, CANCEL, OUTCOME = "was_refused_is_not_undone", "a_cancel_undoes", "one_outcome"
LOSERS, PAUSE, IDS, FOLD = "who_loses", "short_pause", "no_id", "entries_alone"
STANDS, LATE, KEPT, REPLAY = "only_where_it_may", "after_the_end", "what_is_kept", "a_replay_is"
MEMORY = "what_is_remembered"
MUTANTS: list[tuple[str, str, Callable[[pytest.MonkeyPatch], None], int]] = [
    (ORDER, "functions", in_order_of_issue, 2),
    (ORDER, "graphs", siblings_in_order_of_their_ends, 1),
    (JOINS, "functions", all_groups_fail_fast, 4),
    (JOINS, "functions", some_come_in_order_of_arrival, 14),
    (JOINS, "machines", a_machine_drops_nothing, 2),
    (REPLAY, "functions", a_choice_is_made_again, 17),
    (MEMORY, "before", a_replay_tells_backwards_what_was_held, 1),
    (MEMORY, "past", nobody_acts_on_a_failure, 1),
    (LEFT, "machines", what_was_refused_may_have_an_effect, 4),
    (LEFT, "graphs", nothing_is_left, 1),
    (CANCEL, "functions", a_cancel_is_never_refused, 2),
    (OUTCOME, "machines", a_clean_up_has_an_outcome, 1),
    (LOSERS, "functions", losers_are_not_dropped, 6),
    (LOSERS, "functions", timers_of_losers_stay, 10),
    (LOSERS, "functions", who_succeeded_in_a_failed_group_stays, 9),
    (LOSERS, "functions", what_failed_stays, 14),
    (LOSERS, "machines", a_machine_drops_nothing, 4),
    (LOSERS, "graphs", a_graph_drops_nothing, 23),
    (PAUSE, "machines", what_was_held_is_told_backwards, 1),
    (PAUSE, "machines", what_was_kept_overtakes_what_is_held, 5),
    (PAUSE, "machines", no_child_is_cancelled_as_a_pause_ends, 26),
    (IDS, "functions", all_runs_have_the_same_ids, 1),
    (FOLD, "graphs", the_kernel_forgets_causes, 1),
    (STANDS, "graphs", timers_stand_behind_the_end, 1),
    (LATE, "machines", late_successes_stay, 2),
    (KEPT, "graphs", what_has_passed_is_forgotten, 1),
]
"""By law and way; the number from which examples are drawn, one that comes to the point soon."""


@pytest.mark.parametrize(
    ("law", "way", "mutant", "number"),
    MUTANTS,
    ids=[f"{way}-{each.__name__}" for _, way, each, _ in MUTANTS],
)
def test_a_law_fails_where_the_engine_is_broken(
    law: str, way: str, mutant: Any, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = next(each for name, each in LAWS.items() if law in name)
    mutant(monkeypatch)

    with pytest.raises((AssertionError, SagaError, KeyError)) as raised:
        search([found], way, EXAMPLES, shrinks=False, number=number)
    assert "TypeError" not in str(raised.value), "what is broken no longer fits the engine"


def test_every_law_has_a_mutant() -> None:
    assert not [name for name in LAWS if not any(law in name for law, *_ in MUTANTS)]
