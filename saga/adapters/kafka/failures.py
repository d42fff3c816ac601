"""What aiokafka raises, as what the port promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka.errors import KafkaError

from saga.errors import BusUnavailable


@asynccontextmanager
async def within(seconds: float, what: str) -> AsyncIterator[None]:
    """Bound an exchange with the cluster in time: aiokafka goes on trying for ever in many places.

    Raises:
        BusUnavailable: it took longer, or failed in a way that nobody can tell from being away.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise BusUnavailable(f"kafka: {what}: no answer within {seconds:g} s") from error
    except (KafkaError, OSError) as error:
        raise BusUnavailable(f"kafka: {what}: {described(error)}") from error


def described(error: BaseException) -> str:
    """*error* in one line; aiokafka's own are often empty but for their name."""
    return f"{type(error).__name__}: {error}".removesuffix(": ")
