"""Telling other processes that something was appended, and hearing it from them.

NOTIFY inside of a transaction makes all such transactions of a database commit one after another,
each waiting for the disk. It is therefore sent by itself afterwards, once for all appends of some
milliseconds, and does not wait for the disk. That may get lost, and a connection may fail: whoever
listens also looks by himself from time to time.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator
from typing import Final

import psycopg
from psycopg.sql import SQL, Identifier

from saga.adapters.postgres.database import PostgresDatabase
from saga.adapters.postgres.pipeline import Session
from saga.errors import StoreUnavailable

RING_PAUSE_S: Final = 0.03
RECONNECT_PAUSE_S: Final = 0.5
# What is sent is of no use after a crash: its commit need not be on disk.
_NOTIFY: Final = "SELECT set_config('synchronous_commit', 'off', true), pg_notify(%s, %s)"


class Bell:
    """Sends the notifications of one process."""

    def __init__(self, database: PostgresDatabase, channel: str) -> None:
        self._database = database
        self._channel = channel
        self.name: Final = secrets.token_hex(8)
        """What its notifications say, and no other bell's."""
        self._is_wanted = False
        self._is_ringing = False

    def ring(self) -> None:
        """Tell the others soon."""
        self._is_wanted = True
        if not self._is_ringing:
            self._is_ringing = True
            self._database.start(self._ring())

    async def _ring(self) -> None:
        async def notify(connection: Session) -> None:
            await connection.execute(_NOTIFY, (self._channel, self.name))

        try:
            while self._is_wanted:
                await asyncio.sleep(RING_PAUSE_S)
                self._is_wanted = False
                await self._database.read(notify)
        except StoreUnavailable:
            pass  # they look by themselves
        finally:
            self._is_ringing = False


class Listener:
    """Hears the notifications of other processes, on a connection of its own.

    Args:
        deaf_to: the bell of this process, which tells it nothing that it does not know.
    """

    def __init__(self, database: PostgresDatabase, channel: str, *, deaf_to: Bell) -> None:
        self._database = database
        self._own = deaf_to.name
        self._listen = SQL("LISTEN {}").format(Identifier(channel))

    async def rings(self, *, poll_s: float) -> AsyncGenerator[None, None]:
        """Yields at once, then whenever something may have been appended, and at least every
        *poll_s*.

        Never raises because of the connection: without one it is the polling that goes on.
        """
        connection: Session | None = None
        try:
            while True:
                try:
                    if connection is None:
                        connection = await self._connected()
                    yield None
                    await self._hear(connection, poll_s)
                except (psycopg.Error, OSError, TimeoutError):
                    if connection is not None:
                        await connection.close()
                    connection = None
                    yield None
                    await asyncio.sleep(min(poll_s, RECONNECT_PAUSE_S))
        finally:
            if connection is not None:
                await connection.close()

    async def _hear(self, connection: Session, poll_s: float) -> None:
        """Return when another's bell has rung, or after *poll_s*."""
        loop = asyncio.get_running_loop()
        until = loop.time() + poll_s
        while (left_s := until - loop.time()) > 0:
            notices = [one async for one in connection.notifies(timeout=left_s, stop_after=1)]
            if any(one.payload != self._own for one in notices):
                return

    async def _connected(self) -> Session:
        connection = await self._database.address.connect_async()
        try:
            await connection.execute(self._listen, prepare=False)
        except BaseException:
            await connection.close()
            raise
        return connection
