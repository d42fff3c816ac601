"""Contracts that no Python class has: classes made of what a contract file says of them.

They are contracts like any others, so what is published, locked and documented of them is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from types import new_class
from typing import Any, Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict, create_model

from saga.authoring.graphs.file.mistakes import Mistake, MistakeCode, did_you_mean, shown
from saga.authoring.graphs.file.reading import Listed, Mapped, Member, Node, Scalar
from saga.contracts import ContractModel, Event, Intent, contract_of
from saga.errors import DefinitionError

FieldTypes = dict[str, Any]
TYPES: Final[Mapping[str, Any]] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "date": date,
    "datetime": datetime,
    "uuid": UUID,
    "any": Any,
}
FROZEN: Final = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


def fields_of(name: str, tree: Node, mistakes: list[Mistake]) -> dict[str, tuple[Any, Any]]:
    """The fields that a mapping says, as pydantic makes them: each a type and a default."""
    if not isinstance(tree, Mapped):
        return {}  # said elsewhere
    return {
        key: _field(class_name(f"{name}-{key}"), key, member, mistakes)
        for key, member in tree.members.items()
        if _is_fit(key, member, mistakes)
    }


def model_of(name: str, tree: Node, mistakes: list[Mistake]) -> type[BaseModel]:
    """The model of what a signal holds."""
    fields = fields_of(name, tree, mistakes)
    made: type[BaseModel] = create_model(class_name(name), __config__=FROZEN, **fields)  # type: ignore[call-overload]  # as pydantic's own documents have it
    return made


def event_of(
    domain: str, name: str, version: int, *, key: str | None, fields: Mapping[str, Any], where: str
) -> type[Event]:
    """The class of an event; DefinitionError where it can be none."""
    keywords: dict[str, Any] = {"topic": f"{domain}.{name}", "version": version, "key": key}
    made: type[Event] = _made(name, Event, keywords, fields, where)
    return made


def intent_of(
    domain: str,
    name: str,
    version: int,
    *,
    reply: type[Event] | None,
    fields: Mapping[str, Any],
    where: str,
) -> type[Intent[Any]]:
    """The class of an intent; DefinitionError where it can be none."""
    base = Intent[reply]  # type: ignore[valid-type]  # known only here
    keywords: dict[str, Any] = {"topic": f"{domain}.{name}", "version": version}
    made: type[Intent[Any]] = _made(name, base, keywords, fields, where)
    return made


def _made(
    name: str, base: Any, keywords: dict[str, Any], fields: Mapping[str, Any], where: str
) -> Any:
    def fill(namespace: dict[str, Any]) -> None:
        namespace["__module__"] = __name__
        namespace["__annotations__"] = {key: kind for key, (kind, _) in fields.items()}
        namespace.update({key: default for key, (_, default) in fields.items() if default != ...})

    try:
        made = new_class(class_name(name), (base,), keywords, fill)
    except DefinitionError as refusal:
        raise DefinitionError(refusal.problem, where=where) from None
    assert issubclass(made, ContractModel), made
    object.__setattr__(contract_of(made), "where", where)
    return made


def class_name(name: str) -> str:
    parts = name.replace("_", "-").replace(".", "-").replace(" ", "-").split("-")
    text = "".join(part[:1].upper() + part[1:] for part in parts)
    return "".join(each for each in text if each.isalnum()) or "Message"


def _is_fit(key: str, member: Member, mistakes: list[Mistake]) -> bool:
    problem = None
    if not key.isidentifier() or not key.isascii():
        problem = f"`{shown(key)}` is no field: expected a name as in Python"
    elif key.startswith(("_", "model_")) or hasattr(ContractModel, key):
        problem = f"`{key}` can be no field: it has a meaning of its own in Python"
    if problem is not None:
        mistakes.append(Mistake(member.place, problem, MistakeCode.WRONG_VALUE))
    return problem is None


def _field(name: str, key: str, member: Member, mistakes: list[Mistake]) -> tuple[Any, Any]:
    kind, is_optional = _kind(name, key, member.node, mistakes)
    return (
        (kind | None, None)
        if is_optional and kind is not Any
        else ((kind, None) if is_optional else (kind, ...))
    )


def _kind(name: str, key: str, node: Node, mistakes: list[Mistake]) -> tuple[Any, bool]:
    """The type of a field, and whether it may be missing."""
    match node:
        case Mapped():
            return model_of(name, node, mistakes), False
        case Listed(items=(item,)):
            return list[_within(name, key, item, mistakes)], False  # type: ignore[misc]  # known only here
        case Listed():
            _refuse(node, key, "a list has one type: write `[str]`", mistakes)
            return Any, False
        case Scalar(text=text):
            return _named(node, key, text, mistakes)


def _within(name: str, key: str, node: Node, mistakes: list[Mistake]) -> Any:
    kind, is_optional = _kind(name, key, node, mistakes)
    return kind | None if is_optional and kind is not Any else kind


def _named(node: Scalar, key: str, text: str, mistakes: list[Mistake]) -> tuple[Any, bool]:
    bare = text.removesuffix("?").strip()
    is_optional = text.endswith("?")
    depth = 0
    while bare.startswith("[") and bare.endswith("]"):
        bare, depth = bare[1:-1].strip(), depth + 1
    inner = bare.removesuffix("?")
    kind = TYPES.get(inner)
    if kind is None:
        hint = did_you_mean(inner, TYPES) or f": expected one of {', '.join(TYPES)}"
        _refuse(node, key, f"`{shown(text)}` is no type{hint}", mistakes)
        return Any, is_optional
    if bare.endswith("?") and depth and kind is not Any:
        kind = kind | None
    for _ in range(depth):
        kind = list[kind]  # type: ignore[valid-type]  # known only here
    return kind, is_optional


def _refuse(node: Node, key: str, why: str, mistakes: list[Mistake]) -> None:
    mistakes.append(Mistake(node.place, f"{key}: {why}", MistakeCode.WRONG_TYPE))


def is_declared(model: type[ContractModel]) -> bool:
    """Whether a file declares this contract, and no Python class."""
    return model.__module__ == __name__
