"""What a saga's function meets when something does not go as hoped."""

from __future__ import annotations

from saga.core.identity import StepId


class StepFailed(Exception):
    """Raised into a saga's function when a step failed for good. Uncaught, it starts the rollback.

    *refused* says that the service answered "no, and nothing happened"; otherwise the step may have
    had its effect and will be undone.
    """

    def __init__(self, step: StepId, *, code: str, message: str, refused: bool) -> None:
        super().__init__(message)
        self.step = step
        self.code = code
        self.message = message
        self.refused = refused


class RollBack(Exception):
    """Raised by a saga's function to undo everything it has done."""

    def __init__(self, reason: str, *, code: str = "rolled_back") -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


class TimedOut(Exception):
    """Raised into a saga's function when no signal came in time."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no signal {name!r} came in time")
        self.name = name
