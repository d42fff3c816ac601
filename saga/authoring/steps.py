"""Steps, the same in whichever way a saga is written: what each is, its answers and its undo.

A front-end has one `Steps` for each run of a saga, which makes the steps that its program issues.
Everything else here is asked of one step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, Final, Literal, TypeVar, get_args

from pydantic import BaseModel

from saga.authoring.mapping import check_undo, fill
from saga.authoring.messages import not_known
from saga.authoring.seclusion import secluded
from saga.contracts import (
    Contract,
    ContractRegistry,
    Event,
    Intent,
    Kind,
    Unreadable,
    contract_of,
    decode,
    encode,
    message_of,
    read,
)
from saga.contracts.between_sagas import CHILD_ENDED
from saga.core.durations import Duration, duration_us
from saga.core.events import ChildEnded, ChildStatus, Message
from saga.core.identity import StepId
from saga.core.program import DoStep, Publish, Tell
from saga.core.retry import FOREVER, ONCE, STEP_DEFAULT, UNDO_DEFAULT, Retry
from saga.core.runs import prefix
from saga.core.status import StepKind
from saga.core.texts import is_storable, storable
from saga.errors import ChildRolledBack, DefinitionError, TimedOut

UndoSpec = type[Intent[Any]] | Callable[[Any, Any], Intent[Any]]
ReplyT = TypeVar("ReplyT", bound=Event | None)
UndoOf = type[Intent[Any]] | Callable[[Any, ReplyT | None], Intent[Any]]
"""An `UndoSpec` that can take the reply to be undone, or None where none came."""
StepKindName = Literal["compensatable", "pivot", "retriable", "read_only", "harmless"]
STEP_ID_CHARS_MAX = 200
NAME_SHOWN_CHARS_MAX = 60
_KINDS: Final = {name: StepKind(name) for name in get_args(StepKindName)}
_PLAIN, _COMPENSATABLE, _INTENT = StepKind.PLAIN, StepKind.COMPENSATABLE, Kind.INTENT
_BY_FUNCTION: Final = Intent
"""Stands for every undo that is no class: only that there is one matters beforehand."""


@dataclass(slots=True, eq=False)
class AuthoredStep(DoStep):
    """A step as its author has it.

    *intent* is what is issued: an intent, or the event that starts a child. *number*: in which
    order its saga came to it, where its front-end counts; else 0. *read*: its reply, as it came
    and as today's contract has it.
    """

    intent: Intent[Any] | Event
    undo: UndoSpec | None
    number: int = field(default=0, init=False)
    read: tuple[Message, BaseModel] | None = field(default=None, init=False)


@dataclass(slots=True, eq=False)
class ChildStep(AuthoredStep):
    """A step that starts another saga; *outcome* is what that is to end with, if with anything."""

    is_child: ClassVar[bool] = True
    outcome: type[Event] | None


S = TypeVar("S", bound=AuthoredStep)
C = TypeVar("C", bound=ChildStep)


class Steps:
    """Makes the steps of one run of a saga, what it tells and what it publishes, and names them.

    What cannot work raises DefinitionError, in words that begin with the *call* of the author.
    """

    __slots__ = ("_is_known", "_prefix", "numbers")

    def __init__(self, registry: ContractRegistry, run: int) -> None:
        self._is_known = registry.paths.__contains__
        self._prefix = prefix(run)
        self.numbers: dict[str, int] = {}
        """Ids that are taken; the number of the last one that is named like it, 0: none is."""

    def do(
        self,
        make: Callable[..., S],
        intent: Intent[Any],
        *,
        undo: UndoSpec | None = None,
        id: str | None = None,
        kind: StepKindName | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        undo_retry: Retry | None = None,
        call: str = "ctx.do",
    ) -> S:
        """A step that issues *intent*; *make* is `AuthoredStep`, or a class of the front-end."""
        undo_class = undo if undo is None or isinstance(undo, type) else _BY_FUNCTION
        contract, step_kind = checked(type(intent), undo_class, kind, call)
        name = contract.contract_name
        if not self._is_known(name):
            raise not_known(contract)
        return make(
            self.step_id(id, contract.name),
            name,
            encode(intent),
            step_kind,
            retry or (FOREVER if kind == "retriable" else STEP_DEFAULT),
            None if timeout is None else duration_us(timeout),
            None if undo is None else undo_retry or UNDO_DEFAULT,
            intent,
            undo,
        )

    def child(
        self,
        make: Callable[..., C],
        trigger: Event,
        *,
        outcome: type[Event] | None = None,
        timeout: Duration | None = None,
        id: str | None = None,
        call: str = "ctx.child",
    ) -> C:
        """A step that starts another saga; *make* is `ChildStep`, or a class of the front-end."""
        contract = _checked_child(trigger, outcome, self._is_known, call)
        return make(
            self.step_id(id, contract.name),
            contract.contract_name,
            encode(trigger),
            _COMPENSATABLE,
            ONCE,
            None if timeout is None else duration_us(timeout),
            UNDO_DEFAULT,
            trigger,
            None,
            outcome,
        )

    def tell(self, intent: Intent[Any], call: str = "ctx.tell") -> Tell:
        """An intent whose reply nobody waits for."""
        contract, _ = checked(type(intent), None, None, call)
        if not self._is_known(contract.contract_name):
            raise not_known(contract)
        return Tell(self.step_id(None, contract.name), message_of(intent))

    def publish(self, event: Event, call: str = "ctx.publish") -> Publish:
        """A fact for everybody before the saga ends."""
        contract = contract_of(event)
        if contract.kind is not Kind.EVENT:
            raise DefinitionError(f"{call} takes an Event, not {type(event).__name__}")
        if not self._is_known(contract.contract_name):
            raise not_known(contract)
        counter = "/" + contract.contract_name  # no step has such an id
        number = self.numbers[counter] = self.numbers.get(counter, 0) + 1
        return Publish(f"{self._prefix}{contract.name}-{number}", message_of(event))

    def step_id(self, id: str | None, name: str) -> StepId:
        """The id that is given, or *name*, numbered from 2 on; it names one step of the saga."""
        numbers = self.numbers
        if id is None and name not in numbers:
            numbers[name] = 1
            return StepId(self._prefix + name)
        if id is not None:
            check_id("step", id)
        elif numbers[name]:
            numbers[name] += 1
            id = f"{name}-{numbers[name]}"
        else:
            id = name
        if id in numbers:
            raise DefinitionError(f"step id {id!r} is used twice")
        numbers[id] = 0
        return StepId(self._prefix + id)


@lru_cache(maxsize=4096)
def checked(
    intent: type[Intent[Any]],
    undo: type[Intent[Any]] | None,
    kind: StepKindName | None,
    call: str,
) -> tuple[Contract, StepKind]:
    """What the classes that *call* is given say of a step, if they make sense together."""
    if issubclass(intent, type):
        message = f"{call} takes an Intent and was given a class: fill it in, as in Pay(amount=1)"
        raise DefinitionError(message)
    contract = contract_of(intent)
    if contract.kind is not _INTENT:
        raise DefinitionError(f"{call} takes an Intent, not {intent.__name__}")
    if undo is None and kind == "compensatable":
        raise DefinitionError(f"{intent.__name__}: a compensatable step needs an undo")
    if undo is not None and kind in ("read_only", "harmless"):
        named = kind.replace("_", "-")
        raise DefinitionError(f"{intent.__name__}: a {named} step has nothing to undo")
    if undo is not None and undo is not _BY_FUNCTION:
        check_undo(intent, undo)
    if kind is None:
        return contract, _PLAIN if undo is None else _COMPENSATABLE
    known = _KINDS.get(kind)
    if known is None:
        raise DefinitionError(f"kind={kind!r}: expected one of {', '.join(_KINDS)}")
    return contract, known


def check_id(of: str, id: str) -> None:
    """Refuse what cannot be the id of a step, or of whatever it is *of*."""
    if not id or "/" in id or len(id) > STEP_ID_CHARS_MAX or not is_storable(id):
        raise DefinitionError(
            f"{of} id {shown_name(id)}: 1 to {STEP_ID_CHARS_MAX} characters without '/', NUL or "
            f"half a surrogate pair"
        )


def shown_name(name: object) -> str:
    """A name that is refused, in quotes, of any length."""
    return storable(repr(name), NAME_SHOWN_CHARS_MAX)


def read_reply(registry: ContractRegistry, step: AuthoredStep, reply: Message) -> BaseModel:
    """The reply to *step* in its current version; it was accepted, if not by today's contract."""
    if step.read is None or step.read[0] != reply:
        step.read = (reply, read(registry, reply))
    return step.read[1]


