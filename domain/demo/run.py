"""One run of a demo: publish missing orders, follow the log, kill workers as often as asked."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Final

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from domain.demo.tally import Tally
from domain.demo.workers import Worker, Workers
from saga.adapters.clocks import SystemClock
from saga.console.cli.output import ExitCode, NotSo, Printer
from saga.console.cli.serving import on_signals
from saga.contracts import Event
from saga.errors import StoreUnavailable
from saga.publishing.writer import WrittenEvent
from saga.runtime.publisher import Publisher
from saga.service import Service

PUBLISH_EVENTS: Final = 500
POLL_S: Final = 0.05
STALL_S: Final = 60.0
PROGRESS_LINES: Final = 10
"""How many lines show the progress where there is no terminal for a bar."""

ShowProgress = Callable[[int, int], None]
"""Takes how many sagas have ended and how often a worker was killed."""


def triggers(publisher: Publisher, events: Iterable[tuple[str, Event]]) -> list[WrittenEvent]:
    """The events as records with ids of their own: published twice they start nothing new.

    Raises:
        NotSo: an event starts no saga.
        MessageError: an event cannot be published.
    """
    made: list[WrittenEvent] = []
    for message_id, event in events:
        made.append(publisher.writer.record(event, message_id=message_id))
        if made[-1].saga_id is None:
            raise NotSo(f"{type(event).__name__} {message_id} starts no saga of this application")
    return made


class DemoRun:
    """Runs until every saga of *wanted* has ended, or somebody stops it."""

    def __init__(
        self,
        service: Service,
        workers: Workers,
        tally: Tally,
        wanted: list[WrittenEvent],
        *,
        kills: int,
        printer: Printer,
    ) -> None:
        self._service = service
        self._workers = workers
        self._tally = tally
        self._wanted = wanted
        self._expected = frozenset(event.saga_id for event in wanted)
        self._kills = kills
        self._printer = printer
        self._clock = SystemClock()
        self._stopping = asyncio.Event()

    @property
    def settled(self) -> int:
        """How many of the demo's sagas have ended or are parked."""
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
        missing = [event for event in self._wanted if event.saga_id not in self._tally.begun]
        batches = _split(missing, self._kills + 1)
        kill_at = self._kill_points([len(batch) for batch in batches])
        await self._workers.start()
        await self._publish(batches.pop(0))
        await self._follow(batches, kill_at)
        return self.is_complete

    async def serve(self) -> None:
        """Let the workers serve until somebody stops them."""
        await self._workers.start()
        await self._stopping.wait()

    def _listen(self) -> None:
        def stop(_: int) -> None:
            if self._stopping.is_set():
                self._workers.end_now()
            else:
                self._printer.note("Finishing what is in hand ...")
                self._stopping.set()

        on_signals(stop)

    async def _publish(self, events: Sequence[WrittenEvent]) -> None:
        for first in range(0, len(events), PUBLISH_EVENTS):
            await self._service.publisher.send(events[first : first + PUBLISH_EVENTS])

    async def _follow(self, batches: list[list[WrittenEvent]], kill_at: list[float]) -> None:
        tally, catalogue = self._tally, self._service.catalogue
        moved_at = self._clock.monotonic_s()
        with _progress(self._printer, len(self._expected), self.settled) as show:
            while not self._stopping.is_set():
                if await tally.follow(catalogue):
                    moved_at = self._clock.monotonic_s()
                show(self.settled, self._workers.kills)
                if kill_at and self._done() >= kill_at[0]:
                    kill_at.pop(0)
                    await self._workers.kill()
                    await self._publish(batches.pop(0))
                elif self.is_complete:
                    return
                ended = self._workers.ended
                if ended is not None:
                    self._printer.note(*ended.log_tail())
                    raise _ended(ended)
                if self._clock.monotonic_s() - moved_at > STALL_S:
                    raise self._stalled()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await self._stopping.wait()

    def _done(self) -> int:
        """Sagas begun plus sagas ended: grows evenly, also while a burst only begins them."""
        return len(self._expected & self._tally.begun.keys()) + self.settled

    def _kill_points(self, batches: list[int]) -> list[float]:
        """How much is done when a worker is killed: each time in the middle of a batch of orders.

        The next batch is published only then, so that there is always something to be killed at.
        """
        done = self._done()
        under_way = 2 * (len(self._expected) - sum(batches)) - done
        return [
            done
            + under_way * number / (self._kills + 1)
            + 2 * sum(batches[:number])
            - batches[number - 1]
            for number in range(1, self._kills + 1)
        ]

    def _stalled(self) -> NotSo:
        left = len(self._expected) - self.settled
        return NotSo(
            f"nothing has moved for {STALL_S:g} s, and {left:,} sagas have not ended",
            *self._workers.log_tails(),
        )


@contextmanager
def _progress(printer: Printer, total: int, done: int) -> Iterator[ShowProgress]:
    """A bar on a terminal, some lines elsewhere; always on standard error."""
    clock = SystemClock()
    began_s = clock.monotonic_s()

    def text(ended: int, kills: int) -> str:
        per_s = (ended - done) / max(clock.monotonic_s() - began_s, 0.001)
        return f"{per_s:,.0f}/s" + (f", killed {kills} times" if kills else "")

    if not printer.err.is_terminal:
        yield _progress_lines(printer, total, done, text)
        return
    columns = (
        TextColumn("sagas ended"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=printer.err) as bar:
        task = bar.add_task("", total=total, completed=done, text="")
        yield lambda ended, kills: bar.update(task, completed=ended, text=text(ended, kills))


def _progress_lines(
    printer: Printer, total: int, done: int, text: Callable[[int, int], str]
) -> ShowProgress:
    step = max(1, total // PROGRESS_LINES)
    next_at = done + step

    def show(ended: int, kills: int) -> None:
        nonlocal next_at
        if ended >= next_at or (ended == total and next_at <= total):
            next_at = ended - ended % step + step
            printer.note(f"{ended:,} of {total:,} sagas ended, {text(ended, kills)}")

    return show


def _ended(worker: Worker) -> Exception:
    text = f"the {worker.name} has ended with {worker.returncode}"
    return StoreUnavailable(text) if worker.returncode == ExitCode.UNREACHABLE else NotSo(text)


def _split(events: list[WrittenEvent], count: int) -> list[list[WrittenEvent]]:
    """*events* in *count* batches of nearly one size, some of which may be empty."""
    bounds = [len(events) * number // count for number in range(count + 1)]
    return [events[first:last] for first, last in pairwise(bounds)]
