"""Telling other processes that something was appended, and hearing it from them.

NOTIFY inside a transaction makes all such transactions commit one after another, each waiting for
the disk, so it is sent by itself afterwards. It may get lost: a listener also polls.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator
from typing import Final

import psycopg
from psycopg.sql import SQL, Identifier

from saga.adapters.postgres.database import PostgresDatabase
from saga.adapters.postgres.pipeline import Session, text
from saga.errors import StoreUnavailable

NOTIFY_PAUSE_S: Final = 0.03
RECONNECT_PAUSE_S: Final = 0.5
# What is sent is of no use after a crash: its commit need not be on disk.
_NOTIFY: Final = "SELECT set_config('synchronous_commit', 'off', true), pg_notify(%s, %s)"


class Notifier:
    """Tells and hears of appends; what it tells, it does not hear."""

    def __init__(self, database: PostgresDatabase, channel: str) -> None:
        self._database = database
        self._channel = channel
        self._name: Final = secrets.token_hex(8)
        self._is_wanted = False
        self._is_sending = False

    def notify(self) -> None:
        """Tell the others, after a short pause, so that more appends share one message."""
        self._is_wanted = True
        if not self._is_sending:
            self._is_sending = True
            self._database.start(self._send())

    async def appends(self, *, poll_s: float) -> AsyncGenerator[None, None]:
        """As `TellsOfAppends` says; without a connection it only polls."""
        session: Session | None = None
        try:
            while True:
                try:
                    session = session or await self._listening()
                    yield None
                    await self._hear(session, poll_s)
                except (psycopg.Error, OSError, TimeoutError):
                    if session is not None:
                        await session.close()
                    session = None
                    yield None
                    await asyncio.sleep(min(poll_s, RECONNECT_PAUSE_S))
        finally:
            if session is not None:
                await session.close()

    async def _send(self) -> None:
        try:
            while self._is_wanted:
                await asyncio.sleep(NOTIFY_PAUSE_S)
                self._is_wanted = False
                await self._database.fetch(_NOTIFY, text(self._channel), text(self._name))
        except StoreUnavailable:
            pass  # the others look by themselves
        finally:
            self._is_sending = False

    async def _hear(self, session: Session, poll_s: float) -> None:
        """Return when another process has notified, or after *poll_s*."""
        loop = asyncio.get_running_loop()
        until = loop.time() + poll_s
        while (left_s := until - loop.time()) > 0:
            notices = [each async for each in session.notifies(timeout=left_s, stop_after=1)]
            if any(notice.payload != self._name for notice in notices):
                return

    async def _listening(self) -> Session:
        session = await self._database.address.connect_async()
        try:
            await session.execute(SQL("LISTEN {}").format(Identifier(self._channel)), prepare=False)
        except BaseException:
            await session.close()
            raise
        return session
