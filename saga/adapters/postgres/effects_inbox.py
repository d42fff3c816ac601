"""The inbox table of effect services in PostgreSQL: its schema and the statements on it.

Rows are written as they are expected to fit, all or none: a key that is taken, or a row that is not
what it was, refuses the whole transaction, and `is_taken` recognizes that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import psycopg
from psycopg import Cursor

from saga.adapters.postgres.arrays import Array, Bigints, Blobs, Texts, unescaped
from saga.adapters.postgres.pipeline import Call
from saga.adapters.postgres.schema import Component
from saga.core.events import Json, ReplyOutcome
from saga.core.identity import Instant
from saga.ports.effects_store import InboxRow, InboxWrite

_TABLE: Final = "saga_inbox"
_NOT_WHAT_IT_WAS: Final = "SG003"
_UNIQUE_VIOLATION: Final = "23505"

# Keys begin with the saga's id, so that the steps of one saga stand on one page of the index.
_CREATE_TABLE: Final = (
    f'CREATE TABLE {_TABLE} (service text COLLATE "C" NOT NULL, key text COLLATE "C" NOT NULL, '
    "attempt bigint NOT NULL, outcome text NOT NULL, contract text, payload text, code text, "
    "message text, digest bytea, handled_at bigint NOT NULL, undone boolean NOT NULL, "
    "PRIMARY KEY (key, service))"
)
_CREATE_EXPECT: Final = (
    "CREATE FUNCTION saga_inbox_expect(counted bigint, expected bigint) RETURNS void "
    "LANGUAGE plpgsql AS $$ BEGIN IF counted <> expected THEN "
    "RAISE EXCEPTION 'found %, expected %', counted, expected "
    f"USING ERRCODE = '{_NOT_WHAT_IT_WAS}'; END IF; END $$"
)
_COLUMNS: Final = (
    "service, key, attempt, outcome, contract, payload, code, message, digest, handled_at, undone"
)
_ROWS: Final = (
    "SELECT service, key, attempt, outcome, contract, payload, code, message, digest, handled_at, "
    "undone = 1 FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::text[], %s::text[], "
    "%s::text[], %s::text[], %s::text[], %s::bytea[], %s::bigint[], %s::bigint[]) "
    f"AS r ({_COLUMNS})"
)
_INSERT: Final = f"INSERT INTO {_TABLE} ({_COLUMNS}) {_ROWS}"
_REPLACE: Final = (
    f"WITH replaced AS (UPDATE {_TABLE} SET ({_COLUMNS}) = ({_ROWS}) "
    "WHERE key = ANY(%s::text[]) AND service = ANY(%s::text[]) AND attempt = %s::bigint "
    "AND outcome = ANY(%s::text[]) AND undone = (%s::bigint = 1) RETURNING 1) "
    "SELECT saga_inbox_expect((SELECT count(*) FROM replaced), 1)"
)
SELECT: Final = (
    f"SELECT {_COLUMNS} FROM {_TABLE} WHERE key = ANY(%s::text[]) AND service = ANY(%s::text[])"
)


def _first(cursor: Cursor[dict[str, Any]]) -> None:
    cursor.execute(_CREATE_TABLE)
    cursor.execute(_CREATE_EXPECT)


INBOX: Final = Component(name="effects store", landmark=_TABLE, migrations=[_first])


def writing(writes: Iterable[InboxWrite]) -> list[Call]:
    """The statements that keep *writes*, or refuse the transaction."""
    # In one order wherever they are written, so that no two transactions wait for one another.
    ordered = sorted(writes, key=lambda write: (write.row.key, write.row.service))
    new = [write.row for write in ordered if write.replaces is None]
    calls = [Call(_INSERT, _columns(new))] if new else []
    return calls + [
        Call(_REPLACE, (*_columns([write.row]), *_what_was(write.replaces)))
        for write in ordered
        if write.replaces is not None
    ]


def is_taken(error: psycopg.Error) -> bool:
    """Whether *error* says that something else is in the place of a row to keep."""
    is_ours = error.diag.table_name == _TABLE
    return error.sqlstate == _NOT_WHAT_IT_WAS or (error.sqlstate == _UNIQUE_VIOLATION and is_ours)


def fits(write: InboxWrite, there: InboxRow | None) -> bool:
    """Whether *write* can be kept where *there* is in its place."""
    replaced = write.replaces
    if there is None or replaced is None:
        return there is replaced
    return (there.attempt, there.outcome, there.undone) == (
        replaced.attempt,
        replaced.outcome,
        replaced.undone,
    )


def to_row(columns: Sequence[Any]) -> InboxRow:
    """The row that `SELECT` has found."""
    service, key, attempt, outcome, *texts, digest, handled_at, undone = columns
    contract, payload, code, message = (None if text is None else unescaped(text) for text in texts)
    return InboxRow(
        unescaped(service),
        unescaped(key),
        attempt,
        ReplyOutcome(outcome),
        contract,
        None if payload is None else Json(payload),
        code,
        message,
        digest,
        Instant(handled_at),
        undone,
    )


def _columns(rows: Sequence[InboxRow]) -> tuple[Array, ...]:
    return (
        Texts(row.service for row in rows),
        Texts(row.key for row in rows),
        Bigints(row.attempt for row in rows),
        Texts(row.outcome for row in rows),
        Texts(row.contract for row in rows),
        Texts(row.payload for row in rows),
        Texts(row.code for row in rows),
        Texts(row.message for row in rows),
        Blobs(row.digest for row in rows),
        Bigints(row.handled_at for row in rows),
        Bigints(int(row.undone) for row in rows),
    )


def _what_was(row: InboxRow) -> tuple[Array | int, ...]:
    return (
        Texts([row.key]),
        Texts([row.service]),
        row.attempt,
        Texts([row.outcome]),
        int(row.undone),
    )
