"""`SagaApp`: an application that runs itself, in tests and programs as well as from `saga run`."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from saga.application import ROLES, Application

if TYPE_CHECKING:
    from saga.service import Service
    from saga.settings import Settings


class SagaApp(Application):
    """What `SAGA_APP` names. Nothing is opened or started by making one.

    Args:
        sagas: what `@saga` made.
        effects: the effect services that may run in the same process.
        contracts: event and intent classes, or modules of them, beside those that the sagas' source
            and the effect services name.

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
        """Every role in this process, as an async context manager.

        Arguments are settings as in the environment, for example `bus="local:///orders.db"`.

        Raises:
            SettingsError: a setting is illegal.
        """
        from saga.settings import Settings  # so that defining an application needs no settings

        read = Settings.read(bus=bus, store=store, effects_store=effects_store, **settings)
        return self.build_service(read)

    def build_service(
        self, settings: Settings, *, roles: Collection[str] = ROLES, has_probes: bool = False
    ) -> Service:
        from saga.wiring import build_service  # defining an application needs no adapters

        return build_service(self, settings, roles=roles, has_probes=has_probes)
