"""A whole deployment in one event loop: bus, store, services, orchestrators, and what goes wrong.

First faults, then the world heals and has to come to rest within bounded time, then the checks.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, starmap
from random import Random
from typing import Any, Final

from saga.adapters.memory import MemoryCatalogue
from saga.app import SagaApp
from saga.contracts import CommandAct, Event
from saga.core.identity import SagaId
from saga.core.intents import Noted, RollbackPlanned, StepSettled
from saga.core.status import SagaStatus
from saga.ports import SagaSummary, TopicSpec, UnhandledRecord
from saga.ports.store import PausedBy, UnhandledKind
from saga.runtime.pauses import acts_of, is_paused
from saga.testing.happenings import MigratedTo
from saga.testing.world.acting import came_of_acts
from saga.testing.world.application import Function, check_releases, watched, with_fakes
from saga.testing.world.assembly import Durable
from saga.testing.world.broker import SimulatedBus
from saga.testing.world.checks import check_all, stuck_steps
from saga.testing.world.driver import (
    Driver,
    Triggers,
    migrations_in,
    planned,
    starts_sagas,
    told,
)
from saga.testing.world.evidence import Evidence, together
from saga.testing.world.faults import Faults
from saga.testing.world.hearing import check_hearing
from saga.testing.world.isolation import Isolation
from saga.testing.world.loop import (
    WORLD_BEGAN_AT,
    LeftWorld,
    SimulatedLoop,
    WorldSpins,
    WorldStandsStill,
)
from saga.testing.world.migrations import back, check_named, migrations_to
from saga.testing.world.nemesis import Nemesis
from saga.testing.world.process import Process, Surroundings
from saga.testing.world.shadow import Shadows
from saga.testing.world.state import WorldState, state_of
from saga.testing.world.stores import EffectsDatabase, WorldStore
from saga.testing.world.supervisor import Supervisor

FAULTS_S: Final = 2.5
"""Before time leaps or the world heals."""
FAULTY_SPELLS_MAX: Final = 10
"""So often things go wrong again after a leap, for sagas that take long."""
REST_S_MAX: Final = 300.0
"""How long a healed world may take to come to rest, leaps aside."""
REST_POLL_S: Final = 0.25
LEAP_S_MIN: Final = 2.0
"""A shorter wait is sat out."""
LEAP_MARGIN_S: Final = 0.5
LEAPS_MAX: Final = 1_000
"""In one world: a saga that sleeps and wakes more often goes in a circle."""
VIOLATIONS_SHOWN_MAX: Final = 10
PARKED_SHOWN_MAX: Final = 3
OWN_PUBLISHING_SHARE: Final = 0.5
"""Of the worlds whose store publishes in its own transaction; others relay a backlog."""
RELEASES_MAX: Final = 3
"""Of one saga, by the world's operator; what parks again after that stays parked."""
CANCELS_MAX: Final = 100
APPS_MAX: Final = 16
TIMERS_MAX: Final = 1_000_000

DEPLOY_S_MAX: Final = 2.0
"""How long after the one before it, or the begin, a release is deployed."""
BACK_SHARE: Final = 0.3
"""Of the releases that are taken back once, and deployed again."""
BACK_S_MAX: Final = 1.5
HASTY_SHARE: Final = 0.3
"""Of the migrations that do not wait until all processes have the version."""
MIGRATE_S_MAX: Final = 1.0
"""How long after the rollout that brings a version sagas are migrated to it."""
TRIED_SHARE: Final = 0.6
"""Of the migrations that are sent only where a replay says that they can be."""

_PAUSED_ITSELF: Final = frozenset({PausedBy.SAGA, PausedBy.BOTH})

