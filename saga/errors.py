"""Every error a user of saga can meet, grouped by what its reader can do about it.

* SagaError
    * DefinitionError: the author fixes the saga, the contract or the application
        * UnknownContract
        * DuplicateSaga
        * ContractChanged
        * TransactionEnded: a handler must leave the transaction alone that it shares
        * ContractFileError: the file of a contract graph has mistakes, each with its place
            * OrchestratorOutputError: it, or a handler, gives what no orchestrator has
    * SettingsError: the operator fixes a setting
    * MessageError: the sender fixes the message
        * MalformedMessage
        * UnsupportedVersion
    * UnknownSaga: the caller names another saga
    * UpdateRefused: the saga that was asked says no, and with which code
    * SagaEnded: the saga that was asked had ended, or did so before it answered
    * StoreError
        * HistoryConflict: retriable, reload and decide again
            * PausesChanged: what is paused has changed
        * RecordsRetracted: retriable, read them again
        * StoreUnavailable: retriable, wait
        * AlreadyRecorded: skip, the positions are covered
        * StoreRefused: the operator names another store, or mends this one; waiting is no help
            * StoreTooNew: the operator upgrades this program
            * StoreForeign: the store serves another environment or namespace
            * SchemaDiffers: its tables are not those of saga
        * CorruptHistory: the operator looks at that one saga
            * UnknownEntry: the operator upgrades this program
    * DeliveryError
        * BusUnavailable: retriable, wait
        * MessageTooLarge: the sender sends less
        * TopicMissing: the operator makes the topic
    * ReplayMismatch: the author keeps the old code beside the new, or accepts the difference
    * TaskEnded: whoever runs the process starts it again
* What authors raise and catch in the course of business; it is no fault of anybody
    * StepFailed, TimedOut, ChildRolledBack: raised into a saga's function
    * RollBack: raised by a saga's function
    * Refused: raised by a handler
* DeterminismWarning: a warning; the author has a saga's function take that from its context

Each class has a stable `code`; where an instance knows a finer one, that stands in its place.
Errors with data are dataclasses, each equal to itself alone.
A durable function suspends by yielding, so no error of the engine passes through users' code.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar, Literal


class SagaError(Exception):
    """The root of what saga itself raises on purpose."""

    code: str = "saga"
    retriable: ClassVar[bool] = False
    passes: bool = True
    """Of what is retriable: whether it passes by itself. Otherwise a process does not begin."""

    def __init_subclass__(cls, *, code: str | None = None, retriable: bool | None = None) -> None:
        cls.code = cls.code if code is None else code
        cls.retriable = cls.retriable if retriable is None else retriable


@dataclass(eq=False)
class DefinitionError(SagaError, code="definition"):
    """Raised when a saga, contract or application cannot work; *where* is `file:line`, if known."""

    problem: str
    _: KW_ONLY
    where: str | None = None

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}" if self.where else self.problem


class UnknownContract(DefinitionError, code="unknown_contract"):
    """Raised when a name belongs to no registered contract."""


class DuplicateSaga(DefinitionError, code="duplicate_saga"):
    """Raised when two sagas of one application share name and version."""


class ContractChanged(DefinitionError, code="contract_changed"):
    """Raised when a published contract was changed in a way its readers cannot follow."""


class TransactionEnded(DefinitionError, code="transaction_ended"):
    """Raised when a handler committed or rolled back the transaction that it only shares."""


class ContractFileError(DefinitionError, code="contract_file"):
    """Raised when a contract file has mistakes: *problem* has a line for each, with its place."""

    mistakes: tuple[Any, ...] = ()
    """The same as values, for programs."""

    def __str__(self) -> str:
        return self.problem


class OrchestratorOutputError(ContractFileError, code="orchestrator_output"):
    """Raised for a `result`, or whatever else is neither event nor intent; *field* names it."""

    def __init__(self, field: str, problem: str | None = None, *, where: str | None = None) -> None:
        super().__init__(
            problem
            or f"`{field}`: an orchestrator has no result. It gives events and intents only: tell "
            f"its end by its outcome, and facts by events",
            where=where,
        )
        self.field = field


@dataclass(eq=False)
class SettingsError(SagaError, code="settings"):
    """Raised when *setting* is unknown or illegal; *problem* says what to do."""

    setting: str
    problem: str

    def __str__(self) -> str:
        return f"{self.setting}: {self.problem}"


class MessageError(SagaError, code="message"):
    """Raised when a message is not what it claims to be; *code* says in which way."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class MalformedMessage(MessageError, code="malformed_message"):
    """Raised when a value is no JSON, or not what its contract says."""


