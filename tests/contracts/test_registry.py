"""The registry is closed: it knows what was named, what that needs, and the engine's own."""

import json
from typing import Any

import pytest

from saga.contracts import (
    COMMAND_CONTRACT,
    Command,
    CommandAct,
    ContractRegistry,
    Decoded,
    Event,
    Intent,
    IntentDone,
    IntentFailed,
    Unreadable,
    decode,
    encode,
)
from saga.core.events import CancelMode
from saga.errors import DefinitionError, UnknownContract


class Paid(Event, topic="registry-payments.paid", version=1):
    receipt: str


class Pay(Intent[Paid], topic="registry-payments.pay", version=1):
    order_id: str


class Placed(Event, topic="registry-orders.placed", version=1):
    order_id: str


def test_replies_and_internal_contracts_come_along():
    """Naming an intent is enough to read every answer to it, and commands."""
    registry = ContractRegistry([Pay, Placed])

    assert [one.contract_name for one in registry.contracts] == [
        "registry-orders.evt.placed.v1",
        "registry-payments.ctl.intent-cancelled.v1",
        "registry-payments.evt.intent-done.v1",
        "registry-payments.evt.intent-failed.v1",
        "registry-payments.evt.intent-progress.v1",
        "registry-payments.evt.paid.v1",
        "registry-payments.int.pay.v1",
        "saga.ctl.command.v1",
    ]
    assert registry.find("registry-payments.evt.intent-done.v1").model is IntentDone
    assert registry.find("registry-payments.evt.intent-failed.v1").model is IntentFailed
    assert registry.find(COMMAND_CONTRACT).model is Command


def test_published_leaves_out_what_is_the_engines_own():
    published = ContractRegistry([Pay]).published

    assert [one.model for one in published] == [Paid, Pay]


def test_unknown_contract_names_what_comes_near():
    registry = ContractRegistry([Pay])

    with pytest.raises(UnknownContract, match=r"did you mean registry-payments\.evt\.paid\.v1"):
        registry.find("registry-payments.evt.payed.v1")
    with pytest.raises(UnknownContract, match="no such version"):
        registry.current("registry-payments.evt.paid.v7")
    with pytest.raises(UnknownContract, match="is no contract name"):
        registry.names_read_as("Paid")
    assert "registry-payments.evt.paid.v1" in registry
    assert "registry-payments.evt.paid.v7" not in registry


def test_name_of_any_length_is_answered():
    """What was received as a name is not quoted whole."""
    registry = ContractRegistry([Pay])

    assert len(registry.explain_unknown("x" * 100_000)) < 300


def test_class_without_contract_is_refused():
    with pytest.raises(DefinitionError, match="is no contract"):
        ContractRegistry([Event])


class Ship(Intent[None], topic="internal-parcels.ship", version=1):
    order_id: str


REGISTRY = ContractRegistry([Ship])
FAILED = "internal-parcels.evt.intent-failed.v1"
DONE = "internal-parcels.evt.intent-done.v1"


def received(contract_name: str, value: Any) -> Decoded | Unreadable:
    """What becomes of *value*, sent as JSON."""
    return decode(REGISTRY, contract_name, json.dumps(value).encode())


NOT_SAID = {"code": None, "message": None, "details": None}


@pytest.mark.parametrize(
    ("contract", "value", "said"),
    [
        (DONE, {}, {}),
        (DONE, {"anything": 1}, {}),
        (FAILED, {"outcome": "refused"}, NOT_SAID | {"outcome": "refused"}),
        (FAILED, {"outcome": "failed"}, NOT_SAID | {"outcome": "failed"}),
    ],
)
def test_a_reply_needs_nothing_but_its_outcome(contract, value, said):
    """Any object says done as `intent-done`; code and message of a failure may be missing."""
    found = received(contract, value)

    assert isinstance(found, Decoded)
    assert json.loads(found.payload) == said


@pytest.mark.parametrize("value", [{}, {"outcome": "done"}, {"outcome": "Refused"}, {"outcome": 1}])
def test_failure_of_no_known_outcome_is_not_guessed(value):
    """Whether anything happened decides on undoing: it must be said."""
    found = received(FAILED, value)

    assert isinstance(found, Unreadable)
    assert found.message.startswith("outcome: ")


def test_command_survives_the_wire():
    command = Command(
        command_id="c-1",
        act=CommandAct.SIGNAL,
        saga_id="s-1",
        name="approval",
        payload={"by": "ann", "limits": [1, 2.5, None, True]},
        actor="ann",
        requested_at=1_763_720_000_000_000,
    )

    found = decode(REGISTRY, COMMAND_CONTRACT, encode(command).encode())

    assert isinstance(found, Decoded)
    assert found.model == command


def test_cancel_is_graceful_unless_it_says_otherwise():
    """By default."""
    found = received(COMMAND_CONTRACT, {"command_id": "c", "act": "cancel", "saga_id": "s"})

    assert isinstance(found, Decoded)
    assert isinstance(found.model, Command)
    assert found.model.mode is CancelMode.GRACEFUL


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"act": "signal"}, "a signal needs a name"),
        ({"act": "abandon"}, "needs a reason"),
        ({"act": "cancel", "mode": "abandon"}, "needs a reason"),
        ({"act": "explode"}, "act: expected"),
        ({"act": "retry", "command_id": ""}, "command_id: "),
        ({"act": "retry", "requested_at": "now"}, "requested_at: expected"),
    ],
)
def test_command_that_says_too_little_is_refused(fields, problem):
    found = received(COMMAND_CONTRACT, {"command_id": "c", "saga_id": "s", **fields})

    assert isinstance(found, Unreadable)
    assert problem in found.message
