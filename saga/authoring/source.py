"""What can be known of users' code without running it: its place, contracts, names and syntax."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from saga.contracts import Event, Intent

REFERENCE_DEPTH_MAX = 3
"""How far helper functions are followed when contracts and mistakes are looked for."""


def place_of(function: Callable[..., Any]) -> str:
    code = code_of(function)
    if code is None:
        return "unknown place"
    return f"{code.co_filename}:{code.co_firstlineno}"


def fingerprint(function: Callable[..., Any], beside: str = "") -> str:
    """A hash of what the function says, the same whatever its comments, docstring and layout.

    *beside*: what else makes it another code.
    """
    tree = tree_of(function)
    if tree is not None:
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                node.decorator_list = []
                if ast.get_docstring(node, clean=False) is not None:
                    node.body = node.body[1:] or [ast.Pass()]
        text = ast.dump(tree)
    else:
        code = code_of(function)
        text = repr((code.co_code, code.co_names, code.co_consts)) if code else repr(function)
    return sha256((text + beside).encode()).hexdigest()[:16]


def sources_of(objects: Iterable[object]) -> str:
    """A hash of the source that is loaded of the packages in which these are written.

    Not of saga's own.
    """
    names = {getattr(each, "__module__", None) or "" for each in objects}
    packages = {name.partition(".")[0] for name in names} - {"saga"}
    files = {
        name: file
        for name, module in [*sys.modules.items()]
        if name.partition(".")[0] in packages
        and isinstance(file := getattr(module, "__file__", None), str)
    }
    told = [(name, _source_in(file)) for name, file in sorted(files.items())]
    return sha256(repr(told).encode()).hexdigest()


@lru_cache(maxsize=4096)
def _source_in(file: str) -> str:
    """A hash of a file as it was when it was first asked for; empty where it cannot be read."""
    try:
        return sha256(Path(file).read_bytes()).hexdigest()
    except OSError:
        return ""


def referenced_contracts(function: Callable[..., Any]) -> frozenset[type]:
    """The event and intent classes that a function, or a helper of its package, names."""
    return frozenset(
        named
        for each in with_helpers(function)
        for named in _mentioned_values(each)
        if isinstance(named, type) and issubclass(named, (Event, Intent))
    )


def may_call(function: Callable[..., Any], name: str) -> bool:
    """Whether a function, or a helper of its package, has an attribute of this name in it."""
    codes = filter(None, map(code_of, with_helpers(function)))
    return any(name in _mentioned(code) for code in codes)


def resolved(node: ast.expr, names: Mapping[str, object]) -> object:
    """What a name, or an attribute of one, stands for; None where that is not seen."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = resolved(node.value, names)
        return getattr(owner, node.attr, None) if owner is not None else None
    return None


def names_of(function: Callable[..., Any]) -> dict[str, object]:
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


def code_of(function: Callable[..., Any]) -> CodeType | None:
    return getattr(inspect.unwrap(function), "__code__", None)


def tree_of(function: Callable[..., Any]) -> ast.Module | None:
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return None  # typed at a prompt, or made by a program: there is no source to look at


@lru_cache(maxsize=256)
def named_functions(functions: tuple[Callable[..., Any], ...]) -> Mapping[str, FunctionType]:
    """The functions that these, and helpers of their package, name: by module and name.

    Not those that share one, as lambdas do.
    """
    found: dict[str, set[FunctionType]] = {}
    for function in functions:
        for each in with_helpers(function):
            for value in _mentioned_values(each):
                if isinstance(value, FunctionType):
                    found.setdefault(f"{value.__module__}.{value.__qualname__}", set()).add(value)
    return {name: named.pop() for name, named in found.items() if len(named) == 1}


def with_helpers(function: Callable[..., Any]) -> list[Callable[..., Any]]:
    """A function, and the helpers of its package that it names, and that those name."""
    found: dict[int, Callable[..., Any]] = {}
    _add_helpers(inspect.unwrap(function), found, REFERENCE_DEPTH_MAX)
    return list(found.values())


def _add_helpers(
    function: Callable[..., Any], found: dict[int, Callable[..., Any]], depth: int
) -> None:
    if code_of(function) is None or id(function) in found or depth < 0:
        return
    found[id(function)] = function
    for value in _mentioned_values(function):
        if isinstance(value, FunctionType) and _is_neighbour(function, value):
            _add_helpers(inspect.unwrap(value), found, depth - 1)


def _mentioned_values(function: Callable[..., Any]) -> Iterator[object]:
    code = code_of(function)
    return iter(()) if code is None else _values(names_of(function), _mentioned(code))


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
