"""What tests of sagas need: `given / when / then` for one saga, without any I/O; and `World`, a
whole simulated deployment in which everything goes wrong that can, by seed.
"""

from saga.testing.expectations import (
    Expectation,
    abandoned,
    armed,
    cleaned_up,
    completed,
    issued,
    noted,
    parked,
    planned,
    published,
    rolled_back,
    undo_appended,
    undo_issued,
    undo_stuck,
)
from saga.testing.happenings import (
    after,
    cancelled,
    failed,
    operator,
    redelivered,
    refused,
    replied,
    signalled,
    timed_out,
    turn_failed,
)
from saga.testing.spec import Scenario, given
from saga.testing.world import Verdict, World, WorldSaga, WorldState

__all__ = [
    "Expectation",
    "Scenario",
    "Verdict",
    "World",
    "WorldSaga",
    "WorldState",
    "abandoned",
    "after",
    "armed",
    "cancelled",
    "cleaned_up",
    "completed",
    "failed",
    "given",
    "issued",
    "noted",
    "operator",
    "parked",
    "planned",
    "published",
    "redelivered",
    "refused",
    "replied",
    "rolled_back",
    "signalled",
    "timed_out",
    "turn_failed",
    "undo_appended",
    "undo_issued",
    "undo_stuck",
]
