"""Where commands print, and how they fail: results on standard output, the rest on standard error.

With `--json` a result is one JSON object a line, on a terminal and in a pipe. Control characters
are made visible, so that no key or reason can repaint a terminal. An error becomes an exit code and
a sentence; a traceback is for our own bugs only.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Any, Final, Literal

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from saga.errors import (
    BusUnavailable,
    SagaError,
    SettingsError,
    StoreForeign,
    StoreRefused,
    StoreUnavailable,
)

PIPE_WIDTH: Final = 4_000
"""Nothing is cut or folded where no terminal says how wide it is."""
WIDE_COLUMNS: Final = 150
STYLES: Final = {
    **dict.fromkeys(("completed", "done"), "green"),
    **dict.fromkeys(("rolled_back", "undone", "refused"), "yellow"),
    **dict.fromkeys(
        ("rolled_back_with_residue", "undo_stuck", "parked", "stalled", "abandoned"), "red"
    ),
}
Row = Mapping[str, Any]


class Printer:
    """The two streams of one command."""

    def __init__(self, *, is_json: bool = False) -> None:
        self.is_json = is_json
        self.out = _console(stderr=False)
        self.err = _console(stderr=True)

    @property
    def is_wide(self) -> bool:
        """Whether there is room for columns that are only nice to have."""
        return self.out.width >= WIDE_COLUMNS

    def result(self, row: Row, text: str, *, style: str | None = None) -> None:
        if self.is_json:
            self.json(row)
        else:
            self.say(text, style=style)

    def listing(
        self,
        rows: Sequence[Row],
        columns: Sequence[str],
        cells: Callable[[Row], Sequence[object]],
        *,
        nothing: str = "",
    ) -> None:
        """Print *rows* as JSON, or as a table of *cells*; *nothing* says that there are none."""
        if self.is_json:
            for row in rows:
                self.json(row)
        elif rows or not nothing:
            self.table(columns, map(cells, rows))
        else:
            self.note(nothing)

    def json(self, row: Row) -> None:
        """Print *row* as one line of JSON; payloads may be `orjson.Fragment`."""
        sys.stdout.buffer.write(orjson.dumps(row) + b"\n")

    def flush(self) -> None:
        sys.stdout.flush()

    def say(self, text: str, *, style: str | None = None) -> None:
        self.out.print(Text(shown(text), style=style or ""))

    def note(self, text: str, *, style: str | None = None) -> None:
        """Say something beside the result, on standard error."""
        self.err.print(Text(shown(text), style=style or ""))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Print without borders: numbers to the right, None empty, only the last column folded."""
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        kept = list(rows)
        for index, column in enumerate(columns):
            is_number = kept and all(isinstance(row[index], int | float | None) for row in kept)
            justify: Literal["left", "right"] = "right" if is_number else "left"
            is_last = index == len(columns) - 1
            table.add_column(column, justify=justify, no_wrap=not is_last, overflow="fold")
        for row in kept:
            table.add_row(*map(_cell, row))
        self.out.print(table)


def shown(text: str) -> str:
    """*text* with control characters, other than line ends, made visible."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode()
        for char in text
    )


class ExitCode(IntEnum):
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
    """Print *error* as a sentence on standard error; gives the exit code."""
    cause = _first_cause(error)
    match cause:
        case SettingsError() | Misused() | AppRefused() | StoreForeign():
            code = ExitCode.USAGE
        case StoreUnavailable() | BusUnavailable() | StoreRefused():
            code = ExitCode.UNREACHABLE
        case SagaError():
            code = ExitCode.NOT_SO
        case _:
            text = "".join(traceback.format_exception(cause))
            printer.note(f"{text}This is a bug in saga, or in what it was asked to run.")
            return ExitCode.NOT_SO
    printer.note(f"saga: {cause}", style="red")
    return code


def _first_cause(error: BaseException) -> BaseException:
    """The error itself, or the first of a group; one of our own kind where there is one."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    causes = [_first_cause(inner) for inner in error.exceptions]
    return next((cause for cause in causes if isinstance(cause, SagaError)), causes[0])


def _cell(value: object) -> Text:
    match value:
        case None:
            return Text("")
        case float():
            return Text(f"{value:,.1f}")
        case int() if not isinstance(value, bool):
            return Text(f"{value:,}")
        case _:
            text = str(value)
            return Text(shown(text).replace("\n", " "), style=STYLES.get(text, ""))


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=width)
