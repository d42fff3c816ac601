"""Health and metrics over HTTP, in the process's own event loop.

Alive means that a restart would not help; ready, that the process does all of its work now: in an
outage of the bus or the store it is alive and not ready. The server leaves signals to the owner of
the process, and bounds what a client may make it hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from typing import Any, Final

import uvicorn
from orjson import dumps
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Metric,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from typing_extensions import override
from uvicorn.protocols.http.h11_impl import H11Protocol

from saga.errors import SettingsError
from saga.ports.health import Health
from saga.tasks import why_ended

LIVE: Final = "/health/live"
READY: Final = "/health/ready"
METRICS: Final = "/metrics"
OK: Final = 200
NOT_FOUND: Final = 404
UNAVAILABLE: Final = 503
ANSWER_S: Final = 2.5
"""How long a part may take to answer; probes of Kubernetes wait for three seconds when told so."""
STOP_S: Final = 2
BACKLOG: Final = 128
CONNECTIONS_MAX: Final = 64
"""A few probes and one Prometheus need far fewer."""
HEAD_BYTES_MAX: Final = 8_192
HEAD_S: Final = 10.0
"""How long a client may take for the head of a request."""
FRESH_S: Final = 1.0
"""How long one that has said nothing keeps its place from another."""

log = logging.getLogger(__name__)

Page = Callable[[], Awaitable[Response]]


def pages(parts: Sequence[Health]) -> dict[str, Page]:
    return probes(parts) | {METRICS: _metrics_page(parts)}


def probes(parts: Sequence[Health]) -> dict[str, Page]:
    async def live() -> Response:
        return _verdict([reason for part in parts for reason in part.why_dead()], "alive", {})

    async def ready() -> Response:
        facts = {name: fact for part in parts for name, fact in part.facts().items()}
        return _verdict(await _why_not_ready(parts), "ready", facts)

    return {LIVE: live, READY: ready}


def application(pages: Mapping[str, Page]) -> Starlette:
    def route(path: str, page: Page) -> Route:
        async def endpoint(request: Request) -> Response:  # noqa: ARG001  # starlette gives it
            response = await page()
            response.headers["cache-control"] = "no-store"
            return response

        return Route(path, endpoint)

    async def not_found(request: Request, error: Exception) -> Response:  # noqa: ARG001
        return _json({"paths": sorted(pages)}, NOT_FOUND)

    routes = [route(path, page) for path, page in pages.items()]
    return Starlette(routes=routes, exception_handlers={NOT_FOUND: not_found})


def _verdict(problems: Sequence[str], well: str, services: Mapping[str, Any]) -> Response:
    verdict: dict[str, Any] = {"status": f"not {well}" if problems else well}
    if problems:
        verdict["problems"] = list(problems)
    if services:
        verdict["services"] = dict(services)
    return _json(verdict, UNAVAILABLE if problems else OK)


def _json(content: dict[str, Any], status: int) -> Response:
    return Response(dumps(content), status, media_type="application/json")


async def _why_not_ready(parts: Sequence[Health]) -> list[str]:
    """No answer in time is a reason itself."""

    async def ask(part: Health) -> list[str]:
        try:
            async with asyncio.timeout(ANSWER_S):
                return await part.why_not_ready()
        except TimeoutError:
            return [f"no answer within {ANSWER_S:g} s"]

    return list(chain(*await asyncio.gather(*map(ask, parts))))


def _metrics_page(parts: Sequence[Health]) -> Page:
    about = GaugeMetricFamily("saga_info", "Which saga it is.", labels=("version",))
    about.add_metric((_version(),), 1)

    async def page() -> Response:
        # Answers also while a part is in trouble: that is when somebody looks.
        problems = await _why_not_ready(parts)
        ready = GaugeMetricFamily("saga_ready", "Whether the process does all of its work now.")
        ready.add_metric((), float(not problems))
        families = await asyncio.gather(*(part.metrics() for part in parts))
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        registry.register(_Families([about, ready, *chain(*families)]))
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return page


class _Families(Collector):
    """Families that were collected already; several parts may give samples of one."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._merged: dict[str, Metric] = {}
        for family in families:
            first = self._merged.setdefault(family.name, family)
            if first is not family:
                first.samples = [*first.samples, *family.samples]

    @override
    def collect(self) -> Iterator[Metric]:
        yield from self._merged.values()


