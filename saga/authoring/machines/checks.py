"""What is refused when a machine is defined: functions that do not fit the table, lost acts.

The table is compared with what is written in annotations; steps are read from the source. What is
not seen here is checked again when it happens.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import UnionType
from typing import Any, Final

from saga.authoring.machines import acts
from saga.authoring.machines.acts import StepDone
from saga.authoring.machines.reading import ActRead, acts_in, dropped_in, mentions
from saga.authoring.machines.states import State, entering, handling
from saga.authoring.machines.table import FAILURES, Table
from saga.authoring.mapping import check_undo
from saga.authoring.source import names_of, place_of, resolved
from saga.contracts import Contract, Intent, contract_of
from saga.errors import ChildRolledBack, DefinitionError, StepFailed, TimedOut

Function = Callable[..., Any]
_OWN: Final = {each.__name__: each for each in (StepDone, *FAILURES)}
_NEVER: Final = {
    TimedOut: "the state has no timeout: give its class one (timeout=…)",
    ChildRolledBack: "no state begins a child",
    StepDone: "no state issues an intent without a reply",
}
_NOT_OUTSIDE: Final = (
    "it is no reply to a step: add it to @machine(listens=…, signals=…, updates=…)"
)


def first_states(start: Function, known: Iterable[type]) -> tuple[type[State], ...]:
    """The states with which a machine's function says that it begins."""
    _check_plain(start, start.__name__, "(trigger)", "(trigger, ctx)")
    names = {each.__name__: each for each in known}
    states = _following(start, names, start.__name__)
    for state in states:
        if state.__saga_rolls_back__:
            raise DefinitionError(
                f"{start.__name__} begins with {state.__name__}, which rolls back what has not "
                f"begun",
                where=place_of(start),
            )
    return states


def check_functions(table: Table, known: Iterable[type]) -> None:
    """Compare `handle` and `enter` of each state with the table."""
    names = {each.__name__: each for each in (*table.states, *known)} | _OWN
    names |= {each.__name__: each for row in table.rows.values() for each in row}
    for state in table.states:
        enter, handle = entering(state), handling(state)
        if enter is not None:
            _check_plain(enter, f"{state.__name__}.enter", "(self)", "(self, ctx)")
        if handle is not None:
            name = f"{state.__name__}.handle"
            _check_plain(handle, name, "(self, event)", "(self, event, ctx)")
            _check_handle(table, state, handle, names)
        for function in filter(None, (enter, handle)):
            for written, where in dropped_in(function):
                raise DefinitionError(
                    f"{written} is made and not returned, so nothing comes of it: return it",
                    where=where,
                )


def check_answers(table: Table, updates: Mapping[str, type]) -> None:
    """Refuse a state that takes an update, and has nothing in it that answers one."""
    for state, row in table.rows.items():
        for name, model in updates.items():
            handle = handling(state)
            if model not in row or handle is None or mentions(handle, acts.answer, acts.refuse):
                continue
            raise DefinitionError(
                f"{state.__name__}.handle takes update {name!r} and never answers: give "
                f"answer(…), or refuse(code, message), beside the state",
                where=place_of(handle),
            )


def check_sources(
    table: Table, outside: Mapping[type, str], intents: Iterable[type], *, has_children: bool
) -> None:
    """Refuse a row for what nothing brings, and what is brought and has no row.

    *outside*: the models of signals and updates and the events listened to, and what each is.
    """
    issued = [each for each in intents if issubclass(each, Intent)]
    replies = {contract_of(each).reply for each in issued}
    # An intent may be made where it is not seen, so any intent that has such a reply will do.
    brought: set[type] = {*outside, *_replies(Intent), StepFailed}
    if None in replies or has_children or not issued:
        brought |= {StepDone}
    if has_children:
        brought |= {ChildRolledBack, TimedOut}
    for state, row in table.rows.items():
        for event in row:
            is_timeout = event is TimedOut and state.__saga_timeout_us__ is not None
            is_outcome = has_children and event not in _OWN.values()
            if event not in brought and not is_timeout and not is_outcome:
                raise DefinitionError(
                    f"{state.__name__} has a row for {event.__name__}, which never comes: "
                    f"{_NEVER.get(event, _NOT_OUTSIDE)}",
                    where=state.__saga_where__,
                )
    taken = {event for row in table.rows.values() for event in row}
    for model, what in outside.items():
        if model not in taken:
            raise DefinitionError(f"no state has a row for {what}, {model.__name__}")


def check_steps(table: Table, start: Function) -> None:
    """Refuse an undo that cannot always be built, and what can be undone behind a pivot."""
    entered = {state: acts_in(entering(state)) for state in table.states}
    handled = {state: acts_in(handling(state)) for state in table.states}
    for act in (*acts_in(start), *_all(entered), *_all(handled)):
        _check_undo(act)
    for state in table.states:
        if table.is_final(state):
            _check_last(state, entered[state], handled)
    _check_pivots(table, entered, handled)


def _replies(intent: type) -> Iterator[type]:
    """The replies of all intents that are known by now."""
    contract: Contract | None = getattr(intent, "__saga_contract__", None)
    if contract is not None and contract.reply is not None:
        yield contract.reply
    narrower: list[type] = intent.__subclasses__()
    for each in narrower:
        yield from _replies(each)


def _check_plain(function: object, name: str, *shapes: str) -> None:
    if not inspect.isfunction(function) or inspect.iscoroutinefunction(function):
        raise DefinitionError(
            f"{name} is a plain `def {shapes[0]}`, not {type(function).__name__} or async",
            where=place_of(function) if inspect.isfunction(function) else None,
        )
    count = len(inspect.signature(function).parameters)
    if count not in {shape.count(",") + 1 for shape in shapes}:
        raise DefinitionError(f"{name} takes {' or '.join(shapes)}", where=place_of(function))


