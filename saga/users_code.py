"""Whose an exception is that comes out of users' code.

A function, handler, key function, listener, upcaster or validator may raise anything, `SystemExit`
and `CancelledError` too. It is theirs, and stops their saga or attempt alone: caught as
`BaseException`, recorded as a fact. Three are ours, wherever they surface: Ctrl-C, no memory, and
the cancellation of the very task that called. With these the turn or attempt is dropped, and taken
again by whoever comes next.
"""

from __future__ import annotations

import asyncio

from saga.errors import DefinitionError


def is_ours(error: BaseException) -> bool:
    """Whether *error* is meant for this process, though users' code let it out; in a group too."""
    if isinstance(error, BaseExceptionGroup):
        return any(is_ours(each) for each in error.exceptions)
    if isinstance(error, asyncio.CancelledError):
        return _is_being_cancelled()
    return isinstance(error, (KeyboardInterrupt, MemoryError))


def _is_being_cancelled() -> bool:
    try:
        task = asyncio.current_task()
    except (RuntimeError, DefinitionError):
        return False  # none runs here, as in a thread, or a saga's function is to find none
    return task is not None and task.cancelling() > 0
