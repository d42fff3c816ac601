"""Receipts: what came of a command, read from the history of its saga.

A command is decided in its saga's turn, in whichever process that is. Who sent it finds the turn by
the command's id, and waits for it by asking the store.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from enum import StrEnum
from typing import Final

import orjson

from saga.core.events import Fact, Migrated, TurnFailed, UpdateReceived
from saga.core.history import NAME_OF, History, RecordedTurn
from saga.core.identity import SagaId
from saga.core.intents import Noted, Verdict
from saga.core.values import value
from saga.core.words import told
from saga.errors import CorruptHistory
from saga.ports import Catalogue, EventStore
from saga.runtime.answers import answer_in

POLL_S: Final = 0.05
WAIT_S: Final = 10.0
"""How long a receipt is waited for, where nobody says otherwise."""
NOT_WAITED: Final = "sent; nobody has waited for what comes of it"
_REFUSED: Final = frozenset({Verdict.REFUSED, Verdict.AFTER_END})


class Result(StrEnum):
    """What came of a command."""

    APPLIED = "applied"
    REFUSED = "refused"
    DUPLICATE = "duplicate"
    """It came before, and was applied then."""
    UNKNOWN = "unknown"
    """No worker has taken its turn yet: it stays in line."""


@value
class Receipt:
    """What came of a command; *detail* says it in words, *answer* is what an update was answered.

    It is *accepted* only where it was applied.
    """

    command_id: str
    result: Result
    detail: str | None = None
    answer: object = None

    @property
    def accepted(self) -> bool:
        return self.result is Result.APPLIED


def receipt_of(
    history: History, command_id: str, fact: Fact | None = None, *, came_before: bool = False
) -> Receipt | None:
    """What came of a command, as *history* says; None where it has not had its turn.

    *fact* is what the command says: under its id another one may have come first.
    """
    for turn in reversed(history.recorded):
        if turn.event.source is not None:
            continue  # our own source is the one that is implied: this is another's id
        if turn.event.cause == command_id:
            receipt = _of_turn(turn, command_id, fact, came_before=came_before)
            is_update = isinstance(turn.event.fact, UpdateReceived) and not _is_conflict(turn, fact)
            return _of_update(history, receipt) if is_update else receipt
        if _has_failed(turn, command_id):
            error = turn.event.fact.error  # type: ignore[union-attr]  # as was asked just now
            detail = f"its turn failed: {error}; it is tried again when the saga is released"
            return Receipt(command_id, Result.UNKNOWN, detail)
    return None


async def wait_for_receipt(
    store: EventStore,
    catalogue: Catalogue,
    saga_id: SagaId,
    command_id: str,
    fact: Fact | None = None,
    *,
    timeout_s: float,
) -> Receipt:
    """What came of a command, once a worker has taken its turn; `unknown` where none has in time.

    Raises:
        CorruptHistory: the saga's history cannot be read.
        StoreUnavailable: the store cannot be asked.
    """
    loop = asyncio.get_running_loop()
    until_s, version, standing = loop.time() + timeout_s, -1, ""
    while True:
        for row in await catalogue.summaries([saga_id]):
            standing = f"; the saga is {row.status.value}" if row.waiting_for is not None else ""
            if row.version == version:
                continue
            version = row.version
            history = (await store.load([saga_id])).get(saga_id)
            if isinstance(history, CorruptHistory):
                raise history
            receipt = None if history is None else receipt_of(history, command_id, fact)
            if receipt is None and history is not None and history.recorded[0].version > 1:
                whole = (await store.load([saga_id], is_whole=True)).get(saga_id)
                if isinstance(whole, History):  # it may have been taken in an earlier run
                    receipt = receipt_of(whole, command_id, fact)
            if receipt is not None:
                return receipt
        if loop.time() >= until_s:
            break
        await asyncio.sleep(min(POLL_S, max(0.0, until_s - loop.time())))
    detail = f"no worker has taken the command's turn within {timeout_s:g} s; it stays in line"
    if isinstance(fact, UpdateReceived):
        detail = f"no answer came within {timeout_s:g} s; the same id gets it once it is there"
    return Receipt(command_id, Result.UNKNOWN, detail + standing)


def _of_turn(
    turn: RecordedTurn, command_id: str, fact: Fact | None, *, came_before: bool
) -> Receipt:
    if _is_conflict(turn, fact):
        detail = (
            f"id_conflict: {command_id} is the id of another command, recorded as "
            f"{NAME_OF[type(turn.event.fact)]}, which stands; give this one an id of its own"
        )
        return Receipt(command_id, Result.REFUSED, detail)
    match turn.decided:
        case [Noted(verdict=verdict, detail=why), *_] if verdict in _REFUSED:
            return Receipt(command_id, Result.REFUSED, why)
    result = Result.DUPLICATE if came_before else Result.APPLIED
    return Receipt(command_id, result, told(turn.decided, turn.event.fact))


def _is_conflict(turn: RecordedTurn, fact: Fact | None) -> bool:
    """Whether something else came under this id."""
    recorded = turn.event.fact
    if isinstance(recorded, Migrated):
        recorded = recorded.as_asked()
    return fact is not None and recorded != fact


def _of_update(history: History, receipt: Receipt) -> Receipt | None:
    """What an update was answered; None where it was not yet."""
    answered = answer_in(history, receipt.command_id)
    if answered is None:
        return None
    if answered.code is not None:
        said = ": ".join(filter(None, (answered.code, answered.message)))
        return Receipt(receipt.command_id, Result.REFUSED, said)
    text = answered.answer or "null"
    return replace(receipt, detail=f"answered {text}", answer=orjson.loads(text))


def _has_failed(turn: RecordedTurn, command_id: str) -> bool:
    cause = turn.event.cause.rpartition("/")[0]
    return type(turn.event.fact) is TurnFailed and cause == f"{command_id}/failed"
