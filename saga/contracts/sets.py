"""Sets are refused wherever they hide: they have no order, and a message must have one form only.

Their order differs from process to process. So would the JSON, and a saga that was rebuilt in
another one would decide otherwise than its history says. Types are looked at when a class is made;
values only where types leave open what may be there, or where a set became a list on the way in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from types import NoneType
from typing import Any, Final

from pydantic import BaseModel

from saga.contracts.json_text import UnreadableCode, shortened
from saga.errors import MalformedMessage

ADVICE: Final = "sets have no order, and a message must have one form only; use a tuple"
_SETS: Final = frozenset({"set", "frozenset"})
_OPEN: Final = frozenset({"any", "is-instance", "function-plain", "generator", "callable", "json"})
_FUNCTIONS: Final = frozenset({"function-plain", "function-wrap"})
_PARTS: Final = (
    *("schema", "items_schema", "keys_schema", "values_schema", "choices", "fields", "steps"),
    *("arguments_schema", "lax_schema", "strict_schema", "json_schema", "python_schema"),
    *("extras_schema", "computed_fields", "return_schema", "serialization"),
)
"""Where a schema of pydantic's core has other schemas; a definition is followed by its name."""
_PLAIN: Final = frozenset({str, int, float, bool, NoneType})
_DEPTH_MAX: Final = 200
"""Of values: JSON that is deeper is refused as such."""


def set_in_type(model: type[BaseModel]) -> str | None:
    """Which field of a model has a set in it, such as `lines.tags`; None where none has."""
    nodes = _nodes(model.__pydantic_core_schema__, "", {}, set())
    return next((path for path, node in nodes if node.get("type") in _SETS), None)


def is_open(model: type[BaseModel]) -> bool:
    """Whether the types of a model leave open what its values are, or how they are written."""
    return any(
        node.get("type") in _OPEN or _is_written_by_function(node)
        for _, node in _nodes(model.__pydantic_core_schema__, "", {}, set())
    )


def set_in_value(value: object, path: str = "", depth: int = 0) -> str | None:
    """Where a value holds a set, such as `lines.0.tags`; None where it holds none."""
    if type(value) in _PLAIN:
        return None
    if isinstance(value, (set, frozenset)):
        return path or "its value"
    if depth == _DEPTH_MAX:
        return None
    for name, inner in _values(value):
        if (found := set_in_value(inner, f"{path}.{name}".lstrip("."), depth + 1)) is not None:
            return found
    return None


def refuse_sets(model: BaseModel, values: object) -> None:
    """Refuse a message that holds a set, where its *values* are as they are to be written."""
    if (path := set_in_value(values)) is not None:
        _refuse(f"{type(model).__qualname__} holds a set in {path!r}")


def refuse_lost_sets(model: BaseModel, given: Mapping[str, object]) -> None:
    """Refuse a set that became a list or tuple, in whatever order, when *model* was made of it."""
    for value in given.values():
        # Written out: this is asked of every message that has more than texts and numbers.
        if type(value) not in _PLAIN and not _is_row_of_plain(value):
            break
    else:
        return
    path = set_in_value(given)
    if path is not None and set_in_value(model.__dict__) is None:
        _refuse(f"{type(model).__qualname__} is given a set for {path!r}")


def _is_row_of_plain(value: object) -> bool:
    if type(value) is not tuple and type(value) is not list:
        return False
    return _PLAIN.issuperset(map(type, value))


def _refuse(problem: str) -> None:
    raise MalformedMessage(UnreadableCode.SCHEMA.value, shortened(f"{problem}: {ADVICE}"))


def _values(value: object) -> Iterator[tuple[object, object]]:
    match value:
        case Mapping():
            yield from value.items()
        case list() | tuple():
            yield from enumerate(value)
        case BaseModel():
            yield from value
        case _ if is_dataclass(value) and not isinstance(value, type):
            yield from ((field.name, getattr(value, field.name, None)) for field in fields(value))


def _is_written_by_function(node: Mapping[str, Any]) -> bool:
    written = node.get("serialization")
    return isinstance(written, dict) and str(written.get("type")) in _FUNCTIONS


def _nodes(
    schema: object, path: str, known: dict[str, Any], seen: set[tuple[str, str]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each schema within a schema, with the field that it is about."""
    if isinstance(schema, (list, tuple)):
        for part in schema:
            yield from _nodes(part, path, known, seen)
    if not isinstance(schema, dict):
        return
    if schema.get("type") == "definitions":
        known.update({each["ref"]: each for each in schema["definitions"]})
    if schema.get("type") == "definition-ref":
        name = schema["schema_ref"]
        if (name, "") not in seen:
            seen.add((name, ""))
            yield from _nodes(known.get(name), path, known, seen)
        return
    if isinstance(schema.get("type"), str):
        yield path, schema
    path = _below(path, schema.get("name", schema.get("property_name")))
    for part in _PARTS:
        inner = schema.get(part)
        if isinstance(inner, dict) and part in ("fields", "choices"):
            for name, each in inner.items():
                yield from _nodes(
                    each, _below(path, name) if part == "fields" else path, known, seen
                )
        else:
            yield from _nodes(inner, path, known, seen)


def _below(path: str, name: object) -> str:
    return f"{path}.{name}".lstrip(".") if isinstance(name, str) else path
