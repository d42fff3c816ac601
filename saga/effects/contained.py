"""Tasks that handlers start: `SystemExit` in one would end the event loop, and with it the process.

asyncio lets that pass through the loop. Here it fails the task, and so whoever awaits it, as any
other error does. Tasks of others on the same loop are made as ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from contextvars import ContextVar
from typing import Any

from typing_extensions import override

from saga.core.texts import described

in_handler: ContextVar[bool] = ContextVar("in_handler", default=False)
"""Set in tasks that call handlers, and so in all tasks that these start, and that those start."""


class TaskExited(Exception):
    """Raised in place of the `SystemExit` that ended a task of a handler."""


class _Contained(Coroutine[Any, Any, Any]):
    """A coroutine that cannot end the loop; no frame of its own that could stay unawaited."""

    def __init__(self, inner: Coroutine[Any, Any, Any]) -> None:
        self._inner = inner

    @override
    def send(self, value: Any) -> Any:
        try:
            return self._inner.send(value)
        except SystemExit as error:
            raise TaskExited(described(error)) from error

    @override
    def throw(self, *raised: Any) -> Any:
        try:
            return self._inner.throw(*raised)
        except SystemExit as error:
            raise TaskExited(described(error)) from error

    @override
    def close(self) -> None:
        self._inner.close()

    @override
    def __await__(self) -> Generator[Any, Any, Any]:
        return self._inner.__await__()


class _Factory:
    """Makes tasks as *made* does, or as asyncio does by itself."""

    def __init__(self, made: Any) -> None:
        self._made = made

    def __call__(
        self, loop: asyncio.AbstractEventLoop, work: Any, **options: Any
    ) -> asyncio.Task[Any]:
        if in_handler.get() and asyncio.iscoroutine(work):
            work = _Contained(work)
        if self._made is None:
            return asyncio.Task(work, loop=loop, **options)
        task: asyncio.Task[Any] = self._made(loop, work, **options)
        return task


def contain_tasks() -> None:
    """Have the running loop contain the tasks of handlers from now on."""
    loop = asyncio.get_running_loop()
    made = loop.get_task_factory()
    if not isinstance(made, _Factory):
        loop.set_task_factory(_Factory(made))