class UnsupportedVersion(MessageError, code="unsupported_version"):
    """Raised when a message has a version of its contract that this code does not know."""


@dataclass(eq=False)
class UnknownSaga(SagaError, code="unknown_saga"):
    """Raised when there is no saga of this id."""

    saga_id: str

    def __str__(self) -> str:
        return f"there is no saga {self.saga_id}"


class UpdateRefused(SagaError, code="update_refused"):
    """Raised when a saga refuses what it was asked; *code* is the one that it gave.

    It is `invalid` where the payload is not what the saga waits for, `not_now` where the saga can
    take it no more, and `id_conflict` where the same id came before with another content.
    """

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" if self.message else self.code


@dataclass(eq=False)
class SagaEnded(SagaError, code="saga_ended"):
    """Raised when a saga that was asked has ended, or did so before it answered."""

    saga_id: str
    message: str = ""

    def __str__(self) -> str:
        return f"saga {self.saga_id} has not answered: {self.message or 'it has ended'}"


class StoreError(SagaError, code="store"):
    """Raised when the event store did not do what was asked."""


@dataclass(eq=False)
class HistoryConflict(StoreError, code="history_conflict", retriable=True):
    """Raised when another writer appended first; *saga_ids* may be all histories of the batch."""

    saga_ids: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{len(self.saga_ids)} histories have moved on: {', '.join(self.saga_ids[:5])}"


class PausesChanged(HistoryConflict, code="pauses_changed"):
    """Raised when which definitions are paused has changed since a batch was decided."""

    def __str__(self) -> str:
        return "which definitions are paused has changed meanwhile"


class RecordsRetracted(StoreError, code="records_retracted", retriable=True):
    """Raised for records that never became durable: drop them, and seek to the stored positions."""


class StoreUnavailable(StoreError, code="store_unavailable", retriable=True):
    """Raised when the store cannot be reached or cannot write; nothing was recorded."""


@dataclass(eq=False)
class AlreadyRecorded(StoreError, code="already_recorded"):
    """Raised when the store is ahead of the batch at *sources*: another worker was here."""

    sources: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"already recorded: {', '.join(self.sources[:5])}"


class StoreRefused(StoreError, code="store_refused"):
    """Raised when a store is there and is not one that this program can use."""


class StoreTooNew(StoreRefused, code="store_too_new"):
    """Raised when a newer version of saga wrote the store; upgrade this one."""


class SchemaDiffers(StoreRefused, code="schema_differs"):
    """Raised when a store has other tables or columns than saga makes, or is another program's."""


class StoreForeign(StoreRefused, code="store_foreign"):
    """Raised when a store serves another environment or namespace than this program's."""


@dataclass(eq=False)
class CorruptHistory(StoreError, code="corrupt_history"):
    """Raised when entry *version* of one saga cannot be read; other histories are not touched."""

    saga_id: str
    version: int
    problem: str

    def __str__(self) -> str:
        return f"saga {self.saga_id}, entry {self.version}: {self.problem}"


class UnknownEntry(CorruptHistory, code="unknown_entry"):
    """Raised when a newer release wrote an entry that this program does not know whole."""


class DeliveryError(SagaError, code="delivery"):
    """Raised when the bus did not do what was asked."""


class BusUnavailable(DeliveryError, code="bus_unavailable", retriable=True):
    """Raised when the bus cannot be reached or cannot write; nothing was published."""


class MessageTooLarge(DeliveryError, code="message_too_large"):
    """Raised when a record exceeds the limit of its *topic*, where it is known which record did."""

    def __init__(self, message: str, *, topic: str | None = None) -> None:
        super().__init__(message)
        self.topic = topic


