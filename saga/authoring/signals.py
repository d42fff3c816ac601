"""What one saga asks of another, checked before anything is recorded."""

from __future__ import annotations

from typing import Final

from pydantic_core import PydanticSerializationError, to_jsonable_python

from saga.contracts import canonical
from saga.contracts.keys import key_text
from saga.core.events import Json
from saga.core.program import Signal
from saga.core.texts import is_storable, storable
from saga.errors import DefinitionError, MessageError

NAME_CHARS_MAX: Final = 200
"""Of a signal or an update, as a command has room for."""
NAME_SHOWN_CHARS_MAX: Final = 60


def check_name(call: str, what: str, name: object) -> None:
    """Raise DefinitionError where *name* can be no name of a signal or an update."""
    if not isinstance(name, str) or not 0 < len(name) <= NAME_CHARS_MAX or not is_storable(name):
        raise DefinitionError(
            f"{call}({storable(repr(name), NAME_SHOWN_CHARS_MAX)}): {what}'s name has 1 to "
            f"{NAME_CHARS_MAX} characters, without NUL or half a surrogate pair"
        )


def json_of(call: str, value: object) -> Json:
    """*value* as canonical JSON; DefinitionError where JSON cannot say it."""
    try:
        return canonical(to_jsonable_python(value))
    except (MessageError, PydanticSerializationError) as error:
        raise DefinitionError(f"{call}: JSON cannot say this: {storable(str(error))}") from None


def checked_signal(
    number: int, definition: object, key: object, name: object, payload: object
) -> Signal:
    """The signal that `ctx.signal` was asked for; DefinitionError where there can be none."""
    is_name = isinstance(definition, str) and definition.strip() and "/" not in definition
    if not is_name or not is_storable(str(definition)):
        shown = storable(repr(definition), NAME_SHOWN_CHARS_MAX)
        raise DefinitionError(f"ctx.signal({shown}, …): give the name of a saga's definition")
    check_name("ctx.signal", "a signal", name)
    call = f"ctx.signal({definition!r}, …, {name!r})"
    try:
        text = key_text(key)
    except ValueError as error:
        raise DefinitionError(f"{call}: the key {error}") from None
    return Signal(number, str(definition), text, str(name), json_of(call, payload))
