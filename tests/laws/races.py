"""Who won each race, as the saga's own code saw it, and who lost: the engine is not asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

Race = tuple[int, str]
"""The run that it is in, and its place."""
AT_THE_END: Final = "the end"
"""The race of all that is in flight when a machine is through: whatever it is, it has lost."""


@dataclass(frozen=True)
class Decided:
    winners: frozenset[str]
    losers: frozenset[str]
    """Their places; what is nested in one has lost, too."""


@dataclass
class Races:
    """The races of one saga. A replay that decides them again changes nothing."""

    decided: dict[Race, Decided] = field(default_factory=dict)
    ended: dict[Race, dict[int, bool]] = field(default_factory=dict)
    """By branch, whether it has succeeded."""

    def end(self, race: Race, branch: int, *, is_done: bool) -> None:
        self.ended.setdefault(race, {})[branch] = is_done

    def decide(self, race: Race, branches: int, *, is_won: bool) -> None:
        """Those have won who have done what decides it: succeeded, or failed."""
        ended = self.ended.get(race, {})
        winners = {each for each, is_done in ended.items() if is_done is is_won}
        place = race[1]
        self.decided[race] = Decided(
            frozenset(f"{place}.{each}" for each in winners),
            frozenset(f"{place}.{each}" for each in {*range(branches)} - winners),
        )

    def lost_in(self, step: str, run: int) -> Iterator[Race]:
        """The races that a step has lost; its id without the run."""
        for race, decided in self.decided.items():
            if race[0] == run and any(is_in(step, place) for place in decided.losers):
                yield race

    def that_count(self) -> dict[Race, frozenset[str]]:
        """The winners of the races that are not in a branch that has lost."""
        return {
            race: decided.winners
            for race, decided in self.decided.items()
            if not any(True for _ in self.lost_in(race[1], race[0]))
        }

    def clear(self) -> None:
        self.decided.clear()
        self.ended.clear()


def is_in(step: str, place: str) -> bool:
    return step == place or step.startswith(f"{place}.")
