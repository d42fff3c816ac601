"""Logs: to standard error, at the level that `SAGA_LOG` says; structlog's and the standard
library's.
"""

from __future__ import annotations

import logging
import os
import sys

import structlog
from structlog.typing import Processor

QUIET = ("asyncio", "aiokafka", "faststream", "saga.faststream")
"""Libraries whose chatter is shown only when everything is."""


def configure(level: str) -> None:
    """Send whatever is logged at *level* or above to standard error, for people or as plain
    lines.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared[:2], shared[3], _renderer()],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _renderer()],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    for name in QUIET:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))


def _renderer() -> Processor:
    is_colourful = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    return structlog.dev.ConsoleRenderer(
        colors=is_colourful,
        pad_event_to=0,
        exception_formatter=structlog.dev.plain_traceback,
    )
