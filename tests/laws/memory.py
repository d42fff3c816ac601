"""All that the code of a saga knows, as text to compare: where its coroutines stand, with what.

Two programs of one history may decide alike for long, although one remembers what the other does
not. So all objects are read that a program reaches, with the variables of its coroutines.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum
from functools import cache
from types import (
    AsyncGeneratorType,
    BuiltinFunctionType,
    CodeType,
    CoroutineType,
    FunctionType,
    GeneratorType,
    MethodType,
    ModuleType,
)
from typing import Any, Final
from weakref import ref

from pydantic import BaseModel

from saga.authoring.functions.calls import NextCall
from saga.authoring.functions.scheduler import Scheduler
from saga.authoring.functions.unseen import Unseen
from saga.contracts import ContractRegistry
from saga.core.pauses import held_by
from saga.core.state import Pause, SagaState

_ATOMS: Final = (str, int, float, bytes, type(None), Enum)
_NAMED: Final = (type, FunctionType, BuiltinFunctionType, ModuleType, CodeType)
_IN_A_TURN: Final[dict[type, frozenset[str]]] = {
    # What is of use in the turn at hand only, and what was looked at last.
    Scheduler: frozenset({"commands", "running"}),
    Unseen: frozenset({"_seen", "_surfaced", "_told"}),
    NextCall: frozenset({"read"}),
    Pause: frozenset({"turn"}),
}
_OF_ALL: Final = frozenset({"patches", "_abc_impl"})
_LISTS: Final = frozenset({list, tuple, deque})
_SETS: Final = frozenset({set, frozenset})
_NOTHING: Final[dict[str, Any]] = {}


def remembered(state: SagaState) -> list[str]:
    """What the program of a saga knows and is still to be told, a line for each object.

    What can be told by a snapshot is read from that: the rest of such a program is made when asked.
    """
    program = held_by(state)
    known = None if program is None else program.snapshot()
    told = () if state.late is None else state.late
    roots = [program if known is None else None, list(told), state.pause]
    return [json.dumps(known), *_Reader().read(roots)]


class _Reader:
    """Gives each object a number where it is met first, and a line."""

    def __init__(self) -> None:
        self._numbers: dict[int, str] = {}
        self._kept: list[object] = []
        """All that have a number, so that none is that of an object that is gone."""

    def read(self, roots: list[object]) -> list[str]:
        lines = [self._line(roots)]
        lines += [self._line(each) for each in self._kept]  # it grows meanwhile
        return lines

    def _line(self, thing: Any) -> str:
        word, kind = self._word, type(thing)
        if kind in _LISTS:
            return " ".join([kind.__name__, *map(word, thing)])
        if kind is dict:
            return " ".join(["dict", *[f"{word(key)}={word(each)}" for key, each in thing.items()]])
        if kind in _SETS:
            return " ".join(["set", *sorted(map(word, thing))])
        return " ".join([kind.__name__, *[f"{name}={word(each)}" for name, each in _parts(thing)]])

    def _word(self, thing: Any) -> str:
        read_as = _read_as(type(thing))
        if read_as is _line_of:
            return f"({self._line(thing)})"
        if read_as is not None:
            return read_as(thing)
        number = self._numbers.get(id(thing))
        if number is None:
            number = self._numbers[id(thing)] = f"#{len(self._numbers)}"
            self._kept.append(thing)
        return number


def _line_of(_: object) -> str:
    """Stands for what is read where it is met, as two of it are one if they say the same."""
    raise AssertionError


def _name_of(thing: Any) -> str:
    return str(getattr(thing, "__qualname__", thing))


def _kind_of(thing: object) -> str:
    return type(thing).__name__


@cache
def _read_as(kind: type) -> Callable[[Any], str] | None:
    """How one of this kind is told in a word; None where it has a line of its own."""
    if issubclass(kind, _ATOMS):
        return repr
    if issubclass(kind, _NAMED):
        return _name_of
    if issubclass(kind, ContractRegistry) or kind.__module__.startswith("pydantic"):
        return _kind_of
    params = getattr(kind, "__dataclass_params__", None)
    is_value = params is not None and (params.frozen or params.unsafe_hash)
    return _line_of if is_value or issubclass(kind, tuple) else None


def _parts(thing: Any) -> Iterator[tuple[str, object]]:
    """What an object is made of, by name."""
    match thing:
        case CoroutineType():
            yield from _of_frame(thing.cr_frame, thing.cr_await)
        case GeneratorType():
            yield from _of_frame(thing.gi_frame, thing.gi_yieldfrom)
        case AsyncGeneratorType():
            yield from _of_frame(thing.ag_frame, thing.ag_await)
        case MethodType():
            yield from (("of", thing.__self__), ("name", thing.__func__.__qualname__))
        case ref():
            yield "to", thing()
        case BaseModel():
            yield from vars(thing).items()
        case BaseException():
            yield "args", thing.args
            yield from vars(thing).items()
        case _:
            for name in _slots_of(type(thing)):
                value = getattr(thing, name, None)
                if name == "_generators" and value is not None:
                    value = [each for each in value.values() if each.open]  # keys are addresses
                yield name, value
            yield from getattr(thing, "__dict__", _NOTHING).items()


def _of_frame(frame: Any, awaited: object) -> Iterator[tuple[str, object]]:
    if frame is None:
        return
    yield from (("code", frame.f_code), ("at", frame.f_lasti))
    yield from sorted(frame.f_locals.items())
    yield "awaits", awaited


@cache
def _slots_of(kind: type) -> tuple[str, ...]:
    """The slots of a class that count."""
    slots = (vars(each).get("__slots__", ()) for each in kind.__mro__)
    listed = [name for each in slots for name in ((each,) if isinstance(each, str) else each)]
    hidden = _IN_A_TURN.get(kind, frozenset()) | _OF_ALL
    return tuple(
        name for name in dict.fromkeys(listed) if not name.startswith("__") and name not in hidden
    )