def refusal_of_reply(
    registry: ContractRegistry, step: AuthoredStep, reply: Message | None
) -> str | None:
    """Why *reply* is no answer to the intent of *step*; None when it is."""
    name = None if reply is None else reply.contract
    if name in registry.replies[step.contract]:
        return None
    expected = contract_of(step.intent).reply
    if expected is None:
        return f"it has no reply of its own, not {name}"
    answer = f"it is answered by {contract_of(expected).contract_name}"
    return answer if name is None else f"{answer}, not {name}"


def refusal_of_entered(
    registry: ContractRegistry, step: AuthoredStep, reply: Message | None
) -> str | None:
    """Why what an operator has entered is no reply to *step*, also by its content."""
    refusal = refusal_of_reply(registry, step, reply)
    if refusal is not None or reply is None:
        return refusal
    found = decode(registry, reply.contract, reply.payload.encode())
    return storable(found.message) if isinstance(found, Unreadable) else None


def undo_of(registry: ContractRegistry, step: AuthoredStep, reply: Message | None) -> Message:
    """The intent that undoes *step*; *reply* is None where none came."""
    replied = None if reply is None else read_reply(registry, step, reply)
    undo = step.undo
    assert undo is not None, step.step
    intent: object
    if isinstance(undo, type):
        intent = fill(undo, step.intent, replied)
    else:
        with secluded():
            intent = undo(step.intent, replied)
    if not isinstance(intent, Intent):
        raise DefinitionError(f"the undo of {step.step} gave {type(intent).__name__}, no Intent")
    contract = contract_of(intent)
    name = contract.contract_name
    if name not in registry:
        raise DefinitionError(f"the undo of {step.step}: {not_known(contract)}")
    return Message(name, encode(intent))


