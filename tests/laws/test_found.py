"""What the laws have found, as small as it can be said."""

import pytest

from saga.core.fold import fold
from saga.core.history import turns
from saga.core.intents import ArrivalRefused, CommandSent, Noted, SagaRolledBack
from saga.core.piecewise import at_once
from saga.core.replay import following, replay
from saga.core.snapshots import snapshot_of
from saga.core.state import parts_of
from saga.testing import (
    cancelled,
    child_rolled_back,
    child_started,
    child_undone,
    failed,
    given,
    operator,
    refused,
    replied,
    signalled,
    undo_issued,
    undone_by_parent,
)
from tests.laws import functions, graphs
from tests.laws.contracts import CONTRACTS, Made, News, Unmake
from tests.laws.course import Course, Drawn, begun
from tests.laws.machines import Machine, Script, Stage, Step

ONE = (Step(has_undo=True),)
BAD = signalled("a", {"number": "bad"})


def course_of(saga) -> Course:
    return begun(Drawn(saga))


def test_a_step_does_not_bring_on_a_saga_that_has_parked_on_its_whole() -> None:
    """Its code is through, so nothing more can come: it may not look as though it ran."""
    waits = Stage(steps=(Step(kind="retriable"),), needs="signal")
    script = Script(stages=(waits, Stage(steps=(Step(kind="pivot"),))), end="back")
    course = course_of(Machine(script=script))
    course.when(failed("0-0"), signalled("a", {"number": 1}), replied("1-0", Made()))
    course.then_parked("past its pivot, so it can only go forward: given up")

    course.when(operator("retry", "0-0"), replied("0-0", Made()))

    course.then_parked("past its pivot, so it can only go forward: given up")


def test_a_child_first_heard_of_when_it_is_undone_is_the_same_by_its_entries() -> None:
    course = course_of(functions.Function(functions.Many("seq", (functions.Child(),))))

    course.when(cancelled(mode="immediate"), child_undone("s.0"))

    assert parts_of(fold(course.state.saga_id, course.history)) == parts_of(course.state)


def test_a_bad_signal_that_came_at_the_end_of_a_run_is_refused_by_the_next() -> None:
    """Nobody could be asked when it came; it may not park the saga later."""
    steps = (Step(has_undo=True), Step())
    course = course_of(
        Machine(script=Script(stages=(Stage(steps=steps, needs="first"),), end="again"))
    )
    course.when(replied("0-1", Made()), BAD, replied("0-0", Made()), replied(Unmake))

    course.then_status("running")
    assert any(isinstance(entry.body, ArrivalRefused) for entry in course.decided)
    again = replay(course.decider, course.state.saga_id, course.history)
    assert parts_of(again) == parts_of(course.state)


def test_a_bad_signal_that_came_before_a_paused_saga_had_begun_is_refused() -> None:
    machine = Machine(script=Script(stages=(Stage(needs="signal"),)))
    scenario = given(machine.definition(), contracts=CONTRACTS)
    scenario.when(operator("pause", definition=True), machine.trigger(), BAD)

    scenario.when(operator("resume", definition=True))

    scenario.then_status("running").in_state("Odd")


@pytest.mark.parametrize("at_once", [None, 2])
def test_a_graph_that_halts_on_a_fast_fan_goes_on_with_its_other_items(at_once) -> None:
    """It parks as though it had not been told of the failure, and is so again in a replay."""
    node = graphs.Node("each", attempts=1, fails_fast=True, at_once=at_once)
    halts = (("coordination_rules", graphs.HALT),)
    course = course_of(graphs.Graph((node,), items=3, options=halts))
    course.when(failed("n0-2")).then_parked("failed")
    again = replay(course.decider, course.state.saga_id, course.history)
    assert parts_of(again) == parts_of(course.state)

    course.when(operator("retry", "n0-2"))
    for step in ("n0", "n0-2", "n0-3"):
        course.when(replied(step, Made()))

    course.then_status("completed")


