"""All that a process tells over HTTP. Metrics need prometheus-client, probes do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from orjson import dumps

from saga.adapters.http.probes import Answer, Page, pages
from saga.ports.health import Health

METRICS: Final = "/metrics"
NOT_IMPLEMENTED: Final = 501


def all_pages(parts: Sequence[Health]) -> dict[str, Page]:
    """The probes and the metrics of a process of these *parts*."""
    try:
        from saga.adapters.http.metrics import metrics_page
    except ImportError as error:
        reason = f"needs {error.name}: pip install saga[metrics]"

        async def missing() -> Answer:
            return Answer(NOT_IMPLEMENTED, dumps({"problems": [reason]}))

        return pages(parts) | {METRICS: missing}
    return pages(parts) | {METRICS: metrics_page(parts)}
