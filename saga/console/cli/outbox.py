"""`outbox`: the table in a program's own database from which its events are published."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING, Annotated, Final

import typer

from saga.adapters.opening import outbox_address
from saga.console.cli.output import ExitCode
from saga.console.cli.session import Session, closing
from saga.publishing import OutboxRelay

if TYPE_CHECKING:
    from saga.adapters.postgres.outbox import OutboxSession

REFUSED_SHOWN_MAX: Final = 100


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
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):  # not on Windows
            loop.add_signal_handler(number, relay.stop)
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
