"""The effects store: what a service has done, its inbox of answers, and its own tables beside it.

What a handler writes and the inbox row that says so commit together or not at all. A store may put
many units into one transaction; none is told to be kept before that is durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol, TypeVar

from saga.core.events import Json, ReplyOutcome
from saga.core.identity import Instant
from saga.ports.bus import Record

SqlValue = None | int | float | str | bytes
K = TypeVar("K")
SqlRow = dict[str, SqlValue]


BEGINNING: Final = "SELECT 1"
"""A statement that does nothing but begin a unit's transaction."""
RAW_TOO_EARLY: Final = (
    "db.raw: no connection yet. A handler that does not name `raw` itself but hands its db to"
    " something that does, first awaits a statement: db.execute or db.fetch"
)
"""What an `async` handler is told."""


class InboxRow(NamedTuple):
    """How the last attempt on one idempotency key ended.

    *payload* is the reply's, or, of a refusal or failure, its details.
    """

    service: str
    key: str
    attempt: int
    outcome: ReplyOutcome
    contract: str | None
    payload: Json | None
    code: str | None
    message: str | None
    digest: bytes | None
    """Of the request; None where the row was written before any request came."""
    handled_at: Instant
    undone: bool = False
    """Whether a failed do was undone, so that no later attempt may have an effect."""


class Kept(dict[K, InboxRow]):
    """The rows that could be read of those asked for; *damaged* says what is wrong with others."""

    def __init__(
        self, rows: Mapping[K, InboxRow] | None = None, damaged: Mapping[K, str] | None = None
    ) -> None:
        super().__init__(rows or {})
        self.damaged: dict[K, str] = dict(damaged or {})


class InboxWrite(NamedTuple):
    """A row to keep in the place of *replaces* or of nothing, unless another is there by now."""

    row: InboxRow
    replaces: InboxRow | None = None


class Database(Protocol):
    """A service's own tables, in its unit's transaction, for `async` handlers; SQL has `:name`."""

    def execute(self, sql: str, /, **params: SqlValue) -> Awaitable[int]:
        """Run a statement and return how many rows it touched.

        Raises:
            StoreUnavailable: the store cannot be used now; the handler will be called again.
        """

    def fetch(self, sql: str, /, **params: SqlValue) -> Awaitable[list[SqlRow]]:
        """Run a query and return all its rows.

        Raises:
            StoreUnavailable: the store cannot be used now; the handler will be called again.
        """

    @property
    def raw(self) -> object:
        """The driver's connection, from the unit's first statement on; one unit has it at a time.

        Raises:
            RuntimeError: there was none yet, or the unit has ended.
        """


class ThreadDatabase(Protocol):
    """The same for a sync handler: plain calls, from the thread it runs in."""

    def execute(self, sql: str, /, **params: SqlValue) -> int:
        """Run a statement and return how many rows it touched."""

    def fetch(self, sql: str, /, **params: SqlValue) -> list[SqlRow]:
        """Run a query and return all its rows."""

    @property
    def raw(self) -> object:
        """The driver's connection, at any time until the unit ends.

        Raises:
            StoreUnavailable: the store cannot be used now; the handler will be called again.
        """


class NotKept(set["Unit"]):
    """The units of a commit that were not kept; another process was first at their keys.

    Those that the store *refused*, and why, would be refused again. All others are kept, and those
    of them that are *published* have their answers on the bus.
    """

    def __init__(
        self, moved: Iterable[Unit] = (), refused: Mapping[Unit, str] | None = None
    ) -> None:
        super().__init__(moved)
        self.refused: dict[Unit, str] = dict(refused or {})
        self.published: set[Unit] = set()


class Unit(Protocol):
    """One unit of work: what one handler writes, and the inbox rows that go with it."""

    @property
    def db(self) -> Database:
        """For handlers on the event loop. The first use begins the transaction."""

    @property
    def thread_db(self) -> ThreadDatabase:
        """For handlers in a thread. The first use begins the transaction."""

    @property
    def is_broken(self) -> bool:
        """Whether the store failed under this unit and its writes are lost: drop it, begin anew."""

    def drop(self) -> None:
        """Undo the writes through `db`. `keep` is still possible, for the rows alone."""

    def keep(
        self, writes: Sequence[InboxWrite], answer: Record | None = None
    ) -> asyncio.Future[NotKept]:
        """End the unit: what it wrote and *writes* become durable together.

        A store in a bus's own file may publish *answer* with them, or leave that to the caller.
        The future, which units may share, gives those that were *not* kept: look at the inbox anew.
        It raises StoreUnavailable where nothing was kept, and TransactionEnded, for one unit alone,
        where what the handler did forbids the commit.

        Raises:
            TransactionEnded: the handler ended it; `keep` works once more, for the rows alone.
        """


class EffectsStore(Protocol):
    """The inbox of one or more services, and the tables of their own."""

    @property
    def commits_max(self) -> int:
        """How many commits may usefully be under way; beyond it more units share the next one."""

    async def open(self) -> None:
        """Connect and make the inbox where there is none; nothing where that was done already.

        Raises:
            StoreUnavailable: it cannot be opened or made.
            StoreTooNew: a newer version of saga wrote it.
        """

    async def kept(self, service: str, keys: Sequence[str]) -> Kept[str]:
        """The inbox rows of these idempotency keys; a key without one is left out.

        A row that cannot be read is named in its `damaged`, and hides no other.

        Raises:
            StoreUnavailable: try again later.
        """

    def unit(self, *, alone: bool = False) -> Unit:
        """A new unit; *alone*, its first use waits until no such unit is open in any process."""

    async def close(self) -> None:
        """Commit the units that were kept, and release the store."""
