"""Golden histories as text: one entry a line, in the form in which stores keep it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import orjson

from saga.core.events import Json
from saga.core.format_1 import upgrade_plain
from saga.core.history import NAME_OF, Entry, from_plain, to_plain
from saga.core.identity import SagaId

FOLDER = Path(__file__).parent
FORMAT_1 = FOLDER / "format-1"
"""Histories as the releases before 0.1.0 wrote them, and wrote them down here."""


def dump(history: Sequence[Entry]) -> bytes:
    """The lines of *history*."""
    lines = [
        {
            "saga_id": entry.saga_id,
            "version": entry.version,
            "type": NAME_OF[type(entry.body)],
            "data": to_plain(entry, lambda payload: orjson.Fragment(payload.encode())),
        }
        for entry in history
    ]
    return b"".join(orjson.dumps(line, option=orjson.OPT_SORT_KEYS) + b"\n" for line in lines)


def load(file: Path) -> list[Entry]:
    """The history that *file* holds."""
    return [entry_of(orjson.loads(line)) for line in file.read_bytes().splitlines()]


def load_format_1(file: Path) -> list[Entry]:
    """The history that *file* holds in format 1, as a migrated store has it."""
    lines = [orjson.loads(line) for line in file.read_bytes().splitlines()]
    for line in lines:
        line["type"], line["data"] = upgrade_plain(line["type"], line["data"])
    return [entry_of(line) for line in lines]


def entry_of(line: dict) -> Entry:
    """The entry in a line."""

    def text(payload: object) -> Json:
        return Json(orjson.dumps(payload, option=orjson.OPT_SORT_KEYS).decode())

    return from_plain(SagaId(line["saga_id"]), line["version"], line["type"], line["data"], text)
