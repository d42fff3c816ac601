"""Handler for order-fulfilled events in the order workflow orchestrator."""

from __future__ import annotations

from myapp.models.events import ModelOrderFulfilledEvent, OrderCompleted
from saga import Output


class HandlerOrderFulfilled:
    """Tells everybody that an order is complete."""

    def handle(self, event: ModelOrderFulfilledEvent) -> Output:
        return Output(events=[OrderCompleted(order_id=event.order_id)])
