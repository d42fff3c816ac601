"""`signal`, `cancel` and the operators' acts: commands to one saga, sent through the bus.

A command is accepted once it is durable on its topic, and its saga exists and has not ended. Its
effect is decided in the saga's turn and recorded. `--wait` waits for that turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, Final

import orjson
import typer

from saga.adapters.ids import new_id
from saga.adapters.opening import OpenedStore
from saga.console.cli.looking import Id
from saga.console.cli.output import ExitCode, Misused, NotSo
from saga.console.cli.session import Session, find_saga, history_of
from saga.contracts import Command, CommandAct, Unreadable, canonical_text
from saga.core.events import CancelMode
from saga.core.fold import fold
from saga.core.history import NAME_OF, Entry
from saga.core.identity import SagaId
from saga.core.intents import Noted, Verdict
from saga.errors import CorruptHistory
from saga.ports import SagaSummary

WAIT_POLL_S: Final = 0.1

Reason = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="Why; recorded in the history.")
]
Actor = Annotated[
    str | None,
    typer.Option("--actor", metavar="WHO", help="Who asks; recorded.", show_default=False),
]
CommandId = Annotated[
    str | None,
    typer.Option(
        "--id",
        metavar="ID",
        help="The command's id: the same one sent again changes nothing.",
        show_default=False,
    ),
]
Wait = Annotated[
    float | None,
    typer.Option(
        "--wait",
        metavar="SECONDS",
        min=0,
        help="Wait until a worker has taken the command's turn.",
        show_default=False,
    ),
]
Step = Annotated[
    str | None,
    typer.Argument(metavar="STEP", help="The step, where there is a choice.", show_default=False),
]


async def signal(
    session: Session,
    saga: Id,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the saga waits for.")],
    payload: Annotated[str, typer.Argument(metavar="JSON", help="What it is told.")] = "null",
    *,
    actor: Actor = None,
    command_id: CommandId = None,
    wait: Wait = None,
) -> int:
    """Send a signal to a saga; it is kept until the saga waits for one of this name."""
    if not name.strip():
        raise Misused("a signal needs a name")
    text = canonical_text(payload.encode("utf-8", "surrogateescape"))
    if isinstance(text, Unreadable):
        raise NotSo(f"the signal's payload: {text.message} ({text.code})")
    fields = {"name": name, "payload": orjson.loads(text), "actor": actor}
    return await _send(session, saga, CommandAct.SIGNAL, fields, command_id=command_id, wait=wait)


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
    actor: Actor = None,
    command_id: CommandId = None,
    wait: Wait = None,
) -> int:
    """Ask a saga to end and roll back."""
    fields = {"reason": _checked(reason), "mode": mode, "actor": actor}
    return await _send(session, saga, CommandAct.CANCEL, fields, command_id=command_id, wait=wait)


async def retry(
    session: Session,
    saga: Id,
    step: Step = None,
    *,
    reason: Reason,
    actor: Actor = None,
    command_id: CommandId = None,
    wait: Wait = None,
) -> int:
    """Try a step again at once: its undo is stuck, it is backing off, or its saga is parked."""
    fields = {"reason": _checked(reason), "step": step, "actor": actor}
    return await _send(session, saga, CommandAct.RETRY, fields, command_id=command_id, wait=wait)


async def skip(
    session: Session,
    saga: Id,
    step: Step = None,
    *,
    reason: Reason,
    actor: Actor = None,
    command_id: CommandId = None,
    wait: Wait = None,
) -> int:
    """Leave a step that cannot be undone as it is, and go on; it becomes residue."""
    fields = {"reason": _checked(reason), "step": step, "actor": actor}
    return await _send(session, saga, CommandAct.SKIP, fields, command_id=command_id, wait=wait)


async def compensate(
    session: Session,
    saga: Id,
    *,
    reason: Reason,
    actor: Actor = None,
    command_id: CommandId = None,
    wait: Wait = None,
) -> int:
    """Roll a saga back now, whatever its function would do next."""
    fields = {"reason": _checked(reason), "actor": actor}
    return await _send(
        session, saga, CommandAct.COMPENSATE, fields, command_id=command_id, wait=wait
    )


async def release(
    session: Session,
    saga: Id,
    *,
    reason: Reason,
    actor: Actor = None,
    command_id: CommandId = None,
    wait: Wait = None,
) -> int:
    """Let a saga go on that a failed turn has parked; deferred records follow in order."""
    fields = {"reason": _checked(reason), "actor": actor}
    return await _send(session, saga, CommandAct.RELEASE, fields, command_id=command_id, wait=wait)


async def abandon(
    session: Session,
    saga: Id,
    *,
    reason: Reason,
    actor: Actor = None,
    command_id: CommandId = None,
    wait: Wait = None,
) -> int:
    """End a saga without undoing anything; its outcome lists the residue."""
    fields = {"reason": _checked(reason), "actor": actor}
    return await _send(session, saga, CommandAct.ABANDON, fields, command_id=command_id, wait=wait)


def _checked(reason: str) -> str:
    if not reason.strip():
        raise Misused("--reason is empty: readers of the history will want to know why")
    return reason


async def _send(
    session: Session,
    saga: str,
    act: CommandAct,
    fields: dict[str, Any],
    *,
    command_id: str | None,
    wait: float | None,
) -> int:
    sent_id = command_id or new_id()
    printer = session.printer
    async with session.reading() as store:
        summary = await find_saga(store, saga)
        if summary.status.is_ended:
            if printer.is_json:
                printer.json({"command_id": sent_id, "accepted": False})
            raise NotSo(f"saga {saga} is {summary.status.value} already: nothing was sent")
        await _check_step(store, summary, fields.get("step"))
        command = Command(command_id=sent_id, act=act, saga_id=summary.saga_id, **fields)
        await session.send(command, key=summary.key)
        if wait is None:
            _accepted(session, sent_id, None)
            return ExitCode.OK
        recorded = await _recorded(store, summary.saga_id, sent_id, wait)
    _accepted(session, sent_id, [NAME_OF[type(entry.body)] for entry in recorded])
    if not recorded:
        raise NotSo(f"no worker has taken the command's turn within {wait:g} s; it stays in line")
    for entry in recorded:
        body = entry.body
        if isinstance(body, Noted) and body.verdict in (Verdict.REFUSED, Verdict.AFTER_END):
            raise NotSo(f"refused: {body.detail}")
    return ExitCode.OK


async def _check_step(store: OpenedStore, summary: SagaSummary, step: str | None) -> None:
    if step is None:
        return
    try:
        known = fold(summary.saga_id, await history_of(store, summary.saga_id)).steps
    except CorruptHistory:
        return  # its worker will log it, and the command is deferred
    if step not in known:
        steps = ", ".join(sorted(known)) or "none yet"
        raise NotSo(f"saga {summary.saga_id} has no step {step!r}; its steps: {steps}")


async def _recorded(
    store: OpenedStore, saga: SagaId, command_id: str, wait_s: float
) -> Sequence[Entry]:
    """The entries of the command's turn; none if it was not taken in time."""
    try:
        async with asyncio.timeout(wait_s):
            while True:
                history = await history_of(store, saga)
                recorded = [entry for entry in history if entry.cause == command_id]
                if recorded:
                    return recorded
                await asyncio.sleep(WAIT_POLL_S)
    except TimeoutError:
        return ()


def _accepted(session: Session, command_id: str, recorded: list[str] | None) -> None:
    if session.printer.is_json:
        more = {} if recorded is None else {"recorded": recorded}
        session.printer.json({"command_id": command_id, "accepted": True} | more)
        return
    done = f", recorded as {', '.join(recorded)}" if recorded else ""
    session.printer.say(f"command {command_id} accepted{done}")
