"""`demo`: the application's own real events, through real worker processes, until all have ended.

Everything it writes lies in one folder, or on the servers that it is given; what is interrupted
there, a second run carries on with.
"""

from __future__ import annotations

from typing import Annotated

import typer

from saga.console.demo_protocol import Demo, DemoBooks, load_demo
from saga.console.demo_report import print_report, shown_address
from saga.console.demo_run import DemoRun, triggers
from saga.console.demo_stage import FOLDER, stage
from saga.console.demo_tally import Tally
from saga.console.demo_worker import Worker, Workers
from saga.console.problems import ExitCode, NotSo
from saga.console.session import Session
from saga.settings import Settings
from saga.stores import open_effects_store
from saga.wiring import build_service, open_store

Kill = Annotated[
    int,
    typer.Option("--kill", metavar="N", min=0, help="Kill a worker (-9) so many times on the way."),
]
Limit = Annotated[
    int | None,
    typer.Option("--limit", metavar="N", min=1, help="Publish only so many.", show_default=False),
]
BusAddress = Annotated[
    str | None,
    typer.Option(
        "--bus",
        metavar="ADDRESS",
        help="Run on servers: kafka://HOST:PORT,… with an address as --store.",
        show_default=False,
    ),
]
Place = Annotated[
    str,
    typer.Option(
        "--store", metavar="FOLDER|ADDRESS", help="Where everything is kept: or postgresql://…"
    ),
]
EffectsPlace = Annotated[
    str | None,
    typer.Option(
        "--effects-store",
        metavar="ADDRESS",
        help="Where services keep theirs; beside the store by default.",
        show_default=False,
    ),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Forget earlier runs and begin anew.")]
Keep = Annotated[
    bool, typer.Option("--keep", help="Let the workers serve on at the end, until Ctrl-C.")
]


async def demo(
    session: Session,
    *,
    kill: Kill = 0,
    limit: Limit = None,
    bus: BusAddress = None,
    store: Place = FOLDER,
    effects_store: EffectsPlace = None,
    is_fresh: Fresh = False,
    keep: Keep = False,
) -> int:
    """Run the application's real events through its sagas, and see whether the books balance."""
    on = stage(session.settings, bus=bus, store=store, effects_store=effects_store)
    if is_fresh:
        on.forget()
    app, shown, printer = session.app, load_demo(session.settings.app), session.printer
    settings = on.settings
    workers = Workers(
        [Worker(settings, roles=part.roles, log_file=on.log_file(part)) for part in on.parts]
    )
    tally = Tally()
    async with build_service(app, settings, roles=()) as service:
        wanted = triggers(service.publisher, shown.events(limit))
        await tally.follow(service.catalogue)
        run = DemoRun(service, workers, tally, wanted, kills=kill, printer=printer)
        if run.is_complete:
            printer.note(f"All of them had ended already; {on.remedy} begins anew.")
        try:
            if not (run.is_complete or await run.go()):
                left = len(wanted) - run.settled
                printer.note(f"Stopped with {left:,} sagas to go: run it again to carry on.")
                return ExitCode.OK
            await workers.stop()
            books = None if tally.parked else await read_books(settings, shown)
            print_report(printer, tally, books, settings, kills=workers.kills)
            printer.flush()
            if keep:
                printer.note(f"Serving {shown_address(settings.store)}; Ctrl-C ends it.")
                await run.serve()
        finally:
            await workers.stop()
    if tally.parked:
        raise NotSo(f"{len(tally.parked):,} sagas are parked: `saga ls --status parked`")
    return ExitCode.OK if books is not None and books.balanced else ExitCode.NOT_SO


async def read_books(settings: Settings, shown: Demo) -> DemoBooks:
    """The books: the services' tables on one side, the log on the other.

    Raises:
        StoreUnavailable: one of the two cannot be read.
    """
    effects, store = open_effects_store(settings), open_store(settings)
    try:
        await effects.open()
        unit = effects.unit()
        try:
            return await shown.books(unit.db, store.catalogue.log())
        finally:
            unit.drop()
    finally:
        await effects.close()
        await store.close()
