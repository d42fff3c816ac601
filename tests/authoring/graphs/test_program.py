"""What a graph does on the kernel. After each turn, a replay of its history gives the same."""

# ruff: noqa: E501 - nodes are laid out one a line

from collections.abc import Sequence
from typing import Any

import pytest

from saga.authoring.graphs import ContractGraph, Output
from saga.contracts import ContractModel, Event, Intent
from saga.core.identity import StepId
from saga.core.intents import RollbackPlanned
from saga.errors import DefinitionError, OrchestratorOutputError
from saga.testing import (
    Scenario,
    after,
    arrival_refused,
    child_cancelled,
    child_completed,
    child_issued,
    child_rolled_back,
    child_started,
    child_undo_asked,
    completed,
    failed,
    given,
    issued,
    noted,
    operator,
    published,
    refused,
    replied,
    rolled_back,
    signalled,
    timed_out,
    undo_issued,
)
from tests.authoring.graphs.orders import (
    MODELS,
    ORDER,
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


def graph(text: str, *handlers: object) -> ContractGraph:
    return ContractGraph("order.yaml", text.encode(), handlers)


def began(
    text: str, *happened: Any, handlers: Sequence[object] = (), models: Any = MODELS
) -> Scenario:
    return given(graph(text, *handlers), *happened, contracts=models)


def nodes(*lines: str, head: str = "") -> str:
    text = "name: order\nversion: 1\n" + head + "nodes:\n"
    placed = '  - {node_id: placed, event_pattern: ["order-placed.*"]}\n'
    return text + placed + "".join(f"  - {{{line}}}\n" for line in lines)


CHEAP, DEAR = OrderPlaced(amount=3), OrderPlaced(amount=600)
PAY = Pay(order_id="o-1", amount=3)
REJECTED = OrderRejected(order_id="o-1", reason="declined", code="declined")


def test_an_order_is_reserved_paid_shipped_and_delivered() -> None:
    (
        began(ORDER)
        .when(CHEAP)
        .then(issued(Reserve()))
        .when(replied(Reserve, StockReserved()))
        .then(issued(PAY))
        .when(replied(Pay, Paid(receipt="r-9")))
        .then(issued(Ship(order_id="o-1")))
        .when(replied(Ship))
        .then_waits_for("event parcels.evt.delivered")
        .when(Delivered())
        .then(completed(OrderConfirmed(order_id="o-1", receipt="r-9")))
    )


def test_what_is_dear_waits_for_its_approval() -> None:
    scenario = began(ORDER, DEAR).when(replied(Reserve, StockReserved()))

    scenario.then_waits_for("signal approval")
    scenario.when(signalled("approval", {"granted": True}))
    scenario.then(issued(Pay(order_id="o-1", amount=600)))


def test_what_is_declined_is_undone_in_reverse() -> None:
    (
        began(ORDER, DEAR, replied(Reserve, StockReserved(reservation="s-7")))
        .when(signalled("approval", {"granted": False}))
        .then(undo_issued(Release(order_id="o-1", reservation="s-7")))
        .when(replied(Release))
        .then(rolled_back(REJECTED, code="declined"))
    )


def test_an_approval_that_does_not_come_rolls_back() -> None:
    (
        began(ORDER, DEAR, replied(Reserve, StockReserved()))
        .when(after("1d"))
        .then(undo_issued(Release(order_id="o-1", reservation="s-1")))
        .when(replied(Release))
        .then(
            rolled_back(
                OrderRejected(
                    order_id="o-1", reason="no signal 'approval' came in time", code="timed_out"
                ),
                code="timed_out",
            )
        )
    )


def test_a_signal_that_does_not_fit_is_refused() -> None:
    scenario = began(ORDER, DEAR, replied(Reserve, StockReserved()))

    scenario.when(signalled("approval", {"granted": "perhaps"}))
    scenario.then_waits_for("signal approval")


def test_a_step_that_is_refused_is_not_undone() -> None:
    (
        began(ORDER, CHEAP, replied(Reserve, StockReserved()))
        .when(refused(Pay, "no money", code="funds"))
        .then(undo_issued(Release(order_id="o-1", reservation="s-1")))
        .when(replied(Release))
        .then(
            rolled_back(
                OrderRejected(order_id="o-1", reason="no money", code="funds"),
                code="funds",
                failed_step="pay",
            )
        )
    )


def test_a_node_is_tried_again_as_it_says() -> None:
    scenario = began(ORDER, CHEAP, replied(Reserve, StockReserved()))

    scenario.when(failed(Pay), after("5s")).then(issued(PAY, attempt=2))
    scenario.when(failed(Pay), after("5s")).then(issued(PAY, attempt=3))
    scenario.when(failed(Pay)).then(undo_issued(Refund(order_id="o-1")))


@pytest.mark.parametrize(
    ("rules", "attempts"),
    [
        ("", 3),
        ("coordination_rules: {max_retries: 3}\n", 4),
        ("coordination_rules: {failure_recovery_strategy: compensate}\n", 1),
    ],
)
def test_how_often_nodes_are_tried_by_default(rules: str, attempts: int) -> None:
    scenario = began(
        nodes("node_id: pay, depends_on: [placed], intent: payments.pay", head=rules), CHEAP
    )

    for _ in range(attempts - 1):
        scenario.when(failed(Pay), after("1m")).then(issued(PAY))
    scenario.when(failed(Pay)).then(rolled_back(residue=("pay",)))


def test_a_default_timeout() -> None:
    rules = "coordination_rules: {timeout_ms: 30000, max_retries: 0}\n"
    scenario = began(
        nodes("node_id: pay, depends_on: [placed], intent: payments.pay", head=rules), CHEAP
    )

    scenario.when(after("30s")).then_steps(pay="in_doubt")


DIAMOND = nodes(
    "node_id: a, depends_on: [placed], intent: stock.reserve, undo: stock.release",
    "node_id: b, depends_on: [a], intent: stock.reserve, undo: stock.release",
    "node_id: c, depends_on: [a], intent: stock.reserve, undo: stock.release",
    "node_id: d, depends_on: [b, c, a], intent: stock.reserve, undo: stock.release",
    "node_id: e, depends_on: [d], intent: payments.pay",
    head="parallel_undo: true\n",
)


def test_a_diamond_is_undone_in_exactly_reverse_order() -> None:
    scenario = began(DIAMOND, CHEAP)
    for step in "abcd":
        scenario.when(replied(step, StockReserved(reservation=step)))
    scenario.when(refused("e"))

    (plan,) = [each.body for each in scenario.decided if isinstance(each.body, RollbackPlanned)]
    waits_for = {undo.step: undo.after for undo in plan.steps}
    assert waits_for == {"d": None, "c": None, "b": ("d",), "a": ("c", "b")}
    assert issued_undos(scenario) == ["d"]
    scenario.when(replied(Release, step="d"))
    assert issued_undos(scenario) == ["c", "b"]
    scenario.when(replied(Release, step="b"))
    assert issued_undos(scenario) == []
    scenario.when(replied(Release, step="c"))
    assert issued_undos(scenario) == ["a"]


def issued_undos(scenario: Scenario) -> list[str]:
    issues = [each.body for each in scenario.decided if type(each.body).__name__ == "IntentIssued"]
    return [body.step for body in issues if body.direction.value == "undo"]  # type: ignore[union-attr]  # as was filtered


def test_branches_run_side_by_side_and_join() -> None:
    text = nodes(
        "node_id: a, depends_on: [placed], intent: stock.reserve",
        "node_id: b, depends_on: [placed], intent: payments.pay",
        "node_id: both, depends_on: [a, b]",
        "node_id: ship, depends_on: [both], intent: parcels.ship",
    )
    scenario = began(text).when(CHEAP)

    scenario.then(issued(Reserve()), issued(PAY))
    scenario.when(replied("b", Paid())).then()
    scenario.when(replied("a", StockReserved())).then(issued(Ship(order_id="o-1")))
    assert scenario.state.steps[StepId("ship")].after == ("a", "b")


def test_one_node_at_a_time_in_file_order() -> None:
    text = nodes(
        "node_id: a, depends_on: [placed], intent: stock.reserve",
        "node_id: b, depends_on: [placed], intent: payments.pay",
        "node_id: c, depends_on: [placed], intent: parcels.ship",
        head="coordination_rules: {execution_mode: sequential}\n",
    )
    scenario = began(text).when(CHEAP)

    scenario.then(issued(Reserve()))
    scenario.when(replied("a", StockReserved())).then(issued(PAY))
    scenario.when(replied("b", Paid())).then(issued(Ship(order_id="o-1")))
    scenario.when(replied("c")).then(completed())


def test_a_join_behind_exclusive_branches() -> None:
    """A node is skipped only where all that it depends on were."""
    text = nodes(
        "node_id: cheap, depends_on: [placed], when: placed.amount < 10, intent: stock.reserve",
        "node_id: dear, depends_on: [placed], when: placed.amount >= 10, intent: payments.pay",
        "node_id: after_dear, depends_on: [dear], intent: parcels.ship",
        "node_id: ship, depends_on: [cheap, dear], intent: parcels.ship",
    )
    scenario = began(text).when(CHEAP)

    scenario.then(issued(Reserve()))
    scenario.when(replied("cheap", StockReserved())).then(issued(Ship(order_id="o-1")))
    scenario.when(replied("ship")).then(completed())


def test_a_failure_that_the_graph_goes_on_behind() -> None:
    """The result is null, the fallback runs, and what the step may have done is undone."""
    text = nodes(
        "node_id: pay, depends_on: [placed], intent: payments.pay, undo: payments.refund, "
        "retry: {attempts: 1}, on_failure: continue",
        "node_id: other, depends_on: [pay], when: pay == null, intent: stock.reserve",
        "node_id: ship, depends_on: [pay], when: pay != null, intent: parcels.ship",
    )
    scenario = began(text, CHEAP).when(failed("pay"))

    scenario.then(issued(Reserve()))
    scenario.when(replied("other", StockReserved())).then(undo_issued(Refund(order_id="o-1")))
    scenario.when(replied(Refund)).then(completed())


def test_values_are_computed_and_required() -> None:
    text = nodes(
        "node_id: sums, depends_on: [placed], set: {twice: placed.amount * 2, big: placed.amount > 2}",
        'node_id: pay, depends_on: [sums], intent: payments.pay, with: {amount: "${sums.twice}", '
        'order_id: "no. ${placed.order_id}"}',
        "node_id: check, depends_on: [pay], require: {that: sums.big && pay.receipt != null}",
    )
    scenario = began(text).when(CHEAP)

    scenario.then(issued(Pay(order_id="no. o-1", amount=6)))
    scenario.when(replied("pay", Paid())).then(completed())


def test_what_is_required_and_not_so_says_it() -> None:
    text = nodes("node_id: check, depends_on: [placed], require: {that: placed.amount > 5}")

    began(text).when(CHEAP).then(
        rolled_back(code="rolled_back", reason="required: placed.amount > 5")
    )


def test_a_saga_sleeps() -> None:
    text = nodes(
        "node_id: nap, depends_on: [placed], sleep: 2h",
        "node_id: ship, depends_on: [nap], intent: parcels.ship",
    )
    scenario = began(text).when(CHEAP)

    scenario.then().when(after("2h")).then(issued(Ship(order_id="o-1")))


def test_an_event_is_chosen_by_a_condition() -> None:
    class Scanned(Event, topic="parcels.scanned", version=1):
        order: str
        place: str

    text = nodes(
        'node_id: there, depends_on: [placed], event_pattern: ["scanned.*"], key: order, '
        'where: event.place == "door" && placed.amount > 1, timeout: 1d',
        'node_id: pay, depends_on: [there], intent: payments.pay, with: {order_id: "${there.place}"}',
    )
    scenario = began(text, models=(*MODELS, Scanned)).when(CHEAP)

    scenario.when(Scanned(order="o-1", place="depot")).then()
    scenario.when(Scanned(order="o-1", place="door")).then(issued(Pay(order_id="door", amount=3)))


class Supplier(Intent[Paid], topic="offers.ask", version=1):
    order_id: str
    supplier: str


class Tendered(Event, topic="offers.tendered", version=1, key="order_id"):
    order_id: str = "o-1"
    suppliers: list[dict[str, str]]


class Withdraw(Intent[None], topic="offers.withdraw", version=1):
    order_id: str
    supplier: str
    receipt: str | None = None
    note: str | None = None


FAN = """\
name: tender
version: 1
outcome: {event: orders.order-confirmed, with: {receipt: "${string(size(offer))}"}}
nodes:
  - {node_id: placed, event_pattern: ["tendered.*"]}
  - {node_id: offer, depends_on: [placed], for_each: placed.suppliers, as: supplier, AT_ONCE
     intent: offers.ask, with: {supplier: "${supplier.id}"}, retry: {attempts: 1},
     undo: {intent: offers.withdraw, with: {note: "${supplier.id} gave ${offer.receipt}"}}}
  - {node_id: best, depends_on: [offer], set: {all: "offer.map(o, o.receipt)"}}
  - {node_id: check, depends_on: [best], require: {that: 'best.all[0] == "r-0"', code: order}}
"""
SUPPLIERS = Tendered(suppliers=[{"id": f"s-{number}"} for number in range(4)])
TENDER: tuple[type[ContractModel], ...] = (Tendered, Supplier, Withdraw, OrderConfirmed)


def asked(number: int) -> Supplier:
    return Supplier(order_id="o-1", supplier=f"s-{number}")


def fan(extra: str, *happened: Any) -> Scenario:
    return began(FAN.replace("AT_ONCE", extra), *happened, models=TENDER)


def test_a_node_is_done_for_each_item_and_its_results_are_in_their_order() -> None:
    scenario = fan("").when(SUPPLIERS)

    scenario.then(*(issued(asked(number)) for number in range(4)))
    assert list(scenario.state.steps) == ["offer", "offer-2", "offer-3", "offer-4"]
    for number in (2, 0, 3):
        step = "offer" if number == 0 else f"offer-{number + 1}"
        scenario.when(replied(step, Paid(receipt=f"r-{number}"))).then()
    scenario.when(replied("offer-2", Paid(receipt="r-1")))
    scenario.then(completed(OrderConfirmed(order_id="o-1", receipt="4")))


def test_so_many_items_at_once() -> None:
    scenario = fan("at_once: 2,").when(SUPPLIERS)

    scenario.then(issued(asked(0)), issued(asked(1)))
    scenario.when(replied("offer-2", Paid(receipt="r-1"))).then(issued(asked(2)))
    scenario.when(replied("offer", Paid(receipt="r-0"))).then(issued(asked(3)))


def test_nothing_to_do_is_done_at_once() -> None:
    text = FAN.replace("AT_ONCE", "").replace("best.all[0] ==", "best.all[0] !=")

    began(text, models=TENDER).when(Tendered(suppliers=[])).then(
        completed(OrderConfirmed(order_id="o-1", receipt="0"))
    )


def test_all_items_settle_before_the_first_failure_counts() -> None:
    scenario = fan("at_once: 2,", SUPPLIERS)

    scenario.when(failed("offer-2")).then(issued(asked(2)))
    scenario.when(replied("offer-3", Paid(receipt="r-2"))).then(issued(asked(3)))
    scenario.when(replied("offer-4", Paid(receipt="r-3"))).then()
    scenario.when(replied("offer", Paid(receipt="r-0")))
    assert issued_undos(scenario) == ["offer"]


def test_a_failure_that_counts_at_once() -> None:
    scenario = fan("fail: fast, at_once: 2,", SUPPLIERS)

    scenario.when(failed("offer-2")).then_status("running")
    scenario.when(replied("offer", Paid(receipt="r-0")))
    assert issued_undos(scenario) == ["offer"]


def test_an_undo_is_given_what_the_reply_had() -> None:
    scenario = fan("", Tendered(suppliers=[{"id": "s-0"}]))

    scenario.when(replied("offer", Paid(receipt="r-9"))).then(
        undo_issued(Withdraw(order_id="o-1", supplier="s-0", receipt="r-9", note="s-0 gave r-9"))
    )


def test_too_many_items_park_the_saga() -> None:
    many = Tendered(suppliers=[{"id": str(number)} for number in range(10_001)])

    fan("").when(many).then_parked("`offer` is to be done for 10,001 items, of at most 10,000")


CHILD = """\
name: order
version: 1
nodes:
  - {node_id: placed, event_pattern: ["order-placed.*"]}
  - {node_id: shipment, depends_on: [placed], child: parcels.delivered, timeout: 1d}
  - {node_id: pay, depends_on: [shipment], intent: payments.pay, undo: payments.refund,
     with: {order_id: "${shipment.order_id}"}}
"""


def test_a_child_is_a_step() -> None:
    scenario = began(CHILD).when(CHEAP)

    scenario.then(child_issued(Delivered(), step="shipment"))
    scenario.when(child_completed("shipment", OrderConfirmed(order_id="o-9", receipt="r")))
    scenario.then(issued(Pay(order_id="o-9", amount=3)))
    scenario.when(refused("pay")).then(child_undo_asked("shipment"))


def test_a_child_that_is_rolled_back_rolls_back() -> None:
    scenario = began(CHILD, CHEAP)

    scenario.when(child_rolled_back("shipment", "lost", code="lost"))
    scenario.then(rolled_back(code="lost", reason="lost", failed_step="shipment"))


def test_a_graph_may_go_on_behind_a_child_that_is_rolled_back() -> None:
    text = CHILD.replace("timeout: 1d", "timeout: 1d, on_failure: continue").replace(
        ',\n     with: {order_id: "${shipment.order_id}"}', ""
    )
    scenario = began(text, CHEAP).when(child_rolled_back("shipment"))

    scenario.then(issued(PAY))


def test_a_child_that_takes_too_long_is_cancelled() -> None:
    scenario = began(CHILD, CHEAP, child_started("shipment"))

    scenario.when(timed_out("shipment")).then(child_cancelled("shipment"))
    scenario.when(child_rolled_back("shipment")).then(
        rolled_back(code="timed_out", failed_step=None)
    )


class Order:
    """The handler of a placed order."""

    def handle(self, event: OrderPlaced) -> Output:
        if event.amount > 900:
            return Output(events=[OrderRejected(order_id=event.order_id, reason="too dear")])
        pay = Pay(order_id=event.order_id, amount=event.amount)
        return Output(events=[Delivered(order_id=event.order_id)], intents=[pay])


def arrived(event: Delivered) -> Output:
    return Output(intents=[Ship(order_id=event.order_id)] * 2)


HANDLED = nodes(
    "node_id: valid, depends_on: [placed], node_type: COMPUTE_GENERIC",
    'node_id: pay, depends_on: [valid], intent_filter: "payments.pay", undo: payments.refund, '
    "timeout: 1m",
    'node_id: there, depends_on: [pay], event_pattern: ["delivered.*"]',
    'node_id: ship, depends_on: [there], intent_filter: "ship"',
)


def test_what_handlers_emit_leaves_at_once_or_waits_for_its_node() -> None:
    scenario = began(HANDLED, handlers=[Order(), arrived]).when(CHEAP)

    scenario.then(published(Delivered(order_id="o-1")), issued(PAY))
    scenario.when(replied("pay", Paid())).then()
    scenario.when(Delivered()).then(issued(Ship(order_id="o-1")), issued(Ship(order_id="o-1")))
    assert list(scenario.state.steps) == ["pay", "ship", "ship-2"]
    scenario.when(replied("ship"), replied("ship-2")).then(completed())


def test_where_nothing_is_emitted_the_node_is_skipped() -> None:
    scenario = began(HANDLED, handlers=[Order(), arrived]).when(OrderPlaced(amount=901))

    scenario.then(
        published(OrderRejected(order_id="o-1", reason="too dear")),
        completed(),
    )


def test_an_emitted_intent_has_the_undo_of_its_node() -> None:
    scenario = began(HANDLED, CHEAP, replied("pay", Paid()), handlers=[Order(), arrived])

    scenario.when(Delivered(), refused("ship"))
    scenario.when(replied("ship-2"))
    scenario.then(undo_issued(Refund(order_id="o-1", receipt="r-1")))


def parks(handler: object, reason: str, text: str = HANDLED) -> None:
    began(text, handlers=[handler]).when(CHEAP).then_parked(reason)


def test_what_is_no_output_parks() -> None:
    def gives_a_dict(event: OrderPlaced) -> Output:
        del event
        return {"status": "done"}  # type: ignore[return-value]  # what the type checker refuses

    parks(gives_a_dict, "`dict`: an orchestrator has no result")


def test_a_result_parks() -> None:
    def gives_a_result(event: OrderPlaced) -> Output:
        return Output(result=event)  # type: ignore[call-arg]  # what the type checker refuses

    parks(gives_a_result, "`result`: an orchestrator has no result")


def test_an_intent_that_no_node_takes_parks() -> None:
    def reserves(event: OrderPlaced) -> Output:
        return Output(intents=[Reserve(order_id=event.order_id)])

    parks(reserves, "no node that is still to begin has an `intent_filter` that takes it")


def test_an_event_that_is_not_published_parks() -> None:
    def tells(event: OrderPlaced) -> Output:
        return Output(events=[Delivered(order_id=event.order_id)])

    head = (
        "published_events:\n"
        '  - {topic: "{env}.{namespace}.orders.evt.order-confirmed.v1", '
        "event_type: OrderConfirmed}\n"
    )
    text = HANDLED.replace("nodes:", head + "nodes:")
    parks(tells, "parcels.evt.delivered.v1, which is not in published_events", text)


@pytest.mark.parametrize("field", ["result", "projections", "status"])
def test_an_output_has_events_and_intents_only(field: str) -> None:
    with pytest.raises(OrchestratorOutputError) as refusal:
        Output(**{field: 1})

    assert refusal.value.field == field
    assert Output().result is None


def test_without_handlers_a_filter_is_its_only_routed_intent() -> None:
    text = nodes(
        'node_id: pay, depends_on: [placed], intent_filter: "payments.pay*"',
        head="intent_routing_table: {payments.pay: payments}\n",
    )

    began(text).when(CHEAP).then(issued(PAY))


async def waits(event: OrderPlaced) -> Output:
    del event
    return Output()


def unannotated(event):  # what is refused
    del event
    return Output()


def two(event: OrderPlaced, other: int) -> Output:
    del event, other
    return Output()


@pytest.mark.parametrize(
    ("handlers", "problem"),
    [
        ([waits], "waits is async: a handler decides at once"),
        ([unannotated], "annotate its argument with the class of the event"),
        ([two], "takes exactly one argument"),
        ([Order], "expected a function (event) -> Output, or an object"),
        (["shop.handlers"], "expected a function (event) -> Output, or an object"),
        ([Order(), Order()], "both handle OrderPlaced: an event has one handler"),
    ],
)
def test_handlers_that_cannot_be_called(handlers: list[object], problem: str) -> None:
    with pytest.raises(DefinitionError) as refusal:
        graph(HANDLED, *handlers)

    assert problem in str(refusal.value)


def test_the_fingerprint_is_that_of_what_a_contract_says() -> None:
    plain = graph(ORDER).resolve(MODELS).fingerprint
    spelt = (
        ORDER.replace("placed.amount > 500", '"(placed.amount)>500"')
        .replace("undo: stock.release", "undo: {intent: stock.release}, description: a label")
        .replace("nodes:", "description: an order\nwhen_stuck: halt\nnodes: # the graph")
    )
    other = ORDER.replace("500", "501")

    assert graph(spelt).resolve(MODELS).fingerprint == plain
    assert graph(other).resolve(MODELS).fingerprint != plain


def test_a_handler_is_part_of_the_fingerprint() -> None:
    def other(event: OrderPlaced) -> Output:
        return Output(intents=[Pay(order_id=event.order_id, amount=1)])

    one, another = graph(HANDLED, Order()), graph(HANDLED, other)

    assert one.resolve(MODELS).fingerprint != another.resolve(MODELS).fingerprint


def test_a_signal_that_comes_early_is_kept_for_its_node() -> None:
    scenario = began(ORDER, DEAR).when(signalled("approval", {"granted": True}))

    scenario.then()
    scenario.when(replied(Reserve, StockReserved())).then(issued(Pay(order_id="o-1", amount=600)))


def test_what_no_node_ahead_takes_is_refused_and_recorded() -> None:
    scenario = began(ORDER, DEAR, replied(Reserve, StockReserved()))
    scenario.when(signalled("approval", {"granted": True}))

    scenario.when(signalled("approval", {"granted": True})).then(
        noted("refused", "no node ahead takes signal 'approval'")
    )
    scenario.when(signalled("other", 1)).then(
        noted("refused", "no node ahead takes signal 'other'")
    )


def test_what_was_kept_for_a_node_that_is_skipped_is_refused_then() -> None:
    text = nodes(
        "node_id: reserve, depends_on: [placed], intent: stock.reserve",
        "node_id: ok, depends_on: [reserve], when: placed.amount > 500, signal: approval",
        "node_id: ship, depends_on: [reserve, ok], intent: parcels.ship",
        head="signals: {approval: {granted: bool}}\n",
    )
    scenario = began(text, CHEAP, signalled("approval", {"granted": True}))

    scenario.when(replied(Reserve, StockReserved()))
    scenario.then(issued(Ship), arrival_refused("no node ahead takes signal 'approval'"))


def test_a_contract_that_halts_parks_and_is_tried_again() -> None:
    rules = "coordination_rules: {failure_recovery_strategy: halt, max_retries: 0}\n"
    text = ORDER.replace("nodes:", rules + "nodes:").replace("retry: {attempts: 3}, ", "")
    scenario = began(text, CHEAP, replied(Reserve, StockReserved()))

    scenario.when(failed(Pay)).then_parked("order.yaml:12: failed")
    scenario.when(operator("retry", step="pay", reason="mended")).then(issued(PAY, attempt=2))
    scenario.when(replied(Pay, Paid())).then(issued(Ship(order_id="o-1")))


def test_past_its_pivot_a_failed_step_parks_and_is_tried_again() -> None:
    text = nodes(
        "node_id: pay, depends_on: [placed], intent: payments.pay, kind: pivot",
        "node_id: ship, depends_on: [pay], intent: parcels.ship, retry: {attempts: 1}",
    )
    scenario = began(text, CHEAP, replied("pay", Paid()))

    scenario.when(failed("ship")).then_parked("step ship failed for good")
    scenario.when(operator("retry", step="ship", reason="mended"))
    scenario.when(replied("ship")).then(completed())


def test_an_item_that_failed_past_the_pivot_is_tried_again() -> None:
    """The others go on; the saga parks once they are through, and ends once it is done after all."""
    text = FAN.replace("AT_ONCE", "at_once: 1,")
    text = text.replace(
        "  - {node_id: offer, depends_on: [placed]",
        "  - {node_id: begin, depends_on: [placed], intent: payments.pay, kind: pivot, "
        "with: {amount: 1}}\n  - {node_id: offer, depends_on: [begin]",
    )
    undo = text.index(",\n     undo:")
    text = text[:undo] + "}" + text[text.index("}}}", undo) + 3 :]
    two = Tendered(suppliers=[{"id": "s-0"}, {"id": "s-1"}])
    scenario = began(text, two, replied("begin", Paid()), models=(*TENDER, Pay))

    scenario.when(failed("offer")).then(issued(asked(1)))
    scenario.when(replied("offer-2", Paid(receipt="r-1"))).then_parked("step offer failed for good")
    scenario.when(operator("retry", step="offer", reason="mended"))
    scenario.when(replied("offer", Paid(receipt="r-0")))
    scenario.then(completed(OrderConfirmed(order_id="o-1", receipt="2")))
