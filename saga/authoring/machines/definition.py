"""`@machine` makes a definition of states and their table, and refuses what cannot work."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any

from pydantic import BaseModel
from typing_extensions import override

from saga.authoring.declaration import (
    Declaration,
    Listens,
    Surroundings,
    declared,
)
from saga.authoring.definition import WhenStuck
from saga.authoring.determinism import warned_of
from saga.authoring.listening import KeySpec, Listening
from saga.authoring.machines import acts
from saga.authoring.machines.checks import (
    check_answers,
    check_functions,
    check_sources,
    check_steps,
    first_states,
)
from saga.authoring.machines.diagram import diagram
from saga.authoring.machines.inlets import Models, inlets_of
from saga.authoring.machines.program import Machine, MachineProgram
from saga.authoring.machines.reading import mentions
from saga.authoring.machines.states import State, Transitions, entering, handling
from saga.authoring.machines.table import Table, states_in, table_of
from saga.authoring.messages import RolledBack
from saga.authoring.signals import check_name
from saga.authoring.source import fingerprint, place_of, referenced_contracts
from saga.contracts import Event, Intent
from saga.core.durations import Duration
from saga.core.identity import SagaId
from saga.core.values import value
from saga.errors import DefinitionError

Start = Callable[..., Any]
"""`def (trigger) -> Next[…]`, or with one argument more, a `TurnContext`."""


@value(kw_only=True)
class MachineDefinition(Declaration):
    """A kind of saga written as a state machine. Give it to `SagaApp(sagas=[…])`."""

    machine: Machine

    @property
    def has_children(self) -> bool:
        """Whether a state may start other sagas, which is seen from its source."""
        return any(mentions(each, acts.child) for each in self.code)

    @property
    def code(self) -> tuple[Callable[..., Any], ...]:
        return (self.machine.start, *functions_of(self.machine.table))

    def named(self) -> frozenset[type]:
        """The events and intents of the table, and those that the states' source names."""
        return contracts_named(self.machine.table, self.machine.start)

    @override
    def told_by(self) -> tuple[object, ...]:
        machine = self.machine
        models = (*machine.signals.values(), *machine.updates.values())
        return (machine.start, *machine.table.states, *models)

    def diagram(self) -> str:
        """The machine as a Mermaid `stateDiagram-v2`."""
        return diagram(self.machine.table, self.starts_on)

    def program(self, around: Surroundings, saga_id: SagaId, key: str, run: int) -> MachineProgram:
        return MachineProgram(saga_id, key, machine=self.machine, around=around, run=run)


def machine(
    name: str,
    *,
    version: int,
    starts_on: type[Event] | tuple[type[Event], ...],
    transitions: Transitions,
    key: KeySpec | None = None,
    listens: Listens = (),
    signals: Models | None = None,
    updates: Models | None = None,
    rolled_back: RolledBack | None = None,
    parallel_undo: bool = False,
    when_stuck: WhenStuck = "halt",
    deadline: Duration | None = None,
) -> Callable[[Start], MachineDefinition]:
    """Make a saga of states; the function gives the first of them: `def (trigger) -> Next[…]`.

    Args:
        transitions: the table: state, class of event, the state or states that may follow. A state
            without a row is final.
        signals: the models of signals, by name.
        updates: the models of updates, by name; whoever takes one answers it.
        name, version, starts_on, key, listens, rolled_back, parallel_undo, when_stuck, deadline:
            as `@saga` has them.

    Raises:
        DefinitionError: it cannot work as it is written; names file and line.
    """

    def decorate(start: Start) -> MachineDefinition:
        said = declared(
            name,
            version=version,
            starts_on=starts_on,
            key=key,
            listens=listens,
            rolled_back=rolled_back,
            parallel_undo=parallel_undo,
            when_stuck=when_stuck,
            deadline=deadline,
            where=place_of(start),
            by="@machine",
        )
        asked, answered = dict(signals or {}), dict(updates or {})
        try:
            table = _checked(start, transitions, said["listens"], asked, answered)
        except DefinitionError as error:
            problem, where = f"machine {name!r}: {error.problem}", error.where or said["where"]
            raise DefinitionError(problem, where=where) from None
        functions = (start, *functions_of(table))
        return MachineDefinition(
            **said,
            machine=Machine(
                version=version,
                start=start,
                table=table,
                inlets=inlets_of(table, said["listens"], asked, answered),
                signals=asked,
                updates=answered,
                rolled_back=rolled_back,
            ),
            fingerprint=_fingerprint(table, start, asked, answered, has_deadline=bool(deadline)),
            nondeterminism=warned_of(name, *functions, rolled_back),
        )

    return decorate


def functions_of(table: Table) -> tuple[Callable[..., Any], ...]:
    """`enter` and `handle` of the states, in the order of the table."""
    found = [each(state) for state in table.states for each in (entering, handling)]
    return tuple(dict.fromkeys(each for each in found if each is not None))


def contracts_named(table: Table, start: Start) -> frozenset[type]:
    named = {event for row in table.rows.values() for event in row if issubclass(event, Event)}
    for function in (start, *functions_of(table)):
        named |= referenced_contracts(function)
    return frozenset(named)


def _checked(
    start: Start,
    transitions: Transitions,
    listens: tuple[Listening, ...],
    signals: Models,
    updates: Models,
) -> Table:
    known = states_in(transitions)
    table = table_of(transitions, first_states(start, known))
    outside = _outside(listens, signals, updates)
    check_functions(table, outside)
    has_children = any(mentions(each, acts.child) for each in (start, *functions_of(table)))
    intents = [each for each in contracts_named(table, start) if issubclass(each, Intent)]
    check_sources(table, outside, intents, has_children=has_children)
    check_answers(table, updates)
    check_steps(table, start)
    return table


def _outside(listens: tuple[Listening, ...], signals: Models, updates: Models) -> dict[type, str]:
    """The class of each thing that may come from outside, and what it is."""
    found: dict[type, str] = {listening.event: "the event it listens to" for listening in listens}
    for models, what in ((signals, "signal"), (updates, "update")):
        for name, model in models.items():
            check_name("@machine", f"{'an' if what == 'update' else 'a'} {what}", name)
            given: object = model
            if not (isinstance(given, type) and issubclass(given, BaseModel)):
                raise DefinitionError(
                    f"{what} {name!r}: {model!r:.100} is no model: give it a class of its own"
                )
            if model in found or issubclass(model, State):
                raise DefinitionError(
                    f"{what} {name!r} has the model {model.__name__}, as has "
                    f"{found.get(model, 'a state')}: `handle` could not tell them apart"
                )
            found[model] = f"{what} {name!r}"
    return found


def _fingerprint(
    table: Table, start: Start, signals: Models, updates: Models, *, has_deadline: bool
) -> str:
    """A hash of table, states and start function, the same whatever comments and layout."""
    rows = [
        (state.__name__, event.__name__, [each.__name__ for each in following])
        for state, row in table.rows.items()
        for event, following in row.items()
    ]
    states = [
        (
            state.__name__,
            state.__saga_rolls_back__,
            # How long a timeout is, a running saga keeps.
            state.__saga_timeout_us__ is not None,
            sorted(state.model_fields),
            [fingerprint(each) for each in (entering(state), handling(state)) if each is not None],
        )
        for state in table.states
    ]
    outside = [
        sorted((name, each.__name__) for name, each in models.items())
        for models in (signals, updates)
    ]
    text = repr((rows, states, outside, fingerprint(start), has_deadline))
    return sha256(text.encode()).hexdigest()[:16]
