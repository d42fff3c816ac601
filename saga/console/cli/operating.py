"""`signal`, `cancel` and the operators' acts: commands to one saga, sent through the bus."""

from __future__ import annotations

import shlex
from typing import Annotated, Any

import orjson
import typer

from saga.adapters.clocks import SystemClock
from saga.console.cli.commands import Id
from saga.console.cli.output import Misused, NotSo
from saga.console.cli.sending import Sending, send, send_to_all
from saga.console.cli.session import Session, find_saga, history_of, words_of
from saga.contracts import CommandAct, Unreadable, canonical_text, contract_of, decode
from saga.contracts.cloudevents import parse_rfc3339
from saga.contracts.registry import Entered
from saga.core.events import CancelMode, MarkedAs
from saga.core.fold import fold
from saga.core.history import History
from saga.core.identity import StepId, is_saga_id
from saga.core.values import value
from saga.errors import CorruptHistory
from saga.runtime.receipts import WAIT_S
from saga.runtime.trial import ALL, possible_acts

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
    return await send(session, saga, CommandAct.SIGNAL, sending, **_said("a signal", name, payload))


@value
class Asking:
    actor: Annotated[
        str | None, typer.Option("--actor", metavar="WHO", help="Who asks; recorded.")
    ] = None
    command_id: Annotated[
        str | None,
        typer.Option("--id", metavar="ID", help="The update's id: the same one gets the answer."),
    ] = None
    timeout: Annotated[
        float,
        typer.Option("--timeout", metavar="SECONDS", min=0, help="How long to wait for it."),
    ] = WAIT_S
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait for the answer.")] = False


async def update(
    session: Session,
    saga: Id,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the saga is asked.")],
    payload: Annotated[str, typer.Argument(metavar="JSON", help="With what.")] = "null",
    *,
    asking: Asking,
) -> int:
    """Ask a running saga, and print its answer; a refusal is exit 1."""
    sending = Sending(
        actor=asking.actor,
        command_id=asking.command_id,
        wait=asking.timeout,
        no_wait=asking.no_wait,
    )
    return await send(
        session, saga, CommandAct.UPDATE, sending, **_said("an update", name, payload)
    )


def _said(what: str, name: str, payload: str) -> dict[str, Any]:
    """What a signal or an update says."""
    if not name.strip():
        raise Misused(f"{what} needs a name")
    text = canonical_text(payload.encode())
    if isinstance(text, Unreadable):
        raise NotSo(f"the payload of {what}: {text.message} ({text.code})")
    return {"name": name, "payload": orjson.loads(text)}


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


async def acts(session: Session, saga: Id) -> None:
    """List the acts that a saga would take now, and what each would do; nothing is changed."""
    async with session.reading() as store:
        summary = await find_saga(store, saga)
        loaded = (await store.store.load([summary.saga_id])).get(summary.saga_id)
    if isinstance(loaded, CorruptHistory):
        raise loaded
    now = SystemClock().now()
    found = possible_acts(session.sagas, summary.saga_id, loaded or History(), now, of=ALL)
    rows = [
        {
            "act": each.act.value,
            "step": each.step,
            "timer": each.timer,
            "does": each.does,
            "command": shlex.join(["saga", *words_of(summary, each)]),
        }
        for each in found
    ]
    columns = ("act", "does", "command")
    session.printer.listing(rows, columns, lambda row: [row[name] for name in columns])


async def mark(
    session: Session,
    saga: Id,
    step: Annotated[str, typer.Argument(metavar="STEP", help="The step.")],
    state: Annotated[MarkedAs, typer.Argument(metavar="done|undone", help="What it is.")],
    *,
    reply: Annotated[
        str | None,
        typer.Option("--reply", metavar="JSON", help="For done: the reply that its service owes."),
    ] = None,
    evidence: Annotated[
        str, typer.Option("--evidence", metavar="TEXT", help="What you have seen; recorded.")
    ] = "",
    reason: Reason,
    sending: Sending,
) -> int:
    """Take a step for done or undone, on evidence, and have the saga go on with that."""
    if state is MarkedAs.UNDONE and reply is not None:
        raise Misused("--reply is for a step that is done")
    evidence = evidence.strip() or (reply or "")
    if not evidence:
        raise Misused("--evidence: say what you have seen; readers of the history will ask")
    async with session.reading(to_act=True) as store:
        summary = await find_saga(store, saga)
        history = await history_of(store, summary.saga_id)
    known = fold(summary.saga_id, history).steps.get(StepId(step))
    entered = None
    if known is not None and state is MarkedAs.DONE:
        entered = _entered_reply(session, known.contract, reply)
    said = {"step": step, "state": state, "evidence": evidence, "reply": entered}
    return await send(session, saga, CommandAct.MARK, sending, reason=reason, **said)


