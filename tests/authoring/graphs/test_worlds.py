"""Graphs in simulated worlds: crashes, repeats, cancels and torn batches at random moments."""

from collections import Counter

import pytest

from examples.graphs.coordination import app as coordination
from examples.graphs.order import app as orders
from saga.testing import World, WorldState, signalled

ORDERS = [
    [
        orders.OrderPlaced(order_id="o-1", amount=40),
        orders.Delivered(order_id="o-1"),
    ],
    [
        orders.OrderPlaced(order_id="o-2", amount=600),
        signalled("approval", {"granted": True}),
        orders.Delivered(order_id="o-2"),
    ],
    [
        orders.OrderPlaced(order_id="o-3", amount=700),
        signalled("approval", {"granted": False}),
    ],
    orders.OrderPlaced(order_id="o-4", amount=9_000),
]
OTHERS = [
    coordination.DocumentArrived(document_id="d-1", text="a b c"),
    coordination.DocumentArrived(document_id="d-2", text=" "),
    coordination.QuoteWanted(quote_id="q-1", tonnes=2),
    coordination.QuoteWanted(quote_id="q-2", tonnes=200),
    coordination.OperationAsked(operation_id="p-1", kind="routine"),
    [
        coordination.ImportWanted(import_id="i-1"),
        coordination.DataReady(import_id="i-1", rows=3),
        coordination.ProcessFailed(import_id="i-1", error="disk full"),
    ],
]


@pytest.mark.parametrize(
    ("app", "triggers"), [(orders.app, ORDERS), (coordination.app, OTHERS)], ids=["order", "four"]
)
def test_graphs_hold_in_any_world(app, triggers):
    statuses: Counter[str] = Counter()

    def note(world: WorldState) -> None:
        statuses.update(saga.status for saga in world.sagas)

    for seed in range(12):
        verdict = World(app, seed, triggers=triggers, check=note).run()
        assert verdict.ok, verdict.report()
        assert not verdict.parked, verdict.report()

    assert statuses["completed"] > 0
    assert statuses["rolled_back"] > 0
