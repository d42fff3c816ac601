"""`signal`, `cancel` and the operators' acts: commands to one saga, sent through the bus.

A command is accepted once it is durable on its topic, and its saga would take it as it stands now.
Its effect is decided in the saga's turn; `--wait` waits for that turn.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Annotated, Any, Final

import orjson
import typer

from saga.adapters.clocks import SystemClock
from saga.adapters.ids import new_id
from saga.adapters.opening import OpenedStore
from saga.console.cli.commands import Id
from saga.console.cli.output import ExitCode, Misused, NotSo
from saga.console.cli.session import Session, act_on, find_saga, history_of
from saga.contracts import Command, CommandAct, Unreadable, canonical_text
from saga.core.events import CancelMode
from saga.core.fold import fold
from saga.core.history import NAME_OF, Entry
from saga.core.identity import SagaId
from saga.core.intents import Noted, Verdict
from saga.core.values import value
from saga.errors import CorruptHistory
from saga.ports import SagaSummary
from saga.runtime.router import command_fact
from saga.runtime.trial import possible_acts, try_on

WAIT_POLL_S: Final = 0.1

Reason = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="Why; recorded in the history.")
]
Step = Annotated[
    str | None, typer.Argument(metavar="STEP", help="The step, where there is a choice.")
]


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
        float | None,
        typer.Option(
            "--wait",
            metavar="SECONDS",
            min=0,
            help="Wait until a worker has taken the command's turn.",
        ),
    ] = None


async def signal(
    session: Session,
    saga: Id,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the saga waits for.")],
    payload: Annotated[str, typer.Argument(metavar="JSON", help="What it is told.")] = "null",
    *,
    sending: Sending,
) -> int:
    """Send a signal to a saga; it is kept until the saga waits for one of this name."""
    if not name.strip():
        raise Misused("a signal needs a name")
    text = canonical_text(payload.encode())
    if isinstance(text, Unreadable):
        raise NotSo(f"the signal's payload: {text.message} ({text.code})")
    said = {"name": name, "payload": orjson.loads(text)}
    return await _send(session, saga, CommandAct.SIGNAL, sending, **said)


async def cancel(
    session: Session,
    saga: Id,
    *,
    reason: Reason,
    mode: Annotated[
        CancelMode,
        typer.Option(
            "--mode",
            metavar="MODE",
            help="graceful: let settle what is in flight; immediate: roll back now; "
            "abandon: end without undoing anything.",
        ),
    ] = CancelMode.GRACEFUL,
    sending: Sending,
) -> int:
    """Ask a saga to end and roll back."""
    return await _send(session, saga, CommandAct.CANCEL, sending, reason=reason, mode=mode)


async def retry(
    session: Session, saga: Id, step: Step = None, *, reason: Reason, sending: Sending
) -> int:
    """Try a step again at once: its undo is stuck, it is backing off, or its saga is parked."""
    return await _send(session, saga, CommandAct.RETRY, sending, reason=reason, step=step)


async def skip(
    session: Session, saga: Id, step: Step = None, *, reason: Reason, sending: Sending
) -> int:
    """Leave a step that cannot be undone as it is, and go on; it becomes residue."""
    return await _send(session, saga, CommandAct.SKIP, sending, reason=reason, step=step)


async def compensate(session: Session, saga: Id, *, reason: Reason, sending: Sending) -> int:
    """Roll a saga back now, whatever its function would do next."""
    return await _send(session, saga, CommandAct.COMPENSATE, sending, reason=reason)


async def release(session: Session, saga: Id, *, reason: Reason, sending: Sending) -> int:
    """Let a saga go on that a failed turn has parked; deferred records follow in order."""
    return await _send(session, saga, CommandAct.RELEASE, sending, reason=reason)


async def abandon(session: Session, saga: Id, *, reason: Reason, sending: Sending) -> int:
    """End a saga without undoing anything; its outcome lists the residue."""
    return await _send(session, saga, CommandAct.ABANDON, sending, reason=reason)


async def _send(session: Session, saga: str, act: CommandAct, sending: Sending, **said: Any) -> int:
    if not said.get("reason", "-").strip():
        raise Misused("--reason is empty: readers of the history will want to know why")
    sent_id, printer = sending.command_id or new_id(), session.printer
    accepted = {"command_id": sent_id, "accepted": True}
    async with session.reading(to_act=True) as store:
        summary = await find_saga(store, saga)
        if summary.status.is_ended:
            if printer.is_json:
                printer.json(accepted | {"accepted": False})
            raise NotSo(f"saga {saga} is {summary.status.value} already: nothing was sent")
        command = Command(
            command_id=sent_id,
            act=act,
            saga_id=summary.saga_id,
            definition=summary.definition,
            actor=sending.actor,
            **said,
        )
        if sending.command_id is not None:
            history = await history_of(store, summary.saga_id)
            _check_id(session, command, _of_command(history, sent_id))
        if (refusal := await _refusal(session, store, summary, command)) is not None:
            if printer.is_json:
                printer.json(accepted | {"accepted": False})
            raise NotSo(f"nothing was sent, as saga {saga} would refuse it: {refusal}")
        await session.send(command, key=summary.key)
        if sending.wait is None:
            printer.result(accepted, f"command {sent_id} accepted")
            return ExitCode.OK
        entries = await _recorded(store, summary.saga_id, sent_id, sending.wait)
    _check_id(session, command, entries)
    recorded = [NAME_OF[type(entry.body)] for entry in entries]
    done = f", recorded as {', '.join(recorded)}" if recorded else ""
    printer.result(accepted | {"recorded": recorded}, f"command {sent_id} accepted{done}")
    if not entries:
        raise NotSo(
            f"no worker has taken the command's turn within {sending.wait:g} s; it stays in line"
        )
    for entry in entries:
        body = entry.body
        if isinstance(body, Noted) and body.verdict in (Verdict.REFUSED, Verdict.AFTER_END):
            raise NotSo(f"refused: {body.detail}")
    return ExitCode.OK


def _of_command(history: Sequence[Entry], command_id: str) -> list[Entry]:
    # Our own source is the one that is implied: the id of another source is not ours.
    return [entry for entry in history if entry.cause == command_id and entry.source is None]


def _check_id(session: Session, command: Command, entries: Sequence[Entry]) -> None:
    """Refuse where *entries* of this id say something else: the first one stands."""
    if not entries or entries[0].body == command_fact(command):
        return
    if session.printer.is_json:
        session.printer.json({"command_id": command.command_id, "accepted": False})
    raise NotSo(
        f"id_conflict: {command.command_id} is the id of another command, recorded as "
        f"{NAME_OF[type(entries[0].body)]}, which stands; give this one an --id of its own, or none"
    )


async def _refusal(
    session: Session, store: OpenedStore, summary: SagaSummary, command: Command
) -> str | None:
    """Why the saga would refuse *command*, and what it would take instead; None if it would not."""
    saga_id, at = summary.saga_id, SystemClock().now()
    history = (await store.store.load([saga_id])).get(saga_id)
    if history is None or isinstance(history, CorruptHistory):
        return None  # its worker will log it, and the command is deferred
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


async def _recorded(
    store: OpenedStore, saga: SagaId, command_id: str, wait_s: float
) -> list[Entry]:
    """The entries of the command's turn; none if it was not taken in time."""
    recorded: list[Entry] = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            while not recorded:
                await asyncio.sleep(WAIT_POLL_S)
                history = await history_of(store, saga)
                recorded = _of_command(history, command_id)
    return recorded
