"""Parent and child in two applications, each killed while the other one waits for it."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from saga.adapters.opening import open_store
from saga.publishing import Publisher
from saga.settings import Settings
from tests.adapters.processes import ROOT, kill, line
from tests.connected import database_on
from tests.patience import HANG_S, until
from tests.scenarios import family_app
from tests.scenarios.examined import effects
from tests.scenarios.family_app import OrderPlaced

ORDERS = 24
KILLS = 6


class Deployment:
    """Both applications on one bus, as processes that may be killed and begin again."""

    def __init__(self, folder: Path, bus: str, namespace: str, stores: str = "") -> None:
        self.folder, self.bus, self.namespace, self.stores = folder, bus, namespace, stores
        self.running: dict[str, Process] = {}

    async def begin(self, name: str) -> None:
        places = (str(self.folder), self.bus, self.namespace, self.stores)
        command = (sys.executable, "-m", "tests.scenarios.family_app", name, *places)
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=PIPE)
        self.running[name] = process
        assert await line(process) == "ready"

    async def kill(self, name: str) -> None:
        await kill(self.running.pop(name))

    async def statuses(self, name: str) -> Counter[str]:
        """Of the sagas in the store of one application."""
        own = family_app.settings(name, self.folder, self.bus, self.namespace, self.stores)
        opened = open_store(Settings.read({}, **own))
        try:
            sagas = await opened.catalogue.sagas(limit=1_000)
        finally:
            await opened.close()
        return Counter(each.status.value for each in sagas)

    async def unhandled(self, name: str) -> list[str]:
        own = family_app.settings(name, self.folder, self.bus, self.namespace, self.stores)
        opened = open_store(Settings.read({}, **own))
        try:
            return [each.reason for each in await opened.catalogue.unhandled(values=False)]
        finally:
            await opened.close()


@asynccontextmanager
async def deployment(folder: Path, bus: str, namespace: str, stores: str = ""):
    async with AsyncExitStack() as stack:
        made = Deployment(folder, bus, namespace, stores)
        for name in family_app.APPLICATIONS:
            await made.begin(name)

        async def end() -> None:
            for name in list(made.running):
                await made.kill(name)

        stack.push_async_callback(end)
        yield made


async def place_orders(deployed: Deployment) -> None:
    async with Publisher(bus=deployed.bus, namespace=deployed.namespace) as publisher:
        for number in range(ORDERS):
            placed = OrderPlaced(order_id=f"o-{number}", is_paid=number % 2 == 0)
            await publisher.publish(placed, message_id=f"m-{number}")


async def check_ended(deployed: Deployment) -> None:
    """Half of the orders are through; of the others no parcel is left, and each effect was once."""
    half = ORDERS // 2

    async def is_so() -> bool:
        return await deployed.statuses("orders") == {"completed": half, "rolled_back": half}

    await until(is_so)
    assert await deployed.statuses("parcels") == {"completed": ORDERS, "rolled_back": ORDERS}
    expected = Counter()
    for number in range(ORDERS):
        for side in ("a", "b"):
            expected["pack", f"o-{number}-{side}"] = 1
            if number % 2:
                expected["unpack", f"o-{number}-{side}"] = 1
    assert effects(deployed.folder / "parcels") == expected
    for name in family_app.APPLICATIONS:
        assert await deployed.unhandled(name) == []


async def strike(deployed: Deployment, seed: int) -> None:
    """Kill one after the other while orders and parcels are under way."""
    rng = Random(seed)
    for number in range(KILLS):
        await asyncio.sleep(rng.uniform(0, 0.3))
        name = list(family_app.APPLICATIONS)[number % 2]
        await deployed.kill(name)
        await deployed.begin(name)


@pytest.mark.timeout(5 * HANG_S)
async def test_both_are_killed_in_between_on_one_file(tmp_path):
    bus = f"local:///{tmp_path}/bus.db"
    async with deployment(tmp_path, bus, "families") as deployed:
        await place_orders(deployed)
        await strike(deployed, 1)
        await check_ended(deployed)


@pytest.mark.connected
@pytest.mark.timeout(5 * HANG_S)
async def test_both_are_killed_in_between_on_kafka(kafka, namespace, tmp_path):
    """Nothing but the bus is shared: each has a store, and no definition, of its own."""
    async with deployment(tmp_path, kafka.url, namespace) as deployed:
        await place_orders(deployed)
        await strike(deployed, 2)
        await check_ended(deployed)


@pytest.mark.connected
@pytest.mark.long
@pytest.mark.timeout(5 * HANG_S)
async def test_both_are_killed_in_between_on_databases_of_their_own(postgres_server, tmp_path):
    """As on files: of the stores each application knows its own alone."""
    with database_on(postgres_server) as first, database_on(postgres_server) as second:
        stores = json.dumps({"orders": first, "parcels": second})
        bus = f"local:///{tmp_path}/bus.db"
        async with deployment(tmp_path, bus, "families", stores) as deployed:
            await place_orders(deployed)
            await strike(deployed, 3)
            await check_ended(deployed)
