"""What a demo says at its end: how its sagas ended, how fast, whether the books
balance, what next.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from saga.console.demo_protocol import DemoBooks
from saga.console.demo_tally import Tally
from saga.console.printer import Printer
from saga.core.durations import SECOND_US
from saga.settings import HIDDEN, PREFIX, Settings

PROBLEMS_SHOWN_MAX: Final = 10
EXAMPLE_LIMIT: Final = 5


def report_row(tally: Tally, books: DemoBooks | None, *, kills: int) -> dict[str, Any]:
    """The report as JSON."""
    return {
        "sagas": len(tally.ended),
        "parked": len(tally.parked),
        "outcomes": [
            {
                "status": ending.status,
                "reason": ending.reason or None,
                "failed_step": ending.failed_step or None,
                "sagas": count,
            }
            for ending, count in sorted(tally.endings.items())
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
    printer: Printer, tally: Tally, books: DemoBooks | None, settings: Settings, *, kills: int
) -> None:
    """The report for people."""
    if printer.is_json:
        printer.json(report_row(tally, books, kills=kills))
        return
    printer.say("")
    printer.table(
        ("outcome", "reason", "failed step", "sagas"),
        [
            (ending.status, ending.reason, ending.failed_step, count)
            for ending, count in sorted(tally.endings.items())
        ],
    )
    if tally.parked:
        printer.say(f"{len(tally.parked):,} sagas are parked and wait for someone", style="red")
    killed = f", {kills} times a worker was killed" if kills else ""
    printer.say(
        f"\n{len(tally.ended):,} sagas in {tally.working_us / SECOND_US:.1f} s: {_per_s(tally):,}"
        f" a second; {tally.undone_steps:,} steps undone, {tally.entries:,} entries{killed}"
    )
    printer.say(
        f"from first turn to end: p50 {tally.latency_ms(0.5):,.0f} ms, p99"
        f" {tally.latency_ms(0.99):,.0f} ms (they came all at once, so this is how long they"
        " stood in line, not how long one takes)"
    )
    if books is not None:
        _print_books(printer, books)
    _print_next(printer, tally, settings)


def shown_address(address: str) -> str:
    """*address* without the password that it may have."""
    password = urlsplit(address).password
    return address if password is None else address.replace(f":{password}@", f":{HIDDEN}@", 1)


def _print_books(printer: Printer, books: DemoBooks) -> None:
    printer.say("")
    printer.table(
        ("the books", "in the services' tables", "in the sagas' histories", ""),
        [
            (name, services, histories, "equal" if services == histories else "DIFFERENT")
            for name, services, histories in books.lines
        ],
    )
    for problem in books.problems[:PROBLEMS_SHOWN_MAX]:
        printer.say(problem, style="red")
    if len(books.problems) > PROBLEMS_SHOWN_MAX:
        printer.say(f"and {len(books.problems) - PROBLEMS_SHOWN_MAX:,} more")
    verdict = "The books balance." if books.balanced else "The books do not balance."
    printer.say(verdict, style="green" if books.balanced else "red")


def _print_next(printer: Printer, tally: Tally, settings: Settings) -> None:
    saga = _command()
    rolled_back = next((name for status, name in tally.examples.items() if "roll" in status), None)
    example = rolled_back or next(iter(tally.examples.values()), None)
    printer.say("\nTo look around:")
    printer.say(
        f"  export {PREFIX}STORE={shown_address(settings.store)} {PREFIX}BUS={settings.bus}"
        + (f" {PREFIX}APP={settings.app}" if "app" in settings.model_fields_set else "")
    )
    if rolled_back is not None:
        printer.say(f"  {saga} ls --status rolled_back --limit {EXAMPLE_LIMIT}")
    if example is not None:
        printer.say(f"  {saga} show {example}")
        printer.say(f"  {saga} history {example}")
    printer.say(f"  {saga} replay")


def _command() -> str:
    """How to call this program from here."""
    if shutil.which("saga"):
        return "saga"
    beside = Path(sys.executable).with_name("saga")
    if beside.exists():
        return os.path.relpath(beside)
    return f"{os.path.relpath(sys.executable)} -m saga"


def _books_row(books: DemoBooks | None) -> dict[str, Any] | None:
    if books is None:
        return None
    return {
        "balanced": books.balanced,
        "lines": [
            {"name": name, "services": services, "histories": histories}
            for name, services, histories in books.lines
        ],
        "problems": list(books.problems),
    }


def _per_s(tally: Tally) -> int:
    working_s = tally.working_us / SECOND_US
    return round(len(tally.ended) / working_s) if working_s else 0
