"""How far a demo is: a bar on a terminal, some lines elsewhere; always on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from saga.adapters.clocks import SystemClock
from saga.console.printer import Printer

LINES: Final = 10
"""Where there is no terminal to draw a bar on, so many lines say how far it is."""

Tell = Callable[[int, int], None]
"""Takes how many sagas have ended and how often the worker was killed."""


@contextmanager
def progress(printer: Printer, total: int, done: int) -> Iterator[Tell]:
    """Show the way from *done* to *total* sagas; call what this gives as it goes on."""
    clock = SystemClock()
    began_s = clock.monotonic_s()

    def text(ended: int, kills: int) -> str:
        per_s = (ended - done) / max(clock.monotonic_s() - began_s, 0.001)
        return f"{per_s:,.0f}/s" + (f", killed {kills} times" if kills else "")

    if not printer.err.is_terminal:
        yield _lines(printer, total, done, text)
        return
    columns = (
        TextColumn("sagas ended"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[said]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=printer.err) as bar:
        task = bar.add_task("", total=total, completed=done, said="")
        yield lambda ended, kills: bar.update(task, completed=ended, said=text(ended, kills))


def _lines(printer: Printer, total: int, done: int, text: Callable[[int, int], str]) -> Tell:
    step = max(1, total // LINES)
    next_at = done + step

    def tell(ended: int, kills: int) -> None:
        nonlocal next_at
        if ended >= next_at or (ended == total and next_at <= total):
            next_at = ended - ended % step + step
            printer.note(f"{ended:,} of {total:,} sagas ended, {text(ended, kills)}")

    return tell
