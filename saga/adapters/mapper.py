"""Turns as rows of `stored_events`, and back.

The row's version is the number of the turn; its state is canonical JSON, `{"at", "cause",
"entries": [{"type", …}, …], "version"}`, with the version of the first entry, `source` where it is
not the implied one, and `saga` in the first turn. Types are looked up in the closed registry of
`saga.core.history`, never imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any, Final

import orjson

from saga.core.events import Event, Json
from saga.core.fold import run_begun_in
from saga.core.history import (
    Entry,
    History,
    RecordedTurn,
    are_whole,
    body_from_plain,
    body_to_plain,
    check_origin,
)
from saga.core.history import turns as turns_of
from saga.core.identity import SagaId
from saga.core.piecewise import Piecewise, at_once
from saga.errors import CorruptHistory

TURN: Final = "turn"
"""The topic of every stored event."""

_SORTED: Final = orjson.OPT_SORT_KEYS
_dumps: Final = orjson.dumps
_loads: Final = orjson.loads
_embed: Final = orjson.Fragment
_decode: Final[Callable[[bytes], Json]] = bytes.decode  # type: ignore[assignment]  # of JSON it is JSON


def to_state(turn: RecordedTurn) -> bytes:
    event, version = turn.event, turn.version
    entries = [body_to_plain(body, _embed) for body in (event.fact, *turn.decided)]
    state = {"at": event.at, "cause": event.cause, "entries": entries, "version": version}
    if event.source is not None:
        state["source"] = event.source
    if version == 1:
        state["saga"] = turn.saga_id
    return _dumps(state, option=_SORTED)


def to_entries(saga_id: SagaId, topic: str, state: bytes, *, version: int = 0) -> Sequence[Entry]:
    """The entries of a turn, as `to_turn`."""
    return to_turn(saga_id, topic, state, version=version).entries


def to_turn(saga_id: SagaId, topic: str, state: bytes, *, version: int = 0) -> RecordedTurn:
    """*version* is that of the first entry, where it is known.

    Raises:
        CorruptHistory: the row is no turn, or an entry of it cannot be read.
        UnknownEntry: a newer release wrote it.
    """
    if topic != TURN:
        problem = f"{topic!r} is no kind of row that this version of saga knows"
        raise CorruptHistory(saga_id, version, problem)
    try:
        plain = _loads(state)
        at, cause, source = plain["at"], plain["cause"], plain.get("source")
        check_origin(at, cause)
        first, plain_entries = int(plain["version"]), [*plain["entries"]]
    except (ValueError, KeyError, TypeError) as error:
        problem = f"the turn cannot be read: {error}"
        raise CorruptHistory(saga_id, version, problem) from error
    if version and plain["version"] != version:
        raise CorruptHistory(saga_id, version, f"is missing; {plain['version']} follows")
    if not plain_entries:
        raise CorruptHistory(saga_id, first, "the turn cannot be read: it has no entries")
    number, plain_entry, bodies = first, None, []
    try:
        for number, plain_entry in enumerate(plain_entries, first):
            bodies.append(body_from_plain(saga_id, number, plain_entry, _text))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        name = plain_entry.get("type") if isinstance(plain_entry, dict) else None
        problem = f"the entry {name!r} cannot be read: {error}"
        raise CorruptHistory(saga_id, number, problem) from error
    return RecordedTurn(saga_id, first, Event(bodies[0], at, cause, source), bodies[1:])


def to_history(
    saga_id: SagaId,
    rows: Iterable[tuple[int, str, bytes]],
    *,
    known: object = None,
    first: int = 1,
) -> History | CorruptHistory:
    """*rows* are turn, topic and state, in order; an error is returned, not raised.

    *known* is how many entries the index knows of, where it does; *first* the number of the turn
    with which the rows have to begin.
    """
    return at_once(reading_history(saga_id, rows, known=known, first=first))


def reading_history(
    saga_id: SagaId,
    rows: Iterable[tuple[int, str, bytes]],
    *,
    known: object = None,
    first: int = 1,
) -> Piecewise[History | CorruptHistory]:
    """`to_history`, turn by turn."""
    # Of a later run it is not known which entry is the first.
    version = 1 if first == 1 else 0
    history = yield from reading_tail(saga_id, rows, first=first, version=version)
    if isinstance(history, CorruptHistory):
        return history
    if history.recorded:
        version = history.version + 1
        try:
            if first > 1:
                run_begun_in(history.recorded[0])
        except CorruptHistory as error:
            return error
    if not history.recorded or (isinstance(known, int) and known >= version):
        problem = f"is missing: the index knows of {known} entries"
        return CorruptHistory(saga_id, version, problem)
    return history


def reading_tail(
    saga_id: SagaId, rows: Iterable[tuple[int, str, bytes]], *, first: int, version: int = 0
) -> Piecewise[History | CorruptHistory]:
    """`reading_history` of rows that begin anywhere; *version* as for `to_turn`, of the first."""
    recorded: list[RecordedTurn] = []
    try:
        for turns, (number, topic, state) in enumerate(rows, first):
            yield
            if number != turns:
                problem = f"is missing, with turn {turns}; turn {number} follows"
                return CorruptHistory(saga_id, version, problem)
            turn = to_turn(saga_id, topic, state, version=version)
            recorded.append(turn)
            version = turn.version + 1 + len(turn.decided)
    except CorruptHistory as error:
        return error
    whole = recorded if are_whole(recorded) else turns_of(chain.from_iterable(recorded))
    return History(whole, turns=first - 1 + len(recorded))


def saga_id_of(originator_id: str) -> SagaId:
    """*originator_id* is 32 hex digits."""
    digits = originator_id
    return SagaId(f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}")


def _text(value: Any) -> Json:
    return _decode(_dumps(value, None, _SORTED))
