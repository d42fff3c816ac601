"""A running service: the roles of one process, and what one can ask of it from Python.

Its parts start in order and are closed in reverse (`lifecycle`). A role that ends by itself leaves
its group at once; the service says so to everybody who asks or waits, and ends with its error.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Self,
    TypeVar,
    Unpack,
    overload,
)
from uuid import UUID

from pydantic_core import from_json, to_jsonable_python

from saga.authoring.registry import SagaRegistry
from saga.contracts import CommandAct, Event, canonical, message_of
from saga.contracts.registry import Entered
from saga.core.durations import SECOND_US, Duration, duration_us
from saga.core.events import CancelMode, MarkedAs, UpdateReceived
from saga.core.identity import SagaId, saga_named
from saga.core.status import SagaStatus
from saga.errors import CorruptHistory, StoreUnavailable, TimedOut, UnknownSaga
from saga.lifecycle import Lifecycle, Resource, Role
from saga.ports import Catalogue, EventStore
from saga.publishing.writer import PublishOptions
from saga.runtime.answers import AnswerSearch, raise_refusal, read_answer, wait_for_answer
from saga.runtime.bulk_migration import ALL, Migration, SagaMigration, migrate, why_not
from saga.runtime.idle import Left, Waits
from saga.runtime.outcomes import Outcome, OutcomePoller, OutcomeWaiters
from saga.runtime.pauses import wait_for_definition
from saga.runtime.publisher import Commands
from saga.runtime.receipts import WAIT_S, Receipt, wait_for_receipt
from saga.runtime.view import SagaView, view_of

if TYPE_CHECKING:
    from saga.ports.health import Health  # its library is for processes that serve metrics

T = TypeVar("T")
SagaNamed = SagaId | UUID | str
"""A saga's id, or `definition/key`."""
IDLE_WITHIN: Final = "1m"
PROGRESS: Final = ("started", *SagaStatus, "effects_done", "effects_refused")
IDLE_POLL_S = 0.05
IDLE_CALM_POLLS = 6
"""Longer than any fetch; in looks, not seconds, so that a held-up loop is not taken for calm."""


