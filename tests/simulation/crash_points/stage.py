"""One case: a message of one kind, one or two strikes at it, and what must hold afterwards.

Bus, clock, services and processes are a world's, and so is the checker; the stores are real.
"""

import asyncio
import gc
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from saga.core.status import SagaStatus
from saga.ports import Record, TopicSpec
from saga.ports.store import UnhandledKind
from saga.runtime.unit_of_work import InboundBatch
from saga.testing.world.application import watched
from saga.testing.world.assembly import (
    Durable,
    EffectsProcess,
    OrchestratorProcess,
    WatchedTurns,
)
from saga.testing.world.broker import SimulatedBus
from saga.testing.world.checks import check_all
from saga.testing.world.driver import Act, Driver
from saga.testing.world.evidence import Evidence
from saga.testing.world.process import (
    Killed,
    Process,
    Surroundings,
    current_process,
)
from saga.testing.world.stores import EffectsDatabase
from tests.simulation.crash_points.aim import Aim, How, Strike
from tests.simulation.crash_points.loop import StagedLoop
from tests.simulation.crash_points.stores import Busy, StagedStore, Stored
from tests.simulation.sample import app

WATCHED = watched(app)
RESTART_S = 0.3
REST_S_MAX = 60.0
REST_POLL_S = 0.1
RELEASES_MAX = 3
GARBAGE_AFTER_S = 0.1
LIVE_SAGAS = 1_000


@dataclass(frozen=True)
class Script:
    """What is published from outside, and which turn the case is about."""

    acts: Sequence[Act]
    focus: Callable[[InboundBatch], bool]
    echoes: Callable[[Record], bool] = lambda record: False
    """Records that the bus delivers a second time, a moment later."""
    garbage: bytes | None = None


@dataclass
class Outcome:
    """What became of a case."""

    violations: list[str]
    happened: Counter[How] = field(default_factory=Counter)
    is_as_planned: bool = False
    """Whether exactly the strikes of the case have happened."""
    published: int | None = None
    dead_letters: int | None = None
    statuses: Counter[str] = field(default_factory=Counter)


class StagedTurns(WatchedTurns):
    """Has a boundary between every two hops."""

    async def take_turns(self, batch):
        """Take all turns that *batch* calls for."""
        self._aim.look(batch)
        await self._pass("turn.fetched")
        return await super().take_turns(batch)

    async def publish(self, committed):
        """Publish what was stored."""
        await super().publish(committed)
        await self._pass("turn.done")

    async def _understand(self, batch, at):
        understood = await super()._understand(batch, at)
        await self._pass("turn.decoded")
        return understood

    def _deliver_all(self, unit, deliveries, failures):
        has_raised = super()._deliver_all(unit, deliveries, failures)
        process = current_process()
        if self._aim.takes("turn.decide") is not None:
            process.crash("turn.decide")
            raise Killed(process.name)
        return has_raised

    async def _append(self, unit, batch):
        appended = await super()._append(unit, batch)
        self._aim.note(unit, batch)
        await self._pass("turn.stored")
        return appended

    async def _publish(self, unit, backlog_id):
        await super()._publish(unit, backlog_id)
        await self._pass("turn.published")

    @property
    def _aim(self) -> Aim:
        return current_process().surroundings.faults

    async def _pass(self, point: str) -> None:
        await current_process().call(point, partial(asyncio.sleep, 0))


class EchoingBus(SimulatedBus):
    """A bus that says some records twice."""

    echoes: Callable[[Record], bool]
    ECHO_S = 0.1

    def append(self, records: Sequence[Record]) -> None:
        """Publish all of them."""
        super().append(records)
        for record in records:
            if self.echoes(record):
                self.append_later(record, self.ECHO_S)


