"""A saga's code finds no event loop, and what is left of its async generators is the scheduler's.

What asyncio gives depends on what else runs, so no replay could give it again. While a saga's
code runs, a stand-in has the place of the running loop: whatever asyncio then asks of it is
refused, with the call of the context that does the same durably. With nothing in that place
`asyncio.run` would begin another loop, and `get_event_loop` find the one of this process.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import traceback
from asyncio.events import _get_running_loop as running_loop
from asyncio.events import _set_running_loop as set_running_loop
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any, Final, NoReturn

from saga.errors import DefinitionError

_ASYNCIO: Final = f"{Path(asyncio.__file__).parent}{os.sep}"
_PACKAGE: Final = f"{Path(__file__).parents[1]}{os.sep}"
INSTEAD: Final = (
    "wait with ctx.sleep(…) or ctx.wait(…), run side by side with ctx.all(…) or ctx.any(…), "
    "and leave I/O to effect services, which ctx.do(…) asks"
)
_WAITING: Final = "ctx.sleep(…), or timeout= of ctx.do(…) and ctx.wait(…)"
_BRANCHES: Final = "ctx.all(…) or ctx.any(…)"
_SIGNALS: Final = "ctx.wait(…) and a signal"
_INSTEAD_OF: Final = {
    "time": _WAITING,
    "call_later": _WAITING,
    "call_at": _WAITING,
    "call_soon": _BRANCHES,
    "create_task": _BRANCHES,
    "current_task": f"{_BRANCHES}; for a deadline, timeout= of ctx.do(…) and ctx.wait(…)",
    "create_future": _SIGNALS,
    "get_debug": _SIGNALS,
}


class _NoLoop:
    """Stands where the running loop would be found, and gives nothing."""

    __slots__ = ()

    def __getattr__(self, name: str) -> NoReturn:
        raise DefinitionError(
            f"a saga's function has no asyncio ({name} of the event loop), "
            f"as no replay could give the same: use {_INSTEAD_OF.get(name, INSTEAD)}"
        )

    def __hash__(self) -> int:
        return self.__getattr__("current_task")  # which looks the loop up in a table of its own


NO_LOOP: Final = _NoLoop()


class secluded:  # noqa: N801  # reads as a function
    """For what a saga calls now and then; `Scheduler.run` does the same without a call."""

    __slots__ = ("_hooks", "_loop")

    def __enter__(self) -> None:
        self._loop, self._hooks = running_loop(), sys.get_asyncgen_hooks()
        set_running_loop(NO_LOOP)  # type: ignore[arg-type]  # it only has the place of one
        sys.set_asyncgen_hooks(None, _leave)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        sys.set_asyncgen_hooks(*self._hooks)
        set_running_loop(self._loop)
        if kind is None or not issubclass(kind, DefinitionError | RuntimeError):
            return  # the error itself may not want to be asked what it is
        if isinstance(error, DefinitionError | RuntimeError):
            said = placed(error)
            if said is not error:
                raise said from error


def placed(refusal: Exception) -> Exception:
    """*refusal* with the line that called us; what asyncio itself refused, in words for a saga."""
    lines = list(traceback.walk_tb(refusal.__traceback__))
    files = [(frame.f_code.co_filename, line) for frame, line in lines]
    theirs = [f"{file}:{line}" for file, line in files if not file.startswith((_PACKAGE, _ASYNCIO))]
    where = theirs[-1] if theirs else None
    if isinstance(refusal, DefinitionError):
        refusal.where = refusal.where or where
    elif files[-1][0].startswith(_ASYNCIO):
        problem = f"a saga's function has no asyncio ({refusal}): {INSTEAD}"
        return DefinitionError(problem, where=where)
    return refusal


def _leave(_: AsyncGenerator[Any, Any]) -> None:
    """Without a finalizer the interpreter would run what the generator has left."""


class _Collector:
    """Whether the garbage collector is at work: when that is, is chance."""

    is_at_work = False

    def note(self, phase: str, _: dict[str, int]) -> None:
        self.is_at_work = phase == "start"


_collector = _Collector()
_note: Final[Callable[[str, dict[str, int]], None]] = _collector.note


def watch_collector() -> None:
    """Have `is_collecting` know, from the first async generator of a saga on."""
    if _note not in gc.callbacks:
        gc.callbacks.append(_note)


def is_collecting() -> bool:
    """Whether this is called by the garbage collector."""
    return _collector.is_at_work