def _check_handle(
    table: Table, state: type[State], handle: Function, names: Mapping[str, type]
) -> None:
    name, row, where = f"{state.__name__}.handle", table.takes(state), place_of(handle)
    event = list(inspect.signature(handle).parameters)[1]
    hints = _hints(handle, names, name)
    if event not in hints:
        raise DefinitionError(
            f"{name}: annotate `{event}` with what the table has for it, {_names(row)}", where=where
        )
    taken = _members(hints[event])
    if missing := [each for each in row if each not in taken]:
        raise DefinitionError(
            f"{name} takes {_names(taken)}, and the table has a row for {_names(missing)} too: "
            f"take it in `{event}`, or take the row out",
            where=where,
        )
    if extra := [each for each in taken if each not in row]:
        raise DefinitionError(
            f"{name} takes {_names(extra)}, for which the table has no row in {state.__name__}: "
            f"give it one, or take it out of `{event}`",
            where=where,
        )
    allowed = {each for following in row.values() for each in following}
    if extra := [each for each in _following(handle, names, name) if each not in allowed]:
        raise DefinitionError(
            f"{name} may give {_names(extra)}, to which no row of {state.__name__} leads: it leads "
            f"to {_names(allowed)}",
            where=where,
        )


def _following(function: Function, names: Mapping[str, type], name: str) -> tuple[type[State], ...]:
    """The states in `-> Next[…]`."""
    given = _hints(function, names, name).get("return")
    members = _members(given)
    states = [each for each in members if isinstance(each, type) and issubclass(each, State)]
    others = [
        each for each in members if each not in states and typing.get_origin(each) is not tuple
    ]
    if not states or others:
        raise DefinitionError(
            f"{name} is to be annotated with the states that it gives: `-> Next[…]`",
            where=place_of(function),
        )
    return tuple(states)


def _hints(function: Function, names: Mapping[str, type], name: str) -> dict[str, Any]:
    known = {**names, **names_of(function)}
    try:
        return typing.get_type_hints(function, localns=known)
    except NameError as error:
        raise DefinitionError(
            f"the annotations of {name}: {error}", where=place_of(function)
        ) from None


def _members(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in (typing.Union, UnionType):
        return tuple(one for each in typing.get_args(annotation) for one in _members(each))
    return (annotation,)


def _check_undo(act: ActRead) -> None:
    undo = act.word("undo")
    if act.act is not acts.do or undo is None:
        return
    made = resolved(undo, act.names)
    if not isinstance(made, type):
        return
    if not issubclass(made, Intent):
        raise DefinitionError(f"undo={made.__name__} is no Intent class", where=act.where)
    if act.message is not None and issubclass(act.message, Intent):
        try:
            check_undo(act.message, made)
        except DefinitionError as error:
            raise DefinitionError(error.problem, where=act.where) from None


def _check_last(
    state: type[State], entered: Iterable[ActRead], handled: Mapping[type[State], list[ActRead]]
) -> None:
    """Refuse a step that a final state would abandon at once."""
    beside = [act for act in _all(handled) if act.beside is state]
    for act in (*entered, *beside):
        if act.act in (acts.do, acts.child):
            raise DefinitionError(
                f"{_written(act)} beside {state.__name__}, which is final: nothing waits for it "
                f"there; give it beside a state before, or tell(…) it",
                where=act.where,
            )


def _check_pivots(
    table: Table,
    entered: Mapping[type[State], list[ActRead]],
    handled: Mapping[type[State], list[ActRead]],
) -> None:
    behind = _behind_pivots(table, entered, handled)
    for state in table.states:
        pivot = behind.get(state)
        if pivot is not None:
            _refuse_undoable(entered[state], pivot)
        pivot = pivot or _first_pivot(entered[state])
        if pivot is not None:
            _refuse_undoable(handled[state], pivot)


def _behind_pivots(
    table: Table,
    entered: Mapping[type[State], list[ActRead]],
    handled: Mapping[type[State], list[ActRead]],
) -> dict[type[State], ActRead]:
    """The states that are entered behind a pivot on some path, each with one such pivot.

    A pivot that has failed is none, so what follows a failure in its own state is not behind it.
    """
    behind: dict[type[State], ActRead] = {}
    while True:
        before = len(behind)
        for state, event, following in table.edges():
            pivot = behind.get(state)
            if pivot is None and event not in FAILURES:
                pivot = _first_pivot(entered[state])
            if pivot is None:
                pivot = _first_pivot(
                    act for act in handled[state] if act.beside is following is not state
                )
            if pivot is not None:
                behind.setdefault(following, pivot)
        if len(behind) == before:
            return behind


def _first_pivot(given: Iterable[ActRead]) -> ActRead | None:
    return next((act for act in given if act.act is acts.do and act.is_pivot), None)


def _refuse_undoable(given: Iterable[ActRead], pivot: ActRead) -> None:
    for act in given:
        if act is not pivot and act.act is acts.do and act.has_undo:
            raise DefinitionError(
                f"{_written(act)} can be undone, and comes behind the pivot {_written(pivot)} "
                f"({pivot.where}), past which nothing is undone",
                where=act.where,
            )


def _written(act: ActRead) -> str:
    """`do(Pay(…))`, as its source has it."""
    name = "…" if act.message is None else f"{act.message.__name__}(…)"
    return name if act.is_bare else f"{act.act.__name__}({name})"


def _all(found: Mapping[type[State], list[ActRead]]) -> list[ActRead]:
    return [act for each in found.values() for act in each]


def _names(classes: Iterable[Any]) -> str:
    return " | ".join(getattr(each, "__name__", str(each)) for each in classes)
