"""Handler for order-placed events in the order workflow orchestrator."""

from __future__ import annotations

from myapp.models.events import (
    ModelOrderPlacedEvent,
    OrderValidated,
    OrderValidationFailed,
    ProcessPayment,
)
from saga import Output


class HandlerOrderPlaced:
    """Validates an order, and asks for its payment. It never returns a result."""

    def handle(self, event: ModelOrderPlacedEvent) -> Output:
        if not event.order_id or not event.items:
            return Output(
                events=[
                    OrderValidationFailed(
                        order_id=event.order_id, reason="Missing order_id or items"
                    )
                ]
            )
        total = sum(item.price * item.quantity for item in event.items)
        return Output(
            events=[
                OrderValidated(order_id=event.order_id, customer_id=event.customer_id, total=total)
            ],
            intents=[
                ProcessPayment(order_id=event.order_id, amount=total, customer_id=event.customer_id)
            ],
        )
