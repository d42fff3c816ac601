"""Rows of an event store that cannot be read: how they are found, and how each is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from saga.adapters.rows import (
    BACKLOG_FILE,
    POSITION,
    SUMMARY_SHOWN,
    UNHANDLED_LISTED,
    check_row,
    to_summary,
    to_timer,
    to_unhandled,
)
from saga.core.history import TIME_END
from saga.core.status import SagaStatus


def backlog_row(row: Sequence[Any]) -> Sequence[Any]:
    check_row("backlog", row[0], BACKLOG_FILE, row)
    return row


def _position(row: Sequence[Any]) -> Sequence[Any]:
    check_row("tracking", row[0], POSITION, row)
    return row


_KNOWN_STATUSES: Final = ", ".join(f"'{status}'" for status in SagaStatus)
DAMAGED: Final[Sequence[tuple[str, Callable[[Sequence[Any]], Any]]]] = (
    (
        (
            f"SELECT {SUMMARY_SHOWN}, number FROM saga_index WHERE typeof(saga_id) <> 'text' "
            "OR length(saga_id) <> 36 OR typeof(definition) <> 'text' OR typeof(key) <> 'text' "
            "OR typeof(definition_version) <> 'integer' OR typeof(version) <> 'integer' "
            "OR typeof(started_at) <> 'integer' OR typeof(updated_at) <> 'integer' "
            f"OR started_at NOT BETWEEN 0 AND {TIME_END - 1} "
            f"OR updated_at NOT BETWEEN 0 AND {TIME_END - 1} "
            "OR typeof(waiting_for) NOT IN ('text', 'null') "
            "OR typeof(reason) NOT IN ('text', 'null') "
            "OR typeof(shown) NOT IN ('text', 'null') OR NOT json_valid(coalesce(shown, '{}')) "
            f"OR status NOT IN ({_KNOWN_STATUSES}) LIMIT ?"
        ),
        to_summary,
    ),
    (
        f"SELECT {UNHANDLED_LISTED}, record_id FROM unhandled ORDER BY record_id LIMIT ? * 1000",
        to_unhandled,
    ),
    (
        (
            "SELECT coalesce(i.saga_id, 'no saga'), t.name, t.due_at FROM timers AS t "
            "LEFT JOIN saga_index AS i ON i.number = t.saga WHERE typeof(t.name) <> 'text' "
            "OR typeof(t.due_at) <> 'integer' OR t.due_at < 0 OR i.saga_id IS NULL LIMIT ?"
        ),
        to_timer,
    ),
    (
        "SELECT backlog_id, first_position, last_position, appended_at FROM backlog LIMIT ?",
        backlog_row,
    ),
    ("SELECT application_name, notification_id FROM tracking LIMIT ? * 1000", _position),
)
"""Queries for such rows, and what reads, and so names, each."""
