"""A simulated process: it can crash at any call of a port, freeze, and come back with empty memory.

After its crash nothing of a process has any effect, its `finally` blocks included: every call it
still makes ends in `Killed`. What a frozen process had called for is done meanwhile.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from hashlib import blake2b
from typing import Any, TypeVar

from saga.errors import SagaError
from saga.testing.world.faults import Fault, Faults
from saga.testing.world.loop import SimulatedLoop

T = TypeVar("T")

_current: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)
CALL_S_MAX = 0.15
"""How long a slow call takes, before and after it was done, at most."""


class Killed(BaseException):
    """Raised by every port call of a process that is no more."""


class Surroundings:
    def __init__(self, loop: SimulatedLoop, faults: Faults) -> None:
        loop.set_task_factory(_make_task)  # type: ignore[arg-type]  # typeshed wants a wider one
        loop.set_exception_handler(self._on_loop_error)
        self.loop = loop
        self.faults = faults
        self.lines: list[str] = []
        self.violations: list[str] = []
        """What was wrong the moment it happened."""
        self.is_mended = False
        """Whether the operators have deployed code without its flaws; sagas may ask."""
        self._sequence = 0

    def note(self, who: str, what: str) -> None:
        self.lines.append(f"{self.loop.time():.6f} {who} {what}")

    def next_number(self) -> int:
        """A number greater than all before: whatever happens later has a greater one."""
        self._sequence += 1
        return self._sequence

    def fingerprint(self) -> str:
        return blake2b("\n".join(self.lines).encode(), digest_size=12).hexdigest()

    def _on_loop_error(self, _loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        message, error = context.get("message"), context.get("exception")
        self.violations.append(f"an error reached the event loop: {message}: {error!r}")


class Process:
    def __init__(self, name: str, surroundings: Surroundings, *, can_crash: bool = True) -> None:
        self.name = name
        self.can_crash = can_crash
        self.surroundings = surroundings
        self.is_alive = True
        self.has_started = False
        self.on_crash: list[Callable[[], None]] = []
        self._ids = 0
        self._thawed: asyncio.Future[None] | None = None
        self._tasks: dict[asyncio.Task[Any], None] = {}

    def new_id(self) -> str:
        self._ids += 1
        return f"{self.name}-{self._ids}"

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start *work* as a task of this process; so are all tasks that it starts."""
        context = contextvars.copy_context()
        context.run(_current.set, self)
        return self.surroundings.loop.create_task(work, context=context)

    async def lives(self, life: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Return when *life*, a task of this process, has ended, or the process has crashed."""
        ended = self.surroundings.loop.create_future()

        def end(*_: object) -> None:
            if not ended.done():
                ended.set_result(None)

        self.on_crash.append(end)
        task = self.spawn(life)
        task.add_done_callback(end)
        await ended
        return task

    async def call(
        self, point: str, act: Callable[[], Awaitable[T]], *, error: type[SagaError] | None = None
    ) -> T:
        """Do *act* for this process, unless something goes wrong. *error* says how it may fail."""
        await self._present()
        surroundings = self.surroundings
        surroundings.note(self.name, point)
        faults = surroundings.faults
        fault = faults.at_call(point, can_fail=error is not None, can_crash=self.can_crash)
        await self._dawdle()
        if fault is Fault.CRASH_BEFORE:
            await self.die(point)
        if fault is Fault.ERROR_BEFORE and error is not None:
            raise error(f"{point}: made up, nothing was done")
        result = await act()
        if fault is Fault.CRASH_AFTER:
            await self.die(point)
        if fault is Fault.ERROR_AFTER and error is not None:
            raise error(f"{point}: made up, it was done all the same")
        await self._dawdle()
        await self._present()
        return result

    async def work(self) -> None:
        """A moment of a service's work: its process may crash in it, or take long."""
        await self.call("service.work", partial(asyncio.sleep, 0))

    async def die(self, where: str) -> None:
        """Crash, from within. Does not return."""
        self.crash(where)
        await self.surroundings.loop.create_future()

    def crash(self, where: str) -> None:
        if not self.is_alive:
            return
        self.is_alive = False
        self.surroundings.note(self.name, f"crash {where}")
        for tell in self.on_crash:
            tell()
        self.surroundings.loop.call_soon(self._end_tasks)

    def freeze(self) -> None:
        """Let it make no call until `thaw`."""
        if self._thawed is None:
            self.surroundings.note(self.name, "freeze")
            self._thawed = self.surroundings.loop.create_future()

    def thaw(self) -> None:
        """Let it go on as if no time had passed."""
        thawed, self._thawed = self._thawed, None
        if thawed is not None:
            self.surroundings.note(self.name, "thaw")
            thawed.set_result(None)

    def adopt(self, task: asyncio.Task[Any]) -> None:
        self._tasks[task] = None
        task.add_done_callback(self._forget)
        if not self.is_alive:
            task.cancel()

    async def gone(self) -> None:
        """Return when nothing of a dead process is left."""
        while self._tasks:
            for task in list(self._tasks):
                task.cancel()
            await asyncio.sleep(0)

    async def _present(self) -> None:
        while self._thawed is not None and self.is_alive:
            await asyncio.shield(self._thawed)
        if not self.is_alive:
            raise Killed(self.name)

    async def _dawdle(self) -> None:
        faults = self.surroundings.faults
        if faults.hits("slow call", faults.rates.slow_call):
            await asyncio.sleep(faults.rng.uniform(0, CALL_S_MAX) ** 1.5)

    def _end_tasks(self) -> None:
        for task in list(self._tasks):
            task.cancel()

    def _forget(self, task: asyncio.Task[Any]) -> None:
        del self._tasks[task]
        if not task.cancelled():
            error = task.exception()
            if error is not None and self.is_alive:
                self.surroundings.note(self.name, f"task ended: {type(error).__name__}: {error}")


def current_process() -> Process | None:
    """Whose code is running; None outside of all processes."""
    return _current.get()


def _make_task(
    loop: asyncio.AbstractEventLoop,
    work: Coroutine[Any, Any, T],
    context: contextvars.Context | None = None,
) -> asyncio.Task[T]:
    """A task factory: every task knows the process it belongs to."""
    task = asyncio.Task(work, loop=loop, context=context)
    process = context.get(_current) if context is not None else _current.get()
    if process is not None:
        process.adopt(task)
    return task
