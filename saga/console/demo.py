"""
`demo`: the application's own real events, through a real worker process, until all have ended.

Everything it writes lies in one folder; what is interrupted there, a second run carries on with.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from saga.console.demo_protocol import Demo, DemoBooks, load_demo
from saga.console.demo_report import print_report
from saga.console.demo_run import DemoRun, triggers
from saga.console.demo_tally import Tally
from saga.console.demo_worker import Worker
from saga.console.problems import ExitCode, Misused, NotSo
from saga.console.session import Session
from saga.settings import Settings
from saga.wiring import build_service, open_effects_store, open_store

FOLDER: Final = ".saga/demo"
DATABASES: Final = ("saga.db", "saga-effects.db")
LOG_FILE: Final = "worker.log"


async def demo(
    session: Session,
    *,
    kill: Annotated[
        int,
        typer.Option(
            "--kill", metavar="N", min=0, help="Kill the worker (-9) so many times on the way."
        ),
    ] = 0,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", metavar="N", min=1, help="Publish only so many.", show_default=False
        ),
    ] = None,
    folder: Annotated[
        Path, typer.Option("--store", metavar="FOLDER", help="Where everything is kept.")
    ] = Path(FOLDER),
    is_fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget earlier runs and begin anew.")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Let the worker serve on at the end, until Ctrl-C.")
    ] = False,
) -> int:
    """
    Run the application's real events through its sagas, and see whether the books balance.
    """
    if "://" in str(folder) or ":/" in str(folder):
        raise Misused("--store of the demo is a folder, for example .saga/demo")
    app, shown, printer = session.app, load_demo(session.settings.app), session.printer
    settings = settings_in(folder, session.settings)
    if is_fresh:
        forget(folder)
    worker, tally = Worker(settings, log_file=folder / LOG_FILE), Tally()
    async with build_service(app, settings, roles=()) as service:
        wanted = triggers(service.publisher, shown.events(limit))
        await tally.follow(service.catalogue)
        run = DemoRun(service, worker, tally, wanted, kills=kill, printer=printer)
        if run.is_complete:
            printer.note("All of them had ended already; `--fresh` begins anew.")
        try:
            if not (run.is_complete or await run.go()):
                left = len(wanted) - run.settled
                printer.note(f"Stopped with {left:,} sagas to go: run it again to carry on.")
                return ExitCode.OK
            await worker.stop()
            books = None if tally.parked else await read_books(settings, shown)
            print_report(printer, tally, books, settings, kills=worker.kills)
            printer.flush()
            if keep:
                printer.note(f"The worker serves {settings.store}; Ctrl-C ends it.")
                await run.serve()
        finally:
            await worker.stop()
    if tally.parked:
        raise NotSo(f"{len(tally.parked):,} sagas are parked: `saga ls --status parked`")
    return ExitCode.OK if books is not None and books.balanced else ExitCode.NOT_SO


def settings_in(folder: Path, settings: Settings) -> Settings:
    """
    *settings*, with bus and stores in *folder*.

    Raises:
        SettingsError: the folder's name cannot be part of an address.
    """
    store, effects = (folder / name for name in DATABASES)
    given = settings.model_dump(include=settings.model_fields_set)
    return Settings.read(
        **given
        | {
            "bus": f"local:///{store}",
            "store": f"sqlite:///{store}",
            "effects_store": f"sqlite:///{effects}",
        }
    )


def forget(folder: Path) -> None:
    """
    Remove what earlier runs have left in *folder*, and nothing else there.
    """
    for name in DATABASES:
        for path in folder.glob(f"{name}*"):
            path.unlink()
    (folder / LOG_FILE).unlink(missing_ok=True)


async def read_books(settings: Settings, shown: Demo) -> DemoBooks:
    """
    The books: the services' tables on one side, the log on the other.

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
