"""Worker processes side by side: who does what, who takes too long, who has died.

A process that dies ends nothing. The histories that it held are tried again one by one, and the one
with which a process dies again is the finding. Where the history was through, it is its snapshot's.
"""

from __future__ import annotations

import asyncio
import signal
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import connection, get_context, resource_tracker
from multiprocessing.context import SpawnProcess
from time import monotonic
from typing import Any, Final

from saga.audit.differences import Finding, Kind
from saga.audit.snapshots import wrong
from saga.console.cli.gate import worker
from saga.console.cli.gate.choosing import Chunk
from saga.console.cli.gate.verdicts import Verdict, verdict_of
from saga.console.cli.output import NotSo
from saga.core.values import value
from saga.errors import StoreUnavailable
from saga.ports import SagaSummary
from saga.settings import Settings

LOOK_S: Final = 0.5
"""So often it is looked whether a history takes too long."""
TELL_S: Final = 2.0
"""So long a worker that takes too long may take to say where it stands."""
END_S: Final = 5.0
STARTS_FAILED_MAX: Final = 3
NAMED_MAX: Final = 5
_KILLED: Final = 9
_SPAWN: Final = get_context("spawn")
Note = Callable[[str], None]


@value
class _Job:
    """A part of a chunk, for one process; alone: it was held by one that died."""

    chunk: Chunk
    sagas: list[SagaSummary]
    is_alone: bool = False


class _Worker:
    def __init__(self, settings: Settings) -> None:
        self.pipe, theirs = _SPAWN.Pipe()
        self.process: SpawnProcess = _SPAWN.Process(
            target=worker.work, args=(theirs, settings), daemon=True
        )
        with _uninterrupted():
            self.process.start()
        theirs.close()
        self.is_ready = False
        self.job: _Job | None = None
        self.left: deque[SagaSummary] = deque()
        self.began_at: float | None = None
        """When it began the first of what is *left*, or its snapshot; None: it has not."""
        self.replayed: Verdict | None = None
        """On the history of the first of what is *left*, while its snapshot is compared."""
        self.asked_at: float | None = None
        """When it was asked where it stands, as it takes too long."""

    @property
    def is_idle(self) -> bool:
        return self.is_ready and self.job is None

    def give(self, job: _Job) -> None:
        self.job, self.left = job, deque(job.sagas)
        self.began_at = self.asked_at = self.replayed = None
        self.pipe.send(job.sagas)

    def take(self, verdict: Verdict) -> Chunk:
        assert self.job is not None, verdict
        chunk = self.job.chunk
        chunk.verdicts.append(verdict)
        self.left.popleft()
        self.began_at = self.asked_at = self.replayed = None
        if not self.left:
            self.job = None
        return chunk

    def said(self) -> Iterator[worker.Said]:
        """What it has said and nobody has heard; EOFError at its end."""
        while self.pipe.poll():
            yield self.pipe.recv()

    def kill(self) -> None:
        self.process.kill()
        self.process.join(END_S)
        self.pipe.close()

    def how_it_ended(self) -> str:
        self.process.join(END_S)  # it says goodbye before it is gone
        code = self.process.exitcode
        if code == worker.NO_MEMORY:
            return "ran out of memory"
        if code is not None and code < 0:
            hint = ", as it is where memory runs out" if -code == _KILLED else ""
            return f"was killed by signal {-code}{hint}"
        return f"ended with exit code {code}"


