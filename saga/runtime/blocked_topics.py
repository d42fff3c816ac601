"""What cannot be published because a topic is not there, and what waits behind it.

One topic that somebody has deleted, or not made yet, must not stop a worker. So of a saga that has
something for such a topic nothing more is published, in the order of its history, until the topic
is there; all other sagas go on. Nothing is lost meanwhile: the batches stay in the store's backlog.
This is a memory of names, no queue; what is to be published is read from the store again.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from saga.contracts import cloudevents as ce
from saga.core.identity import SagaId
from saga.ports import Record

log = logging.getLogger(__name__)

MISSING_HINT: Final = "make it with `saga topics create`"


class BlockedTopics:
    """Attributes: missing: the topics that are not there. sagas: sagas of which nothing is
    published now, each with the topic it waits for. batches: backlog ids of which something was
    withheld, and of which sagas.
    """

    def __init__(self) -> None:
        self.missing: set[str] = set()
        self.sagas: dict[SagaId, str] = {}
        self.batches: dict[int, set[SagaId]] = {}

    def __bool__(self) -> bool:
        return bool(self.missing or self.batches)

    def miss(self, topic: str) -> None:
        """There is no such topic."""
        if topic not in self.missing:
            self.missing.add(topic)
            log.error(
                "topic %s is missing: its records are kept and their sagas wait; %s",
                topic,
                MISSING_HINT,
                extra={"topic": topic, "hint": MISSING_HINT},
            )

    def found(self, topic: str) -> None:
        """There is such a topic again."""
        self.missing.discard(topic)
        log.warning("topic %s is there again", topic, extra={"topic": topic})

    def split(
        self, records: Sequence[Record], waiting: dict[SagaId, str]
    ) -> tuple[Sequence[Record], set[SagaId]]:
        """What of *records* can be published, and the sagas of the rest, which join those
        *waiting*.
        """
        if not self.missing and not waiting:
            return records, set()
        free: list[Record] = []
        held: set[SagaId] = set()
        for record in records:
            saga = _saga_of(record)
            if saga not in waiting and record.topic in self.missing:
                waiting[saga] = record.topic
            if saga in waiting:
                held.add(saga)
            else:
                free.append(record)
        return free, held

    def block(self, backlog_id: int, sagas: Iterable[SagaId]) -> None:
        """Not all of that batch was published."""
        found = set(sagas)
        if found:
            self.batches.setdefault(backlog_id, set()).update(found)

    @property
    def can_go_on(self) -> bool:
        """Whether a saga waits for a topic that is there, or a batch for no saga."""
        return any(topic not in self.missing for topic in self.sagas.values()) or any(
            sagas.isdisjoint(self.sagas) for sagas in self.batches.values()
        )

    def release(
        self, asked: Iterable[SagaId], still: dict[SagaId, str], seen: Collection[int]
    ) -> None:
        """Of the sagas that were *asked* about, only those in *still* wait on, and those that have
        something in a batch that was not *seen*: it came meanwhile.
        """
        late = {
            saga
            for backlog_id, sagas in self.batches.items()
            if backlog_id not in seen
            for saga in sagas
        }
        for saga in asked:
            if saga in still:
                self.sagas[saga] = still[saga]
            elif saga not in late:
                self.sagas.pop(saga, None)


def _saga_of(record: Record) -> SagaId:
    for name, value in record.headers:
        if name == ce.SUBJECT and value is not None:
            return SagaId(value.decode())
    raise AssertionError(f"a record on {record.topic} belongs to no saga")
