"""The parts of one process: they start in order and are closed in reverse, however far they came.

Resources are open when they come here, and are closed last. Whatever a part fails with, all others
are closed, and each failure is a line in the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from itertools import groupby
from typing import Final, Protocol, runtime_checkable

from saga.core.texts import described
from saga.core.values import value
from saga.errors import SagaError
from saga.tasks import why_ended

NOT_STARTED: Final = "not started"
STARTING: Final = "starting"
UP: Final = "up"
STOPPING: Final = "stopping"
STOPPED: Final = "stopped"
log = logging.getLogger(__name__)


class Role(Protocol):
    """A part that works; after `stop` it takes nothing new, and `run` returns once it is done.

    `close` may be called twice, and when `start` has failed half-way.
    """

    @property
    def name(self) -> str: ...
    async def start(self) -> None: ...
    async def run(self) -> None: ...
    def stop(self) -> None: ...
    async def close(self) -> None: ...
    @property
    def is_idle(self) -> bool: ...
    @property
    def counts(self) -> Counter[str]: ...


@runtime_checkable
class Finds(Protocol):
    """A role that looks for trouble, and goes on when it has found some."""

    @property
    def trouble(self) -> str | None: ...


@value
class Resource:
    """A part that roles use; *start* makes it ready, *close* is called where it was not, too."""

    name: str
    start: Callable[[], Awaitable[None]]
    close: Callable[[], Awaitable[None]]


class Lifecycle:
    """Starts and closes *parts*; it lives once.

    *on_end* is called with what has ended a role that was not told to stop.
    """

    def __init__(
        self, parts: Sequence[Resource | Role], *, on_end: Callable[[Exception], None]
    ) -> None:
        self._parts = tuple(parts)
        self._on_end = on_end
        self._states = dict.fromkeys((part.name for part in parts), NOT_STARTED)
        assert len(self._states) == len(self._parts), [part.name for part in parts]
        self._has_begun = False
        self._failures: list[BaseException] = []
        self._leaving: dict[Role, asyncio.Task[None]] = {}
        self._stopping: set[Role] = set()
        self._cut_short: set[Role] = set()
        self._being_closed = asyncio.Lock()
        self._closers = AsyncExitStack()
        for part in parts:
            if isinstance(part, Resource):
                self._closers.push_async_callback(self._close, part)

    @property
    def roles(self) -> Iterator[Role]:
        return (part for part in self._parts if not isinstance(part, Resource))

    @property
    def states(self) -> Mapping[str, str]:
        """Of each part how far it is, and what has ended it; in the order of their start."""
        found = {role.name: role.trouble for role in self.roles if isinstance(role, Finds)}
        return {
            name: (found.get(name) if state == UP else None) or state
            for name, state in self._states.items()
        }

    async def start(self) -> None:
        """Start all, one after another; where one cannot, close those that are there.

        Raises:
            RuntimeError: they were started before.
        """
        if self._has_begun:
            raise RuntimeError("a service starts once: make another one with app.service()")
        self._has_begun = True
        try:
            for _, alike in groupby(self._parts, key=type):
                await self._start_alike(list(alike))
        except BaseException as error:
            await self._take_back(error)
            raise

    async def stop(self) -> None:
        """Have roles drain, one kind at a time, and close all. Raises the first failure.

        It is no failure where a role closes while a server is away.
        """
        self._has_begun = True
        async with self._being_closed:
            await self._closers.aclose()
        failures, self._failures = self._failures, []
        if failures:
            raise failures[0]

    async def _start_alike(self, parts: Sequence[Resource | Role]) -> None:
        running: dict[Role, asyncio.Task[None] | None] = {}
        self._closers.push_async_callback(self._end, running)
        for part in parts:
            self._states[part.name] = STARTING
            if not isinstance(part, Resource):
                running[part] = None  # it is closed also where it cannot start
            try:
                await part.start()
            except Exception as error:
                self._states[part.name] = f"ended: {error}"
                raise
            self._states[part.name] = UP
            log.debug("%s is up", part.name)
            if not isinstance(part, Resource):
                # No task group: that would cancel the other roles at once, and not drain them.
                task = asyncio.create_task(part.run(), name=part.name)
                running[part] = task
                task.add_done_callback(partial(self._has_ended, part))

    async def _take_back(self, error: BaseException) -> None:
        try:
            with suppress(Exception):  # each is in the log
                await self.stop()
        except BaseException:  # cancelled meanwhile: that is what the caller sees
            log.error("it could not start: %s", described(error), extra={"reason": str(error)})  # noqa: TRY400  # of that error
            raise

    def _has_ended(self, role: Role, task: asyncio.Task[None]) -> None:
        if role in self._stopping:
            return
        error = why_ended(task, role.name)
        assert error is not None, "it is done"
        self._states[role.name] = f"ended: {error}"
        self._failures.append(error)
        log.critical("%s has ended: %s", role.name, described(error), extra={"reason": str(error)})
        # It leaves its group: others take over what it has read, and nobody counts on it.
        leaving = asyncio.create_task(self._close(role), name=f"{role.name} leaves")
        self._leaving[role] = leaving
        self._on_end(error)

    async def _end(self, running: Mapping[Role, asyncio.Task[None] | None]) -> None:
        """Have roles of one kind drain together, and close them."""
        async with AsyncExitStack() as closers:
            for role in running:
                closers.push_async_callback(self._close, role)
            tasks = {role: task for role, task in running.items() if task is not None}
            for role in reversed(tasks):
                self._tell_to_stop(role, tasks[role])
            await self._drain(tasks)

    def _tell_to_stop(self, role: Role, task: asyncio.Task[None]) -> None:
        self._stopping.add(role)
        if self._states[role.name] == UP:
            self._states[role.name] = STOPPING
            log.debug("%s is stopping", role.name)
        try:
            role.stop()
        except Exception as error:  # noqa: BLE001  # the others are to be stopped, too
            self._note(role.name, error)
            self._cut_short.add(role)
            task.cancel()

    async def _drain(self, tasks: Mapping[Role, asyncio.Task[None]]) -> None:
        """Return when all have ended; where that is cancelled, they are."""
        if not tasks:
            return
        try:
            await asyncio.wait(tasks.values())
        except asyncio.CancelledError:
            for role, task in tasks.items():
                if not task.done():
                    log.warning("%s stops with work in hand", role.name)
                    self._cut_short.add(role)
                    task.cancel()
            await asyncio.wait(tasks.values())
            raise
        finally:
            for role, task in tasks.items():
                if (error := self._failure(role, task)) is not None:
                    self._note(role.name, error)

    def _failure(self, role: Role, task: asyncio.Task[None]) -> BaseException | None:
        """What a role has failed with that was told to stop."""
        if role in self._leaving or not task.done():
            return None
        if task.cancelled():
            return None if role in self._cut_short else why_ended(task, role.name)
        return task.exception()

    async def _close(self, part: Resource | Role) -> None:
        if not isinstance(part, Resource):
            leaving = self._leaving.get(part)
            if leaving not in (None, asyncio.current_task()):
                await asyncio.wait([leaving])
        elif self._states[part.name] == UP:
            self._states[part.name] = STOPPING
        try:
            await part.close()
        except Exception as error:  # noqa: BLE001  # the others are to be closed, too
            if isinstance(error, SagaError) and not isinstance(part, Resource):
                # What its work has failed with is what counts.
                reason = {"reason": str(error)}
                log.warning("%s does not close: %s", part.name, described(error), extra=reason)
            else:
                self._note(part.name, error)
        if not self._states[part.name].startswith("ended: "):
            self._states[part.name] = STOPPED
            log.debug("%s has stopped", part.name)

    def _note(self, name: str, error: BaseException) -> None:
        """What a part has failed with on its way down."""
        self._states[name] = f"ended: {error}"
        self._failures.append(error)
        log.error(
            "%s has failed while it was closed: %s",
            name,
            described(error),
            exc_info=None if isinstance(error, SagaError) else error,
            extra={"reason": str(error)},
        )
