"""A grocery's order fulfilment: what it does, one module a team.

`app` is what `SAGA_APP=domain:app` serves: the saga of an order and the four services it asks.
"""

from domain import delivery, orders, payments, warehouse
from saga import SagaApp

__all__ = ["app"]

app = SagaApp(
    sagas=[orders.order],
    effects=[orders.desk, warehouse.warehouse, payments.payments, delivery.delivery],
)
