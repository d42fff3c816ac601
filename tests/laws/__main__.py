"""The laws with many examples: `python -m tests.laws --examples 20000`.

Examples are drawn in parts, each from a number of its own, so that `--first N --examples 100` looks
at one part again. Each is told as it comes, so that a run that is stopped has said what it saw.
What speaks against a law is made small with `--shrink`.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import active_children
from typing import NamedTuple

import tests.laws.test_laws  # they have the laws
import tests.laws.test_memory  # noqa: F401
from tests.laws.searching import DRAWN, LAWS, Law, courses, search

PART = 100
"""So many examples are drawn from one number."""
SHOWN_CHARS = 4_000
STOPPED = 128 + signal.SIGINT
"""How a program ends that was interrupted."""


class Part(NamedTuple):
    way: str
    laws: tuple[str, ...]
    number: int
    examples: int


class Looked(NamedTuple):
    lasted_s: float
    against: str | None
    """What speaks against a law, if anything does."""


def look(part: Part, *, shrinks: bool) -> Looked:
    """Look at all examples of one part, up to the first that speaks against a law."""
    began = time.monotonic()
    against = _against(part, shrinks=shrinks)
    return Looked(time.monotonic() - began, against)


def _against(part: Part, *, shrinks: bool) -> str | None:
    try:
        laws = [LAWS[name] for name in part.laws]
        search(laws, part.way, part.examples, number=part.number, shrinks=shrinks)
    except Exception as error:  # noqa: BLE001  # whatever it is, it is what was looked for
        said = "\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])])
        return said[:SHOWN_CHARS]
    return None


def parts(laws: Sequence[Law], ways: Sequence[str], first: int, examples: int) -> list[Part]:
    """Laws that draw alike look at the same examples; each in *ways*, or in its own."""
    alike: dict[tuple[str, object], list[str]] = {}
    for law in laws:
        for way in ways or law.ways:
            if law.drawn is not courses and way not in law.ways:
                continue  # it draws otherwise
            alike.setdefault((way, law.drawn), []).append(law.name)
    numbers = range(first, first + -(-examples // PART))
    return [
        Part(way, tuple(names), number, min(PART, examples - (number - first) * PART))
        for number in numbers
        for (way, _), names in alike.items()
    ]


def main() -> int:
    """Look at all laws, or those named; 1 where something speaks against one."""
    parser = argparse.ArgumentParser(prog="python -m tests.laws", description=__doc__)
    parser.add_argument("--examples", type=int, default=2_000, help="of each law and way")
    parser.add_argument("--first", type=int, default=0, help="the number of the first part")
    parser.add_argument("--way", choices=DRAWN, action="append", help="all by default")
    parser.add_argument("--law", action="append", default=[], help="part of a law's name")
    parser.add_argument("--jobs", type=int, default=1, help="how many at once")
    parser.add_argument("--shrink", action="store_true", help="make examples small")
    said = parser.parse_args()
    laws = [
        law for law in LAWS.values() if not said.law or any(each in law.name for each in said.law)
    ]
    if not laws:
        parser.error("no law is called so")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    wanted = parts(laws, said.way or (), said.first, said.examples)
    return look_at(wanted, jobs=said.jobs, shrinks=said.shrink)


def look_at(wanted: Sequence[Part], *, jobs: int, shrinks: bool) -> int:
    """Look at all parts, and tell of each as it comes; 1 where one speaks against a law."""
    told, examples, found, began = 0, 0, 0, time.monotonic()
    is_stopped = False
    try:
        for part, looked in _all_looked(wanted, jobs, shrinks=shrinks):
            told += 1
            if looked.against is None:
                examples += part.examples
            else:
                found += 1
            print(_line(part, looked), flush=True)
    except KeyboardInterrupt:
        is_stopped = True
        for process in active_children():
            process.kill()
    head = "stopped: " if is_stopped else ""
    of_all = f"{told} of {len(wanted)} parts, {examples:,} examples without a fault"
    lasted = time.monotonic() - began
    print(f"{head}{of_all}, {found} against, {lasted:.0f}s", flush=True)
    return STOPPED if is_stopped else int(found > 0)


def _all_looked(
    wanted: Sequence[Part], jobs: int, *, shrinks: bool
) -> Iterator[tuple[Part, Looked]]:
    """Each part as it comes: one after the other here, or in several processes."""
    if jobs == 1:
        yield from ((part, look(part, shrinks=shrinks)) for part in wanted)
        return
    with ProcessPoolExecutor(jobs, initializer=_leave_signals) as pool:
        asked = {pool.submit(look, part, shrinks=shrinks): part for part in wanted}
        try:
            yield from ((asked[future], future.result()) for future in as_completed(asked))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _leave_signals() -> None:
    """Whoever began this process ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _line(part: Part, looked: Looked) -> str:
    names = part.laws[0] if len(part.laws) == 1 else f"{len(part.laws)} laws"
    head = f"{part.way} {part.number}, {names}, {looked.lasted_s:.1f}s"
    if looked.against is None:
        return f"{head}: {part.examples} examples, nothing against"
    return f"{head}: {looked.against}\n"


if __name__ == "__main__":
    sys.exit(main())
