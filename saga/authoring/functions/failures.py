"""What a saga's function may fail with in the course of business; anything else is a bug in it."""

from __future__ import annotations

from typing import Final

from saga.core.identity import StepId
from saga.core.program import Fail
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
