"""A machine as a Mermaid `stateDiagram-v2`, drawn from its table and the source of its states."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta

from saga.authoring.machines import acts
from saga.authoring.machines.reading import ActRead, acts_in
from saga.authoring.machines.states import State, entering
from saga.authoring.machines.table import Table
from saga.authoring.source import resolved
from saga.contracts import Intent, contract_of
from saga.core.durations import UNITS_US
from saga.errors import TimedOut

ROLLS_BACK = "classDef rollsBack fill:#f6d5d5,stroke:#a33,color:#000"


def diagram(table: Table, starts_on: Iterable[type]) -> str:
    """The rows, what `enter` does as a state's second line, and states that roll back in red.

    What rolls back because no row is there for it is not drawn.
    """
    triggers = " or ".join(each.__name__ for each in starts_on)
    lines = ["stateDiagram-v2"]
    lines += [f"    [*] --> {state.__name__} : {triggers}" for state in table.first]
    lines += [
        f"    {state.__name__} --> {following.__name__} : {_event(state, event)}"
        for state, event, following in table.edges()
    ]
    final = [state for state in table.states if table.is_final(state)]
    lines += [f"    {state.__name__} --> [*]" for state in final]
    for state in table.states:
        if does := list(_entered(state)):  # the first such line is the name that is shown
            lines += [f"    {state.__name__} : {each}" for each in (state.__name__, *does)]
    rolling = [state.__name__ for state in table.states if state.__saga_rolls_back__]
    if rolling:
        lines += [f"    {ROLLS_BACK}", f"    class {','.join(rolling)} rollsBack"]
    return "\n".join(lines)


def _event(state: type[State], event: type) -> str:
    length_us = state.__saga_timeout_us__
    if event is not TimedOut or length_us is None:
        return event.__name__
    return f"TimedOut ({_length(length_us)})"


def _length(length_us: int) -> str:
    """`30s`, `5m`, `14d`: in the largest unit that is whole."""
    units = sorted(UNITS_US.items(), key=lambda unit: -unit[1])
    for name, unit_us in units:
        if length_us % unit_us == 0:
            return f"{length_us // unit_us}{name}"
    return str(timedelta(microseconds=length_us))


def _entered(state: type[State]) -> Iterator[str]:
    for act in acts_in(entering(state)):
        name = "…" if act.message is None else contract_of(act.message).name
        yield name + _manner(act) if act.act is acts.do else f"{act.act.__name__} {name}"


def _manner(act: ActRead) -> str:
    """Whether a step is the pivot, and what undoes it."""
    told = " (pivot)" if act.is_pivot else ""
    undo = act.word("undo")
    if not act.has_undo or undo is None:
        return told
    made = resolved(undo, act.names)
    by = contract_of(made).name if isinstance(made, type) and issubclass(made, Intent) else "…"
    return f"{told} / undo {by}"
