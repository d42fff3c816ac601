"""Upcasts: how a message of an older major version becomes one of a newer.

An upcast is a plain function from the old model to the new one. It goes up only, so chains cannot
be circular, and each version has one way up, so that a message can be read in one way only.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeGuard, TypeVar, get_type_hints

from saga.contracts.contract import Contract
from saga.contracts.models import ContractModel, contract_of
from saga.errors import DefinitionError

Upcaster = TypeVar("Upcaster", bound=Callable[[Any], ContractModel])


@dataclass(frozen=True, slots=True)
class Upcast:
    """One way up, and where it was written."""

    old: type[ContractModel]
    new: type[ContractModel]
    function: Callable[[Any], ContractModel]
    where: str


def upcast(function: Upcaster) -> Upcaster:
    """Join two versions of a contract: the decorated `(old) -> new` makes the newer of the older.

    Both are read from the annotations. The function is called when an older message is read, and
    must be pure; what it raises parks the message.

    Raises:
        DefinitionError: the annotations are no two versions of one contract, the newer last, or the
            older one already has another way up.
    """
    where = f"{function.__code__.co_filename}:{function.__code__.co_firstlineno}"
    caller = sys._getframe(1)  # noqa: SLF001  # annotations may name classes local to the caller
    old, new = _ends(function, caller.f_locals, where)
    before, after = contract_of(old), contract_of(new)
    _check_ends(function, before, after, where)
    known = old.__saga_upcast__
    if known is not None and not _is_same_definition(known.function, function):
        raise DefinitionError(
            f"{before.contract_name} already has a way up, {known.function.__qualname__}"
            f" ({known.where}); a message can be read in one way only",
            where=where,
        )
    if known is not None:
        known.new.__saga_upcasts_from__ = tuple(
            one for one in known.new.__saga_upcasts_from__ if one is not known
        )
    made = Upcast(old=old, new=new, function=function, where=where)
    old.__saga_upcast__ = made
    new.__saga_upcasts_from__ = (*new.__saga_upcasts_from__, made)
    return function


def _ends(
    function: Callable[[Any], ContractModel], names: dict[str, Any], where: str
) -> tuple[type[ContractModel], type[ContractModel]]:
    try:
        hints = get_type_hints(function, localns=names)
    except NameError as error:
        raise DefinitionError(
            f"the annotations of upcast {function.__qualname__} cannot be resolved: {error}",
            where=where,
        ) from error
    parameters = list(inspect.signature(function).parameters.values())
    old = hints.get(parameters[0].name) if len(parameters) == 1 else None
    new = hints.get("return")
    if not (_is_contract(old) and _is_contract(new)):
        raise DefinitionError(
            f"upcast {function.__qualname__} must be annotated (old) -> new with two contract"
            " classes, and nothing else",
            where=where,
        )
    if inspect.iscoroutinefunction(function):
        raise DefinitionError(
            f"upcast {function.__qualname__} must be a plain function, not async", where=where
        )
    return old, new


def _is_contract(model: Any) -> TypeGuard[type[ContractModel]]:
    return (
        isinstance(model, type)
        and issubclass(model, ContractModel)
        and model.__dict__.get("__saga_contract__") is not None
    )


def _check_ends(
    function: Callable[[Any], ContractModel], before: Contract, after: Contract, where: str
) -> None:
    if (before.domain, before.kind, before.name) != (after.domain, after.kind, after.name):
        raise DefinitionError(
            f"upcast {function.__qualname__} goes from {before.contract_name} to"
            f" {after.contract_name}: both must be versions of one topic",
            where=where,
        )
    if before.version >= after.version:
        raise DefinitionError(
            f"upcast {function.__qualname__} goes from version {before.version} to"
            f" {after.version}: it must go up",
            where=where,
        )


def _is_same_definition(one: Callable[..., Any], other: Callable[..., Any]) -> bool:
    return (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)
