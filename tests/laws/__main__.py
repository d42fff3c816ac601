"""The laws with many examples: `python -m tests.laws --examples 20000`.

Examples are drawn in parts, each from a number of its own, so that `--first N --examples 500` looks
at one part again. What speaks against a law is made small with `--shrink`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import NamedTuple

import tests.laws.test_laws  # noqa: F401  # it has the laws
from tests.laws.searching import LAWS, WAYS, Law, search

PART = 500
"""So many examples are drawn from one number."""
SHOWN_CHARS = 4_000


class Part(NamedTuple):
    way: str
    laws: tuple[str, ...]
    number: int
    examples: int


def look(part: Part, *, shrinks: bool) -> str | None:
    """What speaks against a law in one part, if anything does."""
    try:
        laws = [LAWS[name] for name in part.laws]
        search(laws, part.way, part.examples, number=part.number, shrinks=shrinks)
    except Exception as error:  # noqa: BLE001  # whatever it is, it is what was looked for
        said = "\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])])
        return said[:SHOWN_CHARS]
    return None


def parts(laws: Sequence[Law], ways: Sequence[str], first: int, examples: int) -> list[Part]:
    """Laws that draw alike look at the same examples."""
    alike: dict[object, list[str]] = {}
    for law in laws:
        alike.setdefault(law.drawn, []).append(law.name)
    numbers = range(first, first + -(-examples // PART))
    return [
        Part(way, tuple(names), number, min(PART, examples - (number - first) * PART))
        for number in numbers
        for way in ways
        for names in alike.values()
    ]


def main() -> int:
    """Look at all laws, or those named; 1 where something speaks against one."""
    parser = argparse.ArgumentParser(prog="python -m tests.laws", description=__doc__)
    parser.add_argument("--examples", type=int, default=2_000, help="of each law and way")
    parser.add_argument("--first", type=int, default=0, help="the number of the first part")
    parser.add_argument("--way", choices=WAYS, action="append", help="all by default")
    parser.add_argument("--law", action="append", default=[], help="part of a law's name")
    parser.add_argument("--jobs", type=int, default=1, help="how many at once")
    parser.add_argument("--shrink", action="store_true", help="make examples small")
    said = parser.parse_args()
    laws = [
        law for law in LAWS.values() if not said.law or any(each in law.name for each in said.law)
    ]
    if not laws:
        parser.error("no law is called so")
    found, began = 0, time.monotonic()
    looked = parts(laws, said.way or list(WAYS), said.first, said.examples)
    with ProcessPoolExecutor(said.jobs) as pool:
        for part, against in zip(
            looked, pool.map(partial(look, shrinks=said.shrink), looked), strict=True
        ):
            if against is not None:
                found += 1
                print(f"{part.way} {part.number}: {against}\n", flush=True)
    lasted = time.monotonic() - began
    print(f"{len(laws)} laws, {len(looked)} parts, {found} against, {lasted:.0f}s")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
