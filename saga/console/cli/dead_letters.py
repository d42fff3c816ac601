"""`dlq`: dead letters, which no saga can take, and deferred records, which wait for their saga.

Redriving publishes a dead letter again as it was, and then forgets it here. After a crash in
between it is redriven twice; its id shows that it is a repeat.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Final

import typer

from saga.adapters.clocks import SystemClock
from saga.adapters.opening import open_bus_and_store
from saga.console.cli.commands import Limit
from saga.console.cli.looking import more
from saga.console.cli.output import ExitCode, Misused, NotSo, shown
from saga.console.cli.session import Session, closing, must_exist
from saga.contracts.cloudevents import read_headers
from saga.errors import TopicMissing
from saga.ports import Batch, Bus, Catalogue, Record, UnhandledRecord
from saga.ports.bus import Headers
from saga.ports.store import UnhandledKind
from saga.runtime.view import iso

PAGE_RECORDS: Final = 200
VALUE_CHARS_SHOWN: Final = 2_000

UnhandledId = Annotated[int, typer.Argument(metavar="NUMBER", min=1, help="As `dlq ls` prints it.")]
ReasonCode = Annotated[
    str | None, typer.Option("--reason", metavar="CODE", help="Only records with this reason.")
]


async def dlq_ls(
    session: Session,
    *,
    reason: ReasonCode = None,
    deferred: Annotated[
        bool, typer.Option("--deferred", help="Deferred records instead of dead letters.")
    ] = False,
    limit: Limit = 100,
    after: Annotated[
        int, typer.Option("--after", metavar="NUMBER", min=0, help="Begin after this one.")
    ] = 0,
) -> None:
    """List dead letters, or deferred records, in the order in which they were kept."""
    kind = UnhandledKind.DEFERRED if deferred else UnhandledKind.DEAD
    rows: list[dict[str, Any]] = []
    is_cut = False
    async with session.reading() as store:
        async for record in _unhandled(session, store.catalogue, kind, reason, after):
            if is_cut := len(rows) == limit:
                break
            rows.append(_row(record))
    names = ("id", "kept_at", "topic", "key", "reason", "message")
    session.printer.listing(
        rows,
        names,
        lambda row: [str(row[name]) for name in names],
        nothing="no record is deferred" if deferred else "there is no dead letter",
    )
    if is_cut:
        chosen = {"--reason": reason, "--limit": limit}
        command = "dlq ls --deferred" if deferred else "dlq ls"
        session.printer.note(more(command, chosen, rows[-1]["id"]))


async def dlq_show(session: Session, number: UnhandledId) -> None:
    """Show one dead letter or deferred record with its headers and value."""
    async with session.reading() as store:
        record = await _find(store.catalogue, number)
    row = _row(record) | {
        "headers": _by_name(record.headers),
        "value": _text(record.value),
        "timestamp": iso(record.timestamp),
    }
    printer = session.printer
    if printer.is_json:
        printer.json(row)
        return
    del row["headers"]
    value = row.pop("value")
    for name, fact in row.items():
        if fact is not None:
            printer.say(f"{name:<12} {fact}")
    for name, header in record.headers:
        printer.say(f"{'header':<12} {name}: {_text(header)}")
    text = shown(value or "")
    cut = f" … ({len(text):,} characters)" if len(text) > VALUE_CHARS_SHOWN else ""
    printer.say(f"{'value':<12} {text[:VALUE_CHARS_SHOWN]}{cut}")


async def dlq_redrive(
    session: Session,
    numbers: Annotated[
        list[int] | None, typer.Argument(metavar="NUMBER", min=1, help="As `dlq ls` prints them.")
    ] = None,
    *,
    code: Annotated[
        str | None,
        typer.Option("--code", metavar="CODE", help="Those with this reason."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All dead letters.")] = False,
) -> int:
    """Publish dead letters again, byte for byte, on the topics they came from."""
    if not numbers and not everything and code is None:
        raise Misused("say which: their numbers, --code CODE, or --all")
    if numbers and (everything or code is not None):
        raise Misused("say numbers, or --code and --all, not both")
    must_exist(session.settings.store, "store")
    must_exist(session.settings.bus, "bus")
    redriven = 0
    async with closing(open_bus_and_store(session.settings)) as opened:
        every = _unhandled(session, opened.catalogue, UnhandledKind.DEAD, code, 0)
        async for listed in _chosen(opened.catalogue, numbers) if numbers else every:
            # One value at a time: a page of them may be more than there is memory.
            record = await _find(opened.catalogue, listed.record_id)
            await _redrive(opened.bus, record)
            await opened.store.append(Batch(handled=[record.record_id]), at=SystemClock().now())
            redriven += 1
            number, topic = record.record_id, record.position.topic
            row = {"id": number, "topic": topic, "redriven": True, "message_id": _id_of(record)}
            session.printer.result(row, f"dead letter {number} is on {topic} again")
    if not redriven:
        raise NotSo("no dead letter has that reason" if code else "there is no dead letter")
    return ExitCode.OK


async def _redrive(bus: Bus, record: UnhandledRecord) -> None:
    position = record.position
    # A key decides the partition; a record without one keeps the partition it had.
    partition = position.partition if record.key is None else None
    again = Record(position.topic, record.key, record.value, record.headers, partition)
    try:
        await bus.publish([again])
    except TopicMissing:
        raise NotSo(
            f"dead letter {record.record_id}: there is no topic {position.topic} here"
        ) from None


async def _unhandled(
    session: Session, catalogue: Catalogue, kind: UnhandledKind, reason: str | None, after: int
) -> AsyncIterator[UnhandledRecord]:
    is_more = True
    while is_more:
        page = await catalogue.unhandled(kind=kind, after=after, limit=PAGE_RECORDS, values=False)
        is_more = len(page) == PAGE_RECORDS
        session.printer.damaged(page.damaged)
        for record in page:
            if reason is None or record.reason == reason:
                yield record
        after = page[-1].record_id if page else after


async def _chosen(catalogue: Catalogue, numbers: list[int]) -> AsyncIterator[UnhandledRecord]:
    unique = dict.fromkeys(numbers)
    for record in [await _find(catalogue, number, values=False) for number in unique]:
        if record.kind is not UnhandledKind.DEAD:
            raise NotSo(
                f"record {record.record_id} is deferred until saga {record.saga_id} can take it: "
                f"look with `saga show {record.saga_id}`"
            )
        yield record


async def _find(catalogue: Catalogue, number: int, *, values: bool = True) -> UnhandledRecord:
    page = await catalogue.unhandled(after=number - 1, limit=1, values=values)
    for record in page:
        if record.record_id == number:
            return record
    for damage in page.damaged:
        if f"row {number}:" in damage:
            raise NotSo(damage)
    raise NotSo(f"there is no dead letter {number} (`saga dlq ls` lists those that there are)")


def _id_of(record: UnhandledRecord) -> str | None:
    return read_headers(record.headers).id


def _row(record: UnhandledRecord) -> dict[str, Any]:
    return {
        "id": record.record_id,
        "kind": record.kind.value,
        "reason": record.reason,
        "message": record.message,
        "topic": record.position.topic,
        "partition": record.position.partition,
        "offset": record.position.offset,
        "key": _text(record.key),
        "message_id": _id_of(record),
        "saga_id": record.saga_id,
        "kept_at": iso(record.kept_at),
    }


def _text(value: bytes | None) -> str | None:
    """Bytes as JSON can hold them: UTF-8, other bytes escaped."""
    return None if value is None else value.decode("utf-8", "backslashreplace")


def _by_name(headers: Headers) -> dict[str, str | list[str | None] | None]:
    """Headers as JSON; a list in their order where a record has several of one name."""
    texts: dict[str, list[str | None]] = {}
    for name, value in headers:
        texts.setdefault(name, []).append(_text(value))
    return {name: same[0] if len(same) == 1 else same for name, same in texts.items()}
