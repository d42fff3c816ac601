"""What somebody asks of a running saga: its code answers it, or refuses it, exactly once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeVar

from saga.authoring.signals import json_of
from saga.core.events import UpdateReceived
from saga.core.intents import UPDATE_ENDED, UPDATE_INVALID, UPDATE_NOT_NOW
from saga.core.program import Answer
from saga.core.texts import is_storable, storable
from saga.errors import DefinitionError

T = TypeVar("T")
CODE_CHARS_MAX: Final = 200
MESSAGE_CHARS_MAX: Final = 4_000


class Request(Generic[T]):
    """An update that the saga has taken.

    Attributes:
        id: what its sender knows it by.
        name: what is asked.
        payload: with what, as the model of the call has it.
        actor: who asks; None where that is not known.
        is_answered: whether it was answered or refused.
    """

    __slots__ = ("_say", "actor", "id", "is_answered", "name", "payload")

    def __init__(self, received: UpdateReceived, payload: T, say: Callable[[Answer], None]) -> None:
        self.id = received.update
        self.name = received.name
        self.payload = payload
        self.actor = received.actor
        self.is_answered = False
        self._say = say

    def answer(self, value: object = None) -> None:
        """Answer with what JSON can say, a model too.

        Raises:
            DefinitionError: it was answered or refused before, or JSON cannot say *value*.
        """
        call = f"the answer to update {self.name!r}"
        self._close(Answer(self.id, answer=json_of(call, value)))

    def refuse(self, code: str, message: str = "") -> None:
        """Say no: *code* is for programs, *message* for people.

        Raises:
            DefinitionError: it was answered or refused before, or *code* is none.
        """
        given: object = code
        if not isinstance(given, str) or not given.strip() or not is_storable(given):
            raise DefinitionError(f"update {self.name!r} is refused with a code, as in 'full'")
        if code in {UPDATE_ENDED, UPDATE_INVALID, UPDATE_NOT_NOW}:
            raise DefinitionError(f"update {self.name!r}: {code!r} is a code of saga's own")
        if len(code) > CODE_CHARS_MAX:
            raise DefinitionError(
                f"the code of a refusal has {len(code)} characters, of at most {CODE_CHARS_MAX}"
            )
        text = storable(str(message), MESSAGE_CHARS_MAX)
        self._close(Answer(self.id, code=code, message=text or None))

    def _close(self, answer: Answer) -> None:
        if self.is_answered:
            raise DefinitionError(
                f"update {self.name!r} was answered already: each is answered or refused once"
            )
        self.is_answered = True
        self._say(answer)

    def __str__(self) -> str:
        return f"update {self.name!r}"
