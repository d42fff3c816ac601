"""The handlers of a service; what is wrong with one is reported when it is registered."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import field
from functools import partial
from types import CodeType, UnionType
from typing import (
    Any,
    Final,
    Generic,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    overload,
)

from saga.contracts import Contract, ContractModel, Event, Intent, contract_of
from saga.contracts.models import NAME_PART
from saga.core.identity import SagaId
from saga.core.values import value
from saga.effects.link import Link
from saga.errors import DefinitionError

NAME_CHARS_MAX: Final = 100
"""It is part of a consumer group's name, and of each key of an inbox."""
HandlerT = TypeVar("HandlerT", bound=Callable[..., object])
Middleware = Callable[[Any, "EffectContext", "CallNext"], Awaitable[Any]]
CallNext = Callable[[Any, "EffectContext"], Awaitable[Any]]
MiddlewareT = TypeVar("MiddlewareT", bound=Middleware)
MIDDLEWARE_ARGUMENTS: Final = 3
Message = TypeVar("Message")
Message_co = TypeVar("Message_co", covariant=True)
IntentT = TypeVar("IntentT", bound=Intent[Any])
EventT = TypeVar("EventT", bound=Event)
ReplyT = TypeVar("ReplyT", bound=Event | None)
AsyncHandler = Callable[[Message, "EffectContext"], Coroutine[Any, Any, ReplyT]]
ThreadHandler = Callable[[Message, "EffectContext"], ReplyT]

_UNKNOWN: Final = object()
NOBODY: Final = Link()


@value(kw_only=True)
class EffectContext:
    """The message in hand, and the service's tables.

    The first use of `db` takes the service's one write transaction until the handler ends, and
    other handlers wait for it: touch it last. An `async` handler that names `raw` takes it when it
    begins; one that only calls something that uses `raw` awaits a statement before that.

    Args:
        intent_id: the intent's id; for a fact, the message's.
        idempotency_key: the same for every attempt; hand it on to systems that take one.
        saga_id: the saga that asks; for a fact the saga it is about, empty where it names none.
        attempt: 1 for the first.
        cancelled: whether the saga waits no more: the step's time is up, or it was given up. Raise
            whatever you like then; an answer counts as ever, so that its effect is undone.
        db: the tables, inside the transaction in which the answer is kept: a write happens once.
            `execute(sql, **params)` returns the number of rows touched, `fetch(sql, **params)` a
            list of dicts; parameters are written `:name`; `async` handlers await both. `raw` is the
            driver's connection; its transaction must be left alone.
    """

    intent_id: str
    idempotency_key: str
    saga_id: SagaId
    key: str
    attempt: int
    # A `Database` in async handlers, a `ThreadDatabase` in sync ones; one annotation serves both.
    db: Any
    link: Link = field(default=NOBODY, repr=False)

    @property
    def cancelled(self) -> bool:
        return self.link.is_cancelled(self.intent_id)

    def progress(self, note: str | None = None) -> Any:
        """Say that the work goes on, and have the step's deadline begin anew.

        Awaited in `async` handlers, a plain call in sync ones. It may be lost, as a notice may.
        """
        return self.link.progress(self.intent_id, note)


@value(kw_only=True)
class Limits:
    """What one process keeps to for one intent; None is without limit."""

    at_once: int | None = None
    per_second: float | None = None


@value
class Handler:
    """A function and the contract that it handles; *uses_raw*: it asks for `ctx.db.raw`."""

    contract: Contract
    function: Callable[..., Any]
    is_async: bool
    uses_raw: bool
    where: str
    limits: Limits | None = None

    @property
    def name(self) -> str:
        return f"{_name(self.function)} ({self.where})"


class HandlerOf(Generic[Message_co]):
    """Registers the handler of one contract: `(message, ctx) -> reply`, as type checkers know it.

    Like `type`, it is covariant: what replies to `Pay` is found in it as an `Intent[Paid]`.
    """

    def __init__(self, register: Callable[[Any], Any]) -> None:
        self._register = register

    @overload
    def __call__(
        self: HandlerOf[Intent[ReplyT]], handler: AsyncHandler[Message_co, ReplyT], /
    ) -> AsyncHandler[Message_co, ReplyT]: ...
    @overload
    def __call__(
        self: HandlerOf[Intent[ReplyT]], handler: ThreadHandler[Message_co, ReplyT], /
    ) -> ThreadHandler[Message_co, ReplyT]: ...
    @overload
    def __call__(
        self: HandlerOf[Event], handler: AsyncHandler[Message_co, None], /
    ) -> AsyncHandler[Message_co, None]: ...
    @overload
    def __call__(
        self: HandlerOf[Event], handler: ThreadHandler[Message_co, None], /
    ) -> ThreadHandler[Message_co, None]: ...
    def __call__(self, handler: Any, /) -> Any:
        return self._register(handler)