class Pool:
    """At most *jobs* processes; a history may take *timeout_s*."""

    def __init__(self, settings: Settings, *, jobs: int, timeout_s: float, note: Note) -> None:
        self._settings = settings
        self._jobs = jobs
        self._timeout_s = timeout_s
        self._note = note
        self._workers: list[_Worker] = []
        self._waiting: deque[_Job] = deque()
        self._starts_failed = 0

    async def check(self, chunks: AsyncIterator[Chunk]) -> AsyncGenerator[tuple[Chunk, Verdict]]:
        """Each verdict as soon as it is there, with the chunk that it belongs to.

        Raises:
            StoreUnavailable: the store cannot be read any more.
        """
        is_through = False
        try:
            while True:
                while not is_through and len(self._waiting) < self._jobs:
                    chunk = await anext(chunks, None)
                    if chunk is None:
                        is_through = True
                    elif chunk.sagas:
                        self._waiting.append(_Job(chunk, list(chunk.sagas)))
                self._hand_out()
                if not self._waiting and all(each.job is None for each in self._workers):
                    break
                for each in await self._heard():
                    for found in self._hear(each):
                        yield found
                for found in self._look_at_time():
                    yield found
            await asyncio.to_thread(self._stop)
        finally:
            for each in self._workers:
                each.kill()
            self._workers.clear()

    def _hand_out(self) -> None:
        idle = [each for each in self._workers if each.is_idle]
        for each, _ in zip(idle, list(self._waiting), strict=False):
            self._give(each, self._waiting.popleft())
        starting = sum(not each.is_ready for each in self._workers)
        if len(self._waiting) > starting and len(self._workers) < self._jobs:
            self._workers.append(_Worker(self._settings))

    def _give(self, to: _Worker, job: _Job) -> None:
        with suppress(OSError):  # it has died: that is heard next
            to.give(job)

    async def _heard(self) -> list[_Worker]:
        """The workers that have said something, or have died."""
        waits: dict[Any, _Worker] = {}  # connections and handles of processes
        for each in self._workers:
            waits[each.pipe] = waits[each.process.sentinel] = each
        found: list[Any] = await asyncio.to_thread(connection.wait, list(waits), LOOK_S)
        return list(dict.fromkeys(waits[each] for each in found))

    def _hear(self, speaker: _Worker) -> Iterator[tuple[Chunk, Verdict]]:
        is_alive = speaker.process.is_alive()  # before all that it has said is heard
        try:
            for said in speaker.said():
                yield from self._take(speaker, said)
                if speaker not in self._workers:
                    return
        except (EOFError, OSError):
            is_alive = False
        if not is_alive:
            yield from self._bury(speaker)

    def _take(self, speaker: _Worker, said: worker.Said) -> Iterator[tuple[Chunk, Verdict]]:
        match said:
            case worker.Ready():
                speaker.is_ready = True
                self._starts_failed = 0
            case worker.Began():
                speaker.began_at = monotonic()
            case worker.ReplayedOnly(verdict=replayed):
                speaker.began_at, speaker.asked_at = monotonic(), None
                speaker.replayed = replayed
            case Verdict():
                yield speaker.take(said), said
            case worker.Stands(where=where):
                if speaker.asked_at is not None:
                    yield self._give_up(speaker, where)
            case worker.Broke(problem=problem, is_unreachable=is_unreachable):
                raise StoreUnavailable(problem) if is_unreachable else NotSo(problem)

    def _look_at_time(self) -> Iterator[tuple[Chunk, Verdict]]:
        now = monotonic()
        for each in list(self._workers):
            if each.asked_at is not None:
                if now - each.asked_at > TELL_S:
                    yield self._give_up(each, None)
            elif each.began_at is not None and now - each.began_at > self._timeout_s:
                each.asked_at = now
                with suppress(OSError):
                    each.pipe.send(worker.TellPlace())

    def _give_up(self, slow: _Worker, where: str | None) -> tuple[Chunk, Verdict]:
        """End a process whose history takes too long; what else it held is for others."""
        assert slow.job is not None, slow.left
        self._lose(slow)
        why = f"nothing within {self._timeout_s:g} seconds: the process was ended"
        verdict = _blamed(slow, Kind.TOOK_TOO_LONG, why, where)
        chunk = slow.take(verdict)
        if slow.left:
            self._waiting.appendleft(_Job(chunk, list(slow.left)))
        return chunk, verdict

    def _bury(self, dead: _Worker) -> Iterator[tuple[Chunk, Verdict]]:
        """Have what a dead process held tried again one by one, or blame it."""
        ended, job, held = dead.how_it_ended(), dead.job, list(dead.left)
        self._lose(dead)
        if not dead.is_ready:
            self._starts_failed += 1
            if self._starts_failed == STARTS_FAILED_MAX:
                raise NotSo(f"the process that was to replay histories {ended}, before it began")
        if job is None or not held:
            return
        if job.is_alone:
            about = "replayed" if dead.replayed is None else "compared"
            why = f"nothing: the process that {about} it {ended}"
            verdict = _blamed(dead, Kind.PROCESS_DIED, why, None)
            yield dead.take(verdict), verdict
            return
        named = ", ".join(f"{each.definition}/{each.key}" for each in held[:NAMED_MAX])
        more = f" and {len(held) - NAMED_MAX} more" if len(held) > NAMED_MAX else ""
        self._note(f"a process {ended}; what it held is tried again one by one: {named}{more}")
        self._waiting.extendleft(_Job(job.chunk, [each], is_alone=True) for each in held[::-1])

    def _lose(self, lost: _Worker) -> None:
        self._workers.remove(lost)
        lost.kill()

    def _stop(self) -> None:
        """Let the processes end by themselves."""
        for each in self._workers:
            with suppress(OSError):
                each.pipe.send(worker.Stop())
        until = monotonic() + END_S
        for each in self._workers:
            if each.is_ready:
                each.process.join(max(0.0, until - monotonic()))


def _blamed(lost: _Worker, kind: Kind, decided: str, where: str | None) -> Verdict:
    """On the saga that a worker was about when it was lost: its history, or its snapshot alone."""
    if lost.replayed is not None:
        return lost.replayed.with_snapshot(wrong(f"{kind}: it gave {decided}", where))
    recorded = "a whole history"
    found = Finding(kind=kind, version=0, recorded=recorded, decided=decided, where=where)
    return verdict_of(lost.left[0], found)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Have a process begun that never hears Ctrl-C, not even while it imports: we end it."""
    block = getattr(signal, "pthread_sigmask", None)
    if block is None:  # not on Windows
        yield
        return
    resource_tracker.ensure_running()  # its start would let the signal through
    block(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        block(signal.SIG_UNBLOCK, {signal.SIGINT})
