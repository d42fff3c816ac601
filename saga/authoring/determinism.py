"""What a saga's function must not do, as far as its source shows it: what no replay gives again.

The function is run again over its history, so whatever it takes from elsewhere than its context has
to be the same then. Only what can be resolved from names is found: a guard, and no proof. What is
meant so is allowed by a comment `# saga: allow` on its line.
"""

from __future__ import annotations

import ast
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any, Final

from saga.authoring.seclusion import INSTEAD as NO_ASYNCIO
from saga.authoring.source import code_of, names_of, tree_of, with_helpers
from saga.core.values import value
from saga.errors import DeterminismWarning

ALLOW: Final = "saga: allow"
_NOW: Final = "use ctx.now()"
_RANDOM: Final = "use ctx.random(), or ctx.uuid() for an id"
_SLEEP: Final = "use await ctx.sleep(…)"
_BRANCHES: Final = "run branches with ctx.all(…), and leave work of its own to an effect service"
_SERVICE: Final = "leave I/O to an effect service, asked with await ctx.do(…)"
_SETTINGS: Final = (
    "let the trigger say it, or a constant of the module that changes with the version only"
)
_ORDER: Final = "sort it first: sorted(…)"
_PROCESS: Final = "it differs from process to process: use a field of the trigger, or ctx.uuid()"
_GLOBALS: Final = "keep it in a local variable: other sagas, and replays, share the module"

_OPEN: Final = frozenset({"builtins.open", "_io.open", "io.open"})
_INSTEAD: Final = {
    "random": _RANDOM,
    "secrets": _RANDOM,
    "numpy.random": _RANDOM,
    "os.urandom": _RANDOM,
    "uuid.uuid1": _RANDOM,
    "uuid.uuid4": _RANDOM,
    "datetime.datetime.now": _NOW,
    "datetime.datetime.utcnow": _NOW,
    "datetime.datetime.today": _NOW,
    "datetime.date.today": _NOW,
    **dict.fromkeys(
        (
            *("time.time", "time.time_ns", "time.monotonic", "time.monotonic_ns"),
            *("time.perf_counter", "time.perf_counter_ns", "time.process_time"),
            *("time.localtime", "time.gmtime", "time.ctime", "time.strftime"),
        ),
        _NOW,
    ),
    "time.sleep": _SLEEP,
    "os.environ": _SETTINGS,
    "os.getenv": _SETTINGS,
    "os.environb": _SETTINGS,
    "threading": _BRANCHES,
    "_thread": _BRANCHES,
    "multiprocessing": _BRANCHES,
    "concurrent.futures": _BRANCHES,
    "asyncio": NO_ASYNCIO,
    "anyio": NO_ASYNCIO,
    "trio": NO_ASYNCIO,
    **dict.fromkeys(
        (
            *("socket", "ssl", "select", "subprocess", "http.client", "urllib.request", "smtplib"),
            *("requests", "httpx", "aiohttp", "urllib3", "sqlite3", "psycopg", "redis", "boto3"),
            *("os.system", "os.popen", "os.fork", "os.posix_spawn", "os.listdir", "os.scandir"),
            *(*_OPEN, "builtins.input", "shutil", "tempfile"),
            *("pathlib.Path.read_text", "pathlib.Path.read_bytes", "pathlib.Path.open"),
            *("pathlib.Path.write_text", "pathlib.Path.write_bytes", "pathlib.Path.exists"),
            *("pathlib.Path.iterdir", "pathlib.Path.glob", "pathlib.Path.cwd"),
        ),
        _SERVICE,
    ),
    "builtins.hash": _PROCESS,
    "builtins.id": _PROCESS,
    "os.getpid": _PROCESS,
}
"""By dotted name, which may be that of a module, what to do in its place."""
_KEEPS_ORDER: Final = frozenset({"builtins.list", "builtins.tuple", "builtins.iter"})
_SETS: Final = frozenset({"builtins.set", "builtins.frozenset"})
_NO_CALL_NEEDED: Final = ("os.environ", "os.environb")


@value
class Nondeterminism:
    """Something in a saga's source that no replay gives again; *where* is `file:line`."""

    where: str
    does: str
    instead: str

    def __str__(self) -> str:
        return f"{self.does}, which no replay gives again: {self.instead}"


def nondeterminism_in(function: Callable[..., Any]) -> tuple[Nondeterminism, ...]:
    """What *function*, or a helper of its package, takes from elsewhere than its context."""
    found: dict[tuple[str, str], Nondeterminism] = {}
    for each in with_helpers(function):
        for finding in _in_one(each):
            found.setdefault((finding.where, finding.does), finding)
    return tuple(found.values())


def warned_of(saga: str, *functions: object) -> tuple[Nondeterminism, ...]:
    """What is found in those of *functions* that are some; each is warned of at its own place."""
    written = [each for each in functions if callable(each) and not isinstance(each, type)]
    found = tuple(finding for each in written for finding in nondeterminism_in(each))
    for each in found:
        file, _, line = each.where.rpartition(":")
        text = f"saga {saga!r}: {each}; if it is meant so, write `# {ALLOW}` on that line"
        warnings.warn_explicit(DeterminismWarning(text), None, file, int(line))
    return found


