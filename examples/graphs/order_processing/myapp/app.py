"""The application: the contract, its two handlers, and the services that carry intents out.

In this folder: `SAGA_APP=myapp.app:app saga run`, or `python -m myapp.app`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from myapp.models.events import (
    Item,
    ModelOrderFulfilledEvent,
    ModelOrderPlacedEvent,
    OrderCompleted,
    OrderValidated,
    OrderValidationFailed,
    ProcessPayment,
    StartFulfillment,
)
from myapp.nodes.node_order_workflow_orchestrator.handlers.handler_order_fulfilled import (
    HandlerOrderFulfilled,
)
from myapp.nodes.node_order_workflow_orchestrator.handlers.handler_order_placed import (
    HandlerOrderPlaced,
)
from saga import EffectContext, Effects, Refused, SagaApp, contract

CONTRACT = Path(__file__).parents[1] / "contract.yaml"
payments = Effects("node-payment-effect")
fulfillment = Effects("node-fulfillment-effect")


@payments.on(ProcessPayment)
async def process(intent: ProcessPayment, ctx: EffectContext) -> None:
    if intent.amount > 1_000:
        raise Refused("over the limit", code="limit")


@fulfillment.on(StartFulfillment)
async def start(intent: StartFulfillment, ctx: EffectContext) -> None: ...


app = SagaApp(
    sagas=[contract(CONTRACT, handlers=[HandlerOrderPlaced(), HandlerOrderFulfilled()])],
    effects=[payments, fulfillment],
    contracts=[OrderValidated, OrderValidationFailed, OrderCompleted],
)


async def main() -> None:
    async with app.service() as service:
        items = (Item(price=10.0, quantity=2),)
        order = ModelOrderPlacedEvent(order_id="o-1", customer_id="c-1", items=items)
        saga = await service.start(order)
        await service.publish(ModelOrderFulfilledEvent(order_id="o-1"))
        outcome = await service.outcome(saga)
        print(order.order_id, outcome.status.value)


if __name__ == "__main__":
    asyncio.run(main())
