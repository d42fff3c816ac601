"""Where a demo plays: in files of one folder with one worker, or on servers with
several processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from saga.console.problems import Misused
from saga.settings import Settings
from saga.wiring import ROLES

FOLDER: Final = ".saga/demo"
SERVERS_FOLDER: Final = ".saga/demo-servers"
DATABASES: Final = ("saga.db", "saga-effects.db")


@dataclass(frozen=True, slots=True)
class Part:
    """One process of a demo."""

    name: str
    roles: tuple[str, ...]


ALONE: Final = (Part("worker", ROLES),)
ENSEMBLE: Final = (
    Part("orchestrator-1", ("orchestrator",)),
    Part("orchestrator-2", ("orchestrator",)),
    Part("effects", ("effects",)),
)


@dataclass(frozen=True, slots=True)
class Stage:
    """*settings* name bus and stores, *parts* the processes, and in *folder* are their logs."""

    settings: Settings
    folder: Path
    parts: tuple[Part, ...]

    def log_file(self, part: Part) -> Path:
        """Where a process writes what it does."""
        return self.folder / f"{part.name}.log"

    @property
    def remedy(self) -> str:
        """How to begin anew."""
        return "`--fresh`" if self.parts == ALONE else "another `--namespace` and database"

    def forget(self) -> None:
        """Remove what earlier runs have left, and nothing else.

        Raises:
            Misused: it is on servers, which may hold more than ours.
        """
        if self.parts != ALONE:
            raise Misused(f"--fresh removes nothing on servers: {self.remedy} begins anew")
        for name in DATABASES:
            for path in self.folder.glob(f"{name}*"):
                path.unlink()
        for part in self.parts:
            self.log_file(part).unlink(missing_ok=True)


def stage(settings: Settings, *, bus: str | None, store: str, effects_store: str | None) -> Stage:
    """The stage for what the command line says; *store* is a folder, where there is no *bus*.

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
        return Stage(_in_files(settings, folder), folder, ALONE)
    if not is_address or bus.startswith("local:"):
        raise Misused("--bus goes with an address as --store: kafka://… and postgresql://…")
    addresses = {"bus": bus, "store": store, "effects_store": effects_store}
    return Stage(_with(settings, addresses), Path(SERVERS_FOLDER), ENSEMBLE)


def _in_files(settings: Settings, folder: Path) -> Settings:
    store, effects = (folder / name for name in DATABASES)
    addresses = {
        "bus": f"local:///{store}",
        "store": f"sqlite:///{store}",
        "effects_store": f"sqlite:///{effects}",
    }
    return _with(settings, addresses)


def _with(settings: Settings, addresses: dict[str, str] | dict[str, str | None]) -> Settings:
    given = settings.model_dump(include=settings.model_fields_set)
    return Settings.read(**given | addresses)
