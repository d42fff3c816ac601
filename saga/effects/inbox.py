"""The inbox's verdict on a request: a pure function of the request and the inbox rows of its keys.

An answer once given stays given. An undo that finds nothing to undo leaves a tombstone, so that
the step's do has no effect if it comes late.
"""

from __future__ import annotations

from enum import StrEnum

from saga.core.events import ReplyOutcome
from saga.core.identity import DO, UNDO, Instant
from saga.core.texts import storable
from saga.core.values import value
from saga.effects.request import Request
from saga.ports.effects_store import InboxRow, InboxWrite, Kept


class FailureCode(StrEnum):
    """The codes of answers that a service itself gives, beside those of its handlers."""

    UNDONE_BEFORE = "undone_before"
    ID_CONFLICT = "id_conflict"
    WRONG_REPLY = "wrong_reply"
    REPLY_TOO_LARGE = "reply_too_large"
    TRANSACTION_ENDED = "transaction_ended"
    NOT_KEPT = "not_kept"
    INBOX_DAMAGED = "inbox_damaged"


@value
class Run:
    """Call the handler; *replaces* is the failed attempt before, *when_done* is kept on success."""

    request: Request
    replaces: InboxRow | None = None
    when_done: tuple[InboxWrite, ...] = ()


@value
class Answer:
    """Keep nothing and send *row*; None where a later attempt is known, so this was answered."""

    row: InboxRow | None


@value
class NothingToUndo:
    """Keep *writes*, of which the first is the answer to send."""

    writes: tuple[InboxWrite, ...]


@value
class Conflict:
    """What is kept forbids to go on; *row* is the answer.

    The same key came before with another payload, which stands, or its row cannot be read.
    """

    row: InboxRow


Verdict = Run | Answer | NothingToUndo | Conflict


def judge(request: Request, rows: Kept[str], *, handled: frozenset[str], now: Instant) -> Verdict:
    """What to do with *request*, from its keys' *rows* and the intents *handled* by the service."""
    if rows.damaged:
        for key in request.inbox_keys:
            if key in rows.damaged:
                return Conflict(_failed_by(rows.damaged[key], request, now))
    kept = rows.get(request.idempotency_key)
    if kept is not None:
        verdict = _judge_repeated(request, kept)
        if verdict is not None:
            return verdict
    if request.direction is DO or request.undoes not in handled:
        return Run(request, kept)
    did = rows.get(request.do_key)
    if did is not None and did.outcome is not ReplyOutcome.REFUSED:
        if did.outcome is ReplyOutcome.DONE or did.undone:
            return Run(request, kept)
        # A failed attempt may have had an effect. Once it is undone no later attempt may have one.
        return Run(request, kept, (InboxWrite(did._replace(undone=True), did),))
    row = request.row(ReplyOutcome.DONE, now)
    if did is not None:
        return NothingToUndo((InboxWrite(row, kept),))
    tombstone = _undone_before(row._replace(key=request.do_key, attempt=0))
    return NothingToUndo((InboxWrite(row, kept), InboxWrite(tombstone)))


def _judge_repeated(request: Request, kept: InboxRow) -> Verdict | None:
    """The verdict of the row of the same key; None where the handler is to be called again."""
    # A later attempt to undo may know the step's reply, which an earlier one had to do without.
    may_differ = request.direction is UNDO and request.attempt != kept.attempt
    if kept.digest is not None and not may_differ and not request.has_content(kept.digest):
        message = f"{request.idempotency_key} came before with another payload"
        failed = ReplyOutcome.FAILED
        conflict = kept._replace(attempt=request.attempt, outcome=failed, payload=None)
        return Conflict(conflict._replace(code=FailureCode.ID_CONFLICT.value, message=message))
    if request.attempt < kept.attempt:
        return Answer(None)
    if request.attempt == kept.attempt or kept.outcome is not ReplyOutcome.FAILED:
        return Answer(kept)
    return Answer(_undone_before(kept)) if kept.undone else None


def _failed_by(damage: str, request: Request, now: Instant) -> InboxRow:
    message = f"{damage}; nothing is done until that row is mended or deleted"
    code = FailureCode.INBOX_DAMAGED.value
    return request.row(ReplyOutcome.FAILED, now, code=code, message=storable(message))


def _undone_before(row: InboxRow) -> InboxRow:
    return row._replace(
        outcome=ReplyOutcome.REFUSED,
        code=FailureCode.UNDONE_BEFORE.value,
        message="the step was undone before this attempt came",
        payload=None,
        digest=None,
    )
