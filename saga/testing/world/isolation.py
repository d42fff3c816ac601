"""Keeps an application inside of its world: no sockets, threads, processes or real sleeps.

The first such call of the application's code, in the world's own thread, is refused where it is
made, and stops the world: no seed could repeat it.
"""

from __future__ import annotations

import contextvars
import inspect
import os
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any, Final

from saga.app import SagaApp
from saga.errors import DefinitionError
from saga.testing.world.loop import LeftWorld, SimulatedLoop

_FOREIGN: Final = tuple(
    {
        str(Path(__file__).parents[2]) + os.sep,
        *(sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib")),
    }
)
"""Where code lies that belongs to no application."""

_Named = tuple[str, Callable[..., Any]]

_working_for: contextvars.ContextVar[str | None] = contextvars.ContextVar("working", default=None)


_FAKE: Final = "give a fake in its place, World(…, replace={Intent: fake})"
_ADVICE: Final = {
    "opens a socket": f"a world has no network: {_FAKE}",
    "starts a thread": f"a world has one thread: {_FAKE}",
    "starts a process": f"a world has no other processes: {_FAKE}",
    "sleeps in real time": f"a world skips time: await asyncio.sleep, or {_FAKE}",
}
_GUARDED: Final = (
    (socket.socket, "__init__", "opens a socket"),
    (threading.Thread, "start", "starts a thread"),
    (subprocess.Popen, "__init__", "starts a process"),
    (os, "fork", "starts a process"),
    (os, "system", "starts a process"),
    (os, "posix_spawn", "starts a process"),
    (time, "sleep", "sleeps in real time"),
)


class Isolation:
    """Watches over the code of *apps* while *loop* runs it."""

    def __init__(self, apps: Sequence[SagaApp], loop: SimulatedLoop) -> None:
        functions = [each for app in apps for each in _functions(app)]
        self._owners = _owners(functions)
        self._modules = _modules(functions)
        self._loop = loop
        self._thread = threading.get_ident()
        self._refused: tuple[str, str, str] | None = None
        loop.on_leaving = self._refuse

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Inside, the application can do nothing that a world does not have."""
        imported = [
            (module, name, "sleeps in real time")
            for module in self._modules
            for name, value in vars(module).items()
            if value in (time.sleep, getattr(time.sleep, "__wrapped__", time.sleep))
        ]
        real = [
            (place, name, getattr(place, name), does)
            for place, name, does in (*_GUARDED, *imported)
        ]
        for place, name, function, does in real:
            setattr(place, name, self._guard(function, does))
        try:
            yield
        finally:
            for place, name, function, _ in real:
                setattr(place, name, function)

    def raise_if_refused(self) -> None:
        """Raise DefinitionError, with file and line, if the application did what is refused."""
        if self._refused is not None:
            does, who, where = self._refused
            raise DefinitionError(f"{who} {does}; {_ADVICE[does]}", where=where)

    def _guard(self, real: Callable[..., Any], does: str) -> Callable[..., Any]:
        def guarded(*args: object, **kwargs: object) -> Any:
            if threading.get_ident() == self._thread:
                self._refuse(does)
            return real(*args, **kwargs)

        return guarded

    def _refuse(self, does: str) -> None:
        """Stop the world if the application is calling; others may go on."""
        where: str | None = None
        frame: FrameType | None = sys._getframe(1)  # noqa: SLF001  # the caller's place is the message
        while frame is not None:
            code = frame.f_code
            if where is None and not code.co_filename.startswith(("<", *_FOREIGN)):
                where = f"{code.co_filename}:{frame.f_lineno}"
            if where is not None and code in self._owners:
                break
            frame = frame.f_back
        owner = self._owners[frame.f_code] if frame is not None else _working_for.get()
        if where is None or owner is None:
            return
        self._refused = self._refused or (does, owner, where)
        self._loop.is_refused = True
        raise LeftWorld(does)


@contextmanager
def working_for(who: str) -> Iterator[None]:
    """Inside, tasks that are started belong to *who*, whose frames they do not have."""
    token = _working_for.set(who)
    try:
        yield
    finally:
        _working_for.reset(token)


def _functions(app: SagaApp) -> Iterator[_Named]:
    for saga in app.sagas:
        for function in saga.code:
            yield f"saga {saga.name!r}", function
    for service in app.effects:
        for handler in (*service.intents.values(), *service.facts.values()):
            yield f"handler {handler.name}", handler.function
        for starter in service.starters:
            yield f"on_start of {service.name!r} ({starter.where})", starter.function


def _owners(functions: Iterable[_Named]) -> dict[CodeType, str]:
    codes = ((getattr(_bare(function), "__code__", None), who) for who, function in functions)
    return {code: who for code, who in codes if code is not None}


def _modules(functions: Iterable[_Named]) -> list[ModuleType]:
    """The modules of the application: one may have imported `sleep` by its name."""
    names = {getattr(_bare(function), "__module__", "") for _, function in functions}
    return [sys.modules[name] for name in sorted(names) if name in sys.modules]


def _bare(function: Callable[..., Any]) -> Callable[..., Any]:
    while isinstance(function, partial):
        function = function.func
    function = inspect.unwrap(function)
    return function if hasattr(function, "__code__") else type(function).__call__
