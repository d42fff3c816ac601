"""What a state is: a frozen model whose class says when it times out, and whether it rolls back."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, Unpack, dataclass_transform

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from saga.core.durations import Duration, duration_us
from saga.errors import DefinitionError

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)

_MACHINERY: Final = ("pydantic.", "abc", "saga.authoring.machines.states")
"""Modules whose frames lie between a class statement and its rules."""


@dataclass_transform(
    frozen_default=True, kw_only_default=True, field_specifiers=(Field, PrivateAttr)
)
class StateMeta(ModelMetaclass):
    """Pydantic's own, marked so that type checkers see frozen fields that are given by name."""


class State(BaseModel, metaclass=StateMeta):
    """A state of a machine: `class Paying(State, timeout="30m")`. Its fields are what is known.

    `enter(self)` gives what is done on entering; `handle(self, event)` the state that follows,
    alone or with what is done on the way. Both are plain functions, and may take one argument more,
    a `TurnContext`.

    Class keywords:
        timeout: `TimedOut` comes when the saga has been in the state for so long.
        rolls_back: entering it undoes everything. Its fields `reason` and `code`, if it has them,
            go into the report.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    __saga_timeout__: ClassVar[Duration | None] = None
    __saga_timeout_us__: ClassVar[int | None] = None
    __saga_rolls_back__: ClassVar[bool] = False
    __saga_where__: ClassVar[str] = "unknown place"

    def __init_subclass__(
        cls,
        *,
        timeout: Duration | None = None,
        rolls_back: bool = False,
        **config: Unpack[ConfigDict],
    ) -> None:
        super().__init_subclass__()
        cls.__saga_where__ = _defined_at()
        if config:  # pydantic has taken what it knows
            problem = f"state {cls.__name__}: {min(config)}= is no keyword of a state's class"
            raise DefinitionError(
                f"{problem}: expected timeout= or rolls_back=", where=cls.__saga_where__
            )
        cls.__saga_timeout__ = timeout
        cls.__saga_timeout_us__ = _timeout_us(cls, timeout)
        cls.__saga_rolls_back__ = rolls_back


Row = Mapping[type[object], type[State] | tuple[type[State], ...]]
Transitions = Mapping[type[State], Row]
"""The table of a machine: state, class of event, the state or states that may follow."""


def entering(state: type[State]) -> Callable[..., Any] | None:
    """The function `enter` of a state's class."""
    return getattr(state, "enter", None)


def handling(state: type[State]) -> Callable[..., Any] | None:
    """The function `handle` of a state's class."""
    return getattr(state, "handle", None)


def _timeout_us(state: type[State], timeout: Duration | None) -> int | None:
    if timeout is None:
        return None
    try:
        length_us = duration_us(timeout)
    except ValueError as error:
        problem = f"state {state.__name__}: timeout={error}"
        raise DefinitionError(problem, where=state.__saga_where__) from None
    if not length_us:
        problem = f"state {state.__name__}: timeout={timeout!r} passes before it is entered"
        raise DefinitionError(problem, where=state.__saga_where__)
    return length_us


def _defined_at() -> str:
    """The place of the class statement that is being carried out."""
    frame = sys._getframe(1)  # noqa: SLF001  # the place that messages name
    while str(frame.f_globals.get("__name__")).startswith(_MACHINERY) and frame.f_back is not None:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
