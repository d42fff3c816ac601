"""State machines: a saga as states, each a frozen model, and the table of what may follow what."""

from saga.authoring.machines.acts import (
    Acts,
    Next,
    StepDone,
    answer,
    child,
    continue_as_new,
    do,
    drop,
    publish,
    refuse,
    tell,
)
from saga.authoring.machines.definition import MachineDefinition, machine
from saga.authoring.machines.states import State, Transitions

__all__ = [
    "Acts",
    "MachineDefinition",
    "Next",
    "State",
    "StepDone",
    "Transitions",
    "answer",
    "child",
    "continue_as_new",
    "do",
    "drop",
    "machine",
    "publish",
    "refuse",
    "tell",
]
