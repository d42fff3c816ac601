"""The measured order written in each way that there is: what a machine and a graph cost beside it.

Every tenth is refused at the last step and undone, as with the function. The same services answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from benchmarks.child import COUNTING
from benchmarks.measuring import Plan, compared, in_turns, told
from benchmarks.order import (
    Charge,
    Charged,
    OrderConfirmed,
    OrderPlaced,
    OrderRejected,
    Refund,
    Release,
    Reserve,
    Reserved,
    Ship,
    Shipped,
    order,
    services,
)
from benchmarks.product import running
from benchmarks.tables import Table
from benchmarks.timing import Measured, run_fast, stopwatch
from saga import Acts, Next, SagaApp, State, Transitions, contract, do, machine
from saga.authoring import SagaDefinition, UnresolvedSaga
from saga.contracts import ContractModel

FUNCTION: Final = "function"
SAMPLE_SAGAS: Final = 300
"""Whose instructions are counted."""
GOAL: Final = 1.3
"""How often a machine or graph may hold what the function costs."""


class Reserving(State):
    order: OrderPlaced

    def enter(self) -> Acts:
        reserve = Reserve(order_id=self.order.order_id, amount=self.order.amount)
        return do(reserve, undo=Release)

    def handle(self, event: Reserved) -> Next[Charging]:  # noqa: ARG002  # the table reads it
        return Charging(order=self.order)


class Charging(State):
    order: OrderPlaced

    def enter(self) -> Acts:
        charge = Charge(order_id=self.order.order_id, amount=self.order.amount)
        return do(charge, undo=Refund)

    def handle(self, event: Charged) -> Next[Shipping]:  # noqa: ARG002  # the table reads it
        return Shipping(order=self.order)


class Shipping(State):
    order: OrderPlaced

    def enter(self) -> Acts:
        order = self.order
        return do(Ship(order_id=order.order_id, is_shippable=order.is_shippable))

    def handle(self, event: Shipped) -> Next[Confirmed]:
        return Confirmed(), OrderConfirmed(order_id=self.order.order_id, parcel=event.parcel)


class Confirmed(State): ...


ORDER: Transitions = {
    Reserving: {Reserved: Charging},
    Charging: {Charged: Shipping},
    Shipping: {Shipped: Confirmed},
}


@machine(
    "bench-order",
    version=1,
    starts_on=OrderPlaced,
    transitions=ORDER,
    rolled_back=OrderRejected,
)
def order_machine(placed: OrderPlaced) -> Next[Reserving]:
    return Reserving(order=placed)


CONTRACTS: Final[list[type[ContractModel] | ModuleType]] = [
    OrderPlaced,
    OrderConfirmed,
    OrderRejected,
]
WAYS: Final[dict[str, SagaDefinition | UnresolvedSaga]] = {
    FUNCTION: order,
    "machine": order_machine,
    "graph": contract(Path(__file__).with_name("order.yaml")),
}


def app_of(way: str) -> SagaApp:
    return SagaApp(sagas=[WAYS[way]], effects=[services], contracts=CONTRACTS)


def way(folder: str, name: str, sagas: int, in_flight: int) -> Measured:
    """As `product.engine`, of the order that is written in this way."""
    return run_fast(running(app_of(name), folder, sagas, in_flight, stopwatch))


def measure(plan: Plan, run: Callable[[str, str, int, int], Measured]) -> dict[str, Any]:
    """All ways in turns; *run* is given `way` or COUNTING, a way, how many sagas, in flight."""
    in_flight = plan.in_flight[-1]
    sagas = plan.sagas_at(in_flight)
    sample = min(sagas, SAMPLE_SAGAS)
    counts = {name: run(COUNTING, name, sample, in_flight) for name in WAYS}
    runs = in_turns(list(WAYS), plan.runs, lambda name: run("way", name, sagas, in_flight))
    others = [name for name in WAYS if name != FUNCTION]
    return {"in_flight": in_flight, "sagas": sagas, "counts": counts} | compared(runs, others)


def ways_table(ways: Mapping[str, Any]) -> Table:
    """What each costs a saga, and how often that holds what the function costs."""
    columns = (
        f"written as ({ways['in_flight']} in flight)",
        "instructions a saga",
        f"beside the function (goal {GOAL:g})",
        "CPU µs/saga",
        f"beside the function (goal {GOAL:g})",
    )
    rows: list[tuple[object, ...]] = []
    for name, figures in ways["measured"].items():
        count = ways["counts"][name]["instructions"]
        of_instructions = f"{count / ways['counts'][FUNCTION]['instructions']:.2f}"
        beside = ways["beside"].get(name)
        of_cpu = "1.00" if beside is None else told(beside[FUNCTION]["cpu_us_per_saga"])
        cpu = round(figures["cpu_us_per_saga"]["median"])
        rows.append((name, f"{count:,.0f}", of_instructions, cpu, of_cpu))
    return Table(columns, rows)
