"""What a world has come to, as an application's own checks see it: sagas, topics and databases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from saga.app import SagaApp
from saga.contracts import ContractModel, Event, Unreadable, contract_of, decode
from saga.core.events import Message
from saga.core.history import Entry
from saga.core.identity import SagaId
from saga.core.intents import SagaAbandoned, SagaCleanedUp, SagaCompleted, SagaRolledBack
from saga.core.status import SagaStatus
from saga.testing.world.evidence import Evidence, headers_of
from saga.testing.world.stores import EffectsDatabase

ModelT = TypeVar("ModelT", bound=ContractModel)


@dataclass(frozen=True, slots=True)
class WorldSaga:
    """One saga at the end; *residue* names steps that may have had an effect and are not undone.

    *version* is the one of its definition that decided it last.
    """

    saga_id: SagaId
    definition: str
    version: int
    key: str
    status: SagaStatus
    reason: str | None
    outcome: Event | None
    residue: tuple[str, ...]
    history: Sequence[Entry]


class WorldTopics:
    """Everything published, once each and in order, by contract class: `topics[OrderConfirmed]`."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence

    def __getitem__(self, model: type[ModelT]) -> list[ModelT]:
        topic = self._evidence.names.topic(contract_of(model).contract_name)
        models: dict[str, ModelT] = {}
        for _, record in self._evidence.published:
            if record.topic == topic and record.value not in self._evidence.log.garbage:
                record_id = headers_of(record).get("ce_id", str(record.position))
                read = model.model_validate_json(record.value or b"null")
                models.setdefault(record_id, read)
        return list(models.values())


@dataclass(frozen=True, slots=True)
class WorldState:
    """What the functions of `check` get; all services of an application share one database."""

    sagas: Sequence[WorldSaga]
    topics: WorldTopics
    db: Mapping[str, EffectsDatabase]


def state_of(
    apps: Sequence[SagaApp], evidence: Evidence, databases: Mapping[str, EffectsDatabase]
) -> WorldState:
    return WorldState(
        sagas=list(_sagas(apps, evidence)), topics=WorldTopics(evidence), db=databases
    )


def _sagas(apps: Sequence[SagaApp], evidence: Evidence) -> Iterator[WorldSaga]:
    for saga_id, summary in evidence.summaries.items():
        history = evidence.histories[saga_id]
        outcome: Message | None = None
        residue: tuple[str, ...] = ()
        for entry in history:
            if isinstance(entry.body, SagaCompleted | SagaRolledBack | SagaAbandoned):
                outcome = entry.body.outcome
            if isinstance(entry.body, SagaRolledBack | SagaCleanedUp):
                residue = tuple(entry.body.residue)
        yield WorldSaga(
            saga_id=saga_id,
            definition=summary.definition,
            version=summary.definition_version,
            key=summary.key,
            status=summary.status,
            reason=summary.reason,
            outcome=None if outcome is None else _event(apps, outcome),
            residue=residue,
            history=history,
        )


def _event(apps: Sequence[SagaApp], message: Message) -> Event:
    app = next(app for app in apps if message.contract in app.contracts)
    decoded = decode(app.contracts, message.contract, message.payload.encode())
    assert not isinstance(decoded, Unreadable), decoded
    assert isinstance(decoded.model, Event), decoded
    return decoded.model
