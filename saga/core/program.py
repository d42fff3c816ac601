"""What a way of writing sagas supplies to the kernel: a program that gives commands.

A program says what it wants next (`Command`) and is told how that ended. It knows nothing of
retries, deadlines, rollback order or replays; the kernel adds those, the same for every front-end.
It must be deterministic: told the same in the same order, it gives the same commands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from saga.core.events import Arrival, ChildEnded, Json, Message
from saga.core.identity import Instant, SagaId, StepId
from saga.core.retry import Retry
from saga.core.status import StepKind
from saga.core.values import value


@dataclass(slots=True, eq=False)
class DoStep:
    """Issue an intent; what the code at hand says of its step, too, which is not recorded."""

    step: StepId
    contract: str
    payload: Json
    kind: StepKind
    retry: Retry
    timeout_us: int | None
    undo_retry: Retry | None
    """None: the step has no undo."""
    is_child: ClassVar[bool] = False
    """Whether the payload is the trigger of another saga, and no intent."""
    after: tuple[StepId, ...] = field(default=(), init=False)
    """The nearest steps that it depends on."""
    scope: str | None = field(default=None, init=False)
    """The innermost scope that it is in, behind the names of those around that."""


@value
class Sleep:
    """Wake the program after *length_us*, or at a moment."""

    name: str
    length_us: int
    until: Instant | None = None


@value
class Await:
    """Wake the program with the oldest of these that it has not had, or after *timeout_us*.

    *contracts* are events of other services. Where it *selects*, it is asked what it accepts.
    """

    wait: str
    timeout_us: int | None
    signals: tuple[str, ...] = ()
    contracts: tuple[str, ...] = ()
    updates: tuple[str, ...] = ()
    selects: bool = False


@value
class Refuse:
    """Record that something was refused, of which nothing happens: `Created → Completed`.

    It is recorded behind the waits that were given before it, and never right behind a fact: what
    was taken is waited for again, or answered.
    """

    subject: str
    detail: str


@value
class RefuseKept:
    """Refuse what was kept and the program, asked by `takes`, takes no more; given behind waits."""


@value
class Park:
    """The program cannot go on before somebody has acted; the last command that it gives.

    With steps that can be tried *again*, it stands as though it had not been told that they failed,
    and where that was told in this turn, only what it gave before. Else the turn has failed: its
    event has no effect, and is taken again once the saga is released. *where* is file and line.
    """

    reason: str
    where: str | None = None
    again: tuple[StepId, ...] = ()


@value
class Publish:
    publication: str
    message: Message


@dataclass(slots=True, eq=False)
class Show:
    """Let people see these fields, each as JSON; `null` is to be seen no longer."""

    fields: dict[str, Json]


@value
class Tell:
    """Issue an intent whose reply nobody waits for; *step* names it."""

    step: StepId
    message: Message


@value
class Signal:
    """Send a signal to another saga; *number* tells this saga's signals apart."""

    number: int
    definition: str
    key: str
    name: str
    payload: Json


@value
class Answer:
    """The answer to an update, or its refusal, which has a code."""

    update: str
    answer: Json | None = None
    code: str | None = None
    message: str | None = None


@value
class Line:
    """A line for a log: it is written once the turn is stored, and in no replay.

    *level* is that of the standard library; *place* is file, line and function.
    """

    level: int
    text: str
    fields: Mapping[str, object]
    place: tuple[str, int, str]


@value
class TakePatch:
    """The program has taken the new path of a patch, for the first time."""

    patch: str


@value
class DropBranch:
    """The program drops these: steps are undone before it completes, sleeps and waits end."""

    steps: tuple[StepId, ...]
    sleeps: tuple[str, ...] = ()
    waits: tuple[str, ...] = ()


@value
class Finish:
    """The program is through; what it has in flight is given up, as by `DropBranch`."""

    outcome: Message | None


@value
class ContinueAsNew:
    """The program ends its run; another begins with *trigger*."""

    trigger: Message


@value
class StepFailure:
    """How a step failed, in the words of the service, or of the kernel for one that is silent."""

    code: str | None
    message: str
    details: Json | None = None


@value
class Fail:
    """The program cannot go on: roll back."""

    reason: str
    code: str | None
    failed_step: StepId | None
    again: Mapping[StepId, str] = field(default_factory=dict)
    """Steps that could be tried again, as though the program had not been told that they failed,
    and the words in which they did."""
    stands: int = 0
    """How many of the commands before this one stand all the same."""


Saying = Publish | Tell | Signal | Answer | Line | TakePatch
"""What is recorded and changes nothing for the program."""


@value
class LeaveScope:
    """A failure leaves a scope: undo it, then say so."""

    scope: str
    failure: Fail


Command = (
    DoStep
    | Sleep
    | Await
    | DropBranch
    | LeaveScope
    | Finish
    | ContinueAsNew
    | Fail
    | Park
    | Refuse
    | RefuseKept
    | Show
    | Saying
)


@value
class Report:
    """Why a saga was rolled back, and what is left of it."""

    reason: str
    code: str | None
    failed_step: StepId | None
    residue: tuple[StepId, ...]
    details: Any = None
    """Those with which the step has failed, as its service gave them."""