class Stage:
    """Runs one case."""

    def __init__(self, place, script: Script, strikes: tuple[Strike, ...]) -> None:
        self._place = place
        self._script = script
        self._loop = StagedLoop()
        self._aim = Aim(strikes, script.focus)
        self._aim.stop = self._stop
        self._surroundings = Surroundings(self._loop, self._aim)
        self._outcome = Outcome(self._surroundings.violations)
        self._running = {}
        self._opened = {}
        self._is_closing = False
        self._stored = Stored()

    def run(self) -> Outcome:
        """Let it happen, and judge it."""
        self._database = EffectsDatabase(self._surroundings.next_number)
        gc.disable()
        try:
            self._loop.run_until_complete(self._happen())
        finally:
            gc.enable()
            self._database.close()
            self._loop.close()
        outcome, aim = self._outcome, self._aim
        outcome.happened, outcome.is_as_planned = aim.happened, aim.is_as_planned
        outcome.published, outcome.dead_letters = aim.published, aim.dead_letters
        return outcome

    async def _happen(self) -> None:
        bus = EchoingBus(self._surroundings)
        bus.echoes = self._script.echoes
        with self._loop.working():
            watching = await self._place.open(None)
        self._store = Busy(watching.store, self._loop)
        self._catalogue = Busy(watching.catalogue, self._loop)
        self._durable = durable = Durable(
            app=WATCHED,
            bus=bus,
            store=self._store,
            catalogue=self._catalogue,
            database=self._database,
            violations=self._outcome.violations,
        )
        topics = durable.app.topics(durable.names)
        await bus.create_topics([TopicSpec(topic, 1) for topic in topics])
        driving = Process("driver", self._surroundings, can_crash=False)
        self._driving = driving
        self._driver = Driver(driving, [durable], self._script.acts)
        build = partial(OrchestratorProcess, live_sagas=LIVE_SAGAS, turns_type=StagedTurns)
        names = [f"orchestrator-{number}" for number in range(self._place.orchestrators)]
        roles = {**dict.fromkeys(names, build), "effects": EffectsProcess}
        keepers = [
            self._loop.create_task(self._keep_alive(*each), name=each[0]) for each in roles.items()
        ]
        await driving.spawn(self._driver.drive())
        if self._script.garbage is not None:
            await asyncio.sleep(GARBAGE_AFTER_S)
            topic = next(each for each in topics if ".evt.sequence-ordered" in each)
            self._driver.log.garbage.append(self._script.garbage)
            bus.append([Record(topic, b"garbage", self._script.garbage)])
        await self._rest()
        self._is_closing = True
        for role in list(self._running.values()):
            role.stop()
        _, late = await asyncio.wait(keepers, timeout=REST_S_MAX)
        self._outcome.violations.extend(f"{each.get_name()} does not stop" for each in late)
        for each in late:
            each.cancel()
        await self._judge()
        with self._loop.working():
            await watching.close(is_crashed=False)

    async def _keep_alive(self, name: str, build) -> None:
        incarnation = 0
        while not self._is_closing:
            incarnation += 1
            process = Process(f"{name}.{incarnation}", self._surroundings)
            life = await process.lives(self._live(process, name, build))
            role = self._running.pop(name, None)
            crashed = not process.is_alive
            self._aim.happened[How.DIES] += crashed
            if not crashed and not life.cancelled() and life.exception() is not None:
                self._outcome.violations.append(f"{name} ended by itself: {life.exception()!r}")
            process.is_alive = False
            with self._loop.working():
                if crashed:
                    await process.gone()
                await self._opened.pop(process).close(is_crashed=crashed)
            await process.gone()
            for member in role.bus.members if role is not None else ():
                await member.close()
            await self._compare_offsets()
            if not self._is_closing:
                await asyncio.sleep(RESTART_S)

    async def _live(self, process: Process, name: str, build) -> None:
        with self._loop.working():
            opened = self._opened[process] = await self._place.open(process)
        durable = replace(
            self._durable,
            store=StagedStore(opened.store, process, opened.commits, self._stored),
            catalogue=Busy(opened.catalogue, self._loop),
        )
        durable.shadows = self._durable.shadows  # all processes have the same
        role = self._running[name] = build(process, durable)
        if self._is_closing:
            role.stop()
        await role.live()

    def _stop(self, process_name: str) -> None:
        self._aim.happened[How.STOPS] += 1
        self._running[process_name.partition(".")[0]].stop()

    async def _compare_offsets(self) -> None:
        """No offset is ever committed that the store does not account for."""
        committed = {
            source: offset
            for (group, source), offset in self._durable.bus.committed.items()
            if ".saga-orchestrator." in group
        }
        stored = await self._store.positions(list(committed))
        self._outcome.violations.extend(
            f"{source} is committed up to {offset}, stored up to {stored.get(source)}"
            for source, offset in committed.items()
            if offset > stored.get(source, -1) + 1
        )

    async def _rest(self) -> None:
        until_s = self._loop.time() + REST_S_MAX
        released: Counter[str] = Counter()
        while restless := await self._restless():
            if self._loop.time() > until_s:
                self._outcome.violations.append(f"it does not come to rest: {restless}")
                return
            for summary in await self._catalogue.sagas(status=SagaStatus.PARKED):
                self._surroundings.is_mended = True
                if released[summary.saga_id] < RELEASES_MAX:
                    released[summary.saga_id] += 1
                    release = self._driver.release(summary.saga_id, summary.key)
                    await self._driving.spawn(release)
            await asyncio.sleep(REST_POLL_S)

    async def _restless(self) -> str | None:
        """What is not at rest; None after two looks all around between which nothing happened.

        A look takes many reads: what is in flight may be seen in none of its places by one of them.
        """
        before = self._surroundings.next_number()
        restless = await self._look() or await self._look()
        if restless is None and self._surroundings.next_number() != before + 1:
            return "something happened meanwhile"
        return restless

    async def _look(self) -> str | None:
        up = [role for role in self._running.values() if role.process.has_started]
        if len(up) <= self._place.orchestrators:
            return "not everybody is up"
        if self._durable.bus.arrivals:
            return "records are under way"
        for summary in await self._catalogue.sagas(limit=100):
            if not summary.status.is_ended:
                return f"{summary.key} is {summary.status.value}: {summary.reason}"
        if await self._catalogue.unhandled(kind=UnhandledKind.DEFERRED):
            return "a record is deferred"
        if busy := await self._durable.busy(self._running.values()):
            return busy
        return f"{self._aim.unspent[0]} is to come" if self._aim.unspent else None

    async def _judge(self) -> None:
        evidence = await self._gather()
        outcome = self._outcome
        shadows = self._durable.shadows
        outcome.violations += [*check_all(evidence), *shadows.replay_all(evidence.histories)]
        outcome.statuses.update(each.status.value for each in evidence.summaries.values())

    async def _gather(self) -> Evidence:
        with self._loop.working():
            entries = [entry async for _, entry in self._catalogue.log()]
        return self._durable.evidence(
            self._driver.log,
            entries,
            stored_at=self._stored.at,
            unhandled=list(await self._catalogue.unhandled(limit=1_000)),
            summaries={each.saga_id: each for each in await self._catalogue.sagas(limit=1_000)},
            timers=frozenset(each.timer_id for each in await self._catalogue.timers(limit=1_000)),
        )
