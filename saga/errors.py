"""Every error a user of saga can meet, grouped by what the reader can do about it.

* SagaError
    * DefinitionError: the author fixes the saga, the contract or the wiring
        * UnknownContract
        * DuplicateSaga
        * ContractChanged
    * MessageError: the sender fixes the bytes; the record is parked
        * MalformedMessage
        * UnsupportedVersion
    * SettingsError: the operator fixes a setting
    * StoreError
        * HistoryConflict (retriable: reload and decide again)
        * AlreadyRecorded (skip: the positions are covered)
        * RecordsRetracted (retriable: read them again)
        * StoreUnavailable (retriable: wait)
        * StoreTooNew
        * CorruptHistory (an operator looks at that one saga)
    * DeliveryError
        * BusUnavailable (retriable: wait)
        * MessageTooLarge
        * TopicMissing (an operator makes the topic)
        * PositionLost (an operator decides where to go on)
    * ReplayMismatch: history and code disagree

`Suspended` is not here: a durable function suspends by yielding, so there is nothing to catch.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "AlreadyRecorded",
    "BusUnavailable",
    "ContractChanged",
    "CorruptHistory",
    "DefinitionError",
    "DeliveryError",
    "DuplicateSaga",
    "HistoryConflict",
    "MalformedMessage",
    "MessageError",
    "MessageTooLarge",
    "PositionLost",
    "RecordsRetracted",
    "ReplayMismatch",
    "SagaError",
    "SettingsError",
    "StoreError",
    "StoreTooNew",
    "StoreUnavailable",
    "TopicMissing",
    "UnknownContract",
    "UnsupportedVersion",
]


class SagaError(Exception):
    """The root: everything that saga raises on purpose."""

    retriable: ClassVar[bool] = False


class DefinitionError(SagaError):
    """Raised when a saga, a contract or an application cannot work as it is written.

    *where* is `file:line` of the definition, when it is known.
    """

    def __init__(self, problem: str, *, where: str | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.where = where

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}" if self.where else self.problem


class UnknownContract(DefinitionError):
    """Raised when a name belongs to no registered contract."""


class DuplicateSaga(DefinitionError):
    """Raised when two sagas of one application share name and version."""


class ContractChanged(DefinitionError):
    """Raised when a published contract was changed in a way its readers cannot follow."""


class MessageError(SagaError):
    """Raised when bytes cannot be read as what they claim to be.

    *code* is stable, *message* is for people.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class MalformedMessage(MessageError):
    """Raised when a value is no JSON, or not what its contract says."""


class UnsupportedVersion(MessageError):
    """Raised when a message has a version of its contract that this code does not know."""


class SettingsError(SagaError):
    """Raised when a setting is unknown or illegal; *setting* names it, *problem* says what
    to do.
    """

    def __init__(self, setting: str, problem: str) -> None:
        super().__init__(f"{setting}: {problem}")
        self.setting = setting
        self.problem = problem


class StoreError(SagaError):
    """Raised when the event store did not do what was asked."""


class HistoryConflict(StoreError):
    """Raised when another writer has appended to a history first; reload and decide again.

    *saga_ids* are the histories that moved (all of the batch where the store cannot tell).
    """

    retriable = True

    def __init__(self, saga_ids: tuple[str, ...] = ()) -> None:
        super().__init__(f"{len(saga_ids)} histories have moved on: {', '.join(saga_ids[:5])}")
        self.saga_ids = saga_ids


class AlreadyRecorded(StoreError):
    """Raised when the store already covers a position of the batch: another worker was here.

    *sources* are the topic-partitions whose stored position is ahead of the batch's.
    """

    def __init__(self, sources: tuple[str, ...] = ()) -> None:
        super().__init__(f"already recorded: {', '.join(sources[:5])}")
        self.sources = sources


class RecordsRetracted(StoreError):
    """Raised when a batch accounts for records that were shown before they were durable, and then
    were not: drop what is in hand and seek to the stored positions.
    """

    retriable = True


class StoreUnavailable(StoreError):
    """Raised when the store cannot be reached or cannot write; nothing was recorded."""

    retriable = True


class StoreTooNew(StoreError):
    """Raised when a newer version of saga wrote the store; upgrade this one."""


class CorruptHistory(StoreError):
    """Raised when a stored entry of one saga cannot be read; the histories of others are not
    touched.

    *version* is the first entry concerned, *problem* says what is wrong with it.
    """

    def __init__(self, saga_id: str, version: int, problem: str) -> None:
        super().__init__(f"saga {saga_id}, entry {version}: {problem}")
        self.saga_id = saga_id
        self.version = version
        self.problem = problem


class DeliveryError(SagaError):
    """Raised when the bus did not do what was asked."""


class BusUnavailable(DeliveryError):
    """Raised when the bus cannot be reached or cannot write; nothing was published."""

    retriable = True


class MessageTooLarge(DeliveryError):
    """Raised when a record exceeds the limit of its topic."""


class TopicMissing(DeliveryError):
    """Raised when a topic is not there, or has no such *partition*."""

    def __init__(self, topic: str, partition: int | None = None) -> None:
        super().__init__(topic, partition)
        self.topic = topic
        self.partition = partition

    def __str__(self) -> str:
        place = self.topic if self.partition is None else f"{self.topic}[{self.partition}]"
        return f"there is no topic {place}: make it with `saga topics create`"


class PositionLost(DeliveryError):
    """Raised when a topic no longer has the record that is next: retention, or it was made anew."""


class ReplayMismatch(SagaError):
    """Raised when the code at hand decides otherwise than the history says.

    *version* is the first differing entry; *recorded* and *decided* describe both sides.
    """

    def __init__(self, version: int, recorded: str, decided: str) -> None:
        super().__init__(
            f"entry {version}: the history says {recorded}, the code at hand decides {decided}"
        )
        self.version = version
        self.recorded = recorded
        self.decided = decided