@pytest.mark.parametrize("is_paused", [False, True])
def test_what_settled_unheard_in_a_pause_is_given_up_as_what_is_in_flight(is_paused) -> None:
    """The state is left by the first reply, and the second step is undone, pause or not."""
    undoable = Step(has_undo=True)
    course = course_of(
        Machine(script=Script(stages=(Stage(steps=(undoable, undoable), needs="first"),)))
    )
    if is_paused:
        course.when(operator("pause"))
    course.when(replied("0-0", Made()), replied("0-1", Made()))
    if is_paused:
        course.when(operator("resume"))

    course.then(undo_issued(Unmake(place="0-1", number=0)))
    course.when(replied(Unmake)).then_status("completed")


def test_who_is_restored_and_has_ended_still_knows_how_steps_are_undone() -> None:
    """A worker that follows another one has the steps of a snapshot, and makes them when asked."""
    undoable = Step(has_undo=True)
    course = course_of(Machine(script=Script(stages=(Stage(steps=(undoable, undoable)),))))
    course.when(cancelled(mode="immediate"), replied(Unmake))
    follower = course.decider.restored(course.state.saga_id, snapshot_of(course.state))
    begun_at = len(course.history)
    course.when(replied(Unmake))
    course.then_status("rolled_back").when(replied("0-1", Made()))
    course.then(undo_issued(Unmake(place="0-1", number=0)))

    assert at_once(following(course.decider, follower, turns(course.history[begun_at:])))
    assert parts_of(follower) == parts_of(course.state)


WAITS_TWICE = functions.Many("seq", (functions.Next(), functions.Wait("a")))
PICKS = functions.Many("seq", (functions.Wait("a"), functions.Next(is_picky=True)))
RACE = functions.Function(functions.Many("any", (functions.Step(), WAITS_TWICE)))
RACE_OF_PICKY = functions.Function(functions.Many("any", (functions.Step(), PICKS)))
STAGES = Machine(
    script=Script(stages=(Stage(steps=(Step(),), needs="news"), Stage(needs="signal")))
)
FIRST, LAST = News(number=2), signalled("a", {"number": 1})


@pytest.mark.parametrize(
    ("saga", "step", "first", "last"),
    [
        (RACE, "s.0", FIRST, LAST),
        (RACE_OF_PICKY, "s.0", LAST, FIRST),
        (STAGES, "0-0", FIRST, LAST),
    ],
    ids=["function", "a wait that selects", "machine"],
)
def test_what_comes_in_a_pause_is_told_in_order_whether_it_was_kept_or_held(
    saga, step, first, last
) -> None:
    """A wait that begins when the saga goes on may not take what came behind a reply before that.

    The reply came before the last: it wins the race, and the machine knows of it first.
    """
    ends = []
    for is_paused in (False, True):
        course = course_of(saga)
        if is_paused:
            course.when(operator("pause"))
        course.when(first, replied(step, Made(number=9)), last)
        if is_paused:
            course.when(operator("resume"))
        assert parts_of(replay(course.decider, course.state.saga_id, course.history)) == parts_of(
            course.state
        )
        course.then_status("completed")
        ends.append(course.state.outcome)
    assert ends[0] == ends[1]


def test_a_scope_that_is_left_behind_a_pause_is_undone_before_what_came_next() -> None:
    """Its failure came first, so the branch that catches it wins, as it does without the pause."""
    scoped = functions.Many("try", (functions.Many("scope", (functions.Step(),)),))
    race = functions.Function(functions.Many("any", (scoped, functions.Step())))
    outcomes = []
    for is_paused in (False, True):
        course = course_of(race)
        if is_paused:
            course.when(operator("pause"))
        course.when(failed("s.0.0.0"), replied("s.1", Made(number=9)))
        if is_paused:
            course.when(operator("resume"))
        again = replay(course.decider, course.state.saga_id, course.history)
        assert parts_of(again) == parts_of(course.state)
        course.then_status("completed")
        outcomes.append(course.state.outcome)
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("is_paused", [False, True])
def test_a_graph_that_halts_as_a_pause_ends_begins_nothing_more(is_paused) -> None:
    """It has parked on the first item; the second is made once that is, pause or not."""
    node = graphs.Node("each", attempts=1, fails_fast=True, at_once=1)
    course = course_of(graphs.Graph((node,), options=(("coordination_rules", graphs.HALT),)))
    if is_paused:
        course.when(operator("pause"))
    course.when(failed("n0"))
    if is_paused:
        course.when(operator("resume"))
    course.then_parked("failed").when(BAD)

    assert list(course.state.steps) == ["n0"]
    course.when(operator("retry", "n0"), replied("n0", Made()), replied("n0-2", Made()))
    course.then_status("completed")


