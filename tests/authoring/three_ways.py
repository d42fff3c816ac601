"""One order, as it is written in other ways than the machine of `examples/machines`.

`Alike` lets the same happen to each, and compares what they decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

import orjson

from examples.machines.order.app import (
    Approval,
    Delivered,
    OrderConfirmed,
    OrderPlaced,
    OrderRejected,
    Paid,
    Pay,
    Refund,
    Release,
    Reserve,
    Ship,
    StockReserved,
)
from saga import Context, Retry, RollBack, saga
from saga.authoring.definition import SagaDefinition
from saga.core.history import body_to_plain
from saga.core.identity import DO, UNDO
from saga.core.intents import (
    IntentIssued,
    RollbackPlanned,
    SagaCompleted,
    SagaRolledBack,
    StepSettled,
)
from saga.testing import after, cancelled, failed, given, refused, replied, signalled
from saga.testing.spec import Happens, Scenario

COMPARED = (IntentIssued, RollbackPlanned, StepSettled, SagaCompleted, SagaRolledBack)
REPLIES = {
    "stock.int.reserve.v1": (Reserve, StockReserved(reservation="s-1")),
    "payments.int.pay.v1": (Pay, Paid(receipt="r-1")),
    "parcels.int.ship.v1": (Ship, None),
    "stock.int.release.v1": (Release, None),
    "payments.int.refund.v1": (Refund, None),
}
RESERVED, PAID, SHIPPED, RELEASED, REFUNDED = (
    replied(intent, reply) for intent, reply in REPLIES.values()
)
YES, NO = (signalled("approval", {"granted": granted}) for granted in (True, False))
DELIVERED = Delivered(order_id="o-1")


@saga("order", version=1, starts_on=OrderPlaced, listens=(Delivered,), rolled_back=OrderRejected)
async def function(ctx: Context, placed: OrderPlaced) -> OrderConfirmed:
    await ctx.do(Reserve(order_id=placed.order_id), undo=Release)
    if placed.amount > 500:
        approval = await ctx.wait("approval", Approval, timeout="1d")
        if not approval.granted:
            raise RollBack("declined", code="declined")
    pay = Pay(order_id=placed.order_id, amount=placed.amount)
    paid = await ctx.do(pay, undo=Refund, retry=Retry(attempts=3), timeout="30s")
    await ctx.do(Ship(order_id=placed.order_id))
    await ctx.next(Delivered, timeout="14d")
    return OrderConfirmed(order_id=placed.order_id, receipt=paid.receipt)


def open_intents(scenario: Scenario) -> list[type]:
    """The classes of the intents that nobody has answered yet, the oldest first."""
    state = scenario.state
    return [
        REPLIES[entry.body.contract][0]
        for entry in scenario.history
        if isinstance(entry.body, IntentIssued)
        and (step := state.steps[entry.body.step]).status.value
        == {DO: "issued", UNDO: "undoing"}[entry.body.direction]
        and not step.is_backing_off
        and entry.body.attempt
        == {DO: step.attempts, UNDO: step.undo_attempts}[entry.body.direction]
    ]


def possible(scenario: Scenario) -> list[Happens]:
    """What may happen to an order, where it stands."""
    open_now = open_intents(scenario)
    due_us = [timer.due_at - scenario.now for timer in scenario.state.timers.values()]
    lengths = ["45s", timedelta(microseconds=min(due_us, default=1))]
    happens: list[Happens] = [
        *map(after, lengths),
        signalled("approval", {"granted": True}),
        signalled("approval", {"granted": False}),
        signalled("approval", {"granted": "perhaps"}),
        Delivered(order_id="o-1"),
        cancelled(),
    ]
    for intent in open_now:
        reply = next(reply for each, reply in REPLIES.values() if each is intent)
        happens += [replied(intent, reply), replied(intent, reply)]
        if intent not in (Release, Refund):
            happens += [refused(intent, "no", code="no"), failed(intent, "broken")]
    return happens


def decided(scenario: Scenario) -> list[bytes]:
    """What the last turns have led to, as a store has it, without what each way does of its own."""
    return [
        orjson.dumps(body_to_plain(entry.body, orjson.Fragment), option=orjson.OPT_SORT_KEYS)
        for entry in scenario.decided
        if isinstance(entry.body, COMPARED)
    ]


class Alike:
    """An order in each of several ways, to all of which the same happens."""

    def __init__(self, ways: Sequence[SagaDefinition], amount: int) -> None:
        placed = OrderPlaced(order_id="o-1", amount=amount)
        self.orders = [given(way, placed) for way in ways]
        self._check()

    def when(self, *happens: Happens) -> str:
        """Let something happen to each, compare what they decide, and say where they stand."""
        for each in happens:
            for order in self.orders:
                order.when(each)
            self._check()
        return self.orders[0].status.value

    def choose(self, choices: Iterable[int]) -> None:
        """Let happen what is possible for the first, by place."""
        for choice in choices:
            happens = possible(self.orders[0])
            self.when(happens[choice % len(happens)])

    def _check(self) -> None:
        first, *others = ([decided(order), order.status] for order in self.orders)
        for other in others:
            assert other == first


STORIES: dict[str, tuple[int, list[Happens], str]] = {
    "happy": (40, [RESERVED, PAID, SHIPPED, DELIVERED], "completed"),
    "delivered early": (40, [RESERVED, PAID, DELIVERED, SHIPPED], "completed"),
    "approved": (4_000, [RESERVED, YES, PAID, SHIPPED, DELIVERED], "completed"),
    "approved early": (4_000, [YES, RESERVED, PAID, SHIPPED, DELIVERED], "completed"),
    "declined": (4_000, [RESERVED, NO, RELEASED], "rolled_back"),
    "nobody decides": (4_000, [RESERVED, after("1d"), RELEASED], "rolled_back"),
    "payment refused": (40, [RESERVED, refused(Pay, "no", code="funds"), RELEASED], "rolled_back"),
    "payment in doubt": (40, [RESERVED, after("5m"), REFUNDED, RELEASED], "rolled_back"),
    "shipping refused": (
        40,
        [RESERVED, PAID, refused(Ship, "no van", code="van"), REFUNDED, RELEASED],
        "rolled_back",
    ),
    "never delivered": (
        40,
        [RESERVED, PAID, SHIPPED, after("14d"), REFUNDED, RELEASED],
        "rolled_back_with_residue",
    ),
    "cancelled": (40, [RESERVED, cancelled(), PAID, REFUNDED, RELEASED], "rolled_back"),
}
"""By name: for which amount, what happens, and how it ends."""
