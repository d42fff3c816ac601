"""Handlers that raise anything, in whole services: on every store, and on both buses."""

import asyncio
import logging
from pathlib import Path

import pytest

from saga import Context, EffectContext, Effects, Retry, SagaApp, saga
from saga.core.status import SagaStatus
from saga.testing import World
from tests.effects.hostile import HOSTILE
from tests.patience import HANG_S
from tests.toys import OrderConfirmed, OrderPlaced, OrderRejected, Paid, Pay, Refund, Ship

KINDS = [*HOSTILE, "none"]


@saga("hostile-order", version=1, starts_on=OrderPlaced, rolled_back=OrderRejected)
async def order(ctx: Context, placed: OrderPlaced) -> OrderConfirmed:
    once = Retry(attempts=1)
    await ctx.do(Pay(order_id=placed.order_id), undo=Refund, retry=once)
    await ctx.do(Ship(order_id=placed.order_id), retry=once)
    return OrderConfirmed(order_id=placed.order_id)


def app() -> SagaApp:
    """Of each kind one order whose `async` handler raises it, and one whose `def` handler does."""
    effects = Effects("hostile")

    @effects.on(Pay)
    async def pay(intent: Pay, ctx: EffectContext) -> Paid:
        kind, _, way = intent.order_id.partition("/")
        if way == "async" and kind in HOSTILE:
            HOSTILE[kind]()
        return Paid(receipt="r")

    @effects.on(Refund)
    def refund(intent: Refund, ctx: EffectContext) -> None:
        pass

    @effects.on(Ship)
    def ship(intent: Ship, ctx: EffectContext) -> None:
        kind, _, way = intent.order_id.partition("/")
        if way == "def" and kind in HOSTILE:
            HOSTILE[kind]()

    return SagaApp(sagas=[order], effects=[effects])


@pytest.fixture(
    params=["one file", "two files", "as by default", "postgres", "kafka", "kafka and postgres"]
)
def places(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    found = {
        "bus": f"local:///{tmp_path}/saga.db",
        "store": f"sqlite:///{tmp_path}/saga.db",
        "effects_store": f"sqlite:///{tmp_path}/saga.db",
    }
    if request.param == "two files":
        found["effects_store"] = f"sqlite:///{tmp_path}/effects.db"
    if request.param == "as by default":
        del found["effects_store"]
    if "postgres" in request.param:
        address = request.getfixturevalue("postgres")
        found |= {"store": address, "effects_store": address}
    if "kafka" in request.param:
        cluster = request.getfixturevalue("kafka")
        found |= {"bus": cluster.url, "namespace": request.getfixturevalue("namespace")}
    return found


async def test_whatever_handlers_raise_only_their_own_sagas_are_undone(places, caplog):
    """The others complete, the service is well, and starts again."""
    caplog.set_level(logging.CRITICAL + 1)
    names = [f"{kind}/{way}" for kind in KINDS for way in ("async", "def")]
    async with app().service(**places) as service:
        sagas = [await service.publish(OrderPlaced(order_id=name)) for name in names]
        outcomes = await asyncio.gather(*(service.outcome(each, timeout=HANG_S) for each in sagas))
        assert await service.problems() == []
    statuses = {name: each.status for name, each in zip(names, outcomes, strict=True)}
    async with app().service(**places) as service:
        again = await service.publish(OrderPlaced(order_id="again"))
        assert (await service.outcome(again, timeout=HANG_S)).status is SagaStatus.COMPLETED

    completed = {name for name, status in statuses.items() if status is SagaStatus.COMPLETED}
    assert completed == {"none/async", "none/def"}
    assert set(statuses.values()) == {
        SagaStatus.COMPLETED,
        SagaStatus.ROLLED_BACK,
        SagaStatus.ROLLED_BACK_WITH_RESIDUE,  # shipping has no undo, and may have been done
    }


@pytest.mark.timeout(0)
@pytest.mark.parametrize("seed", range(5))
def test_whatever_handlers_raise_a_world_goes_on(seed):
    """A world has no threads: `def` handlers raise on its loop."""
    names = [f"{kind}/{way}" for kind in KINDS for way in ("async", "def")]
    triggers = [OrderPlaced(order_id=name) for name in names]
    verdict = World(app(), seed, triggers=triggers).run()

    assert verdict.ok, verdict.report()
