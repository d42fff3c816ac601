"""A whole deployment in one event loop: bus, store, services, orchestrators, and what goes wrong.

First faults, then the world heals and has to come to rest within bounded time. The checker then
knows only what went in, what is stored and published, and what the services have done.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from random import Random

import structlog

from saga.adapters.memory import MemoryCatalogue
from saga.contracts import TopicNames
from saga.core.status import SagaStatus
from saga.errors import BusUnavailable, StoreUnavailable
from saga.ports import TopicSpec
from saga.runtime.router import Router
from saga.testing.world.assembly import (
    AnyProcess,
    Durable,
    EffectsProcess,
    OrchestratorProcess,
)
from saga.testing.world.broker import SimulatedBus
from saga.testing.world.checker import check
from saga.testing.world.database import EffectsDatabase
from saga.testing.world.driver import Driver, drawn_orders
from saga.testing.world.faults import Faults
from saga.testing.world.loop import SimulatedLoop, WorldSpins, WorldStandsStill
from saga.testing.world.nemesis import Nemesis
from saga.testing.world.process import Process, make_task
from saga.testing.world.sample import sample_app
from saga.testing.world.store import WorldStore
from saga.testing.world.trace import Surroundings

FAULTS_S = 2.5
"""How long things go wrong."""
REST_S_MAX = 90.0
"""How long a healed world may take to come to rest."""
REST_POLL_S = 0.25
VIOLATIONS_SHOWN_MAX = 10
OWN_PUBLISHING_SHARE = 0.5
"""Of the worlds whose store publishes in its own transaction; others relay a backlog."""
RELEASES_MAX = 3
"""Of one saga: what the mended code parks again is a finding."""
CANCELS_MAX = 100
RESTART_S_MAX = 0.6
SESSION_S_MAX = 0.6
"""How long a group takes to notice that a member is gone."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a world.

    *violations* are empty where everything held; *seen* counts faults and what they led to;
    *fingerprint* is the same whenever the same seed runs with the same code.
    """

    seed: int
    violations: tuple[str, ...]
    seen: Counter[str]
    fingerprint: str
    lasted_s: float
    lines: tuple[str, ...]

    def report(self) -> str:
        """What went wrong, and how to see it again."""
        if not self.violations:
            return f"world {self.seed}: everything holds, fingerprint {self.fingerprint}"
        first = "\n".join(
            f"  - {violation}" for violation in self.violations[:VIOLATIONS_SHOWN_MAX]
        )
        return (
            f"world {self.seed}: {len(self.violations)} violations\n{first}\n"
            f"repeat it with: python -m saga.testing.world {self.seed}"
        )


class World:
    """One simulated world. The same seed gives the same world."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._rng = Random(seed)
        self._loop = SimulatedLoop()
        self._surroundings = Surroundings(self._loop, Faults(self._rng))
        self._running: dict[str, AnyProcess] = {}
        self._absent: Counter[str] = Counter()
        """Of processes that are gone, how many lives their groups have not missed yet."""
        self._is_closing = False

    def run(self) -> Verdict:
        """Let it happen, and judge it."""
        self._loop.set_task_factory(make_task)  # type: ignore[arg-type]  # typeshed wants a wider one
        self._loop.set_exception_handler(self._on_loop_error)
        durable = self._durable = self._make_durable()
        violations = durable.violations
        gc.disable()  # finalisers would run at moments that no seed decides
        try:
            with _quiet():
                try:
                    self._loop.run_until_complete(self._happen())
                except (WorldStandsStill, WorldSpins) as error:
                    violations.append(f"{type(error).__name__}: {error}")
                finally:
                    self._end_loop()
                violations += durable.store.problems
                violations += check(durable, self._driver.log, self._surroundings)
        finally:
            gc.enable()
            durable.database.close()
            self._loop.close()
        seen = self._surroundings.faults.seen + durable.counts
        return Verdict(
            self.seed,
            tuple(violations),
            seen,
            self._surroundings.fingerprint(),
            self._loop.time(),
            tuple(self._surroundings.lines),
        )

    def _make_durable(self) -> Durable:
        bus = SimulatedBus(self._surroundings)
        publishes_itself = self._rng.random() < OWN_PUBLISHING_SHARE
        store = WorldStore(self._surroundings, bus if publishes_itself else None)
        return Durable(
            app=sample_app(),
            names=TopicNames("sim", "world"),
            bus=bus,
            store=store,
            catalogue=MemoryCatalogue(store),
            database=EffectsDatabase(self._surroundings),
            violations=[],
            counts=Counter(),
        )

    async def _happen(self) -> None:
        durable, rng = self._durable, self._rng
        partitions = rng.choice((1, 1, 2, 2, 3))
        await durable.bus.create_topics(
            [TopicSpec(topic, partitions) for topic in durable.app.topics(durable.names)]
        )
        driving = Process("driver", self._surroundings, can_crash=False)
        self._driver = Driver(driving, durable, drawn_orders(rng))
        live_sagas = rng.choice((1, 3, 1000))
        keepers = [
            asyncio.ensure_future(
                self._keep_alive(
                    f"orchestrator-{number}",
                    lambda process: OrchestratorProcess(process, durable, live_sagas=live_sagas),
                )
            )
            for number in range(rng.choice((1, 2, 2, 3)))
        ]
        keepers += [
            asyncio.ensure_future(
                self._keep_alive(
                    f"effects-{number}", lambda process: EffectsProcess(process, durable)
                )
            )
            for number in range(rng.randint(1, 2))
        ]
        self._roles = len(keepers)
        nemesis = asyncio.ensure_future(
            Nemesis(self._surroundings, durable, self._running).strike()
        )
        driven = driving.spawn(self._driver.drive())
        await asyncio.sleep(FAULTS_S)
        nemesis.cancel()
        self._heal()
        await driven
        self._surroundings.is_bug_fixed = True
        await self._rest()
        await self._close(keepers)

    async def _keep_alive(self, name: str, build: Callable[[Process], AnyProcess]) -> None:
        """What a supervisor does: start it again whenever it is gone."""
        incarnation = 0
        while not self._is_closing:
            incarnation += 1
            process = Process(f"{name}.{incarnation}", self._surroundings)
            ended = self._loop.create_future()
            process.on_crash.append(partial(_settle, ended))
            life = process.spawn(self._build_and_live(process, name, build))
            life.add_done_callback(partial(_settle, ended))
            await ended
            crashed = not process.is_alive
            self._absent[name] += 1
            role = self._running.pop(name, None)
            if not crashed:
                self._judge_end(process, life)
            process.is_alive = False
            await process.gone()
            if role is None:
                self._absent -= Counter([name])
            else:
                self._loop.create_task(self._expire(role, crashed=crashed))
            if not self._is_closing:
                await asyncio.sleep(self._rng.uniform(0, RESTART_S_MAX))

    async def _build_and_live(
        self, process: Process, name: str, build: Callable[[Process], AnyProcess]
    ) -> None:
        role = self._running[name] = build(process)
        await role.live()

    def _judge_end(self, process: Process, task: asyncio.Task[None]) -> None:
        error = task.exception() if not task.cancelled() else None
        if error is None:
            return
        starting = not process.has_started and isinstance(error, (BusUnavailable, StoreUnavailable))
        if starting and self._surroundings.faults.is_on:
            self._surroundings.faults.seen["did not start"] += 1
            return
        errors = list(_leaves(error))
        if starting and all("made up" in str(one) for one in errors):
            return
        said = "; ".join(f"{type(one).__name__}: {one}" for one in errors)
        self._durable.violations.append(f"{process.name} ended by itself: {said}")

    async def _expire(self, role: AnyProcess, *, crashed: bool) -> None:
        """The group notices that its members are gone."""
        if crashed and self._surroundings.faults.is_on:
            await asyncio.sleep(self._rng.uniform(0, SESSION_S_MAX))
        for member in role.bus.members:
            await member.close()
        self._absent -= Counter([role.process.name.rpartition(".")[0]])

    def _heal(self) -> None:
        self._surroundings.note("world", "heal")
        self._surroundings.faults.heal()
        for role in list(self._running.values()):
            role.process.thaw()
            for member in role.bus.members:
                self._durable.bus.readmit(member)

    async def _rest(self) -> None:
        """Wait until nothing is left to do."""
        until_s = self._loop.time() + REST_S_MAX
        released: Counter[str] = Counter()
        while True:
            restless = await self._restless()
            if restless is None:
                return
            if self._loop.time() > until_s:
                self._durable.violations.append(f"the world does not come to rest: {restless}")
                return
            for summary in await self._durable.catalogue.sagas(status=SagaStatus.PARKED):
                if "flaw" in (summary.reason or "") and released[summary.saga_id] < RELEASES_MAX:
                    released[summary.saga_id] += 1
                    self._surroundings.faults.seen["released"] += 1
                    await self._driver.release(summary.saga_id, summary.key)
            await asyncio.sleep(REST_POLL_S)

    async def _restless(self) -> str | None:
        """What is not at rest yet."""
        durable, bus = self._durable, self._durable.bus
        if bus.under_way:
            return f"{bus.under_way} records are under way"
        for summary in await durable.catalogue.sagas(limit=1_000):
            if not summary.status.is_ended:
                return (
                    f"saga {summary.definition}/{summary.key} is {summary.status.value}, "
                    f"waiting for {summary.waiting_for}: {summary.reason}"
                )
        router = Router(durable.app.registry, durable.app.contracts, durable.names)
        heard = [source for source in bus.partitions if source.topic in router.topics]
        stored = await durable.store.positions(heard)
        for source in heard:
            if stored.get(source, -1) < bus.partitions[source].end - 1:
                return f"{source} is read up to {stored.get(source)} only"
        if self._absent:
            return f"{min(self._absent)} is gone, and its groups have not missed it yet"
        if len(self._running) < self._roles:
            return "a process is down"
        for role in self._running.values():
            unread = [source for member in role.bus.members for source in member.unread()]
            if unread:
                return f"{role.process.name} has not fetched all of {unread[0]}"
            if isinstance(role, EffectsProcess) and any(one.in_hand for one in role.services):
                return f"{role.process.name} has something in hand"
        held = await durable.catalogue.unhandled(kind=None, limit=1_000)
        waiting = [one for one in held if one.kind.value == "held"]
        if waiting:
            return f"a record is held: {waiting[0].reason}, {waiting[0].message}"
        backlog = await durable.store.backlog(limit=1)
        return f"the backlog has {backlog[0].backlog_id}" if backlog else None

    async def _close(self, keepers: Sequence[asyncio.Future[None]]) -> None:
        """Stop everything as a deploy would."""
        self._is_closing = True
        for role in list(self._running.values()):
            role.stop()
        _, pending = await asyncio.wait(keepers, timeout=REST_S_MAX)
        if pending:
            names = ", ".join(self._running)
            self._durable.violations.append(f"these do not stop: {names}")
        for keeper in keepers:
            if keeper.done() and not keeper.cancelled():
                keeper.result()

    def _end_loop(self) -> None:
        for role in self._running.values():
            role.process.is_alive = False
        for _ in range(CANCELS_MAX):
            tasks = asyncio.all_tasks(self._loop)
            if not tasks:
                break
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.wait(tasks, timeout=1))

    def _on_loop_error(self, _loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        self._durable.violations.append(
            f"an error reached the event loop: {context.get('message')}: {error!r}"
        )


def _settle(ended: asyncio.Future[None], *_: object) -> None:
    if not ended.done():
        ended.set_result(None)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


@contextmanager
def _quiet() -> Iterator[None]:
    """Worlds are full of warnings, none of which is worth a line."""
    before = structlog.get_config() if structlog.is_configured() else None
    level = logging.root.manager.disable
    if before is not None:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        if before is not None:
            structlog.configure(**before)
        logging.disable(level)