Check = Callable[[WorldState], str | None]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a world; *fingerprint* is the same for the same seed and code."""

    seed: int
    violations: tuple[str, ...]
    statistics: Counter[str]
    fingerprint: str
    lasted_s: float
    lines: tuple[str, ...]
    parked: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.violations

    def report(self) -> str:
        """What went wrong, and how to see it again."""
        parked = "".join(f"\n  parked: {saga}" for saga in self.parked[:PARKED_SHOWN_MAX])
        if self.ok:
            return f"world {self.seed}: everything holds, fingerprint {self.fingerprint}{parked}"
        first = "".join(f"\n  - {problem}" for problem in self.violations[:VIOLATIONS_SHOWN_MAX])
        return (
            f"world {self.seed}: {len(self.violations)} violations{first}{parked}\n"
            f"repeat it with the same World and seed={self.seed}; its verdict's `lines` tell "
            f"everything that happened"
        )


class World:
    """One simulated deployment of an application. The same seed gives the same world.

    Orchestrators and effect services crash, freeze and are cut off; records come twice or late;
    answers get lost; time is skipped. Handlers run on the world's loop, `def` ones in line.
    `ctx.db` is real SQLite in memory. Unlike in a real process, globals of modules survive crashes.

    Args:
        triggers: the events to publish, or a function of a `random.Random` that draws them. In
            place of an event may stand a story: `[OrderPlaced(…), after("1s"), signalled(…)]`.
        deploys: releases of *app* that follow it. Its processes change over one by one at some
            moment, now and then back and forth.
        migrations: `migrated_to(…)` of versions that a release has. At some moment after it is
            deployed the open sagas of other versions are migrated, now and then back and forth.
        beside: other applications on the same bus, with stores and processes of their own.
        replace: functions in place of handlers, by intent: for whatever reaches out of the process,
            and for intents that other applications handle.
        check: functions `(WorldState)` that raise AssertionError, or return text, where something
            of the application's own does not hold at the end.

    Raises:
        DefinitionError: an intent is handled by nobody, a story cannot be told, a release is of
            another application, no release has a version that sagas are migrated to, or two
            applications have a saga of one name.
    """

    def __init__(
        self,
        app: SagaApp,
        seed: int,
        *,
        triggers: Triggers,
        deploys: Sequence[SagaApp] = (),
        migrations: Sequence[MigratedTo] = (),
        beside: Sequence[SagaApp] = (),
        replace: Mapping[type[Any], Function] | None = None,
        check: Check | Sequence[Check] = (),
    ) -> None:
        self.seed = seed
        releases = ((app, *deploys), *((other,) for other in beside))
        self._faked, self._watched = _prepared(releases, tuple((replace or {}).items()))
        self._checks = (check,) if callable(check) else tuple(check)
        self._rng = Random(seed)
        self._faults = Faults(self._rng)
        self._stories = told(triggers, self._rng)
        self._released: Counter[SagaId] = Counter()
        self._cancelled: set[SagaId] = set()
        self._deploying: list[asyncio.Future[None]] = []
        self._migrations = list(migrations)
        """Those that no release has brought yet."""
        self._migrating: list[asyncio.Future[None]] = []
        told_of = [*migrations, *migrations_in(self._stories)]
        check_named(told_of, list(chain.from_iterable(releases)))
        self._migrates = bool(told_of)
        self._leapt_s = 0.0

    def run(self) -> Verdict:
        """Let it happen, and judge it.

        Raises:
            DefinitionError: the application left its world; says who, where, and what to do.
        """
        self._loop = SimulatedLoop()
        surroundings = self._surroundings = Surroundings(self._loop, self._faults)
        isolation = Isolation(self._faked, self._loop)
        self._durables = self._make_durables()
        self._supervisor = Supervisor(surroundings, self._durables)
        gc.disable()  # finalisers would run at moments that no seed decides
        try:
            with _quiet(), isolation.hold():
                try:
                    self._loop.run_until_complete(self._happen())
                except LeftWorld:
                    pass  # it is raised below, with its place
                except (WorldStandsStill, WorldSpins) as error:
                    surroundings.violations.append(f"{type(error).__name__}: {error}")
                finally:
                    self._end_loop()
            isolation.raise_if_refused()
            return self._judged()
        finally:
            gc.enable()
            for durable in self._durables:
                durable.database.close()
            self._loop.close()

    def _judged(self) -> Verdict:
        surroundings, durables = self._surroundings, self._durables
        parts = [(durable, self._evidence(durable)) for durable in durables]
        evidence = together([part for _, part in parts])
        for saga_id, history in sorted(evidence.histories.items()):
            for entry in history:
                surroundings.note(saga_id, f"{entry.version} {entry.at} {entry.cause} {entry.body}")
        statistics = surroundings.faults.seen.copy()
        for durable in durables:
            statistics += durable.counts
        statistics.update(_remarkable(evidence))
        releases = [release for durable in durables for release in durable.releases]
        databases = {
            service.name: durable.database
            for durable in durables
            for release in durable.releases
            for service in release.effects
        }
        state = state_of(releases, evidence, databases)
        violations = [
            *surroundings.violations,
            *chain.from_iterable(starmap(_problems_of, parts)),
            *check_all(evidence),
            *(problem for check in self._checks for problem in _problems(check, state)),
        ]
        return Verdict(
            seed=self.seed,
            violations=tuple(violations),
            statistics=statistics,
            fingerprint=surroundings.fingerprint(),
            lasted_s=self._loop.time(),
            lines=tuple(surroundings.lines),
            parked=tuple(
                f"{saga.definition}/{saga.key}: {saga.reason}"
                for saga in state.sagas
                if saga.status is SagaStatus.PARKED
            ),
        )

    def _evidence(self, durable: Durable) -> Evidence:
        store = durable.store
        return durable.evidence(
            self._driver.log,
            (entry for _, entry in store.log),
            stored_at=store.stored_at,
            unhandled=list(store.unhandled.values()),
            summaries=store.summaries,
            acts=frozenset(act.command_id for row in store.pause_rows for act in acts_of(row)),
            timers=frozenset(timer.timer_id for timer in store.timers(TIMERS_MAX)),
        )

    def _make_durables(self) -> list[Durable]:
        """What each application has of its own, and the bus, which they share."""
        bus = self._bus = SimulatedBus(self._surroundings)
        publishes_itself = self._rng.random() < OWN_PUBLISHING_SHARE
        own_bus = bus if publishes_itself else None
        durables: list[Durable] = []
        for app, *deploys in self._watched:
            store = WorldStore(self._surroundings, own_bus)
            database = EffectsDatabase(self._surroundings.next_number, own_bus)
            catalogue, violations = MemoryCatalogue(store), self._surroundings.violations
            durable = Durable(app, bus, store, catalogue, database, violations, deploys=deploys)
            durable.shadows = Shadows(changes=bool(deploys) or self._migrates)
            durables.append(durable)
        return durables

    async def _happen(self) -> None:
        partitions = self._rng.choice((1, 1, 2, 2, 3))
        await self._bus.create_topics([TopicSpec(topic, partitions) for topic in self._topics()])
        driving = Process("driver", self._surroundings, can_crash=False)
        acts = planned(self._stories, self._faults, self._starts)
        self._driver = Driver(driving, self._durables, acts)
        self._supervisor.start()
        strikes = Nemesis(self._surroundings, self._bus, self._supervisor.running).strike()
        nemesis = asyncio.ensure_future(strikes)
        self._driven = driving.spawn(self._driver.drive())
        for durable in self._durables:
            self._begin_migrations(durable, self._brought_by(durable.app))
            if durable.deploys:
                self._deploying.append(asyncio.ensure_future(self._deploy(durable)))
        for _ in range(FAULTY_SPELLS_MAX):
            await asyncio.sleep(FAULTS_S)
            if await self._busy() is not None or not self._leap():
                break
        nemesis.cancel()
        self._surroundings.note("world", "heal")
        self._faults.heal()
        self._supervisor.heal()
        await self._rest()
        for migrated in self._migrating:
            if migrated.done():
                migrated.result()
        self._surroundings.violations.extend(await self._supervisor.close())

    def _topics(self) -> list[str]:
        """Those of all releases of all applications; in the order of the first one's."""
        topics = (
            release.topics(durable.names)
            for durable in self._durables
            for release in durable.releases
        )
        return list(dict.fromkeys(chain.from_iterable(topics)))

    def _starts(self, event: Event) -> bool:
        releases = (release for durable in self._durables for release in durable.releases)
        return any(starts_sagas(release, event) for release in releases)

    async def _deploy(self, durable: Durable) -> None:
        """Deploy each release at some moment; now and then go back first."""
        before = durable.app
        for release in durable.deploys:
            await asyncio.sleep(self._rng.uniform(0, DEPLOY_S_MAX))
            brought = self._brought_by(release)
            hasty = [each for each in brought if self._rng.random() < HASTY_SHARE]
            self._begin_migrations(durable, hasty)
            await self._supervisor.roll_out(durable, release)
            self._begin_migrations(durable, [each for each in brought if each not in hasty])
            if self._rng.random() < BACK_SHARE:
                await asyncio.sleep(self._rng.uniform(0, BACK_S_MAX))
                await self._supervisor.roll_out(durable, before)
                await asyncio.sleep(self._rng.uniform(0, BACK_S_MAX))
                await self._supervisor.roll_out(durable, release)
            before = release

    def _brought_by(self, release: SagaApp) -> list[MigratedTo]:
        """The migrations to versions that this release is the first to have."""
        brought = [
            each
            for each in self._migrations
            if release.registry.find(each.saga.name, each.saga.version) is not None
        ]
        self._migrations = [each for each in self._migrations if each not in brought]
        return brought

    def _begin_migrations(self, durable: Durable, migrations: Iterable[MigratedTo]) -> None:
        self._migrating += [
            asyncio.ensure_future(self._migrate(durable, each)) for each in migrations
        ]

    async def _migrate(self, durable: Durable, asked: MigratedTo) -> None:
        """Migrate all that is open of other versions then; now and then back first."""
        rng, seen = self._rng, self._faults.seen
        await asyncio.sleep(rng.uniform(0, MIGRATE_S_MAX))
        summaries = durable.store.summaries.values()
        seen["migrations"] += 1
        for migration in migrations_to(asked, summaries, id=f"migration-{seen['migrations']}"):
            is_tried = rng.random() < TRIED_SHARE
            await self._driver.migrate(durable, migration, is_tried=is_tried)
            if rng.random() < BACK_SHARE:
                await asyncio.sleep(rng.uniform(0, BACK_S_MAX))
                await self._driver.migrate(durable, back(migration), is_tried=is_tried)
                await asyncio.sleep(rng.uniform(0, BACK_S_MAX))
                again = replace(migration, id=f"{migration.id}-again")
                await self._driver.migrate(durable, again, is_tried=is_tried)

    def _deploy_what_is_missed(self) -> None:
        """Deploy a release that has the version of a saga which stalls, and whose version none has.

        What waits for nobody but itself can end that way; what waits for people is cancelled.
        """
        self._deploying = [each for each in self._deploying if not each.done()]
        if self._deploying or not self._driven.done():
            return
        for durable in self._durables:
            for row in durable.store.summaries.values():
                if row.status is not SagaStatus.STALLED:
                    continue
                name = row.definition, row.definition_version
                if durable.newest.registry.find(*name) is not None:
                    continue
                having = [each for each in durable.releases if each.registry.find(*name)]
                if having:
                    self._faults.seen["deployed again"] += 1
                    again = self._supervisor.roll_out(durable, having[-1])
                    self._deploying.append(asyncio.ensure_future(again))
                    break

    async def _rest(self) -> None:
        """Wait until nothing is left to do, acting as an operator does meanwhile."""
        began_s = self._loop.time() - self._leapt_s
        while True:
            self._surroundings.is_mended = self._driven.done()
            self._deploy_what_is_missed()
            busy = await self._busy()
            if busy is None:
                waiting = self._waiting()
                if waiting is None and self._next_s() is None:
                    return
                busy = waiting or "stories go on, or records are under way"
                if not self._leap():
                    await self._operate()
            if self._loop.time() - self._leapt_s - began_s > REST_S_MAX:
                self._surroundings.violations.append(f"the world does not come to rest: {busy}")
                return
            await asyncio.sleep(REST_POLL_S)

    async def _busy(self) -> str | None:
        """What is under way at this moment; None where all wait for something to come."""
        if (why := self._supervisor.why_busy) is not None:
            return why
        if not all(each.done() for each in self._migrating):
            return "sagas are being migrated"
        for durable in self._durables:
            for record in durable.store.unhandled.values():
                if record.kind is UnhandledKind.DEFERRED and not _is_parked(durable, record):
                    return f"a record is deferred: {record.reason}, {record.message}"
            if (busy := await durable.busy(self._supervisor.roles_of(durable))) is not None:
                return busy
        return None

    def _summaries(self) -> list[SagaSummary]:
        return [row for durable in self._durables for row in durable.store.summaries.values()]

    def _waiting(self) -> str | None:
        for summary in self._summaries():
            if not self._is_settled(summary):
                return (
                    f"saga {summary.definition}/{summary.key} is {summary.status.value}, "
                    f"waiting for {summary.waiting_for}: {summary.reason}"
                )
        return None

    def _is_settled(self, summary: SagaSummary) -> bool:
        if summary.status is SagaStatus.PARKED:
            return self._released[summary.saga_id] >= RELEASES_MAX
        return summary.status.is_ended

    def _next_s(self) -> float | None:
        """When something happens next that everybody waits for."""
        moments = self._bus.arrivals[:1]
        for durable in self._durables:
            summaries = durable.store.summaries
            for timer in durable.store.timers(TIMERS_MAX):
                if not self._is_settled(summaries[timer.saga_id]):
                    moments.append((timer.due_at - WORLD_BEGAN_AT) / 1_000_000)
                    break
        if not self._driven.done():
            moments.append(self._driver.next_at_s or self._loop.time())
        return min(moments, default=None)

    def _leap(self) -> bool:
        """Skip the time in which all only wait, and say whether there was any to skip."""
        next_s, faults = self._next_s(), self._faults
        if next_s is None or next_s < self._loop.time() + LEAP_S_MIN:
            return False
        if faults.seen["leap"] >= LEAPS_MAX:
            return False
        faults.seen["leap"] += 1
        to_s = next_s - LEAP_MARGIN_S
        self._surroundings.note("world", f"leap to {to_s:.6f}")
        self._leapt_s += to_s - self._loop.time()
        self._loop.leap(to_s)
        return True

    async def _operate(self) -> None:
        """Release parked sagas; when nothing else is to come, cancel those that still wait."""
        is_over = self._next_s() is None
        if self._driven.done():
            await self._resume()
        for summary in self._summaries():
            saga_id, key = summary.saga_id, summary.key
            if self._is_settled(summary) or not self._driven.done():
                continue
            if summary.status is SagaStatus.PARKED:
                self._released[saga_id] += 1
                stuck = stuck_steps(self._driver.history(saga_id))
                if stuck:
                    self._faults.seen["skipped"] += 1
                    await self._driver.act(CommandAct.SKIP, summary, stuck[0])
                else:
                    self._faults.seen["released"] += 1
                    await self._driver.release(saga_id, key)
            elif is_over and saga_id not in self._cancelled:
                self._cancelled.add(saga_id)
                self._faults.seen["waited in vain"] += 1
                await self._driver.cancel(saga_id, key)

    async def _resume(self) -> None:
        """Have go on what is paused still."""
        for durable in self._durables:
            for row in await durable.store.pauses():
                if is_paused(row):
                    await self._driver.resume_all(row.definition)
        for summary in self._summaries():
            if not summary.status.is_ended and summary.paused in _PAUSED_ITSELF:
                await self._driver.act(CommandAct.RESUME, summary)

    def _end_loop(self) -> None:
        self._loop.is_ending = True
        self._supervisor.abandon()
        for _ in range(CANCELS_MAX):
            tasks = asyncio.all_tasks(self._loop)
            if not tasks:
                break
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.wait(tasks, timeout=1))


