"""One measurement in a process of its own: `python -m saga.console.bench NAME ARGUMENTS`, the
arguments as a JSON array. Prints what was measured as one line of JSON. Or one of the processes
that are measured: then NAME is a part, and the argument its settings.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

import orjson

from saga.console import logs
from saga.console.bench import connected, measures, parts


def _filling(*arguments: Any) -> measures.Measured:
    """A store with a past. Only this needs the driver of its server."""
    from saga.console.bench.filling import filling

    return filling(*arguments)


MEASURES: Final[dict[str, Callable[..., measures.Measured]]] = {
    "floor": measures.floor,
    "product": measures.product,
    "replaying": measures.replaying,
    "opening": measures.opening,
    "connected": connected.connected,
    "filling": _filling,
}


def main() -> None:
    """Measure what the command line says."""
    name, arguments = sys.argv[1:]
    logs.configure("error")
    start = _part(name)
    if start is not None:
        parts.play(start, *orjson.loads(arguments))
        return
    print(orjson.dumps(MEASURES[name](*orjson.loads(arguments))).decode())  # noqa: T201


def _part(name: str) -> parts.Start | None:
    """The part of this name. The floor's need drivers that the rest does without."""
    match name:
        case "orchestrator":
            return parts.orchestrator
        case "effects":
            return parts.effects
        case "floor-orchestrator" | "floor-effects":
            from saga.console.bench import connected_floor

            is_first = name == "floor-orchestrator"
            return connected_floor.orchestrator if is_first else connected_floor.effects
        case _:
            return None


if __name__ == "__main__":
    main()
