"""`graph`: a machine as a picture; a function has none."""

import pytest

from examples.machines.order import app as order
from tests.console.conftest import call

APP = ("--app", "examples.machines.order.app:app")


def test_a_machine_is_drawn_from_its_table_and_its_source():
    called = call("graph", "order", *APP)

    assert called.code == 0
    lines = [line.strip() for line in called.out.splitlines()]
    assert lines[0] == "stateDiagram-v2"
    rows = {line for line in lines if "-->" in line}
    assert rows == {
        "[*] --> Reserving : OrderPlaced",
        "Reserving --> Approving : StockReserved",
        "Reserving --> Paying : StockReserved",
        "Approving --> Paying : Approval",
        "Approving --> Rejected : Approval",
        "Paying --> Shipping : Paid",
        "Paying --> Rejected : StepFailed",
        "Shipping --> Underway : StepDone",
        "Underway --> Confirmed : Delivered",
        "Confirmed --> [*]",
        "Rejected --> [*]",
    }
    assert {"Paying : Paying", "Paying : pay / undo refund", "Shipping : ship"} <= set(lines)
    assert "class Rejected rollsBack" in lines


def test_json_has_the_diagram_in_one_line():
    row = call("graph", "order", *APP, "--json").row

    assert (row["name"], row["version"]) == ("order", 1)
    assert row["diagram"] == order.order.diagram()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["graph", "parcel", *APP], "the application has no saga parcel: it has order"),
        (["graph", "order", "--version", "2", *APP], "has no saga order, version 2"),
    ],
)
def test_a_saga_that_is_not_there_is_not_drawn(words, reason):
    call(*words).fails(1, reason)


def test_a_function_says_that_it_has_no_diagram(toys):
    call("graph", "order").fails(1, "saga order has no diagram: a function is read in its source")
