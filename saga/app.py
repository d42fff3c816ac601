"""`SagaApp`: an application that runs itself, in tests and programs as well as from `saga run`."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saga.application import ROLES, Application
from saga.contracts import ContractModel
from saga.contracts.lockfile import read_lock

if TYPE_CHECKING:
    from saga.service import Service
    from saga.settings import Settings


class SagaApp(Application):
    """What `SAGA_APP` names; making one opens and starts nothing.

    *contracts* are classes or modules of them, beside those that sagas and effect services name.
    *name* tells it from other applications of its namespace; that of its first saga by default.
    *around_turns* are functions `(TurnInfo)` that give a context manager, within which each turn is
    taken: for traces, metrics and logs.

    Raises:
        DefinitionError: something in it cannot work; names file and line.
    """

    def service(
        self,
        *,
        bus: str | None = None,
        store: str | None = None,
        effects_store: str | None = None,
        **settings: Any,
    ) -> Service:
        """Every role in this process, as an async context manager; takes settings by name.

        With `check_replay=True`, for tests, each saga that ends is replayed from the store: leaving
        the service raises ReplayMismatch where one decides otherwise. A saga parks that sleeps, or
        starts a thread, process or connection.

        Raises:
            SettingsError: a setting is illegal.
        """
        from saga.settings import Settings  # so that defining an application needs no settings

        # Not an argument by name: addresses that come as a dict of texts would not fit its type.
        check_replay = bool(settings.pop("check_replay", False))
        read = Settings.read(bus=bus, store=store, effects_store=effects_store, **settings)
        return self.build_service(read, check_replay=check_replay)

    def build_service(
        self,
        settings: Settings,
        *,
        roles: Collection[str] = ROLES,
        has_probes: bool = False,
        check_replay: bool = False,
    ) -> Service:
        from saga.wiring import build_service  # defining an application needs no adapters

        return build_service(
            self, settings, roles=roles, has_probes=has_probes, check_replay=check_replay
        )


LOCK_FILE = Path("topics/contracts.lock.json")
"""Where the contracts of other teams are found, below the working directory."""


def app_of_file(file: Path) -> SagaApp:
    """The application that a contract file is by itself, with services in whatever language.

    Its contracts are those that the file declares, and those of the lock file, if there is one.

    Raises:
        DefinitionError: a file has mistakes.
    """
    from saga.authoring.graphs.checking.locked import models_of  # most are made of Python
    from saga.authoring.graphs.definition import all_mistakes_at_once, contract

    spare: list[type[ContractModel]] = []
    if LOCK_FILE.exists():
        spare += models_of(
            read_lock(LOCK_FILE.read_text("utf-8"), where=str(LOCK_FILE)), str(LOCK_FILE)
        )
    with all_mistakes_at_once():
        graph = contract(file)
    return SagaApp(sagas=[graph.resolve((), spare=spare)])
