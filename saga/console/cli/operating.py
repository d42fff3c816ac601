"""`signal`, `cancel` and the operators' acts: commands to one saga, sent through the bus."""

from __future__ import annotations

from typing import Annotated

import orjson
import typer

from saga.console.cli.commands import Id
from saga.console.cli.output import Misused, NotSo
from saga.console.cli.sending import Sending, send, send_to_all
from saga.console.cli.session import Session
from saga.contracts import CommandAct, Unreadable, canonical_text
from saga.core.events import CancelMode

Reason = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="Why; recorded in the history.")
]
Step = Annotated[
    str | None, typer.Argument(metavar="STEP", help="The step, where there is a choice.")
]

MaybeId = Annotated[
    str | None,
    typer.Argument(metavar="[ID]", help="A saga id, or definition/key.", show_default=False),
]
Definition = Annotated[
    str | None, typer.Option("--definition", metavar="NAME", help="All sagas of this definition.")
]


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
    return await send(session, saga, CommandAct.SIGNAL, sending, **said)


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
    return await send(session, saga, CommandAct.CANCEL, sending, reason=reason, mode=mode)


async def retry(
    session: Session, saga: Id, step: Step = None, *, reason: Reason, sending: Sending
) -> int:
    """Try a step again at once: its undo is stuck, it is backing off, or its saga is parked."""
    return await send(session, saga, CommandAct.RETRY, sending, reason=reason, step=step)


async def skip(
    session: Session, saga: Id, step: Step = None, *, reason: Reason, sending: Sending
) -> int:
    """Leave a step that cannot be undone as it is, and go on; it becomes residue."""
    return await send(session, saga, CommandAct.SKIP, sending, reason=reason, step=step)


async def compensate(session: Session, saga: Id, *, reason: Reason, sending: Sending) -> int:
    """Roll a saga back now, whatever its function would do next."""
    return await send(session, saga, CommandAct.COMPENSATE, sending, reason=reason)


async def release(session: Session, saga: Id, *, reason: Reason, sending: Sending) -> int:
    """Let a saga go on that a failed turn has parked; deferred records follow in order."""
    return await send(session, saga, CommandAct.RELEASE, sending, reason=reason)


async def pause(
    session: Session,
    saga: MaybeId = None,
    *,
    definition: Definition = None,
    reason: Reason,
    sending: Sending,
) -> int:
    """Have a saga, or all of a definition, act on nothing that comes, until it is resumed."""
    named = {"saga": saga, "definition": definition}
    return await _for_one_or_all(session, CommandAct.PAUSE, sending, **named, reason=reason)


async def resume(
    session: Session,
    saga: MaybeId = None,
    *,
    definition: Definition = None,
    reason: Reason,
    sending: Sending,
) -> int:
    """End a pause: what came meanwhile acts now, in order."""
    named = {"saga": saga, "definition": definition}
    return await _for_one_or_all(session, CommandAct.RESUME, sending, **named, reason=reason)


async def _for_one_or_all(
    session: Session,
    act: CommandAct,
    sending: Sending,
    *,
    saga: str | None,
    definition: str | None,
    reason: str,
) -> int:
    if (saga is None) is (definition is None):
        raise Misused(f"name the saga to {act.value}, or --definition for all sagas of one")
    if saga is not None:
        return await send(session, saga, act, sending, reason=reason)
    assert definition is not None
    return await send_to_all(session, definition, act, sending, reason=reason)


async def abandon(session: Session, saga: Id, *, reason: Reason, sending: Sending) -> int:
    """End a saga without undoing anything; its outcome lists the residue."""
    return await send(session, saga, CommandAct.ABANDON, sending, reason=reason)
