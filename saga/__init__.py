"""Event-sourced sagas on Kafka: business processes over several services that finish or are undone.

Authors of sagas and effect services need nothing but this, and `saga.testing` for their tests.
"""

import importlib
from typing import TYPE_CHECKING

from saga.app import SagaApp
from saga.authoring import Context, on, saga
from saga.authoring.machines import (
    Acts,
    Next,
    State,
    StepDone,
    Transitions,
    answer,
    child,
    continue_as_new,
    do,
    drop,
    machine,
    publish,
    refuse,
    tell,
)
from saga.authoring.requests import Request
from saga.authoring.turn_context import TurnContext
from saga.contracts import Event, Intent, upcast
from saga.core.events import CancelMode
from saga.core.program import Report
from saga.core.retry import Retry
from saga.core.status import SagaStatus
from saga.effects import EffectContext, Effects
from saga.errors import (
    ChildRolledBack,
    Refused,
    RollBack,
    SagaEnded,
    StepFailed,
    TimedOut,
    UnknownSaga,
    UpdateRefused,
)
from saga.publishing import Outbox, Publisher, SyncPublisher
from saga.runtime.middleware import TurnInfo
from saga.runtime.outcomes import Outcome
from saga.runtime.view import SagaView
from saga.service import Service

if TYPE_CHECKING:
    from saga.authoring.graphs import Output, contract
else:

    def __getattr__(name: str) -> object:
        # Contract graphs take a YAML reader and models of their own; most sagas are Python alone.
        if name not in ("Output", "contract"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module("saga.authoring.graphs"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__all__ = [
    "Acts",
    "CancelMode",
    "ChildRolledBack",
    "Context",
    "EffectContext",
    "Effects",
    "Event",
    "Intent",
    "Next",
    "Outbox",
    "Outcome",
    "Output",
    "Publisher",
    "Refused",
    "Report",
    "Request",
    "Retry",
    "RollBack",
    "SagaApp",
    "SagaEnded",
    "SagaStatus",
    "SagaView",
    "Service",
    "State",
    "StepDone",
    "StepFailed",
    "SyncPublisher",
    "TimedOut",
    "Transitions",
    "TurnContext",
    "TurnInfo",
    "UnknownSaga",
    "UpdateRefused",
    "answer",
    "child",
    "continue_as_new",
    "contract",
    "do",
    "drop",
    "machine",
    "on",
    "publish",
    "refuse",
    "saga",
    "tell",
    "upcast",
]
