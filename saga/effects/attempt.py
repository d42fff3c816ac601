"""One call of a handler, and how it ended: whatever it returns or raises becomes an inbox row."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from concurrent.futures import Executor
from typing import Any, NamedTuple

from saga.contracts import VALUE_BYTES_MAX, encode
from saga.contracts.unreadable import shortened
from saga.core.events import Json, ReplyOutcome
from saga.effects.context import EffectContext
from saga.effects.request import Request
from saga.errors import MalformedMessage, Refused, TransactionEnded
from saga.ports.effects_store import BEGINNING, Unit

CODE_CHARS_MAX = 100
MESSAGE_CHARS_MAX = 2_000
UTF8_BYTES_MAX = 4
"""Of one character."""

_log = logging.getLogger("saga.effects")


class Ended(NamedTuple):
    """How an attempt ended."""

    outcome: ReplyOutcome
    contract: str | None = None
    payload: Json | None = None
    code: str | None = None
    message: str | None = None


DONE = Ended(ReplyOutcome.DONE)


async def attempt(request: Request, unit: Unit, threads: Executor | None) -> Ended | None:
    """Call the handler; None where the store failed under it, so that nothing is known.

    Without *threads* a sync handler runs right here.
    """
    handler = request.route.handler
    try:
        if handler.is_async:
            db = unit.db
            if handler.uses_raw:
                await db.fetch(BEGINNING)  # only here can the connection be waited for
            reply = await handler.function(request.model, _context(request, db))
        elif threads is None:
            reply = handler.function(request.model, _context(request, unit.thread_db))
        else:
            reply = await asyncio.get_running_loop().run_in_executor(
                threads,
                contextvars.copy_context().run,
                handler.function,
                request.model,
                _context(request, unit.thread_db),
            )
    except Refused as refused:
        if unit.is_broken:
            return None
        return _ended(ReplyOutcome.REFUSED, str(refused.code), str(refused.message))
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise  # the service ends; otherwise something that the handler waited for was cancelled
        return _failed(request, "CancelledError", "something the handler waited for was cancelled")
    except Exception as error:  # noqa: BLE001  # an edge: it is recorded in the inbox and answered
        if unit.is_broken:
            return None
        _log.warning("%s failed on %s", handler.name, request.message_id, exc_info=error)
        return _ended(ReplyOutcome.FAILED, type(error).__name__, str(error))
    if unit.is_broken:
        return None
    return _answered(request, reply)


def transaction_ended(request: Request, error: TransactionEnded) -> Ended:
    """The handler has tampered with the transaction."""
    return _failed(request, "transaction_ended", str(error))


def _answered(request: Request, reply: Any) -> Ended:
    """Check what the handler returned."""
    route = request.route
    handler, expected = route.handler, route.reply
    if reply is None and expected is None:
        return DONE
    if type(reply) is not expected:
        return _failed(
            request,
            "wrong_reply",
            f"{handler.name} returned {_described(reply)}, but"
            f" {handler.contract.model.__qualname__} is answered by"
            f" {'None' if expected is None else expected.__qualname__}",
        )
    try:
        payload = encode(reply)
    except MalformedMessage as error:
        return _failed(request, error.code, f"{handler.name} returned no JSON: {error.message}")
    if len(payload) * UTF8_BYTES_MAX > VALUE_BYTES_MAX < len(payload.encode()):
        return _failed(
            request,
            "reply_too_large",
            f"{handler.name} returned {len(payload)} characters; at most {VALUE_BYTES_MAX} bytes",
        )
    return Ended(ReplyOutcome.DONE, route.reply_contract, payload)


def _context(request: Request, db: object) -> EffectContext:
    return EffectContext(
        intent_id=request.message_id,
        idempotency_key=request.idempotency_key,
        saga_id=request.saga_id,
        key=request.key,
        attempt=request.attempt,
        db=db,
    )


def _failed(request: Request, code: str, message: str) -> Ended:
    _log.error("%s: %s (%s)", code, message, request.message_id)
    return _ended(ReplyOutcome.FAILED, code, message)


def _ended(outcome: ReplyOutcome, code: str, message: str) -> Ended:
    return Ended(
        outcome,
        code=shortened(code, CODE_CHARS_MAX),
        message=shortened(message, MESSAGE_CHARS_MAX),
    )


def _described(reply: Any) -> str:
    return "None" if reply is None else f"a {type(reply).__qualname__}"
