"""One run of a demo: publish what is missing, follow the log, kill workers as often as asked."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from saga.adapters.clocks import SystemClock
from saga.console.demo_progress import progress
from saga.console.demo_tally import Tally
from saga.console.demo_worker import Worker, Workers
from saga.console.printer import Printer
from saga.console.problems import ExitCode, NotSo
from saga.contracts import Event
from saga.core.identity import SagaId
from saga.errors import StoreUnavailable
from saga.runtime.publisher import Prepared, Publisher
from saga.service import Service

PUBLISH_EVENTS: Final = 500
POLL_S: Final = 0.05
STALL_S: Final = 60.0


@dataclass(slots=True)
class Trigger:
    """An event of the demo, ready to be published, and the saga it starts."""

    prepared: Prepared
    saga_id: SagaId


def triggers(publisher: Publisher, events: Iterable[tuple[str, Event]]) -> list[Trigger]:
    """The demo's events as records with their own message ids: published twice they start nothing
    new.

    Raises:
        NotSo: an event starts no saga.
        MessageError: an event cannot be published.
    """
    made: list[Trigger] = []
    for message_id, event in events:
        prepared = publisher.prepare(event, message_id=message_id)
        if prepared.saga_id is None:
            raise NotSo(f"{type(event).__name__} {message_id} starts no saga of this application")
        made.append(Trigger(prepared, prepared.saga_id))
    return made


class DemoRun:
    """From here until every saga of *wanted* has ended or somebody stops it."""

    def __init__(
        self,
        service: Service,
        workers: Workers,
        tally: Tally,
        wanted: list[Trigger],
        *,
        kills: int,
        printer: Printer,
    ) -> None:
        self._service = service
        self._workers = workers
        self._tally = tally
        self._wanted = wanted
        self._expected = frozenset(one.saga_id for one in wanted)
        self._kills = kills
        self._printer = printer
        self._clock = SystemClock()
        self._stopping = asyncio.Event()

    @property
    def settled(self) -> int:
        """How many of the demo's sagas have ended, or wait for someone."""
        return len(self._expected & self._tally.settled)

    @property
    def is_complete(self) -> bool:
        """Whether that is all of them."""
        return self.settled == len(self._expected)

    async def go(self) -> bool:
        """Publish and follow; False when somebody stopped it before all was done.

        Raises:
            StoreUnavailable, NotSo: a worker has ended by itself, or nothing moves any more.
        """
        self._listen()
        known = self._tally.begun
        missing = [one.prepared for one in self._wanted if one.saga_id not in known]
        parts = _parts(missing, self._kills + 1)
        moments = self._moments([len(part) for part in parts])
        await self._workers.start()
        await self._publish(parts.pop(0))
        await self._follow(parts, moments)
        return self.is_complete

    async def serve(self) -> None:
        """Leave the workers to themselves until somebody stops them."""
        await self._workers.start()
        await self._stopping.wait()

    def _listen(self) -> None:
        def told() -> None:
            if self._stopping.is_set():
                self._workers.end_now()
            else:
                self._printer.note("Finishing what is in hand ...")
                self._stopping.set()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError):  # not on Windows
                loop.add_signal_handler(number, told)

    async def _publish(self, events: Sequence[Prepared]) -> None:
        for first in range(0, len(events), PUBLISH_EVENTS):
            await self._service.publisher.send(events[first : first + PUBLISH_EVENTS])

    async def _follow(self, parts: list[list[Prepared]], moments: list[float]) -> None:
        tally, catalogue = self._tally, self._service.catalogue
        moved_at = self._clock.monotonic_s()
        with progress(self._printer, len(self._expected), self.settled) as tell:
            while not self._stopping.is_set():
                if await tally.follow(catalogue):
                    moved_at = self._clock.monotonic_s()
                tell(self.settled, self._workers.kills)
                if moments and self._done() >= moments[0]:
                    moments.pop(0)
                    await self._workers.kill()
                    await self._publish(parts.pop(0))
                elif self.is_complete:
                    return
                ended = self._workers.ended
                if ended is not None:
                    raise _ended(ended)
                if self._clock.monotonic_s() - moved_at > STALL_S:
                    raise self._stalled()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await self._stopping.wait()

    def _done(self) -> int:
        """Sagas begun and sagas ended: grows evenly, also while a burst only begins them."""
        return len(self._expected & self._tally.begun.keys()) + self.settled

    def _moments(self, parts: list[int]) -> list[float]:
        """How much is done when a worker is killed: each time in the middle of a part of the
        events.

        The next part is published only then, so that there is always something to be killed at.
        """
        done = self._done()
        under_way = 2 * (len(self._expected) - sum(parts)) - done
        return [
            done
            + under_way * number / (self._kills + 1)
            + 2 * sum(parts[:number])
            - parts[number - 1]
            for number in range(1, self._kills + 1)
        ]

    def _stalled(self) -> NotSo:
        left = len(self._expected) - self.settled
        return NotSo(
            f"nothing has moved for {STALL_S:g} s, and {left:,} sagas have not ended; the workers"
            f" say:\n{self._workers.last_words()}"
        )


def _ended(worker: Worker) -> Exception:
    said = f"the {worker.name} has ended with {worker.returncode}:\n{worker.last_words()}"
    return StoreUnavailable(said) if worker.returncode == ExitCode.UNREACHABLE else NotSo(said)


def _parts(events: list[Prepared], count: int) -> list[list[Prepared]]:
    """*events* in *count* parts of nearly one size, some of which may be empty."""
    bounds = [len(events) * number // count for number in range(count + 1)]
    return [events[first:last] for first, last in pairwise(bounds)]
