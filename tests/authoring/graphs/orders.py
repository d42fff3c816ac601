"""The order of the tests of graphs: reserve, approve where it is dear, pay, ship, be delivered."""

# ruff: noqa: E501 - the order is laid out for people

from saga.contracts import ContractModel, Event, Intent

ORDER = """\
name: order
version: 1
signals: {approval: {granted: bool}}
outcome: {event: orders.order-confirmed, with: {receipt: "${pay.receipt}"}}
rolled_back: orders.order-rejected
nodes:
  - {node_id: placed, event_pattern: ["order-placed.*"]}
  - {node_id: reserve, depends_on: [placed], intent: stock.reserve, undo: stock.release}
  - {node_id: approval, depends_on: [reserve], when: placed.amount > 500, signal: approval, timeout: 1d}
  - {node_id: approved, depends_on: [approval], require: {that: approval.granted, code: declined, message: declined}}
  - {node_id: pay, depends_on: [reserve, approved], intent: payments.pay, undo: payments.refund, retry: {attempts: 3}, timeout: 30s}
  - {node_id: ship, depends_on: [pay], intent: parcels.ship}
  - {node_id: delivered, depends_on: [ship], event_pattern: ["delivered.*"], timeout: 14d}
"""


class OrderPlaced(Event, topic="orders.order-placed", version=1, key="order_id"):
    order_id: str = "o-1"
    amount: int = 3


class StockReserved(Event, topic="stock.stock-reserved", version=1):
    reservation: str = "s-1"


class Reserve(Intent[StockReserved], topic="stock.reserve", version=1):
    order_id: str = "o-1"


class Release(Intent[None], topic="stock.release", version=1):
    order_id: str = "o-1"
    reservation: str | None = None


class Paid(Event, topic="payments.paid", version=1):
    receipt: str = "r-1"


class Pay(Intent[Paid], topic="payments.pay", version=1):
    order_id: str
    amount: int


class Refund(Intent[None], topic="payments.refund", version=1):
    order_id: str
    receipt: str | None = None


class Ship(Intent[None], topic="parcels.ship", version=1):
    order_id: str


class Unship(Intent[None], topic="parcels.unship", version=1):
    order_id: str
    receipt: str


class Delivered(Event, topic="parcels.delivered", version=1, key="order_id"):
    order_id: str = "o-1"


class OrderConfirmed(Event, topic="orders.order-confirmed", version=1):
    order_id: str
    receipt: str


class OrderRejected(Event, topic="orders.order-rejected", version=1):
    order_id: str
    reason: str
    code: str | None = None


MODELS: tuple[type[ContractModel], ...] = (
    *(OrderPlaced, Reserve, Release, Pay, Refund, Ship, Unship, Delivered),
    *(OrderConfirmed, OrderRejected),
)
