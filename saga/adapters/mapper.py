"""Turns as rows of `stored_events`, and back.

The row's version is the number of the turn; its state is canonical JSON, `{"at", "cause",
"entries": [{"type", …}, …], "version"}`, with the version of the first entry, `source` where it is
not the implied one, and `saga` in the first turn. Types are looked up in the closed registry of
`saga.core.history`, never imported.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import orjson

from saga.core.events import Json
from saga.core.history import (
    Entry,
    RecordedTurn,
    body_from_plain,
    body_to_plain,
    check_origin,
)
from saga.core.identity import SagaId
from saga.core.piecewise import Piecewise, at_once
from saga.errors import CorruptHistory
from saga.ports.store import History

TURN: Final = "turn"
"""The topic of every stored event."""

_SORTED: Final = orjson.OPT_SORT_KEYS
_dumps: Final = orjson.dumps
_embed: Final = orjson.Fragment


def to_state(turn: RecordedTurn) -> bytes:
    event, version = turn.event, turn.version
    entries = [body_to_plain(body, _embed) for body in (event.fact, *turn.decided)]
    state = {"at": event.at, "cause": event.cause, "entries": entries, "version": version}
    if event.source is not None:
        state["source"] = event.source
    if version == 1:
        state["saga"] = turn.saga_id
    return _dumps(state, option=_SORTED)


def to_entries(saga_id: SagaId, topic: str, state: bytes, *, version: int = 0) -> list[Entry]:
    """*version* is that of the first entry, where it is known.

    Raises:
        CorruptHistory: the row is no turn, or an entry of it cannot be read.
        UnknownEntry: a newer release wrote it.
    """
    if topic != TURN:
        problem = f"{topic!r} is no kind of row that this version of saga knows"
        raise CorruptHistory(saga_id, version, problem)
    try:
        plain = orjson.loads(state)
        at, cause, source = plain["at"], plain["cause"], plain.get("source")
        first, entries = plain["version"], plain["entries"]
        check_origin(at, cause)
        numbered = [*enumerate(entries, int(first))]
    except (ValueError, KeyError, TypeError) as error:
        problem = f"the turn cannot be read: {error}"
        raise CorruptHistory(saga_id, version, problem) from error
    if version and first != version:
        raise CorruptHistory(saga_id, version, f"is missing; {first} follows")
    return [
        Entry(saga_id, number, at, cause, _to_body(saga_id, number, plain_entry), source)
        for number, plain_entry in numbered
    ]


def _to_body(saga_id: SagaId, version: int, plain: Any) -> Any:
    name: Any = None
    try:
        name = plain.pop("type")
        return body_from_plain(saga_id, version, name, plain, _text)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"the entry {name!r} cannot be read: {error}"
        raise CorruptHistory(saga_id, version, problem) from error


def to_history(
    saga_id: SagaId, rows: Iterable[tuple[int, str, bytes]], *, known: object = None
) -> History | CorruptHistory:
    """*rows* are turn, topic and state, in order; an error is returned, not raised.

    *known* is how many entries the index knows of, where it does.
    """
    return at_once(reading_history(saga_id, rows, known=known))


def reading_history(
    saga_id: SagaId, rows: Iterable[tuple[int, str, bytes]], *, known: object = None
) -> Piecewise[History | CorruptHistory]:
    """`to_history`, turn by turn."""
    entries: list[Entry] = []
    turns = 0
    try:
        for number, topic, state in rows:
            yield
            turns += 1
            version = len(entries) + 1
            if number != turns:
                problem = f"is missing, with turn {turns}; turn {number} follows"
                return CorruptHistory(saga_id, version, problem)
            entries += to_entries(saga_id, topic, state, version=version)
    except CorruptHistory as error:
        return error
    if not entries or (isinstance(known, int) and known > len(entries)):
        problem = f"is missing: the index knows of {known} entries"
        return CorruptHistory(saga_id, len(entries) + 1, problem)
    return History(entries, turns=turns)


def saga_id_of(originator_id: str) -> SagaId:
    """*originator_id* is 32 hex digits."""
    digits = originator_id
    return SagaId(f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}")


def _text(value: Any) -> Json:
    return Json(orjson.dumps(value, option=_SORTED).decode())
