"""Logs of a command: to standard error, at the level that `SAGA_LOG` names.

The library logs through the standard library; only here is structlog set up to render it. Whatever
a text has in it, it stays within its line.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Final, TextIO

import structlog
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

from saga.console.cli.output import shown, traced

QUIET: Final = ("asyncio", "aiokafka", "faststream", "saga.faststream")
"""Loggers of libraries that show less than a warning only at the level `debug`."""
KEPT: Final = frozenset({"event", "level", "timestamp", "exception", "exc_info"})


def configure(level: str) -> None:
    """Send lines of *level* or above to standard error, for people or as plain lines."""
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(), _without_repeats],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _visible,
                _renderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    for name in QUIET:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))


def _without_repeats(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:  # noqa: ARG001  # structlog gives them
    """Leave out keys whose values the text has: the library says them twice, for plain handlers."""
    text = str(event["event"])
    return {
        key: value
        for key, value in event.items()
        if key.startswith("_") or key in KEPT or str(value) not in text
    }


def _visible(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:  # noqa: ARG001  # structlog gives them
    return {
        key: value if key == "exc_info" else shown(value if isinstance(value, str) else repr(value))
        for key, value in event.items()
    }


def _traceback(stream: TextIO, exc_info: ExcInfo) -> None:
    stream.writelines(f"\n{line}" for line in traced(exc_info[1]))


def _renderer() -> Processor:
    is_colourful = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    return structlog.dev.ConsoleRenderer(
        colors=is_colourful, pad_event_to=0, exception_formatter=_traceback
    )
