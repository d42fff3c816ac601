"""The SDK for services that subscribe: handle each intent once, answer always, listen to facts.

`Effects` collects a service's handlers; `EffectsService` runs them on a bus and an effects store.
"""

from saga.effects.handling import DeadLetterSink, EffectsSettings
from saga.effects.registration import EffectContext, Effects
from saga.effects.request import Subscription
from saga.effects.service import EffectsService
from saga.errors import Refused
from saga.ports.effects_store import Database

__all__ = [
    "Database",
    "DeadLetterSink",
    "EffectContext",
    "Effects",
    "EffectsService",
    "EffectsSettings",
    "Refused",
    "Subscription",
]