@value
class Starter:
    """A function that makes the service's tables."""

    function: Callable[..., Any]
    is_async: bool
    where: str


class Effects:
    """The handlers of one service. *name* names its inbox and its consumer group: it must stay.

    Raises:
        DefinitionError: *name* cannot be part of a topic's name.
    """

    def __init__(self, name: str) -> None:
        where = _caller()
        if not NAME_PART.fullmatch(name) or len(name) > NAME_CHARS_MAX:
            problem = (
                f"Effects({name[:NAME_CHARS_MAX]!r}): expected small letters, digits and inner "
                f"hyphens, at most {NAME_CHARS_MAX}"
            )
            raise DefinitionError(problem, where=where)
        self.name: Final = name
        self.where: Final = where
        self.intents: Final[dict[type[ContractModel], Handler]] = {}
        self.facts: Final[dict[type[ContractModel], Handler]] = {}
        self.starters: Final[list[Starter]] = []
        self.middleware: Final[list[Middleware]] = []

    def on(
        self,
        intent: type[IntentT],
        *,
        at_once: int | None = None,
        per_second: float | None = None,
    ) -> HandlerOf[IntentT]:
        """Handle an intent: `(intent, ctx) -> reply`, `async def` or `def` (then run in a thread).

        Args:
            at_once: so many calls run side by side in one process, at most.
            per_second: so many calls a second begin in one process, at most.

        Raises:
            DefinitionError: it has no topic or has a handler already, or the function does not fit.
        """
        where = _caller()
        contract = self._contract(intent, Intent, "on", where)
        reply = type(None) if contract.reply is None else contract.reply
        limits = _limits(f"{self.name}.on({intent.__qualname__})", at_once, per_second, where)
        return HandlerOf(self._register(self.intents, contract, reply, limits))

    def listens(self, event: type[EventT]) -> HandlerOf[EventT]:
        """Listen to a fact: `(event, ctx) -> None`, called once for each id of a message.

        Raises:
            DefinitionError: it has no topic or has a listener, or the function does not fit.
        """
        contract = self._contract(event, Event, "listens", _caller())
        return HandlerOf(self._register(self.facts, contract, type(None)))

    def around(self, function: MiddlewareT) -> MiddlewareT:
        """Call *function* `async (message, ctx, call_next)` around every handler of this service.

        `await call_next(message, ctx)` calls the next one, and at last the handler; it gives the
        reply. What one raises fails the attempt, as what the handler raises does. The first that
        was registered is the outermost.

        Raises:
            DefinitionError: it is not async, or does not take exactly these three arguments.
        """
        where = _place(function)
        if not _is_async(function) or len(_positional(function, where)) != MIDDLEWARE_ARGUMENTS:
            problem = f"{_name(function)} must be `async def (message, ctx, call_next)`"
            raise DefinitionError(problem, where=where)
        self.middleware.append(function)
        return function

    def on_start(self, function: HandlerT) -> HandlerT:
        """Call *function* `(db)` whenever the service starts, to make its tables where they miss.

        Raises:
            DefinitionError: it does not take exactly one argument.
        """
        where = _place(function)
        if len(_positional(function, where)) != 1:
            problem = f"{_name(function)} must take one argument, the db: (db) -> None"
            raise DefinitionError(problem, where=where)
        self.starters.append(Starter(function, _is_async(function), where))
        return function

    def _contract(
        self, model: object, kind: type[ContractModel], verb: str, where: str
    ) -> Contract:
        if not (isinstance(model, type) and issubclass(model, kind)):
            call = f"{self.name}.{verb}({getattr(model, '__qualname__', model)})"
            problem = f"{call}: expected a class derived from {kind.__name__}, with a topic"
            raise DefinitionError(problem, where=where)
        try:
            return contract_of(model)
        except DefinitionError as error:
            raise DefinitionError(error.problem, where=where) from error

    def _register(
        self,
        handlers: dict[type[ContractModel], Handler],
        contract: Contract,
        returns: type,
        limits: Limits | None = None,
    ) -> Callable[[HandlerT], HandlerT]:
        names = sys._getframe(2).f_locals  # noqa: SLF001  # annotations may name local classes

        def register(function: HandlerT) -> HandlerT:
            where = _place(function)
            other = handlers.get(contract.model)
            if other is not None:
                known = f"{contract.contract_name} already has a handler in {self.name!r}"
                raise DefinitionError(f"{known}: {other.name}", where=where)
            _check(function, contract, returns, names, where)
            uses_raw = _uses_raw(function)
            handler = Handler(contract, function, _is_async(function), uses_raw, where, limits)
            handlers[contract.model] = handler
            return function

        return register


