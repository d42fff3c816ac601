"""Stores as they were written before 0.1.0, one row an entry: how their rows become turns.

An entry that cannot be read is kept as a row of its own, so that it holds up no other saga.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import orjson

from saga.adapters.mapper import TURN
from saga.core.format_1 import upgrade_plain
from saga.core.history import FACTS, NAME_OF
from saga.core.identity import SagaId

_FACT_NAMES: Final = frozenset(NAME_OF[kind] for kind in FACTS)
_SORTED: Final = orjson.OPT_SORT_KEYS


class OldRow(NamedTuple):
    """One entry; *place* is that in the log."""

    version: int
    topic: str
    state: bytes
    place: int


class NewRow(NamedTuple):
    """One turn; it takes the *place* of its first entry."""

    topic: str
    state: bytes
    place: int


def turns_of(saga_id: SagaId, rows: Iterable[OldRow]) -> Iterator[NewRow]:
    """*rows* are in order of version."""
    turn: list[tuple[OldRow, dict[str, Any]]] = []
    for row in rows:
        plain = _plain(row)
        if plain is None or not turn or row.topic in _FACT_NAMES or _is_apart(turn[-1], row, plain):
            if turn:
                yield _turn(saga_id, turn)
            turn = []
        if plain is None:
            yield NewRow(row.topic, row.state, row.place)
        else:
            turn.append((row, plain))
    if turn:
        yield _turn(saga_id, turn)


def _plain(row: OldRow) -> dict[str, Any] | None:
    try:
        plain = orjson.loads(row.state)
    except ValueError:
        return None
    is_entry = isinstance(plain, dict) and {"at", "cause"} <= plain.keys()
    return plain if is_entry else None


def _is_apart(before: tuple[OldRow, dict[str, Any]], row: OldRow, plain: dict[str, Any]) -> bool:
    earlier, earlier_plain = before
    if row.version != earlier.version + 1:
        return True
    return (plain["at"], plain["cause"]) != (earlier_plain["at"], earlier_plain["cause"])


def _turn(saga_id: SagaId, turn: Sequence[tuple[OldRow, dict[str, Any]]]) -> NewRow:
    first, first_plain = turn[0]
    state = {"at": first_plain["at"], "cause": first_plain["cause"], "version": first.version}
    if first.version == 1:
        state["saga"] = saga_id
    state["entries"] = [_entry(row.topic, plain) for row, plain in turn]
    return NewRow(TURN, orjson.dumps(state, option=_SORTED), first.place)


def _entry(name: str, plain: dict[str, Any]) -> dict[str, Any]:
    name, fields = upgrade_plain(name, {**plain})
    del fields["at"], fields["cause"]
    return {**fields, "type": name}
