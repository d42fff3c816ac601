"""A program under its recorded names: what it calls otherwise since a migration.

Theory of operation: kernel, state and history know recorded names only, the program its own. What
it is told is put into its names, and what it gives into the recorded ones. A name that the history
does not have is its own id; one that names another thing there is refused, so that no id ever
stands for two things.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, Final

from saga.core.events import Arrival, ChildEnded, Message
from saga.core.identity import Instant, StepId
from saga.core.migrations import NameKind, Names
from saga.core.program import (
    Await,
    Command,
    DoStep,
    DropBranch,
    Fail,
    LeaveScope,
    Park,
    Program,
    Publish,
    Report,
    Sleep,
    StepFailure,
    Tell,
)
from saga.errors import DefinitionError

_STEP: Final = NameKind.STEP


class RenamedProgram:
    """Stands in the place of a program whose names are not those of the history."""

    __slots__ = ("_names", "_recorded", "program")

    def __init__(self, program: Program, names: Names) -> None:
        self.program = program
        self._names = names
        self._recorded = {(kind, name): recorded for (kind, recorded), name in names.items()}

    @property
    def patches(self) -> frozenset[str] | None:
        return self.program.patches

    @patches.setter
    def patches(self, patches: frozenset[str] | None) -> None:
        self.program.patches = patches

    def take_patches(self, patches: Iterable[str]) -> None:
        self.program.take_patches(patches)

    def start(self, trigger: Message, at: Instant) -> Sequence[Command]:
        return self._given(self.program.start(trigger, at))

    def know_trigger(self, trigger: Message) -> None:
        self.program.know_trigger(trigger)

    def succeeded(self, step: StepId, reply: Message | None, at: Instant) -> Sequence[Command]:
        return self._given(self.program.succeeded(self._step(step), reply, at))

    def gave_out(
        self, step: StepId, failure: StepFailure, at: Instant, *, is_refused: bool
    ) -> Sequence[Command]:
        told = self.program.gave_out(self._step(step), failure, at, is_refused=is_refused)
        return self._given(told)

    def child_ended(self, step: StepId, ended: ChildEnded | None, at: Instant) -> Sequence[Command]:
        return self._given(self.program.child_ended(self._step(step), ended, at))

    def hold(self, step: StepId, at: Instant) -> Sequence[Command]:
        return self._given(self.program.hold(self._step(step), at))

    def slept(self, name: str, at: Instant) -> Sequence[Command]:
        return self._given(self.program.slept(self._name(NameKind.SLEEP, name), at))

    def arrived(self, wait: str, arrival: Arrival, at: Instant) -> Sequence[Command]:
        return self._given(self.program.arrived(self._wait(wait), arrival, at))

    def timed_out(self, wait: str, at: Instant) -> Sequence[Command]:
        return self._given(self.program.timed_out(self._wait(wait), at))

    def undone(self, scope: str, at: Instant) -> Sequence[Command]:
        return self._given(self.program.undone(self._scope(scope), at))

    def policy_of(self, step: StepId) -> DoStep:
        return self.program.policy_of(self._step(step))

    def takes(self, arrival: Arrival) -> str | None:
        return self.program.takes(arrival)

    def place_of(self, step: StepId) -> str | None:
        return self.program.place_of(self._step(step))

    def stands_at(self, name: str | None) -> str | None:
        if name is not None:
            name = self._names.get((NameKind.SLEEP, name)) or self._wait(name)
        return self.program.stands_at(name)

    def accepts(self, wait: str, arrival: Arrival) -> bool:
        return self.program.accepts(self._wait(wait), arrival)

    def refusal_of(self, wait: str, arrival: Arrival) -> str | None:
        return self.program.refusal_of(self._wait(wait), arrival)

    def refusal_of_reply(self, step: StepId, reply: Message | None) -> str | None:
        return self.program.refusal_of_reply(self._step(step), reply)

    def refusal_of_entered(self, step: StepId, reply: Message | None) -> str | None:
        return self.program.refusal_of_entered(self._step(step), reply)

    def undo_of(self, step: StepId, reply: Message | None) -> Message:
        return self.program.undo_of(self._step(step), reply)

    def outcome_of(self, report: Report) -> Message | None:
        failed = report.failed_step
        told = replace(
            report,
            failed_step=None if failed is None else self._step(failed),
            residue=tuple(map(self._step, report.residue)),
        )
        return self.program.outcome_of(told)

    def snapshot(self) -> None:
        """There is none: the other names follow from the history alone."""

    def restore(self, snapshot: Mapping[str, Any], trigger: Message) -> None:
        raise AssertionError((snapshot, trigger))

    def close(self) -> None:
        self.program.close()

    def _name(self, kind: NameKind, recorded: str) -> str:
        """What the program calls what was recorded as *recorded*."""
        return self._names.get((kind, recorded), recorded)

    def _step(self, recorded: StepId) -> StepId:
        return StepId(self._name(_STEP, recorded))

    def _wait(self, recorded: str) -> str:
        return self._name(NameKind.WAIT, recorded)

    def _id(self, kind: NameKind, name: str) -> str:
        """Under which id the history has, or will have, what the program calls *name*."""
        known = self._recorded.get((kind, name))
        if known is not None:
            return known
        other = self._names.get((kind, name))
        if other is not None:
            raise DefinitionError(
                f"{kind.value} {name!r}: in this saga's history that is the id of what is "
                f"{other!r} since it was migrated: give the new one another name"
            )
        return name

    def _step_id(self, name: StepId) -> StepId:
        return StepId(self._id(_STEP, name))

    def _recorded_step(self, name: StepId) -> StepId:
        """As `_step_id`, of what may be no step at all, as whoever wrote the code named it."""
        return StepId(self._recorded.get((_STEP, name), name))

    def _scope(self, recorded: str) -> str:
        outer, slash, own = recorded.rpartition("/")
        known = self._names.get((NameKind.SCOPE, recorded))
        if known is not None or not slash:
            return known or recorded
        return f"{self._scope(outer)}/{own}"

    def _scope_id(self, name: str) -> str:
        """A scope that the history does not have may stand within one that it has."""
        outer, slash, own = name.rpartition("/")
        if not slash or (NameKind.SCOPE, name) in self._recorded:
            return self._id(NameKind.SCOPE, name)
        return f"{self._scope_id(outer)}/{own}"

    def _given(self, commands: Sequence[Command]) -> Sequence[Command]:
        return [self._put(command) for command in commands]

    def _put(self, command: Command) -> Command:
        """*command* in recorded names."""
        match command:
            case DoStep():
                return self._put_step(command)
            case Sleep():
                return replace(command, name=self._id(NameKind.SLEEP, command.name))
            case Await():
                return replace(command, wait=self._id(NameKind.WAIT, command.wait))
            case Publish():
                publication = self._id(NameKind.PUBLICATION, command.publication)
                return replace(command, publication=publication)
            case Tell():
                return replace(command, step=self._step_id(command.step))
            case DropBranch():
                return self._put_dropped(command)
            case Fail():
                return self._put_fail(command)
            case LeaveScope():
                failure = self._put_fail(command.failure)
                return LeaveScope(self._scope_id(command.scope), failure)
            case Park():
                return replace(command, again=tuple(map(self._step_id, command.again)))
            case _:
                return command  # it names nothing

    def _put_step(self, step: DoStep) -> DoStep:
        """A copy: the program keeps its own, under its own name."""
        put = copy(step)
        put.step = self._step_id(step.step)
        put.after = tuple(map(self._step_id, step.after))
        if step.scope is not None:
            put.scope = self._scope_id(step.scope)
        return put

    def _put_dropped(self, dropped: DropBranch) -> DropBranch:
        return DropBranch(
            tuple(map(self._step_id, dropped.steps)),
            tuple(self._id(NameKind.SLEEP, name) for name in dropped.sleeps),
            tuple(self._id(NameKind.WAIT, name) for name in dropped.waits),
        )

    def _put_fail(self, fail: Fail) -> Fail:
        failed = fail.failed_step
        return replace(
            fail,
            failed_step=None if failed is None else self._recorded_step(failed),
            again={self._step_id(step): why for step, why in fail.again.items()},
        )
