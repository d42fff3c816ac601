"""Every error a user of saga can meet, grouped by what its reader can do about it.

* SagaError
    * DefinitionError: the author fixes the saga, the contract or the application
        * UnknownContract
        * DuplicateSaga
        * ContractChanged
        * TransactionEnded: a handler must leave the transaction alone that it shares
    * SettingsError: the operator fixes a setting
    * MessageError: the sender fixes the message
        * MalformedMessage
        * UnsupportedVersion
    * UnknownSaga: the caller names another saga
    * StoreError
        * HistoryConflict: retriable, reload and decide again
        * RecordsRetracted: retriable, read them again
        * StoreUnavailable: retriable, wait
        * AlreadyRecorded: skip, the positions are covered
        * StoreTooNew: the operator upgrades this program
        * CorruptHistory: the operator looks at that one saga
            * UnknownEntry: the operator upgrades this program
    * DeliveryError
        * BusUnavailable: retriable, wait
        * MessageTooLarge: the sender sends less
        * TopicMissing: the operator makes the topic
    * ReplayMismatch: the author keeps the old code beside the new, or accepts the difference
* What authors raise and catch in the course of business; it is no fault of anybody
    * StepFailed, TimedOut: raised into a saga's function
    * RollBack: raised by a saga's function
    * Refused: raised by a handler

Each class has a stable `code`; where an instance knows a finer one, that stands in its place.
A durable function suspends by yielding, so no error of the engine passes through users' code.
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
    "RecordsRetracted",
    "Refused",
    "ReplayMismatch",
    "RollBack",
    "SagaError",
    "SettingsError",
    "StepFailed",
    "StoreError",
    "StoreTooNew",
    "StoreUnavailable",
    "TimedOut",
    "TopicMissing",
    "TransactionEnded",
    "UnknownContract",
    "UnknownEntry",
    "UnknownSaga",
    "UnsupportedVersion",
]


class SagaError(Exception):
    """The root of what saga itself raises on purpose."""

    code: str = "saga"
    retriable: ClassVar[bool] = False


class DefinitionError(SagaError):
    """Raised when a saga, a contract or an application cannot work as it is written.

    *where* is `file:line` of the definition, when it is known.
    """

    code = "definition"

    def __init__(self, problem: str, *, where: str | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.where = where

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}" if self.where else self.problem


class UnknownContract(DefinitionError):
    """Raised when a name belongs to no registered contract."""

    code = "unknown_contract"


class DuplicateSaga(DefinitionError):
    """Raised when two sagas of one application share name and version."""

    code = "duplicate_saga"


class ContractChanged(DefinitionError):
    """Raised when a published contract was changed in a way its readers cannot follow."""

    code = "contract_changed"


class TransactionEnded(DefinitionError):
    """Raised when a handler committed or rolled back the transaction that it only shares."""

    code = "transaction_ended"


class SettingsError(SagaError):
    """Raised when *setting* is unknown or illegal; *problem* says what to do."""

    code = "settings"

    def __init__(self, setting: str, problem: str) -> None:
        super().__init__(setting, problem)
        self.setting = setting
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.setting}: {self.problem}"


class MessageError(SagaError):
    """Raised when a message is not what it claims to be; *code* says in which way."""

    code = "message"

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class MalformedMessage(MessageError):
    """Raised when a value is no JSON, or not what its contract says."""

    code = "malformed_message"


class UnsupportedVersion(MessageError):
    """Raised when a message has a version of its contract that this code does not know."""

    code = "unsupported_version"


class UnknownSaga(SagaError):
    """Raised when there is no saga of this id."""

    code = "unknown_saga"

    def __init__(self, saga_id: str) -> None:
        super().__init__(saga_id)
        self.saga_id = saga_id

    def __str__(self) -> str:
        return f"there is no saga {self.saga_id}"


class StoreError(SagaError):
    """Raised when the event store did not do what was asked."""

    code = "store"


class HistoryConflict(StoreError):
    """Raised when another writer has appended to a history first; reload and decide again.

    *saga_ids* are the histories that moved (all of the batch where the store cannot tell).
    """

    code = "history_conflict"
    retriable = True

    def __init__(self, saga_ids: tuple[str, ...] = ()) -> None:
        super().__init__(saga_ids)
        self.saga_ids = saga_ids

    def __str__(self) -> str:
        return f"{len(self.saga_ids)} histories have moved on: {', '.join(self.saga_ids[:5])}"


class RecordsRetracted(StoreError):
    """Raised when a batch accounts for records that were shown before they were durable.

    They never became so: drop what is in hand and seek to the stored positions.
    """

    code = "records_retracted"
    retriable = True


class StoreUnavailable(StoreError):
    """Raised when the store cannot be reached or cannot write; nothing was recorded."""

    code = "store_unavailable"
    retriable = True


class AlreadyRecorded(StoreError):
    """Raised when the store already covers a position of the batch: another worker was here.

    *sources* are the topic-partitions whose stored position is ahead of the batch's.
    """

    code = "already_recorded"

    def __init__(self, sources: tuple[str, ...] = ()) -> None:
        super().__init__(sources)
        self.sources = sources

    def __str__(self) -> str:
        return f"already recorded: {', '.join(self.sources[:5])}"


class StoreTooNew(StoreError):
    """Raised when a newer version of saga wrote the store; upgrade this one."""

    code = "store_too_new"


class CorruptHistory(StoreError):
    """Raised when a stored entry of one saga cannot be read; other histories are not touched.

    *version* is the first entry concerned, *problem* says what is wrong with it.
    """

    code = "corrupt_history"

    def __init__(self, saga_id: str, version: int, problem: str) -> None:
        super().__init__(saga_id, version, problem)
        self.saga_id = saga_id
        self.version = version
        self.problem = problem

    def __str__(self) -> str:
        return f"saga {self.saga_id}, entry {self.version}: {self.problem}"


class UnknownEntry(CorruptHistory):
    """Raised when a newer release wrote an entry that this program does not know whole."""

    code = "unknown_entry"


class DeliveryError(SagaError):
    """Raised when the bus did not do what was asked."""

    code = "delivery"


class BusUnavailable(DeliveryError):
    """Raised when the bus cannot be reached or cannot write; nothing was published."""

    code = "bus_unavailable"
    retriable = True


class MessageTooLarge(DeliveryError):
    """Raised when a record exceeds the limit of its topic."""

    code = "message_too_large"


class TopicMissing(DeliveryError):
    """Raised when a topic is not there, or has no such *partition*."""

    code = "topic_missing"

    def __init__(self, topic: str, partition: int | None = None) -> None:
        super().__init__(topic, partition)
        self.topic = topic
        self.partition = partition

    def __str__(self) -> str:
        place = self.topic if self.partition is None else f"{self.topic}[{self.partition}]"
        return f"there is no topic {place}: make it with `saga topics create`"


class ReplayMismatch(SagaError):
    """Raised when the code at hand decides otherwise than the history says.

    *version* is the first differing entry; *recorded* and *decided* describe both sides.
    """

    code = "replay_mismatch"

    def __init__(self, version: int, recorded: str, decided: str) -> None:
        super().__init__(version, recorded, decided)
        self.version = version
        self.recorded = recorded
        self.decided = decided

    def __str__(self) -> str:
        return (
            f"entry {self.version}: the history says {self.recorded}, "
            f"the code at hand decides {self.decided}"
        )


class StepFailed(Exception):
    """Raised into a saga's function when a step failed for good. Uncaught, it starts the rollback.

    *refused* says that the service answered "no, and nothing happened"; otherwise the step may have
    had its effect and will be undone. *code* is the service's.
    """

    code: str = "step_failed"

    def __init__(self, step: str, *, code: str, message: str, refused: bool) -> None:
        super().__init__(message)
        self.step = step
        self.code = code
        self.message = message
        self.refused = refused


class TimedOut(Exception):
    """Raised into a saga's function when no signal came in time."""

    code: str = "timed_out"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"no signal {self.name!r} came in time"


class RollBack(Exception):
    """Raised by a saga's function to undo everything it has done."""

    code: str = "rolled_back"

    def __init__(self, reason: str, *, code: str = "rolled_back") -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


class Refused(Exception):
    """Raised by a handler to say: no, and nothing happened. What it wrote to `ctx.db` is undone.

    The answer is final: the step is not tried again, and need not be undone.
    """

    code: str = "refused"

    def __init__(self, message: str, *, code: str = "refused") -> None:
        super().__init__(message)
        self.message = message
        self.code = code
