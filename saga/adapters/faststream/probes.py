"""The probes `/health/live` and `/health/ready` as routes of somebody's own `AsgiFastStream`.

There is no AsyncAPI page here and never its "try it out": a dry run stops the consumers of the
broker that it is run on, for good and without a sign of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from faststream.asgi import AsgiResponse, get

from saga.adapters.faststream.health import Health
from saga.adapters.faststream.subscriber import EffectsSubscriber
from saga.adapters.http.probes import LIVE, READY, Page, pages


def routes(subscribers: Sequence[EffectsSubscriber]) -> list[tuple[str, Any]]:
    """The probes of these services, for `asgi_routes` of an `AsgiFastStream`."""
    found = pages([Health(subscribers)])
    return [(path, _route(found[path])) for path in (LIVE, READY)]


def _route(page: Page) -> Any:
    @get(include_in_schema=False)
    async def route(scope: dict[str, Any]) -> AsgiResponse:  # noqa: ARG001  # FastStream gives it
        said = await page()
        headers = {"content-type": said.content_type}
        return AsgiResponse(said.body, status_code=said.status, headers=headers)

    return route
