"""A business key has one text: the same on a trigger, an outcome and in any reader's language."""

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Annotated, Any, Literal, NewType
from uuid import UUID

import pytest
from pydantic import Field, PlainSerializer, field_serializer

from saga import Context, Event, SagaApp, saga
from saga.authoring import SagaDefinition
from saga.contracts import ContractRegistry, business_key, contract_of, encode
from saga.contracts.keys import key_in, key_text
from saga.errors import DefinitionError

SOME = UUID("6f4c29a6-6a3c-5d0e-9a55-0d5c6f0b8a11")


class Region(StrEnum):
    EU = "eu"


class Older(str, Enum):  # noqa: UP042  # as before there was StrEnum
    EU = "eu"


class Grade(IntEnum):
    TOP = 1


class Colour(Enum):
    RED = "red"


Named = NewType("Named", str)


def keyed(kind: Any) -> type[Event]:
    """An event whose key is of this type."""

    class Keyed(Event, topic="keys.keyed", version=1, key="id"):
        id: kind

    return Keyed


@pytest.mark.parametrize(
    ("kind", "given", "text"),
    [
        (str, "o-1", "o-1"),
        (int, 7, "7"),
        (int, -(2**62), str(-(2**62))),
        (UUID, SOME, str(SOME)),
        (date, date(2026, 1, 31), "2026-01-31"),
        (Region, Region.EU, "eu"),
        (Older, Older.EU, "eu"),
        (Named, "n", "n"),
        (Annotated[str, Field(max_length=3)], "abc", "abc"),
        (Literal["a", "b"], "b", "b"),
        (str | int | None, 7, "7"),
    ],
)
def test_a_key_has_the_text_that_json_has_for_it(kind, given, text):
    model = keyed(kind)
    event = model(id=given)
    payload = encode(event)
    registry = ContractRegistry([model])

    assert business_key(event) == text
    assert str(json.loads(payload)["id"]) == text
    assert key_in(payload, registry.own_keys["keys.evt.keyed.v1"]) == text
    assert business_key(model.model_validate_json(payload)) == text


@pytest.mark.parametrize(
    "kind",
    [
        float,
        bool,
        Decimal,
        datetime,
        bytes,
        Grade,
        Colour,
        Any,
        list[str],
        dict[str, str],
        str | float,
        str | bool | None,
        Literal[True],
    ],
)
def test_other_types_are_refused_when_the_class_is_made(kind):
    with pytest.raises(DefinitionError, match=r"test_keys.py:\d+: .*the key 'id' of type") as no:
        keyed(kind)

    assert "a str, int, UUID, date or StrEnum" in str(no.value)


def test_a_key_that_is_written_in_its_own_way_is_refused():
    """A reader would find another one in the payload."""
    with pytest.raises(DefinitionError, match="its key 'id' in its own way"):

        class Loud(Event, topic="keys.loud", version=1, key="id"):
            id: str

            @field_serializer("id")
            def loud(self, id: str) -> str:
                return id.upper()

    with pytest.raises(DefinitionError, match="its key 'id' in its own way"):
        keyed(Annotated[str, PlainSerializer(str.upper)])
    with pytest.raises(DefinitionError, match="its key 'id' in its own way"):

        class Hidden(Event, topic="keys.hidden", version=1, key="id"):
            id: str = Field(exclude=True)


class Later(Event, topic="keys.later", version=1, key="id"):
    id: "Unknown"


Unknown = float


def test_a_type_that_is_known_later_is_refused_by_the_application():
    with pytest.raises(DefinitionError, match=r"test_keys.py:\d+: .*the key 'id' of type float"):
        ContractRegistry([Later])


class Measured(Event, topic="keys.measured", version=1, key="id"):
    id: str
    region: Region = Region.EU
    older: Older = Older.EU
    length: float = 1.5
    at: "Moment | None" = None


Moment = datetime


def measuring(key: Any) -> SagaDefinition:
    @saga("measuring", version=1, starts_on=Measured, key=key)
    async def measure(ctx: Context, measured: Measured) -> None: ...

    return measure


def test_a_saga_keyed_by_another_field_has_the_same_text_for_it():
    measured = Measured(id="m-1")

    assert measuring("region").key_of(measured) == "eu"
    assert measuring("older").key_of(measured) == "eu"
    assert measuring(lambda one: one.region).key_of(measured) == "eu"
    assert measuring(lambda one: SOME).key_of(measured) == str(SOME)


def test_a_saga_keyed_by_a_field_of_another_type_is_refused():
    with pytest.raises(DefinitionError, match=r"test_keys.py:\d+: saga 'measuring': Measured has"):
        measuring("length")
    with pytest.raises(DefinitionError, match="the key 'at' of type datetime"):
        SagaApp(sagas=[measuring("at")])


@pytest.mark.parametrize(
    "given", [1.5, True, None, b"k", Colour.RED, ["k"], datetime(2026, 1, 1, tzinfo=UTC)]
)
def test_a_key_function_that_gives_another_type_gives_no_key(given):
    with pytest.raises(ValueError, match=r"no business key|empty business key"):
        measuring(lambda _: given).key_of(Measured(id="m-1"))


@pytest.mark.parametrize("given", ["", " ", "\t\n", "x" * 1_001, "é" * 501, "\ud800"])
def test_a_text_that_is_empty_or_too_long_is_no_key(given):
    with pytest.raises(ValueError, match="the business key "):
        key_text(given)


def test_a_key_may_have_a_thousand_bytes():
    assert key_text("é" * 500) == "é" * 500
    assert contract_of(Measured).key == "id"
