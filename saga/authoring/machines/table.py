"""The transition table of a machine: what may follow what, and what of it can be reached.

It alone says what is for a state, what is kept for one ahead and what is refused; diagrams are
drawn from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from saga.authoring.machines.acts import StepDone
from saga.authoring.machines.states import State, Transitions, handling
from saga.core.values import value
from saga.errors import ChildRolledBack, DefinitionError, StepFailed, TimedOut

StateClass = type[State]
FAILURES: Final = frozenset({StepFailed, TimedOut, ChildRolledBack})
"""What rolls back where a state has no row for it."""
_OWN: Final = FAILURES | {StepDone}


@value
class Table:
    """*first*: the states with which a machine may begin; *states*: all, in order of mention."""

    first: tuple[StateClass, ...]
    states: tuple[StateClass, ...]
    rows: Mapping[StateClass, Mapping[type, tuple[StateClass, ...]]]
    ahead: Mapping[StateClass, frozenset[type]]
    """What the states take that can be reached from one, itself included where it can be again."""

    def takes(self, state: StateClass) -> Mapping[type, tuple[StateClass, ...]]:
        """The row of a state, which is empty for a final one."""
        return self.rows.get(state, {})

    def is_final(self, state: StateClass) -> bool:
        return state not in self.rows

    def edges(self) -> Iterator[tuple[StateClass, type, StateClass]]:
        for state, row in self.rows.items():
            for event, following in row.items():
                for each in following:
                    yield state, event, each


def table_of(transitions: Transitions, first: tuple[StateClass, ...]) -> Table:
    """The table that *transitions* is.

    Raises:
        DefinitionError: it cannot work; the message says why, with the place of the state.
    """
    rows = {_state(state): _row(state, row) for state, row in transitions.items()}
    targets = [each for row in rows.values() for following in row.values() for each in following]
    states = tuple(dict.fromkeys((*rows, *targets, *first)))
    _check_names(states)
    follows = {state: _following(rows, state) for state in states}
    reached = {state: _reached(follows, follows[state]) for state in states}
    table = Table(
        first,
        states,
        rows,
        {
            state: frozenset(event for each in reached[state] for event in rows.get(each, ()))
            for state in states
        },
    )
    for state in states:
        _check_state(table, state)
    _check_paths(table, follows)
    return table


def states_in(transitions: Transitions) -> frozenset[type]:
    """The classes that a table names as states, whether or not they are any."""
    named: set[object] = set(transitions)
    rows: Iterable[object] = transitions.values()
    for given in rows:
        for following in given.values() if isinstance(given, Mapping) else ():
            named.update(following if isinstance(following, tuple) else (following,))
    return frozenset(each for each in named if isinstance(each, type))


def _state(state: object) -> StateClass:
    if not (isinstance(state, type) and issubclass(state, State)):
        raise DefinitionError(f"transitions: {_name(state)} is no State class")
    return state


def _row(state: StateClass, row: object) -> dict[type, tuple[StateClass, ...]]:
    if not isinstance(row, Mapping):
        raise DefinitionError(
            f"transitions: the row of {state.__name__} is {_name(row)}: expected a mapping from "
            f"classes of events to states",
            where=state.__saga_where__,
        )
    if not row:
        raise DefinitionError(
            f"transitions: the row of {state.__name__} is empty: a final state has none",
            where=state.__saga_where__,
        )
    found: dict[type, tuple[StateClass, ...]] = {}
    for event, following in row.items():
        if not isinstance(event, type) or issubclass(event, State):
            raise DefinitionError(
                f"transitions: {state.__name__} has a row for {_name(event)}, which is no class of "
                f"an event",
                where=state.__saga_where__,
            )
        each = following if isinstance(following, tuple) else (following,)
        if not each or not all(isinstance(one, type) and issubclass(one, State) for one in each):
            raise DefinitionError(
                f"transitions: in {state.__name__}, {event.__name__} leads to {_name(following)}: "
                f"expected a State class, or a tuple of them",
                where=state.__saga_where__,
            )
        found[event] = tuple(dict.fromkeys(each))
    return found


def _name(given: object) -> str:
    return given.__name__ if isinstance(given, type) else f"{given!r:.100}"


def _check_names(states: Iterable[StateClass]) -> None:
    known: dict[str, StateClass] = {}
    for state in states:
        other = known.setdefault(state.__name__, state)
        if other is not state:
            raise DefinitionError(
                f"two states are called {state.__name__}, the other at {other.__saga_where__}: "
                f"people find a saga by the name of its state",
                where=state.__saga_where__,
            )


def _check_state(table: Table, state: StateClass) -> None:
    name, where = state.__name__, state.__saga_where__
    row = table.takes(state)
    if state.__saga_rolls_back__ and row:
        raise DefinitionError(
            f"{name} rolls back, so nothing follows it: take its row out of the table", where=where
        )
    if row and handling(state) is None:
        raise DefinitionError(
            f"{name} has a row in the table and no `handle`: say what follows its events",
            where=where,
        )
    if not row and handling(state) is not None:
        raise DefinitionError(
            f"{name} has `handle` and no row in the table, so it is final and nothing comes to it: "
            f"give it a row, or take `handle` out",
            where=where,
        )
    if not row and state.__saga_timeout_us__ is not None:
        raise DefinitionError(f"{name} is final, so it cannot time out", where=where)
    if row.get(TimedOut) == (state,):
        raise DefinitionError(
            f"{name}: its timeout leads to {name} alone, where no second one comes: let it lead on",
            where=where,
        )


def _check_paths(table: Table, follows: Mapping[StateClass, tuple[StateClass, ...]]) -> None:
    reachable = _reached(follows, table.first)
    for state in table.states:
        if state not in reachable:
            raise DefinitionError(
                f"{state.__name__} cannot be reached from {_names(table.first)}",
                where=state.__saga_where__,
            )
        ways = {state} | _reached(follows, follows[state])
        if not any(table.is_final(each) for each in ways):
            raise DefinitionError(
                f"from {state.__name__} no final state can be reached, so it never ends",
                where=state.__saga_where__,
            )


def _following(
    rows: Mapping[StateClass, Mapping[type, tuple[StateClass, ...]]], state: StateClass
) -> tuple[StateClass, ...]:
    return tuple(each for following in rows.get(state, {}).values() for each in following)


def _reached(
    follows: Mapping[StateClass, tuple[StateClass, ...]], begin: Iterable[StateClass]
) -> frozenset[StateClass]:
    reached: set[StateClass] = set()
    ahead = list(begin)
    while ahead:
        state = ahead.pop()
        if state not in reached:
            reached.add(state)
            ahead += follows[state]
    return frozenset(reached)


def _names(classes: Iterable[type]) -> str:
    return " or ".join(each.__name__ for each in classes)
