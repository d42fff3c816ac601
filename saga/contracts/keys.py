"""Business keys: which types may be one, the one text that each value has, and how long it may be.

The text is what JSON says of the value, without quotes: so a reader in any language, who knows the
payload alone, finds the same saga.
"""

from __future__ import annotations

import types
from datetime import date, datetime
from enum import Enum
from functools import lru_cache
from typing import Annotated, Any, Literal, NewType, Union, get_args, get_origin
from uuid import UUID

import orjson

from saga.core.identity import flaw_of_id
from saga.errors import DefinitionError

EXPECTED = "a str, int, UUID, date or StrEnum"
KEYS_MAX = 4_096
"""Keys remembered, as `SAGA_IDS_MAX` ids are; one that cannot be a key is not."""


def key_text(key: object) -> str:
    """The one text of a business key.

    Raises:
        ValueError: it is of a type that has none, is empty or too long, or cannot be stored.
    """
    return _checked(key if type(key) is str else _text(key))


def key_in(payload: str, field: str) -> str | None:
    """The business key that stands in the *field* of a payload; None where there is none."""
    key = orjson.loads(payload).get(field)
    if key is None or flaw_of_id(text := str(key)) is not None:
        return None
    return text


def check_key_type(annotation: object, name: str) -> None:
    """Refuse a field as a key whose values have no text, or several."""
    wrong = [kind for kind in _alternatives(annotation) if not _has_text(kind)]
    if wrong:
        shown = getattr(wrong[0], "__name__", wrong[0])
        raise DefinitionError(f"has the key {name!r} of type {shown}: expected {EXPECTED}")


@lru_cache(maxsize=KEYS_MAX)
def _checked(text: str) -> str:
    if (flaw := flaw_of_id(text)) is not None:
        raise ValueError(f"the business key {flaw}")
    return text


def _text(key: object) -> str:
    match key:
        case Enum() if isinstance(key, str):
            return str.__str__(key)
        case str():
            return str(key)
        case int() if _has_text(type(key)):
            return str(key)
        case UUID():
            return str(key)
        case date() if _has_text(type(key)):
            return key.isoformat()
        case _:
            raise ValueError(f"{type(key).__name__} is no business key: expected {EXPECTED}")


def _alternatives(annotation: Any) -> list[Any]:
    """The types of values that a field of this type may have; None is no key, and no harm."""
    if isinstance(annotation, NewType):
        return _alternatives(annotation.__supertype__)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _alternatives(arguments[0])
    if origin in (Union, types.UnionType):
        return [kind for each in arguments for kind in _alternatives(each)]
    if origin is Literal:
        return [type(each) for each in arguments]
    return [] if annotation in (None, type(None)) else [annotation]


def _has_text(kind: object) -> bool:
    if not isinstance(kind, type):
        return False
    if issubclass(kind, (str, UUID)):
        return True
    if issubclass(kind, int):
        return not issubclass(kind, (bool, Enum))
    return issubclass(kind, date) and not issubclass(kind, datetime)
