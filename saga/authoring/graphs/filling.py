"""Messages made of others by field name, and of what a `with` gives beside."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import orjson
from pydantic import BaseModel, JsonValue
from pydantic_core import to_jsonable_python

from saga.authoring.graphs.expressions import evaluate
from saga.authoring.graphs.plan import Computed, Filling, Given, Items, Members, Plain
from saga.authoring.mapping import fill
from saga.contracts import ContractModel, encode

Names = Mapping[str, JsonValue]


def json_of(model: BaseModel) -> JsonValue:
    """What expressions see of a message."""
    assert isinstance(model, ContractModel), type(model)
    said: JsonValue = orjson.loads(encode(model))
    return said


def made(filling: Filling, names: Names, *sources: BaseModel | JsonValue) -> ContractModel:
    """The message: fields of the sources by name, a later one wins, and over them what is given.

    Raises:
        ValidationError: a value is not what its field takes.
    """
    model = filling.model
    first = sources[0]
    if not filling.given and len(sources) == 1 and isinstance(first, BaseModel):
        return fill(model, first)
    values: dict[str, Any] = {}
    for source in sources:
        if isinstance(source, BaseModel):
            values |= {name: getattr(source, name) for name in _shared(model, type(source))}
        elif isinstance(source, dict):
            values |= {name: source[name] for name in model.model_fields if name in source}
    values |= {name: value_of(given, names) for name, given in filling.given}
    return model(**values) if _is_lax(model) else _read(model, values)


def value_of(given: Given, names: Names) -> JsonValue:
    match given:
        case Plain(value=value):
            return value
        case Computed(template=template):
            return evaluate(template, names)
        case Items(items=items):
            return [value_of(each, names) for each in items]
        case Members(members=members):
            return {name: value_of(each, names) for name, each in members}


def _read(model: type[ContractModel], values: Mapping[str, Any]) -> ContractModel:
    """A strict model takes the text of a date only from JSON."""
    return model.model_validate_json(orjson.dumps(to_jsonable_python(values)))


@lru_cache(maxsize=4096)
def _shared(model: type[BaseModel], source: type[BaseModel]) -> tuple[str, ...]:
    return tuple(name for name in model.model_fields if name in source.model_fields)


@lru_cache(maxsize=4096)
def _is_lax(model: type[BaseModel]) -> bool:
    return model.model_config.get("strict") is not True
