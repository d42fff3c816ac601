"""Events of others in simulated worlds: whatever crashes when, each is taken once, in order."""

import pytest

from saga import Context, EffectContext, Effects, Event, Intent, SagaApp, on, saga
from saga.authoring import TimedOut
from saga.core.events import EventReceived
from saga.testing import World, after


class Ordered(Event, topic="postal.ordered", version=1, key="order"):
    order: str


class PickedUp(Event, topic="carrier.picked-up", version=1, key="parcel"):
    parcel: str
    order: str
    place: int


class Announced(Event, topic="postal.announced", version=1, key="order"):
    order: str
    places: tuple[int, ...]


class Tell(Intent[None], topic="postal.tell", version=1):
    order: str
    place: int


@saga("parcels", version=1, starts_on=Ordered, listens=on(PickedUp, key="order", early="1m"))
async def parcels(ctx: Context, ordered: Ordered) -> Announced:
    """Tells the customer of three parcels, the last one first."""
    places: list[int] = []
    try:
        last = await ctx.next(PickedUp, where=lambda picked: picked.place == 3, timeout="2m")
        places.append(last.place)
        await ctx.do(Tell(order=ordered.order, place=last.place))
        for _ in range(2):
            picked = await ctx.next(PickedUp, timeout="2m")
            places.append(picked.place)
    except TimedOut:
        pass
    return Announced(order=ordered.order, places=tuple(places))


post = Effects("post")


@post.on(Tell)
async def tell(intent: Tell, ctx: EffectContext) -> None:
    """Nobody can fail to be told."""


APP = SagaApp(sagas=[parcels], effects=[post])


def story(order, *places):
    picked = (PickedUp(parcel=f"{order}-{n}", order=order, place=n) for n in places)
    return [Ordered(order=order), *(each for one in picked for each in (one, after("300ms")))]


def taken_once(world):
    for saga_ in world.sagas:
        facts = [e.body for e in saga_.history if isinstance(e.body, EventReceived)]
        payloads = [fact.payload for fact in facts]
        assert len(payloads) == len(set(payloads)), payloads


@pytest.mark.parametrize("seed", range(12))
def test_each_event_reaches_its_saga_once_whatever_crashes(seed):
    """Each travels under its parcel's key, so mostly through another worker; some come early."""
    nobodys = PickedUp(parcel="d-3", order="d", place=3)
    early = [PickedUp(parcel="c-3", order="c", place=3), after("200ms"), Ordered(order="c")]
    stories = [story("a", 1, 2, 3), story("b", 3, 1, 2), early, nobodys]
    verdict = World(APP, seed, triggers=stories, check=taken_once).run()
    assert verdict.ok, verdict.report()
