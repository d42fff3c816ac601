"""What is known of a value before there is one: the types of contracts' fields, as JSON has them.

A type is read from a JSON Schema, so contracts of Python classes and of the lock file are alike.
Whether something may be null is not told apart: null is everywhere, and expressions take it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field
from enum import StrEnum
from typing import Any, Final

from pydantic import BaseModel
from pydantic.errors import PydanticInvalidForJsonSchema
from typing_extensions import override

from saga.core.values import value

SCHEMA_LEVELS_MAX = 20
"""How deep a type is looked into, as deep as an expression gets; below it anything may be."""
_REF = "#/$defs/"


class Kind(StrEnum):
    """Its value is the word that messages use."""

    ANY = "anything"
    NULL = "null"
    BOOL = "true or false"
    INT = "int"
    FLOAT = "float"
    TEXT = "text"
    LIST = "a list"
    MAP = "a map"
    RECORD = "a map with fields"


NUMBERS = frozenset((Kind.INT, Kind.FLOAT))
MAPS = frozenset((Kind.MAP, Kind.RECORD))


@value
class Type:
    """A type of JSON.

    Args:
        of: the type of a list's items, of a map's values.
        fields: those of a record; a mapping, as a record may hold itself.
        is_open: a record may have other fields beside these.
        title: the name of a record; of what is always null, why.
        format: of a text: `date`, `date-time`, `uuid` and so on; or nothing.
        choices: the texts that it can be, where they are few.
    """

    kind: Kind
    of: Type | None = None
    fields: Mapping[str, Type] = field(default_factory=dict, hash=False)
    is_open: bool = False
    title: str = ""
    format: str = ""
    choices: tuple[str, ...] = ()

    def __str__(self) -> str:
        match self.kind:
            case Kind.LIST if self.of is not None and self.of.kind is not Kind.ANY:
                return f"a list of {self.of}"
            case Kind.RECORD:
                return self.title or self.kind.value
            case Kind.TEXT if self.format:
                return f"text ({self.format})"
            case _:
                return self.kind.value


ANY: Final = Type(Kind.ANY)
BOOL: Final = Type(Kind.BOOL)
INT: Final = Type(Kind.INT)
FLOAT: Final = Type(Kind.FLOAT)
TEXT: Final = Type(Kind.TEXT)
NULL: Final = Type(Kind.NULL)
LIST: Final = Type(Kind.LIST, ANY)


def list_of(item: Type) -> Type:
    return Type(Kind.LIST, item)


def record(title: str, fields: Mapping[str, Type]) -> Type:
    return Type(Kind.RECORD, fields=fields, title=title)


def nothing(why: str) -> Type:
    """What is always null, and *why*: `parcels.ship has no reply of its own`."""
    return Type(Kind.NULL, title=why)


def type_of_model(model: type[BaseModel]) -> Type:
    """The type of what *model* writes as JSON; anything, where it has no schema."""
    try:
        schema = model.model_json_schema(mode="serialization", by_alias=True)
    except PydanticInvalidForJsonSchema:
        return ANY
    return type_of_schema(schema)


def type_of_schema(schema: Mapping[str, Any]) -> Type:
    """The type that a JSON Schema of pydantic's describes; anything, where it is a wider one."""
    definitions = schema.get("$defs")
    return _type(schema, definitions if isinstance(definitions, Mapping) else {}, 0)


def _type(schema: Any, definitions: Mapping[str, Any], level: int) -> Type:
    if not isinstance(schema, Mapping) or level > SCHEMA_LEVELS_MAX:
        return ANY
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith(_REF):
        return _type(definitions.get(reference.removeprefix(_REF)), definitions, level + 1)
    if (parts := _only_alternative(schema)) is not None:
        return _type(parts, definitions, level + 1)
    match schema.get("type"):
        case "null":
            return NULL
        case "boolean":
            return BOOL
        case "integer":
            return INT
        case "number":
            return FLOAT
        case "string":
            return Type(Kind.TEXT, format=schema.get("format", ""), choices=_choices(schema))
        case "array":
            return list_of(_type(schema.get("items"), definitions, level + 1))
        case "object":
            return _object(schema, definitions, level)
        case _:
            return ANY


def _only_alternative(schema: Mapping[str, Any]) -> object | None:
    """What *schema* is beside null, where that is one thing."""
    for keyword in ("anyOf", "oneOf", "allOf"):
        if isinstance(alternatives := schema.get(keyword), list):
            some = [each for each in alternatives if each != {"type": "null"}]
            return some[0] if len(some) == 1 else {}
    return None


def _choices(schema: Mapping[str, Any]) -> tuple[str, ...]:
    choices = schema.get("enum", [schema["const"]] if "const" in schema else [])
    is_text = isinstance(choices, list) and all(isinstance(each, str) for each in choices)
    return tuple(choices) if is_text else ()


def _object(schema: Mapping[str, Any], definitions: Mapping[str, Any], level: int) -> Type:
    properties, others = schema.get("properties"), schema.get("additionalProperties", False)
    if not isinstance(properties, Mapping):
        return Type(Kind.MAP, _type(others, definitions, level + 1))
    return Type(
        Kind.RECORD,
        fields=_Fields(properties, definitions),
        is_open=others is not False,
        title=str(schema.get("title", "")),
    )


class _Fields(Mapping[str, Type]):
    """The fields of a schema, looked at when they are asked for: schemas may hold themselves."""

    def __init__(self, properties: Mapping[str, Any], definitions: Mapping[str, Any]) -> None:
        self._properties = properties
        self._definitions = definitions

    @override
    def __getitem__(self, name: str) -> Type:
        return _type(self._properties[name], self._definitions, 0)

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self._properties)

    @override
    def __len__(self) -> int:
        return len(self._properties)

    @override
    def __eq__(self, other: object) -> bool:
        """Without looking into the fields: a record that holds itself would never end."""
        return (
            isinstance(other, _Fields)
            and self._properties == other._properties
            and self._definitions == other._definitions
        )

    __hash__ = None  # type: ignore[assignment]  # as that of a dict