def _in_one(function: Callable[..., Any]) -> Iterator[Nondeterminism]:
    tree, code = tree_of(function), code_of(function)
    if tree is None or code is None:
        return
    lines = inspect.getsource(function).splitlines()
    names = _Names(tree, names_of(function))
    for node in ast.walk(tree):
        for does, instead in _acts(node, names):
            line, end = node.lineno, node.end_lineno or node.lineno  # type: ignore[attr-defined]  # a statement or expression
            if not any(ALLOW in text.partition("#")[2] for text in lines[line - 1 : end]):
                where = f"{code.co_filename}:{code.co_firstlineno + line - 1}"
                yield Nondeterminism(where, does, instead)


def _acts(node: ast.AST, names: _Names) -> Iterator[tuple[str, str]]:
    match node:
        case ast.Call(func=called):
            name = names.dotted(called)
            instead = _instead_of(name)
            if instead is not None:
                yield f"it calls {_shown(name)}()", instead
            elif name in _KEEPS_ORDER and node.args and names.is_set(node.args[0]):
                yield f"it takes the order of a set, by {_shown(name)}(…)", _ORDER
        case ast.Attribute() | ast.Name() if (name := names.dotted(node)) in _NO_CALL_NEEDED:
            yield f"it reads {name}", _SETTINGS
        case ast.Global(names=changed):
            yield f"it changes {', '.join(changed)} of its module", _GLOBALS
        case ast.For(iter=over) if names.is_set(over):
            yield "it goes through a set", _ORDER
        case ast.ListComp() | ast.GeneratorExp() | ast.DictComp():
            if any(names.is_set(each.iter) for each in node.generators):
                yield "it goes through a set", _ORDER
        case _:
            pass


def _instead_of(name: str | None) -> str | None:
    """What to do in the place of *name*, or of what it is in."""
    while name:
        if name in _INSTEAD:
            return _INSTEAD[name]
        name = name.rpartition(".")[0]
    return None


def _shown(name: str | None) -> str:
    return "open" if name in _OPEN else (name or "").removeprefix("builtins.")


class _Names:
    """What the names in a function stand for, as far as that is seen."""

    def __init__(self, tree: ast.Module, known: Mapping[str, object]) -> None:
        own = {each.arg for each in ast.walk(tree) if isinstance(each, ast.arg)}
        own |= {
            each.id
            for each in ast.walk(tree)
            if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)
        }
        self._known = {name: each for name, each in known.items() if name not in own}
        self._imported = dict(_imports(tree))
        self._sets = {
            target.id
            for each in ast.walk(tree)
            if isinstance(each, ast.Assign) and self._makes_set(each.value)
            for target in each.targets
            if isinstance(target, ast.Name)
        }

    def dotted(self, node: ast.expr) -> str | None:
        """The full name of what an expression stands for, as its own module has it."""
        match node:
            case ast.Name(id=name) if name in self._imported:
                return self._imported[name]
            case ast.Name(id=name):
                return _dotted(self._known[name]) if name in self._known else None
            case ast.Attribute(value=ast.Call(func=called), attr=name):
                return self._method(self.dotted(called), name)
            case ast.Attribute(value=owner, attr=name):
                return self._method(self.dotted(owner), name)
            case _:
                return None

    def is_set(self, node: ast.expr) -> bool:
        """Whether an expression is a set, the order of which is chance for texts."""
        if isinstance(node, ast.Name):
            return node.id in self._sets
        return self._makes_set(node)

    def _makes_set(self, node: ast.expr) -> bool:
        match node:
            case ast.Set() | ast.SetComp():
                return True
            case ast.Call(func=called):
                return self.dotted(called) in _SETS
            case _:
                return False

    def _method(self, owner: str | None, name: str) -> str | None:
        return None if owner is None else f"{owner}.{name}"


def _imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """The imports within a function: the names that it gives, and what for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                yield (
                    each.asname or each.name.partition(".")[0],
                    (each.name if each.asname else each.name.partition(".")[0]),
                )
        elif isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
            module = sys.modules.get(node.module)
            for each in node.names:
                there = getattr(module, each.name, None)
                full = None if there is None else _dotted(there)
                yield each.asname or each.name, full or f"{node.module}.{each.name}"


def _dotted(there: object) -> str | None:
    """The name under which its own module has an object."""
    if isinstance(there, ModuleType):
        return there.__name__
    if there is os.environ:
        return "os.environ"
    owner = getattr(there, "__self__", None)
    if isinstance(owner, type):  # a method of a class, such as datetime.now
        return f"{owner.__module__}.{owner.__qualname__}.{getattr(there, '__name__', '')}"
    if owner is not None and not isinstance(owner, ModuleType):
        there = type(owner)  # a method of an object of the module, such as random.random
    module, name = getattr(there, "__module__", None), getattr(there, "__qualname__", None)
    if isinstance(owner, ModuleType):
        module = owner.__name__
    if not isinstance(module, str) or not isinstance(name, str):
        return None
    return f"{module}.{name}"
