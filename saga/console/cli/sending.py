"""Sending a command, and what came of it: its receipt.

A command is sent if its saga would take it as it stands now. Its effect is decided in the saga's
turn, for which the sender waits.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import typer

from saga.adapters.clocks import SystemClock
from saga.adapters.ids import new_id
from saga.adapters.opening import OpenedStore
from saga.console.cli.output import ExitCode, Misused, NotSo, Printer
from saga.console.cli.session import Session, act_on, find_saga
from saga.contracts import Command, CommandAct
from saga.core.fold import fold
from saga.core.history import History
from saga.core.values import value
from saga.errors import CorruptHistory
from saga.ports import SagaSummary
from saga.runtime.pauses import is_paused, receipt_from, wait_for_definition
from saga.runtime.receipts import NOT_WAITED, WAIT_S, Receipt, Result, receipt_of, wait_for_receipt
from saga.runtime.router import command_fact
from saga.runtime.trial import possible_acts, try_on


@value
class Sending:
    actor: Annotated[
        str | None, typer.Option("--actor", metavar="WHO", help="Who asks; recorded.")
    ] = None
    command_id: Annotated[
        str | None,
        typer.Option(
            "--id", metavar="ID", help="The command's id: the same one sent again changes nothing."
        ),
    ] = None
    wait: Annotated[
        float,
        typer.Option(
            "--wait",
            metavar="SECONDS",
            min=0,
            help="How long to wait until a worker has taken the command's turn.",
        ),
    ] = WAIT_S
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Do not wait for what comes of it.")
    ] = False


async def send(session: Session, saga: str, act: CommandAct, sending: Sending, **said: Any) -> int:
    """Send a command to a saga, wait for what comes of it, and print that."""
    _check_reason(said.get("reason", "-"))
    command_id = sending.command_id or new_id()
    async with session.reading(to_act=True) as store:
        summary = await find_saga(store, saga)
        command = Command(
            command_id=command_id,
            act=act,
            saga_id=summary.saga_id,
            definition=summary.definition,
            actor=sending.actor,
            **said,
        )
        receipt = await _settled_before(session, store, summary, command, saga)
        if receipt is None:
            await session.send(command, key=summary.key)
            receipt = await _outcome(store, summary, command, sending)
    return finish(session.printer, receipt, has_waited=not sending.no_wait)


async def send_to_all(
    session: Session, definition: str, act: CommandAct, sending: Sending, *, reason: str
) -> int:
    """Send a command to all sagas of a definition, wait for what comes of it, and print that."""
    _check_reason(reason)
    command = Command(
        command_id=sending.command_id or new_id(),
        act=act,
        definition=definition,
        reason=reason,
        actor=sending.actor,
    )
    command_id = command.command_id
    async with session.reading(to_act=True) as store:
        rows = {row.definition: row for row in await store.store.pauses()}
        receipt = receipt_from(rows.values(), definition, command_id)
        if receipt is not None and receipt.accepted:
            receipt = replace(receipt, result=Result.DUPLICATE)
        stands = definition in rows and is_paused(rows[definition])
        if receipt is None and stands is (act is CommandAct.PAUSE):
            standing = "is paused already" if stands else "is not paused"
            why = f"{definition} {standing}: nothing was sent"
            receipt = Receipt(command_id, Result.REFUSED, why)
        if receipt is None:
            await _must_be_known(session, store, definition)
            await session.send(command, key=definition)
            receipt = Receipt(command_id, Result.UNKNOWN, NOT_WAITED)
            if not sending.no_wait:
                receipt = await wait_for_definition(
                    store.store, definition, command_id, timeout_s=sending.wait
                )
    return finish(session.printer, receipt, has_waited=not sending.no_wait)


async def _must_be_known(session: Session, store: OpenedStore, definition: str) -> None:
    if session.sagas is not None and session.sagas.has(definition):
        return
    if not await store.catalogue.sagas(definition=definition, limit=1):
        raise NotSo(f"neither the application nor the store has a saga definition {definition!r}")


def _check_reason(reason: str) -> None:
    if not reason.strip():
        raise Misused("--reason is empty: readers of the history will want to know why")


def finish(printer: Printer, receipt: Receipt, *, has_waited: bool) -> int:
    """Print a receipt; the exit code, or NotSo where the command was refused, or not taken."""
    if printer.is_json:
        printer.json(row_of(receipt))
    match receipt.result:
        case Result.REFUSED:
            raise NotSo(receipt.detail or "refused")
        case Result.UNKNOWN if has_waited:
            raise NotSo(receipt.detail or "unknown")
    if not printer.is_json:
        printer.say(f"command {receipt.command_id} {receipt.result.value}: {receipt.detail}")
    return ExitCode.OK


def row_of(receipt: Receipt) -> dict[str, Any]:
    return {
        "command_id": receipt.command_id,
        "accepted": receipt.accepted,
        "result": receipt.result.value,
        "detail": receipt.detail,
        "answer": receipt.answer,
    }


async def _outcome(
    store: OpenedStore, summary: SagaSummary, command: Command, sending: Sending
) -> Receipt:
    if sending.no_wait:
        return Receipt(command.command_id, Result.UNKNOWN, NOT_WAITED)
    return await wait_for_receipt(
        store.store,
        store.catalogue,
        summary.saga_id,
        command.command_id,
        command_fact(command),
        timeout_s=sending.wait,
    )


async def _settled_before(
    session: Session, store: OpenedStore, summary: SagaSummary, command: Command, saga: str
) -> Receipt | None:
    """What is known of a command before it is sent: it came before, or would be refused."""
    history = (await store.store.load([summary.saga_id])).get(summary.saga_id)
    if history is None or isinstance(history, CorruptHistory):
        return None  # its worker will log it, and the command is deferred
    command_id, fact = command.command_id, command_fact(command)
    if (known := receipt_of(history, command_id, fact, came_before=True)) is not None:
        return known if known.result is not Result.UNKNOWN else None
    if summary.status.is_ended and command.act is not CommandAct.RERUN:
        why = f"saga {saga} is {summary.status.value} already: nothing was sent"
        return Receipt(command_id, Result.REFUSED, why)
    if (refusal := _refusal(session, summary, history, command)) is not None:
        why = f"nothing was sent, as saga {saga} would refuse it: {refusal}"
        return Receipt(command_id, Result.REFUSED, why)
    return None


def _refusal(
    session: Session, summary: SagaSummary, history: History, command: Command
) -> str | None:
    """Why the saga would refuse *command*, and what it would take instead; None if it would not."""
    saga_id, at = summary.saga_id, SystemClock().now()
    sagas = session.sagas
    tried = try_on(sagas, history, command, at)
    if tried.waits is not None:  # but for the code here: its worker may have other code
        session.printer.note(f"by the code here it waits: {tried.waits}")
        tried = try_on(None, history, command, at)
    if (why := tried.refusal) is None:
        return None
    known = fold(saga_id, history).steps
    if command.step is not None and command.step not in known:
        why = (
            f"it has no step {command.step!r}; its steps: {', '.join(sorted(known)) or 'none yet'}"
        )
    acts = [act_on(summary, each) for each in possible_acts(sagas, saga_id, history, at)]
    return f"{why}. It would take: {', '.join(acts)}" if acts else why
