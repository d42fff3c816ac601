"""The shadow of every saga: its state as its history gives it, brought up to date turn by turn.

It is there twice: replayed by the saga's code, and folded from the entries alone. At the end each
history is replayed and folded once more in one go.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from saga.audit.replaying import replayed
from saga.core.decider import Decider
from saga.core.fold import fold, fold_turn
from saga.core.history import Entry, turns
from saga.core.identity import SagaId
from saga.core.intents import Continued, Intent, Patched, Shown
from saga.core.replay import is_without_code, take_without_code
from saga.core.state import SagaState, parts_of
from saga.errors import ReplayMismatch
from saga.testing.world.migrations import version_behind


@dataclass(slots=True)
class _Shadow:
    decider: Decider
    state: SagaState
    folded: SagaState
    version: int = 0
    last: Entry | None = None
    """The entry that it has come to: of turns that were not stored others take the place."""

    def leads_to(self, history: Sequence[Entry]) -> bool:
        """Whether *history* goes on where it has stopped: an equal entry may follow other ones."""
        return 0 < self.version <= len(history) and history[self.version - 1] is self.last


class Shadows:
    """Where code *changes*, a shadow is made anew for each release that takes a turn of its saga.

    As a worker does, it then goes by the last run alone, and by names where lengths may differ.
    """

    def __init__(self, *, changes: bool = False) -> None:
        self._shadows: dict[SagaId, _Shadow] = {}
        self._changes = changes

    def compare(self, decider: Decider, live: SagaState, history: Sequence[Entry]) -> Iterator[str]:
        """Yields where *live* differs from what *history*, which led to it, gives."""
        saga_id = live.saga_id
        shadow = self._shadows.get(saga_id)
        if self._changes and not decider.fingerprint:  # it has ended, and needs no code any more
            yield from _differences(live, len(history), "folded", fold(saga_id, history))
            return
        if shadow is None or shadow.decider is not decider or not shadow.leads_to(history):
            if shadow is not None:
                _let_go(shadow.state)
            try:
                shadow = self._shadows[saga_id] = self._made(decider, saga_id, history)
            except ReplayMismatch as error:
                yield f"saga {saga_id} cannot be replayed by the code that took its turn: {error}"
                return
        for turn in turns(history[shadow.version :]):
            fold_turn(shadow.folded, turn)
            if is_without_code(shadow.state, turn.event.fact, turn.decided):
                take_without_code(shadow.state, turn)
                continue
            if shadow.state.is_ahead:
                _let_go(shadow.state)
                known = self._replayable(decider, history[: turn.version - 1])
                shadow.state = replayed(decider, saga_id, known)
            decision = decider.handle(shadow.state, turn.event, turn.decided)
            if shadow.state.program is not None:
                taken = (body.patch for body in turn.decided if isinstance(body, Patched))
                shadow.state.program.take_patches(taken)
            if _compared(turn.decided) != _compared(decision.intents):
                yield f"saga {saga_id}, entry {turn.version}: replayed otherwise"
        shadow.version, shadow.last = len(history), history[-1]
        yield from _differences(live, shadow.version, "replayed", shadow.state)
        yield from _differences(live, shadow.version, "folded", shadow.folded)

    def replay_all(self, histories: Mapping[SagaId, Sequence[Entry]]) -> Iterator[str]:
        """Yields the differences between each shadow and its history replayed in one go."""
        for saga_id, history in histories.items():
            shadow = self._shadows[saga_id]
            try:
                rebuilt = replayed(
                    shadow.decider, saga_id, self._replayable(shadow.decider, history)
                )
            except ReplayMismatch as error:
                yield f"saga {saga_id} cannot be replayed: {error}"
                continue
            _let_go(rebuilt)
            # A turn that was not stored in the end has left its shadow behind.
            live = shadow.state if shadow.last is history[-1] else rebuilt
            yield from _differences(live, len(history), "replayed", rebuilt)
            yield from _differences(live, len(history), "folded", fold(saga_id, history))
        for shadow in self._shadows.values():
            _let_go(shadow.state)

    def _made(self, decider: Decider, saga_id: SagaId, history: Sequence[Entry]) -> _Shadow:
        if not self._changes:
            return _Shadow(decider, decider.initial_state(saga_id), SagaState(saga_id))
        state = replayed(decider, saga_id, self._replayable(decider, history))
        return _Shadow(decider, state, fold(saga_id, history), len(history), history[-1])

    def _replayable(self, decider: Decider, history: Sequence[Entry]) -> Sequence[Entry]:
        return _last_run_of(decider, history) if self._changes else history


def _last_run_of(decider: Decider, history: Sequence[Entry]) -> Sequence[Entry]:
    """A history from the turn on in which the last run begins that *decider* is to decide.

    What it continues as another version it decides on, as long as it has the saga in memory.
    """
    if not any(type(entry.body) is Continued for entry in history):
        return history  # it is in its first run
    begins, versions = 0, {}
    version: int | None = None
    for turn in turns(history):
        if any(isinstance(body, Continued) for body in turn.decided):
            begins = turn.version - 1
        version = versions[begins] = version_behind(turn, version)
    runs = [begins for begins, version in versions.items() if version == decider.version]
    return history[runs[-1] if runs else 0 :]


def _compared(decided: Iterable[Intent]) -> list[Intent]:
    """What a replay decides again: it is told of patches, and no place of what is shown counts."""
    return [body for body in decided if not isinstance(body, Patched | Shown)]


def _let_go(state: SagaState) -> None:
    if state.program is not None:
        state.program.close()


def _differences(live: SagaState, version: int, how: str, rebuilt: SagaState) -> Iterator[str]:
    if live == rebuilt and _undo_order(live) == _undo_order(rebuilt):
        return
    stored = parts_of(rebuilt)
    for name, value in parts_of(live).items():
        if value != stored[name]:
            yield (
                f"live state differs from {how} state: saga {live.saga_id} at version "
                f"{version}, {name}: live {value}, {how} {stored[name]}"
            )


def _undo_order(state: SagaState) -> Sequence[str]:
    return () if state.plan is None else list(state.plan.after)
