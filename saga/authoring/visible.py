"""What a running saga lets people see: fields of its own state, and lines in a log."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Final

from pydantic_core import PydanticSerializationError, to_jsonable_python

from saga.contracts import canonical
from saga.core.events import Json
from saga.core.program import Line
from saga.core.texts import described, storable
from saga.errors import DefinitionError, MessageError

FIELDS_SHOWN_MAX: Final = 20
"""At once, of one saga: they are kept in its row of the index."""
NAME_CHARS_MAX: Final = 60
_NUL: Final = "\\u0000"
VALUE_CHARS_MAX: Final = 300
"""Of a text, or of the JSON of anything else: more is cut, and said to be."""


def shown_fields(fields: Mapping[str, object]) -> dict[str, Json]:
    """What `ctx.show` was given, each as canonical JSON that every store takes.

    Raises:
        DefinitionError: a name is no name, or JSON cannot say a value.
    """
    return {_name(name): _shown(name, value) for name, value in fields.items()}


def _name(name: str) -> str:
    if not name.isidentifier() or len(name) > NAME_CHARS_MAX:
        raise DefinitionError(
            f"ctx.show({storable(name, NAME_CHARS_MAX)}=…): a field has a name as in Python, of at "
            f"most {NAME_CHARS_MAX} characters"
        )
    return name


def _shown(name: str, value: object) -> Json:
    """What no store takes, or takes too much room, becomes a text: a show never parks a saga."""
    try:
        plain = to_jsonable_python(value)
    except PydanticSerializationError as error:
        problem = storable(str(error), VALUE_CHARS_MAX)
        message = f"ctx.show({name}=…): JSON cannot say a {type(value).__name__}: {problem}"
        raise DefinitionError(message) from None
    if isinstance(plain, str):
        return canonical(storable(plain, VALUE_CHARS_MAX))
    try:
        text = canonical(plain)
    except MessageError:  # not a number, too deep, half a surrogate pair
        return canonical(storable(str(plain), VALUE_CHARS_MAX))
    if len(text) > VALUE_CHARS_MAX or _NUL in text:
        return canonical(storable(text, VALUE_CHARS_MAX))
    return text


class SagaLog:
    """The logger of one saga. Its lines have the fields `saga_id`, `definition` and `key`.

    A text may have `%s` and the like, as in the standard library; *fields* stand beside it.
    """

    __slots__ = ("_say",)

    def __init__(self, say: Callable[[Line], None]) -> None:
        self._say = say

    def debug(self, text: str, *args: object, **fields: object) -> None:
        self._line(logging.DEBUG, text, args, fields, sys._getframe(1))  # noqa: SLF001  # whose line it is

    def info(self, text: str, *args: object, **fields: object) -> None:
        self._line(logging.INFO, text, args, fields, sys._getframe(1))  # noqa: SLF001  # as above

    def warning(self, text: str, *args: object, **fields: object) -> None:
        self._line(logging.WARNING, text, args, fields, sys._getframe(1))  # noqa: SLF001  # as above

    def error(self, text: str, *args: object, **fields: object) -> None:
        self._line(logging.ERROR, text, args, fields, sys._getframe(1))  # noqa: SLF001  # as above

    def critical(self, text: str, *args: object, **fields: object) -> None:
        self._line(logging.CRITICAL, text, args, fields, sys._getframe(1))  # noqa: SLF001  # as above

    def _line(
        self,
        level: int,
        text: str,
        args: tuple[object, ...],
        fields: Mapping[str, object],
        caller: FrameType,
    ) -> None:
        if taken := _TAKEN.intersection(fields):
            raise DefinitionError(
                f"ctx.log: {min(taken)} is a field of every line: name it otherwise"
            )
        place = (caller.f_code.co_filename, caller.f_lineno, caller.f_code.co_name)
        # As it is now: what it is made of may change before it is written.
        told = {name: _field(value) for name, value in fields.items()}
        self._say(Line(level, _text(text, args), told, place))


_TAKEN: Final = frozenset(
    {*vars(logging.makeLogRecord({})), "message", "asctime", "saga_id", "definition", "key"}
)


def _text(text: object, args: tuple[object, ...]) -> str:
    """A line never fails a turn: what cannot be put together stands apart."""
    try:
        return storable(str(text) % args if args else str(text))
    except Exception as error:  # noqa: BLE001  # users' code: its __str__
        return storable(f"{text!r}, with {len(args)} arguments that do not fit: {described(error)}")


def _field(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    return _text("%s", (value,))
