"""`ls`, `show`, `history` and `timers`: sagas, where they stand, and what happened to them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from typing import Annotated, Any, Final, TypeVar

import orjson
import typer

from saga.adapters.clocks import SystemClock
from saga.console.cli.commands import DefinitionName, Id, Limit
from saga.console.cli.output import Misused, NotSo, Printer, command_line
from saga.console.cli.session import Session, find_saga, history_of, saga_id_from
from saga.contracts import canonical
from saga.contracts.cloudevents import parse_rfc3339
from saga.core.durations import duration_us
from saga.core.events import Json
from saga.core.history import NAME_OF, Entry, to_plain
from saga.core.identity import Instant, TimerId
from saga.core.status import SagaStatus
from saga.core.values import value
from saga.ports import SagaSummary
from saga.ports.store import DueTimer
from saga.runtime.view import iso, row_of, said_of, shown_of, view_of

PAGE_ROWS: Final = 500
Row = TypeVar("Row")
VERSION_DIGITS_MAX: Final = 9


@value
class Wanted:
    status: Annotated[
        SagaStatus | None,
        typer.Option(
            "--status", metavar="STATUS", help=f"Only sagas that are {', '.join(SagaStatus)}."
        ),
    ] = None
    definition: DefinitionName = None
    key: Annotated[
        str | None, typer.Option("--key", metavar="KEY", help="Only sagas of this business key.")
    ] = None
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="TIME",
            help="Only sagas started at this moment or later (ISO 8601 with zone), or within the "
            "last 30m, 2h or 1d.",
        ),
    ] = None
    reason: Annotated[
        str | None,
        typer.Option("--reason", metavar="TEXT", help="Only sagas whose reason has this in it."),
    ] = None
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            metavar="FIELD=VALUE",
            help="Only sagas that show this with `ctx.show`: a text that is VALUE, or a number or "
            "boolean that is. All that are given have to hold.",
        ),
    ] = None

    @property
    def words(self) -> dict[str, object]:
        return {f"--{part.name}": getattr(self, part.name) for part in fields(self)}


async def ls(
    session: Session,
    wanted: Wanted,
    limit: Limit = 100,
    after: Annotated[
        str | None, typer.Option("--after", metavar="ID", help="Begin after this saga.")
    ] = None,
) -> None:
    """List sagas, in the order they were started."""
    printer = session.printer
    since, shown = since_of(wanted.since), dict(map(_condition, wanted.where or ()))
    async with session.reading() as store:
        start = saga_id_from(after) if after is not None else None
        if start is not None and not await store.catalogue.summaries([start]):
            raise NotSo(f"--after: there is no saga {after}")

        async def page(after: SagaSummary | None, count: int) -> Sequence[SagaSummary]:
            begin = start if after is None else after.saga_id
            found = await store.catalogue.sagas(
                status=wanted.status,
                definition=wanted.definition,
                key=wanted.key,
                since=since,
                reason=wanted.reason,
                shown=shown,
                after=begin,
                limit=count,
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
        printer.note("no such saga" if any(wanted.words.values()) or after else "no saga yet")
    if is_cut:
        printer.note(more("ls", wanted.words | {"--limit": limit}, rows[-1].saga_id))


async def show(session: Session, saga: Id) -> None:
    """Show one saga: where it stands, its steps, and how it ended."""
    async with session.reading() as store:
        summary = await find_saga(store, saga)
        history = await history_of(store, summary.saga_id, is_whole=False)
    view, printer = view_of(summary, history), session.printer
    if printer.is_json:
        printer.json(view.to_json())
        return
    for name, cell in row_of(summary).items():
        if name == "shown":
            for field, shown in cell.items():
                printer.say(f"{'shown':<12} {field} = {_as_json(shown)}")
        elif cell is not None and cell is not False:
            printer.say(f"{name:<12} {cell}")
    if view.residue:
        printer.say(f"{'residue':<12} {', '.join(view.residue)}", style="red")
    if view.outcome is not None:
        outcome = view.outcome
        printer.say(f"{'outcome':<12} {outcome['contract']} {_as_json(outcome['payload'])}")
    printer.say("")
    printer.table(
        ("step", "direction", "status", "attempts", "contract"),
        [(row.step, row.direction, said_of(row), row.attempts, row.contract) for row in view.steps],
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
    words = [
        word
        for option, given in chosen.items()
        for each in (given if isinstance(given, list) else [given])
        if each
        for word in (option, str(each))
    ]
    return f"there are more: {command_line(*command.split(), *words, '--after', after)}"


def entry_row(entry: Entry) -> dict[str, Any]:
    data = to_plain(entry, orjson.Fragment)
    del data["at"], data["cause"]
    name = NAME_OF[type(entry.body)]
    row = {"version": entry.version, "at": iso(entry.at), "type": name, "cause": entry.cause}
    return row | {"data": data}


def _print_sagas(printer: Printer, rows: Sequence[SagaSummary]) -> None:
    # Ids are for programs; `definition/key` names a saga just as well.
    cells: dict[str, list[str | None]] = {
        "id": [row.saga_id for row in rows],
        "saga": [f"{row.definition}/{row.key}" for row in rows],
        "status": [f"{row.status.value}{', paused' if row.paused else ''}" for row in rows],
        "started": [iso(row.started_at)[:19].replace("T", " ") for row in rows],
        "shown": [_told(row) or None for row in rows],
        "reason, or what it waits for": [row.reason or row.waiting_for for row in rows],
    }
    if not printer.is_wide:
        del cells["id"]
    if not any(cells["shown"]):
        del cells["shown"]
    printer.table(list(cells), list(zip(*cells.values(), strict=True)))


def _told(row: SagaSummary) -> str:
    return " ".join(f"{name}={_as_json(value)}" for name, value in shown_of(row).items())


def _as_json(value: object) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _condition(text: str) -> tuple[str, list[Json]]:
    """Field and the values that it may have: what was typed as text, and what it is as JSON."""
    field, is_there, wanted = text.partition("=")
    if not is_there or not field:
        raise Misused(f"--where {text!r}: give a field and its value, as in step=paid")
    values = [canonical(wanted)]
    with suppress(orjson.JSONDecodeError):
        plain = orjson.loads(wanted)
        if isinstance(plain, bool | int | float):
            values.append(canonical(plain))
    return field, values


def since_of(text: str | None) -> Instant | None:
    if text is None:
        return None
    if (moment := parse_rfc3339(text)) is not None:
        return moment
    try:
        return Instant(max(0, SystemClock().now() - duration_us(text)))
    except ValueError:
        raise Misused(
            f"--since {text!r}: give a time with its zone such as 2026-01-31T12:00:00Z, or how "
            f"long ago, such as 30m, 2h or 1d"
        ) from None


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
