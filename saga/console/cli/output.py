"""Where commands print, and how they fail: results on standard output, the rest on standard error.

With `--json` a result is one JSON object a line, on a terminal and in a pipe. Control characters
and line ends are made visible, so that no key or reason can repaint a terminal or forge a line. An
error becomes an exit code and a sentence; a traceback is for our own bugs only.
"""

from __future__ import annotations

import errno
import json
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from typing import Any, Final, Literal

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from saga.core.texts import described
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
TRACED_MAX: Final = 100
"""So many exceptions of a chain or of nested groups are told of."""
_COMMAND: Final = re.compile(r"`(saga [^`]+)`")
_NO_ROOM: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


class Printer:
    """The two streams of one command; *options* are the settings that its caller gave it."""

    def __init__(self, *, is_json: bool = False, options: Sequence[str] = ()) -> None:
        self.is_json = is_json
        self.options = options
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
        text = orjson.dumps(row).decode()
        if not text.isprintable():  # only strings can hold such characters
            text = "".join(map(_json_char, text))
        sys.stdout.buffer.write(f"{text}\n".encode())

    def flush(self) -> None:
        sys.stdout.flush()

    def say(self, *lines: str, style: str | None = None) -> None:
        for line in lines:
            self.out.print(Text(shown(line), style=style or ""))

    def note(self, *lines: str, style: str | None = None) -> None:
        """Say something beside the result, on standard error."""
        for line in lines:
            self.err.print(Text(shown(self.pasteable(line)), style=style or ""))

    def pasteable(self, text: str) -> str:
        """*text*, its commands with the options that this one was called with."""
        if not self.options:
            return text
        return _COMMAND.sub(lambda found: f"`{found[1]} {shlex.join(self.options)}`", text)

    def damaged(self, rows: Sequence[str]) -> None:
        """Name rows that cannot be read, beside those that can."""
        for row in rows:
            self.note(f"saga: cannot be read and is left out: {row}", style="red")

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


def command_line(*words: object) -> str:
    """A command as one types it, with all that it needs."""
    return f"`saga {shlex.join(map(str, words))}`"


def shown(text: str) -> str:
    """*text* as one line, its control characters and line ends made visible."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def traced(error: BaseException) -> Iterator[str]:
    """The lines of a traceback; what the exceptions say is one line each.

    Each exception is told once, for chains may be rings, and no more of them than make sense.
    """
    return _traced_chain(error, told={id(error)})


def _traced_chain(error: BaseException, told: set[int]) -> Iterator[str]:
    chain = [error]
    while (before := _what_led_to(chain[-1])) is not None and id(before) not in told:
        told.add(id(before))
        chain.append(before)
    for number, each in enumerate(reversed(chain[:TRACED_MAX])):
        if number:
            yield "and from that, or while it was handled:"
        yield from _traced_alone(each, told)


def _what_led_to(error: BaseException) -> BaseException | None:
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _traced_alone(error: BaseException, told: set[int]) -> Iterator[str]:
    if error.__traceback__ is not None:
        yield "Traceback (most recent call last):"
    for frame in traceback.format_tb(error.__traceback__):
        yield from map(shown, frame.splitlines())
    yield shown(described(error))
    notes = getattr(error, "__notes__", ())
    if isinstance(notes, list | tuple):
        yield from (shown(note) for note in notes if isinstance(note, str))
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            if id(inner) not in told and len(told) < TRACED_MAX:
                told.add(id(inner))
                yield from (f"  | {line}" for line in _traced_chain(inner, told))


class ExitCode(IntEnum):
    OK = 0
    NOT_SO = 1
    USAGE = 2
    UNREACHABLE = 3


INTERRUPTED: Final = 130


class NotSo(SagaError):
    """Raised when what was asked for is not there, is refused, or a check has failed."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class Misused(SagaError):
    """Raised when a command was called in a way that cannot be meant."""


class AppRefused(SagaError):
    """Raised when the application that the settings name cannot be loaded."""


class OutputFailed(SagaError):
    """Raised when standard output takes no more, for example on a full disk."""


class TooFewFiles(SagaError):
    """Raised when this process may not open as many files as a command needs."""


def report(error: BaseException, printer: Printer) -> ExitCode:
    """Print *error* as a sentence on standard error; gives the exit code."""
    cause = _first_cause(error)
    text, more = str(cause), list[str]()
    match cause:
        case NotSo():
            (text, *more), code = cause.lines, ExitCode.NOT_SO
        case SettingsError() | Misused() | AppRefused() | StoreForeign():
            code = ExitCode.USAGE
        case StoreUnavailable() | BusUnavailable() | StoreRefused() | TooFewFiles():
            code = ExitCode.UNREACHABLE
        case SagaError():
            code = ExitCode.NOT_SO
        case OSError():
            text = f"{cause.filename}: {cause.strerror}" if cause.filename else text
            code = ExitCode.UNREACHABLE if cause.errno in _NO_ROOM else ExitCode.NOT_SO
        case MemoryError():
            text, code = "there is no memory left", ExitCode.UNREACHABLE
        case _:
            for line in traced(cause):
                printer.note(line)
            text, code = "this is a bug in saga, or in what it was asked to run", ExitCode.NOT_SO
    printer.note(f"saga: {text}", *more, style="red")
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
            return Text(shown(text), style=STYLES.get(text, ""))


def _json_char(char: str) -> str:
    """*char* as JSON may write it, in ASCII where it is not printable."""
    return char if char.isprintable() else json.dumps(char)[1:-1]


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=width)
