"""`OutboxRelay`: publishes what programs have added to an outbox.

Of all relays of a database one leads, by a lock of its session; the others wait for it to end. It
removes what it has published, in this order: after a crash between the two the same bytes go out
once more under the same ids. Events that the bus refuses for ever are set aside with the reason; a
topic that does not exist holds up its own events only.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from saga.core.durations import SECOND_US, duration_us
from saga.errors import (
    BusUnavailable,
    MessageTooLarge,
    SettingsError,
    StoreUnavailable,
    TopicMissing,
)
from saga.logs import get_logger
from saga.publishing.publisher import Publisher
from saga.publishing.writer import WrittenEvent
from saga.settings import Settings

if TYPE_CHECKING:
    from saga.adapters.postgres import Address
    from saga.adapters.postgres.outbox import OutboxRow, OutboxSession

BATCH_ROWS: Final = 500
BATCH_BYTES: Final = 8 * 1_048_576
POLL: Final = timedelta(milliseconds=100)
TAKE_OVER_S: Final = 0.5
"""How often a relay that does not lead asks whether it may."""
HELD_S: Final = 5.0
"""How long the events of a missing topic wait before it is looked for again."""
RETRY_S: Final = 1.0

log = get_logger("saga.outbox")


class OutboxRelay:
    """Publishes from the outbox at *outbox* until it is stopped. Run as many as you like.

    Without a proxy between it and the server that hands one session to several clients: the lock
    that says who leads belongs to a session.

    Args:
        outbox: the database, `postgresql://…`; `SAGA_OUTBOX` by default.
        poll: how long it waits where nothing was there.
        settings: as in the environment, for example `bus="kafka://localhost:9092"`.

    Raises:
        SettingsError: a setting is unknown or illegal, or no outbox is named.
    """

    def __init__(
        self, *, outbox: str | None = None, poll: timedelta | str = POLL, **settings: Any
    ) -> None:
        self._address = outbox_address(Settings.read(outbox=outbox, **settings))
        self._publisher = Publisher(outbox=outbox, **settings)
        self._poll_s = duration_us(poll) / SECOND_US
        self._stopping = asyncio.Event()
        self._held: dict[str, float] = {}
        self._failing = False
        self.counts: Counter[str] = Counter()
        """`published` and `refused` since the start."""

    def stop(self) -> None:
        """Let `run` return after the batch in hand."""
        self._stopping.set()

    async def run(self, *, until_empty: bool = False) -> None:
        """Lead or wait, publish, remove; waits out a database and a bus that are away.

        Args:
            until_empty: return when nothing waits that could be published.

        Raises:
            SettingsError: bus or database cannot be opened as the settings say.
        """
        async with self._publisher:
            while not self._stopping.is_set():
                try:
                    if await self._session(until_empty=until_empty):
                        return
                except (StoreUnavailable, BusUnavailable) as error:
                    if not self._failing:
                        log.warning("the outbox waits", reason=str(error))
                    self._failing = True
                    await self._pause(RETRY_S)

    async def _session(self, *, until_empty: bool) -> bool:
        """Relay through one session; whether the work is done, and not only the session."""
        from saga.adapters.postgres.outbox import OutboxSession

        session = await OutboxSession.open(self._address)
        try:
            while not self._stopping.is_set() and not await session.lead():
                if until_empty and (await session.status()).waiting == 0:
                    return True
                await self._pause(TAKE_OVER_S)
            while not self._stopping.is_set():
                if not await self._batch(session):
                    if until_empty:
                        return True
                    await self._pause(self._poll_s)
        finally:
            await session.close()
        return True

    async def _batch(self, session: OutboxSession) -> bool:
        """Publish and remove one batch; False where there is none."""
        now = asyncio.get_running_loop().time()
        self._held = {topic: until for topic, until in self._held.items() if until > now}
        rows = await session.waiting(
            limit=BATCH_ROWS, bytes_max=BATCH_BYTES, without=tuple(self._held)
        )
        if not rows:
            return False
        try:
            await self._publish(rows)
        except TopicMissing as error:
            self._hold(error)
            return True
        except MessageTooLarge:
            await self._one_by_one(session, rows)
            return True
        await self._remove(session, rows)
        return True

    async def _one_by_one(self, session: OutboxSession, rows: Sequence[OutboxRow]) -> None:
        """Find the events that are too large, set them aside, publish the others."""
        for row in rows:
            try:
                await self._publish([row])
            except MessageTooLarge as error:
                log.warning("refused by the bus", message_id=row.message_id, reason=str(error))
                await session.refuse(row.outbox_id, str(error))
                self.counts["refused"] += 1
            except TopicMissing as error:
                self._hold(error)
                return  # what follows in this topic must not overtake it
            else:
                await self._remove(session, [row])

    async def _publish(self, rows: Sequence[OutboxRow]) -> None:
        await self._publisher.send([WrittenEvent(row.record, row.message_id) for row in rows])
        self._failing = False

    async def _remove(self, session: OutboxSession, rows: Sequence[OutboxRow]) -> None:
        await session.remove([row.outbox_id for row in rows])
        self.counts["published"] += len(rows)

    def _hold(self, missing: TopicMissing) -> None:
        log.warning("events wait for a topic", reason=str(missing))
        self._held[missing.topic] = asyncio.get_running_loop().time() + HELD_S

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass


def outbox_address(settings: Settings) -> Address:
    """The database with the outbox that *settings* name.

    Raises:
        SettingsError: they name none, or its driver is not installed.
    """
    if settings.outbox is None:
        raise SettingsError("SAGA_OUTBOX", "name the database: postgresql://USER@HOST/DB")
    try:
        from saga.adapters.postgres import Address
    except ImportError as error:
        raise SettingsError(
            "SAGA_OUTBOX",
            f"needs more than is installed ({error.name or error}): pip install saga[postgres]",
        ) from error
    secret = settings.outbox_password
    password = None if secret is None else secret.get_secret_value
    return Address(settings.outbox, password=password, setting="SAGA_OUTBOX")
