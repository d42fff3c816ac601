"""The contracts of the order workflow."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from saga import Event, Intent


class Item(BaseModel):
    model_config = ConfigDict(frozen=True)

    price: float = 0.0
    quantity: int = 0


class ModelOrderPlacedEvent(Event, topic="orders.order-placed", version=1, key="order_id"):
    order_id: str
    customer_id: str | None = None
    items: tuple[Item, ...] = ()


class ModelOrderFulfilledEvent(Event, topic="orders.order-fulfilled", version=1, key="order_id"):
    order_id: str


class OrderValidated(Event, topic="orders.order-validated", version=1):
    order_id: str
    customer_id: str | None = None
    total: float


class OrderValidationFailed(Event, topic="orders.order-validation-failed", version=1):
    order_id: str
    reason: str


class OrderCompleted(Event, topic="orders.order-completed", version=1):
    order_id: str


class ProcessPayment(Intent[None], topic="payment.process", version=1):
    order_id: str
    amount: float
    customer_id: str | None = None


class StartFulfillment(Intent[None], topic="fulfillment.start", version=1):
    order_id: str