class Program(Protocol):
    """One running saga as its front-end sees it. An exception from a method is a bug in it.

    The first seven say that something has come which it waits for; *at* is the time of the turn.
    """

    patches: frozenset[str] | None
    """What this turn may take: the patches that were recorded for it; None: any."""

    def take_patches(self, patches: Iterable[str]) -> None:
        """Know these as taken: the history says so, whether or not the code at hand asks."""

    def start(self, trigger: Message, at: Instant) -> Sequence[Command]:
        """Begin."""

    def know_trigger(self, trigger: Message) -> None:
        """Know what the saga began with before it is told: it may end without having begun."""

    def succeeded(self, step: StepId, reply: Message | None, at: Instant) -> Sequence[Command]:
        """A step is done; *reply* is None where the intent has no reply of its own."""

    def gave_out(
        self, step: StepId, failure: StepFailure, at: Instant, *, is_refused: bool
    ) -> Sequence[Command]:
        """A step failed for good; *is_refused* means that nothing had happened."""

    def child_ended(self, step: StepId, ended: ChildEnded | None, at: Instant) -> Sequence[Command]:
        """The child of a step has ended; None: too late, whatever came of it."""

    def hold(self, step: StepId, at: Instant) -> Sequence[Command]:
        """A step failed for good and may be tried again: only what waits for its place begins."""

    def slept(self, name: str, at: Instant) -> Sequence[Command]: ...

    def arrived(self, wait: str, arrival: Arrival, at: Instant) -> Sequence[Command]:
        """What a wait has taken."""

    def timed_out(self, wait: str, at: Instant) -> Sequence[Command]: ...

    def undone(self, scope: str, at: Instant) -> Sequence[Command]:
        """A scope that was left is undone; nobody may wait for that any more."""

    def policy_of(self, step: StepId) -> DoStep:
        """How often *step* is tried, how long, and whether it has an undo."""

    def takes(self, arrival: Arrival) -> str | None:
        """Why nothing ahead can take what no wait has taken; None: it is kept."""

    def place_of(self, step: StepId) -> str | None:
        """File and line of what asks for *step*, where that is known."""

    def stands_at(self, name: str | None) -> str | None:
        """File and line of what asks for a wait or sleep of this *name*; else where it stands."""

    def accepts(self, wait: str, arrival: Arrival) -> bool:
        """Whether a wait that selects takes this; asked in the live turn only."""

    def refusal_of(self, wait: str, arrival: Arrival) -> str | None:
        """Why a signal or update is not what *wait* takes, by its payload; None when it is."""

    def refusal_of_reply(self, step: StepId, reply: Message | None) -> str | None:
        """Why *reply* is no answer to the intent of *step*; None when it is."""

    def refusal_of_entered(self, step: StepId, reply: Message | None) -> str | None:
        """Why what an operator has entered is no reply to *step*, also by its content."""

    def undo_of(self, step: StepId, reply: Message | None) -> Message:
        """The intent that undoes *step*; *reply* is None where none came."""

    def outcome_of(self, report: Report) -> Message | None:
        """The outcome event of a rolled-back saga."""

    def snapshot(self) -> Mapping[str, Any] | None:
        """Where it stands between two turns, as JSON for `restore`; None where that is no data.

        It is told before the next turn, and is not the caller's to change.
        """

    def restore(self, snapshot: Mapping[str, Any], trigger: Message) -> None:
        """Stand where a program of the same code stood that gave *snapshot*, begun by *trigger*.

        What it raises says that it cannot.
        """

    def close(self) -> None:
        """Let go of everything; nothing the program still does may count."""


class Contracts(Protocol):
    """What today's contracts make of recorded messages."""

    def reads_as(self, recorded: Message, message: Message) -> bool:
        """Whether *recorded*, read by today's contracts, is *message*."""

    def as_read(self, recorded: Message) -> Message:
        """What today's contracts read in *recorded*; itself where they cannot read it."""

    def accepting(self, recorded: Iterable[Message]) -> AbstractContextManager[None]:
        """While it is open, a program may make these again, however strict their contracts are."""


class PlainContracts:
    """Messages that are what their text says."""

    def reads_as(self, recorded: Message, message: Message) -> bool:
        return recorded == message

    def as_read(self, recorded: Message) -> Message:
        return recorded

    def accepting(self, _: Iterable[Message]) -> AbstractContextManager[None]:
        return nullcontext()


@value
class Definition:
    """A kind of saga; each run pins its *fingerprint*, a hash of its source.

    *program* gets the saga's id and key, and the number of the run. *find* gives another version,
    None: the newest; without it there is no other.
    """

    name: str
    version: int
    fingerprint: str
    program: Callable[[SagaId, str, int], Program]
    parallel_undo: bool = False
    continue_when_stuck: bool = False
    deadline_us: int | None = None
    """For the whole saga, from its start."""
    code: str = ""
    """A hash of all code that may decide: no other reads its snapshots. Empty: there are none."""
    contracts: Contracts = PlainContracts()
    find: Callable[[int | None], Definition | None] | None = None
