"""`publish` puts events on their topics; `outbox` does it from a table in a program's database."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, BinaryIO, Final

import typer

from saga.adapters.opening import outbox_address
from saga.application import Application
from saga.console.cli.output import ExitCode, Misused, NotSo
from saga.console.cli.serving import on_signals
from saga.console.cli.session import Session, closing
from saga.contracts import Kind
from saga.errors import MessageError, MessageTooLarge, UnknownContract
from saga.publishing import OutboxRelay
from saga.publishing.writer import WrittenEvent
from saga.runtime.publisher import Publisher

if TYPE_CHECKING:
    from saga.adapters.postgres.outbox import OutboxSession

BATCH_LINES: Final = 500
STDIN: Final = "-"
REFUSED_SHOWN_MAX: Final = 100


async def publish(
    session: Session,
    contract: Annotated[
        str, typer.Argument(metavar="CONTRACT", help="For example orders.evt.order-placed.v1")
    ],
    payload: Annotated[
        str, typer.Argument(metavar="JSON|-", help="An object, or - for one a line on stdin.")
    ],
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="KEY", help="The business key, where no field says it."),
    ] = None,
    message_id: Annotated[
        str | None,
        typer.Option("--id", metavar="ID", help="Its id: the same one again is a repeat."),
    ] = None,
) -> int:
    """Publish a message, or one for each line of standard input. Each is checked first."""
    name = _publishable(session.app, contract)
    if payload == STDIN and message_id is not None:
        raise Misused("--id names one message; lines from standard input get an id each")
    if message_id is not None and not message_id.strip():
        raise Misused("--id is empty")
    lines = (
        _lines(sys.stdin.buffer, session.settings.record_bytes)
        if payload == STDIN
        else iter([(1, payload.encode())])
    )
    is_bad = False
    async with session.publishing() as publisher:
        batch: list[tuple[int, WrittenEvent]] = []
        for number, line in lines:
            if not line.strip() and payload == STDIN:
                continue
            try:
                written = publisher.writer.record_json(name, line, key=key, message_id=message_id)
            except MessageError as error:
                is_bad = True
                session.printer.note(f"line {number}: {error.message} ({error.code})", style="red")
                continue
            batch.append((number, written))
            if len(batch) >= BATCH_LINES:
                is_bad |= not await _send(session, publisher, batch)
        is_bad |= not await _send(session, publisher, batch)
    return ExitCode.NOT_SO if is_bad else ExitCode.OK


def _publishable(app: Application, contract: str) -> str:
    try:
        known = app.contracts.find(contract)
    except UnknownContract as error:
        raise NotSo(str(error)) from None
    if known.kind is Kind.CONTROL:
        raise NotSo(
            f"{contract} is the engine's own: signal, cancel and so on have commands of their own"
        )
    return known.contract_name


def _lines(stream: BinaryIO, bytes_max: int) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers from 1; a line that is too long is cut just above the limit."""
    number = 0
    while line := _read(stream, bytes_max + 2):
        number += 1
        yield number, line.rstrip(b"\r\n")
        while len(line) >= bytes_max + 2 and not line.endswith(b"\n"):
            line = _read(stream, bytes_max + 2)


def _read(stream: BinaryIO, size: int) -> bytes:
    try:
        return stream.readline(size)
    except OSError as error:
        raise NotSo(f"standard input cannot be read: {error.strerror}") from error


async def _send(
    session: Session, publisher: Publisher, batch: list[tuple[int, WrittenEvent]]
) -> bool:
    """Publish and print them; whether all could be."""
    count = len(batch)
    sent = await _sent(session, publisher, list(batch))
    batch.clear()
    for number, written in sent:
        message_id, saga_id = written.message_id, written.saga_id
        row = {"line": number, "message_id": message_id, "saga_id": saga_id}
        started = f"  saga {saga_id}" if saga_id else ""
        session.printer.result(row, f"line {number}: message {message_id}{started}")
    session.printer.flush()
    return len(sent) == count


async def _sent(
    session: Session, publisher: Publisher, batch: Sequence[tuple[int, WrittenEvent]]
) -> Sequence[tuple[int, WrittenEvent]]:
    """Those that were published; one that its topic does not take keeps back no other."""
    try:
        await publisher.send([written for _, written in batch])
    except MessageTooLarge as error:
        if len(batch) > 1:
            return [each for line in batch for each in await _sent(session, publisher, [line])]
        session.printer.note(f"line {batch[0][0]}: {error} ({error.code})", style="red")
        return []
    return batch


async def outbox_migrate(
    session: Session,
    *,
    is_sql: Annotated[
        bool, typer.Option("--sql", help="Print the statement instead, for your own migration.")
    ] = False,
) -> None:
    """Make the outbox table in the database that SAGA_OUTBOX names."""
    if is_sql:
        from saga.adapters.postgres.outbox import OUTBOX_TABLE

        typer.echo(f"{OUTBOX_TABLE};")
        return
    address = outbox_address(session.settings)
    from saga.adapters.postgres.outbox import OUTBOX
    from saga.adapters.postgres.schema import migrate

    before = await asyncio.to_thread(migrate, address, OUTBOX)
    row = {"component": OUTBOX.name, "before": before, "now": OUTBOX.version}
    done = "made" if before == 0 else f"had version {before}"
    session.printer.result(row, f"outbox: {done}, now version {OUTBOX.version}")


async def outbox_relay(
    session: Session,
    *,
    until_empty: Annotated[
        bool, typer.Option("--until-empty", help="End when nothing waits any more.")
    ] = False,
) -> None:
    """Publish events of the outbox until told to stop. Run as many as you like."""
    relay = OutboxRelay(**session.settings.model_dump(exclude_unset=True))
    on_signals(lambda _: relay.stop())
    await relay.run(until_empty=until_empty)
    counts = {name: relay.counts[name] for name in ("published", "refused")}
    text = f"{counts['published']:,} published, {counts['refused']:,} refused"
    session.printer.result(counts, text)


async def outbox_status(session: Session) -> int:
    """Say how many events wait, and which the bus has refused; exit 1 if there are any."""
    printer = session.printer
    async with closing(await _open(session)) as outbox:
        status = await outbox.status()
        refused = await outbox.refused(limit=REFUSED_SHOWN_MAX)
    rows = [dict(zip(("message_id", "topic", "problem"), row, strict=True)) for row in refused]
    text = f"{status.waiting:,} wait, the first for {status.oldest_s:.1f} s"
    printer.result(
        status._asdict() | {"refused_events": rows}, f"{text}; {status.refused:,} refused"
    )
    if refused and not printer.is_json:
        printer.table(("message id", "topic", "problem"), refused)
    return ExitCode.NOT_SO if status.refused else ExitCode.OK


async def outbox_retry(session: Session) -> None:
    """Try events again that the bus has refused."""
    async with closing(await _open(session)) as outbox:
        count = await outbox.put_back()
    session.printer.result({"put_back": count}, f"{count:,} will be tried again")


async def _open(session: Session) -> OutboxSession:
    address = outbox_address(session.settings)
    from saga.adapters.postgres.outbox import OutboxSession

    return await OutboxSession.open(address)
