"""`publish`: checks events against their contract and puts them on their topic, one or many."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated, BinaryIO, Final

import typer

from saga.application import Application
from saga.console.cli.output import ExitCode, Misused, NotSo
from saga.console.cli.session import Session
from saga.contracts import Kind
from saga.errors import MessageError, UnknownContract
from saga.publishing.writer import WrittenEvent
from saga.runtime.publisher import Publisher

BATCH_LINES: Final = 500
STDIN: Final = "-"


async def publish(
    session: Session,
    contract: Annotated[
        str, typer.Argument(metavar="CONTRACT", help="For example orders.evt.order-placed.v1")
    ],
    payload: Annotated[
        str,
        typer.Argument(metavar="JSON|-", help="An object, or - for one a line on stdin."),
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
        else iter([(1, payload.encode("utf-8", "surrogateescape"))])
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
                await _send(session, publisher, batch)
        await _send(session, publisher, batch)
    return ExitCode.NOT_SO if is_bad else ExitCode.OK


def _publishable(app: Application, contract: str) -> str:
    try:
        known = app.contracts.find(contract)
    except UnknownContract as error:
        raise NotSo(str(error)) from None
    if known.kind is Kind.CONTROL:
        raise NotSo(f"{contract} is the engine's own: use `saga signal`, `saga cancel` and so on")
    return known.contract_name


def _lines(stream: BinaryIO, bytes_max: int) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers from 1; a line that is too long is cut just above the limit."""
    number = 0
    while line := stream.readline(bytes_max + 2):
        number += 1
        yield number, line.rstrip(b"\r\n")
        while len(line) >= bytes_max + 2 and not line.endswith(b"\n"):
            line = stream.readline(bytes_max + 2)


async def _send(
    session: Session, publisher: Publisher, batch: list[tuple[int, WrittenEvent]]
) -> None:
    """Publish *batch*, print it, and empty it."""
    await publisher.send([written for _, written in batch])
    for number, written in batch:
        message_id, saga_id = written.message_id, written.saga_id
        row = {"line": number, "message_id": message_id, "saga_id": saga_id}
        started = f"  saga {saga_id}" if saga_id else ""
        session.printer.result(row, f"line {number}: message {message_id}{started}")
    session.printer.flush()
    batch.clear()
