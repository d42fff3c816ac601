"""Models as text, and again as models that no code can tell from those; for snapshots.

A model may hold what JSON does not give again: another type under `Any`, a private attribute, a
time zone with rules. So each text is read at once and compared, down to the types.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import BaseModel

from saga.authoring.seclusion import secluded
from saga.users_code import is_ours

M = TypeVar("M", bound=BaseModel)


class NoData(Exception):
    """Raised where something cannot be told as text: there is no snapshot then."""


def to_text(model: BaseModel) -> str:
    """*model* as `from_text` gives it again.

    Raises:
        NoData: it would be another one.
    """
    try:
        with secluded():
            text = model.model_dump_json(exclude_unset=True, by_alias=True, warnings="error")
            again = from_text(type(model), text)
            is_same = is_exactly(model, again)
    except BaseException as error:  # users' code: validators, serializers, `__eq__`
        if is_ours(error):
            raise
        raise NoData(type(model).__name__) from error
    if not is_same:
        raise NoData(type(model).__name__)
    return text


def from_text(kind: type[M], text: str) -> M:
    return kind.model_validate_json(text)


def is_exactly(one: object, other: object) -> bool:
    """Whether nothing that code may look at tells two values apart."""
    if type(one) is not type(other):
        return False
    if isinstance(one, BaseModel):
        return _parts(one) == _parts(other) and all(map(is_exactly, _held(one), _held(other)))
    if isinstance(one, dict):
        assert isinstance(other, dict), other
        return _are_exactly(one, other) and _are_exactly(one.values(), other.values())
    if isinstance(one, (list, tuple)):
        assert isinstance(other, (list, tuple)), other
        return _are_exactly(one, other)
    if isinstance(one, (set, frozenset)):
        assert isinstance(other, (set, frozenset)), other
        return sorted(map(repr, one)) == sorted(map(repr, other))
    return (type(one) is str and one == other) or (repr(one) == repr(other) and bool(one == other))


def _are_exactly(some: Iterable[object], others: Iterable[object]) -> bool:
    some, others = list(some), list(others)
    return len(some) == len(others) and all(map(is_exactly, some, others))


def _parts(model: Any) -> tuple[object, ...]:  # a model of whatever class
    """Which fields it has, and which of them were given."""
    return (list(model.__dict__), model.__pydantic_fields_set__)


def _held(model: Any) -> tuple[object, ...]:  # as above
    return (model.__dict__, model.__pydantic_private__, model.__pydantic_extra__)
