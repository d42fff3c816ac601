"""Which sagas a question is about, as conditions of SQL with their values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import orjson

from saga.core.events import Json
from saga.core.status import SagaStatus

INTEGER_MAX: Final = 2**63 - 1
_SHOWN: Final = (
    "EXISTS (SELECT 1 FROM json_each(CASE WHEN json_valid(shown) THEN shown ELSE '{{}}' END) AS s "
    "WHERE s.key = ? AND ({}))"
)


def of_status(status: SagaStatus | None) -> tuple[str, str | None]:
    # Only where the query says so is the index by status used: it leaves out completed sagas.
    unfinished = "" if status is SagaStatus.COMPLETED else " AND status <> 'completed'"
    return f"status = ?{unfinished}", status and status.value


def is_shown(field: str, values: Sequence[Json]) -> tuple[str, list[Any]]:
    """SQL and its values: whether what a saga shows as *field* is one of *values*."""
    kinds: list[str] = []
    given: list[Any] = [field]
    for each in map(orjson.loads, values):
        if isinstance(each, bool):
            kinds.append("s.type = ?")
            given.append("true" if each else "false")
        elif isinstance(each, str):
            kinds.append("(s.type = 'text' AND s.value = ?)")
            given.append(each)
        else:
            kinds.append("(s.type IN ('integer', 'real') AND s.value = ?)")
            given.append(each if abs(each) < INTEGER_MAX else float(each))
    return _SHOWN.format(" OR ".join(kinds)), given
