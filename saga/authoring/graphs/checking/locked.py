"""Contracts of a lock file as classes, where an application has none of its own for them.

Their fields are as wide as the locked schema: what it does not say in words known here, such as
two alternatives beside null, may be anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date, datetime, time, timedelta
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import Field, create_model

from saga.authoring.graphs.checking.messages import FROZEN, class_name, event_of, intent_of
from saga.contracts import ContractModel, Event, Kind, parse_contract_name
from saga.contracts.lockfile import Lock, LockedContract

LEVELS_MAX: Final = 20
_FORMATS: Final[Mapping[str, Any]] = {
    "date": date,
    "time": time,
    "date-time": datetime,
    "duration": timedelta,
    "uuid": UUID,
}
_BOUNDS: Final[Mapping[str, str]] = {
    "minimum": "ge",
    "exclusiveMinimum": "gt",
    "maximum": "le",
    "exclusiveMaximum": "lt",
    "multipleOf": "multiple_of",
    "minLength": "min_length",
    "maxLength": "max_length",
    "pattern": "pattern",
    "minItems": "min_length",
    "maxItems": "max_length",
}
_PLAIN: Final[Mapping[str, Any]] = {"integer": int, "number": float, "boolean": bool}
Schema = Mapping[str, Any]


def models_of(lock: Lock, where: str) -> Iterator[type[ContractModel]]:
    """A class for each event and intent of a lock file; *where* is that file."""
    events: dict[str, type[Event]] = {}
    for name, locked in lock.items():
        parts = parse_contract_name(name)
        if parts is not None and parts.kind is Kind.EVENT:
            events[name] = event_of(
                parts.domain,
                parts.name,
                parts.version,
                key=locked.key,
                fields=_fields(parts.name, locked),
                where=where,
            )
    yield from events.values()
    for name, locked in lock.items():
        parts = parse_contract_name(name)
        if parts is not None and parts.kind is Kind.INTENT:
            yield intent_of(
                parts.domain,
                parts.name,
                parts.version,
                reply=None if locked.reply is None else events.get(locked.reply),
                fields=_fields(parts.name, locked),
                where=where,
            )


def _fields(name: str, locked: LockedContract) -> dict[str, tuple[Any, Any]]:
    schema = locked.schema
    return _members(name, schema, schema.get("$defs", {}), 0)


def _members(
    name: str, schema: Schema, definitions: Schema, level: int
) -> dict[str, tuple[Any, Any]]:
    required = schema.get("required", ())
    found: dict[str, tuple[Any, Any]] = {}
    for key, each in schema.get("properties", {}).items():
        kind = _kind(f"{name}-{key}", each, definitions, level + 1)
        found[key] = (kind, ... if key in required else each.get("default"))
        if key not in required and "default" not in each and kind is not Any:
            found[key] = (kind | None, None)
    return found


def _kind(name: str, schema: Any, definitions: Schema, level: int) -> Any:
    if not isinstance(schema, Mapping) or level > LEVELS_MAX:
        return Any
    if isinstance(reference := schema.get("$ref"), str):
        return _kind(name, definitions.get(reference.rpartition("/")[2]), definitions, level + 1)
    if isinstance(alternatives := schema.get("anyOf"), list):
        others = [each for each in alternatives if each != {"type": "null"}]
        if len(others) != 1 or len(others) == len(alternatives):
            return Any
        kind = _kind(name, others[0], definitions, level + 1)
        return kind if kind is Any else kind | None
    if "const" in schema or "enum" in schema:
        return Literal[tuple(schema.get("enum", [schema.get("const")]))]
    return _bounded(_bare(name, schema, definitions, level), schema)


def _bare(name: str, schema: Schema, definitions: Schema, level: int) -> Any:
    match schema.get("type"):
        case "string":
            return _FORMATS.get(schema.get("format", ""), str)
        case "array":
            return list[_kind(name, schema.get("items"), definitions, level + 1)]  # type: ignore[misc]  # known only here
        case "object" if "properties" in schema:
            fields: dict[str, Any] = _members(name, schema, definitions, level)
            return create_model(class_name(name), __config__=FROZEN, **fields)
        case "object":
            members = schema.get("additionalProperties")
            return dict[str, _kind(name, members, definitions, level + 1)]  # type: ignore[misc]  # known only here
        case str() as plain:
            return _PLAIN.get(plain, Any)
    return Any


def _bounded(kind: Any, schema: Schema) -> Any:
    bounds = {word: schema[name] for name, word in _BOUNDS.items() if name in schema}
    return Annotated[kind, Field(**bounds)] if bounds and kind is not Any else kind
