"""
The probes over HTTP: `/health/live` and `/health/ready`, 200 or 503, with the reasons as JSON.

There is no AsyncAPI page here and never its "try it out": a dry run stops the consumers of the
broker that it is run on, for good and without a sign of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator, Sequence
from typing import Any, Final

import structlog
import uvicorn
from faststream.asgi import AsgiFastStream, AsgiResponse, get
from faststream.kafka import KafkaBroker
from orjson import dumps

from saga.adapters.faststream.health import Health
from saga.adapters.faststream.subscriber import EffectsSubscriber
from saga.errors import SettingsError

LIVE: Final = "/health/live"
READY: Final = "/health/ready"
OK: Final = 200
UNAVAILABLE: Final = 503
STOP_S: Final = 2
BACKLOG: Final = 128

log = structlog.get_logger("saga.http")


def routes(subscribers: Sequence[EffectsSubscriber]) -> list[tuple[str, Any]]:
    """
    The probes of these services, for `asgi_routes` of an `AsgiFastStream`.
    """
    health = Health(subscribers)

    @get(include_in_schema=False)
    async def live(scope: dict[str, Any]) -> AsgiResponse:  # noqa: ARG001
        return _answer(health.why_dead(), "alive", {})

    @get(include_in_schema=False)
    async def ready(scope: dict[str, Any]) -> AsgiResponse:  # noqa: ARG001
        return _answer(await health.why_not_ready(), "ready", health.facts())

    return [(LIVE, live), (READY, ready)]


def asgi_app(broker: KafkaBroker, subscribers: Sequence[EffectsSubscriber]) -> AsgiFastStream:
    """
    An application of *broker* with the probes and nothing else.
    """
    return AsgiFastStream(broker, asgi_routes=routes(subscribers), logger=None, asyncapi_path=None)


class Probes:
    """
    A server for the probes beside whatever else the process does.

    Args:
        app: what answers. Its broker is started and stopped by somebody else.
        address: `host:port`; port 0 takes one that is free.
        must_listen: whether it is an error if somebody else listens there.
    """

    def __init__(self, app: AsgiFastStream, address: str, *, must_listen: bool) -> None:
        self._app = app
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._must_listen = must_listen
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None
        self.address: str | None = None

    async def start(self) -> None:
        """
        Listen.

        Raises:
            SettingsError: the address cannot be listened to, although it must.
        """
        try:
            listener = _listener(self._host, self._port)
        except OSError as error:
            reason = f"{self._host}:{self._port}: {error.strerror}"
            if self._must_listen:
                raise SettingsError("SAGA_HTTP", reason) from error
            log.warning("no probes", reason=reason)
            return
        host, port = listener.getsockname()[:2]
        self.address = f"{host}:{port}"
        config = uvicorn.Config(
            self._app,
            lifespan="off",
            log_config=None,
            log_level=logging.WARNING,
            access_log=False,
            timeout_graceful_shutdown=STOP_S,
            ws="none",
        )
        self._server = _Server(config)
        self._task = asyncio.get_running_loop().create_task(
            self._server.serve(sockets=[listener]), name="probes"
        )
        log.info("probes", address=self.address, paths=[LIVE, READY])

    async def stop(self) -> None:
        """
        Answer what was asked, and listen no more.
        """
        server, task = self._server, self._task
        self._server = self._task = None
        if server is not None and task is not None:
            server.should_exit = True
            await asyncio.wait([task])


class _Server(uvicorn.Server):
    """
    A server that leaves the signals to those who own the process.
    """

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


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


def _answer(problems: Sequence[str], well: str, services: dict[str, Any]) -> AsgiResponse:
    said: dict[str, Any] = {"status": f"not {well}" if problems else well}
    if problems:
        said["problems"] = list(problems)
    if services:
        said["services"] = services
    return AsgiResponse(
        dumps(said),
        status_code=UNAVAILABLE if problems else OK,
        headers={"content-type": "application/json"},
    )