@dataclass(eq=False)
class TopicMissing(DeliveryError, code="topic_missing"):
    """Raised when a topic is not there, or has no such *partition*."""

    topic: str
    partition: int | None = None

    def __str__(self) -> str:
        place = self.topic if self.partition is None else f"{self.topic}[{self.partition}]"
        return f"there is no topic {place}: make it with `saga topics create`"


@dataclass(eq=False)
class ReplayMismatch(SagaError, code="replay_mismatch"):
    """Raised when the code at hand decides otherwise than the history, first at entry *version*.

    *where* is file and line of what decides so, if known.
    """

    version: int
    recorded: str
    decided: str
    _: KW_ONLY
    where: str | None = None
    compared: Any = field(default=None, repr=False)
    """Both sides of the turn as values, for programs."""

    def __str__(self) -> str:
        place = "" if self.where is None else f" (at {self.where})"
        return (
            f"entry {self.version}: the history says {self.recorded}, "
            f"the code at hand decides {self.decided}{place}"
        )


class TaskEnded(SagaError, code="task_ended"):
    """Raised when a part of this process has ended that was to go on; start the process again."""


class StepFailed(Exception):
    """Raised into a saga's function when a step failed for good; uncaught, it starts the rollback.

    *refused*: the service said that nothing happened; otherwise the step is undone, in case it did.
    *details* are what else the service said, as JSON has it: lists, dicts and the like; or None.
    A machine is handed it as a value, with the *intent* of the step.
    """

    code: str = "step_failed"

    def __init__(
        self,
        step: str,
        *,
        code: str,
        message: str,
        refused: bool,
        details: Any = None,
        intent: Any = None,
    ) -> None:
        super().__init__(message)
        self.step = step
        self.code = code
        self.message = message
        self.refused = refused
        self.details = details
        self.intent = intent


@dataclass(eq=False)
class TimedOut(Exception):
    """Raised into a saga's function when what says *kind* did not come in time.

    `service.update` raises it, too: the saga has not answered in time, and may still do so. A
    machine is handed it as a value when the time of a state is over.
    """

    code: ClassVar[str] = "timed_out"
    name: str = ""
    kind: Literal["signal", "event", "update", "child", "answer", "state"] = "signal"

    def __str__(self) -> str:
        if not self.name:
            return "nothing came in time"
        if self.kind == "state":
            return f"nothing led on from {self.name} in time"
        if self.kind == "child":
            return f"the child {self.name!r} did not end in time"
        if self.kind == "answer":
            return f"no answer to update {self.name!r} came in time"
        return f"no {self.kind} {self.name!r} came in time"


class ChildRolledBack(Exception):
    """Raised into a saga's function when a child ended other than completed; has its report.

    *reason*, *code*, *failed_step* and *residue* are the child's own; *step* started it. *status*
    is `rolled_back`, `rolled_back_with_residue` or `abandoned`.
    """

    code: str = "child_rolled_back"

    def __init__(
        self,
        step: str,
        *,
        status: str,
        reason: str,
        code: str | None = None,
        failed_step: str | None = None,
        residue: tuple[str, ...] = (),
    ) -> None:
        super().__init__(reason)
        self.step = step
        self.status = status
        self.reason = reason
        self.code = code or status
        self.failed_step = failed_step
        self.residue = residue


class RollBack(Exception):
    """Raised by a saga's function to undo everything it has done."""

    code: str = "rolled_back"

    def __init__(self, reason: str, *, code: str = "rolled_back") -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


class Refused(Exception):
    """Raised by a handler: no, and nothing happened. It is final; writes to `ctx.db` are undone.

    *details* is anything that JSON can say, in at most 10,000 characters: for the saga's function,
    which has it as `StepFailed.details`.
    """

    code: str = "refused"

    def __init__(self, message: str, *, code: str = "refused", details: Any = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.details = details


class DeterminismWarning(UserWarning):
    """Given for what a saga's source does that no replay of its history could give again."""

    code: ClassVar[str] = "determinism"
