"""The handlers of a service: for intents, for facts, and to make its tables at the start.

Whatever is wrong with a handler is reported when it is registered, with file and line.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import partial
from types import CodeType, MappingProxyType
from typing import Any, Final, TypeVar, get_type_hints

from saga.contracts import Contract, ContractModel, Event, Intent, contract_of
from saga.contracts.models import NAME_PART
from saga.core.identity import SagaId
from saga.core.values import value
from saga.errors import DefinitionError

HandlerT = TypeVar("HandlerT", bound=Callable[..., object])

_UNKNOWN: Final = object()


@value(kw_only=True)
class EffectContext:
    """The message in hand, and the service's tables.

    Args:
        intent_id: the intent's id; for a fact, the message's.
        idempotency_key: the same for every attempt at the step; hand it on to systems that take
            one.
        saga_id: the saga that asks; for a fact the saga it is about, empty where it names none.
        key: the business key of the saga.
        attempt: 1 for the first.
        db: the service's own tables, inside the transaction in which the answer is kept: a write
            happens once, however often the message is delivered. `execute(sql, **params)` returns
            the number of rows touched, `fetch(sql, **params)` a list of dicts; parameters are
            written `:name`. Awaited in `async` handlers, plain calls in sync ones. `raw` is the
            driver's connection; its transaction must be left alone. An `async` handler that does
            not name `raw` itself, but calls something that does, awaits a statement before that.

    The first use of `db` takes the service's one write transaction until the handler ends, and
    other handlers wait for it. (An `async` handler that names `raw` takes it when it begins.) So
    touch `db` last, after everything else that takes time.
    """

    intent_id: str
    idempotency_key: str
    saga_id: SagaId
    key: str
    attempt: int
    # A `Database` in async handlers, a `ThreadDatabase` in sync ones; one annotation serves both.
    db: Any


@value(kw_only=True)
class Handler:
    """A function and the contract that it handles.

    Attributes:
        is_async: whether it is awaited, rather than run in a thread.
        uses_raw: whether it asks for the driver's connection, `ctx.db.raw`.
        where: its `file:line`.
    """

    contract: Contract
    function: Callable[..., Any]
    is_async: bool
    uses_raw: bool
    where: str

    @property
    def name(self) -> str:
        """The function's name and place."""
        return f"{_name(self.function)} ({self.where})"


@value(kw_only=True)
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
        if not NAME_PART.fullmatch(name):
            raise DefinitionError(
                f"Effects({name!r}): expected small letters, digits and inner hyphens", where=where
            )
        self.name: Final = name
        self.where: Final = where
        self._intents: dict[type[ContractModel], Handler] = {}
        self._facts: dict[type[ContractModel], Handler] = {}
        self._starters: list[Starter] = []

    @property
    def intents(self) -> MappingProxyType[type[ContractModel], Handler]:
        """The handlers of intents, by contract class."""
        return MappingProxyType(self._intents)

    @property
    def facts(self) -> MappingProxyType[type[ContractModel], Handler]:
        """The listeners to facts, by contract class."""
        return MappingProxyType(self._facts)

    @property
    def starters(self) -> tuple[Starter, ...]:
        """The functions of `on_start`, in the order of definition."""
        return tuple(self._starters)

    def on(self, intent: type[Intent[Any]]) -> Callable[[HandlerT], HandlerT]:
        """Handle an intent: `(intent, ctx) -> reply`, `async def` or `def` (then run in a thread).

        Raises:
            DefinitionError: *intent* is no intent with a topic, has a handler already, or the
                function does not fit it.
        """
        contract = self._contract(intent, Intent, "on", _caller())
        reply = type(None) if contract.reply is None else contract.reply
        return self._register(self._intents, contract, reply)

    def listens(self, event: type[Event]) -> Callable[[HandlerT], HandlerT]:
        """Listen to a fact: `(event, ctx) -> None`, called once for each id of a message.

        Raises:
            DefinitionError: *event* is no event with a topic, has a listener already, or the
                function does not fit it.
        """
        contract = self._contract(event, Event, "listens", _caller())
        return self._register(self._facts, contract, type(None))

    def on_start(self, function: HandlerT) -> HandlerT:
        """Call *function* `(db)` whenever the service starts, to make its tables where they miss.

        Raises:
            DefinitionError: it does not take exactly one argument.
        """
        where = _place(function)
        parameters = _positional(function, where)
        if len(parameters) != 1:
            raise DefinitionError(
                f"{_name(function)} must take one argument, the db: (db) -> None", where=where
            )
        starter = Starter(function=function, is_async=_is_async(function), where=where)
        self._starters.append(starter)
        return function

    def _contract(
        self, model: object, kind: type[ContractModel], verb: str, where: str
    ) -> Contract:
        if not (isinstance(model, type) and issubclass(model, kind)):
            raise DefinitionError(
                f"{self.name}.{verb}({getattr(model, '__qualname__', model)}): expected a class"
                f" derived from {kind.__name__}, with a topic",
                where=where,
            )
        try:
            return contract_of(model)
        except DefinitionError as error:
            raise DefinitionError(error.problem, where=where) from error

    def _register(
        self, handlers: dict[type[ContractModel], Handler], contract: Contract, returns: type
    ) -> Callable[[HandlerT], HandlerT]:
        names = sys._getframe(2).f_locals  # noqa: SLF001  # annotations may name local classes

        def register(function: HandlerT) -> HandlerT:
            where = _place(function)
            other = handlers.get(contract.model)
            if other is not None:
                raise DefinitionError(
                    f"{contract.contract_name} already has a handler in {self.name!r}:"
                    f" {other.name}",
                    where=where,
                )
            _check(function, contract, returns, names, where)
            handlers[contract.model] = Handler(
                contract=contract,
                function=function,
                is_async=_is_async(function),
                uses_raw=_uses_raw(function),
                where=where,
            )
            return function

        return register


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
        raise DefinitionError(
            f"{_name(function)} must take two arguments, the message and its context: {expected}",
            where=where,
        )
    try:
        hints = get_type_hints(function, localns=names)
    except (NameError, TypeError):
        return  # an annotation for type checkers only; the reply is checked when it is there
    fitting = {parameters[0]: contract.model, parameters[1]: EffectContext, "return": returns}
    for name, expected_type in fitting.items():
        hint = hints.get(name, _UNKNOWN)
        if hint not in (_UNKNOWN, Any, expected_type):
            raise DefinitionError(
                f"{_name(function)} has {name!r} annotated as"
                f" {getattr(hint, '__qualname__', hint)}, but handles"
                f" {contract.contract_name}: expected {expected}",
                where=where,
            )


def _positional(function: Callable[..., object], where: str) -> list[str]:
    """The names of the parameters that must be given by position."""
    if not callable(function):
        raise DefinitionError(f"{function!r} is no function", where=where)
    needed: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        has_default = parameter.default is not parameter.empty
        match parameter.kind:
            case parameter.POSITIONAL_ONLY | parameter.POSITIONAL_OR_KEYWORD if not has_default:
                needed.append(parameter.name)
            case parameter.KEYWORD_ONLY if not has_default:
                raise DefinitionError(
                    f"{_name(function)} needs {parameter.name!r} by name; it is called by position",
                    where=where,
                )
            case _:
                continue
    return needed


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
