"""From a record to a request: what was received, read and named, or why that is impossible.

Nothing here raises, whatever the bytes: a record that cannot be read is set aside with its reason,
and its neighbours go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import NamedTuple

from saga.contracts import (
    ContractModel,
    ContractRegistry,
    Kind,
    TopicNames,
    Unreadable,
    canonical_text,
    contract_of,
    decode,
    intent_done_name,
    intent_failed_name,
    wrong_headers,
)
from saga.contracts import cloudevents as ce
from saga.core.identity import Direction, SagaId, parse_intent_id
from saga.core.values import value
from saga.effects.effects import Effects, Handler
from saga.errors import DefinitionError
from saga.ports.bus import Inbound

_DIGEST_BYTES = 16


@value(kw_only=True)
class Route:
    """What is to be done with the records of one topic.

    *reply* is what the handler returns and *reply_contract* its name; None for nothing. *done* and
    *failed* are the contracts of the other answers. A fact has no answer at all.
    """

    contract_name: str
    handler: Handler
    is_intent: bool
    reply: type[ContractModel] | None
    reply_contract: str | None
    done: str
    failed: str


class Request(NamedTuple):
    """A record that was read.

    Requests of one *lane* are taken up one after another, in their order. *value* is the payload as
    it was received, which *digest* is of. *undoes* is the contract of the step to be undone.
    """

    inbound: Inbound
    route: Route
    model: ContractModel
    value: bytes
    digest: bytes
    message_id: str
    idempotency_key: str
    lane: str
    attempt: int
    saga_id: SagaId
    key: str
    direction: Direction
    undoes: str | None
    traceparent: str | None

    @property
    def do_key(self) -> str:
        """The idempotency key of doing the step."""
        return f"{self.lane}/do"

    def is_what(self, digest: bytes) -> bool:
        """Whether *digest* is of this payload, however its JSON is written."""
        if digest == self.digest:
            return True
        text = canonical_text(self.value)
        if isinstance(text, Unreadable):
            return False
        return digest == _digest(self.route.contract_name, text.encode())


class Rejected(NamedTuple):
    """A record that cannot become a request, and why."""

    inbound: Inbound
    reason: str
    message: str


def group_of(service: str, names: TopicNames) -> str:
    """The consumer group of an effect service: one for each environment and namespace."""
    return names.topic(f"effects.{service}")


class RequestReader:
    """Reads the records of one service's topics.

    Raises:
        DefinitionError: a handler takes a version that messages are never read as, or two handlers
            would take the same message.
    """

    def __init__(self, effects: Effects, registry: ContractRegistry, names: TopicNames) -> None:
        self._registry = registry
        self.routes: Mapping[str, Route] = {
            names.topic(name): route
            for handlers in (effects.intents, effects.facts)
            for handler in handlers.values()
            for name, route in _routes(handler, registry)
        }

    def read(self, inbound: Inbound) -> Request | Rejected:
        """The request in *inbound*."""
        route = self.routes.get(inbound.topic)
        if route is None:
            return Rejected(inbound, "unknown_topic", f"nobody here handles {inbound.topic}")
        attributes, value = ce.read_record(inbound.headers, inbound.value)
        name = route.contract_name
        found = wrong_headers(name, attributes) or decode(self._registry, name, value)
        if isinstance(found, Unreadable):
            return Rejected(inbound, found.code.value, found.message)
        assert value is not None, "a record without value is unreadable"
        try:
            key = (inbound.key or b"").decode()
        except UnicodeDecodeError as error:
            return Rejected(inbound, "bad_key", f"byte {error.start} of the key is not UTF-8")
        headers = attributes.values
        if not route.is_intent:
            return _fact(inbound, route, (found.model, value, key), headers)
        if not key:
            return Rejected(
                inbound, "no_key", "an intent's key is its saga's business key; it has none"
            )
        return _intent(inbound, route, (found.model, value, key), headers)


def _intent(
    inbound: Inbound,
    route: Route,
    content: tuple[ContractModel, bytes, str],
    headers: Mapping[str, str],
) -> Request | Rejected:
    model, value, key = content
    intent_id = headers.get(ce.ID)
    if not intent_id:
        return Rejected(inbound, "no_intent_id", f"the header {ce.ID} is missing or empty")
    name = parse_intent_id(intent_id)
    if name is None:
        said = f"{intent_id[:100]!r} is no intent id: {{saga id}}/{{step}}/{{do|undo}}/{{attempt}}"
        return Rejected(inbound, "bad_intent_id", said)
    idempotency_key = intent_id.rpartition("/")[0]
    return Request(
        inbound,
        route,
        model,
        value,
        _digest(route.contract_name, value),
        intent_id,
        idempotency_key,
        idempotency_key.rpartition("/")[0],
        name.attempt,
        name.saga_id,
        key,
        name.direction,
        headers.get(ce.UNDOES) or None,
        headers.get(ce.TRACEPARENT) or None,
    )


def _fact(
    inbound: Inbound,
    route: Route,
    content: tuple[ContractModel, bytes, str],
    headers: Mapping[str, str],
) -> Request:
    """A fact is known by source and id; one without an id by its place."""
    model, value, key = content
    event_id = headers.get(ce.ID) or f"{inbound.topic}/{inbound.partition}/{inbound.offset}"
    subject = headers.get(ce.SUBJECT, "")
    return Request(
        inbound,
        route,
        model,
        value,
        _digest(route.contract_name, value),
        event_id,
        f"fact/{headers.get(ce.SOURCE, '')}/{event_id}",
        f"fact/{inbound.topic}/{inbound.partition}/{key}",
        1,
        SagaId(subject),
        key,
        Direction.DO,
        None,
        headers.get(ce.TRACEPARENT) or None,
    )


def _routes(handler: Handler, registry: ContractRegistry) -> list[tuple[str, Route]]:
    """The topics whose messages become what *handler* takes: its contract's, and older
    versions'.
    """
    contract = handler.contract
    current = registry.current(contract.contract_name)
    if current is not contract:
        raise DefinitionError(
            f"{handler.name} handles {contract.contract_name}, whose messages are read as"
            f" {current.contract_name}: handle {current.model.__qualname__}",
            where=handler.where,
        )
    reply = contract.reply
    return [
        (
            name,
            Route(
                contract_name=name,
                handler=handler,
                is_intent=contract.kind is Kind.INTENT,
                reply=reply,
                reply_contract=None if reply is None else contract_of(reply).contract_name,
                done=intent_done_name(contract.domain),
                failed=intent_failed_name(contract.domain),
            ),
        )
        for name in registry.names_read_as(contract.contract_name)
    ]


def _digest(contract_name: str, value: bytes) -> bytes:
    # Blanks between contract and payload keep the two apart; no contract's name has any.
    return blake2b(b"%b %b" % (contract_name.encode(), value), digest_size=_DIGEST_BYTES).digest()