def _limits(call: str, at_once: int | None, per_second: float | None, where: str) -> Limits | None:
    if at_once is not None and at_once < 1:
        raise DefinitionError(f"{call}: at_once={at_once}: at least one is needed", where=where)
    if per_second is not None and not 0 < per_second < math.inf:
        problem = f"{call}: per_second={per_second}: expected a number above 0"
        raise DefinitionError(problem, where=where)
    if at_once is None and per_second is None:
        return None
    return Limits(at_once=at_once, per_second=per_second)


def _check(
    function: Callable[..., object],
    contract: Contract,
    returns: type,
    names: dict[str, Any],
    where: str,
) -> None:
    """Refuse a function whose parameters or annotations do not fit the contract."""
    model = contract.model.__qualname__
    reply = "None" if returns is type(None) else returns.__qualname__
    expected = f"({model}, EffectContext) -> {reply}"
    parameters = _positional(function, where)
    if len(parameters) != len(("message", "context")):
        problem = "must take two arguments, the message and its context"
        raise DefinitionError(f"{_name(function)} {problem}: {expected}", where=where)
    try:
        hints = get_type_hints(function, localns=names)
    except (NameError, TypeError):
        return  # an annotation for type checkers only; the reply is checked when it is there
    fitting = {parameters[0]: contract.model, parameters[1]: EffectContext, "return": returns}
    for name, expected_type in fitting.items():
        hint = hints.get(name, _UNKNOWN)
        fits = _is_wide_enough if name in parameters else _is_same
        if hint is not _UNKNOWN and hint is not Any and not fits(hint, expected_type):
            said = f"has {name!r} annotated as {getattr(hint, '__qualname__', hint)}"
            wanted = f"but handles {contract.contract_name}: expected {expected}"
            raise DefinitionError(f"{_name(function)} {said}, {wanted}", where=where)


def _is_same(hint: object, expected: type) -> bool:
    return hint == expected


def _is_wide_enough(hint: object, expected: type) -> bool:
    """Whether a parameter of this annotation takes an *expected*, as type checkers see it."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return any(isinstance(kind, type) and issubclass(expected, kind) for kind in kinds)


def _positional(function: Callable[..., object], where: str) -> list[str]:
    """The names of the parameters that must be given by position."""
    if not callable(function):
        raise DefinitionError(f"{function!r} is no function", where=where)
    parameters = inspect.signature(function).parameters.values()
    needed = [each for each in parameters if each.default is each.empty]
    for parameter in needed:
        if parameter.kind is parameter.KEYWORD_ONLY:
            problem = f"needs {parameter.name!r} by name; it is called by position"
            raise DefinitionError(f"{_name(function)} {problem}", where=where)
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [each.name for each in needed if each.kind not in variadic]


def _is_async(function: Callable[..., object]) -> bool:
    # An object may have an async `__call__`.
    call = getattr(function, "__call__", None)  # noqa: B004  # asked for itself, not as a test
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def _uses_raw(function: Callable[..., object]) -> bool:
    while isinstance(function, partial):
        function = function.func
    function = inspect.unwrap(function)
    if not hasattr(function, "__code__"):
        function = type(function).__call__
    code = getattr(function, "__code__", None)
    return code is not None and _names_raw(code)


def _names_raw(code: CodeType) -> bool:
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return "raw" in code.co_names or any(map(_names_raw, inner))


def _name(function: Callable[..., object]) -> str:
    return getattr(function, "__qualname__", repr(function))


def _place(function: Callable[..., object]) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else _caller()


def _caller() -> str:
    frame = sys._getframe(1)  # noqa: SLF001  # the caller's place is the point of the message
    while frame.f_back is not None and frame.f_globals.get("__name__") == __name__:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
