"""Messages between a saga and the world: known to the application, written, and read again."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from saga.authoring.mapping import fill_report
from saga.authoring.seclusion import secluded
from saga.contracts import (
    Contract,
    ContractRegistry,
    Event,
    contract_of,
    message_of,
    read,
    read_accepted_as,
)
from saga.core.events import EventReceived, Json, Message
from saga.core.program import Report
from saga.core.texts import storable
from saga.errors import DefinitionError

T = TypeVar("T")
RolledBack = type[Event] | Callable[[Any, Report], Event]
"""The outcome of a rolled-back saga: a class, filled by field name, or a function."""


def not_known(contract: Contract) -> DefinitionError:
    """What nobody has told the application of can be neither published nor read."""
    return DefinitionError(
        f"{contract.model.__name__} ({contract.contract_name}) is not known to the application: "
        f"add it to SagaApp(contracts=[…])"
    )


def outcome_message(registry: ContractRegistry, outcome: object) -> Message | None:
    """What a saga ends with; DefinitionError where it is neither an event that is known nor None.

    Another fact beside it, such as one that is published, is checked alike.
    """
    if outcome is None:
        return None
    if not isinstance(outcome, Event):
        raise DefinitionError(f"a saga's outcome is an Event or None, not {type(outcome).__name__}")
    contract = contract_of(outcome)
    if contract.contract_name not in registry:
        raise not_known(contract)
    return message_of(outcome)


def rolled_back_message(
    registry: ContractRegistry,
    rolled_back: RolledBack | None,
    trigger: BaseModel | None,
    report: Report,
) -> Message | None:
    """The outcome of a saga that began with *trigger* and is rolled back; None: it has none."""
    if rolled_back is None or trigger is None:
        return None
    if isinstance(rolled_back, type):
        return outcome_message(registry, fill_report(rolled_back, trigger, report))
    with secluded():
        outcome = rolled_back(trigger, report)
    return outcome_message(registry, outcome)


@lru_cache(maxsize=1024)
def adapter_of(model: type[T]) -> TypeAdapter[T]:
    """What reads the payloads of signals and updates as *model*."""
    return TypeAdapter(model)


def refusal_of_payload(adapter: TypeAdapter[Any], payload: Json) -> str | None:
    """Why the payload of a signal or update cannot be read; None where it can."""
    try:
        with secluded():
            adapter.validate_json(payload)
    except ValidationError as invalid:
        problem = invalid.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in problem["loc"]) or "payload"
        return storable(f"{place}: {problem['msg']}")
    except UnicodeEncodeError:
        return "payload: it is refused, with a text that is no UTF-8"
    return None


def read_payload(adapter: TypeAdapter[T], payload: Json) -> T:
    """What a wait takes: it was accepted, if not by today's model then by an earlier one."""
    try:
        return adapter.validate_json(payload)
    except Exception:  # noqa: BLE001  # validators are user code
        return read_accepted_as(adapter, payload)


def read_event(registry: ContractRegistry, received: EventReceived) -> BaseModel:
    """An event in its current version; it was accepted, if not by today's contract."""
    return read(registry, Message(received.contract, received.payload))
