"""Who writes in the transactions of one file: jobs, and handlers that write by themselves.

Jobs that wait share the next commit. If one fails, all are run again, each in a savepoint, so that
it takes nobody with it. A result may be delivered before it is durable, to somebody whose next job
belongs into the same commit. A handler has the connection to itself until it ends, in a savepoint;
what it has written cannot be run again.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

from saga.adapters.sqlite.commits import WritingConnection
from saga.adapters.sqlite.connection import BUSY_TIMEOUT_S, is_of_the_disk, unavailable
from saga.errors import StoreUnavailable

JOBS_PER_COMMIT_MAX: Final = 256
LINGER_S: Final = 0.002
"""How long a commit waits for the job that an early delivery leads to."""
HANDLERS_PER_COMMIT_MAX: Final = 256
HANDLERS_S_MAX: Final = 0.010
"""So long after the first one nobody in line is let in before a commit."""


class EarlyReaders(NamedTuple):
    """Who may have the result of a job before it is durable."""

    deliver: Callable[[Any], bool]
    """Returns whether a job that relies on the result will follow at once."""
    retract: Callable[[Any], None]
    """Is called if the result does not become durable, or not as it was delivered."""


@dataclass(slots=True, eq=False)
class Job:
    """What is to be written, and who is told.

    Args:
        work: writes through the cursor; may run more than once.
        end: called on the event loop with the result, or with the error, once it is decided; it
            raises nothing.
        is_stored: asked when COMMIT was answered with an error.
        on_commit: called with the result on the event loop, in commit order, before *end*.
        is_last: the commit waits for nothing more, and nothing of it is delivered early.
        is_of_handlers: it belongs to what handlers have written, and waits for them without limit.
    """

    work: Callable[[sqlite3.Cursor], Any]
    end: Callable[[Any, BaseException | None], None]
    is_stored: Callable[[sqlite3.Cursor], bool] | None = None
    on_commit: Callable[[Any], None] | None = None
    early_readers: EarlyReaders | None = None
    is_last: bool = False
    is_of_handlers: bool = False
    is_delivered_early: bool = False
    result: Any = None
    error: BaseException | None = None


class Writer:
    def __init__(self, writing: WritingConnection) -> None:
        self.writing: Final = writing
        self.holder: object = None
        """The handler that has the connection."""
        self._waiting: deque[Job] = deque()
        self._line: deque[tuple[object, asyncio.Future[None]]] = deque()
        self._written: list[Job] = []
        self._handlers = 0
        self._handlers_until_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        """Ends lingering, or the patience of those who wait for a handler."""
        self._is_due = False
        self._is_busy = False
        self._idle: asyncio.Future[None] | None = None
        self._is_abandoned = False

    def submit(self, job: Job) -> None:
        self._waiting.append(job)
        if not self._is_busy:
            self._go_on_soon()
        if self._handlers and not job.is_of_handlers:
            self._limit_patience()

    async def drained(self) -> None:
        """Return when everything accepted is done."""
        if self._is_busy or self._is_due or self._written or self._waiting or self._line:
            self._idle = asyncio.get_running_loop().create_future()
            await self._idle

    def abandon(self) -> None:
        """Tell nobody anything any more."""
        self._is_abandoned = self._is_busy = True
        self.holder = None
        self._waiting.clear()
        self._line.clear()

    # What handlers ask of it.

    def try_enter(self, handler: object) -> bool:
        """Give *handler* the connection, in a savepoint, if that is possible at once."""
        writing = self.writing
        if self._is_busy or self._line or self._written:
            return False
        if self._handlers >= HANDLERS_PER_COMMIT_MAX:
            return False
        try:
            if not writing.in_transaction and not writing.begin():
                return False
            self._let_in(handler)
        except (sqlite3.Error, StoreUnavailable):
            return False  # `enter` asks again, and says what is the matter
        return True

    async def enter(self, handler: object) -> None:
        """Wait in line for the same; raises StoreUnavailable if no transaction can be begun."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append((handler, turn))
        if not self._is_busy:
            self._go_on_soon()
        try:
            await turn
        except asyncio.CancelledError:
            self.leave(handler, keep=False)  # it may have been let in at this very moment
            raise

    def leave(self, handler: object, *, keep: bool) -> bool:
        """Take the connection back; False where *handler* has lost it, or its transaction."""
        if self.holder is not handler:
            return False
        writing = self.writing
        self.holder = None
        self._is_busy = False
        try:
            if not keep and writing.in_transaction:
                writing.roll_back_to("handler")
            # Fails where the handler has ended the transaction, even if it has begun another.
            writing.connection.execute("RELEASE handler")
            is_whole = True
        except sqlite3.Error:
            with suppress(sqlite3.Error):  # whoever comes next finds out what is the matter
                writing.roll_back()
            self._handlers = 0
            is_whole = False
        self._go_on_soon()
        return is_whole

    @property
    def has_handlers(self) -> bool:
        """Whether handlers have written, or are about to, what is not committed yet."""
        return self._handlers > 0

    def try_hold(self, holder: object) -> bool:
        """Let *holder* have the file as it is, which nobody writes until `release`, if it is free.

        What is read meanwhile through the writing connection is what all processes have committed.
        """
        if self._handlers and not (self._is_busy or self._line):
            self._write(self._next_jobs())  # what those before have written comes first
        if self._is_busy or self._waiting or self._line or self.writing.in_transaction:
            return False
        try:
            if not self.writing.begin():
                return False
        except (sqlite3.Error, StoreUnavailable):
            return False  # whoever writes next is told
        self.holder, self._is_busy = holder, True
        return True

    def release(self, holder: object) -> None:
        """The end of what `try_hold` began."""
        if self.holder is holder:
            self.holder = None
            with suppress(sqlite3.Error):  # whoever comes next finds out what is the matter
                self.writing.roll_back()
            self._end([])

    def dismiss(self, error: StoreUnavailable) -> None:
        """Take the connection from the handler that has it, and send away those in line."""
        while self._line:
            settle(self._line.popleft()[1], None, error)
        if self.holder is not None:
            self.leave(self.holder, keep=False)

    # One transaction after another.

    def _go_on_soon(self) -> None:
        # Called once the loop has run what is ready now, which may have more for the same commit.
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        """Nobody has the connection: let in who is in line, or write what waits."""
        self._is_due = False
        if self._is_busy:
            if self._is_full:
                self._handlers = HANDLERS_PER_COMMIT_MAX  # nobody is let in after this one
            return
        if self._handlers or self._written:
            self._proceed()
        elif self._waiting or self._line:
            self._is_busy = True
            try:
                is_begun = self.writing.begin()
            except (sqlite3.DatabaseError, StoreUnavailable) as error:
                self._begun(error)
                return
            if is_begun:
                self._is_busy = False
                self._proceed()
            else:  # another process is writing
                self.writing.begin_when_free(self._begun)
        else:
            self._end([])

    def _begun(self, error: BaseException | None) -> None:
        self._is_busy = self._is_abandoned
        if error is not None:
            self._give_up(self._next_jobs(), error)
        elif not self._is_abandoned:
            self._proceed()

    def _proceed(self) -> None:
        while self._line and not (self._written or self._is_full):
            handler, turn = self._line.popleft()
            if not turn.done():
                try:
                    self._let_in(handler)
                except sqlite3.Error as error:
                    settle(turn, None, unavailable(self.writing.path, error))
                    self._give_up(self._next_jobs(), error)
                    return
                turn.set_result(None)
                return
        self._write(self._next_jobs())

    @property
    def _is_full(self) -> bool:
        """Whether those in line wait until what was written so far is committed."""
        return self._handlers > 0 and (
            self._handlers >= HANDLERS_PER_COMMIT_MAX
            or asyncio.get_running_loop().time() > self._handlers_until_s
        )

    def _let_in(self, handler: object) -> None:
        self.writing.connection.execute("SAVEPOINT handler")
        if not self._handlers:
            self._handlers_until_s = asyncio.get_running_loop().time() + HANDLERS_S_MAX
            if any(not job.is_of_handlers for job in self._waiting):
                self._limit_patience()
        self._handlers += 1
        self._is_busy = True
        self.holder = handler

    def _limit_patience(self) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(BUSY_TIMEOUT_S, self._lose_patience)

    def _lose_patience(self) -> None:
        self._timer = None
        if self.holder is None:
            return
        error = StoreUnavailable(
            f"{self.writing.path}: a handler that uses ctx.db keeps it locked: have it wait for "
            "nothing between its statements, or give services a file of their own"
        )
        waiting, self._waiting = self._waiting, deque()
        for job in waiting:
            if job.is_of_handlers:
                self._waiting.append(job)
            else:
                job.end(None, error)

    def _next_jobs(self) -> list[Job]:
        waiting = self._waiting
        # All that waits goes along with what handlers have written: their own jobs are among it.
        if len(waiting) <= JOBS_PER_COMMIT_MAX or self._handlers:
            jobs = list(waiting)
            waiting.clear()
            return jobs
        return [waiting.popleft() for _ in range(JOBS_PER_COMMIT_MAX)]

    def _write(self, jobs: list[Job], *, may_linger: bool = True) -> None:
        transaction = self._written + jobs if self._written else jobs
        try:
            is_in_one_go = self._run(jobs)
            if not is_in_one_go and all(job.error is not None for job in transaction):
                self.writing.roll_back()
                self._end(transaction)
                return
            if self._handlers:
                self.writing.check()  # it may be long since it was begun
        except (sqlite3.DatabaseError, StoreUnavailable) as error:
            self._give_up(transaction, error)
            return
        if may_linger and is_in_one_go and self._is_awaited(jobs):
            self._written = transaction
            return
        self._written = []
        self._is_busy = True
        self.writing.commit(partial(self._committed, transaction))

    def _run(self, jobs: list[Job]) -> bool:
        """Run *jobs*; False where each was run for itself."""
        cursor = self.writing.connection.cursor()
        if not self._handlers:
            try:
                for job in jobs:
                    job.result = job.work(cursor)
            except Exception as error:  # noqa: BLE001 - handed to whoever submitted the job
                if len(jobs) == 1 and not self._written:
                    jobs[0].error = self._translate(error)
                    return False
                self.writing.roll_back()
                _retract(self._written)
                self.writing.begin(wait_s=BUSY_TIMEOUT_S)
                jobs = self._written + jobs
            else:
                return True
        for job in jobs:
            cursor.execute("SAVEPOINT job")
            try:
                job.result = job.work(cursor)
            except Exception as error:
                if not cursor.connection.in_transaction:  # SQLite gave up all of it (disk full)
                    raise
                job.error = self._translate(error)
                self.writing.roll_back_to("job")
            cursor.execute("RELEASE job")
        return False

    def _is_awaited(self, jobs: list[Job]) -> bool:
        """Deliver early what *jobs* have written; whether a job that relies on it is to come."""
        for job in jobs:
            if job.is_last:
                return False
        is_awaited = self._timer is not None
        for job in jobs:
            if job.early_readers is not None:
                job.is_delivered_early = True
                is_awaited |= job.early_readers.deliver(job.result)
        if is_awaited and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LINGER_S, self._stop_lingering)
        return is_awaited

    def _stop_lingering(self) -> None:
        """Commit, with what came while the loop was busy."""
        if self._written:
            self._write(self._next_jobs(), may_linger=False)

    def _committed(self, transaction: list[Job], error: BaseException | None) -> None:
        if error is None:
            self._end(transaction)
            return
        proofs = [job.is_stored for job in transaction if job.is_stored and job.error is None]
        if proofs and isinstance(error, sqlite3.DatabaseError):
            # It calls back with None or StoreUnavailable, so this happens once.
            self.writing.find_out(proofs[0], error, partial(self._committed, transaction))
        else:
            self._give_up(transaction, error)

    def _give_up(self, jobs: list[Job], error: BaseException) -> None:
        """Nothing of the transaction is stored, and nobody in line can have one."""
        with suppress(sqlite3.Error):  # whoever waits is told all the same
            if isinstance(error, sqlite3.DatabaseError):
                error = unavailable(self.writing.path, error)
                self.writing.discard()
            else:
                self.writing.roll_back()
        for job in jobs:
            job.error = job.error or error
        while self._line:
            settle(self._line.popleft()[1], None, error)
        self._end(jobs)

    def _end(self, jobs: list[Job]) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._is_abandoned:
            return
        self._written, self._handlers, self._is_busy = [], 0, False
        for job in jobs:
            if job.error is not None:
                _retract([job])
            elif job.on_commit is not None:
                try:
                    job.on_commit(job.result)
                except Exception as error:  # noqa: BLE001 - handed to whoever submitted the job
                    job.error = error
        # What was committed is on its way before anybody looks back at it.
        for job in jobs:
            job.end(job.result, job.error)
        if self._waiting or self._line:
            self._go_on_soon()
        elif self._idle is not None:
            settle(self._idle, None, None)

    def _translate(self, error: Exception) -> Exception:
        return unavailable(self.writing.path, error) if is_of_the_disk(error) else error


def settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    """End *future* with the result or the error, unless whoever waited for it has given up."""
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


def _retract(jobs: list[Job]) -> None:
    for job in jobs:
        if job.is_delivered_early and job.early_readers is not None:
            job.is_delivered_early = False
            job.early_readers.retract(job.result)
