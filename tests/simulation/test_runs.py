"""Worlds in which sagas continue as new: killed, doubled and delayed like any other."""

from collections import Counter
from datetime import timedelta

import pytest

from saga import Context, EffectContext, Effects, Event, Intent, Refused, Retry, SagaApp, saga
from saga.core.intents import Continued
from saga.testing import World, WorldState

pytestmark = pytest.mark.timeout(0)
SEEDS = range(24)
PATIENT = Retry(attempts=None, initial="1s", cap="10s")


class RentDue(Event, topic="lease.rent-due", version=1, key="lease_id"):
    lease_id: str
    month: int = 1


class LeaseEnded(Event, topic="lease.ended", version=1):
    lease_id: str
    months: int


class LeaseFailed(Event, topic="lease.failed", version=1):
    lease_id: str
    reason: str


class RentTaken(Event, topic="lease.rent-taken", version=1):
    lease_id: str
    month: int


class Remind(Intent[None], topic="letters.remind", version=1):
    lease_id: str
    month: int


class Recall(Intent[None], topic="letters.recall", version=1):
    lease_id: str


class TakeRent(Intent[None], topic="bank.take-rent", version=1):
    lease_id: str
    month: int


class GiveBack(Intent[None], topic="bank.give-back", version=1):
    lease_id: str
    month: int


@saga("lease", version=1, starts_on=RentDue, rolled_back=LeaseFailed)
async def lease(ctx: Context, due: RentDue) -> LeaseEnded:
    """One run a month: a reminder loses against the rent, and is recalled."""
    rent = TakeRent(lease_id=due.lease_id, month=due.month)
    reminder = Remind(lease_id=due.lease_id, month=due.month)
    await ctx.any(
        ctx.do(rent, undo=GiveBack, retry=PATIENT, timeout="30s", id="rent"),
        ctx.do(reminder, undo=Recall, retry=PATIENT, timeout="30s", id="reminder"),
    )
    await ctx.do(rent, undo=GiveBack, retry=PATIENT, timeout="30s", id="again")
    ctx.publish(RentTaken(lease_id=due.lease_id, month=due.month))
    noticed = ctx.wait("notice", int)
    notice = await ctx.any(noticed, _later(ctx))
    if notice or due.month == 5:
        return LeaseEnded(lease_id=due.lease_id, months=due.month)
    return await ctx.continue_as_new(RentDue(lease_id=due.lease_id, month=due.month + 1))


async def _later(ctx: Context) -> None:
    await ctx.sleep(timedelta(days=30))


bank, letters = Effects("bank"), Effects("letters")


@bank.on_start
async def prepare(db) -> None:
    await db.execute("CREATE TABLE IF NOT EXISTS rents (lease_id TEXT, month INTEGER)")


@bank.on(TakeRent)
async def take(intent: TakeRent, ctx: EffectContext) -> None:
    await ctx.db.execute("INSERT INTO rents VALUES (:l, :m)", l=intent.lease_id, m=intent.month)
    if intent.lease_id.endswith("poor") and intent.month == 3:
        raise Refused("no money", code="poor")


@bank.on(GiveBack)
async def give_back(intent: GiveBack, ctx: EffectContext) -> None: ...


@letters.on(Remind)
async def remind(intent: Remind, ctx: EffectContext) -> None: ...


@letters.on(Recall)
async def recall(intent: Recall, ctx: EffectContext) -> None: ...


app = SagaApp(sagas=[lease], effects=[bank, letters])
TRIGGERS = [
    *(RentDue(lease_id=f"l-{number}") for number in range(3)),
    RentDue(lease_id="l-poor"),
]


def rents_are_taken_in_each_month(world: WorldState) -> None:
    """Each run asked its services anew, as none took a step for one of an earlier run."""
    for found in world.sagas:
        if found.status != "completed" or found.outcome is None:
            continue
        runs = [entry.body for entry in found.history if isinstance(entry.body, Continued)]
        assert [each.run for each in runs] == list(range(2, found.outcome.months + 1))


@pytest.mark.parametrize("seed", SEEDS)
def test_sagas_continue_as_new_in_any_world(seed):
    verdict = World(app, seed, triggers=TRIGGERS, check=[rents_are_taken_in_each_month]).run()
    assert verdict.ok, verdict.report()


def test_worlds_have_sagas_of_many_runs():
    """Else the above would prove nothing."""
    seen = Counter()
    for seed in range(6):
        seen.update(World(app, seed, triggers=TRIGGERS).run().statistics)
    assert seen["Continued"] > 20, seen
