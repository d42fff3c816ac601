"""Sets have no order, and a message must have one form: they are refused wherever they hide."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Annotated, Any, Generic, NamedTuple, NewType, Optional, TypeVar

import pydantic.dataclasses
import pytest
from pydantic import BaseModel, Field, PlainSerializer, RootModel, computed_field, field_serializer
from typing_extensions import TypeAliasType, TypedDict

from saga import Event, Intent
from saga.contracts import ContractRegistry, contract_of, decode, encode, message_of
from saga.errors import DefinitionError, MalformedMessage
from saga.testing import given
from tests.toys import OrderPlaced, as_saga

T = TypeVar("T")


@dataclasses.dataclass
class Plain:
    tags: set[str]


@pydantic.dataclasses.dataclass
class Checked:
    tags: frozenset[str]


class Named(NamedTuple):
    tags: set[str]


class Typed(TypedDict):
    tags: set[str]


class Partly(TypedDict, total=False):
    tags: set[str]


class Line(BaseModel):
    tags: set[str]


class Tree(BaseModel):
    children: "list[Tree]"
    leaves: set[int]


class Box(BaseModel, Generic[T]):
    inside: T


class Tags(RootModel[set[str]]):
    pass


NAMED = NewType("NAMED", set[str])
ALIAS = TypeAliasType("ALIAS", set[str])

TYPES = {
    "set": (set[str], "value"),
    "bare set": (set, "value"),
    "frozen set": (frozenset[int] | None, "value"),
    "abstract set": (AbstractSet[str], "value"),
    "dictionary": (dict[str, set[str]], "value"),
    "mapping": (Mapping[str, list[set[str]]], "value"),
    "tuple": (tuple[int, set[str]], "value"),
    "annotated": (Annotated[set[str], Field(min_length=1)], "value"),
    "optional": (Optional[list[set[str]]], "value"),  # noqa: UP045  # as older code has it
    "new type": (NAMED, "value"),
    "alias": (ALIAS, "value"),
    "dataclass": (Plain, "value.tags"),
    "pydantic's dataclass": (list[Checked], "value.tags"),
    "named tuple": (Named, "value.tags"),
    "typed dictionary": (Typed, "value.tags"),
    "typed dictionary in part": (dict[str, Partly], "value.tags"),
    "model": (Line, "value.tags"),
    "model that is used twice": (tuple[Line, Line], "value.tags"),
    "model of itself": (Tree, "value.leaves"),
    "generic model": (Box[set[str]], "value.inside"),
    "dataclass in a generic": (Box[Plain], "value.inside.tags"),
    "root model": (Tags, "value"),
    "union": (int | Plain | None, "value.tags"),
}


@pytest.mark.parametrize("kind", TYPES)
def test_set_in_a_type_is_refused_when_the_class_is_made(kind):
    """With file, line and field."""
    hint, field = TYPES[kind]

    with pytest.raises(DefinitionError, match=rf"has a set in '{field}': sets have no") as refused:
        type(Event)("Held", (Event,), _body(value=hint), topic="sets.held", version=1)

    assert refused.value.where.startswith(f"{__file__}:")


def test_set_of_a_computed_field_is_refused():
    with pytest.raises(DefinitionError, match="has a set in 'tags'"):

        class Computed(Event, topic="sets.computed", version=1):
            name: str

            @computed_field
            @property
            def tags(self) -> set[str]:
                return {self.name}


class Anything(Event, topic="sets.anything", version=1):
    value: Any = None
    fields: dict[str, Any] = Field(default_factory=dict)
    items: list[object] = Field(default_factory=list)


@dataclasses.dataclass
class Held:
    held: Any


HIDDEN = {
    "itself": ({"value": {"b", "a"}}, "value"),
    "frozen": ({"value": frozenset("ab")}, "value"),
    "empty": ({"value": set()}, "value"),
    "in a dictionary": ({"fields": {"tags": {"b", "a"}}}, "fields.tags"),
    "in a list": ({"items": [1, [{"a"}]]}, "items.1.0"),
    "in a tuple": ({"value": (1, {"a"})}, "value.1"),
    "in a dataclass": ({"value": Held({"a"})}, "value.held"),
    "in a named tuple": ({"value": Named({"a"})}, "value.0"),
    "in a model": ({"value": Line(tags={"a"})}, "value.tags"),
}


@pytest.mark.parametrize("kind", HIDDEN)
def test_set_in_a_value_is_refused_when_it_is_encoded(kind):
    """Where the type left open what may be there."""
    values, field = HIDDEN[kind]

    with pytest.raises(MalformedMessage, match=f"Anything holds a set in '{field}'.*use a tuple"):
        encode(Anything(**values))


def test_what_is_no_set_may_be_anything():
    values = {"b": [1, (2, 3)], "a": {"x": None}, "keys": {"z": 1}.keys().__class__.__name__}

    assert encode(Anything(value=values, items=["x"])).startswith('{"fields":{},"items":["x"],')


def test_set_that_a_serializer_makes_is_refused():
    """Whatever the field itself holds."""

    def as_set(tags):
        return set(tags)

    class Written(Event, topic="sets.written", version=1):
        tags: tuple[str, ...]
        more: Annotated[tuple[str, ...], PlainSerializer(as_set)] = ()

        @field_serializer("tags")
        def write(self, tags):
            return set(tags)

    with pytest.raises(MalformedMessage, match="holds a set in 'tags'"):
        encode(Written(tags=("a", "b")))


class Ordered(Intent[None], topic="sets.ordered", version=1):
    tags: tuple[str, ...] = ()
    lines: list[list[str]] = Field(default_factory=list)
    more: Iterable[str] = ()


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"tags": {"b", "a"}}, "tags"),
        ({"tags": frozenset()}, "tags"),
        ({"lines": [["x"], {"b", "a"}]}, "lines.1"),
        ({"more": {"b", "a"}}, "more"),
    ],
)
def test_set_is_not_put_into_some_order(values, field):
    """Pydantic would make a list or tuple of it, in the order of this one process."""
    with pytest.raises(MalformedMessage, match=f"Ordered is given a set for '{field}'"):
        Ordered(**values)


def test_saga_that_would_say_a_set_parks_with_the_place_in_it():
    """Before anything is issued."""

    async def order(ctx, placed):
        await ctx.do(Ordered(tags={"b", "a"}))

    async def tells(ctx, placed):
        ctx.publish(Anything(value={"b", "a"}))
        await ctx.sleep("1s")

    for function, problem in ((order, "a set for 'tags'"), (tells, "a set in 'value'")):
        scenario = given(as_saga(function), contracts=[Ordered, Anything])
        scenario.when(OrderPlaced()).then_parked(problem)
        assert scenario.state.steps == {}


def test_received_json_is_never_a_set():
    registry = ContractRegistry([Anything])
    name = contract_of(Anything).contract_name

    decoded = decode(registry, name, b'{"value":["b","a"],"items":[{"x":[]}]}')

    assert decoded.payload == '{"fields":{},"items":[{"x":[]}],"value":["b","a"]}'
    assert message_of(decoded.model).payload == decoded.payload


def test_order_of_sets_does_differ_from_process_to_process():
    """That is why: the same text, from two processes, would be two."""
    program = "print(list({'a', 'b', 'c', 'd', 'e', 'f'}))"
    orders = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }

    assert len(orders) > 1


def _body(**hints):
    return {"__annotations__": hints, "__module__": __name__}
