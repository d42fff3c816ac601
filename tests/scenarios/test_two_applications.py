"""Two applications of one namespace on one bus, each with a store of its own."""

from saga import Context, Event, Intent, SagaApp, saga
from saga.adapters.opening import open_store
from saga.settings import Settings
from tests.patience import HANG_S


class OrderAsked(Event, topic="both.order-asked", version=1, key="name"):
    name: str


class InvoiceAsked(Event, topic="both.invoice-asked", version=1, key="name"):
    name: str


class Written(Event, topic="both.written", version=1):
    name: str


class Write(Intent[Written], topic="both.write", version=1):
    name: str


class Note(Event, topic="both.note", version=1):
    text: str


@saga("order", version=1, starts_on=OrderAsked)
async def order(ctx: Context, asked: OrderAsked) -> Written:
    note = await ctx.wait("note", Note)
    return Written(name=note.text)


@saga("invoice", version=1, starts_on=InvoiceAsked)
async def invoice(ctx: Context, asked: InvoiceAsked) -> Written:
    note = await ctx.wait("note", Note)
    return Written(name=note.text)


ORDERS, INVOICES = SagaApp(sagas=[order], contracts=[Write]), SagaApp(sagas=[invoice])
KEYS = [f"k-{number}" for number in range(12)]


async def test_neither_takes_the_signals_of_the_other(tmp_path):
    """All 24 arrive; nothing becomes a dead letter, and each store says what it left alone."""
    bus = f"local:///{tmp_path}/bus.db"
    stores = {name: f"sqlite:///{tmp_path}/{name}.db" for name in ("orders", "invoices")}
    async with (
        ORDERS.service(bus=bus, store=stores["orders"]) as orders,
        INVOICES.service(bus=bus, store=stores["invoices"]) as invoices,
    ):
        sides = [(orders, OrderAsked), (invoices, InvoiceAsked)]
        sagas = [
            (service, await service.publish(asked(name=key)))
            for service, asked in sides
            for key in KEYS
        ]
        await orders.idle(timeout=HANG_S)
        await invoices.idle(timeout=HANG_S)
        for service, started in sagas:
            await service.signal(started, "note", {"text": "go on"})
        ended = [await service.outcome(started, timeout=HANG_S) for service, started in sagas]

    assert {outcome.status.value for outcome in ended} == {"completed"}
    for name, address in stores.items():
        opened = open_store(Settings.read({}, bus=bus, store=address))
        counts = await opened.catalogue.skipped()
        assert await opened.catalogue.unhandled() == [], name
        await opened.close()
        commands = [n for skip, n in counts.items() if skip.topic.endswith("command.v1")]
        assert commands == [12], name
