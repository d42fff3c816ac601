"""What a world, or a real deployment, has come to: the evidence that the checks judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from saga.contracts import Command, Event, TopicNames
from saga.core.history import Entry
from saga.core.identity import SagaId, TimerId
from saga.core.status import SagaStatus
from saga.ports import Inbound, SagaSummary, UnhandledRecord
from saga.testing.world.broker import Published
from saga.testing.world.hearing import Heard


class SagaName(NamedTuple):
    """A saga by its definition and business key, and the id that follows from them."""

    definition: str
    key: str
    saga_id: SagaId


@dataclass(slots=True)
class Trigger:
    """An event published from outside; if not acknowledged it may be published all the same."""

    event: Event
    message_id: str
    starts: tuple[SagaName, ...] = ()
    perhaps: frozenset[SagaName] = frozenset()
    """Those of them that only some releases start, while others read the event too."""
    is_acknowledged: bool = False
    is_repeated: bool = False
    """Whether that was when it was sent once more, perhaps behind others."""


@dataclass(slots=True)
class Log:
    """Everything that was published from outside, in the order in which it was tried first."""

    triggers: list[Trigger] = field(default_factory=list)
    garbage: list[bytes] = field(default_factory=list)
    commands: dict[str, Command] = field(default_factory=dict)

    def by_saga(self) -> dict[SagaName, list[Trigger]]:
        triggers: dict[SagaName, list[Trigger]] = {}
        for trigger in self.triggers:
            for name in trigger.starts:
                triggers.setdefault(name, []).append(trigger)
        return triggers


class Line(NamedTuple):
    """A line of the ledger: an effect that was really carried out."""

    number: int
    saga_id: str
    step: str
    direction: str
    intent_id: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """Inputs, stores, bus and ledger of one world.

    *stored_at* numbers entries among all that happened; it is empty where the store publishes in
    its own transaction. Where *is_ordered* is False, *published* is in order by partition only.
    """

    log: Log
    histories: Mapping[SagaId, Sequence[Entry]]
    stored_at: Mapping[tuple[SagaId, int], int]
    published: Sequence[Published]
    unhandled: Sequence[UnhandledRecord]
    summaries: Mapping[SagaId, SagaSummary]
    timers: frozenset[TimerId]
    ledger: Sequence[Line]
    heard: frozenset[str]
    names: TopicNames
    is_ordered: bool = True
    own_keys: Mapping[str, str] = field(default_factory=dict)
    acts: frozenset[str] = frozenset()
    """The commands that were taken for definitions as a whole."""
    stalled: frozenset[SagaId] = frozenset()
    """The sagas that have waited for a deploy, while no process had their version."""
    heard_events: Sequence[Heard] = ()
    """What was published that sagas listen to; it is accounted for saga by saga."""

    def is_parked(self, saga_id: SagaId | None) -> bool:
        summary = None if saga_id is None else self.summaries.get(saga_id)
        return summary is not None and summary.status is SagaStatus.PARKED

    def is_ours(self, record: Inbound) -> bool:
        prefix = f"/{self.names.env}/{self.names.namespace}/sagas/".encode()
        return any(
            name == "ce_source" and (value or b"").startswith(prefix)
            for name, value in record.headers
        )


def together(parts: Sequence[Evidence]) -> Evidence:
    """What several applications on one bus have come to: no saga, timer or command is of two."""
    first, *others = parts
    if not others:
        return first
    return replace(
        first,
        histories={name: each for part in parts for name, each in part.histories.items()},
        stored_at={at: number for part in parts for at, number in part.stored_at.items()},
        summaries={name: each for part in parts for name, each in part.summaries.items()},
        unhandled=[record for part in parts for record in part.unhandled],
        timers=frozenset().union(*(part.timers for part in parts)),
        ledger=sorted((line for part in parts for line in part.ledger), key=_number_of),
        heard=frozenset().union(*(part.heard for part in parts)),
        own_keys={name: key for part in parts for name, key in part.own_keys.items()},
        acts=frozenset().union(*(part.acts for part in parts)),
        stalled=frozenset().union(*(part.stalled for part in parts)),
        heard_events=[each for part in parts for each in part.heard_events],
    )


def _number_of(line: Line) -> int:
    return line.number


def headers_of(record: Inbound) -> dict[str, str]:
    return {name: (value or b"").decode("utf-8", "replace") for name, value in record.headers}
