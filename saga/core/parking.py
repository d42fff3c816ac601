"""Past the pivot: a failure goes to the saga's code, and one left uncaught parks the saga.

Theory of operation: an operator may have the step tried again on which a saga has parked, and then
its success goes to the code in place of the failure. So where a history says that a saga parked on
a step, the code was never told of that failure, from the turn of the failure on. A replay looks
ahead to know that. A live program was told: it is *ahead* of the history, decides nothing any more,
and whoever keeps the saga brings it back from its entries before its next turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from saga.core import intents, program
from saga.core.format_1 import FORMAT_1
from saga.core.identity import StepId
from saga.core.state import SagaState, Step, identity_of
from saga.core.status import StepKind, StepStatus
from saga.core.turn import Turn
from saga.errors import DefinitionError

_OF_SCOPES: Final = frozenset({intents.RollbackDue, intents.RollbackPlanned, intents.ScopeUndone})
_COMPENSATABLE: Final = StepKind.COMPENSATABLE
_GAVE_OUT: Final = frozenset({StepStatus.FAILED, StepStatus.REFUSED, StepStatus.IN_DOUBT})


def holds_up(state: SagaState, step: Step) -> bool:
    """Whether a saga that can only go forward has parked because of *step*."""
    if step.status not in _GAVE_OUT or step.is_dropped or state.is_stopping:
        return False
    return state.plan is None and not state.status.is_ended


def resume_if_free(turn: Turn, released: Step | None = None) -> None:
    """The last step to hold up the saga lets it go on, unless it has parked on its whole."""
    state = turn.state
    # Releases before this one went on all the same, to where nothing more could come.
    if state.is_stranded and intents.SagaResumed not in map(type, turn.recorded or ()):
        return
    if not any(holds_up(state, step) for step in state.steps.values() if step is not released):
        turn.resume()


def park_on(turn: Turn, step: Step, message: str) -> None:
    turn.park(_reason(step.id, message), step)


def parks_later(turn: Turn, step: Step, message: str) -> bool | None:
    """Whether the saga is recorded to park on *step*, which has failed, in a turn yet to come.

    False: in this very turn. None: it is not, and the program is told of the failure.
    """
    state = turn.state
    if state.untold is None:
        return None
    if state.format == FORMAT_1 and _has_parked(turn, _reason(step.id, message)):
        park_on(turn, step, message)
        return False
    later = state.untold.parks_later(identity_of(turn.event), step.id)
    if later is not None:
        state.untold.held.add(step.id)
    return later


def park_on_held(turn: Turn) -> None:
    """Park where a program does not that was not told of a failure, as did the one that was.

    What was recorded before that of scopes is to be decided first.
    """
    untold = turn.state.untold
    assert untold is not None, turn.state.saga_id
    decided = sum(type(body) in _OF_SCOPES for body in turn.intents)
    for body in turn.recorded or ():
        decided -= type(body) in _OF_SCOPES
        if decided < 0:
            return
        if type(body) is intents.SagaParked and body.step in untold.held:
            untold.held.discard(body.step)
            untold.parked_in = turn.version
            turn.record(body)


def park_in_place(turn: Turn) -> None:
    """`park_on_held` between what a program is told in one turn: once all before is decided."""
    untold = turn.state.untold
    if untold is None or not untold.held or turn.recorded is None:
        return
    for number, body in enumerate(turn.recorded):
        if type(body) is intents.SagaParked and body.step in untold.held:
            if _is_decided(turn, turn.recorded[:number]) and _has_left(turn, turn.recorded):
                park_on_held(turn)
            return


def _is_decided(turn: Turn, recorded: Sequence[intents.Intent]) -> bool:
    """Whether the program has asked for all that was *recorded* before the parking."""
    in_place, was_in_place = (
        sum(type(body) not in intents.APART for body in bodies)
        for bodies in (turn.intents, recorded)
    )
    armed, was_armed = (
        {body.timer_id for body in bodies if type(body) is intents.TimerArmed}
        for bodies in (turn.intents, recorded)
    )
    return in_place >= was_in_place and armed >= was_armed


def _has_left(turn: Turn, recorded: Sequence[intents.Intent]) -> bool:
    """Whether it has left the scopes that are undone in this turn: that is decided last."""
    scopes, decided = turn.state.scopes, turn.intents
    known = {each.scope for each in turn.left or ()} | set(() if scopes is None else scopes.due)
    return all(
        body.scope in known or body in decided
        for body in recorded
        if isinstance(body, intents.RollbackDue | intents.RollbackPlanned)
    )


def has_parked(turn: Turn) -> bool:
    """Whether the saga has parked in this turn on a failure that its code told of.

    From there on its program is told nothing in it: what comes is kept for the next turn.
    """
    untold = turn.state.untold
    return turn.state.is_ahead or (untold is not None and untold.parked_in == turn.version)


def past_pivot(turn: Turn, commands: Sequence[program.Command]) -> Sequence[program.Command]:
    """What counts of *commands*, where there is no way back.

    Raises:
        DefinitionError: a step can be undone; what was recorded before it was refused stands.
    """
    if turn.recorded is None:
        for command in commands:
            if isinstance(command, program.DoStep) and command.kind is _COMPENSATABLE:
                _check_forward(turn, command)
    if commands and type(commands[-1]) is program.Fail:
        return _taken_back(turn, commands)
    return commands


def _check_forward(turn: Turn, command: program.DoStep) -> None:
    if command.is_child:
        return  # it is undone by nobody, as its parent is not
    pivots = (step.id for step in turn.state.steps.values() if step.kind is StepKind.PIVOT)
    raise DefinitionError(
        f"step {command.step!r} can be undone, but comes after the pivot {next(pivots)!r}, past "
        f"which nothing is undone: issue it before, or without its undo",
        where=turn.program.place_of(command.step),
    )


def halt(turn: Turn, command: program.Park) -> None:
    """Park, as the program says: on steps that failed, or on the event of this turn.

    Raises:
        DefinitionError: no step is to be tried again, so that the turn fails.
    """
    if not command.again:
        raise DefinitionError(command.reason, where=command.where)
    reason = command.reason if command.where is None else f"{command.where}: {command.reason}"
    for step in command.again:
        assert turn.state.steps[step].status in _GAVE_OUT, (turn.state.saga_id, step)
        turn.park(reason, turn.state.steps[step])
    turn.state.is_ahead = True


def _taken_back(turn: Turn, commands: Sequence[program.Command]) -> Sequence[program.Command]:
    """What counts of *commands* that end in an uncaught failure, past the pivot."""
    failure = commands[-1]
    assert isinstance(failure, program.Fail), failure
    steps = turn.state.steps
    again = {step: why for step, why in failure.again.items() if steps[step].status in _GAVE_OUT}
    commands = commands[: failure.stands if again else -1]
    return [*commands, replace(failure, again=again)]


def park(turn: Turn, failure: program.Fail) -> None:
    """Nobody caught *failure*: park on its steps, or, where that is of no use, on the whole."""
    if not failure.again:
        turn.park(f"past its pivot, so it can only go forward: {failure.reason}")
        return
    for step, message in failure.again.items():
        park_on(turn, turn.state.steps[step], message)
    turn.state.is_ahead = True


def _has_parked(turn: Turn, reason: str) -> bool:
    """Whether a turn of format 1 did so, which did not say on which step."""
    return any(
        type(body) is intents.SagaParked and body.reason == reason for body in turn.recorded or ()
    )


def _reason(step: StepId, message: str) -> str:
    return f"step {step} failed for good and there is no way back: {message}"