@lru_cache(maxsize=APPS_MAX)
def _prepared(
    applications: tuple[tuple[SagaApp, ...], ...], replace: tuple[tuple[type[Any], Function], ...]
) -> tuple[list[SagaApp], list[list[SagaApp]]]:
    """All releases with their fakes, and, by application, as a world runs them; for all worlds."""
    check_releases(applications)
    faked = with_fakes(applications, dict(replace))
    return list(chain.from_iterable(faked)), [list(map(watched, releases)) for releases in faked]


def _problems_of(durable: Durable, evidence: Evidence) -> Iterator[str]:
    """What was seen, or can be seen, of one application alone."""
    waiting = frozenset(
        (record.saga_id, record.position)
        for record in evidence.unhandled
        if record.kind is UnhandledKind.DEFERRED
    )
    reading = durable.store.reading
    yield from durable.store.problems
    yield from check_hearing(evidence.heard_events, evidence.histories, reading, waiting)
    yield from durable.database.problems()
    yield from durable.shadows.replay_all(evidence.histories)


def _is_parked(durable: Durable, record: UnhandledRecord) -> bool:
    if record.saga_id is None:
        return False
    summary = durable.store.summaries.get(record.saga_id)
    return summary is not None and summary.status is SagaStatus.PARKED


def _problems(check: Check, state: WorldState) -> Iterable[str]:
    name = getattr(check, "__name__", repr(check))
    try:
        problem = check(state)
    except AssertionError as error:
        yield f"{name}: {str(error) or 'AssertionError'}"
        return
    if problem:
        yield f"{name}: {problem}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Worlds are full of warnings, none of which is worth a line."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(level)


def _remarkable(evidence: Evidence) -> Iterator[str]:
    """What is worth counting, to prove that the faults have had consequences."""
    yield from ("stalled" for _ in evidence.stalled)
    for history in evidence.histories.values():
        yield f"saga {evidence.summaries[history[0].saga_id].status.value}"
        yield from came_of_acts(history)
        for entry in history:
            match entry.body:
                case Noted(verdict=verdict):
                    yield f"noted {verdict.value}"
                case RollbackPlanned(goal=goal):
                    yield f"plan {goal.value}"
                case StepSettled(status=status):
                    yield f"settled {status.value}"
            yield type(entry.body).__name__
    for record in evidence.unhandled:
        yield f"{record.kind.value} {record.reason}"
