"""Which events of other services reach a running saga, by which key, and how early one may come."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

from saga.contracts import Contract, Event, Kind, business_key, contract_of
from saga.contracts.keys import check_key_type, key_text
from saga.core.durations import Duration, duration_us
from saga.core.values import value
from saga.errors import DefinitionError

EARLY_DEFAULT = "10s"
KeySpec = str | Callable[[Any], Any]


@value(kw_only=True)
class Listening:
    """*early_us*: how long an event waits for a saga that is not there yet; 0: not at all."""

    event: type[Event]
    key: KeySpec | None
    early_us: int

    @property
    def contract(self) -> Contract:
        return contract_of(self.event)

    def key_of(self, event: Event, own_key: str | None) -> str | None:
        """The business key of the saga that *event* concerns; None where it concerns nobody.

        *own_key* is what its contract's key field says. Raises ValueError where the key is none.
        """
        if self.key is None:
            return business_key(event) if own_key is None else own_key
        key = self.key(event) if callable(self.key) else getattr(event, self.key)
        return None if key is None else key_text(key)


def on(
    event: type[Event], *, key: KeySpec | None = None, early: Duration | None = EARLY_DEFAULT
) -> Listening:
    """What `@saga(listens=…)` takes where the event's own key is not the saga's.

    Args:
        event: an event of another service.
        key: a field name or a function of the event; by default the event's own key. An event for
            which it gives None concerns nobody.
        early: how long an event waits for a saga that is not there yet; None: not at all.

    Raises:
        DefinitionError: it cannot work as it is written; names file and line.
    """
    caller = sys._getframe(1)  # noqa: SLF001  # the place that the message names
    try:
        return _listening(event, key, early)
    except DefinitionError as error:
        where = error.where or f"{caller.f_code.co_filename}:{caller.f_lineno}"
        raise DefinitionError(error.problem, where=where) from None


def listenings(listens: object) -> tuple[Listening, ...]:
    """What `listens=` says: event classes, and what `on` gives; one of them, or several."""
    each = listens if isinstance(listens, Iterable) and not isinstance(listens, type) else [listens]
    return tuple(
        one if isinstance(one, Listening) else _listening(one, None, EARLY_DEFAULT) for one in each
    )


def check_key_field(event: type[Event], key: KeySpec | None) -> None:
    """Refuse a field as a key whose values have no text, or several."""
    if isinstance(key, str):
        try:
            check_key_type(event.model_fields[key].annotation, key)
        except DefinitionError as error:
            raise DefinitionError(f"{event.__name__} {error.problem}") from None


def _listening(event: Any, key: KeySpec | None, early: Duration | None) -> Listening:
    if not (isinstance(event, type) and issubclass(event, Event)):
        raise DefinitionError(f"listens to {event!r:.100}, which is no Event class")
    contract = contract_of(event)
    if contract.kind is not Kind.EVENT:
        raise DefinitionError(f"listens to {event.__name__}, which is no fact")
    if isinstance(key, str) and key not in event.model_fields:
        known = ", ".join(event.model_fields) or "it has none"
        raise DefinitionError(
            f"listens to {event.__name__} by key {key!r}, which is none of its fields: {known}"
        )
    if not (key is None or isinstance(key, str) or callable(key)):
        raise DefinitionError(
            f"listens to {event.__name__} by key {key!r:.100}: expected a field name or a function"
        )
    if key is None and contract.key is None:
        raise DefinitionError(
            f"listens to {event.__name__}, which names no key: "
            f"write on({event.__name__}, key=…), or give one to the event (key=…)"
        )
    if event.__pydantic_complete__:
        check_key_field(event, key)
    try:
        early_us = 0 if early is None else duration_us(early)
    except ValueError as error:
        raise DefinitionError(f"listens to {event.__name__}, early: {error}") from None
    return Listening(event=event, key=key, early_us=early_us)
