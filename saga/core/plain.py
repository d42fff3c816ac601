"""Values of the core as JSON has them, written and read as the types of their fields say.

Facts and decisions have the plain form that histories give them. Of others each field is written
that differs from its default and is compared: what is not compared is worked out again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from operator import attrgetter
from types import NoneType, UnionType
from typing import Any, Final, NamedTuple, Union, get_args, get_origin, get_type_hints

from saga.core.events import Json, Message
from saga.core.history import NAME_OF, body_from_plain, body_to_plain
from saga.core.identity import SagaId

Turned = Callable[[Any], Any]


class Plain(NamedTuple):
    """How values of one type are written, and read again."""

    write: Turned
    read: Turned


def _same(value: object) -> object:
    return value


AS_IT_IS: Final = Plain(_same, _same)
_NO_SAGA: Final = SagaId("")


def plain_of(hint: Any) -> Plain:  # noqa: ANN401  # a type, as `typing` has it
    """How values of the type *hint* are written and read."""
    hint = getattr(hint, "__supertype__", hint)  # of a new type, such as an id
    origin, args = get_origin(hint), get_args(hint)
    if hint in {str, int, bool, None, NoneType}:
        return AS_IT_IS
    if origin in {UnionType, Union}:
        return _one_of([each for each in args if each is not NoneType])
    if origin in {dict, OrderedDict}:
        return _mapping(origin, *map(plain_of, args), is_object=_is_text(args[0]))
    if origin is tuple and args[1:] != (...,):
        return _row(tuple, args)
    if origin in {list, set, tuple}:
        return _listed(origin, plain_of(args[0]))
    if hint in NAME_OF:
        return _BODY
    if hint is Message:
        return Plain(lambda said: [said.contract, said.payload], lambda told: Message(*told))
    if issubclass(hint, Enum):
        return Plain(_same, {each.value: each for each in hint}.__getitem__)
    if is_dataclass(hint):
        return plain_object(hint)
    return _row(hint._make, get_type_hints(hint).values())  # a named tuple


def plain_object(kind: Any, **other: Plain) -> Plain:  # noqa: ANN401  # a dataclass
    """Those of a dataclass; how its fields *other* are written is said here."""
    hints = get_type_hints(kind)
    parts = {
        each.name: (each, other.get(each.name) or plain_of(hints[each.name]))
        for each in fields(kind)
        if each.compare
    }
    writers = [(name, plain.write, _usual(each)) for name, (each, plain) in parts.items()]
    assert len(parts) > 1, kind  # of one, what is got is no tuple
    held = attrgetter(*parts)
    # Most fields hold what they usually do, or what JSON has as it is.
    readers = [(name, plain.read) for name, (_, plain) in parts.items() if plain is not AS_IT_IS]
    later = frozenset(name for name, (each, _) in parts.items() if not each.init)

    def write(value: object) -> dict[str, Any]:
        return {
            name: write(given)
            for (name, write, usual), given in zip(writers, held(value), strict=True)
            if given is not usual and given != usual
        }

    def read(told: Mapping[str, Any]) -> Any:  # noqa: ANN401  # of that class
        values = dict(told)
        for name, read in readers:
            if name in values:
                values[name] = read(values[name])
        if later.isdisjoint(values):
            return kind(**values)
        made = kind(**{name: value for name, value in values.items() if name not in later})
        for name in later & values.keys():
            setattr(made, name, values[name])
        return made

    return Plain(write, read)


def _usual(each: Field[Any]) -> object:
    """What a field holds where it is not written; what equals nothing where it has no default."""
    if each.default is not MISSING:
        return each.default
    return object() if each.default_factory is MISSING else each.default_factory()


def _is_text(hint: object) -> bool:
    return getattr(hint, "__supertype__", hint) is str


def _one_of(kinds: list[Any]) -> Plain:
    """Of facts and decisions; of one kind or nothing; or of texts and rows."""
    if all(each in NAME_OF for each in kinds):
        plain = _BODY
    elif len(kinds) == 1:
        plain = plain_of(kinds[0])
    else:
        [row] = [plain_of(each) for each in kinds if not _is_text(each)]
        return Plain(_same, lambda told: told if isinstance(told, str) else row.read(told))
    if plain is AS_IT_IS:
        return plain
    write, read = plain
    return Plain(
        lambda value: None if value is None else write(value),
        lambda told: None if told is None else read(told),
    )


def _mapping(make: Any, key: Plain, value: Plain, *, is_object: bool) -> Plain:  # noqa: ANN401
    """An object where all keys are texts, else pairs; in the order that it has."""

    def write(given: Mapping[Any, Any]) -> object:
        pairs = ((key.write(name), value.write(each)) for name, each in given.items())
        return dict(pairs) if is_object else [*map(list, pairs)]

    def read(told: Any) -> Any:  # noqa: ANN401  # a mapping
        pairs = told.items() if is_object else told
        return make((key.read(name), value.read(each)) for name, each in pairs)

    return Plain(write, read)


def _listed(make: Callable[[Iterable[Any]], Any], each: Plain) -> Plain:
    in_order: Callable[[Iterable[Any]], list[Any]] = sorted if make is set else list
    return Plain(
        lambda given: in_order(map(each.write, given)), lambda told: make(map(each.read, told))
    )


def _row(make: Callable[[Iterable[Any]], Any], hints: Iterable[Any]) -> Plain:
    parts = [plain_of(hint) for hint in hints]

    def write(given: Iterable[Any]) -> list[Any]:
        return [each.write(value) for each, value in zip(parts, given, strict=True)]

    def read(told: Iterable[Any]) -> Any:  # noqa: ANN401  # a tuple
        return make([each.read(value) for each, value in zip(parts, told, strict=True)])

    return Plain(write, read)


def _keep(payload: Json) -> Json:
    return payload


_BODY: Final = Plain(
    lambda body: body_to_plain(body, _keep),
    lambda told: body_from_plain(_NO_SAGA, 0, told, _keep),
)
