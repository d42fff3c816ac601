"""
One measurement in a process of its own: `python -m saga.console.bench NAME ARGUMENTS`, the
arguments as a JSON array. Prints what was measured as one line of JSON.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final

import orjson

from saga.console.bench import measures

MEASURES: Final[dict[str, Callable[..., measures.Measured]]] = {
    "floor": measures.floor,
    "product": measures.product,
    "replaying": measures.replaying,
    "opening": measures.opening,
}


def main() -> None:
    """
    Measure what the command line says.
    """
    name, arguments = sys.argv[1:]
    print(orjson.dumps(MEASURES[name](*orjson.loads(arguments))).decode())  # noqa: T201


if __name__ == "__main__":
    main()
