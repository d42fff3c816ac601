"""PgBouncer before a PostgreSQL server: a pooler that gives clients its sessions to use in turn."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit, urlunsplit

from infra.failures import NotStarted
from infra.ports import HOST, START_ATTEMPTS_MAX, free_port
from infra.processes import Server, ServerProcess, wait_until_ready
from infra.programs import pgbouncer
from infra.users import unprivileged_user

START_TIMEOUT_S = 60.0
_SETTINGS = """\
[databases]
* = host={host} port={server_port} user={user} password={password}

[pgbouncer]
listen_addr = {host}
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {pool_mode}
default_pool_size = {sessions}
server_idle_timeout = 5
ignore_startup_parameters = extra_float_digits
"""


class PgBouncer(Server):
    """Lets everybody in as the user of *server*.

    Args:
        server: the address of a database; its others can be reached as well.
        pool_mode: whether a client has a session to itself, or for one transaction or statement.
        sessions: how many it has with each database.
    """

    def __init__(
        self, folder: Path, server: str, *, pool_mode: str = "transaction", sessions: int = 5
    ) -> None:
        self.folder = folder.absolute()
        self.log = self.folder / "pgbouncer.log"
        self._server = urlsplit(server)
        self._pool_mode = pool_mode
        self._sessions = sessions
        self.port: int | None = None

    def url(self, server: str | None = None) -> str:
        """The address of the same database, or that of *server*, through the pooler."""
        at = self._server if server is None else urlsplit(server)
        return urlunsplit(at._replace(netloc=f"{at.username}@{HOST}:{self.port}"))

    def start(self) -> None:
        """Starts it and waits until it takes connections."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, START_ATTEMPTS_MAX + 1):
            self.port = free_port()
            try:
                self._start(self.port)
            except NotStarted:
                if attempt == START_ATTEMPTS_MAX:
                    raise
            else:
                return

    def _start(self, port: int) -> None:
        settings, user = self.folder / "pgbouncer.ini", unprivileged_user("PgBouncer")
        settings.touch(mode=0o600)
        settings.write_text(
            _SETTINGS.format(
                host=HOST,
                port=port,
                server_port=self._server.port,
                user=self._server.username,
                password=self._server.password,
                pool_mode=self._pool_mode,
                sessions=self._sessions,
            )
        )
        if user is not None:
            for path in (self.folder, settings):
                shutil.chown(path, user)
        self._process = ServerProcess.spawn(
            [pgbouncer(), settings], folder=self.folder, log=self.log, user=user
        )
        wait_until_ready(
            self._process,
            self._is_ready,
            name="PgBouncer",
            log=self.log,
            timeout_s=START_TIMEOUT_S,
        )

    def _is_ready(self) -> bool:
        try:
            socket.create_connection((HOST, self.port or 0), timeout=1).close()
        except OSError:
            return False
        return True

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
