"""`examples/graphs/no_python` with services beside it: `order.yaml` is the whole orchestrator."""

from __future__ import annotations

import asyncio
from pathlib import Path

from saga import Effects, SagaApp
from saga.console.cli.session import load_app
from tests.patience import HANG_S

FILE = Path(__file__).parents[2] / "examples" / "graphs" / "no_python" / "order.yaml"
SERVICES_STORE = "sqlite:///.saga/services.db"
ORDERS = (("o-1", 300), ("o-2", 90_000))
"""Orders and the grams of their parcels: the second is too heavy."""


def services_of(app: SagaApp, charged: list[str]) -> SagaApp:
    """An application of its own, which knows the contracts only; it notes whom it has *charged*."""
    models = {each.contract_name: each.model for each in app.contracts.published}
    services = Effects("services")

    @services.on(models["payments.int.pay.v1"])
    async def pay(intent, ctx):
        charged.append(intent.order_id)
        return models["payments.evt.paid.v1"](receipt=f"r-{intent.order_id}")

    @services.on(models["payments.int.refund.v1"])
    async def refund(intent, ctx): ...

    @services.on(models["parcels.int.ship.v1"])
    async def ship(intent, ctx): ...

    return SagaApp(effects=[services], name="services")


app = load_app(str(FILE))


async def main() -> None:
    placed = {each.contract_name: each.model for each in app.contracts.published}[
        "shop.evt.order-placed.v1"
    ]
    others = services_of(app, [])
    async with app.service() as service, others.service(store=SERVICES_STORE):
        sagas = [
            await service.start(
                placed(order_id=id, amount=40, parcels=[{"parcel_id": "p-1", "grams": grams}])
            )
            for id, grams in ORDERS
        ]
        for saga in sagas:
            outcome = await service.outcome(saga, timeout=HANG_S)
            print(outcome.status.value, outcome.event)


if __name__ == "__main__":
    asyncio.run(main())
