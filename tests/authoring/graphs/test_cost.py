"""What graphs and machines cost beside the function of one saga, in steps of the interpreter."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from examples.machines.order import app as machine
from saga.authoring import SagaRegistry
from saga.authoring.definition import SagaDefinition
from saga.authoring.graphs import ContractGraph
from saga.contracts import ContractRegistry, is_contract, message_of
from saga.core.events import Event, EventReceived, Fact, ReplyOutcome, ReplyReceived, SagaStarted
from saga.core.identity import DO, Instant, MessageId, StepId, intent_id, saga_id
from tests.authoring.graphs.orders import ORDER
from tests.authoring.three_ways import function

CLASSES = tuple(filter(is_contract, vars(machine).values()))
RATIO_MAX = 1.3
"""A turn is more than its program: of a saga as a whole this is a few per cent."""
MACHINE_RATIO_MAX = 1.33
"""It shows each state, and arms a timeout: of this order five entries more than the function's."""


def facts(fingerprint: str) -> list[Fact]:
    """An order that is reserved, paid, shipped and delivered."""
    saga = saga_id("order", "o-1")
    replies = {
        "reserve": message_of(machine.StockReserved(reservation="s-1")),
        "pay": message_of(machine.Paid(receipt="r-1")),
        "ship": None,
    }
    delivered = message_of(machine.Delivered(order_id="o-1"))
    return [
        SagaStarted(
            definition="order",
            definition_version=1,
            fingerprint=fingerprint,
            key="o-1",
            trigger=message_of(machine.OrderPlaced(order_id="o-1", amount=40)),
        ),
        *(
            ReplyReceived(intent_id(saga, StepId(step), DO, 1), ReplyOutcome.DONE, reply)
            for step, reply in replies.items()
        ),
        EventReceived(contract=delivered.contract, payload=delivered.payload),
    ]


def steps_of(act: Callable[[], Any]) -> int:
    """How many steps of the interpreter *act* takes, when it is done for the third time."""
    act()
    act()
    steps = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal steps
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        steps += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(before)
    return steps


def cost(definition: SagaDefinition) -> int:
    registered = SagaRegistry([definition], ContractRegistry(CLASSES)).find("order", 1)
    assert registered is not None
    decider = registered.decider
    happens = facts(definition.fingerprint)

    def run() -> None:
        state = decider.initial_state(saga_id("order", "o-1"))
        for number, fact in enumerate(happens):
            event = Event(fact, Instant(number), MessageId(str(number)))
            state = decider.handle(state, event).state
        assert state.status.value == "completed"

    return steps_of(run)


def test_a_graph_costs_little_more_than_a_function() -> None:
    text = ORDER.replace(" orders.", " shop.").encode()
    graph = ContractGraph("order.yaml", text).resolve(CLASSES)

    assert cost(graph) < RATIO_MAX * cost(function)


def test_a_machine_costs_little_more_than_a_function() -> None:
    assert cost(machine.order) < MACHINE_RATIO_MAX * cost(function)
