"""The registry is closed: it knows what was named, what that needs, and nothing else."""

from typing import Any

import pytest

from saga.contracts import (
    COMMAND_CONTRACT,
    Command,
    ContractRegistry,
    Event,
    Intent,
    IntentDone,
    IntentFailed,
    contract_of,
)
from saga.errors import DefinitionError, UnknownContract


class Paid(Event, topic="registry-payments.paid", version=1):
    receipt: str


class Pay(Intent[Paid], topic="registry-payments.pay", version=1):
    order_id: str


class Placed(Event, topic="registry-orders.placed", version=1):
    order_id: str


def test_replies_and_internal_contracts_come_along() -> None:
    """Naming an intent is enough to read every answer to it, and commands."""
    registry = ContractRegistry([Pay, Placed])

    assert [one.contract_name for one in registry.contracts] == [
        "registry-orders.evt.placed.v1",
        "registry-payments.evt.intent-done.v1",
        "registry-payments.evt.intent-failed.v1",
        "registry-payments.evt.paid.v1",
        "registry-payments.int.pay.v1",
        "saga.ctl.command.v1",
    ]
    assert registry.find("registry-payments.evt.intent-done.v1").model is IntentDone
    assert registry.find("registry-payments.evt.intent-failed.v1").model is IntentFailed
    assert registry.find(COMMAND_CONTRACT).model is Command


def test_published_leaves_out_what_is_the_engines_own() -> None:
    """The lock file holds what the application declares."""
    published = ContractRegistry([Pay]).published

    assert [one.model for one in published] == [Paid, Pay]


def test_unknown_contract_names_what_comes_near() -> None:
    """A misspelt name is answered with the right one."""
    registry = ContractRegistry([Pay])

    with pytest.raises(UnknownContract, match=r"did you mean registry-payments\.evt\.paid\.v1"):
        registry.find("registry-payments.evt.payed.v1")
    with pytest.raises(UnknownContract, match="no such version"):
        registry.current("registry-payments.evt.paid.v7")
    with pytest.raises(UnknownContract, match="is no contract name"):
        registry.names_read_as("Paid")
    assert "registry-payments.evt.paid.v1" in registry
    assert "registry-payments.evt.paid.v7" not in registry


def test_name_of_any_length_is_answered() -> None:
    """What was received as a name is not quoted whole."""
    registry = ContractRegistry([Pay])

    assert len(registry.explain_unknown("x" * 100_000)) < 300


def test_two_classes_of_one_name_in_one_application_are_refused() -> None:
    """A class and its redefinition cannot both be used."""

    def make() -> type[Any]:
        class Twice(Event, topic="registry-orders.twice", version=1):
            pass

        return Twice

    first, second = make(), make()

    with pytest.raises(DefinitionError, match="this application uses both"):
        ContractRegistry([first, second])
    assert ContractRegistry([second, second]).published == (contract_of(second),)


def test_class_without_contract_is_refused() -> None:
    """A registry takes contracts only."""
    with pytest.raises(DefinitionError, match="is no contract"):
        ContractRegistry([Event])
