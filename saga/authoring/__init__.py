"""Ways to write a saga. Each makes a definition that the kernel turns into the same decider."""

from saga.authoring.definition import SagaDefinition, UnresolvedSaga
from saga.authoring.functions import Context, FunctionDefinition, saga
from saga.authoring.listening import Listening, on
from saga.authoring.registry import SagaRegistry
from saga.errors import ChildRolledBack, RollBack, StepFailed, TimedOut

__all__ = [
    "ChildRolledBack",
    "Context",
    "FunctionDefinition",
    "Listening",
    "RollBack",
    "SagaDefinition",
    "SagaRegistry",
    "StepFailed",
    "TimedOut",
    "UnresolvedSaga",
    "on",
    "saga",
]
