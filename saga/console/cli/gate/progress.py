"""How far a run is, on standard error: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

from time import monotonic
from typing import Final, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from saga.console.cli.output import Printer

EVERY_S: Final = 10.0
"""In a pipeline, where each line stays."""


class Shown:
    """Shows how many of *total* sagas are through; a context manager."""

    def __init__(self, printer: Printer, total: int, *, done: int = 0) -> None:
        self._printer = printer
        self._total = total
        self._done = done
        self._different = 0
        self._told_at = monotonic()
        # What goes to the same terminal has to be printed above the bar, and JSON is not printed.
        both = printer.out.is_terminal
        self._bar: Progress | None = None
        if printer.err.is_terminal and not (both and printer.is_json):
            self._bar = Progress(
                TextColumn("replay"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[told]}"),
                TimeRemainingColumn(),
                console=printer.err,
                transient=True,
                redirect_stdout=both,
                redirect_stderr=True,
            )
            self._task = self._bar.add_task("", total=total, completed=done, told="")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, sagas: int = 1, *, different: int = 0) -> None:
        self._done += sagas
        self._different += different
        # Sagas may begin while it runs.
        self._total = max(self._total, self._done)
        told = f"{self._different:,} differ" if self._different else ""
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, total=self._total, told=told)
        elif monotonic() - self._told_at >= EVERY_S:
            self._told_at = monotonic()
            text = f"{self._done:,} of {self._total:,} sagas replayed"
            self._printer.note(f"{text}, {told}" if told else text)
