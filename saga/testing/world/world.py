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
from dataclasses import dataclass
from functools import lru_cache, partial
from random import Random
from typing import Any, Final

from saga.adapters.memory import MemoryCatalogue
from saga.app import SagaApp
from saga.contracts import CommandAct, Event, contract_of
from saga.core.identity import SagaId
from saga.core.intents import Noted, RollbackPlanned, StepSettled
from saga.core.status import SagaStatus
from saga.errors import BusUnavailable, StoreUnavailable
from saga.ports import SagaSummary, TopicSpec
from saga.ports.store import PausedBy, UnhandledKind
from saga.runtime.pauses import acts_of, is_paused
from saga.testing.world.acting import came_of_acts
from saga.testing.world.application import Function, watched, with_fakes
from saga.testing.world.assembly import AnyProcess, Durable, EffectsProcess, OrchestratorProcess
from saga.testing.world.broker import SimulatedBus
from saga.testing.world.checks import check_all, stuck_steps
from saga.testing.world.driver import Driver, Triggers, planned, told
from saga.testing.world.evidence import Evidence
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
from saga.testing.world.nemesis import Nemesis
from saga.testing.world.process import Process, Surroundings
from saga.testing.world.state import WorldState, state_of
from saga.testing.world.stores import EffectsDatabase, WorldStore

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
RESTART_S_MAX: Final = 0.6
SESSION_S_MAX: Final = 0.6
"""How long a group takes to notice that a member is gone."""
APPS_MAX: Final = 16
TIMERS_MAX: Final = 1_000_000

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
        replace: functions in place of handlers, by intent: for whatever reaches out of the process,
            and for intents that other applications handle.
        check: functions `(WorldState)` that raise AssertionError, or return text, where something
            of the application's own does not hold at the end.

    Raises:
        DefinitionError: an intent is handled by nobody, or a story cannot be told.
    """

    def __init__(
        self,
        app: SagaApp,
        seed: int,
        *,
        triggers: Triggers,
        replace: Mapping[type[Any], Function] | None = None,
        check: Check | Sequence[Check] = (),
    ) -> None:
        self.seed = seed
        self._app, self._watched = _prepared(app, tuple((replace or {}).items()))
        self._checks = (check,) if callable(check) else tuple(check)
        self._rng = Random(seed)
        self._faults = Faults(self._rng)
        self._stories = told(triggers, self._rng)
        self._running: dict[str, AnyProcess] = {}
        self._absent: Counter[str] = Counter()
        """Of processes that are gone, how many lives their groups have not missed yet."""
        self._released: Counter[SagaId] = Counter()
        self._cancelled: set[SagaId] = set()
        self._leapt_s = 0.0
        self._is_closing = False

    def run(self) -> Verdict:
        """Let it happen, and judge it.

        Raises:
            DefinitionError: the application left its world; says who, where, and what to do.
        """
        self._loop = SimulatedLoop()
        self._surroundings = Surroundings(self._loop, self._faults)
        isolation = Isolation(self._app, self._loop)
        durable = self._durable = self._make_durable()
        gc.disable()  # finalisers would run at moments that no seed decides
        try:
            with _quiet(), isolation.hold():
                try:
                    self._loop.run_until_complete(self._happen())
                except LeftWorld:
                    pass  # it is raised below, with its place
                except (WorldStandsStill, WorldSpins) as error:
                    durable.violations.append(f"{type(error).__name__}: {error}")
                finally:
                    self._end_loop()
            isolation.raise_if_refused()
            return self._judged()
        finally:
            gc.enable()
            durable.database.close()
            self._loop.close()

    def _judged(self) -> Verdict:
        durable, surroundings, evidence = self._durable, self._surroundings, self._evidence()
        store = durable.store
        waiting = frozenset(
            (record.saga_id, record.position)
            for record in evidence.unhandled
            if record.kind is UnhandledKind.DEFERRED
        )
        for saga_id, history in sorted(evidence.histories.items()):
            for entry in history:
                surroundings.note(saga_id, f"{entry.version} {entry.at} {entry.cause} {entry.body}")
        statistics = surroundings.faults.seen + durable.counts
        statistics.update(_remarkable(evidence))
        state = state_of(self._app, evidence, durable.database)
        violations = [
            *durable.violations,
            *durable.store.problems,
            *check_hearing(evidence.heard_events, evidence.histories, store.reading, waiting),
            *durable.database.problems(),
            *durable.shadows.replay_all(evidence.histories),
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

    def _evidence(self) -> Evidence:
        store = self._durable.store
        return self._durable.evidence(
            self._driver.log,
            (entry for _, entry in store.log),
            stored_at=store.stored_at,
            unhandled=list(store.unhandled.values()),
            summaries=store.summaries,
            acts=frozenset(act.command_id for row in store.pause_rows for act in acts_of(row)),
            timers=frozenset(timer.timer_id for timer in store.timers(TIMERS_MAX)),
        )

    def _make_durable(self) -> Durable:
        bus = SimulatedBus(self._surroundings)
        publishes_itself = self._rng.random() < OWN_PUBLISHING_SHARE
        store = WorldStore(self._surroundings, bus if publishes_itself else None)
        number = self._surroundings.next_number
        database = EffectsDatabase(number, bus if publishes_itself else None)
        catalogue, violations = MemoryCatalogue(store), self._surroundings.violations
        return Durable(self._watched, bus, store, catalogue, database, violations)

    async def _happen(self) -> None:
        durable, rng = self._durable, self._rng
        partitions = rng.choice((1, 1, 2, 2, 3))
        await durable.bus.create_topics(
            [TopicSpec(topic, partitions) for topic in durable.app.topics(durable.names)]
        )
        driving = Process("driver", self._surroundings, can_crash=False)
        acts = planned(self._stories, self._faults, partial(_starts, self._app))
        self._driver = Driver(driving, durable, acts)
        keepers = self._start_processes()
        strikes = Nemesis(self._surroundings, durable, self._running).strike()
        nemesis = asyncio.ensure_future(strikes)
        self._driven = driving.spawn(self._driver.drive())
        for _ in range(FAULTY_SPELLS_MAX):
            await asyncio.sleep(FAULTS_S)
            if await self._busy() is not None or not self._leap():
                break
        nemesis.cancel()
        self._heal()
        await self._rest()
        await self._close(keepers)

    def _start_processes(self) -> list[asyncio.Future[None]]:
        durable, rng = self._durable, self._rng
        live_sagas = rng.choice((1, 3, 1000))
        orchestrator = partial(OrchestratorProcess, durable=durable, live_sagas=live_sagas)
        effects = partial(EffectsProcess, durable=durable)
        builds: dict[str, Callable[[Process], AnyProcess]] = {
            **{f"orchestrator-{n}": orchestrator for n in range(rng.choice((1, 2, 2, 3)))},
            **{f"effects-{n}": effects for n in range(rng.randint(1, 2))},
        }
        self._roles = len(builds)
        return [asyncio.ensure_future(self._keep_alive(*named)) for named in builds.items()]

    async def _keep_alive(self, name: str, build: Callable[[Process], AnyProcess]) -> None:
        """What a supervisor does: start it again whenever it is gone."""
        incarnation = 0
        while not self._is_closing:
            incarnation += 1
            process = Process(f"{name}.{incarnation}", self._surroundings)
            life = await process.lives(self._build_and_live(process, name, build))
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
        if starting and self._faults.is_on:
            self._faults.seen["did not start"] += 1
        elif not starting or "made up" not in str(error):
            problems = "; ".join(f"{type(each).__name__}: {each}" for each in _leaves(error))
            self._durable.violations.append(f"{process.name} ended by itself: {problems}")

    async def _expire(self, role: AnyProcess, *, crashed: bool) -> None:
        """The group notices that its members are gone."""
        if crashed and self._faults.is_on:
            await asyncio.sleep(self._rng.uniform(0, SESSION_S_MAX))
        for member in role.bus.members:
            await member.close()
        self._absent -= Counter([role.process.name.rpartition(".")[0]])

    def _heal(self) -> None:
        self._surroundings.note("world", "heal")
        self._faults.heal()
        for role in list(self._running.values()):
            role.process.thaw()
            for member in role.bus.members:
                self._durable.bus.readmit(member)

    async def _rest(self) -> None:
        """Wait until nothing is left to do, acting as an operator does meanwhile."""
        began_s = self._loop.time() - self._leapt_s
        while True:
            self._surroundings.is_mended = self._driven.done()
            busy = await self._busy()
            if busy is None:
                waiting = self._waiting()
                if waiting is None and self._next_s() is None:
                    return
                busy = waiting or "stories go on, or records are under way"
                if not self._leap():
                    await self._operate()
            if self._loop.time() - self._leapt_s - began_s > REST_S_MAX:
                self._durable.violations.append(f"the world does not come to rest: {busy}")
                return
            await asyncio.sleep(REST_POLL_S)

    async def _busy(self) -> str | None:
        """What is under way at this moment; None where all wait for something to come."""
        if self._absent:
            return f"{min(self._absent)} is gone, and its groups have not missed it yet"
        if len(self._running) < self._roles:
            return "a process is down"
        for record in self._durable.store.unhandled.values():
            if record.kind is UnhandledKind.DEFERRED and not self._is_parked(record.saga_id):
                return f"a record is deferred: {record.reason}, {record.message}"
        return await self._durable.busy(self._running.values())

    def _waiting(self) -> str | None:
        for summary in self._durable.store.summaries.values():
            if not self._is_settled(summary):
                return (
                    f"saga {summary.definition}/{summary.key} is {summary.status.value}, "
                    f"waiting for {summary.waiting_for}: {summary.reason}"
                )
        return None

    def _is_parked(self, saga_id: SagaId | None) -> bool:
        summary = None if saga_id is None else self._durable.store.summaries.get(saga_id)
        return summary is not None and summary.status is SagaStatus.PARKED

    def _is_settled(self, summary: SagaSummary) -> bool:
        if summary.status is SagaStatus.PARKED:
            return self._released[summary.saga_id] >= RELEASES_MAX
        return summary.status.is_ended

    def _next_s(self) -> float | None:
        """When something happens next that everybody waits for."""
        moments = self._durable.bus.arrivals[:1]
        summaries = self._durable.store.summaries
        for timer in self._durable.store.timers(TIMERS_MAX):
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
        for summary in list(self._durable.store.summaries.values()):
            saga_id, key = summary.saga_id, summary.key
            if self._is_settled(summary) or not self._driven.done():
                continue
            if summary.status is SagaStatus.PARKED:
                self._released[saga_id] += 1
                stuck = stuck_steps(self._durable.store.history(saga_id))
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
        store = self._durable.store
        for row in await store.pauses():
            if is_paused(row):
                await self._driver.resume_all(row.definition)
        for summary in list(store.summaries.values()):
            if not summary.status.is_ended and summary.paused in _PAUSED_ITSELF:
                await self._driver.act(CommandAct.RESUME, summary)

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
        self._loop.is_ending = True
        for role in self._running.values():
            role.process.is_alive = False
        for _ in range(CANCELS_MAX):
            tasks = asyncio.all_tasks(self._loop)
            if not tasks:
                break
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.wait(tasks, timeout=1))


def _starts(app: SagaApp, event: Event) -> bool:
    current = app.contracts.current(contract_of(type(event)).contract_name)
    return bool(app.registry.started_by(current.contract_name))


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


@lru_cache(maxsize=APPS_MAX)
def _prepared(
    app: SagaApp, replace: tuple[tuple[type[Any], Function], ...]
) -> tuple[SagaApp, SagaApp]:
    """The application with its fakes, and the same as a world runs it; the same for all worlds."""
    faked = with_fakes(app, dict(replace))
    return faked, watched(faked)


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
