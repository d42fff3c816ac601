"""Events of others, and updates, on Kafka and PostgreSQL: one of two orchestrators is killed."""

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections import defaultdict
from contextlib import AsyncExitStack

import orjson
import pytest

from saga.core.events import EventReceived
from saga.core.identity import saga_id
from saga.core.intents import UpdateAnswered
from saga.errors import SagaEnded, UpdateRefused
from saga.settings import Settings
from tests.adapters.processes import ROOT, kill, line
from tests.patience import HANG_S, until
from tests.runtime import invariants
from tests.scenarios.heard_app import APP, Delivered, ParcelDone, ParcelSent, PickedUp
from tests.scenarios.update_app import BasketOpened

PARCELS = 40
BASKETS = 8
ROOM = 4

pytestmark = [pytest.mark.connected, pytest.mark.slow, pytest.mark.timeout(5 * HANG_S)]


class Deployment:
    """Two orchestrators, and somebody beside them who asks, publishes and reads the store."""

    def __init__(self, bus: str, store: str, namespace: str) -> None:
        self.addresses = {"bus": bus, "store": store, "namespace": namespace}
        self.running = []

    async def begin(self) -> None:
        command = (sys.executable, "-m", "tests.scenarios.heard_app", *self.addresses.values())
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=PIPE)
        self.running.append(process)
        assert await line(process) == "ready"

    async def kill_one(self) -> None:
        """With -9, while the other one goes on."""
        await kill(self.running.pop(0))

    async def end(self) -> None:
        while self.running:
            await self.kill_one()

    def beside(self):
        return APP.build_service(Settings.read({}, **self.addresses), roles=())

    async def histories(self, service):
        """All of them; those of whoever decides are such that the code decides them again."""
        found = defaultdict(list)
        async for _, entry in service.catalogue.log():
            found[entry.saga_id].append(entry)
        invariants.check_histories(APP, found)
        return found

    async def command_line(self, *words: str) -> tuple[int, bytes]:
        settings = {f"SAGA_{name.upper()}": each for name, each in self.addresses.items()}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "saga", *words),
            cwd=ROOT,
            env=os.environ | settings | {"SAGA_APP": "tests.scenarios.heard_app:APP"},
            stdout=PIPE,
            stderr=DEVNULL,
        )
        said, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, said


@pytest.fixture
async def deployed(kafka, postgres, namespace):
    async with AsyncExitStack() as stack:
        made = Deployment(kafka.url, postgres, namespace)
        stack.push_async_callback(made.end)
        await made.begin()  # makes tables and topics
        await made.begin()
        yield made


def sent(number):
    return ParcelSent(order_id=f"o-{number}")


def picked_up(number):
    return PickedUp(parcel=f"p-{number}", order_id=f"o-{number}")


def delivered(number):
    return Delivered(order_id=f"o-{number}", place=f"door {number}")


async def test_events_reach_their_sagas_once_whoever_is_killed(deployed):
    """Every second parcel is picked up before its saga is there; all events are published twice."""

    async def publish(made, numbers):
        await asyncio.gather(
            *(service.publish(made(n), message_id=f"{made.__name__}-{n}") for n in numbers)
        )

    async def statuses():
        rows = await service.catalogue.sagas(definition="parcel", limit=PARCELS + 1)
        return [row.status.value for row in rows]

    async def all_ended():
        return await statuses() == ["completed"] * PARCELS

    everybody, early = range(PARCELS), range(0, PARCELS, 2)
    async with deployed.beside() as service:
        await publish(picked_up, early)
        await publish(sent, everybody)
        await publish(picked_up, everybody)
        await deployed.kill_one()
        await publish(delivered, everybody)
        await deployed.begin()
        await publish(delivered, everybody)
        await until(all_ended)

        histories = await deployed.histories(service)
        for number in everybody:
            saga = saga_id("parcel", f"o-{number}")
            facts = [e.body for e in histories[saga] if isinstance(e.body, EventReceived)]
            payloads = [orjson.loads(fact.payload) for fact in facts]
            said = [made(number).model_dump() for made in (picked_up, delivered)]
            assert sorted(payloads, key=sorted) == sorted(said, key=sorted)
            outcome = await service.outcome(saga, timeout=HANG_S)
            assert outcome.event == ParcelDone(
                order_id=f"o-{number}", parcel=f"p-{number}", place=f"door {number}"
            )
        assert list(await service.catalogue.unhandled(values=False)) == []


async def test_updates_are_answered_once_whoever_is_killed(deployed):
    """Each id has one answer, before the death, behind it, and for the command line."""
    async with deployed.beside() as service:
        names = [f"b-{number}" for number in range(BASKETS)]
        baskets = [await service.start(BasketOpened(name=name, room=ROOM)) for name in names]

        async def ask(number, basket):
            change = {"add": f"i-{number}"}
            return await service.update(
                basket, "change", change, id=f"u-{number}-{basket}", timeout=HANG_S
            )

        async def ask_all(number):
            return await asyncio.gather(*(ask(number, basket) for basket in baskets))

        first = await ask_all(0)
        asking = asyncio.create_task(ask_all(1))
        await deployed.kill_one()
        second = await asking
        await deployed.begin()

        assert first == [{"items": ["i-0"]}] * BASKETS
        assert second == [{"items": ["i-0", "i-1"]}] * BASKETS
        assert await ask_all(0) == first
        with pytest.raises(UpdateRefused, match="i-1 is in it"):
            await service.update(baskets[0], "change", {"add": "i-1"}, timeout=HANG_S)
        words = ("update", "basket/b-0", "change", '{"add": "tea"}', "--id", "u-cli", "--json")
        answers = [await deployed.command_line(*words) for _ in range(2)]
        for code, said in answers:
            assert code == 0
            assert b'["i-0","i-1","tea"]' in said.replace(b" ", b"").replace(b"\n", b"")
        last = await ask(3, baskets[0])
        with pytest.raises(SagaEnded):
            await service.update(baskets[0], "change", {"add": "rice"}, timeout=HANG_S)

        histories = await deployed.histories(service)
        assert last == {"items": ["i-0", "i-1", "tea", "i-3"]}
        for basket in baskets:
            answered = [e.body for e in histories[basket] if isinstance(e.body, UpdateAnswered)]
            ids = [each.update for each in answered]
            assert len(set(ids)) == len(ids)
            assert {f"u-{number}-{basket}" for number in (0, 1)} <= set(ids)
