"""The worlds of both applications: their releases, what happens in them, and what must hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Final

from saga import SagaApp, contract
from saga.core.events import EventReceived, ReplyOutcome, ReplyReceived
from saga.core.identity import UNDO
from saga.core.intents import (
    IntentIssued,
    RollbackGoal,
    RollbackPlanned,
    StepSettled,
    UndoAppended,
)
from saga.testing import (
    World,
    WorldSaga,
    WorldState,
    after,
    cancelled,
    operator,
    signalled,
    updated,
)
from saga.testing.world.driver import Happens, Somewhere
from tests.simulation.everything import by_hand
from tests.simulation.office.clerks import clerk_1, clerk_2, crate
from tests.simulation.office.tales import pallet, tale_1, tale_1_changed, tale_2
from tests.simulation.office.words import (
    ClerkAsked,
    CrateAsked,
    Ended,
    Failed,
    FormAsked,
    Lifted,
    News,
    TaleAsked,
    hold,
    yard,
)

HERE: Final = Path(__file__).parent
form_1, form_2 = contract(HERE / "form_1.yaml"), contract(HERE / "form_2.yaml")
CONTRACTS: Final = [TaleAsked, ClerkAsked, FormAsked, CrateAsked, Ended, Failed, News]


def _office(*sagas: object) -> SagaApp:
    return SagaApp(sagas=sagas, effects=[yard], contracts=CONTRACTS, name="office")  # type: ignore[arg-type]


office = _office(tale_1, clerk_1, form_1)
both_versions = _office(tale_1_changed, tale_2, clerk_1, clerk_2, form_1, form_2)
new_versions = _office(tale_2, clerk_2, form_2)
DEPLOYS: Final = ((), (both_versions,), (both_versions, new_versions), (new_versions,))
depot = SagaApp(sagas=[crate, pallet], effects=[hold], contracts=[FormAsked], name="depot")

STEPS: Final = (
    *("first", "in-scope", "in-scope-too", "instead", "racing", "slowly", "more-slowly"),
    *("one", "two", "aside", "seal", "left", "right", "top", "wing", "pack", "nail", "stack"),
)
MODES: Final = ("graceful", "immediate", "abandon")
ACTS: Final = ("retry", "skip", "compensate", "release", "pause", "resume")
BEHIND: Final = {
    "front": frozenset[str](),
    "left": frozenset({"front"}),
    "right": frozenset[str](),
    "top": frozenset({"left", "right", "front"}),
    "wing": frozenset({"left", "front"}),
    "items": frozenset({"top", "left", "right", "front"}),
}
"""Of the graph's steps those that they depend on, near and far, as one reads it in the file."""


def office_world(seed: int) -> World:
    """The world of *seed*."""
    checks = [nobody_is_parked, news_are_taken_once, graphs_are_undone_backwards]
    deploys = DEPLOYS[seed % len(DEPLOYS)]
    return World(office, seed, triggers=stories, deploys=deploys, beside=[depot], check=checks)


def stories(rng: Random) -> list[Sequence[Happens]]:
    """What happens in one world, beside what goes wrong in it."""
    keys = [f"k-{number}" for number in range(rng.randint(1, 4))]
    return [_story(rng, keys, key) for key in keys]


def _story(rng: Random, keys: Sequence[str], key: str) -> Sequence[Happens]:
    story: list[Happens] = [_asked(rng, key)]
    for _ in range(rng.randint(0, 6)):
        story.append(after(f"{rng.randint(0, 900)}ms"))
        story.append(_happens(rng, keys))
    return story


