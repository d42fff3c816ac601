"""One process of a benchmark: `python -m benchmarks.child NAME ARGUMENTS`, a JSON array."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

import orjson

from benchmarks import driving, embedded, processes
from benchmarks.measuring import Measured
from saga.console.cli import logs


def _fill(*arguments: Any) -> Measured:
    # Only this one needs the driver of PostgreSQL.
    from benchmarks.past import fill

    return fill(*arguments)


MEASUREMENTS: Final[dict[str, Callable[..., Measured]]] = {
    "floor": embedded.floor,
    "engine": embedded.engine,
    "replaying": embedded.replaying,
    "opening": embedded.opening,
    "servers": driving.on_servers,
    "fill": _fill,
}


def main() -> None:
    name, arguments = sys.argv[1:]
    logs.configure("error")
    start = _process(name)
    if start is not None:
        processes.serve(start, *orjson.loads(arguments))
        return
    print(orjson.dumps(MEASUREMENTS[name](*orjson.loads(arguments))).decode())  # noqa: T201


def _process(name: str) -> processes.Start | None:
    match name:
        case "orchestrator":
            return processes.orchestrator
        case "effects":
            return processes.effects
        case "floor-orchestrator" | "floor-effects":
            # The floor needs drivers that the rest does without.
            from benchmarks import kafka_floor

            is_first = name == "floor-orchestrator"
            return kafka_floor.orchestrator if is_first else kafka_floor.effects
        case _:
            return None


if __name__ == "__main__":
    main()