def _version() -> str:
    try:
        return version("saga")
    except PackageNotFoundError:
        return "unknown"  # it runs from a folder, as in the image


class HttpServer:
    """A role that starts before the others and ends after them; port 0 takes a free one."""

    name: Final = "http"
    is_idle: Final = True
    """Nobody waits for probes."""

    def __init__(self, app: Any, address: str, *, must_listen: bool) -> None:
        self._app = app
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._must_listen = must_listen
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self.address: str | None = None
        self.counts: Counter[str] = Counter()

    async def start(self) -> None:
        """With *must_listen*, raises `SettingsError` where the address is taken."""
        try:
            listener = _listener(self._host, self._port)
        except OSError as error:
            reason = f"{self._host}:{self._port}: {error.strerror}"
            if self._must_listen:
                raise SettingsError("SAGA_HTTP", reason) from error
            log.warning("no health and metrics over HTTP: %s", reason, extra={"reason": reason})
            return
        host, port = listener.getsockname()[:2]
        self.address = f"{host}:{port}"
        config = uvicorn.Config(
            self._app,
            http=_Protocol,
            h11_max_incomplete_event_size=HEAD_BYTES_MAX,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level=logging.WARNING,
            access_log=False,
            timeout_graceful_shutdown=STOP_S,
        )
        self._server = _Server(config)
        # It ends with `close`, which waits for it.
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]), name="http")
        log.info("health and metrics are at http://%s", self.address)

    async def run(self) -> None:
        """Return when it is told to stop; raises what has ended the server before that."""
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            serving = [] if self._task is None else [self._task]
            await asyncio.wait([stopping, *serving], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        if not self._stopping.is_set() and self._task is not None:
            error = why_ended(self._task, "the server of health and metrics")
            if error is not None:
                raise error

    def stop(self) -> None:
        """Called when the others have stopped."""
        self._stopping.set()

    async def close(self) -> None:
        """Answers the open requests before it returns."""
        server, task = self._server, self._task
        self._server = self._task = None
        if server is not None and task is not None:
            server.should_exit = True
            await asyncio.wait([task])


class _Server(uvicorn.Server):
    """Leaves the signals to the owner of the process."""

    @override
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Protocol(H11Protocol):
    """Limits connections, and size and time of a request's head.

    Where there are too many, one that has begun a request and does not end it makes room: so a
    probe is answered however many others are slow.
    """

    _since = 0.0
    """When the connection was made, or its last request answered."""
    _has_part = False
    _timer: asyncio.TimerHandle | None = None

    @property
    def _waits(self) -> bool:
        """Whether it is the client's turn."""
        return self.cycle is None or self.cycle.response_complete  # type: ignore[redundant-expr]  # uvicorn's annotation is wrong

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn
        super().connection_made(transport)
        self._since = self.loop.time()
        if len(self.connections) > CONNECTIONS_MAX:
            self._make_room()
        self._timer = self.loop.call_later(HEAD_S, self._close_if_slow)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._timer is not None:
            self._timer.cancel()

    @override
    def data_received(self, data: bytes) -> None:
        # In slices, as h11 looks at the size of a head only while the head is not whole.
        for first in range(0, len(data), HEAD_BYTES_MAX):
            super().data_received(data[first : first + HEAD_BYTES_MAX])
            if self.transport.is_closing():
                return
        self._has_part = self._waits

    @override
    def on_response_complete(self) -> None:
        self._since, self._has_part = self.loop.time(), False
        super().on_response_complete()

    def _make_room(self) -> None:
        """Close the slowest connection, or this one if none is slow."""
        before = self._since - FRESH_S
        slow = [
            each
            for each in self.connections
            if isinstance(each, _Protocol)
            and each._waits  # noqa: SLF001  # of this class
            and (each._has_part or each._since < before)  # noqa: SLF001
        ]
        slowest = min(slow, key=lambda each: each._since, default=self)  # noqa: SLF001
        self.connections.discard(slowest)  # it is lost a moment later
        slowest.transport.abort()

    def _close_if_slow(self) -> None:
        """Also where a request takes long: probes do not, so its client does not read."""
        left_s = self._since + HEAD_S - self.loop.time()
        if left_s <= 0:
            self.transport.abort()
        else:
            self._timer = self.loop.call_later(left_s, self._close_if_slow)


def _listener(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)  # noqa: FBT003  # it takes no name
    return listener
