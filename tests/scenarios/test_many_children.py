"""A hundred children side by side, of one parent, in one service, on a file and on PostgreSQL."""

import pytest

from saga import Context, Event, SagaApp, saga
from tests.patience import HANG_S

CHILDREN = 100


class CountAsked(Event, topic="hundred.count-asked", version=1, key="name"):
    name: str


class Counted(Event, topic="hundred.counted", version=1):
    numbers: tuple[int, ...]


class PartAsked(Event, topic="hundred.part-asked", version=1, key="name"):
    name: str
    number: int


class PartCounted(Event, topic="hundred.part-counted", version=1):
    number: int


@saga("count", version=1, starts_on=CountAsked)
async def count(ctx: Context, asked: CountAsked) -> Counted:
    parts = [PartAsked(name=f"{asked.name}-{n}", number=n) for n in range(CHILDREN)]
    counted = await ctx.all(*(ctx.child(part, outcome=PartCounted) for part in parts))
    return Counted(numbers=tuple(each.number for each in counted))


@saga("part", version=1, starts_on=PartAsked)
async def part(ctx: Context, asked: PartAsked) -> PartCounted:
    await ctx.sleep("1ms")
    return PartCounted(number=asked.number)


@pytest.fixture(params=["one file", pytest.param("postgres", marks=pytest.mark.connected)])
def places(request, tmp_path):
    bus = f"local:///{tmp_path}/saga.db"
    if request.param == "postgres":
        return {"bus": bus, "store": request.getfixturevalue("postgres")}
    return {"bus": bus, "store": f"sqlite:///{tmp_path}/saga.db"}


async def test_their_outcomes_come_in_the_order_in_which_they_were_asked_for(places):
    app = SagaApp(sagas=[count, part])
    async with app.service(**places) as service:
        started = await service.publish(CountAsked(name="c"))
        outcome = await service.outcome(started, timeout=HANG_S)

    assert outcome.event == Counted(numbers=tuple(range(CHILDREN)))