def _entered_reply(session: Session, intent: str, text: str | None) -> Entered | None:
    """The reply that was typed, as the contract of the intent's reply wants it."""
    contracts = session.app.contracts
    reply = contracts.find(intent).reply if intent in contracts else None
    name = None if reply is None else contract_of(reply).contract_name
    if name is None:
        if text not in {None, "{}", "null"}:
            raise NotSo(f"--reply: {intent} has no reply of its own")
        return None
    if text is None:
        raise Misused(f"--reply: {intent} is answered by {name}: give it as JSON")
    decoded = decode(contracts, name, text.encode())
    if isinstance(decoded, Unreadable):
        raise NotSo(f"--reply: {decoded.message} ({decoded.code})")
    return Entered(contract=decoded.contract_name, payload=orjson.loads(decoded.payload))


async def rerun(
    session: Session,
    saga: Id,
    *,
    key: Annotated[str, typer.Option("--key", metavar="KEY", help="The key of the new saga.")],
    trigger: Annotated[
        str | None,
        typer.Option("--trigger", metavar="JSON", help="Its trigger, in place of the same again."),
    ] = None,
    reason: Reason,
    sending: Sending,
) -> int:
    """Start another saga as an ended one was started, under another key; each names the other."""
    entered = None
    if trigger is not None:
        async with session.reading(to_act=True) as store:
            summary = await find_saga(store, saga)
            history = await history_of(store, summary.saga_id)
        began = fold(summary.saga_id, history).trigger
        name = "" if began is None else began.contract
        decoded = decode(session.app.contracts, name, trigger.encode())
        if isinstance(decoded, Unreadable):
            raise NotSo(f"--trigger: {decoded.message} ({decoded.code})")
        entered = Entered(contract=decoded.contract_name, payload=orjson.loads(decoded.payload))
    said = {"key": key, "trigger": entered}
    return await send(session, saga, CommandAct.RERUN, sending, reason=reason, **said)


async def timers_fire(
    session: Session,
    timer: Annotated[str, typer.Argument(metavar="TIMER", help="As `saga timers` lists it.")],
    *,
    reason: Reason,
    sending: Sending,
) -> int:
    """Have an armed timer fire now."""
    said = {"timer": timer, "reason": reason}
    return await send(session, _saga_of(timer), CommandAct.FIRE_TIMER, sending, **said)


async def timers_move(
    session: Session,
    timer: Annotated[str, typer.Argument(metavar="TIMER", help="As `saga timers` lists it.")],
    *,
    to: Annotated[
        str, typer.Option("--to", metavar="TIME", help="When it is due: ISO 8601 with zone.")
    ],
    reason: Reason,
    sending: Sending,
) -> int:
    """Have an armed timer fire at another time."""
    moment = parse_rfc3339(to)
    if moment is None:
        raise Misused(f"--to {to!r}: give a time with its zone such as 2026-01-31T12:00:00Z")
    said = {"timer": timer, "due_at": moment, "reason": reason}
    return await send(session, _saga_of(timer), CommandAct.MOVE_TIMER, sending, **said)


def _saga_of(timer: str) -> str:
    """A timer's id begins with its saga's."""
    saga_id = timer.partition("/")[0]
    if not is_saga_id(saga_id):
        raise NotSo(f"there is no timer {timer} (`saga timers` lists those that there are)")
    return saga_id


async def abandon(session: Session, saga: Id, *, reason: Reason, sending: Sending) -> int:
    """End a saga without undoing anything; its outcome lists the residue."""
    return await send(session, saga, CommandAct.ABANDON, sending, reason=reason)
