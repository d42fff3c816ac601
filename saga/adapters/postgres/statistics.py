"""A statistics of the store in PostgreSQL."""

from __future__ import annotations

from typing import Any, Final, LiteralString

from saga.adapters.postgres.database import PostgresDatabase
from saga.core.identity import Instant
from saga.core.status import SagaStatus
from saga.ports.store import UNFINISHED, UNHANDLED_COUNTED_MAX, StoreStatistics, UnhandledKind

# The index by status has all but completed sagas, and is used only where the query says so.
_SAGAS: Final[LiteralString] = (
    "SELECT definition, status, count(*) FROM saga_index WHERE status <> 'completed' "
    "AND status = ANY(%s::text[]) GROUP BY definition, status"
)
_PARKED: Final[LiteralString] = (
    "SELECT kind, reason, count(*) FROM (SELECT kind, reason FROM parked LIMIT %s) AS few "
    "GROUP BY kind, reason"
)
_BACKLOG: Final[LiteralString] = "SELECT count(*), min(appended_at) FROM backlog"
_TIMERS: Final[LiteralString] = "SELECT count(*), min(due_at) FROM timers WHERE due_at <= %s"


class PostgresCensus:
    """Counts what is in a `PostgresEventStore`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def take(self, *, at: Instant) -> StoreStatistics:
        """Count, with *at* as the present.

        Raises:
            StoreUnavailable: the database cannot be read now.
        """
        fetch = self._database.fetch
        sagas = await fetch(_SAGAS, ([one.value for one in UNFINISHED],))
        parked = await fetch(_PARKED, (UNHANDLED_COUNTED_MAX,))
        [backlog] = await fetch(_BACKLOG)
        [timers] = await fetch(_TIMERS, (int(at),))
        return StoreStatistics(
            sagas={(name, SagaStatus(status)): count for name, status, count in sagas},
            unhandled={(UnhandledKind(kind), reason): count for kind, reason, count in parked},
            backlog=backlog[0],
            backlog_since=_instant(backlog[1]),
            timers_due=timers[0],
            timers_due_since=_instant(timers[1]),
        )


def _instant(found: Any) -> Instant | None:
    return None if found is None else Instant(found)
