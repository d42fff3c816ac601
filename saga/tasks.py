"""Tasks that work beside each other: none of them ends unseen, and none holds up the others.

A task group ends with the first error, but takes no notice of a task that returns too early, or
that somebody has cancelled who found it among all tasks of the loop. Nobody would do its work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from contextlib import closing
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from saga.errors import TaskEnded

T = TypeVar("T")


class Tasks:
    """A task group in which every task goes on, unless it *may_end*, until all of them `may_end`.

    Leaving it raises the first error itself, not a group of errors; *of* names the whole.
    """

    def __init__(self, of: str) -> None:
        self._of = of
        self._group = asyncio.TaskGroup()
        self._owner: asyncio.Task[Any] | None = None
        self._may_all_end = False
        self._has_failed = False
        self._last_error: BaseException | None = None

    async def __aenter__(self) -> Self:
        self._owner = asyncio.current_task()
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._has_failed |= error is not None
        try:
            await self._group.__aexit__(kind, error, trace)
        except BaseExceptionGroup as group:
            raise first_of(group) from None
        if self._last_error is not None:
            raise self._last_error

    @property
    def are_cancelled(self) -> bool:
        """Whether all of them are being cancelled: one has failed, or their owner is cancelled."""
        return self._has_failed or (self._owner is not None and self._owner.cancelling() > 0)

    def start(
        self, work: Coroutine[Any, Any, T], what: str, *, may_end: bool = False
    ) -> asyncio.Task[T]:
        """Raises RuntimeError where all are being cancelled, and none can be added."""
        task = self._group.create_task(work, name=what)
        task.add_done_callback(partial(self._ended, what, may_end))
        return task

    def may_end(self) -> None:
        """From now on each of them may return, and be cancelled."""
        self._may_all_end = True

    def fail(self, error: BaseException) -> None:
        """End all of them with *error*, unless they end already."""
        if self.are_cancelled:
            return
        self._has_failed = True
        failing = _fail(error)
        try:
            self._group.create_task(failing)
        except RuntimeError:  # it was the last one
            failing.close()
            self._last_error = error

    def _ended(self, what: str, may_end: bool, task: asyncio.Task[Any]) -> None:  # noqa: FBT001  # partial
        if task.cancelled():
            if not self._may_all_end:
                self.fail(TaskEnded(f"{self._of}: {what} was cancelled by somebody else"))
        elif task.exception() is not None:
            self._has_failed = True
        elif not (may_end or self._may_all_end):
            self.fail(TaskEnded(f"{self._of}: {what} has ended, and was to go on"))


class Interleaved:
    """Long work in pieces, and others run after every *pieces_max* of them."""

    def __init__(self, pieces_max: int) -> None:
        self._pieces_max = pieces_max
        self._done = 0

    async def finish(self, pieces: Generator[None, None, T]) -> T:
        """What comes of *pieces*; where the wait for it is given up, they end there."""
        with closing(pieces):
            while True:
                try:
                    next(pieces)
                except StopIteration as end:
                    result: T = end.value
                    return result
                self._done += 1
                if self._done % self._pieces_max == 0:
                    await asyncio.sleep(0)


def first_of(error: BaseException) -> BaseException:
    """The first error in a group of groups; *error* itself where it is no group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def why_ended(task: asyncio.Future[Any], what: str) -> Exception | None:
    """What has ended a *task* that is to go on; None while it does."""
    if not task.done():
        return None
    if task.cancelled():
        return TaskEnded(f"{what} was cancelled by somebody else")
    error = task.exception()
    if error is None:
        return TaskEnded(f"{what} has ended, and was to go on")
    if isinstance(error, Exception):
        return error
    return TaskEnded(f"{what} was ended by {type(error).__name__}")


async def _fail(error: BaseException) -> None:
    raise error
