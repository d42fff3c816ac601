"""Worlds of parents and children: they end together, whatever is killed in between."""

from collections import Counter
from random import Random

import pytest

from saga import (
    ChildRolledBack,
    Context,
    EffectContext,
    Effects,
    Event,
    Intent,
    Refused,
    Retry,
    SagaApp,
    TimedOut,
    saga,
)
from saga.testing import World, WorldState

# A world ends after so many rounds of its loop, on any machine.
pytestmark = pytest.mark.timeout(0)
SEEDS = range(40)
PATIENT = Retry(attempts=None, initial="1s", cap="10s")


class TripAsked(Event, topic="travel.trip-asked", version=1, key="trip_id"):
    trip_id: str
    legs: int = 2
    fails: bool = False


class TripBooked(Event, topic="travel.trip-booked", version=1):
    trip_id: str
    seats: tuple[str, ...]


class TripFailed(Event, topic="travel.trip-failed", version=1):
    trip_id: str
    reason: str


class LegAsked(Event, topic="rail.leg-asked", version=1, key="leg_id"):
    leg_id: str


class LegBooked(Event, topic="rail.leg-booked", version=1):
    leg_id: str
    seat: str


class LegFailed(Event, topic="rail.leg-failed", version=1):
    leg_id: str
    reason: str


class MealAsked(Event, topic="rail.meal-asked", version=1, key="meal_id"):
    meal_id: str


class HoldSeat(Intent[None], topic="rail.hold-seat", version=1):
    leg_id: str


class FreeSeat(Intent[None], topic="rail.free-seat", version=1):
    leg_id: str


class Cook(Intent[None], topic="rail.cook", version=1):
    meal_id: str


class ThrowAway(Intent[None], topic="rail.throw-away", version=1):
    meal_id: str


class Pay(Intent[None], topic="travel.pay", version=1):
    trip_id: str
    fails: bool


@saga("trip", version=1, starts_on=TripAsked, rolled_back=TripFailed)
async def trip(ctx: Context, asked: TripAsked) -> TripBooked:
    """All legs side by side, one that is late is given up, and then the payment may fail."""
    legs = [f"{asked.trip_id}-{number}" for number in range(asked.legs)]
    booked = await ctx.all(
        *(ctx.child(LegAsked(leg_id=leg), outcome=LegBooked, id=leg) for leg in legs)
    )
    try:
        late = LegAsked(leg_id=f"{asked.trip_id}-late")
        await ctx.child(late, outcome=LegBooked, timeout="500ms", id="late")
    except (TimedOut, ChildRolledBack):
        pass
    await ctx.any(
        *(ctx.child(LegAsked(leg_id=f"{asked.trip_id}-{side}"), id=side) for side in ("a", "b"))
    )
    await ctx.do(Pay(trip_id=asked.trip_id, fails=asked.fails), retry=PATIENT)
    return TripBooked(trip_id=asked.trip_id, seats=tuple(leg.seat for leg in booked))


@saga("leg", version=1, starts_on=LegAsked, rolled_back=LegFailed)
async def leg(ctx: Context, asked: LegAsked) -> LegBooked:
    """A child that has a child of its own."""
    await ctx.do(HoldSeat(leg_id=asked.leg_id), undo=FreeSeat, retry=PATIENT, timeout="30s")
    await ctx.child(MealAsked(meal_id=asked.leg_id), id="meal")
    return LegBooked(leg_id=asked.leg_id, seat=f"seat of {asked.leg_id}")


@saga("meal", version=1, starts_on=MealAsked)
async def meal(ctx: Context, asked: MealAsked) -> None:
    await ctx.do(Cook(meal_id=asked.meal_id), undo=ThrowAway, retry=PATIENT, timeout="30s")


rail, travel = Effects("rail"), Effects("travel")


@rail.on_start
async def make_tables(db) -> None:
    await db.execute("CREATE TABLE IF NOT EXISTS held (what TEXT PRIMARY KEY)")


@rail.on(HoldSeat)
async def hold_seat(intent: HoldSeat, ctx: EffectContext) -> None:
    await ctx.db.execute("INSERT INTO held VALUES (:what)", what=f"seat {intent.leg_id}")


@rail.on(FreeSeat)
async def free_seat(intent: FreeSeat, ctx: EffectContext) -> None:
    await ctx.db.execute("DELETE FROM held WHERE what = :what", what=f"seat {intent.leg_id}")


@rail.on(Cook)
async def cook(intent: Cook, ctx: EffectContext) -> None:
    await ctx.db.execute("INSERT INTO held VALUES (:what)", what=f"meal {intent.meal_id}")


@rail.on(ThrowAway)
async def throw_away(intent: ThrowAway, ctx: EffectContext) -> None:
    await ctx.db.execute("DELETE FROM held WHERE what = :what", what=f"meal {intent.meal_id}")


@travel.on(Pay)
async def pay(intent: Pay, ctx: EffectContext) -> None:
    if intent.fails:
        raise Refused("no money", code="money")


railway = SagaApp(sagas=[trip, leg, meal], effects=[rail, travel])


def journeys(rng: Random) -> list[TripAsked]:
    return [
        TripAsked(trip_id=f"t-{number}", legs=rng.randint(1, 3), fails=rng.random() < 0.5)
        for number in range(rng.randint(1, 2))
    ]


def check_families(world: WorldState) -> None:
    """What a trip that is not booked has held is free; every child has ended as its parent has."""
    status = {(each.definition, each.key): each.status.value for each in world.sagas}
    held = {row["what"] for row in world.db["rail"].fetch("SELECT what FROM held")}
    for (definition, key), ended in status.items():
        if definition == "meal" and ended != "parked":
            assert (f"meal {key}" in held) == (ended == "completed"), (key, ended, held)
            parents = status[("leg", key)]
            assert ended == "completed" or parents != "completed", (key, ended, parents)
        if definition == "leg" and ended != "parked":
            assert (f"seat {key}" in held) == (ended == "completed"), (key, ended, held)
            parents = status[("trip", key.rpartition("-")[0])]
            assert ended != "completed" or parents == "completed", (key, ended, parents)


def test_parents_and_children_end_together() -> None:
    """Over many worlds: undone, cancelled, late, and losers of races, three generations deep."""
    seen: Counter[str] = Counter()
    for seed in SEEDS:
        verdict = World(railway, seed, triggers=journeys, check=check_families).run()
        assert verdict.ok, verdict.report()
        assert not verdict.parked, verdict.report()
        seen += verdict.statistics

    for what in ("ChildStarted", "ChildEnded", "CommandSent", "saga completed", "saga rolled_back"):
        assert seen[what] > len(SEEDS), (what, seen)