def result_of_child(
    registry: ContractRegistry, step: ChildStep, ended: ChildEnded | None
) -> Event | TimedOut | ChildRolledBack | None:
    """What a child came to: its outcome, or the failure of its step. *ended* None: it is late.

    Raises:
        DefinitionError: its outcome is not the one that was asked for.
    """
    if ended is None:
        return TimedOut(step.step, "child")
    if ended.status is ChildStatus.COMPLETED:
        return _outcome_of_child(registry, step, ended.outcome)
    return ChildRolledBack(
        step.step,
        status=ended.status.value,
        reason=ended.reason or ended.status.value.replace("_", " "),
        code=ended.code,
        failed_step=ended.failed_step,
        residue=ended.residue,
    )


def _outcome_of_child(
    registry: ContractRegistry, step: ChildStep, outcome: Message | None
) -> Event | None:
    if step.outcome is None:
        return None
    expected = contract_of(step.outcome).contract_name
    ended = f"the child of step {step.step!r} ended"
    if outcome is None:
        raise DefinitionError(f"{ended} without an outcome, not with {expected}: {_ADVICE}")
    event = read(registry, outcome) if outcome.contract in registry else None
    if not isinstance(event, step.outcome):
        raise DefinitionError(f"{ended} with {outcome.contract}, not with {expected}: {_ADVICE}")
    return event


def _checked_child(
    trigger: object, outcome: object, is_known: Callable[[str], bool], call: str
) -> Contract:
    """The contract of a child's trigger; DefinitionError where the call makes no sense."""
    if isinstance(trigger, type):
        example = f"{trigger.__name__}(…)"
        raise DefinitionError(f"{call} takes an event and was given a class: pass {example}")
    if not isinstance(trigger, Event) or contract_of(trigger).kind is not Kind.EVENT:
        raise DefinitionError(
            f"{call} takes the event that starts the child, not {type(trigger).__name__}"
        )
    if outcome is not None and not (isinstance(outcome, type) and issubclass(outcome, Event)):
        raise DefinitionError(f"outcome={outcome!r}: expected an Event class, or None")
    contract = contract_of(trigger)
    for each in (contract, *(() if outcome is None else (contract_of(outcome),))):
        if not is_known(each.contract_name):
            raise not_known(each)
    if not is_known(CHILD_ENDED):
        raise DefinitionError(
            f"this application does not read what children say, as no source shows a call of "
            f"{call}: write it in the saga's function, or in a helper of the same package"
        )
    return contract


_ADVICE = "give ctx.child the outcome that it has (outcome=…), deploy that and release the saga"
