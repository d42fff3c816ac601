"""What a machine or a graph stands at is data, as long as all that it holds can be told exactly.

That a saga goes on from its snapshot as it would have, `given` checks after every turn of every
machine and graph in these tests.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from pydantic import BaseModel, PrivateAttr

from saga import Event, Intent, Next, Retry, State, StepDone, do, machine
from saga.authoring.exact import NoData, from_text, is_exactly, to_text
from saga.contracts import ContractRegistry
from saga.core.kernel import decider_for
from saga.core.snapshots import snapshot_of
from saga.testing import given, replied
from tests.toys import as_saga


class Told(BaseModel):
    value: Any = None
    given: int = 0
    _hidden: int = PrivateAttr(default=0)


class Asked(Event, topic="told.asked", version=1, key="id"):
    id: str = "a-1"


class Ask(Intent[None], topic="told.ask", version=1):
    number: int


class Forget(Intent[None], topic="told.forget", version=1):
    number: int


def forget(intent: Ask, _: None) -> Forget:
    return Forget(number=-intent.number)


class Asking(State):
    count: int = 0
    said: Any = None

    def handle(self, event: StepDone) -> Next[Asking | Through]:
        if self.count > 8:
            return Through()
        undo = {0: forget, 1: Forget, 2: lambda intent, _: Forget(number=intent.number)}
        count = self.count + 1
        retry = Retry(attempts=None, initial=timedelta(milliseconds=7), never_on=("no",))
        act = do(Ask(number=count), undo=undo[min(self.count, 2)], retry=retry, id=f"ask-{count}")
        return Asking(count=count, said=self.said), act


class Through(State): ...


TABLE = {Asking: {StepDone: (Asking, Through)}}


@machine("asking", version=1, starts_on=Asked, transitions=TABLE)
def asking(_: Asked) -> Next[Asking]:
    return Asking(), do(Ask(number=0), undo=Forget, id="ask-0")


def stands(turns: int) -> Any:
    scenario = given(asking, Asked())
    for number in range(turns):
        scenario.when(replied(Ask, step=f"ask-{number}"))
    return scenario.state


@pytest.mark.parametrize("turns", [0, 1, 2])
def test_a_machine_is_told_with_undos_that_are_classes_or_functions_by_name(turns: int):
    told = snapshot_of(stands(turns))

    assert told is not None
    assert len(told["program"]["steps"]["steps"]) == turns + 1


def test_a_machine_whose_step_is_undone_by_a_lambda_has_no_snapshot():
    assert snapshot_of(stands(3)) is None


def test_a_function_by_the_name_of_another_is_not_taken_for_it():
    """What a snapshot names is looked up among what the code names, and nowhere else."""
    state = stands(1)
    told = snapshot_of(state)
    assert told is not None
    registry = ContractRegistry(asking.contracts())
    decider = decider_for(asking.bind(registry))

    text = json.dumps(told)
    other = text.replace("test_snapshots.forget", "test_snapshots.stands")

    assert other != text
    restored = decider.restored(state.saga_id, json.loads(other))
    assert restored.program is not None
    with pytest.raises(KeyError):
        restored.program.undo_of("ask-1", None)


def test_a_function_is_no_data():
    async def order(ctx, placed):
        await ctx.do(Ask(number=1))

    from tests.toys import OrderPlaced

    assert snapshot_of(given(as_saga(order), OrderPlaced()).state) is None


def test_a_snapshot_of_another_saga_is_refused():
    told = snapshot_of(stands(0))
    assert told is not None
    decider = decider_for(asking.bind(ContractRegistry(asking.contracts())))

    with pytest.raises(ValueError, match="it is of saga"):
        decider.restored("6f4c29a6-6a3c-5d0e-9a55-0d5c6f0b8a11", told)


@dataclass
class Opaque:
    number: int = 1


@pytest.mark.parametrize(
    "value",
    [None, True, 1, 1.5, "ä", [1, [2.0]], {"b": 1, "a": None}, -0.0, 2**70, [True, 1]],
    ids=repr,
)
def test_what_json_gives_again_is_told(value: object):
    again = from_text(Told, to_text(Told(value=value)))

    assert is_exactly(again, Told(value=value))
    assert again.model_fields_set == {"value"}


@pytest.mark.parametrize(
    "value",
    [
        (1, 2),
        {1, 2},
        Decimal("1.0"),
        datetime(2026, 1, 1, tzinfo=UTC),
        datetime(2026, 1, 1, tzinfo=ZoneInfo("Europe/Paris")),
        Opaque(),
        {1: "one"},
        float("nan"),
        b"bytes",
        Told(),
    ],
    ids=repr,
)
def test_what_json_gives_as_something_else_is_no_data(value: object):
    with pytest.raises(NoData):
        to_text(Told(value=value))


def test_a_private_attribute_is_no_data():
    told = Told()
    told._hidden = 5  # noqa: SLF001  # what a user's method may do

    with pytest.raises(NoData):
        to_text(told)
