"""The SDK for services that subscribe: do what sagas ask for once, answer always, listen to
outcomes.

`Effects` collects a service's handlers; `EffectsService` runs them on a bus and an effects store.
"""

from saga.effects.context import EffectContext
from saga.effects.effects import Effects
from saga.effects.service import EffectsService
from saga.effects.settings import EffectsSettings
from saga.errors import Refused
from saga.ports.effects_store import Database

__all__ = [
    "Database",
    "EffectContext",
    "Effects",
    "EffectsService",
    "EffectsSettings",
    "Refused",
]
