"""The answer to an intent, as a record: a pure function of the intent and the inbox row.

That is why an answer sent again is the same, byte for byte, down to its time.
"""

from __future__ import annotations

from collections.abc import Iterable

from saga.contracts import TopicNames, canonical, intent_done_name, reply_contract_names
from saga.contracts.cloudevents import reply_headers
from saga.core.events import EMPTY_JSON, Json, ReplyOutcome
from saga.effects.request import Request, Route
from saga.ports.bus import Record
from saga.ports.effects_store import InboxRow


class Replies:
    """The answers of one service."""

    def __init__(self, service: str, names: TopicNames) -> None:
        self._names = names
        self._topics: dict[str, str] = {}
        self._source = f"/{names.env}/{names.namespace}/effects/{service}"

    def topics(self, routes: Iterable[Route]) -> frozenset[str]:
        """The topics on which the intents among *routes* are answered."""
        intents = {one.handler.contract for one in routes if one.is_intent}
        # `intent-done` in any case: an undo with nothing to undo is answered there.
        contracts = {name for intent in intents for name in reply_contract_names(intent)}
        contracts |= {intent_done_name(intent.domain) for intent in intents}
        return frozenset(self._names.topic(name) for name in contracts)

    def record(self, request: Request, row: InboxRow) -> Record | None:
        """What to publish; None where *request* is a fact, which nobody wants answered."""
        route = request.route
        if not route.is_intent:
            return None
        if row.outcome is ReplyOutcome.DONE:
            contract = row.contract or route.done
            payload = row.payload or EMPTY_JSON
        else:
            contract = route.failed
            payload = _failure(row)
        headers = reply_headers(
            intent_id=request.message_id,
            contract_name=contract,
            source=self._source,
            at=row.handled_at,
            saga_id=request.saga_id,
            traceparent=request.traceparent,
        )
        topic = self._topics.get(contract)
        if topic is None:  # not many: the replies of this service
            topic = self._topics[contract] = self._names.topic(contract)
        return Record(topic, request.inbound.key, payload.encode(), headers)


def _failure(row: InboxRow) -> Json:
    said = {"outcome": row.outcome.value, "code": row.code, "message": row.message}
    return canonical(said)
