"""The mistakes that are seen in a saga's function without running it.

It finds a mistake on import instead of when an order comes in. What cannot be resolved here is
checked again by the context when the call is made.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import CodeType
from typing import Any, TypeGuard

from saga.authoring.mapping import check_undo
from saga.authoring.source import code_of, names_of, resolved, tree_of, with_helpers
from saga.contracts import Event, Intent
from saga.errors import DefinitionError

SOURCE_CHARS_MAX = 100
"""Of a call that an error repeats."""
ENTER_SCOPE = "write `async with ctx.scope():`"
_PIVOT_IN_SCOPE = (
    "a pivot cannot be in a scope, as behind it nothing is undone: issue it outside of the scope"
)
AWAITED = frozenset(
    {
        *("do", "sleep", "sleep_until", "wait", "next", "child", "all", "any", "some", "signal"),
        *("update", "continue_as_new"),
    }
)
"""The calls of the context that have their effect when they are awaited."""


def check_awaited(function: Callable[..., Any]) -> None:
    """Refuse a call of the context, or of a helper, that can be seen never to be awaited."""
    for each in with_helpers(function):
        tree, code = tree_of(each), code_of(each)
        if tree is None or code is None:
            continue
        is_saga = each is inspect.unwrap(function)
        contexts, names = _contexts(code, tree, is_saga=is_saga), names_of(each)
        for call in _forgotten(tree, returns=is_saga):
            if _has_to_be_awaited(call, contexts, names, tree):
                written = ast.unparse(call)
                if len(written) > SOURCE_CHARS_MAX:
                    written = f"{ast.unparse(call.func)}(…)"
                raise DefinitionError(
                    f"{written} is never awaited, so nothing comes of it: write `await {written}`",
                    where=f"{code.co_filename}:{code.co_firstlineno + call.lineno - 1}",
                )


def check_scopes(function: Callable[..., Any]) -> None:
    """Refuse a `ctx.scope()` that can be seen never to be entered, and a pivot within one."""
    for each in with_helpers(function):
        tree, code = tree_of(each), code_of(each)
        if tree is None or code is None:
            continue
        contexts = _contexts(code, tree, is_saga=each is inspect.unwrap(function))
        for node, problem in _misused_scopes(tree, contexts):
            where = f"{code.co_filename}:{code.co_firstlineno + node.lineno - 1}"
            raise DefinitionError(problem, where=where)


def _misused_scopes(tree: ast.Module, contexts: frozenset[str]) -> Iterator[tuple[ast.expr, str]]:
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=call) | ast.Await(value=call) if _asks(call, contexts, "scope"):
                yield call, f"{ast.unparse(call)} is never entered: {ENTER_SCOPE}"
            case ast.With(items=items):
                for item in items:
                    if _asks(item.context_expr, contexts, "scope"):
                        yield item.context_expr, f"a scope waits until it is undone: {ENTER_SCOPE}"
            case ast.AsyncWith(items=items, body=body) if any(
                _asks(item.context_expr, contexts, "scope") for item in items
            ):
                yield from ((pivot, _PIVOT_IN_SCOPE) for pivot in _pivots(body, contexts))
            case _:
                pass


def _pivots(body: Sequence[ast.stmt], contexts: frozenset[str]) -> Iterator[ast.Call]:
    for statement in _own_statements(body):
        for call in _own_expressions(statement):
            if _asks(call, contexts, "do") and any(map(_says_pivot, call.keywords)):
                yield call


def _own_expressions(statement: ast.stmt) -> Iterator[ast.Call]:
    """The calls of a statement, and not of those within it."""
    left: list[ast.AST] = [statement]
    while left:
        node = left.pop()
        if isinstance(node, ast.Call):
            yield node
        left += [each for each in ast.iter_child_nodes(node) if not isinstance(each, ast.stmt)]


def _says_pivot(word: ast.keyword) -> bool:
    return (
        word.arg == "kind" and isinstance(word.value, ast.Constant) and word.value.value == "pivot"
    )


def _asks(node: ast.expr, contexts: frozenset[str], attribute: str) -> TypeGuard[ast.Call]:
    """Whether an expression is a call of this name of the context."""
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr=name)):
            return owner in contexts and name == attribute
        case _:
            return False


def check_steps(function: Callable[..., Any]) -> None:
    """Refuse a `ctx.do(Intent(…), undo=…)` whose undo cannot always be built."""
    tree = tree_of(function)
    code = code_of(function)
    if tree is None or code is None:
        return
    names = names_of(function)
    for call in ast.walk(tree):
        if not (isinstance(call, ast.Call) and _is_do(call) and call.args):
            continue
        undo = next((word.value for word in call.keywords if word.arg == "undo"), None)
        if undo is None:
            continue
        made = call.args[0]
        intent = resolved(made.func, names) if isinstance(made, ast.Call) else None
        undo_class = resolved(undo, names)
        where = f"{code.co_filename}:{code.co_firstlineno + call.lineno - 1}"
        if isinstance(undo, ast.Name) and undo_class is None and undo.id not in _locals(code):
            raise DefinitionError(f"undo={undo.id}: there is no such name", where=where)
        if not isinstance(undo_class, type):
            continue
        if not issubclass(undo_class, Intent):
            raise DefinitionError(f"undo={undo_class.__name__} is no Intent class", where=where)
        if isinstance(intent, type) and issubclass(intent, Intent):
            try:
                check_undo(intent, undo_class)
            except DefinitionError as error:
                raise DefinitionError(error.problem, where=where) from None


def check_next(function: Callable[..., Any], heard: Collection[type]) -> None:
    """Refuse a `ctx.next(Class)` of an event to which the saga does not listen."""
    tree, code = tree_of(function), code_of(function)
    if tree is None or code is None:
        return
    contexts, names = _contexts(code, tree, is_saga=True), names_of(function)
    for call in ast.walk(tree):
        match call:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr="next")) if (
                owner in contexts
            ):
                for event in (resolved(argument, names) for argument in call.args):
                    if not (isinstance(event, type) and issubclass(event, Event)):
                        continue
                    if event not in heard:
                        where = f"{code.co_filename}:{code.co_firstlineno + call.lineno - 1}"
                        raise DefinitionError(not_heard(event), where=where)
            case _:
                pass


def not_heard(event: type) -> str:
    """What a definition does not listen to never reaches its sagas."""
    name = event.__name__
    return f"ctx.next({name}): the saga does not listen to it: add it to @saga(listens=(…))"


def _contexts(code: CodeType, tree: ast.Module, *, is_saga: bool) -> frozenset[str]:
    """The names by which a function, or one nested in it, knows the context."""
    arguments = [node for node in ast.walk(tree) if isinstance(node, ast.arg)]
    first = code.co_varnames[:1] if is_saga else ()
    return frozenset({*first, *(each.arg for each in arguments if _is_context(each))})


def _is_context(argument: ast.arg) -> bool:
    if argument.annotation is None:
        return argument.arg == "ctx"
    return ast.unparse(argument.annotation).strip("'\"").rpartition(".")[2] == "Context"


def _forgotten(tree: ast.Module, *, returns: bool) -> Iterator[ast.Call]:
    """The calls whose value goes nowhere: as statements, or under a name that nobody reads."""
    named = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    read = {name.id for name in named if not isinstance(name.ctx, ast.Store)}
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=value):
                yield from _values_of(value)
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if name not in read:
                yield from _values_of(value)
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value) if (
                name not in read
            ):
                yield from _values_of(value)
            case ast.AsyncFunctionDef() if returns and node in tree.body:
                for statement in _own_statements(node.body):
                    if isinstance(statement, ast.Return) and statement.value is not None:
                        yield from _values_of(statement.value)
            case _:
                pass


def _values_of(value: ast.expr) -> Iterator[ast.Call]:
    """The calls that an expression may be the value of, or holds in a list or tuple."""
    match value:
        case ast.Call():
            yield value
        case ast.BoolOp(values=inner) | ast.Tuple(elts=inner) | ast.List(elts=inner):
            for each in inner:
                yield from _values_of(each)
        case ast.IfExp(body=body, orelse=orelse):
            yield from _values_of(body)
            yield from _values_of(orelse)
        case ast.ListComp(elt=element) | ast.SetComp(elt=element) | ast.GeneratorExp(elt=element):
            yield from _values_of(element)
        case _:
            pass


def _own_statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """All statements of a function but those of functions nested in it."""
    for statement in body:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        yield statement
        for child in ast.iter_child_nodes(statement):
            if isinstance(child, ast.stmt):
                yield from _own_statements([child])
            elif isinstance(child, (ast.ExceptHandler, ast.match_case)):
                yield from _own_statements(child.body)


def _has_to_be_awaited(
    call: ast.Call, contexts: frozenset[str], names: Mapping[str, object], tree: ast.Module
) -> bool:
    match call.func:
        case ast.Attribute(value=ast.Name(id=owner), attr=attribute) if owner in contexts:
            return attribute in AWAITED
        case ast.Name(id=name) if any(_defines(node, name) for node in ast.walk(tree)):
            return any(
                isinstance(node, ast.AsyncFunctionDef) and not _yields(node)
                for node in ast.walk(tree)
                if _defines(node, name)
            )
        case _:
            return inspect.iscoroutinefunction(resolved(call.func, names))


def _defines(node: ast.AST, name: str) -> bool:
    """Whether *node* gives *name* a meaning of its own in the function that it is in."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return node.name == name
    if isinstance(node, ast.arg):
        return node.arg == name
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == name


def _yields(function: ast.AsyncFunctionDef) -> bool:
    """Whether it is a generator, which is iterated and not awaited."""
    statements = _own_statements(function.body)
    return any(isinstance(node, ast.Yield) for each in statements for node in ast.walk(each))


def _is_do(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Attribute) and call.func.attr == "do"


def _locals(code: CodeType) -> frozenset[str]:
    nested = [const for const in code.co_consts if isinstance(const, CodeType)]
    names = {*code.co_varnames, *code.co_cellvars, *code.co_freevars}
    return frozenset(names.union(*(_locals(inner) for inner in nested)))
