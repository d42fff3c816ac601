"""One saga signals another: in one application or two, early, late, and to nobody."""

import pytest

from saga import Context, Event, SagaApp, saga
from saga.adapters.opening import open_store
from saga.settings import Settings
from tests.patience import HANG_S


class OrderAsked(Event, topic="signals.order-asked", version=1, key="name"):
    name: str
    to: str


class ParcelAsked(Event, topic="signals.parcel-asked", version=1, key="name"):
    name: str


class Packed(Event, topic="signals.packed", version=1):
    name: str
    notes: list[str]


class Note(Event, topic="signals.note", version=1):
    text: str


@saga("order", version=1, starts_on=OrderAsked)
async def order(ctx: Context, asked: OrderAsked) -> None:
    for text in ("fragile", "heavy"):
        await ctx.signal("parcel", asked.to, "note", Note(text=text))


@saga("parcel", version=1, starts_on=ParcelAsked)
async def parcel(ctx: Context, asked: ParcelAsked) -> Packed:
    notes = [(await ctx.wait("note", Note)).text for _ in range(2)]
    return Packed(name=asked.name, notes=notes)


async def unhandled(files):
    opened = open_store(Settings.read({}, **files))
    found = await opened.catalogue.unhandled()
    await opened.close()
    return [record.reason for record in found]


@pytest.mark.parametrize("comes_first", ["parcel", "order"])
async def test_a_signal_reaches_a_saga_of_another_application(tmp_path, comes_first):
    """Also one that begins a little later; in order, once each, with who has sent it."""
    bus = f"local:///{tmp_path}/bus.db"
    files = {name: {"bus": bus, "store": f"sqlite:///{tmp_path}/{name}.db"} for name in "op"}
    async with (
        SagaApp(sagas=[order]).service(**files["o"]) as orders,
        SagaApp(sagas=[parcel]).service(**files["p"]) as parcels,
    ):
        if comes_first == "parcel":
            await parcels.publish(ParcelAsked(name="p-1"))
        await orders.publish(OrderAsked(name="o-1", to="p-1"))
        await orders.outcome("order/o-1", timeout=HANG_S)
        if comes_first == "order":
            await parcels.publish(ParcelAsked(name="p-1"))
        outcome = await parcels.outcome("parcel/p-1", timeout=HANG_S)
        view = await parcels.find("parcel/p-1")

    assert outcome.event == Packed(name="p-1", notes=["fragile", "heavy"])
    assert view is not None
    assert view.to_json()["outcome"]["payload"]["notes"] == ["fragile", "heavy"]
    assert await unhandled(files["p"]) == await unhandled(files["o"]) == []


async def test_a_signal_to_nobody_waits_a_little_and_becomes_a_dead_letter(tmp_path):
    """Who has sent it goes on all the same."""
    files = {"bus": f"local:///{tmp_path}/saga.db", "store": f"sqlite:///{tmp_path}/saga.db"}
    app = SagaApp(sagas=[order, parcel])
    async with app.service(early_hold="0s", **files) as service:
        await service.publish(OrderAsked(name="o-1", to="nobody"))
        outcome = await service.outcome("order/o-1", timeout=HANG_S)
        assert await service.find("parcel/nobody") is None
        for _ in range(200):
            await service.idle(timeout=HANG_S)
            if set(await unhandled(files)) == {"unknown_saga"}:
                break

    assert outcome.status.value == "completed"
    assert await unhandled(files) == ["unknown_saga"] * 2
