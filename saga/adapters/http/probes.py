"""The probes over HTTP: `/health/live` and `/health/ready`, 200 or 503, with the reasons as JSON.

Alive means that restarting would not help. Ready means that the process does all of its work now:
an outage of the bus or of the store is no reason to restart anything, and none to be ready.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from orjson import dumps

from saga.ports.health import Health

LIVE: Final = "/health/live"
READY: Final = "/health/ready"
OK: Final = 200
NOT_FOUND: Final = 404
UNAVAILABLE: Final = 503
ANSWER_S: Final = 2.0
"""How long an answer may take; probes of Kubernetes wait for one second more when told so."""


class Answer(NamedTuple):
    """What is said over HTTP."""

    status: int
    body: bytes
    content_type: str = "application/json"


Page = Callable[[], Awaitable[Answer]]


def pages(parts: Sequence[Health]) -> dict[str, Page]:
    """The probes of a process of these *parts*."""

    async def live() -> Answer:
        return answer([reason for part in parts for reason in part.why_dead()], "alive", {})

    async def ready() -> Answer:
        facts = {name: fact for part in parts for name, fact in part.facts().items()}
        return answer(await why_not_ready(parts), "ready", facts)

    return {LIVE: live, READY: ready}


def answer(problems: Sequence[str], well: str, services: Mapping[str, Any]) -> Answer:
    """200 without *problems*, 503 with them."""
    said: dict[str, Any] = {"status": f"not {well}" if problems else well}
    if problems:
        said["problems"] = list(problems)
    if services:
        said["services"] = dict(services)
    return Answer(UNAVAILABLE if problems else OK, dumps(said))


def application(found: Mapping[str, Page]) -> Any:
    """An ASGI application of these pages, and nothing else."""

    async def app(scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG001  # no body is read
        assert scope["type"] == "http", scope["type"]
        page = found.get(scope["path"])
        said = Answer(NOT_FOUND, dumps({"paths": sorted(found)})) if page is None else await page()
        headers = [
            (b"content-type", said.content_type.encode()),
            (b"content-length", b"%d" % len(said.body)),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": said.status, "headers": headers})
        body = b"" if scope["method"] == "HEAD" else said.body
        await send({"type": "http.response.body", "body": body})

    return app


async def why_not_ready(parts: Sequence[Health]) -> list[str]:
    """The reasons of all *parts*; one that does not answer in time is a reason itself."""

    async def ask(part: Health) -> list[str]:
        try:
            async with asyncio.timeout(ANSWER_S + 0.5):
                return await part.why_not_ready()
        except TimeoutError:
            return [f"no answer within {ANSWER_S + 0.5:g} s"]

    found = await asyncio.gather(*(ask(part) for part in parts))
    return [reason for reasons in found for reason in reasons]
