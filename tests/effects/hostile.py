"""What users' code may raise, by name: each fails its own attempt and nothing else."""

import asyncio
from collections.abc import Callable
from typing import NoReturn

from saga.effects import Refused


class Odd(BaseException):
    """No `Exception`, as those of other people's frameworks that pass through everything."""


class Unreadable(Exception):
    """Its text cannot be had."""

    def __str__(self) -> str:
        raise SystemExit("no text")


class Unrenderable(Exception):
    """It ends whoever writes its traceback."""

    @property
    def __notes__(self) -> list[str]:
        raise SystemExit("no notes")


class Shy(Exception):
    def __str__(self) -> str:
        raise ValueError("no text either")


class Evasive(Refused):
    """Says no, and not why."""

    def __init__(self) -> None:
        super().__init__("no")
        self.message = Unreadable()


def _raises(error: Callable[[], BaseException]) -> Callable[[], NoReturn]:
    def misbehave() -> NoReturn:
        raise error()

    return misbehave


ERRORS: dict[str, Callable[[], BaseException]] = {
    "SystemExit": lambda: SystemExit(3),
    "CancelledError": asyncio.CancelledError,
    "GeneratorExit": GeneratorExit,
    "StopIteration": lambda: StopIteration(7),
    "StopAsyncIteration": StopAsyncIteration,
    "Odd": lambda: Odd("odd"),
    "BaseExceptionGroup": lambda: BaseExceptionGroup("both", [SystemExit(1), Odd()]),
    "ExceptionGroup": lambda: ExceptionGroup("both", [ValueError("1"), OSError("2")]),
    "cancelled group": lambda: BaseExceptionGroup("c", [asyncio.CancelledError()]),
    "Unreadable": Unreadable,
    "Unrenderable": Unrenderable,
    "Shy": Shy,
    "Evasive": Evasive,
    "half a character": lambda: ValueError("\ud800\x00"),
    "half a refusal": lambda: Refused("\ud800\x00", code="\udfff"),
    "a megabyte": lambda: ValueError("x" * 1_048_576),
}
HOSTILE = {name: _raises(error) for name, error in ERRORS.items()}
REFUSALS = {"Evasive", "half a refusal"}
"""These say no, and are final."""