def _asked(rng: Random, key: str) -> TaleAsked | ClerkAsked | FormAsked | CrateAsked:
    trouble = rng.choice((0.05, 0.15, 0.3))
    scripts = {step: _script(rng) for step in STEPS if rng.random() < trouble}
    if rng.random() < 0.15:
        scripts["leave"] = ""
    match rng.randrange(7):
        case 0 | 1 | 2:
            runs = rng.choice((0, 0, 0, 1, 2))
            return TaleAsked(key=key, scripts=scripts, news=rng.randint(0, 2), runs=runs)
        case 3 | 4:
            return ClerkAsked(key=key, scripts=scripts, news=rng.randint(1, 2))
        case 5:
            count = rng.randint(0, 4)
            items = [_script(rng) if rng.random() < trouble else "" for _ in range(count)]
            return FormAsked(key=key, scripts=scripts, items=tuple(items), crate=rng.random() < 0.6)
        case _:
            return CrateAsked(key=key, scripts=scripts)


def _script(rng: Random) -> str:
    doing = rng.choice(("refuse", "fail:1", "fail:2", "fail:9", "slow:0.3", "slow:1.2", ""))
    return f"{doing} undofail:{rng.randint(0, 2)}"


def _happens(rng: Random, keys: Sequence[str]) -> Happens:
    match rng.randrange(10):
        case 0 | 1 | 2:
            return News(about=rng.choice([*keys, "nobody"]), number=rng.randint(0, 9))
        case 3:
            return signalled("go", {"number": rng.choice((1, "none"))})
        case 4:
            return updated("ask", {"number": rng.choice((1, 2, "none"))})
        case 5:
            return Somewhere(cancelled("planned", mode=rng.choice(MODES)))
        case 6:
            return Somewhere(operator(rng.choice(ACTS)))
        case 7:
            return operator(rng.choice(("pause", "resume")), definition=True)
        case _:
            return by_hand(rng, keys, steps=STEPS, entered=Lifted(step="by-hand"))


def nobody_is_parked(world: WorldState) -> None:
    """No saga has a flaw: what is stuck is skipped."""
    parked = [f"{saga.key}: {saga.reason}" for saga in world.sagas if saga.status == "parked"]
    assert not parked, parked


def news_are_taken_once(world: WorldState) -> None:
    """Nobody has taken news more often than they came."""
    for saga in world.sagas:
        if isinstance(saga.outcome, Ended):
            came = Counter(_news(saga))
            taken = Counter(saga.outcome.heard)
            assert taken <= came, f"{saga.key} has taken {taken} of {came}"


def _news(saga: WorldSaga) -> Iterator[int]:
    for entry in saga.history:
        body = entry.body
        if isinstance(body, EventReceived) and body.contract == "office.evt.news.v1":
            yield News.model_validate_json(body.payload).number


def graphs_are_undone_backwards(world: WorldState) -> None:
    """No step of a graph is undone before one that depended on it, as its file says."""
    for saga in world.sagas:
        bodies = [entry.body for entry in saga.history]
        plans = [body for body in bodies if isinstance(body, RollbackPlanned)]
        if saga.definition != "form" or any(isinstance(body, UndoAppended) for body in bodies):
            continue
        if [plan.goal for plan in plans] != [RollbackGoal.ROLLED_BACK]:
            continue
        undone = {each.step for each in bodies if isinstance(each, IntentIssued) if _undoes(each)}
        for place, body in enumerate(bodies):
            if isinstance(body, IntentIssued) and _undoes(body):
                over = set(_over(bodies[:place]))
                later = {
                    step
                    for step in undone - over
                    if body.step in BEHIND.get(step.partition("-")[0], frozenset())
                }
                assert not later, f"{saga.key}: {body.step} is undone before {later}"


def _undoes(body: IntentIssued) -> bool:
    return body.direction is UNDO


def _over(bodies: Sequence[object]) -> Iterator[str]:
    """The steps that are undone by now, or cannot be."""
    for body in bodies:
        if isinstance(body, ReplyReceived) and body.outcome is ReplyOutcome.DONE:
            _, step, direction, _ = body.intent_id.split("/")
            if direction == UNDO:
                yield step
        elif isinstance(body, StepSettled) and body.direction is UNDO:
            yield body.step
