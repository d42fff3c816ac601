"""Steps are made, named, answered and undone alike, in whichever way a saga is written."""

import pytest

from saga.authoring.steps import (
    AuthoredStep,
    ChildStep,
    Steps,
    read_reply,
    refusal_of_reply,
    result_of_child,
    undo_of,
)
from saga.contracts import ContractRegistry, message_of
from saga.contracts.between_sagas import ChildEnded as ChildEndedEvent
from saga.contracts.between_sagas import ChildStarted
from saga.core.events import ChildEnded, ChildStatus
from saga.core.retry import FOREVER, STEP_DEFAULT, UNDO_DEFAULT
from saga.core.status import StepKind
from saga.errors import ChildRolledBack, DefinitionError, TimedOut
from tests.toys import OrderConfirmed, OrderPlaced, OrderSeen, Paid, Pay, Refund, Ship

REGISTRY = ContractRegistry(
    [Pay, Refund, Ship, OrderPlaced, OrderConfirmed, ChildStarted, ChildEndedEvent]
)


@pytest.fixture
def steps():
    return Steps(REGISTRY, 1)


def test_steps_are_named_by_their_contract_and_numbered_from_two_on(steps):
    assert [steps.step_id(None, "pay") for _ in range(3)] == ["pay", "pay-2", "pay-3"]
    assert steps.step_id("other", "pay") == "other"
    assert steps.step_id(None, "ship") == "ship"
    assert Steps(REGISTRY, 2).step_id(None, "pay") == "2.pay"


@pytest.mark.parametrize(
    "ids", [("pay", None), ("x", "x"), (None, "pay"), ("pay-2", None, None), (None, None, "pay-2")]
)
def test_one_id_names_one_step(steps, ids):
    """Whether it was given or came from the contract, the second step of an id is refused."""
    *before, last = ids
    for each in before:
        steps.step_id(each, "pay")

    with pytest.raises(DefinitionError, match="is used twice"):
        steps.step_id(last, "pay")


def test_what_an_author_leaves_out_is_the_same_everywhere(steps):
    plain = steps.do(AuthoredStep, Ship())
    undoable = steps.do(AuthoredStep, Pay(amount=1), undo=Refund, timeout="3s")
    persistent = steps.do(AuthoredStep, Ship(), kind="retriable")

    assert (plain.kind, plain.retry, plain.undo_retry) == (StepKind.PLAIN, STEP_DEFAULT, None)
    assert (undoable.kind, undoable.undo_retry) == (StepKind.COMPENSATABLE, UNDO_DEFAULT)
    assert undoable.timeout_us == 3_000_000
    assert (persistent.step, persistent.retry) == ("ship-2", FOREVER)


def test_a_refusal_names_what_the_author_wrote(steps):
    with pytest.raises(DefinitionError, match=r"^do takes an Intent and was given a class"):
        steps.do(AuthoredStep, Pay, call="do")
    with pytest.raises(DefinitionError, match=r"^child takes an event and was given a class"):
        steps.child(ChildStep, OrderPlaced, call="child")
    with pytest.raises(DefinitionError, match=r"OrderSeen .* is not known to the application"):
        steps.publish(OrderSeen())


def test_publications_and_steps_are_counted_apart(steps):
    assert steps.publish(OrderPlaced()).publication == "order-placed-1"
    assert steps.publish(OrderPlaced()).publication == "order-placed-2"
    assert steps.child(ChildStep, OrderPlaced()).step == "order-placed"
    assert steps.tell(Ship()).step == "ship"


def test_a_reply_is_judged_read_and_undone(steps):
    pay = steps.do(AuthoredStep, Pay(amount=1), undo=Refund)
    paid = message_of(Paid(receipt="r-1"))

    assert refusal_of_reply(REGISTRY, pay, paid) is None
    assert "it is answered by" in (refusal_of_reply(REGISTRY, pay, None) or "")
    assert read_reply(REGISTRY, pay, paid) is read_reply(REGISTRY, pay, paid)
    assert undo_of(REGISTRY, pay, paid) == message_of(Refund(receipt="r-1"))
    assert undo_of(REGISTRY, pay, None) == message_of(Refund())


def test_a_child_comes_to_its_outcome_or_to_the_failure_of_its_step(steps):
    step = steps.child(ChildStep, OrderPlaced(), outcome=OrderConfirmed)
    completed = ChildEnded(
        intent_id="i",
        saga_id="s",
        definition="order",
        key="o-1",
        status=ChildStatus.COMPLETED,
        outcome=message_of(OrderConfirmed()),
    )
    failed = ChildEnded(
        intent_id="i",
        saga_id="s",
        definition="order",
        key="o-1",
        status=ChildStatus.ROLLED_BACK,
        reason="none left",
        code="sold_out",
    )

    assert result_of_child(REGISTRY, step, completed) == OrderConfirmed()
    late, undone = (result_of_child(REGISTRY, step, each) for each in (None, failed))
    assert isinstance(late, TimedOut)
    assert str(late) == "the child 'order-placed' did not end in time"
    assert isinstance(undone, ChildRolledBack)
    assert (undone.step, undone.reason, undone.code) == ("order-placed", "none left", "sold_out")
