"""A running service: the roles of one process, and what one can ask of it from Python.

Roles start in order and drain in reverse; one that fails ends the service with its error.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Protocol, Self, Unpack
from uuid import UUID

from pydantic_core import to_jsonable_python

from saga.contracts import CommandAct, Event
from saga.core.events import CancelMode
from saga.core.identity import SagaId
from saga.errors import SagaError
from saga.ports import Catalogue, EventStore
from saga.publishing.writer import PublishOptions
from saga.runtime.outcomes import Outcome, OutcomePoller, OutcomeWaiters
from saga.runtime.publisher import Commands

if TYPE_CHECKING:
    from saga.ports.health import Health  # its library is for processes that serve metrics

IDLE_POLL_S = 0.05
IDLE_CALM_POLLS = 6
"""Longer than any fetch; in looks, not seconds, so that a held-up loop is not taken for calm."""


class Role(Protocol):
    """A part of a service; after `stop` it takes nothing new, and `run` returns once it is done."""

    async def start(self) -> None: ...
    async def run(self) -> None: ...
    def stop(self) -> None: ...
    async def close(self) -> None: ...
    @property
    def is_idle(self) -> bool: ...
    @property
    def counts(self) -> Counter[str]: ...


class RoleGroup:
    """The roles of one process; *prepare* is awaited before the first starts, *closers* at last."""

    def __init__(
        self,
        roles: Sequence[Role],
        *,
        prepare: Callable[[], Awaitable[None]],
        closers: Sequence[Callable[[], Awaitable[None]]],
    ) -> None:
        self._roles = tuple(roles)
        self._prepare = prepare
        self._closers = closers
        self._running: list[tuple[Role, asyncio.Task[None]]] = []

    def __iter__(self) -> Iterator[Role]:
        return iter(self._roles)

    async def start(self) -> None:
        await self._prepare()
        for role in self._roles:
            await role.start()
            # No task group: that would cancel the other roles at once, and not drain them.
            task = asyncio.create_task(role.run(), name=type(role).__name__)
            self._running.append((role, task))

    async def stop(self) -> None:
        """Drain, one kind of roles at a time, and close all. Raises what a role failed with."""
        failures: list[BaseException] = []
        for _, group in groupby(reversed(self._running), key=lambda running: type(running[0])):
            alike = list(group)
            for role, _ in alike:
                role.stop()
            ended = await asyncio.gather(*(task for _, task in alike), return_exceptions=True)
            failures += [error for error in ended if error is not None]
            for role, _ in alike:
                with contextlib.suppress(SagaError):
                    # Its own failure, if it has one, is among those above and is what counts.
                    await role.close()
        self._running.clear()
        for close in self._closers:
            await close()
        if failures:
            raise failures[0]

    async def wait(self) -> None:
        """Return when a role has ended by itself, which only a failure makes it do."""
        if tasks := [task for _, task in self._running]:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)

    @property
    def counts(self) -> Counter[str]:
        return sum((role.counts for role in self._roles), Counter())

    @property
    def is_idle(self) -> bool:
        return all(role.is_idle for role in self._roles)

    def why_stopped(self) -> Exception | None:
        ended = [task for _, task in self._running if task.done() and not task.cancelled()]
        errors = [task.exception() for task in ended]
        return next((error for error in errors if isinstance(error, Exception)), None)


class Service:
    """The roles of one process, and what one can ask of it. Use it with `async with`."""

    def __init__(
        self,
        *,
        roles: RoleGroup,
        store: EventStore,
        catalogue: Catalogue,
        commands: Commands,
        waiters: OutcomeWaiters,
        health: Sequence[Health] = (),
    ) -> None:
        self._roles = roles
        self._waiters = waiters
        self._health = health
        self._outcome_poller = OutcomePoller(
            waiters=waiters, catalogue=catalogue, store=store, why_stopped=roles.why_stopped
        )
        self.catalogue = catalogue
        self.commands = commands
        self.publisher = commands.publisher

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Make the topics, then start the roles in order."""
        try:
            await self._roles.start()
            self._outcome_poller.start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Drain in reverse order of starting, and close. Raises what a role failed with."""
        await self._outcome_poller.stop()
        await self._roles.stop()

    async def wait(self) -> None:
        await self._roles.wait()

    @property
    def counts(self) -> Counter[str]:
        return self._roles.counts

    async def problems(self) -> list[str]:
        """Why this process does not do all of its work now; none while it does."""
        asked = await asyncio.gather(*(part.why_not_ready() for part in self._health))
        return [problem for problems in asked for problem in problems]

    async def publish(self, event: Event, **options: Unpack[PublishOptions]) -> SagaId | None:
        """Publish an event; the id of the one saga that it starts. Durable when it returns.

        Raises:
            MessageError: the event has no business key.
            BusUnavailable: it was not published.
        """
        written = await self.publisher.publish(event, **options)
        self.commands.remember(written)
        return written.saga_id

    async def outcome(self, saga_id: SagaId | UUID, *, timeout: float | None = None) -> Outcome:
        """Wait until the saga ends, or cannot go on by itself.

        Raises:
            TimeoutError: it did neither within *timeout* seconds.
            CorruptHistory: it has ended, and how cannot be read.
            Exception: what a role of this service has failed with meanwhile.
        """
        saga_id = SagaId(str(saga_id))
        with self._waiters.waiting(saga_id) as outcome:
            self._outcome_poller.waiter_came(is_new=self.commands.is_new(saga_id))
            try:
                async with asyncio.timeout(timeout):
                    return await outcome
            except TimeoutError:
                raise TimeoutError(f"saga {saga_id} has not ended within {timeout} s") from None

    async def signal(
        self, saga_id: SagaId | UUID, name: str, payload: object = None, *, actor: str | None = None
    ) -> str:
        """Send a signal; the id of the command, by which a repeat is recognised.

        Raises:
            UnknownSaga: there is no such saga.
            ValueError: JSON cannot say *payload*.
        """
        said = to_jsonable_python(payload)
        return await self.command(saga_id, CommandAct.SIGNAL, name=name, payload=said, actor=actor)

    async def cancel(
        self,
        saga_id: SagaId | UUID,
        *,
        reason: str,
        mode: CancelMode = CancelMode.GRACEFUL,
        actor: str | None = None,
    ) -> str:
        """Ask a saga to end; the id of the command.

        Raises:
            UnknownSaga: there is no such saga.
        """
        return await self.command(saga_id, CommandAct.CANCEL, reason=reason, mode=mode, actor=actor)

    async def command(
        self, saga_id: SagaId | UUID, act: CommandAct, *, command_id: str | None = None, **said: Any
    ) -> str:
        """Send any command; its id.

        Raises:
            UnknownSaga: there is no such saga.
            ValueError: it does not say enough, for example no reason for an abandon.
        """
        return await self.commands.send(SagaId(str(saga_id)), act, command_id=command_id, **said)

    async def idle(self, *, timeout: float | None = None) -> None:
        """Wait until nothing is left to do but what waits for time or people.

        Raises:
            TimeoutError: there was still work after *timeout* seconds.
        """
        async with asyncio.timeout(timeout):
            counts, calm = self.counts, 0
            while calm < IDLE_CALM_POLLS:
                await asyncio.sleep(IDLE_POLL_S)
                if error := self._roles.why_stopped():
                    raise error
                before, counts = counts, self.counts
                calm = calm + 1 if counts == before and self._roles.is_idle else 0
