"""What sagas say to a log with `ctx.log`, written once it is stored what they decided with it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Final

from saga.core.program import Line
from saga.runtime.saga_cache import LoadedSaga

LOGGER: Final = "saga.sagas"
"""A line goes to the logger beneath this one that has the name of its definition."""


def write_lines(lines: Iterable[tuple[LoadedSaga, Sequence[Line]]]) -> None:
    for saga, told in lines:
        logger = logging.getLogger(f"{LOGGER}.{saga.decider.name}")
        whose = {
            "saga_id": saga.saga_id,
            "definition": saga.decider.name,
            "key": saga.state.key,
        }
        for line in told:
            if logger.isEnabledFor(line.level):
                _write(logger, line, whose | dict(line.fields))


def _write(logger: logging.Logger, line: Line, fields: dict[str, object]) -> None:
    """Write a line under its own place, that of the saga's function."""
    file, number, function = line.place
    record = logger.makeRecord(
        logger.name, line.level, file, number, line.text, (), None, function, fields
    )
    try:
        logger.handle(record)
    except Exception:
        logging.getLogger(__name__).exception("a line of saga %s is lost", fields["saga_id"])
