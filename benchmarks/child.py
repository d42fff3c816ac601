"""One process of a benchmark: `python -m benchmarks.child NAME ARGUMENTS`, a JSON array.

What is measured is imported only when it is named: on an older commit the rest would not import.
"""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from typing import Any, Final

import orjson

from benchmarks.serving import serve

MEASUREMENTS: Final = {
    "engine": "benchmarks.product:engine",
    "replaying": "benchmarks.product:replaying",
    "folding": "benchmarks.embedded:folding",
    "opening": "benchmarks.embedded:opening",
    "floor": "benchmarks.embedded:floor",
    "servers": "benchmarks.driving:on_servers",
    "fill": "benchmarks.past:fill",
}
PROCESSES: Final = {
    "orchestrator": "benchmarks.product:orchestrator",
    "effects": "benchmarks.product:effects",
    "floor-orchestrator": "benchmarks.kafka_floor:orchestrator",
    "floor-effects": "benchmarks.kafka_floor:effects",
}


def main() -> None:
    name, text = sys.argv[1:]
    arguments = orjson.loads(text)
    logging.basicConfig(level=logging.ERROR)
    if name in PROCESSES:
        serve(_named(PROCESSES[name]), *arguments)
    else:
        print(orjson.dumps(_named(MEASUREMENTS[name])(*arguments)).decode())  # noqa: T201


def _named(place: str) -> Any:
    module, _, function = place.partition(":")
    return getattr(import_module(module), function)


if __name__ == "__main__":
    main()
