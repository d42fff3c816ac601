"""
Telling other processes that something was appended, and hearing it from them.

NOTIFY inside of a transaction makes all such transactions of a database commit one after another,
each waiting for the disk. It is therefore sent by itself afterwards, once for all appends of some
milliseconds. That may get lost, and a connection may fail: whoever listens also looks by himself
from time to time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import psycopg
from psycopg.sql import SQL, Identifier

from saga.adapters.postgres.database import PostgresDatabase
from saga.adapters.postgres.pipeline import Session
from saga.errors import StoreUnavailable

RING_PAUSE_S: Final = 0.03
RECONNECT_PAUSE_S: Final = 0.5


class Bell:
    """
    Sends the notifications of one process.
    """

    def __init__(self, database: PostgresDatabase, channel: str) -> None:
        self._database = database
        self._notify = SQL("NOTIFY {}").format(Identifier(channel))
        self._is_wanted = False
        self._is_ringing = False

    def ring(self) -> None:
        """
        Tell the others soon.
        """
        self._is_wanted = True
        if not self._is_ringing:
            self._is_ringing = True
            self._database.start(self._ring())

    async def _ring(self) -> None:
        async def notify(connection: Session) -> None:
            await connection.execute(self._notify, prepare=False)

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
    """
    Hears the notifications of all processes, on a connection of its own.
    """

    def __init__(self, database: PostgresDatabase, channel: str) -> None:
        self._database = database
        self._listen = SQL("LISTEN {}").format(Identifier(channel))

    async def rings(self, *, poll_s: float) -> AsyncIterator[None]:
        """
        Yields at once, then whenever something may have been appended, and at least every *poll_s*.

        Never raises because of the connection: without one it is the polling that goes on.
        """
        connection: Session | None = None
        try:
            while True:
                try:
                    if connection is None:
                        connection = await self._connected()
                    yield None
                    async for _ in connection.notifies(timeout=poll_s, stop_after=1):
                        pass
                except (psycopg.Error, OSError, TimeoutError):
                    if connection is not None:
                        await connection.close()
                    connection = None
                    yield None
                    await asyncio.sleep(min(poll_s, RECONNECT_PAUSE_S))
        finally:
            if connection is not None:
                await connection.close()

    async def _connected(self) -> Session:
        connection = await self._database.address.connect_async()
        try:
            await connection.execute(self._listen, prepare=False)
        except BaseException:
            await connection.close()
            raise
        return connection
