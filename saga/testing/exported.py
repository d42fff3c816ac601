"""Histories that were printed by `saga history ID --json`, as golden files of a test."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any, Final

import orjson

from saga.contracts.cloudevents import parse_rfc3339
from saga.core.events import Json, SagaStarted
from saga.core.history import NAME_OF, Entry, from_plain
from saga.core.identity import SagaId, saga_id

_STARTED: Final = NAME_OF[SagaStarted]
_EXPECTED: Final = "expected what `saga history ID --json` prints"


def history_from(file: str | PathLike[str]) -> list[Entry]:
    """The history that *file* holds, as `saga history ID --json` has printed it.

    Raises:
        ValueError: it holds something else; says file and line.
        UnknownEntry: a newer release of saga has written it.
    """
    lines = [line for line in Path(file).read_bytes().split(b"\n") if line.strip()]
    rows = [_row(file, number, line) for number, line in enumerate(lines, 1)]
    started = next((row["data"] for row in rows if row.get("type") == _STARTED), None)
    if started is None:
        raise ValueError(f"{file}: no line has the start of a saga: {_EXPECTED}")
    saga = saga_id(started["definition"], started["key"])
    return [_entry(file, saga, number, row) for number, row in enumerate(rows, 1)]


def _row(file: object, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = orjson.loads(line)
        data = row["data"]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{file}:{number}: {error}: {_EXPECTED}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{file}:{number}: data is no object: {_EXPECTED}")
    return dict(row)


def _entry(file: object, saga: SagaId, number: int, row: dict[str, Any]) -> Entry:
    if row.get("version") != number:
        problem = f"it is entry {row.get('version')}, and a history has them all, in order"
        raise ValueError(f"{file}:{number}: {problem}: {_EXPECTED}")
    try:
        plain = {"at": parse_rfc3339(row["at"]), "cause": row["cause"], **row["data"]}
        return from_plain(saga, number, row["type"], plain, _text)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file}:{number}: {error}: {_EXPECTED}") from error


def _text(payload: object) -> Json:
    return Json(orjson.dumps(payload, option=orjson.OPT_SORT_KEYS).decode())
