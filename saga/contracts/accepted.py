"""What was accepted once is accepted again, however strict its contract has become since.

A history holds what was accepted. Where its contracts refuse that today, it is read by their types
alone: without limits, patterns and validators. New messages never come this way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, Final, TypeVar

from pydantic import BaseModel, TypeAdapter
from pydantic_core import CoreSchema, SchemaValidator
from typing_extensions import override

Model = TypeVar("Model", bound=BaseModel)
T = TypeVar("T")

ADAPTERS_MAX = 1024
_RULES: Final = frozenset(
    {
        "gt",
        "ge",
        "lt",
        "le",
        "multiple_of",
        "min_length",
        "max_length",
        "pattern",
        "max_digits",
        "decimal_places",
        "now_op",
        "version",
        "allowed_schemes",
        "str_min_length",
        "str_max_length",
        "extra_fields_behavior",
    }
)
"""What a schema says beside its types, and what a model's configuration does."""
_PARTS: Final = frozenset(
    {
        "schema",
        "items_schema",
        "keys_schema",
        "values_schema",
        "choices",
        "fields",
        "definitions",
        "config",
        "steps",
        "json_schema",
        "python_schema",
        "lax_schema",
        "strict_schema",
        "extras_schema",
    }
)
_VALIDATED: Final = frozenset({"function-before", "function-after", "function-wrap"})

_accepted: ContextVar[Callable[[BaseModel], bool] | None] = ContextVar("accepted", default=None)


def read_accepted(model: type[Model], payload: str) -> Model:
    """The model of an accepted payload, by its types alone; ValidationError where they changed."""
    read: Model = _by_types(model).validate_json(payload)
    return read


def read_accepted_as(adapter: TypeAdapter[T], payload: str) -> T:
    """What *adapter* makes of an accepted payload, by its types alone."""
    read: T = _by_types_of(adapter).validate_json(payload)
    return read


class Accepting(AbstractContextManager[None]):
    """While it is open, a message that its contract refuses may be made if it *is_accepted*."""

    def __init__(self, is_accepted: Callable[[BaseModel], bool]) -> None:
        self._is_accepted = is_accepted

    @override
    def __enter__(self) -> None:
        self._token = _accepted.set(self._is_accepted)

    @override
    def __exit__(self, *_: object) -> None:
        _accepted.reset(self._token)


def make_accepted(made: BaseModel, values: Mapping[str, Any]) -> bool:
    """Fill *made*, which its contract refuses, by its types alone; False if it was not accepted."""
    is_accepted = _accepted.get()
    if is_accepted is None:
        return False
    try:
        _by_types(type(made)).validate_python(dict(values), self_instance=made)
        return is_accepted(made)
    except Exception:  # noqa: BLE001  # whatever is wrong with it, its own refusal says it better
        return False


@lru_cache(maxsize=ADAPTERS_MAX)
def _by_types(model: type[BaseModel]) -> SchemaValidator:
    return _validator(model.__pydantic_core_schema__)


@lru_cache(maxsize=ADAPTERS_MAX)
def _by_types_of(adapter: TypeAdapter[Any]) -> SchemaValidator:
    return _validator(adapter.core_schema)


def _validator(schema: CoreSchema) -> SchemaValidator:
    types = _types_of(schema)
    try:
        # Models within a model have validators of their own already, with all their rules.
        return SchemaValidator(types, _use_prebuilt=False)
    except TypeError:  # pydantic 2.11 has no such option
        return SchemaValidator(types)


def _types_of(schema: Any) -> Any:
    """A copy of a schema, or of a part of one, with its types only."""
    if isinstance(schema, (list, tuple)):
        return type(schema)(map(_types_of, schema))
    if not isinstance(schema, dict):
        return schema  # the label of a choice
    if schema.get("type") in _VALIDATED:
        inner = _types_of(schema["schema"])
        # Others may refer to it by the name of the whole.
        return {**inner, "ref": schema["ref"]} if "ref" in schema else inner
    kept = {name: part for name, part in schema.items() if name not in _RULES}
    for name in _PARTS & kept.keys():
        part = kept[name]
        is_by_name = isinstance(part, dict) and name in ("fields", "choices")
        kept[name] = (
            {key: _types_of(each) for key, each in part.items()} if is_by_name else _types_of(part)
        )
    return kept
