"""The words for where a saga and a step stand, and the one literal table of legal transitions.

Theory of operation: a saga is `running` until its program ends or fails; a failure makes it
`rolling_back`, and that ends in one of two ways. `parked` stands beside them: someone must look,
and what a release brings back is the status before. An ended saga moves only for clean-up, when
a step's late success must still be undone, and parks only when a turn of it failed.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class SagaStatus(StrEnum):
    RUNNING = "running"
    ROLLING_BACK = "rolling_back"
    COMPLETED = "completed"
    ROLLED_BACK = "rolled_back"
    ROLLED_BACK_WITH_RESIDUE = "rolled_back_with_residue"
    PARKED = "parked"
    STALLED = "stalled"
    ABANDONED = "abandoned"
    is_ended: bool
    """Noted on each below: a turn asks for it several times."""


class StepStatus(StrEnum):
    ISSUED = "issued"
    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"
    IN_DOUBT = "in_doubt"
    UNDOING = "undoing"
    UNDONE = "undone"
    UNDO_STUCK = "undo_stuck"
    SKIPPED = "skipped"


ISSUED: Final = StepStatus.ISSUED
DONE: Final = StepStatus.DONE
UNDOING: Final = StepStatus.UNDOING
"""By name, as `identity.DO` is: a turn asks for them several times."""


class StepKind(StrEnum):
    """What a step means for the rollback."""

    COMPENSATABLE = "compensatable"
    PIVOT = "pivot"
    RETRIABLE = "retriable"
    READ_ONLY = "read_only"
    HARMLESS = "harmless"
    """Has an effect that needs no undo, such as a notification: it is no residue."""
    PLAIN = "plain"
    """Has an effect and no undo: whatever of it remains after a rollback is residue."""


NEVER_UNDONE: Final = frozenset({StepKind.READ_ONLY, StepKind.HARMLESS})
"""The kinds of steps that leave nothing which needs to be undone."""

ENDED = frozenset(
    {
        SagaStatus.COMPLETED,
        SagaStatus.ROLLED_BACK,
        SagaStatus.ROLLED_BACK_WITH_RESIDUE,
        SagaStatus.ABANDONED,
    }
)
for _status in SagaStatus:
    _status.is_ended = _status in ENDED

TRANSITIONS: dict[SagaStatus, frozenset[SagaStatus]] = {
    SagaStatus.RUNNING: frozenset({SagaStatus.ROLLING_BACK, SagaStatus.PARKED, *ENDED}),
    # Completed: after undoing what the program had left in doubt.
    SagaStatus.ROLLING_BACK: frozenset({SagaStatus.PARKED, *ENDED}),
    SagaStatus.PARKED: frozenset({SagaStatus.RUNNING, SagaStatus.ROLLING_BACK, *ENDED}),
    SagaStatus.COMPLETED: frozenset({SagaStatus.ROLLING_BACK, SagaStatus.PARKED}),
    SagaStatus.ROLLED_BACK: frozenset({SagaStatus.ROLLING_BACK, SagaStatus.PARKED}),
    SagaStatus.ROLLED_BACK_WITH_RESIDUE: frozenset({SagaStatus.ROLLING_BACK, SagaStatus.PARKED}),
    SagaStatus.ABANDONED: frozenset({SagaStatus.PARKED}),
    SagaStatus.STALLED: frozenset({SagaStatus.RUNNING, SagaStatus.ROLLING_BACK}),
}
