"""Sagas whose code misbehaves, each in its way, beside good ones: through a whole service.

On files, and on a real Kafka with PostgreSQL. `tests/FAULTS.md`, numbers 1 to 4.
"""

import asyncio
import sys
from collections import defaultdict
from contextlib import asynccontextmanager

import pytest

from saga import Context, Event, RollBack, SagaApp, saga
from saga.adapters.opening import open_store
from saga.audit.replaying import replay_all
from saga.core.events import CancelMode
from saga.core.history import Entry
from saga.core.status import SagaStatus
from saga.settings import Settings
from tests.patience import HANG_S, until
from tests.scenarios import order_app
from tests.toys import (
    Notify,
    OrderConfirmed,
    OrderPlaced,
    OrderRejected,
    Pay,
    Refund,
    Reserve,
    Unreserve,
)


class Untold(Event, topic="shop.untold", version=1):
    """Nobody has told the application of it."""


HIDDEN = {"untold": Untold}
LONG = "no text: \ud800\x00" + 1_000_000 * "x"
PARKED = {
    "exits": "SystemExit: 3",
    "is cancelled": "CancelledError",
    "cannot be read": "Unreadable",
    "has a timeout": "no asyncio",
    "publishes": "not known to the application",
    "returns": "not known to the application",
    "is loud": "ValueError: no text",
}
ENDED = {
    "good": SagaStatus.COMPLETED,
    "gives up": SagaStatus.ROLLED_BACK,
    "leaves a generator": SagaStatus.COMPLETED,
}


class Unreadable(Exception):
    """Not even its text can be had."""

    def __str__(self) -> str:
        raise SystemExit(4)


def fail(how: str) -> None:
    """Raise as *how* says, if it does."""
    match how:
        case "exits":
            sys.exit(3)
        case "is cancelled":
            raise asyncio.CancelledError
        case "cannot be read":
            raise Unreadable
        case "is loud":
            raise ValueError(LONG)
        case "gives up":
            raise RollBack(LONG, code=LONG)


async def misbehave(ctx: Context, how: str) -> Event | None:
    """What the code of an order does once its shelf is reserved."""
    match how:
        case "has a timeout":
            async with asyncio.timeout(1):
                await ctx.do(Pay())
        case "publishes":
            await ctx.publish(HIDDEN["untold"]())
        case "returns":
            return HIDDEN["untold"]()
        case "leaves a generator":
            async for _ in paying(ctx):
                break
        case "is waiting":
            try:
                await ctx.wait("approval", str)
            finally:
                if sys.exc_info()[0] is GeneratorExit:
                    sys.exit(5)  # it is let go of
    return None


async def paying(ctx: Context):
    """Notifies somebody when it is left."""
    try:
        yield await ctx.do(Pay(), undo=Refund)
    finally:
        await ctx.do(Reserve(order_id="in the end"), undo=Unreserve)


@saga("order", version=1, starts_on=OrderPlaced, rolled_back=OrderRejected)
async def order(ctx: Context, placed: OrderPlaced) -> Event | None:
    """Reserve, then do what its name says."""
    reserved = await ctx.do(Reserve(order_id=placed.order_id), undo=Unreserve)
    how = placed.order_id.partition("/")[0]
    fail(how)
    outcome = await misbehave(ctx, how)
    return outcome or OrderConfirmed(order_id=placed.order_id, shelf=reserved.shelf)


class Deployment:
    """Services of one place after another, which keep one saga in memory at most."""

    def __init__(self, places: dict[str, str]) -> None:
        self.places = places
        self.app = SagaApp(sagas=[order], effects=order_app.services(), contracts=[Notify])

    def service(self):
        return self.app.service(**self.places, live_sagas=1)

    async def histories(self) -> dict[str, list[Entry]]:
        """Of each saga its entries, as anybody reads them."""
        found: dict[str, list[Entry]] = defaultdict(list)
        async with self.reading() as parts:
            async for _, entry in parts.catalogue.log():
                found[entry.saga_id].append(entry)
        return dict(found)

    async def differences(self) -> list[str]:
        """What a replay of everything says."""
        async with self.reading() as parts:
            results = replay_all(parts.store, parts.catalogue, self.app.registry)
            return [str(each.difference) async for each in results if not each.is_ok]

    @asynccontextmanager
    async def reading(self):
        parts = open_store(Settings.read({}, **self.places))
        try:
            yield parts
        finally:
            await parts.close()


@pytest.fixture(
    params=["one file", "two files", pytest.param("servers", marks=pytest.mark.connected)]
)
def deployment(request: pytest.FixtureRequest, tmp_path):
    """On files, or on servers."""
    places = order_app.addresses(tmp_path, is_apart=request.param != "one file")
    if request.param == "servers":
        kafka = request.getfixturevalue("kafka")
        places = {
            "bus": kafka.url,
            "store": request.getfixturevalue("postgres"),
            "namespace": request.getfixturevalue("namespace"),
        }
    return Deployment(places)


async def test_they_harm_nobody_and_a_restart_repeats_nothing(deployment):
    names = [*PARKED, *ENDED, "is waiting/1", "is waiting/2"]
    async with deployment.service() as running:
        sagas = {name: await running.publish(OrderPlaced(order_id=name)) for name in names}
        for name, status in {**dict.fromkeys(PARKED, SagaStatus.PARKED), **ENDED}.items():
            outcome = await running.outcome(sagas[name], timeout=HANG_S)
            assert outcome.status is status, (name, outcome)
            assert PARKED.get(name, "") in (outcome.reason or "")
        await running.idle(timeout=HANG_S)
        assert await running.problems() == []
    before = await deployment.histories()

    async with deployment.service() as running:
        for name in ("good/2", "leaves a generator/2"):
            sagas[name] = await running.publish(OrderPlaced(order_id=name))
            await running.idle(timeout=HANG_S)
            outcome = await running.outcome(sagas[name], timeout=HANG_S)
            assert outcome.status is SagaStatus.COMPLETED
        assert await running.problems() == []
        after = await deployment.histories()
        assert {saga_id: after[saga_id] for saga_id in before} == before
        assert await deployment.differences() == []
        await check_endings(running, sagas)
    assert await deployment.differences() == []


async def check_endings(running, sagas) -> None:
    """Whatever has parked can be abandoned; what waits can be ended, or goes on."""
    for name in PARKED:
        await running.cancel(sagas[name], reason="given up", mode=CancelMode.ABANDON)
    await running.cancel(sagas["is waiting/1"], reason="enough")
    await running.signal(sagas["is waiting/2"], "approval", "ann")
    ends = {name: {"abandoned"} for name in PARKED} | {"is waiting/1": {"rolled_back"}}
    for name, saga_id in sagas.items():
        await until_status(running, saga_id, *ends.get(name, {"completed", "rolled_back"}))
    assert await running.problems() == []


async def until_status(running, saga_id, *statuses) -> None:
    async def is_there() -> bool:
        [summary] = await running.catalogue.summaries([saga_id])
        return summary.status.value in statuses

    await until(is_there)
