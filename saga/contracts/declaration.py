"""What a class must be to declare a contract: each rule refuses with a sentence, file and line.

The rules know nothing of events and intents; `saga.contracts.models` applies them while a class is
being made.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import get_args, get_origin

from pydantic import BaseModel

from saga.contracts.contract import INTENT_DONE, INTENT_FAILED, NAME_PART
from saga.errors import DefinitionError

_CONFIG_PROMISED: Mapping[str, object] = {
    "frozen": True,
    "extra": "ignore",
    "allow_inf_nan": False,
    "ser_json_inf_nan": "constants",
}
_MACHINERY = ("pydantic.", "abc.", "saga.contracts.")
"""Packages whose frames lie between a class statement and its rules."""


def defined_at() -> str:
    """`file:line` of the class statement that is being executed."""
    frame = sys._getframe(1)  # noqa: SLF001  # the caller's place is the point of the message
    while frame.f_back is not None:
        module = frame.f_globals.get("__name__", "")
        if not f"{module}.".startswith(_MACHINERY):
            break
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def refuse_unknown(cls: type[BaseModel], unknown: dict[str, object], where: str) -> None:
    """Refuse class keywords that mean nothing."""
    if unknown:
        raise DefinitionError(
            f"{cls.__qualname__} has the class keyword {', '.join(unknown)}: expected topic and"
            " version, and for events key",
            where=where,
        )


def check_config(cls: type[BaseModel], where: str) -> None:
    """Refuse a configuration under which a contract would not keep its promises."""
    for option, promised in _CONFIG_PROMISED.items():
        if cls.model_config.get(option) != promised:
            raise DefinitionError(
                f"{cls.__qualname__} sets {option}={cls.model_config.get(option)!r} in its"
                f" configuration; contracts are always {option}={promised!r}",
                where=where,
            )


def topic_parts(cls: type[BaseModel], topic: object, where: str) -> tuple[str, str]:
    """Domain and name of `topic=`; refuse what is no legal name or one of the engine's."""
    domain, _, name = topic.partition(".") if isinstance(topic, str) else ("", "", "")
    if not (NAME_PART.fullmatch(domain) and NAME_PART.fullmatch(name)):
        raise DefinitionError(
            f'{cls.__qualname__} has topic={topic!r}: expected "<domain>.<name>", two parts of'
            ' small letters, digits and hyphens, for example "orders.order-placed"',
            where=where,
        )
    if name in (INTENT_DONE, INTENT_FAILED):
        raise DefinitionError(
            f"{cls.__qualname__} has topic={topic!r}: {INTENT_DONE!r} and {INTENT_FAILED!r} are"
            " the names of the replies that every domain has; choose another name",
            where=where,
        )
    return domain, name


def checked_version(cls: type[BaseModel], version: object, where: str) -> int:
    """The major version of `version=`."""
    if type(version) is not int or not 1 <= version < 10**6:
        raise DefinitionError(
            f"{cls.__qualname__} has version={version!r}: expected its major version,"
            " a whole number from 1 on",
            where=where,
        )
    return version


def checked_key(cls: type[BaseModel], key: object, where: str) -> str | None:
    """The field of `key=`, which must exist."""
    if key is None:
        return None
    if not isinstance(key, str) or key not in cls.model_fields:
        raise DefinitionError(
            f"{cls.__qualname__} has key={key!r}, which is none of its fields:"
            f" {', '.join(cls.model_fields) or 'it has none'}",
            where=where,
        )
    return key


def check_fields(cls: type[BaseModel], where: str | None) -> None:
    """Refuse sets: their order differs from process to process, so they have no canonical JSON."""
    seen: set[object] = set()

    def visit(annotation: object, path: str) -> None:
        kind = get_origin(annotation) or annotation
        if isinstance(kind, type) and issubclass(kind, AbstractSet):
            raise DefinitionError(
                f"{cls.__qualname__} has a set in {path!r}: sets have no order, and a message must"
                " have one form only; use a tuple",
                where=where,
            )
        for argument in get_args(annotation):
            visit(argument, path)
        if isinstance(kind, type) and issubclass(kind, BaseModel) and kind not in seen:
            seen.add(kind)
            for name, info in kind.model_fields.items():
                visit(info.annotation, f"{path}.{name}" if path else name)

    visit(cls, "")
