"""Refuses at run time what a saga's function must not do, where that can be heard of.

An audit hook hears of each process and socket, whoever makes it; in the place of `time.sleep` and
`Thread.start`, of which no hook hears before Python 3.13, stand functions of ours. What a saga's
code does is refused: while that runs, a stand-in has the place of the event loop (`seclusion`), so
nothing has to be noted for a turn. A hook stays for ever and costs a fraction of a microsecond with
each event, so there is one only where somebody asked to be told: in tests and with `check_replay`.
"""

from __future__ import annotations

import sys
import sysconfig
import time
from asyncio.events import _get_running_loop as running_loop
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from threading import Thread
from types import FrameType
from typing import Final, ParamSpec, TypeVar

from saga.authoring.seclusion import NO_LOOP
from saga.errors import DefinitionError

P = ParamSpec("P")
R = TypeVar("R")
_SERVICE: Final = "leave I/O to an effect service, asked with await ctx.do(…)"
_BRANCHES: Final = "run branches with ctx.all(…), and leave work of its own to an effect service"
_THREAD: Final = "_thread.start_new_thread"
_REFUSED: Final = {
    "time.sleep": ("sleeps", "use await ctx.sleep(…)"),
    _THREAD: ("starts a thread", _BRANCHES),
    **dict.fromkeys(
        ("subprocess.Popen", "os.system", "os.fork", "os.posix_spawn", "os.exec", "os.spawn"),
        ("starts a process", _SERVICE),
    ),
    **dict.fromkeys(
        # Not when a socket is made: asyncio makes a pair for a loop, which is refused by itself.
        ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname"),
        ("opens a connection", _SERVICE),
    ),
}
"""By the event that the interpreter tells of: what it is, and what to do in its place."""
_FOREIGN: Final = tuple(
    {
        f"{Path(__file__).parents[1]}/",
        *(f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib", "purelib")),
    }
)


class _Hook:
    """Whether there is one: it cannot be taken away again."""

    is_there = False


def refuse_at_run_time() -> None:
    """From here on, have a saga park that sleeps, or starts a thread, process or connection."""
    if _Hook.is_there:
        return
    _Hook.is_there = True
    sys.addaudithook(_refuse)
    time.sleep = _guarded(time.sleep, "time.sleep")
    Thread.start = _guarded(Thread.start, _THREAD)  # type: ignore[method-assign]  # as it says above


def _guarded(real: Callable[P, R], event: str) -> Callable[P, R]:
    @wraps(real)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        _refuse(event, args)
        return real(*args, **kwargs)

    return guarded


def _refuse(event: str, _: object) -> None:
    if event not in _REFUSED:
        return
    loop: object = running_loop()
    if loop is NO_LOOP:
        does, instead = _REFUSED[event]
        problem = f"a saga's function {does}, which no replay gives again: {instead}"
        raise DefinitionError(problem, where=_where())


def _where() -> str | None:
    """The innermost line that is neither ours nor the interpreter's."""
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001  # the caller's place is the message
    while frame is not None and frame.f_code.co_filename.startswith(("<", *_FOREIGN)):
        frame = frame.f_back
    return None if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"
