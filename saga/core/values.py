"""`@value`: the one way to make a class of values, slotted and never changed once it is made.

The fields are frozen for the type checker and free at run time: the guard of a frozen dataclass is
four fifths of what it costs to make one, and a replay makes several for each entry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform, overload

T = TypeVar("T")


@overload
def value(cls: type[T], /) -> type[T]: ...
@overload
def value(*, kw_only: bool = False) -> Callable[[type[T]], type[T]]: ...
@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(
    cls: type[T] | None = None, /, *, kw_only: bool = False
) -> type[T] | Callable[[type[T]], type[T]]:
    """Make *cls* a class of values: equal by its fields, and hashable where they are."""
    # Safe: nothing changes a value, so its hash stays what it was.
    decorate = dataclass(slots=True, kw_only=kw_only, unsafe_hash=True)
    return decorate if cls is None else decorate(cls)
