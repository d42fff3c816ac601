"""What a saga may fail with in the course of business; anything else its code raises is a bug."""

from __future__ import annotations

import json
from typing import Final

from saga.core.identity import StepId
from saga.core.program import Fail, StepFailure
from saga.core.texts import storable
from saga.errors import ChildRolledBack, RollBack, StepFailed, TimedOut

FAILURES: Final = (StepFailed, RollBack, TimedOut, ChildRolledBack)
REASON_CHARS_MAX = 10_000
"""As much as a service may answer: what it said is the reason of the rollback, whole."""


def fail_of(failure: StepFailed | RollBack | TimedOut | ChildRolledBack) -> Fail:
    match failure:
        case StepFailed():
            return _fail(failure.message, failure.code, failure.step)
        case RollBack():
            return _fail(failure.reason, failure.code)
        case TimedOut():
            return _fail(failure, "timed_out")
        case ChildRolledBack():
            return _fail(failure.reason, failure.code, failure.step)


def _fail(reason: object, code: object, failed_step: object = None) -> Fail:
    """What its author gave may be anything, and is stored."""
    return Fail(
        storable(str(reason), REASON_CHARS_MAX),
        None if code is None else storable(str(code), REASON_CHARS_MAX),
        None if failed_step is None else StepId(storable(str(failed_step), REASON_CHARS_MAX)),
    )


def step_failed(step: StepId, failure: StepFailure, *, is_refused: bool) -> StepFailed:
    """What a saga's code is told of a step that failed for good."""
    return StepFailed(
        step,
        code=failure.code or ("refused" if is_refused else "failed"),
        message=failure.message,
        refused=is_refused,
        details=None if failure.details is None else json.loads(failure.details),
    )
