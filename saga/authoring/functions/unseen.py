"""Failures of steps that have led to nothing yet: the groups that they are in keep them.

Past the pivot such a step can be tried again, as though the function had not been told that it
failed. A failure has led to something once somebody acts on it: a coroutine that catches it, or
says or asks for something while it passes, or a group that drops others for it. A line for a log
is nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from saga.core.identity import StepId
from saga.errors import StepFailed


class Unseen:
    __slots__ = ("_of_steps", "_raised", "_seen", "_surfaced", "_told")

    def __init__(self) -> None:
        self._of_steps: dict[StepId, StepFailed] = {}
        self._raised: dict[Exception, Exception] = {}
        """By failures in groups the ones that these have raised for them."""
        self._told: StepFailed | None = None
        """The one that this run has begun with."""
        self._seen: dict[Exception, int] = {}
        """Those on which somebody has acted in this run, each behind so many commands."""
        self._surfaced: dict[Exception, int] = {}
        """Failures that groups have raised in this run, each behind so many commands."""

    def tell(self, failure: StepFailed) -> None:
        """The run about to begin begins with this failure of a step."""
        self._told = failure

    def begin_run(self) -> None:
        self._seen.clear()
        self._surfaced.clear()

    def end_run(self) -> None:
        """Forget the failures on which somebody has acted in this run."""
        if self._told is not None:
            self._of_steps[StepId(self._told.step)] = self._told
            self._told = None
        for step in [step for step, failure in self._of_steps.items() if self._is_seen(failure)]:
            del self._of_steps[step]

    def see(self, failure: Exception, *, behind: int) -> None:
        """Somebody has acted on *failure*: what follows from it comes behind so many commands."""
        self._seen.setdefault(failure, behind)

    def surface(
        self,
        failures: Iterable[Exception],
        raised: Exception | None,
        *,
        behind: int,
        is_kept: bool,
    ) -> None:
        """A group is over, behind so many commands: it has *raised* one of its failures, or none.

        Unless they *are kept* as they were, it has acted on them.
        """
        for failure in failures:
            if raised is not None and failure is not raised:
                self._raised[failure] = raised
            if failure not in self._surfaced or not self._is_seen(failure):
                self._surfaced[failure] = behind  # what has begun on its way out stands
            if not is_kept:
                self.see(failure, behind=behind)

    def drop(self, steps: Iterable[StepId]) -> None:
        for step in steps:
            self._of_steps.pop(step, None)

    def stand_before(self, error: Exception) -> int | None:
        """How many commands of this run stand where *error* has ended the function.

        None where some of an earlier run may have followed from it.
        """
        failure: Exception | None = self._told
        if failure is None and isinstance(error, StepFailed):
            failure = self._of_steps.get(StepId(error.step))
        if failure is None or (self._told is None and failure is not error):
            return None
        chain = list(self._raised_for(failure))
        surfaced = [self._surfaced[each] for each in chain if each in self._surfaced]
        seen = [self._seen[each] for each in chain if each in self._seen]
        return min([*seen, *surfaced[-1:]], default=0)

    def again(self, commands: int) -> dict[StepId, str]:
        """By their steps the words of the failures that led to none of so many commands."""
        told = [] if self._told is None else [self._told]
        return {
            StepId(failure.step): failure.message
            for failure in [*self._of_steps.values(), *told]
            if not self._is_seen(failure, before=commands)
        }

    def _is_seen(self, failure: Exception, *, before: int | None = None) -> bool:
        """Whether somebody has acted on it in this run, *before* the command of this number."""
        places = [self._seen[each] for each in self._raised_for(failure) if each in self._seen]
        return any(before is None or place < before for place in places)

    def _raised_for(self, failure: Exception | None) -> Iterator[Exception]:
        """A failure, the one that its group has raised for it, and so on outwards."""
        while failure is not None:
            yield failure
            failure = self._raised.get(failure)
