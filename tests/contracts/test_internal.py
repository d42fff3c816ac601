"""The engine's own messages are read leniently, but never guessed."""

import json
from typing import Any

import pytest

from saga.contracts import (
    COMMAND_CONTRACT,
    Command,
    CommandAct,
    ContractRegistry,
    Decoded,
    Intent,
    Unreadable,
    decode,
    encode,
)
from saga.core.events import CancelMode


class Ship(Intent[None], topic="internal-parcels.ship", version=1):
    order_id: str


REGISTRY = ContractRegistry([Ship])
FAILED = "internal-parcels.evt.intent-failed.v1"
DONE = "internal-parcels.evt.intent-done.v1"


def received(contract_name: str, value: Any) -> Decoded | Unreadable:
    """What becomes of *value*, sent as JSON."""
    return decode(REGISTRY, contract_name, json.dumps(value).encode())


@pytest.mark.parametrize("value", [{}, {"anything": 1}])
def test_done_needs_nothing(value: dict[str, Any]) -> None:
    """Whatever object a service sends as `intent-done` says done."""
    found = received(DONE, value)

    assert isinstance(found, Decoded)
    assert found.payload == "{}"


@pytest.mark.parametrize("outcome", ["refused", "failed"])
def test_failure_needs_only_its_outcome(outcome: str) -> None:
    """Code and message may be missing."""
    found = received(FAILED, {"outcome": outcome})

    assert isinstance(found, Decoded)
    assert json.loads(found.payload) == {"outcome": outcome, "code": None, "message": None}


@pytest.mark.parametrize("value", [{}, {"outcome": "done"}, {"outcome": "Refused"}, {"outcome": 1}])
def test_failure_of_no_known_outcome_is_not_guessed(value: dict[str, Any]) -> None:
    """Whether anything happened decides on undoing: it must be said."""
    found = received(FAILED, value)

    assert isinstance(found, Unreadable)
    assert found.message.startswith("outcome: ")


def test_command_survives_the_wire() -> None:
    """All of a command arrives as it was sent."""
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


def test_cancel_is_graceful_unless_it_says_otherwise() -> None:
    """The default of SEMANTICS 6."""
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
def test_command_that_says_too_little_is_refused(fields: dict[str, Any], problem: str) -> None:
    """A command that could do harm by a wrong guess is parked with its reason."""
    found = received(COMMAND_CONTRACT, {"command_id": "c", "saga_id": "s", **fields})

    assert isinstance(found, Unreadable)
    assert problem in found.message
