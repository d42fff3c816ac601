"""Failures of steps that have led to nothing yet: the groups that they are in keep them.

Past the pivot such a step can be tried again, as though the function had not been told that it
failed. A failure has led to something once somebody acts on it: a coroutine that catches it, or
says or asks for something while it passes, or a group that drops others for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from saga.core.identity import StepId
from saga.errors import StepFailed


class Unseen:
    __slots__ = ("_of_steps", "_raised", "_seen", "_surfaced")

    def __init__(self) -> None:
        self._of_steps: dict[StepId, StepFailed] = {}
        self._raised: dict[Exception, Exception] = {}
        """By failures in groups the ones that these have raised for them."""
        self._seen: set[Exception] = set()
        """Those on which somebody has acted in this run."""
        self._surfaced: dict[Exception, int] = {}
        """Failures that groups have raised in this run, each behind so many commands."""

    def begin_run(self) -> None:
        self._seen.clear()
        self._surfaced.clear()

    def end_run(self, commands: int) -> None:
        """Forget what groups have raised in this run, of so many *commands*, if it led to any."""
        for step, failure in list(self._of_steps.items()):
            chain = self._raised_for(failure)
            place = next((self._surfaced[each] for each in chain if each in self._surfaced), None)
            if place is not None and commands > place and self._is_seen(failure):
                del self._of_steps[step]

    def see(self, failure: Exception) -> None:
        self._seen.add(failure)

    def surface(self, failure: Exception, raised: Exception | None, *, behind: int) -> None:
        """A group is over, behind so many commands: it has *raised* another one, or none."""
        if raised is None:
            self._seen.add(failure)
        elif failure is not raised:
            self._raised[failure] = raised
        self._surfaced.setdefault(failure, behind)

    def tell(self, step: StepId, failure: StepFailed) -> None:
        """A step's failure was told in this run; remember it where nobody has acted on it."""
        if not self._is_seen(failure):
            self._of_steps[step] = failure

    def drop(self, steps: Iterable[StepId]) -> None:
        for step in steps:
            self._of_steps.pop(step, None)

    def words(self) -> dict[StepId, str]:
        """The words of the failures, by their steps."""
        return {step: failure.message for step, failure in self._of_steps.items()}

    def stands_before(self, failure: StepFailed, *, commands: int) -> int | None:
        """How many commands of this run were given before *failure* was seen.

        None where some of an earlier run may have followed from it.
        """
        if self._of_steps.get(StepId(failure.step)) is not failure:
            return None
        place = self._surfaced.get(failure)
        return place if place is not None or commands else 0

    def _is_seen(self, failure: StepFailed) -> bool:
        return not self._seen.isdisjoint(self._raised_for(failure))

    def _raised_for(self, failure: Exception | None) -> Iterator[Exception]:
        """A failure, the one that its group has raised for it, and so on outwards."""
        while failure is not None:
            yield failure
            failure = self._raised.get(failure)
