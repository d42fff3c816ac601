"""The worlds of both applications: their releases, what happens in them, and what must hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

from saga import SagaApp, contract
from saga.core.events import EventReceived, ReplyOutcome, ReplyReceived
from saga.core.identity import UNDO
from saga.core.intents import (
    Continued,
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
    migrated_to,
    operator,
    signalled,
    updated,
)
from saga.testing.happenings import MigratedTo
from saga.testing.world.driver import Happens, Somewhere
from tests.simulation.everything import by_hand
from tests.simulation.office.clerks import CLERK_3, clerk_1, clerk_2, clerk_3, crate
from tests.simulation.office.tales import (
    TALE_3,
    pallet,
    tale_1,
    tale_1_changed,
    tale_2,
    tale_3,
)
from tests.simulation.office.words import (
    ClerkAsked,
    CrateAsked,
    Ended,
    Failed,
    FormAsked,
    Lift,
    Lifted,
    News,
    TaleAsked,
    hold,
    yard,
)

HERE: Final = Path(__file__).parent
form_1, form_2, form_3 = (contract(HERE / f"form_{number}.yaml") for number in (1, 2, 3))
CONTRACTS: Final = [TaleAsked, ClerkAsked, FormAsked, CrateAsked, Ended, Failed, News]


def _reversed(names: Mapping[str, str]) -> dict[str, str]:
    return {new: old for old, new in names.items()}


def _office(*sagas: object) -> SagaApp:
    return SagaApp(sagas=sagas, effects=[yard], contracts=CONTRACTS, name="office")  # type: ignore[arg-type]


office = _office(tale_1, clerk_1, form_1)
both_versions = _office(tale_1_changed, tale_2, clerk_1, clerk_2, form_1, form_2)
new_versions = _office(tale_2, clerk_2, form_2)
first_and_third = _office(tale_1, clerk_1, form_1, tale_3, clerk_3, form_3)
third_alone = _office(tale_3, clerk_3, form_3)
DEPLOYS: Final = ((), (both_versions,), (both_versions, new_versions), (new_versions,))
depot = SagaApp(sagas=[crate, pallet], effects=[hold], contracts=[FormAsked], name="depot")

FORM_3: Final = {"left": "west", "items": "things", "go": "gone"}
THIRD: Final = (
    migrated_to(tale_3, steps=TALE_3),
    migrated_to(clerk_3, steps=CLERK_3),
    migrated_to(form_3, steps=FORM_3),
)
"""As it has to be said: what the first version has decided, the third one decides too."""
FIRST: Final = (
    migrated_to(tale_1, steps=_reversed(TALE_3)),
    migrated_to(clerk_1, steps=_reversed(CLERK_3)),
    migrated_to(form_1, steps=_reversed(FORM_3)),
)
"""The way back, as far as nothing has happened that only the third version has."""
SECOND: Final = (migrated_to(tale_2), migrated_to(clerk_2), migrated_to(form_2))
NAMELESS: Final = (
    *(migrated_to(tale_3), migrated_to(clerk_3, steps={"one": "left"}), migrated_to(form_3)),
)
"""What is refused, unless hardly anything was decided."""
MOVED: Final = (
    (office, (first_and_third,), THIRD),
    (first_and_third, (), FIRST),
    (office, (third_alone,), THIRD),
    (first_and_third, (), FIRST),
    (office, (both_versions, first_and_third), THIRD),
    (both_versions, (first_and_third, third_alone), THIRD),
)
"""The first release, those that follow, and what is migrated to once it is there."""

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


def moved_world(seed: int) -> World:
    """As `office_world`, and running sagas are moved to the version that a deploy brings."""
    checks = [
        *(nobody_is_parked, news_are_taken_once, graphs_are_undone_backwards),
        no_name_is_two_things,
    ]
    app, deploys, migrations = MOVED[seed % len(MOVED)]
    one_by_one = [*migrations, *NAMELESS]
    if both_versions in (app, *deploys):
        one_by_one += SECOND
    return World(
        app,
        seed,
        triggers=partial(moved_stories, one_by_one=one_by_one),
        deploys=deploys,
        migrations=migrations,
        beside=[depot],
        check=checks,
    )


def moved_stories(rng: Random, *, one_by_one: Sequence[MigratedTo]) -> list[Sequence[Happens]]:
    """Those of `stories`, in which somebody migrates one saga now and then."""
    told: list[Sequence[Happens]] = []
    for story in stories(rng):
        happens = [*story]
        if rng.random() < 0.5:
            one = Somewhere(rng.choice(one_by_one))
            happens += [after(f"{rng.randint(0, 1500)}ms"), one]
        told.append(happens)
    return told


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
                    if _node(body.step) in BEHIND.get(_node(step), frozenset())
                }
                assert not later, f"{saga.key}: {body.step} is undone before {later}"


def no_name_is_two_things(world: WorldState) -> None:
    """What was begun under one name goes on under that one, whatever later code calls it."""
    for saga in world.sagas:
        named: dict[str, str] = {}
        run = 1
        for entry in saga.history:
            body = entry.body
            if isinstance(body, Continued):
                run = body.run
            if isinstance(body, IntentIssued) and not _undoes(body) and not body.child:
                step = f"{run}.{Lift.model_validate_json(body.payload).step}"
                other = named.setdefault(step, body.step)
                is_one = other == body.step or step.endswith(".items")
                assert is_one, f"{saga.key}: {step} is done as {other} and as {body.step}"


def _node(step: str) -> str:
    """What the first version of the graph calls it, without the number of an item."""
    node = step.partition("-")[0]
    return {"west": "left", "things": "items"}.get(node, node)


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
