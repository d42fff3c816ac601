"""The report of a demo: how its sagas ended, how fast, whether the books balance, what next."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from domain.books import Books
from domain.demo.tally import Tally
from saga.console.cli.output import Printer
from saga.core.durations import SECOND_US
from saga.settings import PREFIX, Settings, redacted

PROBLEMS_SHOWN_MAX: Final = 10
EXAMPLE_LIMIT: Final = 5


def report_row(tally: Tally, books: Books | None, *, kills: int) -> dict[str, Any]:
    """The report as JSON."""
    return {
        "sagas": len(tally.ended),
        "parked": len(tally.parked),
        "outcomes": [
            {name: text or None for name, text in asdict(outcome).items()} | {"sagas": count}
            for outcome, count in sorted(tally.outcomes.items())
        ],
        "undone_steps": tally.undone_steps,
        "entries": tally.entries,
        "kills": kills,
        "seconds": round(tally.working_us / SECOND_US, 3),
        "sagas_per_s": _per_s(tally),
        "latency_ms": {"p50": tally.latency_ms(0.5), "p99": tally.latency_ms(0.99)},
        "books": _books_row(books),
    }


def print_report(
    printer: Printer, tally: Tally, books: Books | None, settings: Settings, *, kills: int
) -> None:
    """The report for people."""
    if printer.is_json:
        printer.json(report_row(tally, books, kills=kills))
        return
    printer.say("")
    printer.table(
        ("outcome", "reason", "failed step", "sagas"),
        [
            (outcome.status, outcome.reason, outcome.failed_step, count)
            for outcome, count in sorted(tally.outcomes.items())
        ],
    )
    if tally.parked:
        printer.say(f"{len(tally.parked):,} sagas are parked and wait for an operator", style="red")
    killed = f", {kills} times a worker was killed" if kills else ""
    printer.say(
        "",
        f"{len(tally.ended):,} sagas in {tally.working_us / SECOND_US:.1f} s: {_per_s(tally):,}"
        f" a second; {tally.undone_steps:,} steps undone, {tally.entries:,} entries{killed}",
        f"from first turn to end: p50 {tally.latency_ms(0.5):,.0f} ms, p99"
        f" {tally.latency_ms(0.99):,.0f} ms (they came all at once, so this is how long they"
        " stood in line, not how long one takes)",
    )
    if books is not None:
        _print_books(printer, books)
    _print_next(printer, tally, settings)


def _print_books(printer: Printer, books: Books) -> None:
    printer.say("")
    printer.table(
        ("the books", "in the services' tables", "in the sagas' histories", ""),
        [
            (name, services, histories, "equal" if services == histories else "DIFFERENT")
            for name, services, histories in _lines(books)
        ],
    )
    problems = _problems(books)
    for problem in problems[:PROBLEMS_SHOWN_MAX]:
        printer.say(problem, style="red")
    if len(problems) > PROBLEMS_SHOWN_MAX:
        printer.say(f"and {len(problems) - PROBLEMS_SHOWN_MAX:,} more")
    verdict = "The books balance." if books.is_balanced else "The books do not balance."
    printer.say(verdict, style="green" if books.is_balanced else "red")


def _print_next(printer: Printer, tally: Tally, settings: Settings) -> None:
    program = _program()
    rolled_back = next((name for status, name in tally.examples.items() if "roll" in status), None)
    example = rolled_back or next(iter(tally.examples.values()), None)
    printer.say("", "To look around:")
    printer.say(
        f"  export {PREFIX}STORE={redacted(settings.store)} {PREFIX}BUS={settings.bus}"
        + (f" {PREFIX}APP={settings.app}" if "app" in settings.model_fields_set else "")
    )
    if rolled_back is not None:
        printer.say(f"  {program} ls --status rolled_back --limit {EXAMPLE_LIMIT}")
    if example is not None:
        printer.say(f"  {program} show {example}")
        printer.say(f"  {program} history {example}")
    printer.say(f"  {program} replay")


def _program() -> str:
    """How to call this program from here."""
    if shutil.which("saga"):
        return "saga"
    beside = Path(sys.executable).with_name("saga")
    if beside.exists():
        return os.path.relpath(beside)
    return f"{os.path.relpath(sys.executable)} -m saga"


def _books_row(books: Books | None) -> dict[str, Any] | None:
    if books is None:
        return None
    return {
        "balanced": books.is_balanced,
        "lines": [
            {"name": name, "services": services, "histories": histories}
            for name, services, histories in _lines(books)
        ],
        "problems": _problems(books),
    }


def _lines(books: Books) -> list[tuple[str, int, int]]:
    """What is counted, the services' count, the histories' count."""
    services, histories = books.services, books.histories
    return [
        ("units reserved", services.units, histories.units),
        ("cents charged", services.cents, histories.cents),
        ("slots booked", services.slots, histories.slots),
    ]


def _problems(books: Books) -> list[str]:
    return [*books.leaks, *(str(difference) for difference in books.differences)]


def _per_s(tally: Tally) -> int:
    working_s = tally.working_us / SECOND_US
    return round(len(tally.ended) / working_s) if working_s else 0
