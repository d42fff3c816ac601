"""A proxy in front of a server: slow, cut off, or gone exactly when a COMMIT passes.

It reads PostgreSQL's messages as far as it has to; other protocols pass as bytes. Each direction of
each connection has a thread, so that it never waits for whoever uses it.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum, auto
from typing import Self
from urllib.parse import urlsplit, urlunsplit

CHUNK_BYTES = 65_536
HOST = "127.0.0.1"
CONNECT_S = 5.0
_TYPED, _UNTYPED = 5, 4
_STARTUP_VERSION_MIN, _STARTUP_VERSION_MAX = 0x0003_0000, 0x0003_FFFF
_COMMIT = b"COMMIT"
_COMMITTED = b"C\x00\x00\x00\x0bCOMMIT\x00"


class Cut(Enum):
    """When a connection is cut off that says COMMIT."""

    BEFORE = auto()
    """The server never hears it."""
    AFTER = auto()
    """The server has done it, and its answer gets lost."""


class Proxy:
    """Listens on a port of its own, at *url*, and hands everything on to the server of that URL.

    *at_commit* is asked whenever COMMIT passes to a PostgreSQL, *on_cut* called when a connection
    is about to be cut off there; both from threads of the proxy. Answers arrive *delay_s* late.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = parts.hostname, parts.port
        self._listener = socket.create_server((HOST, 0))
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()
        self._is_open = True
        login, port = parts.netloc.rpartition("@")[0], self._listener.getsockname()[1]
        self.url = urlunsplit(parts._replace(netloc=f"{login}@{HOST}:{port}"))
        self.at_commit: Callable[[], Cut | None] = lambda: None
        self.on_cut: Callable[[], None] = lambda: None
        self.delay_s = 0.0
        self.cuts = 0
        self._start(self._accept)

    def cut_next(self, cut: Cut) -> None:
        """Cut the connection of whoever says COMMIT next, and of nobody else."""
        cuts = iter([cut])
        self.at_commit = lambda: next(cuts, None)

    def cut_off(self) -> None:
        """Cut all connections; new ones are let in."""
        with self._lock:
            for pair in self._pairs:
                _shut(*pair)

    def shut(self) -> None:
        """Cut all connections, and let none in."""
        self._is_open = False
        self.cut_off()

    def close(self) -> None:
        self.shut()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, work: Callable[..., None], *args: object) -> None:
        threading.Thread(target=work, args=args, name="proxy", daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with client:
            try:
                server = socket.create_connection(self._target, CONNECT_S)
            except OSError:
                return
            with server:
                server.settimeout(None)
                pair = client, server
                with self._lock:
                    self._pairs.add(pair)
                if not self._is_open:
                    _shut(*pair)
                spoken = _Spoken()
                answers = threading.Thread(
                    target=self._answer, args=(*pair, spoken), name="proxy", daemon=True
                )
                answers.start()
                with suppress(OSError):
                    self._ask(*pair, spoken)
                _shut(*pair)
                answers.join()
                with self._lock:
                    self._pairs.discard(pair)

    def _ask(self, client: socket.socket, server: socket.socket, spoken: "_Spoken") -> None:
        while data := client.recv(CHUNK_BYTES):
            spoken.said += data
            passed = bytearray()
            for message, is_commit in spoken.messages():
                if is_commit and spoken.cut is None:
                    spoken.cut = self.at_commit()
                    if spoken.cut is Cut.BEFORE:
                        server.sendall(passed)
                        self._has_cut()
                        return
                passed += message
            server.sendall(passed)

    def _answer(self, client: socket.socket, server: socket.socket, spoken: "_Spoken") -> None:
        tail = b""
        with suppress(OSError):
            while data := server.recv(CHUNK_BYTES):
                if self.delay_s:
                    time.sleep(self.delay_s)
                if spoken.cut is Cut.AFTER and _COMMITTED in tail + data:
                    self._has_cut()
                    break
                tail = data[-len(_COMMITTED) :]
                client.sendall(data)
        _shut(client, server)

    def _has_cut(self) -> None:
        self.cuts += 1
        self.on_cut()


class _Spoken:
    """What a client of a PostgreSQL has said."""

    def __init__(self) -> None:
        self.said = bytearray()
        self.cut: Cut | None = None
        self._is_started = False
        self._commits: set[bytes] = set()

    def messages(self) -> Iterator[tuple[bytes, bool]]:
        """The whole messages so far, each with whether it is a COMMIT."""
        while True:
            head = _TYPED if self._is_started else _UNTYPED
            if len(self.said) < head:
                return
            length = int.from_bytes(self.said[head - 4 : head], "big") + head - 4
            if len(self.said) < length:
                return
            message = bytes(self.said[:length])
            del self.said[:length]
            if self._is_started:
                yield message, self._is_commit(message)
            else:
                version = int.from_bytes(message[4:8], "big")
                self._is_started = _STARTUP_VERSION_MIN <= version <= _STARTUP_VERSION_MAX
                yield message, False

    def _is_commit(self, message: bytes) -> bool:
        kind, body = message[:1], message[_TYPED:]
        match kind:
            case b"Q":
                return body.rstrip(b"\x00").upper() == _COMMIT
            case b"P":
                name, _, rest = body.partition(b"\x00")
                if rest.partition(b"\x00")[0].upper() == _COMMIT:
                    self._commits.add(name)
                else:
                    self._commits.discard(name)
                return False
            case b"B":
                return body.split(b"\x00", 2)[1] in self._commits
            case _:
                return False


def _shut(*pair: socket.socket) -> None:
    for one in pair:
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
