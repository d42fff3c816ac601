"""Names become contracts: those of the application, of handlers, of the file, of the lock file."""

from datetime import datetime
from pathlib import Path

import pytest

from saga import EffectContext, Effects, Output, SagaApp, contract
from saga.authoring.graphs import ContractGraph
from saga.authoring.graphs.checking.locked import models_of
from saga.contracts import ContractRegistry, contract_of, upcast
from saga.contracts import Event as EventModel
from saga.contracts import Intent as IntentModel
from saga.contracts.lockfile import check, lock_of
from saga.errors import ContractFileError, DuplicateSaga, ReplayMismatch
from saga.testing import completed, given, issued, replied, timed_out
from tests.authoring.graphs.orders import (
    MODELS,
    ORDER,
    Delivered,
    OrderPlaced,
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


def refused(text: str, *handlers: object, services: object = None) -> str:
    with pytest.raises(ContractFileError) as refusal:
        graph(text, *handlers).resolve(MODELS, services)  # type: ignore[arg-type]  # None, or what is given
    return str(refusal.value)


ALONE = """\
name: order
version: 1
messages:
  orders.order-placed: {key: order_id, fields: {order_id: str, amount: int}}
  payments.paid: {fields: {receipt: str}}
  payments.pay: {fields: {order_id: str, amount: int}, reply: payments.paid}
nodes:
  - {node_id: placed, event_pattern: ["order-placed.*"]}
  - {node_id: pay, depends_on: [placed], intent: payments.pay}
"""


def test_a_file_brings_its_own_contracts() -> None:
    app = SagaApp(sagas=[graph(ALONE)])

    pay = app.contracts.find("payments.int.pay.v1")
    assert pay.where == "order.yaml:6"
    assert app.contracts.find("orders.evt.order-placed.v1").key == "order_id"
    assert set(pay.model.model_fields) == {"order_id", "amount"}


def test_two_files_may_declare_the_same() -> None:
    other = ALONE.replace("name: order", "name: other")

    app = SagaApp(sagas=[graph(ALONE), graph(other)])

    assert {saga.name for saga in app.sagas} == {"order", "other"}
    with pytest.raises(ContractFileError, match="has a class already"):
        SagaApp(sagas=[graph(ALONE), graph(other.replace("receipt: str", "receipt: int"))])


def test_two_files_of_one_name_and_version() -> None:
    with pytest.raises(DuplicateSaga, match=r"order.yaml:8: "):
        SagaApp(sagas=[graph(ALONE), graph(ALONE)])


def test_a_resolved_saga_is_one_of_the_application() -> None:
    app = SagaApp(sagas=[graph(ALONE)])
    again = SagaApp(
        sagas=app.sagas, contracts=[each.model for each in app.contracts.published], name="again"
    )

    assert again.sagas == app.sagas


def test_contracts_of_the_lock_file_stand_in_for_classes() -> None:
    """What is made of a lock file reads and writes as it says, bounds and all."""
    lock = lock_of(ContractRegistry(MODELS))
    models = list(models_of(lock, "lock.json"))

    assert check(ContractRegistry(models), lock) == []
    saga = graph(ORDER).resolve((), spare=models)
    assert contract_of(saga.starts_on[0]).where == "lock.json"


def test_classes_of_the_application_go_before_those_of_the_lock_file() -> None:
    models = list(models_of(lock_of(ContractRegistry(MODELS)), "lock.json"))

    assert graph(ORDER).resolve(MODELS, spare=models).starts_on == (OrderPlaced,)


def locked_of_others() -> list[type]:
    """A newer version of two contracts, one of other fields, and one that a pattern fits, too."""

    class PlacedInBranch(EventModel, topic="orders.order-placed", version=2, key="branch"):
        branch: str

    class Returned(EventModel, topic="returns.order-placed", version=1, key="id"):
        id: str

    class PayByTransfer(IntentModel[Returned], topic="payments.pay", version=1):
        iban: str

    class PayInCash(IntentModel[None], topic="payments.pay", version=2):
        coins: int

    class Paid(EventModel, topic="payments.paid", version=1):
        at: datetime

    others = [PlacedInBranch, Returned, PayByTransfer, PayInCash, Paid]
    return list(models_of(lock_of(ContractRegistry(others)), "lock.json"))


@pytest.mark.parametrize(("text", "models"), [(ALONE, ()), (ORDER, MODELS)])
def test_a_lock_file_changes_nothing_of_a_graph_that_has_its_contracts(text, models) -> None:
    spare = locked_of_others()
    alone, beside = graph(text).resolve(models), graph(text).resolve(models, spare=spare)

    assert [contract_of(each).version for each in beside.starts_on] == [1]
    assert beside.fingerprint == alone.fingerprint
    assert not set(spare) & beside.named()
    assert SagaApp(sagas=[beside], contracts=models)


def test_a_version_that_only_the_lock_file_has_may_be_named() -> None:
    text = ALONE.replace("intent: payments.pay}", "intent: payments.pay.v2, with: {coins: 3}}")

    named = graph(text).resolve((), spare=locked_of_others()).named()

    assert {contract_of(each).where for each in named} == {"order.yaml:4", "lock.json"}


def test_an_intent_of_the_lock_file_and_its_reply_are_of_one_place() -> None:
    text = ALONE.replace("  payments.pay: {fields: {order_id: str, amount: int}, ", "  # {")
    spare = list(models_of(lock_of(ContractRegistry(MODELS)), "lock.json"))

    with pytest.raises(ContractFileError) as refusal:
        graph(text).resolve((), spare=spare)

    assert str(refusal.value) == (
        "order.yaml:9:50: `payments.pay` (lock.json) is answered by another payments.paid than "
        "that of order.yaml:5: declare both here, or neither [wrong-contract]"
    )


class PlacedV2(EventModel, topic="orders.order-placed", version=2, key="order_id"):
    order_id: str = "o-1"
    amount: int = 3
    currency: str = "EUR"


def test_of_versions_that_are_not_joined_each_starts_the_saga() -> None:
    starts = graph(ORDER).resolve((*MODELS, PlacedV2)).starts_on

    assert set(starts) == {OrderPlaced, PlacedV2}


def test_of_joined_versions_the_newest_starts_it() -> None:
    class Old(EventModel, topic="orders.sent", version=1, key="order_id"):
        order_id: str

    class New(EventModel, topic="orders.sent", version=2, key="order_id"):
        order_id: str
        amount: int = 1

    @upcast
    def newer(old: Old) -> New:
        return New(order_id=old.order_id)

    text = ORDER.replace("order-placed.*", "sent.*")

    assert graph(text).resolve((*MODELS, Old, New)).starts_on == (New,)


def test_a_version_may_be_named() -> None:
    text = ORDER.replace("intent: payments.pay,", "intent: payments.pay.v1,")

    assert graph(text).resolve(MODELS).fingerprint
    assert "no contract `payments.pay.v2`" in refused(
        ORDER.replace("intent: payments.pay,", "intent: payments.pay.v2,")
    )


def test_several_nodes_may_start_a_saga() -> None:
    text = ORDER.replace(
        "  - {node_id: reserve, depends_on: [placed]",
        '  - {node_id: again, event_pattern: ["delivered.*"]}\n'
        "  - {node_id: reserve, depends_on: [placed, again]",
    ).replace(', event_pattern: ["delivered.*"], timeout: 14d}', "}")
    text = text.replace("placed.amount > 500", "placed != null && placed.amount > 500")
    text = text.replace("intent: payments.pay,", "intent: payments.pay, with: {amount: 1},")
    saga = graph(text).resolve(MODELS)

    assert set(saga.starts_on) == {OrderPlaced, Delivered}
    scenario = given(saga, Delivered(), replied(Reserve, StockReserved()))
    assert scenario.state.steps.keys() == {"reserve", "pay"}


def test_a_trigger_that_two_nodes_start_on() -> None:
    text = ORDER.replace(
        "  - {node_id: reserve,",
        '  - {node_id: again, event_pattern: ["order-placed.*"]}\n  - {node_id: reserve,',
    )

    assert "another node starts on orders.order-placed too" in refused(text)


ROUTED = ORDER.replace(
    "nodes:",
    'intent_routing_table: {"stock.*": stock, payments.pay: node_payment_effect, '
    "payments.refund: node_payment_effect, parcels.ship: parcels}\nnodes:",
)


def test_a_service_of_the_application_handles_what_is_routed_to_it() -> None:
    payments = Effects("node-payment-effect")

    @payments.on(Pay)
    async def pay(intent: Pay, ctx: EffectContext) -> Paid:
        raise AssertionError(intent)

    with pytest.raises(ContractFileError, match=r"does not handle payments.refund"):
        SagaApp(sagas=[graph(ROUTED)], effects=[payments], contracts=MODELS)

    @payments.on(Refund)
    async def refund(intent: Refund, ctx: EffectContext) -> None:
        raise AssertionError(intent)

    assert SagaApp(sagas=[graph(ROUTED)], effects=[payments], contracts=MODELS).sagas


class HandlerPlaced:
    def handle(self, event: OrderPlaced) -> Output:
        return Output(intents=[Ship(order_id=event.order_id)])


HANDLED = """\
name: order
version: 1
handler_routing:
  handlers:
    - event_model: {name: OrderPlaced, module: tests.authoring.graphs.orders}
      handler: {name: HandlerPlaced, module: tests.authoring.graphs.test_resolving}
      output_events: []
nodes:
  - {node_id: placed, event_pattern: ["order-placed.*"]}
  - {node_id: ship, depends_on: [placed], intent_filter: "ship.*"}
"""


def test_the_handlers_of_a_file_are_those_that_are_handed_over() -> None:
    assert graph(HANDLED, HandlerPlaced()).resolve(MODELS).code


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("name: HandlerPlaced", "name: HandlerPlacd", "did you mean `HandlerPlaced`?"),
        ("name: OrderPlaced", "name: OrderSent", "handles OrderPlaced, not OrderSent"),
        (".test_resolving", ".handlers", "module `tests.authoring.graphs.handlers`: it is in"),
        ("graphs.orders}", "graphs.models}", "module `tests.authoring.graphs.models`: it is in"),
    ],
)
def test_a_handler_that_is_another_one(old: str, new: str, said: str) -> None:
    assert said in refused(HANDLED.replace(old, new), HandlerPlaced())


