"""Worlds of sagas that answer updates, signal each other, and show and log what they do."""

from random import Random

import pytest

from saga import Context, Event, SagaApp, saga
from saga.core.events import SignalReceived, UpdateReceived
from saga.core.intents import CommandSent, Shown, UpdateAnswered
from saga.testing import World, WorldState, after, updated

# A world ends after so many rounds of its loop, on any machine.
pytestmark = pytest.mark.timeout(0)
SEEDS = range(25)


class BasketOpened(Event, topic="visible.basket-opened", version=1, key="name"):
    name: str


class ShelfOpened(Event, topic="visible.shelf-opened", version=1, key="name"):
    name: str


class BasketClosed(Event, topic="visible.basket-closed", version=1):
    items: list[str]


@saga("basket", version=1, starts_on=BasketOpened)
async def basket(ctx: Context, opened: BasketOpened) -> BasketClosed:
    items: list[str] = []
    while len(items) < 3:
        request = await ctx.update("add", str)
        ctx.log.info("asked for %s", request.payload)
        if request.payload in items:
            request.refuse("twice")
            continue
        await ctx.signal("shelf", opened.name, "taken", request.payload)
        items.append(request.payload)
        ctx.show(items=len(items), last=request.payload)
        request.answer(list(items))
    return BasketClosed(items=items)


@saga("shelf", version=1, starts_on=ShelfOpened)
async def shelf(ctx: Context, opened: ShelfOpened) -> BasketClosed:
    return BasketClosed(items=[await ctx.wait("taken", str) for _ in range(3)])


APP = SagaApp(sagas=[basket, shelf])


def stories(rng: Random) -> list[object]:
    told: list[object] = []
    for name in ("a", "b"):
        told.append(ShelfOpened(name=name))
        story: list[object] = [BasketOpened(name=name)]
        for number in range(6):
            story += [updated("add", rng.choice(("tea", "rice", "milk", number)))]
            if rng.random() < 0.4:
                story.append(after("3s"))
        told.append(story)
    return told


def each_answer_is_that_of_its_place(state: WorldState) -> None:
    """As many as were asked; a shelf hears what its basket said, in whatever order it comes."""
    for one in state.sagas:
        if one.definition != "basket":
            continue
        bodies = [entry.body for entry in one.history]
        asked = {body.update for body in bodies if isinstance(body, UpdateReceived)}
        answered = [body for body in bodies if isinstance(body, UpdateAnswered)]
        assert {body.update for body in answered} <= asked
        lengths = [body.answer.count(",") + 1 for body in answered if body.answer is not None]
        assert lengths == list(range(1, len(lengths) + 1))
        assert len([body for body in bodies if isinstance(body, Shown)]) == len(lengths)
        sent = sorted(body.payload for body in bodies if isinstance(body, CommandSent))
        shelves = [each for each in state.sagas if each.definition == "shelf"]
        (other,) = [each for each in shelves if each.key == one.key]
        heard = [e.body.payload for e in other.history if isinstance(e.body, SignalReceived)]
        assert sorted(heard) == sent or other.status.value != "completed"


def test_each_update_is_answered_once_in_every_world() -> None:
    """Crashes, repeats and cancels at random moments; histories hold the answers."""
    seen: set[str] = set()
    for seed in SEEDS:
        verdict = World(APP, seed, triggers=stories, check=each_answer_is_that_of_its_place).run()
        assert verdict.ok, verdict.report()
        seen |= {name for name, count in verdict.statistics.items() if count}

    assert {"UpdateAnswered", "CommandSent", "Shown", "saga completed"} <= seen