class Service:
    """The roles of one process, and what one can ask of it. Use it with `async with`."""

    def __init__(
        self,
        *,
        parts: Sequence[Resource | Role],
        store: EventStore,
        catalogue: Catalogue,
        commands: Commands,
        waiters: OutcomeWaiters,
        is_running: Callable[[SagaId], bool],
        sagas: SagaRegistry,
        health: Sequence[Health] = (),
        waits: Waits | None = None,
    ) -> None:
        self._store = store
        self._sagas = sagas
        self._waiters = waiters
        self._health = health
        self._waits = waits
        self._outcome_poller = OutcomePoller(
            waiters=waiters,
            catalogue=catalogue,
            store=store,
            is_new=commands.is_new,
            is_running=is_running,
        )
        self._lifecycle = Lifecycle([*parts, self._outcome_poller], on_end=self._note_end)
        self._roles = [part for part in parts if not isinstance(part, Resource)]
        self._failure: Exception | None = None
        self._has_failed = asyncio.Event()
        self.catalogue = catalogue
        self.commands = commands
        self.publisher = commands.publisher

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def open(self) -> None:
        """Start all parts in order; where one cannot, those that are there are closed.

        Raises:
            RuntimeError: it was opened before.
            SagaError: what no waiting mends.
        """
        await self._lifecycle.start()

    async def stop(self) -> None:
        """Drain and close in reverse order of starting, whatever fails on the way.

        Raises:
            Exception: what a part failed with first; all that failed is in the log.
        """
        await self._lifecycle.stop()

    async def wait(self) -> None:
        """Return when a part of it has ended by itself; `stop` then raises why."""
        if not self._roles:
            return
        await self._has_failed.wait()

    @property
    def counts(self) -> Counter[str]:
        return sum((role.counts for role in self._roles), Counter())

    async def problems(self) -> list[str]:
        """Why this process does not do all of its work now; none while it does."""
        asked = await asyncio.gather(*(part.why_not_ready() for part in self._health))
        ended = [] if self._failure is None else [f"a part of it has ended: {self._failure}"]
        return [*ended, *(problem for problems in asked for problem in problems)]

    def status(self) -> dict[str, str]:
        """How far each part of this process is, in the order in which they start.

        `not started`, `starting`, `up`, `stopping`, `stopped`, what has ended it, or what it has
        found.
        """
        return dict(self._lifecycle.states)

    async def publish(self, event: Event, **options: Unpack[PublishOptions]) -> SagaId | None:
        """Publish an event; the id of the one saga that it starts. Durable when it returns.

        Raises:
            MessageError: the event has no business key.
            BusUnavailable: it was not published.
        """
        written = await self.publisher.publish(event, **options)
        self.commands.remember(written)
        return written.saga_id

    async def start(self, event: Event, **options: Unpack[PublishOptions]) -> SagaId:
        """Publish the event that starts one saga; its id. The same event again starts no other.

        Raises:
            ValueError: it starts no saga here, or several; nothing was published.
            MessageError: the event has no business key.
            BusUnavailable: it was not published.
        """
        written = self.publisher.writer.record(event, **options)
        if written.saga_id is None:
            raise ValueError(
                f"{type(event).__name__} does not start exactly one saga of this application: "
                f"name it in one saga's starts_on=, or send it with service.publish(…)"
            )
        await self.publisher.send([written])
        self.commands.remember(written)
        return written.saga_id

    async def outcome(self, saga_id: SagaNamed, *, timeout: float | None = None) -> Outcome:
        """Wait until the saga ends, or cannot go on by itself.

        Raises:
            UnknownSaga: there is no such saga.
            TimeoutError: it did neither within *timeout* seconds.
            CorruptHistory: it has ended, and how cannot be read.
            Exception: what has ended a part of this service.
        """
        saga_id = _id_of(saga_id)
        self._raise_if_failed()
        with self._waiters.waiting(saga_id) as outcome:
            is_new = self.commands.is_new(saga_id)
            self._outcome_poller.waiter_came(saga_id, is_new=is_new)
            try:
                return await asyncio.wait_for(outcome, timeout)
            except TimeoutError:
                raise TimeoutError(f"saga {saga_id} has not ended within {timeout} s") from None

    async def find(self, saga: SagaNamed) -> SagaView | None:
        """What is known of a saga, as the command `show` prints it; None where there is none.

        Raises:
            CorruptHistory: what is stored of it cannot be read.
            StoreUnavailable: the store cannot be reached.
        """
        saga_id = saga_named(str(saga))
        if saga_id is None:
            return None
        summaries = await self.catalogue.summaries([saga_id])
        if summaries.damaged:
            raise CorruptHistory(saga_id, 0, summaries.damaged[0])
        history = (await self._store.load([saga_id])).get(saga_id) if summaries else None
        if isinstance(history, CorruptHistory):
            raise history
        return None if history is None else view_of(summaries[0], history)

    async def signal(
        self,
        saga_id: SagaNamed,
        name: str,
        payload: object = None,
        *,
        id: str | None = None,
        actor: str | None = None,
    ) -> str:
        """Send a signal; the id of the command. The same *id* sent again changes nothing.

        Raises:
            UnknownSaga: there is no such saga.
            ValueError: JSON cannot say *payload*.
        """
        said = to_jsonable_python(payload)
        return await self.command(
            saga_id, CommandAct.SIGNAL, command_id=id, name=name, payload=said, actor=actor
        )

    @overload
    async def update(
        self,
        saga: SagaNamed,
        name: str,
        payload: object = None,
        *,
        answer: type[T],
        id: str | None = None,
        timeout: float | Duration | None = None,
        actor: str | None = None,
    ) -> T: ...
    @overload
    async def update(
        self,
        saga: SagaNamed,
        name: str,
        payload: object = None,
        *,
        answer: Any = None,
        id: str | None = None,
        timeout: float | Duration | None = None,
        actor: str | None = None,
    ) -> Any: ...
    async def update(
        self,
        saga: SagaNamed,
        name: str,
        payload: object = None,
        *,
        answer: Any = None,
        id: str | None = None,
        timeout: float | Duration | None = None,
        actor: str | None = None,
    ) -> Any:
        """Ask a running saga, and wait for its answer: JSON, or validated as *answer*.

        The same *id* gets the same answer, so an update may be sent again after a TimedOut.

        Args:
            payload: what JSON can say, a model too.
            timeout: seconds, or a duration; without one it waits for ever.

        Raises:
            UnknownSaga: there is no such saga.
            UpdateRefused: the saga said no, with its code.
            SagaEnded: it has ended, or did so before it answered.
            TimedOut: it has not answered in time, as one that is parked or paused.
            MessageError: the answer is no *answer*.
            ValueError: JSON cannot say *payload*.
            Exception: what has ended a part of this service.
        """
        self._raise_if_failed()
        saga_id, update_id = _id_of(saga), id or self.commands.new_id()
        said = to_jsonable_python(payload)
        asked = UpdateReceived(update=update_id, name=name, payload=canonical(said))
        search = AnswerSearch(self._store, self.catalogue, saga_id, asked)
        timeout_s = timeout if isinstance(timeout, int | float | None) else _seconds(timeout)
        try:
            async with asyncio.timeout(timeout_s):
                # Who names an id may have asked before, and long ago.
                known = None if id is None else await search.look()
                if known is not None:
                    raise_refusal(saga_id, known)
                    return read_answer(known, answer)
                with self._waiters.answers.waiting(saga_id) as news:
                    act, told = CommandAct.UPDATE, {"name": name, "payload": said, "actor": actor}
                    await self.command(saga_id, act, command_id=update_id, **told)
                    answered = await wait_for_answer(search, news, self._raise_if_failed)
        except TimeoutError:
            raise TimedOut(name, "answer") from None
        raise_refusal(saga_id, answered)
        return read_answer(answered, answer)

    async def cancel(
        self,
        saga_id: SagaNamed,
        *,
        reason: str,
        mode: CancelMode = CancelMode.GRACEFUL,
        id: str | None = None,
        actor: str | None = None,
    ) -> str:
        """Ask a saga to end; the id of the command. The same *id* sent again changes nothing.

        Raises:
            UnknownSaga: there is no such saga.
        """
        return await self.command(
            saga_id, CommandAct.CANCEL, command_id=id, reason=reason, mode=mode, actor=actor
        )

    async def command(
        self, saga_id: SagaNamed, act: CommandAct, *, command_id: str | None = None, **said: Any
    ) -> str:
        """Send any command; its id.

        Raises:
            UnknownSaga: there is no such saga.
            ValueError: it does not say enough, for example no reason for an abandon.
        """
        return await self.commands.send(_id_of(saga_id), act, command_id=command_id, **said)

    async def pause(self, saga_id: SagaNamed, *, reason: str, actor: str | None = None) -> str:
        """Have a saga act on nothing that comes, until `resume`; the id of the command.

        Raises:
            UnknownSaga: there is no such saga.
        """
        return await self.command(saga_id, CommandAct.PAUSE, reason=reason, actor=actor)

    async def resume(self, saga_id: SagaNamed, *, reason: str, actor: str | None = None) -> str:
        """End the pause of a saga: what came meanwhile acts now; the id of the command.

        Raises:
            UnknownSaga: there is no such saga.
        """
        return await self.command(saga_id, CommandAct.RESUME, reason=reason, actor=actor)

    async def pause_definition(
        self, definition: str, *, reason: str, actor: str | None = None
    ) -> str:
        """Pause all sagas of a definition, and those yet to come; the id of the command."""
        said = {"reason": reason, "actor": actor}
        return await self.commands.send_to_all(definition, CommandAct.PAUSE, **said)

    async def resume_definition(
        self, definition: str, *, reason: str, actor: str | None = None
    ) -> str:
        """End the pause of a definition; the id of the command."""
        said = {"reason": reason, "actor": actor}
        return await self.commands.send_to_all(definition, CommandAct.RESUME, **said)

    async def mark(
        self,
        saga_id: SagaNamed,
        step: str,
        state: MarkedAs | str,
        *,
        evidence: str,
        reason: str,
        reply: Event | None = None,
        actor: str | None = None,
    ) -> str:
        """Take a step for `done`, with the *reply* its service owes, or `undone`; the command's id.

        Raises:
            UnknownSaga: there is no such saga.
            MessageError: JSON cannot say *reply*.
        """
        said = {"step": step, "state": MarkedAs(state), "evidence": evidence, "reason": reason}
        entered = _entered(reply)
        return await self.command(saga_id, CommandAct.MARK, actor=actor, reply=entered, **said)

    async def rerun(
        self,
        saga_id: SagaNamed,
        *,
        key: str,
        reason: str,
        trigger: Event | None = None,
        actor: str | None = None,
    ) -> str:
        """Start another saga as an ended one was started, under another *key*; the command's id.

        Raises:
            UnknownSaga: there is no such saga.
            MessageError: JSON cannot say *trigger*.
        """
        said: dict[str, Any] = {"key": key, "reason": reason, "trigger": _entered(trigger)}
        return await self.command(saga_id, CommandAct.RERUN, actor=actor, **said)

    async def fire_timer(self, timer: str, *, reason: str, actor: str | None = None) -> str:
        """Have an armed timer fire now; the id of the command. Raises UnknownSaga."""
        said = {"timer": timer, "reason": reason}
        return await self.command(_saga_of(timer), CommandAct.FIRE_TIMER, actor=actor, **said)

    async def move_timer(
        self, timer: str, to: datetime, *, reason: str, actor: str | None = None
    ) -> str:
        """Have an armed timer fire at another time; the id of the command.

        Raises:
            UnknownSaga: there is no saga of such a timer.
            ValueError: *to* does not say its zone.
        """
        if to.tzinfo is None:
            raise ValueError(f"move_timer: {to} says no zone, as in datetime(…, tzinfo=UTC)")
        due_at = (to - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
        said: dict[str, Any] = {"timer": timer, "due_at": due_at, "reason": reason}
        return await self.command(_saga_of(timer), CommandAct.MOVE_TIMER, actor=actor, **said)

    async def migrate(
        self,
        definition: str,
        *,
        from_version: int,
        to_version: int,
        reason: str,
        steps: Mapping[str, str] = MappingProxyType({}),
        percent: float = ALL,
        actor: str | None = None,
        id: str | None = None,
        dry_run: bool = False,
        timeout: float = WAIT_S,
    ) -> AsyncIterator[SagaMigration]:
        """Have the open sagas of one version go on with another; yields what came of each.

        Each history is replayed first, with the code here; what that would decide otherwise is
        `refused`, with the first difference. Those that no worker has moved within *timeout*
        seconds a page are `unknown`: the command stays in line.

        Args:
            steps: old names of steps, waits, sleeps, scopes, nodes and states that have new ones.
            percent: only this share of the sagas; a larger one has the same, and more.
            id: of the request: the same one again does nothing twice.
            dry_run: send nothing; what would go on is `possible`.

        Raises:
            ValueError: this application does not have that version, or *steps* are no names.
            StoreUnavailable: the store cannot be read.
            BusUnavailable: commands cannot be sent.
        """
        self._raise_if_failed()
        migration = Migration(
            id=id or self.commands.new_id(),
            definition=definition,
            from_version=from_version,
            to_version=to_version,
            reason=reason,
            actor=actor,
            steps=steps,
            percent=percent,
        )
        if (problem := why_not(self._sagas, migration)) is not None:
            raise ValueError(problem)
        send = None if dry_run else self.publisher.commands
        moved = migrate(
            self._store, self.catalogue, self._sagas, migration, send=send, wait_s=timeout
        )
        async for each in moved:
            yield each

    async def receipt(
        self, saga_id: SagaNamed, command_id: str, *, timeout: float = WAIT_S
    ) -> Receipt:
        """What came of a command: applied, refused, or `unknown` if not within *timeout* seconds.

        *saga_id* is a saga, or the name of a definition where the command was for all of its sagas.

        Raises:
            CorruptHistory: the saga's history cannot be read.
            StoreUnavailable: the store cannot be asked.
        """
        self._raise_if_failed()
        named = saga_named(str(saga_id))
        if named is None:
            return await wait_for_definition(
                self._store, str(saga_id), command_id, timeout_s=timeout
            )
        return await wait_for_receipt(
            self._store, self.catalogue, named, command_id, timeout_s=timeout
        )

    async def idle(
        self, *, within: Duration = IDLE_WITHIN, timeout: float | None = None
    ) -> Left | None:
        """Wait until nothing is left to do but what waits for time or people; says what that is.

        Retries and deadlines that are due *within* that time are waited for, where this service
        has an orchestrator; what fails again and again meanwhile is not, for longer than that.

        Raises:
            TimeoutError: there was still work after *timeout* seconds.
            Exception: what has ended a part of this service.
        """
        self._raise_if_failed()
        within_us = duration_us(within)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeout):
            await self._calm()
            progress, since_s = self._progress(), loop.time()
            while self._waits is not None:
                with contextlib.suppress(StoreUnavailable):  # the orchestrator waits for it, too
                    is_stuck = (loop.time() - since_s) * SECOND_US > within_us
                    if is_stuck or not await self._waits.are_due(within_us=within_us):
                        return await self._waits.left()
                await self._calm()
                if (now := self._progress()) != progress:
                    progress, since_s = now, loop.time()
        return None

    async def _calm(self) -> None:
        """Wait until no role has anything in hand."""
        counts, calm = self.counts, 0
        while calm < IDLE_CALM_POLLS:
            await asyncio.sleep(IDLE_POLL_S)
            self._raise_if_failed()
            before, counts = counts, self.counts
            calm = calm + 1 if counts == before and self._are_idle else 0

    @property
    def _are_idle(self) -> bool:
        return all(role.is_idle for role in self._roles)

    def _progress(self) -> Counter[str]:
        """The counts that a step which only fails does not change."""
        return Counter({name: self.counts[name] for name in PROGRESS})

    def _note_end(self, error: Exception) -> None:
        """A part has ended: nothing would come of it for those who wait."""
        self._failure = self._failure or error
        self._has_failed.set()
        self._waiters.fail(list(self._waiters.awaited), self._failure)
        self._waiters.answers.wake()

    def _raise_if_failed(self) -> None:
        if self._failure is not None:
            raise self._failure


def _entered(event: Event | None) -> Entered | None:
    if event is None:
        return None
    message = message_of(event)
    return Entered(contract=message.contract, payload=from_json(message.payload))


def _saga_of(timer: str) -> str:
    """A timer's id begins with its saga's."""
    return timer.partition("/")[0]


def _seconds(duration: Duration) -> float:
    return duration_us(duration) / SECOND_US


def _id_of(saga: SagaNamed) -> SagaId:
    """The id of the saga that *saga* means: its id, or `definition/key`; raises UnknownSaga."""
    named = saga_named(str(saga))
    if named is None:
        raise UnknownSaga(str(saga))
    return named