def test_handlers_that_nobody_listed_or_handed_over_or_calls() -> None:
    def ship(event: Delivered) -> Output:
        return Output(intents=[Ship(order_id=event.order_id)])

    assert "no handler `HandlerPlaced` is handed over" in refused(HANDLED)
    both = refused(HANDLED, HandlerPlaced(), ship)
    assert "is handed over, and not listed here" in both
    assert "handles Delivered, which no node waits for" in both


def test_an_outcome_starts_no_other_run_of_its_own_saga() -> None:
    outcome = '{event: orders.order-confirmed, with: {receipt: "${pay.receipt}"}}'
    said = refused(ORDER.replace(outcome, "orders.order-placed"))

    assert "outcome orders.order-placed starts this very saga" in said


def test_a_changed_graph_is_judged_by_a_replay() -> None:
    history = given(graph(ORDER), OrderPlaced(), contracts=MODELS).history
    spelt = ORDER.replace("timeout: 14d", "timeout: 15d")
    other = ORDER.replace("intent: stock.reserve, undo: stock.release", "intent: parcels.ship")

    assert given(graph(spelt), contracts=MODELS, history=history).status.value == "running"
    with pytest.raises(ReplayMismatch):
        given(graph(other), contracts=MODELS, history=history)


def test_waits_have_the_names_of_their_nodes() -> None:
    dear = given(graph(ORDER), OrderPlaced(amount=600), contracts=MODELS)

    dear.when(replied("reserve", StockReserved()), timed_out("approval"))
    dear.when(replied(Release)).then_status("rolled_back")

    cheap = given(graph(ORDER), OrderPlaced(), contracts=MODELS)
    cheap.when(replied("reserve", StockReserved()), replied("pay", Paid()), replied("ship"))
    cheap.when(timed_out("delivered")).then_status("rolling_back")


def test_the_relative_path_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "order.yaml").write_text(ORDER)

    assert contract("order.yaml").name == "order"
    with pytest.raises(ContractFileError, match=r"other.yaml:1:1: the file cannot be read"):
        contract("other.yaml")


def test_nothing_left_to_run_completes() -> None:
    text = (
        "name: order\nversion: 1\nnodes:\n"
        '  - {node_id: placed, event_pattern: ["order-placed.*"], when: placed.amount > 5}\n'
        "  - {node_id: ship, depends_on: [placed], intent: parcels.ship}\n"
    )

    given(graph(text), contracts=MODELS).when(OrderPlaced()).then(completed())
    given(graph(text), contracts=MODELS).when(OrderPlaced(amount=6)).then(
        issued(Ship(order_id="o-1"))
    )
