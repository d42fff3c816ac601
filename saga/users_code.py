"""Whose an exception is that comes out of users' code.

A function, handler, key function, listener, upcaster or validator may raise anything, `SystemExit`
and `CancelledError` too. It is theirs, and stops their saga or attempt alone: caught as
`BaseException`, recorded as a fact. Three are ours, wherever they surface: Ctrl-C, no memory, and
the cancellation of the very task that called. With these the turn or attempt is dropped, and taken
again by whoever comes next.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from traceback import walk_tb
from typing import Any, Final, TypeGuard, TypeVar

from saga.errors import DefinitionError

_ENGINE: Final = f"{Path(__file__).parent}{os.sep}"
_NOT_THEIRS: Final = ("<", _ENGINE)
_LIBRARIES: Final = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))
_TRACEBACK: Final[Any] = BaseException.__dict__["__traceback__"]
Error = TypeVar("Error", bound=BaseException)


def is_ours(error: BaseException) -> bool:
    """Whether *error* is meant for this process, though users' code let it out; in a group too."""
    left = [error]  # groups may be nested deeper than calls may
    while left:
        each = left.pop()
        if is_a(each, BaseExceptionGroup):
            left += BaseExceptionGroup.exceptions.__get__(each)
        elif _is_ours_alone(each):
            return True
    return False


def _is_ours_alone(error: BaseException) -> bool:
    if is_a(error, asyncio.CancelledError):
        return _is_being_cancelled()
    return is_a(error, KeyboardInterrupt) or is_a(error, MemoryError)


def is_a(error: BaseException, kind: type[Error]) -> TypeGuard[Error]:
    """What `isinstance` says, without asking *error* itself: its answer would be users' code."""
    return issubclass(type(error), kind)


def raised_at(error: BaseException) -> str | None:
    """File and line of the innermost frame in users' own code that *error* came through."""
    if is_a(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    return place_among(_frames(error))


def with_place(text: str, error: BaseException) -> str:
    """*text* of *error*, and where in users' own code that was raised, unless it says so itself."""
    own = [each for each in _frames(error) if _is_own(each)]
    if not own or (is_a(error, DefinitionError) and error.where):
        return text
    file, line = own[-1]
    return f"{text} ({file}:{line})"


def place_among(frames: Iterable[tuple[str, int]]) -> str | None:
    """The last of *frames* in users' own code, else in a library; None where all are ours."""
    theirs = [each for each in frames if not each[0].startswith(_NOT_THEIRS)]
    if not theirs:
        return None
    file, line = ([*filter(_is_own, theirs)] or theirs)[-1]
    return f"{file}:{line}"


def _frames(error: BaseException) -> Iterator[tuple[str, int]]:
    for frame, line in walk_tb(_TRACEBACK.__get__(error)):
        yield frame.f_code.co_filename, line


def _is_own(frame: tuple[str, int]) -> bool:
    return not frame[0].startswith((*_NOT_THEIRS, *_LIBRARIES))


def log_raised(
    log: logging.Logger, level: int, message: str, *args: object, error: BaseException, **extra: Any
) -> None:
    """Log *message* and what users' code raised, as far as that lets itself be rendered."""
    try:
        log.log(level, message, *args, exc_info=error, extra=extra, stacklevel=2)
    except BaseException as failure:
        if is_ours(failure):
            raise
        log.log(level, message, *args, extra=extra, stacklevel=2)


def _is_being_cancelled() -> bool:
    try:
        task = asyncio.current_task()
    except (RuntimeError, DefinitionError):
        return False  # none runs here, as in a thread, or a saga's function is to find none
    return task is not None and task.cancelling() > 0
