"""What a running saga lets people see: fields of its own state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pydantic_core import PydanticSerializationError, to_jsonable_python

from saga.contracts import canonical
from saga.core.events import Json
from saga.core.texts import storable
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
