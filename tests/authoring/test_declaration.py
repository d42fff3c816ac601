"""What the runtime knows of a saga is a Protocol: a way to write one adds its own part only."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from saga import SagaApp
from saga.authoring import SagaDefinition
from saga.authoring.declaration import Declaration, Surroundings, declared
from saga.contracts import message_of
from saga.core.program import Command, Finish, Program
from saga.core.values import value
from saga.errors import DefinitionError
from saga.testing import completed, given
from tests.toys import OrderConfirmed, OrderPlaced, order_saga


class Thanks(Program):
    """A saga that is over as soon as it has begun."""

    patches = None

    def __init__(self, around: Surroundings) -> None:
        self._contracts = around.registry

    def start(self, trigger: Any, at: Any) -> Sequence[Command]:
        return [Finish(message_of(OrderConfirmed()))]

    def close(self) -> None:
        pass


@value(kw_only=True)
class ThanksDefinition(Declaration):
    has_children = False

    @property
    def code(self) -> tuple[Callable[..., Any], ...]:
        return ()

    def named(self) -> frozenset[type]:
        return frozenset({OrderConfirmed})

    def program(self, around: Surroundings, saga_id: Any, key: str, run: int) -> Program:
        return Thanks(around)


def thanks(**options: Any) -> ThanksDefinition:
    said: dict[str, Any] = {
        "version": 1,
        "starts_on": OrderPlaced,
        "key": None,
        "listens": (),
        "rolled_back": None,
        "parallel_undo": False,
        "when_stuck": "halt",
        "deadline": None,
        "where": "thanks.yaml:1",
        "by": "thanks",
    }
    return ThanksDefinition(**declared("thanks", **said | options), fingerprint="1")


def test_another_way_to_write_a_saga_is_taken_by_an_application_and_by_tests():
    """Neither asks for a class: what has the members of a definition is one."""
    definition = thanks()

    assert isinstance(definition, SagaDefinition)
    assert isinstance(order_saga(), SagaDefinition)
    app = SagaApp(sagas=[definition])
    assert OrderConfirmed in {each.model for each in app.contracts.contracts}
    given(definition).when(OrderPlaced()).then(completed(OrderConfirmed()))


def test_what_is_no_definition_is_refused():
    with pytest.raises(DefinitionError, match="is no saga"):
        SagaApp(sagas=[order_saga().function])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"version": 0}, "version 0 is no positive number"),
        ({"starts_on": ()}, "starts on nothing"),
        ({"key": "nothing"}, "key 'nothing' is no field of OrderPlaced"),
        ({"deadline": "0s"}, "passes before it has begun"),
        ({"listens": int}, "saga 'thanks' listens to <class 'int'>"),
    ],
)
def test_what_every_way_says_alike_is_checked_with_its_place(options, problem):
    """One check for all: where it is said comes from the front-end."""
    with pytest.raises(DefinitionError) as refused:
        thanks(**options)

    assert problem in str(refused.value)
    assert str(refused.value).startswith("thanks.yaml:1: ")
