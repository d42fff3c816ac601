"""The servers of one test run: one Kafka and one PostgreSQL, started when the first test asks.

They belong to the process that began the run. With `-n` that is the controller: its test processes
ask it over a local socket, so none of them takes the servers along when it has no more to do.
"""

from __future__ import annotations

import secrets
import threading
from contextlib import ExitStack, suppress
from functools import cached_property
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener

from infra import InfraError, Kafka, Postgres
from infra.scratch import scratch_folder

Place = tuple[str, bytes]


class Unavailable(Exception):
    """A server cannot be had; the text says what to do."""


class Servers:
    """The owner's side."""

    def __init__(self, *, kafka: str | None, postgres: str | None) -> None:
        self._given = {"kafka": kafka, "postgres": postgres}
        self._answers: dict[str, tuple[bool, str]] = {}
        self._locks = {name: threading.Lock() for name in self._given}
        self._exits = ExitStack()

    def address(self, name: str) -> str:
        """The address of `kafka` or `postgres`: the one given, or that of a server started now."""
        is_well, answer = self.answer(name)
        if not is_well:
            raise Unavailable(answer)
        return answer

    def answer(self, name: str) -> tuple[bool, str]:
        """Whether there is such a server, and its address or what to do; found out once."""
        with self._locks[name]:
            if name not in self._answers:
                try:
                    self._answers[name] = (True, self._given[name] or self._start(name))
                except (InfraError, OSError) as error:
                    self._answers[name] = (False, str(error))
            return self._answers[name]

    def stop(self) -> None:
        """Kills what was started: nobody needs its data any more."""
        self._exits.close()

    @cached_property
    def place(self) -> Place:
        """Where test processes ask, and the secret that lets them. Listens from now on."""
        secret = secrets.token_bytes(16)
        listener = Listener(family="AF_UNIX", authkey=secret)
        threading.Thread(target=self._listen, args=(listener,), daemon=True).start()
        return str(listener.address), secret

    def _start(self, name: str) -> str:
        folder = self._exits.enter_context(scratch_folder())
        if name == "kafka":
            return self._exits.enter_context(Kafka(folder / "kafka")).bootstrap
        return self._exits.enter_context(Postgres(folder / "postgres")).url()

    def _listen(self, listener: Listener) -> None:
        while True:
            # A test process that dies while it asks is none of our business.
            with suppress(OSError, EOFError, AuthenticationError):
                connection = listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        with suppress(OSError, EOFError), connection:
            connection.send(self.answer(connection.recv()))


class Borrowed:
    """A test process's side."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def address(self, name: str) -> str:
        """The address of `kafka` or `postgres`, started by the owner if need be."""
        path, secret = self._place
        with Client(path, family="AF_UNIX", authkey=secret) as connection:
            connection.send(name)
            is_well, answer = connection.recv()
        if not is_well:
            raise Unavailable(answer)
        return str(answer)
