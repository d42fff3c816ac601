"""The inbox tables of effect services in PostgreSQL: their layout and the statements on them.

Sagas are numbered in the order they appear, so that the rows of those that run at the same time
share pages. A key that is taken, or a row that is not what it was, refuses the whole transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

import psycopg
from psycopg import Cursor

from saga.adapters.postgres.migrations import number_sagas
from saga.adapters.postgres.pipeline import Call, ManyRows, call_of, text, texts, unescaped
from saga.adapters.postgres.schema import Component
from saga.adapters.postgres.whose import INBOX_FACTS
from saga.adapters.rows import KnownSagas
from saga.core.events import Json, ReplyOutcome
from saga.core.identity import Instant, SagaId
from saga.ports.effects_store import InboxRow, InboxWrite

Key = tuple[str, str]
"""Service and idempotency key."""

_TABLE: Final = "saga_inbox"
_NOT_WHAT_IT_WAS: Final = "SG003"
_UNIQUE_VIOLATION: Final = "23505"
_NOT_NULL_VIOLATION: Final = "23502"
_TABLES: Final = (
    (
        'CREATE TABLE saga_inbox_sagas (saga_id text COLLATE "C" PRIMARY KEY, '
        "number bigint NOT NULL GENERATED ALWAYS AS IDENTITY)"
    ),
    # A key is its saga's id and the step; the latter begins with the slash between them.
    (
        "CREATE TABLE saga_inbox (saga bigint NOT NULL, "
        'step text COLLATE "C" NOT NULL, service text COLLATE "C" NOT NULL, '
        "attempt bigint NOT NULL, outcome text NOT NULL, contract text, payload text, code text, "
        "message text, digest bytea, handled_at bigint NOT NULL, undone boolean NOT NULL, "
        "PRIMARY KEY (saga, step, service))"
    ),
    (
        "CREATE OR REPLACE FUNCTION saga_inbox_expect(counted bigint, expected bigint) "
        "RETURNS void LANGUAGE plpgsql AS $$ BEGIN IF counted <> expected THEN "
        "RAISE EXCEPTION 'found %, expected %', counted, expected "
        f"USING ERRCODE = '{_NOT_WHAT_IT_WAS}'; END IF; END $$"
    ),
)
_REST: Final = "attempt, outcome, contract, payload, code, message, digest, handled_at, undone"
_NUMBER: Final = "(SELECT number FROM saga_inbox_sagas WHERE saga_id = {})"
_NUMBER_NEW: Final = (
    "INSERT INTO saga_inbox_sagas (saga_id) SELECT id FROM unnest(%s::text[]) AS r (id) "
    "WHERE NOT EXISTS (SELECT 1 FROM saga_inbox_sagas WHERE saga_id = r.id) "
    "ORDER BY id ON CONFLICT DO NOTHING"
)
_ROWS: Final = (
    "SELECT {}attempt, outcome, contract, payload, code, message, digest, handled_at, undone = 1 "
    f"FROM {{{{rows}}}} AS r (saga_id, step, service, {_REST})"
)
_TYPES: Final = "text text text bigint text text text text text bytea bigint bigint"
_INSERT: Final = ManyRows(
    f"INSERT INTO saga_inbox (saga, step, service, {_REST}) "
    f"{_ROWS.format(_NUMBER.format('r.saga_id') + ', step, service, ')} ORDER BY 1, 2, 3",
    _TYPES,
)
_REPLACE: Final = ManyRows(
    f"WITH replaced AS (UPDATE saga_inbox SET ({_REST}) = ({_ROWS.format('')}) "
    f"WHERE saga = {_NUMBER.format('%s')} AND step = %s AND service = %s AND attempt = %s "
    "AND outcome = %s AND undone = (%s::bigint = 1) RETURNING 1) "
    "SELECT saga_inbox_expect((SELECT count(*) FROM replaced), 1)",
    _TYPES,
)
# OFFSET 0 keeps each look-up one by key: a join might read the whole table.
_SELECT: Final = ManyRows(
    f"SELECT r.saga_id || r.step, i.service, {_REST} FROM {{rows}} AS r (saga_id, step, service) "
    "CROSS JOIN LATERAL (SELECT * FROM saga_inbox AS i "
    f"WHERE i.saga = {_NUMBER.format('r.saga_id')} AND i.step = r.step "
    "AND i.service = r.service OFFSET 0) AS i",
    "text text text",
)


def _make(cursor: Cursor[Any]) -> None:
    for statement in _TABLES:
        cursor.execute(statement)


INBOX: Final = Component(
    name="effects store",
    landmark=_TABLE,
    make=_make,
    tables={
        "saga_inbox": "saga bigint, step text, service text, attempt bigint, outcome text, "
        "contract text, payload text, code text, message text, digest bytea, handled_at bigint, "
        "undone boolean",
        "saga_inbox_sagas": "saga_id text, number bigint",
    },
    facts=INBOX_FACTS,
    migrations=[number_sagas],
)


class Inbox:
    """The statements, and the sagas that are known to have a number."""

    def __init__(self) -> None:
        self._numbered = KnownSagas[bool]()

    def writing(self, writes: Sequence[InboxWrite]) -> list[Call]:
        """The statements that keep *writes*, or refuse the transaction."""
        # Always in one order, so that no two transactions wait for each other.
        ordered = sorted(writes, key=lambda write: (write.row.key, write.row.service))
        new = [_columns_of(write.row) for write in ordered if write.replaces is None]
        unnumbered = [row[0] for row in new if not self._numbered.get(row[0])]
        return [
            *([call_of(_NUMBER_NEW, texts(dict.fromkeys(unnumbered)))] if unnumbered else []),
            *_INSERT.calls(new),
            *(
                _REPLACE.call([_columns_of(write.row)], *_what_was(write.replaces))
                for write in ordered
                if write.replaces is not None
            ),
        ]

    def written(self, writes: Sequence[InboxWrite]) -> None:
        """Is called once *writes* are committed."""
        sagas = [SagaId(_saga_and_step(write.row.key)[0]) for write in writes]
        self._numbered.remember(dict.fromkeys(sagas, True))

    def is_taken(self, error: psycopg.Error) -> bool:
        """Whether a row could not be kept because something else is in its place."""
        if error.sqlstate == _NOT_WHAT_IT_WAS:
            return True
        if error.sqlstate == _NOT_NULL_VIOLATION:
            self.forget()  # a number that was there is not
        is_ours = error.diag.table_name == _TABLE
        return is_ours and error.sqlstate in {_UNIQUE_VIOLATION, _NOT_NULL_VIOLATION}

    def forget(self) -> None:
        """For when the server may be another one, which lacks something."""
        self._numbered = KnownSagas()


def key_of(row: InboxRow) -> Key:
    return row.service, row.key


def selecting(keys: Collection[Key]) -> Call:
    return _SELECT.call([(*_saga_and_step(key), service) for service, key in keys])


def fits(write: InboxWrite, stored: InboxRow | None) -> bool:
    """Whether *write* can be kept where *stored* is in its place."""
    replaced = write.replaces
    if stored is None or replaced is None:
        return stored is replaced
    return (stored.attempt, stored.outcome, stored.undone) == (
        replaced.attempt,
        replaced.outcome,
        replaced.undone,
    )


def keyed(columns: Sequence[Any]) -> tuple[Key, Sequence[Any]]:
    key, service, *rest = columns
    return (unescaped(service), unescaped(key)), rest


def to_row(key: Key, *columns: Any) -> InboxRow:
    attempt, outcome, *texts, digest, handled_at, undone = columns
    contract, payload, code, message = (None if text is None else unescaped(text) for text in texts)
    return InboxRow(
        *key,
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


def _saga_and_step(key: str) -> tuple[str, str]:
    saga_id = key.partition("/")[0]
    return saga_id, key[len(saga_id) :]


def _columns_of(row: InboxRow) -> tuple[Any, ...]:
    return (*_saga_and_step(row.key), row.service, *row[2:])


def _what_was(row: InboxRow) -> tuple[bytes | int, ...]:
    place = (*_saga_and_step(row.key), row.service)
    return (*map(text, place), row.attempt, text(row.outcome), int(row.undone))
