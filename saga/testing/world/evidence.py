"""What a world has left behind: the only things that its checker may know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from saga.contracts import TopicNames
from saga.core.events import ReplyOutcome, ReplyReceived, SagaStarted
from saga.core.history import FACTS, Entry
from saga.core.identity import SagaId, TimerId
from saga.core.intents import IntentIssued
from saga.ports import Inbound, SagaSummary, UnhandledRecord
from saga.testing.world.broker import Published
from saga.testing.world.driver import Log


class Line(NamedTuple):
    """A line of the ledger: something that a service has really done."""

    number: int
    saga_id: str
    step: str
    direction: str
    intent_id: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """Inputs, stores, bus and ledger of one world.

    *stored_at* is the number of an entry among everything that happened; it is empty where the
    store publishes by itself, in the very transaction. *published* is in the order in which it
    happened, or, where *is_ordered* is False, only in that of each partition.
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
    """Topics that the orchestrators read."""
    names: TopicNames
    is_ordered: bool = True


class Told(NamedTuple):
    """A turn of a history: the fact, and what was decided on it."""

    fact: Entry
    decided: Sequence[Entry]


def turns_of(history: Sequence[Entry]) -> Iterator[Told]:
    """A history cut into turns."""
    begin = 0
    for end in range(1, len(history) + 1):
        if end == len(history) or type(history[end].body) in FACTS:
            yield Told(history[begin], history[begin + 1 : end])
            begin = end


def started(history: Sequence[Entry]) -> SagaStarted | None:
    """How a saga began."""
    return next((each.body for each in history if isinstance(each.body, SagaStarted)), None)


def headers_of(record: Inbound) -> dict[str, str]:
    """Headers as text."""
    return {name: (value or b"").decode("utf-8", "replace") for name, value in record.headers}


def issued(history: Sequence[Entry], direction: str) -> dict[str, list[Entry]]:
    """The intents to do or undo each step, in order of first issue."""
    found: dict[str, list[Entry]] = {}
    for entry in history:
        if isinstance(entry.body, IntentIssued) and entry.body.direction.value == direction:
            found.setdefault(entry.body.step, []).append(entry)
    return found


def answered(
    history: Sequence[Entry], step: str, direction: str, outcome: ReplyOutcome
) -> list[int]:
    """The versions at which such an answer to any attempt was recorded."""
    return [
        entry.version
        for entry in history
        if isinstance(entry.body, ReplyReceived)
        and entry.body.outcome is outcome
        and entry.body.intent_id.split("/")[1:3] == [step, direction]
    ]
