"""From errors to exit codes and a sentence: what went wrong, where, and what to do.

0 is ok, 1 "it is not so" (not found, check failed, refused), 2 usage or settings, 3 bus or store
unreachable. A traceback is for our own bugs only.
"""

from __future__ import annotations

import traceback
from enum import IntEnum

from saga.console.printer import Printer
from saga.errors import (
    BusUnavailable,
    SagaError,
    SettingsError,
    StoreTooNew,
    StoreUnavailable,
)


class ExitCode(IntEnum):
    """What a command ends with."""

    OK = 0
    NOT_SO = 1
    USAGE = 2
    UNREACHABLE = 3


class NotSo(SagaError):
    """Raised when what was asked for is not there, is refused, or a check has failed."""


class Misused(SagaError):
    """Raised when a command was called in a way that cannot be meant."""


class AppRefused(SagaError):
    """Raised when the application that the settings name cannot be loaded."""


def report(error: BaseException, printer: Printer) -> ExitCode:
    """Say on standard error what *error* means, and which exit code that is."""
    cause = first_cause(error)
    match cause:
        case SettingsError() | Misused() | AppRefused():
            code = ExitCode.USAGE
        case StoreUnavailable() | BusUnavailable() | StoreTooNew():
            code = ExitCode.UNREACHABLE
        case SagaError():
            code = ExitCode.NOT_SO
        case _:
            text = "".join(traceback.format_exception(cause))
            printer.note(f"{text}This is a bug in saga, or in what it was asked to run.")
            return ExitCode.NOT_SO
    printer.note(f"saga: {cause}", style="red")
    return code


def first_cause(error: BaseException) -> BaseException:
    """The error itself, or the first one in a group: of our own kind where there is one."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    causes = [first_cause(one) for one in error.exceptions]
    return next((cause for cause in causes if isinstance(cause, SagaError)), causes[0])
