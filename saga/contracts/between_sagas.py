"""What sagas say to each other: the contracts of children, and texts of what is recorded.

A child tells its parent that it has begun and how it has ended; a command is what a saga asks of
another. The texts are pure functions of entries, so they are the same whenever they are published.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

from saga.contracts.json_text import canonical
from saga.contracts.models import CONTRACT_NAME_CHARS_MAX, Event, contract_of
from saga.contracts.registry import Name, Told, findable
from saga.core import events
from saga.core.events import ChildStatus, Json, Message
from saga.core.identity import ID_BYTES_MAX, IntentId, SagaId
from saga.core.intents import CommandSent

BusinessKey = Annotated[str, Field(min_length=1, max_length=ID_BYTES_MAX), AfterValidator(findable)]


class ChildStarted(Event, topic="saga.child-started", version=1):
    """A saga has begun as the child of the step whose intent is its cause."""

    saga_id: Name
    definition: Name
    key: BusinessKey


class ChildOutcome(BaseModel):
    """The event with which a child ended."""

    model_config = ConfigDict(frozen=True)
    contract: Annotated[str, Field(max_length=CONTRACT_NAME_CHARS_MAX), AfterValidator(findable)]
    payload: JsonValue


class ChildEnded(Event, topic="saga.child-ended", version=1):
    """How the child of a step has ended, or what came of the intent to undo it.

    `refused`: there is no child (code `key_taken`), or it cannot be undone any more.
    """

    status: ChildStatus
    saga_id: Name | None = None
    definition: Name | None = None
    key: BusinessKey | None = None
    outcome: ChildOutcome | None = None
    reason: Told | None = None
    code: Told | None = None
    failed_step: Told | None = None
    residue: tuple[Told, ...] = ()


CHILD_STARTED: Final = contract_of(ChildStarted).contract_name
CHILD_ENDED: Final = contract_of(ChildEnded).contract_name
CHILD_CONTRACTS: Final = frozenset({CHILD_STARTED, CHILD_ENDED})


def child_fact(
    intent_id: IntentId, said: ChildStarted | ChildEnded
) -> events.ChildStarted | events.ChildEnded:
    """What a child says, as the fact that it is for its parent."""
    if isinstance(said, ChildStarted):
        return events.ChildStarted(
            intent_id=intent_id,
            saga_id=SagaId(said.saga_id),
            definition=said.definition,
            key=said.key,
        )
    outcome = said.outcome
    return events.ChildEnded(
        intent_id=intent_id,
        status=said.status,
        saga_id=None if said.saga_id is None else SagaId(said.saga_id),
        definition=said.definition,
        key=said.key,
        outcome=None if outcome is None else Message(outcome.contract, canonical(outcome.payload)),
        reason=said.reason,
        code=said.code,
        failed_step=said.failed_step,
        residue=said.residue,
    )


def child_text(fact: events.ChildStarted | events.ChildEnded) -> Json:
    """The JSON by which a child says this to its parent; the intent is its cause, no part of it."""
    if isinstance(fact, events.ChildStarted):
        return _json({"saga_id": fact.saga_id, "definition": fact.definition, "key": fact.key})
    outcome = fact.outcome
    return _json(
        {
            "status": fact.status.value,
            "saga_id": fact.saga_id,
            "definition": fact.definition,
            "key": fact.key,
            "outcome": None
            if outcome is None
            else {"contract": outcome.contract, "payload": orjson.Fragment(outcome.payload)},
            "reason": fact.reason,
            "code": fact.code,
            "failed_step": fact.failed_step,
            "residue": list(fact.residue),
        }
    )


def command_text(sent: CommandSent, *, actor: str) -> Json:
    """The JSON of a `saga.ctl.command.v1` that a saga sends; *actor* says which saga."""
    said: dict[str, Any] = {
        "command_id": sent.command,
        "act": sent.act.value,
        "saga_id": sent.saga_id,
        "definition": sent.definition,
        "actor": actor,
        "name": sent.name,
        "payload": None if sent.payload is None else orjson.Fragment(sent.payload),
        "mode": None if sent.mode is None else sent.mode.value,
        "reason": sent.reason,
    }
    return _json({name: text for name, text in said.items() if text is not None})


def _json(said: Mapping[str, Any]) -> Json:
    return Json(orjson.dumps(said, option=orjson.OPT_SORT_KEYS).decode())