@pytest.mark.parametrize("is_late", [False, True])
def test_a_child_is_told_why_its_parent_goes_back_whenever_it_says_who_it_is(is_late) -> None:
    steps = (Step(is_child=True), Step(), Step())
    course = course_of(Machine(script=Script(stages=(Stage(steps=steps),))))
    says = [child_started("0-0"), failed("0-1", message="no stock")]
    course.when(*says[::-1] if is_late else says)

    sent = [body for each in course.history if isinstance(body := each.body, CommandSent)]
    assert [each.reason for each in sent] == ["no stock"]


@pytest.mark.parametrize("is_paused", [False, True])
def test_a_child_that_is_abandoned_unheard_in_a_pause_is_left_like_any_loser(is_paused) -> None:
    """Its end comes behind what wins without it: nobody could judge what it has left."""
    race = functions.Many("any", (functions.Wait("a"), functions.Child()))
    stages = (Stage(steps=(Step(is_child=True),), needs="signal"),)
    for saga, step in (
        (functions.Function(race), "s.1"),
        (Machine(script=Script(stages=stages)), "0-0"),
    ):
        course = course_of(saga)
        if is_paused:
            course.when(operator("pause"))
        course.when(signalled("a", {"number": 1}), child_rolled_back(step, status="abandoned"))
        if is_paused:
            course.when(operator("resume"))
        course.then_status("completed")
        assert course.state.residue == (step,)


def test_a_step_that_is_being_undone_already_lets_no_other_be_passed_over() -> None:
    """The undo of a scope is under way when the saga goes back, and ends before the others."""
    undone = functions.Step(has_undo=True)
    scope = functions.Many("scope", (undone, functions.Step()))
    race = functions.Many("any", (functions.Step(), scope))
    course = course_of(
        functions.Function(functions.Many("seq", (race, undone, undone, functions.Step())))
    )
    course.when(replied("s.0.1.0", Made()), refused("s.0.1.1"), replied("s.0.0", Made()))
    course.when(replied("s.1", Made()), replied("s.2", Made()), refused("s.3"))

    course.when(replied(Unmake, step="s.0.1.0"), replied(Unmake, step="s.2"))

    course.then(undo_issued(Unmake)).when(replied(Unmake, step="s.1"))
    course.then_status("rolled_back_with_residue")
    assert course.state.residue == ("s.0.0",)


@pytest.mark.parametrize("end", [None, "abandon"])
def test_a_child_that_cleans_up_after_it_rolled_back_is_not_rolled_back_again(end) -> None:
    """Its parent is told that it is undone, as it was before; there is one outcome."""
    course = begun(Drawn(Machine(script=Script(stages=(Stage(steps=ONE),))), is_child=True))
    course.when(cancelled(mode="immediate"), replied(Unmake), replied("0-0", Made()))
    course.then_status("rolling_back")

    course.when(undone_by_parent())

    assert [type(entry.body) for entry in course.decided] == [Noted]
    course.when(cancelled(mode="abandon") if end else replied(Unmake))
    ends = [entry.body for entry in course.history if isinstance(entry.body, SagaRolledBack)]
    assert len(ends) == 1


@pytest.mark.parametrize("is_paused", [False, True])
def test_what_a_wait_took_that_is_given_up_unheard_is_there_for_the_next_run(is_paused) -> None:
    """The reply came first, so the run is over without what came behind it."""
    script = Script(stages=(Stage(steps=(Step(), Step()), needs="first"),), end="again")
    course = course_of(Machine(script=script))
    if is_paused:
        course.when(operator("pause"))
    course.when(replied("0-0", Made()), News(number=1))
    if is_paused:
        course.when(operator("resume"))

    course.when(replied("0-1", Made()), replied("2.0-0", Made()), replied("2.0-1", Made()))

    course.then_status("completed")
    assert course.state.outcome is not None
    assert "News:1" in course.state.outcome.payload
