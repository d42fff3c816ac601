"""One run: what is found is told, counted and written down, whatever ends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from time import perf_counter
from typing import Annotated, Final, Self

import typer

from saga.audit.snapshots import Found
from saga.console.cli.gate import junit
from saga.console.cli.gate.choosing import Chunk
from saga.console.cli.gate.journal import Journal
from saga.console.cli.gate.progress import Shown
from saga.console.cli.gate.tally import COLUMNS, Tally
from saga.console.cli.gate.verdicts import Verdict
from saga.console.cli.output import ExitCode, Printer
from saga.core.texts import described
from saga.core.values import value
from saga.errors import SagaError

JOBS_MAX: Final = 256


@value
class How:
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            metavar="N",
            min=0,
            max=JOBS_MAX,
            help="How many processes replay at once: as many as there are cores without. 0: this "
            "process alone, for a debugger; then nothing ends code that does not end.",
        ),
    ] = None
    timeout_s: Annotated[
        float,
        typer.Option(
            "--timeout-s",
            metavar="SECONDS",
            min=0.1,
            help="How long one history may take, and a snapshot; then its process is ended, and it "
            "is a finding.",
        ),
    ] = 60.0
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume",
            metavar="FILE",
            help="Keep there how far the run is, and go on there if it was interrupted and the "
            "code is the same.",
        ),
    ] = None
    junit: Annotated[
        Path | None,
        typer.Option("--junit", metavar="FILE", help="Write a report as JUnit XML, too."),
    ] = None


class Run:
    """A context manager; *tally* may have what an earlier run has found."""

    def __init__(
        self, printer: Printer, how: How, journal: Journal, tally: Tally, *, total: int
    ) -> None:
        self.how = how
        self._printer = printer
        self._journal = journal
        self._tally = tally
        self._total = total
        self._shown = Shown(printer, total, done=tally.sagas)
        self._known = (tally.sagas, tally.entries)
        self._began = perf_counter()

    def __enter__(self) -> Self:
        # From here on a report says so where this process is killed.
        self._report(unfinished="the run was ended from outside before it was through")
        self._shown.__enter__()
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        self._shown.__exit__()
        if error is None:
            self._journal.note()
            self._journal.end()
            self._report()
            return
        self._journal.close()
        is_asked = isinstance(error, asyncio.CancelledError | KeyboardInterrupt)
        why = "it was interrupted" if is_asked else _told(error)
        text = f"{self._tally.sagas:,} of {self._total:,} sagas were replayed: {why}"
        self._report(unfinished=text)
        if is_asked:
            self._printer.note(text)
        if self.how.resume is not None:
            self._printer.note("the same command goes on from there")

    async def drawn(self, chunks: AsyncIterator[Chunk]) -> AsyncIterator[Chunk]:
        """*chunks*, as they are begun."""
        async for chunk in chunks:
            self._journal.add(chunk)
            for verdict in list(chunk.verdicts):
                self._tell(verdict)
            self._shown.advance(chunk.listed - len(chunk.sagas))
            yield chunk

    def take(self, chunk: Chunk, verdict: Verdict) -> None:
        self._tell(verdict)
        self._shown.advance(different=not verdict.is_ok)
        if chunk.is_complete:
            self._journal.note()

    def result(self) -> int:
        """Print what came of it; the exit code."""
        tally, printer = self._tally, self._printer
        counts = list(tally.differences())
        if counts and not printer.is_json:
            printer.say("")
            printer.table(COLUMNS, [count.cells for count in counts])
        sagas, entries = self._known
        took_s = perf_counter() - self._began
        per_s = round((tally.entries - entries) / took_s) if took_s > 0 else 0
        wrong, same = map(tally.snapshots_found, (Found.WRONG, Found.SAME))
        is_ok = not counts and not wrong
        row = {
            "sagas": tally.sagas,
            "entries": tally.entries,
            "ok": is_ok,
            "different": tally.different,
            "kinds": [count.row for count in counts],
            "snapshots": {
                "compared": same + wrong,
                "wrong": wrong,
                "not_compared": tally.snapshots_found(Found.NOT_COMPARED),
            },
            "resumed": sagas,
            "seconds": round(took_s, 3),
            "entries_per_s": per_s,
        }
        verdict = f"{tally.different:,} of them differ" if counts else "all as today's code decides"
        text = f"{tally.sagas:,} sagas, {tally.entries:,} entries, {per_s:,} a second: {verdict}"
        printer.result(row, text + _of_snapshots(tally))
        return ExitCode.OK if is_ok else ExitCode.NOT_SO

    def _tell(self, verdict: Verdict) -> None:
        self._tally.add(verdict)
        printer = self._printer
        if printer.is_json:
            printer.json(verdict.row())
        elif not verdict.is_ok:
            printer.say(f"{verdict.title} differs: {verdict.line}", style="red")
            printer.say(*verdict.told())

    def _report(self, *, unfinished: str | None = None) -> None:
        if self.how.junit is not None:
            junit.write(self.how.junit, self._tally, unfinished=unfinished)


def _told(error: BaseException) -> str:
    return str(error) if isinstance(error, SagaError) else described(error)


def _of_snapshots(tally: Tally) -> str:
    """Nothing where no saga has one."""
    count = {each: tally.snapshots_found(each) for each in Found}
    if not any(count.values()):
        return ""
    text = f"; {count[Found.SAME] + count[Found.WRONG]:,} snapshots compared"
    if count[Found.WRONG]:
        text += f", {count[Found.WRONG]:,} of them wrong"
    if count[Found.NOT_COMPARED]:
        text += f"; {count[Found.NOT_COMPARED]:,} not compared"
    return text
