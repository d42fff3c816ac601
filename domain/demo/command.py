"""The command line of the demo, and where it runs.

In the files of one folder it has one worker, on servers several processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Final

import typer

import domain
from domain.baskets import order_placed, read_baskets
from domain.books import Books, read_books
from domain.demo.report import print_report
from domain.demo.run import DemoRun, triggers
from domain.demo.tally import Tally
from domain.demo.workers import Worker, Workers
from saga import Event
from saga.adapters.opening import open_effects_store, open_store
from saga.application import ROLES
from saga.console.cli.commands import register
from saga.console.cli.output import ExitCode, Misused, NotSo
from saga.console.cli.session import Session, closing
from saga.core.values import value
from saga.settings import Settings, redacted
from saga.wiring import build_service

APP: Final = "domain:app"
FOLDER: Final = ".saga/demo"
SERVERS_FOLDER: Final = ".saga/demo-servers"
DATABASES: Final = ("saga.db", "saga-effects.db")


@value
class WorkerSpec:
    """One process of a demo."""

    name: str
    roles: tuple[str, ...]


ON_FILES: Final = (WorkerSpec("worker", ROLES),)
ON_SERVERS: Final = (
    WorkerSpec("orchestrator-1", ("orchestrator",)),
    WorkerSpec("orchestrator-2", ("orchestrator",)),
    WorkerSpec("effects", ("effects",)),
)

Kill = Annotated[
    int,
    typer.Option("--kill", metavar="N", min=0, help="Kill a worker (-9) so many times on the way."),
]
Limit = Annotated[
    int | None, typer.Option("--limit", metavar="N", min=1, help="Publish only so many.")
]
BusAddress = Annotated[
    str | None,
    typer.Option(
        "--bus",
        metavar="ADDRESS",
        help="Run on servers: kafka://HOST:PORT,… with an address as --store.",
    ),
]
StorePlace = Annotated[
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
    ),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Forget earlier runs and begin anew.")]
Keep = Annotated[
    bool, typer.Option("--keep", help="Let the workers serve on at the end, until Ctrl-C.")
]


def program() -> typer.Typer:
    """The program: one command."""
    made = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    register(made, "demo", demo, settings=("env", "namespace", "log"))
    return made


async def demo(
    session: Session,
    *,
    kill: Kill = 0,
    limit: Limit = None,
    bus: BusAddress = None,
    store: StorePlace = FOLDER,
    effects_store: EffectsPlace = None,
    is_fresh: Fresh = False,
    keep: Keep = False,
) -> int:
    """Order every real basket, and see whether the books balance at the end."""
    place = place_of(session.settings, bus=bus, store=store, effects_store=effects_store)
    if is_fresh:
        place.forget()
    printer, settings = session.printer, place.settings
    workers = Workers(
        [
            Worker(settings, roles=spec.roles, log_file=place.log_file(spec))
            for spec in place.workers
        ]
    )
    tally = Tally()
    async with build_service(domain.app, settings, roles=()) as service:
        wanted = triggers(service.publisher, orders(limit))
        await tally.follow(service.catalogue)
        run = DemoRun(service, workers, tally, wanted, kills=kill, printer=printer)
        if run.is_complete:
            printer.note(f"All of them had ended already; {place.remedy} begins anew.")
        try:
            if not (run.is_complete or await run.go()):
                left = len(wanted) - run.settled
                printer.note(f"Stopped with {left:,} sagas to go: run it again to carry on.")
                return ExitCode.OK
            await workers.stop()
            books = None if tally.parked else await _books(settings)
            print_report(printer, tally, books, settings, kills=workers.kills)
            printer.flush()
            if keep:
                printer.note(f"Serving {redacted(settings.store)}; Ctrl-C ends it.")
                await run.serve()
        finally:
            await workers.stop()
    if tally.parked:
        raise NotSo(f"{len(tally.parked):,} sagas are parked: `saga ls --status parked`")
    return ExitCode.OK if books is not None and books.is_balanced else ExitCode.NOT_SO


def orders(limit: int | None) -> Iterator[tuple[str, Event]]:
    """The orders of the first *limit* baskets, each with a message id that is always the same.

    Raises:
        BadBasket: the file of baskets cannot be read.
    """
    for basket in islice(read_baskets(), limit):
        yield f"basket-{basket.basket_id}", order_placed(basket)


@value
class Place:
    """Where a demo runs: *settings* name bus and stores, the logs of *workers* are in *folder*."""

    settings: Settings
    folder: Path
    workers: tuple[WorkerSpec, ...]

    def log_file(self, spec: WorkerSpec) -> Path:
        return self.folder / f"{spec.name}.log"

    @property
    def remedy(self) -> str:
        """How to begin anew."""
        return "`--fresh`" if self.workers == ON_FILES else "another `--namespace` and database"

    def forget(self) -> None:
        """Remove what earlier runs have left, and nothing else.

        Raises:
            Misused: it is on servers, which may hold more than ours.
        """
        if self.workers != ON_FILES:
            raise Misused(f"--fresh removes nothing on servers: {self.remedy} begins anew")
        for name in DATABASES:
            for path in self.folder.glob(f"{name}*"):
                path.unlink()
        for spec in self.workers:
            self.log_file(spec).unlink(missing_ok=True)


def place_of(
    settings: Settings, *, bus: str | None, store: str, effects_store: str | None
) -> Place:
    """The place that the command line names; *store* is a folder where there is no *bus*.

    Raises:
        Misused: the three do not go together.
        SettingsError: one of them is no address, or the folder cannot be part of one.
    """
    is_address = "://" in store or ":/" in store
    if bus is None:
        if is_address:
            raise Misused("--store of the demo is a folder like .saga/demo, or goes with a --bus")
        if effects_store is not None:
            raise Misused("--effects-store goes with a --bus and a --store")
        folder = Path(store)
        return Place(_with(settings, _files(folder)), folder, ON_FILES)
    if not is_address or bus.startswith("local:"):
        raise Misused("--bus goes with an address as --store: kafka://… and postgresql://…")
    addresses = {"bus": bus, "store": store, "effects_store": effects_store}
    return Place(_with(settings, addresses), Path(SERVERS_FOLDER), ON_SERVERS)


def _files(folder: Path) -> dict[str, str | None]:
    store, effects = (folder / name for name in DATABASES)
    return {
        "bus": f"local:///{store}",
        "store": f"sqlite:///{store}",
        "effects_store": f"sqlite:///{effects}",
    }


def _with(settings: Settings, addresses: dict[str, str | None]) -> Settings:
    given = settings.model_dump(include=settings.model_fields_set)
    own = {"app": APP} if "app" in given else {}
    return Settings.read(**given | addresses | own)


async def _books(settings: Settings) -> Books:
    """The books: the services' tables on one side, the log on the other."""
    async with (
        closing(open_effects_store(settings)) as effects,
        closing(open_store(settings)) as store,
    ):
        await effects.open()
        unit = effects.unit()
        try:
            return await read_books(unit.db, store.catalogue.log())
        finally:
            unit.drop()
