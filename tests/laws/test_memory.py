"""What a saga's code remembers is the same in a replay: what it shows only later counts too."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from typing_extensions import override

from saga.core.events import Resumed
from saga.core.history import turns
from saga.core.piecewise import at_once
from saga.core.replay import following, replay
from saga.core.state import SagaState, parts_of
from tests.laws.course import Course, Drawn, begun, through
from tests.laws.memory import remembered
from tests.laws.searching import law

CLOSELY = 3
"""Of so many turns one is looked at closely, and each in which much is told at once."""


class Followed(Course):
    """Two workers look at each turn: one has followed all turns, one replays them now and then."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.follower: SagaState | None = None
        self.followed = 0
        """So many entries the follower knows."""

    @override
    def _check_rebuilt(self) -> None:
        super()._check_rebuilt()
        entries = self._history[self.followed :]
        self.followed = len(self._history)
        is_close = len(self.statuses) % CLOSELY == 0 or isinstance(self.last_fact, Resumed)
        known = remembered(self.state) if is_close and not self.state.is_ahead else None
        is_following = self._follows(entries)
        if not is_following or is_close:
            again = replay(self.decider, self.state.saga_id, self._history)
            check_alike(again, self.state, known)
            let_go(self.follower if not is_following else again)
            self.follower = self.follower if is_following else again
        if is_following:
            assert self.follower is not None
            check_alike(self.follower, self.state, known)

    @property
    def last_fact(self) -> object:
        return None if self._last is None else self._last.fact

    def _follows(self, entries: Sequence[Any]) -> bool:
        if self.follower is None or self.follower.is_ahead:
            return False
        return at_once(following(self.decider, self.follower, turns(entries)))


def check_alike(told: SagaState, live: SagaState, known: list[str] | None) -> None:
    """The same by its entries, and by all that is *known*, where that is looked at."""
    theirs = parts_of(told)
    for part, value in parts_of(live).items():
        assert theirs[part] == value, f"{part}: {theirs[part]}; live: {value}"
    if known is not None and (again := remembered(told)) != known:
        one, other = next(each for each in zip_longest(again, known) if each[0] != each[1])
        raise AssertionError(f"remembered: {one}; live: {other}")


def let_go(state: SagaState | None) -> None:
    if state is not None and state.program is not None:
        state.program.close()


@law(ways=("before", "past"))
def test_what_is_remembered_is_the_same_in_a_replay(drawn: Drawn) -> None:
    """After each turn, of whoever has lived it, has followed it, or has replayed all.

    Of machines and graphs the law of replays compares it, by their snapshots.
    """
    course = begun(drawn, Followed)
    assert isinstance(course, Followed)
    try:
        through(course)
    finally:
        let_go(course.follower)
        let_go(course.state)
