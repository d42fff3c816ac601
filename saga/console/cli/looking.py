"""`ls`, `show`, `history` and `timers`: sagas, where they stand, and what happened to them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Final, TypeVar

import orjson
import typer

from saga.console.cli.commands import DefinitionName, Id, Limit
from saga.console.cli.output import Misused, NotSo, Printer, command_line
from saga.console.cli.session import Session, find_saga, history_of, saga_id_from
from saga.contracts.cloudevents import parse_rfc3339, rfc3339
from saga.core.events import Message
from saga.core.fold import fold
from saga.core.history import NAME_OF, Entry, to_plain
from saga.core.identity import Instant, TimerId, instant
from saga.core.state import StepRow, step_rows
from saga.core.status import SagaStatus
from saga.ports import SagaSummary
from saga.ports.store import DueTimer

PAGE_ROWS: Final = 500
Row = TypeVar("Row")
VERSION_DIGITS_MAX: Final = 9


async def ls(
    session: Session,
    status: Annotated[
        SagaStatus | None,
        typer.Option(
            "--status", metavar="STATUS", help=f"Only sagas that are {', '.join(SagaStatus)}."
        ),
    ] = None,
    definition: DefinitionName = None,
    limit: Limit = 100,
    after: Annotated[
        str | None, typer.Option("--after", metavar="ID", help="Begin after this saga.")
    ] = None,
) -> None:
    """List sagas, in the order they were started."""
    printer = session.printer
    async with session.reading() as store:
        start = saga_id_from(after) if after is not None else None
        if start is not None and not await store.catalogue.summaries([start]):
            raise NotSo(f"--after: there is no saga {after}")

        async def page(after: SagaSummary | None, count: int) -> Sequence[SagaSummary]:
            begin = start if after is None else after.saga_id
            found = await store.catalogue.sagas(
                status=status, definition=definition, after=begin, limit=count
            )
            printer.damaged(found.damaged)
            return found

        rows, is_cut = await first(limit, page)
    if printer.is_json:
        for row in rows:
            printer.json(row_of(row))
    elif rows:
        _print_sagas(printer, rows)
    else:
        printer.note("no such saga" if status or definition or after else "no saga yet")
    if is_cut:
        chosen = {"--status": status, "--definition": definition, "--limit": limit}
        printer.note(more("ls", chosen, rows[-1].saga_id))


async def show(session: Session, saga: Id) -> None:
    """Show one saga: where it stands, its steps, and how it ended."""
    async with session.reading() as store:
        summary = await find_saga(store, saga)
        history = await history_of(store, summary.saga_id)
    state = fold(summary.saga_id, history)
    steps, residue, outcome = step_rows(state), state.residue, state.outcome
    printer = session.printer
    row = row_of(summary)
    if printer.is_json:
        more = {"steps": [_step_row(step) for step in steps], "residue": list(residue)}
        printer.json(row | more | {"outcome": _message(outcome)})
        return
    for name, value in row.items():
        if value is not None:
            printer.say(f"{name:<12} {value}")
    if residue:
        printer.say(f"{'residue':<12} {', '.join(residue)}", style="red")
    if outcome is not None:
        printer.say(f"{'outcome':<12} {outcome.contract} {outcome.payload}")
    printer.say("")
    printer.table(
        ("step", "direction", "status", "attempts", "contract"),
        [(row.step, row.direction, _status(row), row.attempts, row.contract) for row in steps],
    )


async def history(
    session: Session,
    saga: Id,
    at: Annotated[
        str | None,
        typer.Option(
            "--at",
            metavar="VERSION|TIME",
            help="Only what had happened up to this entry, or this moment (ISO 8601 with zone).",
        ),
    ] = None,
) -> None:
    """Print the entries of one saga, in order."""
    version, moment = _point(at)
    async with session.reading() as store:
        summary = await find_saga(store, saga)
        entries = await history_of(store, summary.saga_id)
    entries = [entry for entry in entries if entry.version <= version and entry.at <= moment]
    if not entries:
        raise NotSo(f"saga {saga} had not begun at {at}")
    names = ("version", "at", "type", "cause") if session.printer.is_wide else ("version", "type")
    session.printer.listing(
        [entry_row(entry) for entry in entries],
        (*names, "data"),
        lambda row: [*(row[name] for name in names), orjson.dumps(row["data"]).decode()],
    )


async def timers(
    session: Session,
    *,
    limit: Limit = 100,
    after: Annotated[
        str | None, typer.Option("--after", metavar="TIMER", help="Begin after this timer.")
    ] = None,
) -> None:
    """List armed timers, the earliest first."""
    start = None if after is None else TimerId(after)
    async with session.reading() as store:

        async def page(after: DueTimer | None, count: int) -> Sequence[DueTimer]:
            begin = start if after is None else after.timer_id
            return await store.catalogue.timers(after=begin, limit=count)

        armed, is_cut = await first(limit, page)
    session.printer.listing(
        [
            {"timer_id": timer.timer_id, "saga_id": timer.saga_id, "due_at": iso(timer.due_at)}
            for timer in armed
        ],
        ("due (UTC)", "timer"),
        lambda row: (row["due_at"][:19], row["timer_id"]),
        nothing="no timer is armed" if after is None else f"none is armed after {after}, or not it",
    )
    if is_cut:
        session.printer.note(more("timers", {"--limit": limit}, armed[-1].timer_id))


async def first(
    limit: int, page: Callable[[Row | None, int], Awaitable[Sequence[Row]]]
) -> tuple[list[Row], bool]:
    """At most *limit* rows, read page by page, and whether there are more behind them."""
    rows: list[Row] = []
    while len(rows) <= limit:
        wanted = min(limit - len(rows) + 1, PAGE_ROWS)
        got = await page(rows[-1] if rows else None, wanted)
        rows += got
        if len(got) < wanted:
            break
    return rows[:limit], len(rows) > limit


def more(command: str, chosen: Mapping[str, object], after: object) -> str:
    """That a listing was cut, and the command that goes on with what was *chosen*."""
    words = [word for option, given in chosen.items() if given for word in (option, str(given))]
    return f"there are more: {command_line(*command.split(), *words, '--after', after)}"


def row_of(summary: SagaSummary) -> dict[str, Any]:
    return {
        "id": summary.saga_id,
        "definition": summary.definition,
        "version": summary.definition_version,
        "key": summary.key,
        "status": summary.status.value,
        "started_at": iso(summary.started_at),
        "updated_at": iso(summary.updated_at),
        "waiting_for": summary.waiting_for,
        "reason": summary.reason,
    }


def entry_row(entry: Entry) -> dict[str, Any]:
    data = to_plain(entry, orjson.Fragment)
    del data["at"], data["cause"]
    name = NAME_OF[type(entry.body)]
    row = {"version": entry.version, "at": iso(entry.at), "type": name, "cause": entry.cause}
    return row | {"data": data}


def iso(at: Instant) -> str:
    """A moment in ISO 8601, UTC."""
    return rfc3339(instant(at)).decode()


def _print_sagas(printer: Printer, rows: Sequence[SagaSummary]) -> None:
    # Ids are for programs; `definition/key` names a saga just as well.
    names = ("id", "saga", "status", "started", "reason, or what it waits for")
    cells = [
        (
            row.saga_id,
            f"{row.definition}/{row.key}",
            row.status.value,
            iso(row.started_at)[:19].replace("T", " "),
            row.reason or row.waiting_for,
        )
        for row in rows
    ]
    left_out = 0 if printer.is_wide else 1
    printer.table(names[left_out:], [row[left_out:] for row in cells])


def _point(at: str | None) -> tuple[int, Instant]:
    latest = 2**62
    if at is None:
        return latest, Instant(latest)
    if at.isascii() and at.isdecimal() and len(at) <= VERSION_DIGITS_MAX:
        return int(at), Instant(latest)
    moment = parse_rfc3339(at)
    if moment is None:
        raise Misused(
            f"--at {at!r}: give an entry's version, or a time with its zone such as "
            f"2026-01-31T12:00:00Z"
        )
    return latest, moment


def _message(message: Message | None) -> dict[str, Any] | None:
    if message is None:
        return None
    return {"contract": message.contract, "payload": orjson.Fragment(message.payload)}


def _step_row(row: StepRow) -> dict[str, Any]:
    fields = asdict(row)
    is_dropped = fields.pop("is_dropped")
    return fields | ({"dropped": True} if is_dropped else {})


def _status(row: StepRow) -> str:
    return f"{row.status}, dropped" if row.is_dropped else row.status.value
