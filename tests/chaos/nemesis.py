"""What goes wrong with a deployment, drawn from a seed: processes, servers, the way there."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from random import Random

from infra import Kafka, Postgres
from infra.postgres import StopMode
from tests.chaos.client import Client
from tests.chaos.deployment import Deployment
from tests.proxy import Cut, Proxy

FREEZE_S_MAX = 9.0
"""Longer than a group's session, so that some come back as zombies."""
OUTAGE_S_MAX = 3.0
SLOW_S_MAX = 0.3
CALM_S = (2.0, 8.0)
"""The moments of calm that the one and the other leave between two faults, at most."""
AGAIN_MAX = 50


class Nemesis:
    """Strikes *deployment* and its servers, each fault in its turn, two at once now and then."""

    def __init__(
        self,
        deployment: Deployment,
        client: Client,
        kafka: Kafka,
        postgres: Postgres,
        proxy: Proxy,
        *,
        seed: int,
        say: Callable[[str], None],
    ) -> None:
        self._deployment = deployment
        self._client = client
        self._kafka = kafka
        self._postgres = postgres
        self._proxy = proxy
        self._rng = Random(seed)
        self._say = say
        self._newcomers = 0
        self._steady = set(deployment.members)
        self._victims: set[str] = set()
        self._left: list[str] = []
        self._under_way: set[str] = set()
        self.done: Counter[str] = Counter()
        self._strikes: dict[str, Callable[[], Awaitable[None]]] = {
            "kill -9": self._kill,
            "freeze": self._freeze,
            "deploy": self._deploy,
            "join and leave": self._join_and_leave,
            "broker killed": self._kill_broker,
            "broker frozen": self._freeze_broker,
            "database stopped at once": self._stop_database,
            "commits cut off": self._cut_commits,
            "database slow": self._slow_database,
            "connections cut": self._cut_connections,
            "triggers again": self._publish_again,
        }

    async def strike(self, seconds: float) -> None:
        """Strike for *seconds*. What was begun then is finished: nothing is left half stopped."""
        until_s = asyncio.get_running_loop().time() + seconds
        async with asyncio.TaskGroup() as group:
            for calm_s in CALM_S:
                group.create_task(self._strike_until(until_s, calm_s))

    async def _strike_until(self, until_s: float, calm_s: float) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._rng.uniform(0.2, calm_s))
        while loop.time() < until_s:
            name = self._next()
            self._say(name)
            self.done[name] += 1
            self._under_way.add(name)
            await self._strikes[name]()
            self._under_way.discard(name)
            await asyncio.sleep(self._rng.uniform(0.2, calm_s))

    def _next(self) -> str:
        if not set(self._left) - self._under_way:
            self._left += self._rng.sample(sorted(self._strikes), len(self._strikes))
        name = next(one for one in self._left if one not in self._under_way)
        self._left.remove(name)
        return name

    async def heal(self) -> None:
        """Everything runs, and nothing is in the way."""
        self._proxy.at_commit = lambda: None
        self._proxy.delay_s = 0.0
        for broker in self._kafka.brokers:
            broker.thaw()
        await asyncio.to_thread(self._kafka.start)
        await asyncio.to_thread(self._postgres.start)
        for name in list(self._deployment.members):
            self._deployment.thaw(name)
        await asyncio.to_thread(self._deployment.revive)

    @contextmanager
    def _victim(self) -> Iterator[str]:
        """One to whom nothing else is done meanwhile."""
        name = self._rng.choice(sorted(self._steady - self._victims))
        self._victims.add(name)
        yield name
        self._victims.discard(name)

    async def _kill(self) -> None:
        with self._victim() as name:
            await asyncio.to_thread(self._deployment.kill, name)
            await asyncio.sleep(self._rng.uniform(0, OUTAGE_S_MAX))
            self._deployment.start(name, waits=False)

    async def _freeze(self) -> None:
        with self._victim() as name:
            self._deployment.freeze(name)
            await asyncio.sleep(self._rng.uniform(1, FREEZE_S_MAX))
            self._deployment.thaw(name)

    async def _deploy(self) -> None:
        with self._victim() as name:
            await asyncio.to_thread(self._deployment.stop, name)
            self._deployment.start(name, waits=False)

    async def _join_and_leave(self) -> None:
        self._newcomers += 1
        name = f"orchestrator-new-{self._newcomers}"
        self._deployment.start(name, waits=False)
        await asyncio.sleep(self._rng.uniform(2, 5))
        self._deployment.kill(name)
        del self._deployment.members[name]

    async def _kill_broker(self) -> None:
        broker = self._rng.choice(self._kafka.brokers)
        broker.kill()
        await asyncio.sleep(self._rng.uniform(0, OUTAGE_S_MAX))
        await asyncio.to_thread(broker.start)

    async def _freeze_broker(self) -> None:
        broker = self._rng.choice(self._kafka.brokers)
        broker.freeze()
        await asyncio.sleep(self._rng.uniform(0.5, OUTAGE_S_MAX))
        broker.thaw()

    async def _stop_database(self) -> None:
        await asyncio.to_thread(self._postgres.stop, StopMode.IMMEDIATE)
        await asyncio.sleep(self._rng.uniform(0, OUTAGE_S_MAX))
        await asyncio.to_thread(self._postgres.start)

    async def _cut_commits(self) -> None:
        dice = Random(self._rng.random())
        self._proxy.at_commit = lambda: dice.choice((None, None, Cut.AFTER, Cut.BEFORE))
        await asyncio.sleep(self._rng.uniform(0.5, OUTAGE_S_MAX))
        self._proxy.at_commit = lambda: None

    async def _slow_database(self) -> None:
        self._proxy.delay_s = self._rng.uniform(0.02, SLOW_S_MAX)
        await asyncio.sleep(self._rng.uniform(0.5, OUTAGE_S_MAX))
        self._proxy.delay_s = 0.0

    async def _cut_connections(self) -> None:
        self._proxy.cut_off()

    async def _publish_again(self) -> None:
        orders = self._client.log.triggers
        await self._client.place(self._rng.sample(orders, min(len(orders), AGAIN_MAX)))
