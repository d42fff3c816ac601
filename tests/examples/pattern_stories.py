"""What happens to the sagas of each pattern in a simulated world."""

from collections.abc import Sequence
from datetime import UTC, datetime

from examples.patterns import (
    approval,
    approval_with_timeout,
    compensation,
    conditional,
    deterministic,
    error_handling,
    events,
    long_running,
    loop,
    parallel,
    requests,
    retry,
    scheduled,
    scopes,
    sequential,
    sub_workflow,
)
from saga.testing import after, signalled, updated
from saga.testing.world.driver import Story

SUMMER = datetime(2026, 7, 1, tzinfo=UTC)

STORIES: dict[str, Sequence[Story]] = {
    "sequential": [
        sequential.OrderPlaced(order_id="o-1", items=["tea"], email="a@example.org"),
        sequential.OrderPlaced(order_id="o-2", items=["palace"], email="a@example.org"),
    ],
    "conditional": [
        conditional.OrderPlaced(order_id="o-1", type="express", gift_wrap=True),
        conditional.OrderPlaced(order_id="o-2", type="standard"),
        conditional.OrderPlaced(order_id="o-3", type="by balloon", gift_wrap=True),
    ],
    "loop": [loop.BatchArrived(batch="b-1", items=[1, -2, 3])],
    "retry": [
        retry.JobPosted(job="j-1", works_at=2),
        retry.JobPosted(job="j-2", works_at=9, pause="1h"),
    ],
    "parallel": [
        parallel.TripWanted(trip="t-1", cities=["Rome", "Bari"], carriers=["coach", "train"]),
        parallel.TripWanted(trip="t-2", cities=["Rome", "Atlantis"], carriers=["train"]),
    ],
    "sub_workflow": [
        sub_workflow.OrderPlaced(order_id="o-1", amount=40),
        sub_workflow.OrderPlaced(order_id="o-2", amount=4_000),
        sub_workflow.OrderPlaced(order_id="o-3", amount=40, stock=0),
    ],
    "scheduled": [scheduled.SignedUp(member="m-1", trial_ends_at=SUMMER)],
    "approval": [
        [
            approval.RequestMade(request="r-1", approvers=["ann", "bob"]),
            signalled("approval", {"approved": True, "approver": "ann"}),
        ],
        [
            approval.RequestMade(request="r-2", approvers=["ann"]),
            after("300ms"),
            signalled("approval", {"approved": False, "approver": "bob", "reason": "late"}),
        ],
    ],
    "approval_with_timeout": [
        [
            approval_with_timeout.LeaveWanted(request="r-1"),
            signalled("answer", {"approver": "ann"}),
        ],
        approval_with_timeout.LeaveWanted(request="r-2"),
    ],
    "error_handling": [
        error_handling.ImportWanted(file=f"{name}.csv") for name in ("good", "bad", "far", "odd")
    ],
    "compensation": [
        compensation.TripBooked(trip="t-1", flight="AB 12", hotel="Sole", car="red"),
        compensation.TripBooked(trip="t-2", flight="AB 34", hotel="Luna", car="none"),
    ],
    "deterministic": [deterministic.DrawWanted(draw="d-1")],
    "events": [
        [
            events.OrderPlaced(order_id="o-1"),
            events.PaymentSettled(payment="p-1", order_ref="o-1", amount=40),
            events.ParcelMoved(order_id="o-1", place="Bari"),
            events.ParcelMoved(order_id="o-1", place="Rome", is_delivered=True),
        ],
    ],
    "requests": [
        [
            requests.BasketOpened(basket="b-1"),
            updated("add", {"item": "tea", "count": 2}),
            updated("add", {"item": "pot", "count": 12}),
            updated("add", {"item": "checkout", "count": 1}),
        ],
    ],
    "scopes": [
        scopes.EveningWanted(evening="e-1", days=["Monday", "Friday"]),
        scopes.EveningWanted(evening="e-2", days=["Monday"]),
    ],
    "long_running": [long_running.MeterInstalled(meter="m-1", rounds=8)],
}
