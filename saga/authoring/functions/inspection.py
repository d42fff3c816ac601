"""What can be known of a saga's function without running it: place, contracts, mistakes.

It finds a mistake on import instead of when an order comes in. What cannot be resolved here is
checked again by the context when the call is made.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from types import CodeType, FunctionType, ModuleType
from typing import Any

from saga.authoring.mapping import check_undo
from saga.contracts import Event, Intent
from saga.errors import DefinitionError

REFERENCE_DEPTH_MAX = 3
"""How far helper functions are followed when contracts are looked for."""


def place_of(function: Callable[..., Any]) -> str:
    code = _code(function)
    if code is None:
        return "unknown place"
    return f"{code.co_filename}:{code.co_firstlineno}"


def fingerprint(function: Callable[..., Any]) -> str:
    """A hash of what the function says, the same whatever its comments, docstring and layout."""
    tree = _tree(function)
    if tree is not None:
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                node.decorator_list = []
                if ast.get_docstring(node, clean=False) is not None:
                    node.body = node.body[1:] or [ast.Pass()]
        text = ast.dump(tree)
    else:
        code = _code(function)
        text = repr((code.co_code, code.co_names, code.co_consts)) if code else repr(function)
    return sha256(text.encode()).hexdigest()[:16]


def referenced_contracts(function: Callable[..., Any]) -> frozenset[type]:
    """The event and intent classes that a function, or a helper of its package, names."""
    found: set[type] = set()
    _collect(function, found, set(), REFERENCE_DEPTH_MAX)
    return frozenset(found)


def check_steps(function: Callable[..., Any]) -> None:
    """Refuse a `ctx.do(Intent(…), undo=…)` whose undo cannot always be built."""
    tree = _tree(function)
    code = _code(function)
    if tree is None or code is None:
        return
    names = _names(function)
    for call in ast.walk(tree):
        if not (isinstance(call, ast.Call) and _is_do(call) and call.args):
            continue
        undo = next((word.value for word in call.keywords if word.arg == "undo"), None)
        if undo is None:
            continue
        made = call.args[0]
        intent = _resolve(made.func, names) if isinstance(made, ast.Call) else None
        undo_class = _resolve(undo, names)
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


def _is_do(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Attribute) and call.func.attr == "do"


def _resolve(node: ast.expr, names: Mapping[str, object]) -> object:
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = _resolve(node.value, names)
        return getattr(owner, node.attr, None) if owner is not None else None
    return None


def _names(function: Callable[..., Any]) -> dict[str, object]:
    plain = inspect.unwrap(function)
    if not isinstance(plain, FunctionType):
        return {}
    closure: dict[str, object] = {}
    for name, cell in zip(plain.__code__.co_freevars, plain.__closure__ or (), strict=True):
        try:
            closure[name] = cell.cell_contents
        except ValueError:
            continue  # a name that the enclosing function has not bound yet
    builtins = plain.__globals__.get("__builtins__", {})
    known = vars(builtins) if isinstance(builtins, ModuleType) else dict(builtins)
    return {**known, **plain.__globals__, **closure}


def _locals(code: CodeType) -> frozenset[str]:
    nested = [const for const in code.co_consts if isinstance(const, CodeType)]
    names = {*code.co_varnames, *code.co_cellvars, *code.co_freevars}
    return frozenset(names.union(*(_locals(inner) for inner in nested)))


def _code(function: Callable[..., Any]) -> CodeType | None:
    return getattr(inspect.unwrap(function), "__code__", None)


def _tree(function: Callable[..., Any]) -> ast.Module | None:
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return None  # typed at a prompt, or made by a program: there is no source to look at


def _collect(function: Callable[..., Any], found: set[type], seen: set[int], depth: int) -> None:
    plain = inspect.unwrap(function)
    code = _code(plain)
    if code is None or id(plain) in seen or depth < 0:
        return
    seen.add(id(plain))
    names = _names(plain)
    mentioned = _mentioned(code)
    for value in _values(names, mentioned):
        if isinstance(value, type) and issubclass(value, (Event, Intent)):
            found.add(value)
        elif isinstance(value, FunctionType) and _is_neighbour(plain, value):
            _collect(value, found, seen, depth - 1)


def _mentioned(code: CodeType) -> frozenset[str]:
    inner = [const for const in code.co_consts if isinstance(const, CodeType)]
    return frozenset({*code.co_names, *code.co_freevars}.union(*(_mentioned(c) for c in inner)))


def _values(names: Mapping[str, object], mentioned: frozenset[str]) -> Iterator[object]:
    for name in sorted(mentioned):
        value = names.get(name)
        if isinstance(value, ModuleType):
            for attribute in sorted(mentioned):
                yield getattr(value, attribute, None)
        elif value is not None:
            yield value


def _is_neighbour(function: Callable[..., Any], other: FunctionType) -> bool:
    package = (function.__module__ or "").split(".", maxsplit=1)[0]
    return other.__module__.split(".", maxsplit=1)[0] == package
