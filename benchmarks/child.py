"""One process of a benchmark: `python -m benchmarks.child NAME ARGUMENTS`, a JSON array.

What is measured is imported only when it is named: on an older commit the rest would not import.
"""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from typing import Any, Final
from unittest.mock import patch

import orjson

from benchmarks.serving import serve
from benchmarks.timing import counter
from benchmarks.writing import writing

MEASUREMENTS: Final = {
    "engine": "benchmarks.product:engine",
    "way": "benchmarks.ways:way",
    "shares": "benchmarks.shares:shares",
    "replaying": "benchmarks.product:replaying",
    "folding": "benchmarks.embedded:folding",
    "opening": "benchmarks.embedded:opening",
    "floor": "benchmarks.embedded:floor",
    "program": "benchmarks.embedded:program",
    "program-one-file": "benchmarks.embedded:program_one_file",
    "servers": "benchmarks.driving:on_servers",
    "weigh-servers": "benchmarks.server_weights:weigh_on_servers",
    "fill": "benchmarks.past:fill",
    "hearing": "benchmarks.hearing:hearing",
    "mixed": "benchmarks.mixed:mixed",
    "curve": "benchmarks.curves:points_of",
}
WRITING: Final = "writing"
"""Takes the name of one of them, and counts what it writes."""
COUNTING: Final = "counting"
"""Takes the name of one of them, and counts instructions in place of time."""
PROCESSES: Final = {
    "orchestrator": "benchmarks.product:orchestrator",
    "effects": "benchmarks.product:effects",
    "hearing-orchestrator": "benchmarks.hearing:orchestrator",
    "mixed-orchestrator": "benchmarks.mixed:orchestrator",
    "mixed-effects": "benchmarks.mixed:effects",
    "floor-orchestrator": "benchmarks.kafka_floor:orchestrator",
    "floor-effects": "benchmarks.kafka_floor:effects",
}


def main() -> None:
    name, text = sys.argv[1:]
    arguments = orjson.loads(text)
    logging.basicConfig(level=logging.ERROR)
    if name in PROCESSES:
        serve(named(PROCESSES[name]), *arguments)
    elif name == COUNTING:
        measured, *rest = arguments
        measure = named(MEASUREMENTS[measured])
        with patch(f"{measure.__module__}.stopwatch", counter):
            counts = {"instructions": measure(*rest)["instructions"]}
        print(orjson.dumps(counts).decode())  # noqa: T201
    elif name == WRITING:
        measured, *rest = arguments
        print(orjson.dumps(writing(named(MEASUREMENTS[measured]), *rest)).decode())  # noqa: T201
    else:
        print(orjson.dumps(named(MEASUREMENTS[name])(*arguments)).decode())  # noqa: T201


def named(place: str) -> Any:
    module, _, function = place.partition(":")
    return getattr(import_module(module), function)


if __name__ == "__main__":
    main()
