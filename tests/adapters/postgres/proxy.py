"""
A TCP proxy in front of a PostgreSQL server, which can cut connections at the worst moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

HOST = "127.0.0.1"
READ_BYTES = 65_536
COMMITTED = b"COMMIT\x00"
"""What the server says once a transaction is durable."""


class Proxy:
    """
    Passes bytes on between clients and `HOST:server_port`.
    """

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._writers: set[asyncio.StreamWriter] = set()
        self._is_armed = False
        self.cuts = 0
        self.port = 0

    def cut_after_commit(self) -> None:
        """
        Cut the connection of whoever commits next, instead of telling that it was done.
        """
        self._is_armed = True

    def cut_all(self) -> None:
        """
        Cut every connection there is.
        """
        for writer in list(self._writers):
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """
        One client.
        """
        server_reader, server_writer = await asyncio.open_connection(HOST, self._server_port)
        self._writers |= {writer, server_writer}
        tasks = [
            asyncio.create_task(self._to_server(reader, server_writer)),
            asyncio.create_task(self._to_client(server_reader, writer)),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for each in (writer, server_writer):
                self._writers.discard(each)
                each.transport.abort()

    async def _to_server(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(READ_BYTES):
                writer.write(data)
                await writer.drain()

    async def _to_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(READ_BYTES):
                if self._is_armed and COMMITTED in data:
                    self._is_armed = False
                    self.cuts += 1
                    return
                writer.write(data)
                await writer.drain()


@asynccontextmanager
async def proxy_to(server_port: int) -> AsyncIterator[Proxy]:
    """
    A running proxy, gone at the end with all its connections.
    """
    proxy = Proxy(server_port)
    server = await asyncio.start_server(proxy.serve, HOST, 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.cut_all()
        await server.wait_closed()
