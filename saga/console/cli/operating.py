"""`signal`, `cancel` and the operators' acts: commands to one saga, sent through the bus.

A command is accepted once it is durable on its topic and its saga exists and has not ended; what
the saga makes of it is decided in its turn and recorded. `--wait` waits for that turn.
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
from saga.console.steps import steps_of
from saga.contracts import CommandAct, Unreadable, canonical_text
from saga.core.events import CancelMode
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
    said = {"name": name, "payload": orjson.loads(text), "actor": actor}
    return await _send(session, saga, CommandAct.SIGNAL, said, command_id=command_id, wait=wait)


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
    said = {"reason": _checked(reason), "mode": mode, "actor": actor}
    return await _send(session, saga, CommandAct.CANCEL, said, command_id=command_id, wait=wait)


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
    """Try a step again at once: one whose undo is stuck, that is backing off, or parked on."""
    said = {"reason": _checked(reason), "step": step, "actor": actor}
    return await _send(session, saga, CommandAct.RETRY, said, command_id=command_id, wait=wait)


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
    said = {"reason": _checked(reason), "step": step, "actor": actor}
    return await _send(session, saga, CommandAct.SKIP, said, command_id=command_id, wait=wait)


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
    said = {"reason": _checked(reason), "actor": actor}
    return await _send(session, saga, CommandAct.COMPENSATE, said, command_id=command_id, wait=wait)


async def release(
    session: Session,
    saga: Id,
    *,
    reason: Reason,
    actor: Actor = None,
    command_id: CommandId = None,
    wait: Wait = None,
) -> int:
    """Let a saga go on that a failed turn has parked; what was held behind it follows in order."""
    said = {"reason": _checked(reason), "actor": actor}
    return await _send(session, saga, CommandAct.RELEASE, said, command_id=command_id, wait=wait)


async def abandon(
    session: Session,
    saga: Id,
    *,
    reason: Reason,
    actor: Actor = None,
    command_id: CommandId = None,
    wait: Wait = None,
) -> int:
    """End a saga without undoing anything; its outcome lists what is left."""
    said = {"reason": _checked(reason), "actor": actor}
    return await _send(session, saga, CommandAct.ABANDON, said, command_id=command_id, wait=wait)


def _checked(reason: str) -> str:
    if not reason.strip():
        raise Misused("--reason is empty: whoever reads the history will want to know why")
    return reason


async def _send(
    session: Session,
    saga: str,
    act: CommandAct,
    said: dict[str, Any],
    *,
    command_id: str | None,
    wait: float | None,
) -> int:
    chosen = command_id or new_id()
    printer = session.printer
    async with session.reading() as store:
        summary = await find_saga(store, saga)
        if summary.status.is_ended:
            if printer.is_json:
                printer.json({"command_id": chosen, "accepted": False})
            raise NotSo(f"saga {saga} is {summary.status.value} already: nothing was sent")
        await _check_step(store, summary, said.get("step"))
        async with session.sending() as service:
            await service.command(summary.saga_id, act, command_id=chosen, **said)
        if wait is None:
            _accepted(session, chosen, None)
            return ExitCode.OK
        recorded = await _recorded(store, summary.saga_id, chosen, wait)
    _accepted(session, chosen, [NAME_OF[type(entry.body)] for entry in recorded])
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
        known = {row.step for row in steps_of(await history_of(store, summary.saga_id))}
    except CorruptHistory:
        return  # its worker will say so; the command is recorded as held
    if step not in known:
        there = ", ".join(sorted(known)) or "none yet"
        raise NotSo(f"saga {summary.saga_id} has no step {step!r}; its steps: {there}")


async def _recorded(
    store: OpenedStore, saga: SagaId, command_id: str, wait_s: float
) -> Sequence[Entry]:
    """What the turn of the command has recorded; nothing if it was not taken in time."""
    try:
        async with asyncio.timeout(wait_s):
            while True:
                history = await history_of(store, saga)
                found = [entry for entry in history if entry.cause == command_id]
                if found:
                    return found
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
