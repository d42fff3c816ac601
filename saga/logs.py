"""The loggers of this library: structlog's where the program has configured it, else the standard
library's.

A program that embeds a service and configures nothing would otherwise find our lines in its
standard output, tracebacks with the values of all variables among them: structlog's default is made
for people who develop with it. The standard library's is what one expects of a library: warnings
and errors to standard error, everything to whoever sets up `logging`.
"""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

import structlog


class Logger:
    """Has structlog's methods, `log.info("what happened", saga_id=…)`; decides at each call where
    to.
    """

    def __init__(self, name: str) -> None:
        self._structured = structlog.get_logger(name)
        self._plain = structlog.wrap_logger(
            logging.getLogger(name),
            processors=[structlog.stdlib.filter_by_level, _as_record],
            wrapper_class=structlog.stdlib.BoundLogger,
            cache_logger_on_first_use=True,
        )

    def __getattr__(self, method: str) -> Any:
        return getattr(self._structured if structlog.is_configured() else self._plain, method)


def get_logger(name: str) -> Logger:
    """The logger of one part, for example `saga.relay`."""
    return Logger(name)


_fields = structlog.processors.KeyValueRenderer()


def _as_record(
    logger: logging.Logger, method: str, said: MutableMapping[str, Any]
) -> tuple[tuple[str], dict[str, Any]]:
    """One line of text, and the exception for the handlers of the standard library to print."""
    exc_info = said.pop("exc_info", None)
    what = str(said.pop("event", ""))
    if said:
        what = f"{what}: {_fields(logger, method, said)}"
    # Without arguments logging leaves a % in the text alone.
    return (what,), {"exc_info": exc_info}
