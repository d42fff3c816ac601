"""A PostgreSQL server on this machine, with a folder of its own and as durable as in production.

It listens on the loopback interface only and asks for a password that is drawn when its folder is
made. As root it runs as another user, because PostgreSQL refuses root.
"""

from __future__ import annotations

import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Self

from infra.failures import InfraError, NotStarted
from infra.ports import HOST, START_ATTEMPTS_MAX, free_port
from infra.processes import Server, ServerProcess, prefix, run, wait_until_ready
from infra.programs import postgres_folder
from infra.users import unprivileged_user

USER = "saga"
INITDB_TIMEOUT_S = 180.0
START_TIMEOUT_S = 180.0
_STATE_LINE = 7  # of postmaster.pid, counted from 0
_PORT_TAKEN = "could not bind"
_ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC"}  # so that its log is in English
_SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "200",
    "fsync": "on",
    "synchronous_commit": "on",
}


class StopMode(StrEnum):
    """After its clients, without them, or without even a checkpoint."""

    SMART = "smart"
    FAST = "fast"
    IMMEDIATE = "immediate"


_SIGNALS = {
    StopMode.SMART: signal.SIGTERM,
    StopMode.FAST: signal.SIGINT,
    StopMode.IMMEDIATE: signal.SIGQUIT,
}


class Postgres(Server):
    def __init__(
        self,
        folder: Path,
        *,
        preferred_port: int | None = None,
        settings: Mapping[str, str] | None = None,
        certificate: Path | None = None,
        outlives_owner: bool = False,
    ) -> None:
        """Prepares a server in *folder*; what an earlier one left there is used again.

        Args:
            preferred_port: its port, if it is free at the first start.
            settings: server settings that go before ours.
            certificate: a file in PEM with key and certificate, to speak TLS as well.
        """
        self.folder = folder.absolute()
        self.log = self.folder / "postgres.log"
        self.port: int | None = None
        self._data = self.folder / "data"
        self._password = self.folder / "password"
        self._preferred_port = preferred_port
        self._settings = {**_SETTINGS, **(settings or {})}
        self._given_certificate = certificate
        self._is_bound = not outlives_owner
        self._user = unprivileged_user("PostgreSQL")

    def url(self, database: str = "postgres") -> str:
        """The address of one of its databases, password included."""
        assert self.port is not None, "a server has an address once it was started"
        return f"postgresql://{USER}:{self._password.read_text()}@{HOST}:{self.port}/{database}"

    def start(self) -> None:
        """Starts it and waits until it takes connections; after the first time at the same port."""
        if self.is_running:
            return
        programs = postgres_folder()
        if not (self._data / "PG_VERSION").exists():
            self._make(programs)
        if self._given_certificate is not None:
            self._take_certificate(self._given_certificate)
        for attempt in range(1, START_ATTEMPTS_MAX + 1):
            port = self.port or free_port(preferred=self._preferred_port)
            try:
                self._start(programs, port)
            except NotStarted as error:
                is_unlucky = self.port is None and _PORT_TAKEN in error.end_of_log
                if not is_unlucky or attempt == START_ATTEMPTS_MAX:
                    raise
            else:
                self.port = port
                return

    def stop(self, mode: StopMode = StopMode.FAST) -> None:
        """Stops it, and kills it when that takes half a minute."""
        self._ask_to_stop(_SIGNALS[mode])
        self._await_end()

    def restart(self, mode: StopMode = StopMode.FAST) -> None:
        self.stop(mode)
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _make(self, programs: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._password.touch(mode=0o600)
        self._password.write_text(secrets.token_urlsafe(18))
        if self._user is not None:
            for path in (self.folder, self._password):
                shutil.chown(path, self._user)
            self._check_reachable(self._user)
        shutil.rmtree(self._data, ignore_errors=True)  # an initdb that was cut off
        command: list[str | Path] = [programs / "initdb", "--pgdata", self._data]
        command += ["--username", USER, "--auth", "scram-sha-256", "--pwfile", self._password]
        command += ["--encoding", "UTF8", "--locale", "C"]
        run(
            "initdb",
            command,
            log=self.log,
            timeout_s=INITDB_TIMEOUT_S,
            user=self._user,
            environment=_ENVIRONMENT,
        )

    def _take_certificate(self, given: Path) -> None:
        # A key that others may read is refused.
        own = self.folder / "server.pem"
        own.touch(mode=0o600)
        own.write_bytes(given.read_bytes())
        if self._user is not None:
            shutil.chown(own, self._user)
        self._settings |= {"ssl": "on", "ssl_cert_file": str(own), "ssl_key_file": str(own)}

    def _check_reachable(self, user: str) -> None:
        test = [*prefix(user=user, is_bound=True), "test", "-w", str(self.folder)]
        if subprocess.run(test, check=False).returncode != 0:
            raise InfraError(
                f"PostgreSQL runs as {user}, who cannot reach {self.folder}: a folder above it is"
                f" closed to others. Use a folder below /tmp or /var/tmp, or do not be root."
            )

    def _start(self, programs: Path, port: int) -> None:
        options = [f"-c{name}={value}" for name, value in self._settings.items()]
        self._process = ServerProcess.spawn(
            [programs / "postgres", "-D", self._data, "-p", str(port), *options],
            folder=self.folder,
            log=self.log,
            user=self._user,
            environment=_ENVIRONMENT,
            is_bound=self._is_bound,
        )
        wait_until_ready(
            self._process,
            self._is_ready,
            name="PostgreSQL",
            log=self.log,
            timeout_s=START_TIMEOUT_S,
        )

    def _is_ready(self) -> bool:
        # As pg_ctl finds out: the server notes its process id and its state in this file.
        try:
            lines = (self._data / "postmaster.pid").read_text("ascii").splitlines()
        except FileNotFoundError:
            return False
        pid, state = lines[0:1], [line.strip() for line in lines[_STATE_LINE : _STATE_LINE + 1]]
        return pid == [str(self.process.pid)] and state == ["ready"]
