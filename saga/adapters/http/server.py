"""An HTTP server in the process's own event loop, which leaves signals to those who own the
process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from typing import Any, Final

import uvicorn

from saga.errors import SettingsError
from saga.logs import get_logger

STOP_S: Final = 2
BACKLOG: Final = 128

log = get_logger("saga.http")


class HttpServer:
    """A server beside whatever else the process does.

    Args:
        app: what answers.
        address: `host:port`; port 0 takes one that is free.
        must_listen: whether it is an error if somebody else listens there.
    """

    def __init__(self, app: Any, address: str, *, must_listen: bool) -> None:
        self._app = app
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._must_listen = must_listen
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None
        self.address: str | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            SettingsError: the address cannot be listened to, although it must.
        """
        try:
            listener = _listener(self._host, self._port)
        except OSError as error:
            reason = f"{self._host}:{self._port}: {error.strerror}"
            if self._must_listen:
                raise SettingsError("SAGA_HTTP", reason) from error
            log.warning("no health and metrics over HTTP", reason=reason)
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
            self._server.serve(sockets=[listener]), name="http"
        )
        log.info("listening", address=self.address)

    async def stop(self) -> None:
        """Answer what was asked, and listen no more."""
        server, task = self._server, self._task
        self._server = self._task = None
        if server is not None and task is not None:
            server.should_exit = True
            await asyncio.wait([task])


class _Server(uvicorn.Server):
    """A server that leaves the signals to those who own the process."""

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
