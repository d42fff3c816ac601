"""Many worlds, one after another: what went wrong, and proof that the faults have bitten."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from saga.testing import Verdict, World
from tests.simulation.everything import everything_world
from tests.simulation.office.worlds import moved_world, office_world
from tests.simulation.sample import sample_world

CHUNK_WORLDS = 250
WORLDS: dict[str, Callable[[int], World]] = {
    "sample": sample_world,
    "everything": everything_world,
    "office": office_world,
    "moved": moved_world,
}
"""What a campaign can be of."""
DEFAULT_WORLDS = 500
FAILURES_MAX = 5
"""After so many failing worlds a campaign has said enough."""

#: Every call of a port at which a process can crash, before it and after it was done.
CRASH_POINTS = (
    *("bus.publish", "bus.subscribe", "clock.sleep", "service.work"),
    *("catalogue.awaited", "catalogue.last_unhandled"),
    *("consumer.commit", "consumer.fetch", "inbox.begin", "inbox.commit"),
    *("answers.begin", "answers.commit"),
    *("store.append", "store.backlog", "store.due_timers", "store.load", "store.positions"),
)
ERROR_POINTS = (
    *("answers.commit", "bus.publish", "inbox.commit"),
    *("store.append", "store.load", "store.positions"),
)

#: What a chunk of worlds must have seen: a campaign in which nothing happens proves nothing.
EXPECTED = (
    *(f"crash {when} {point}" for when in ("before", "after") for point in CRASH_POINTS),
    *(f"error {when} {point}" for when in ("before", "after") for point in ERROR_POINTS),
    *("torn publish", "duplicate", "late duplicate", "lost reply", "late reply", "slow call"),
    *("stalled partition", "small fetch", "kill", "freeze", "deafen", "rewind", "reset", "restart"),
    *("released", "conflicts", "deferred", "dead key_taken"),
    *("saga completed", "saga rolled_back", "saga rolled_back_with_residue"),
    *("plan rolled_back", "plan completed", "plan cleaned_up"),
    *("noted late_success", "noted late_failure", "noted superseded"),
    *("noted refused", "noted stale", "noted after_end"),
    *("settled undo_stuck", "settled in_doubt", "settled done"),
    *("UndoAppended", "TurnFailed", "SignalReceived", "CancelRequested", "EventPublished"),
)


@dataclass(slots=True)
class Campaign:
    """What became of some worlds."""

    worlds: int = 0
    failed: list[Verdict] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    of: str = "sample"

    @property
    def unseen(self) -> list[str]:
        """What should have happened and did not."""
        return [what for what in EXPECTED if not self.seen[what]]

    def report(self) -> str:
        """The failing worlds and how to repeat them."""
        return "\n\n".join(
            f"{verdict.report()}\npython -m tests.simulation --of {self.of} --trace {verdict.seed}"
            for verdict in self.failed
        )


def _run(seed: int, of: str) -> Verdict:
    """Run one world; AssertionError where it leaves a coroutine that was never begun."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", RuntimeWarning)
        verdict = WORLDS[of](seed).run()
    left = [str(each.message) for each in warned if "never awaited" in str(each.message)]
    assert not left, f"python -m tests.simulation --of {of} --trace {seed}: {left}"
    return verdict


def run_worlds(
    seeds: Iterable[int], *, failures_max: int = FAILURES_MAX, of: str = "sample"
) -> Campaign:
    """Run the worlds of *seeds*, until too many have failed."""
    campaign = Campaign(of=of)
    for seed in seeds:
        verdict = _run(seed, of)
        campaign.worlds += 1
        campaign.seen += verdict.statistics
        if verdict.violations:
            campaign.failed.append(verdict)
            if len(campaign.failed) >= failures_max:
                break
    return campaign
