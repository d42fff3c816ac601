"""What the source of `enter` and `handle` says: which steps are issued, and beside which state."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from saga.authoring.machines import acts
from saga.authoring.machines.states import State
from saga.authoring.source import code_of, names_of, resolved, tree_of, with_helpers
from saga.contracts import Event, Intent
from saga.core.values import value

ACTS: Final[frozenset[object]] = frozenset(
    {
        *(acts.do, acts.publish, acts.child, acts.tell, acts.answer, acts.refuse, acts.drop),
        acts.continue_as_new,
    }
)


@value(kw_only=True)
class ActRead:
    """A call of an act, or an intent by itself, as the source has it.

    *beside*: the state that is given with it; None where that is not seen.
    """

    act: Callable[..., Any]
    call: ast.Call
    message: type[Intent[Any] | Event] | None
    names: Mapping[str, object]
    where: str
    beside: type[State] | None
    is_bare: bool

    def word(self, name: str) -> ast.expr | None:
        """What is passed by the name of a parameter."""
        return next((word.value for word in self.call.keywords if word.arg == name), None)

    @property
    def is_pivot(self) -> bool:
        kind = self.word("kind")
        return isinstance(kind, ast.Constant) and kind.value == "pivot"

    @property
    def has_undo(self) -> bool:
        undo = self.word("undo")
        return undo is not None and not (isinstance(undo, ast.Constant) and undo.value is None)


def acts_in(function: Callable[..., Any] | None) -> list[ActRead]:
    """The acts that a function and its helpers give, in the order of their source."""
    if function is None:
        return []
    return [found for each in with_helpers(function) for found in _acts_of(each)]


def dropped_in(function: Callable[..., Any]) -> Iterator[tuple[str, str]]:
    """The acts whose value goes nowhere: what is written, and where."""
    for each in with_helpers(function):
        tree, names = tree_of(each), names_of(each)
        if tree is None:
            continue
        for call in _unused(tree):
            act = resolved(call.func, names)
            if _is_act(act) or (isinstance(act, type) and issubclass(act, Intent)):
                yield ast.unparse(call), _where(each, call)


def mentions(function: Callable[..., Any], *wanted: object) -> bool:
    """Whether a function, or a helper of it, names one of these."""
    return any(
        resolved(node, names) in wanted
        for each in with_helpers(function)
        if (tree := tree_of(each)) is not None and (names := names_of(each))
        for node in ast.walk(tree)
        if isinstance(node, ast.Name | ast.Attribute) and resolved(node, names) is not None
    )


def _acts_of(function: Callable[..., Any]) -> list[ActRead]:
    tree, names = tree_of(function), names_of(function)
    if tree is None:
        return []
    beside = dict(_besides(tree, names))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    given = [call for call in calls if _is_act(resolved(call.func, names))]
    made = {call: _made(call, tree) for call in given}
    within = {inner for call in given for inner in ast.walk(call) if inner is not call}
    within |= {message for message in made.values() if message is not None}
    bare = [
        call
        for call in calls
        if call not in within and _message(call, names) is not None and call not in made
    ]
    found = [
        ActRead(
            act=acts.do if call in bare else resolved(call.func, names),  # type: ignore[arg-type]  # one of ACTS
            call=call,
            message=_message(call if call in bare else made[call], names),
            names=names,
            where=_where(function, call),
            beside=beside.get(call),
            is_bare=call in bare,
        )
        for call in (*given, *bare)
        if call not in bare or issubclass(_message(call, names) or Event, Intent)
    ]
    return sorted(found, key=lambda act: (act.call.lineno, act.call.col_offset))


def _is_act(named: object) -> bool:
    return inspect.isfunction(named) and named in ACTS


def _made(act: ast.Call, tree: ast.Module) -> ast.Call | None:
    """Where the message of an act is made: in its place, or under a name that is assigned once."""
    given = act.args[0] if act.args else None
    if isinstance(given, ast.Name):
        assigned = [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            and any(isinstance(each, ast.Name) and each.id == given.id for each in node.targets)
        ]
        given = assigned[0] if len(assigned) == 1 else None
    return given if isinstance(given, ast.Call) else None


def _message(
    call: ast.Call | None, names: Mapping[str, object]
) -> type[Intent[Any] | Event] | None:
    found = None if call is None else resolved(call.func, names)
    return found if isinstance(found, type) and issubclass(found, (Intent, Event)) else None


def _besides(
    tree: ast.Module, names: Mapping[str, object]
) -> Iterator[tuple[ast.Call, type[State]]]:
    """The calls in `return State(…), act, act`, each with the state."""
    for node in ast.walk(tree):
        match node:
            case ast.Tuple(elts=[ast.Call(func=made), *given]):
                state = resolved(made, names)
                if isinstance(state, type) and issubclass(state, State):
                    for each in given:
                        for call in ast.walk(each):
                            if isinstance(call, ast.Call):
                                yield call, state
            case _:
                pass


def _unused(tree: ast.Module) -> Iterator[ast.Call]:
    named = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    read = {name.id for name in named if not isinstance(name.ctx, ast.Store)}
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Call() as call):
                yield call
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call() as call) if (
                name not in read
            ):
                yield call
            case _:
                pass


def _where(function: Callable[..., Any], node: ast.expr) -> str:
    code = code_of(function)
    assert code is not None, function
    return f"{code.co_filename}:{code.co_firstlineno + node.lineno - 1}"
