"""Keeps the processes of a world alive, and deploys releases to them, one by one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final

from saga.app import SagaApp
from saga.errors import BusUnavailable, StoreUnavailable
from saga.testing.world.assembly import AnyProcess, Durable, EffectsProcess, OrchestratorProcess
from saga.testing.world.process import Process, Surroundings

RESTART_S_MAX: Final = 0.6
SESSION_S_MAX: Final = 0.6
"""How long a group takes to notice that a member is gone."""
CLOSE_S_MAX: Final = 300.0
NEXT_S_MAX: Final = 1.0
"""How long a rollout lingers between two processes: so long two releases run side by side."""
KILLED_SHARE: Final = 0.3
"""Of the processes that a rollout ends; the others stop in good order."""


class Supervisor:
    """Each process is started again whenever it is gone, with the release that it is to have."""

    def __init__(self, surroundings: Surroundings, durables: Sequence[Durable]) -> None:
        self.running: dict[str, AnyProcess] = {}
        self._surroundings = surroundings
        self._rng = surroundings.faults.rng
        self._durables = durables
        self._absent: Counter[str] = Counter()
        """Of processes that are gone, how many lives their groups have not missed yet."""
        self._builds: dict[str, Callable[..., AnyProcess]] = {}
        self._awaited: dict[str, asyncio.Event] = {}
        """Somebody waits until these processes are there again."""
        self._releases: dict[str, tuple[Durable, SagaApp]] = {}
        self._keepers: list[asyncio.Future[None]] = []
        self._rollouts = 0
        self._is_closing = False

    def start(self) -> None:
        """Start the processes of all applications, each of which has some of its own."""
        rng = self._rng
        for number, durable in enumerate(self._durables):
            # The first application's processes have the names that they have where it is alone.
            prefix = f"{number}." if number else ""
            live_sagas = rng.choice((1, 3, 1000))
            orchestrator = partial(OrchestratorProcess, durable=durable, live_sagas=live_sagas)
            effects = partial(EffectsProcess, durable=durable)
            builds: dict[str, Callable[..., AnyProcess]] = {
                **{
                    f"{prefix}orchestrator-{n}": orchestrator
                    for n in range(rng.choice((1, 2, 2, 3)))
                },
                **{f"{prefix}effects-{n}": effects for n in range(rng.randint(1, 2))},
            }
            for name in builds:
                self._releases[name] = durable, durable.app
            self._builds |= builds
        self._keepers = [asyncio.ensure_future(self._keep_alive(name)) for name in self._builds]

    @property
    def why_busy(self) -> str | None:
        """What is under way at this moment that is not for good."""
        if self._absent:
            return f"{min(self._absent)} is gone, and its groups have not missed it yet"
        if len(self.running) < len(self._builds):
            return "a process is down"
        return "a release is being deployed" if self._rollouts else None

    def roles_of(self, durable: Durable) -> Iterator[AnyProcess]:
        """The processes of one application that run."""
        return (role for name, role in self.running.items() if self._releases[name][0] is durable)

    async def roll_out(self, durable: Durable, release: SagaApp) -> None:
        """Let the processes of an application have this *release*, one after the other."""
        self._rollouts += 1
        number = durable.releases.index(release)
        self._surroundings.faults.seen["deploy"] += 1
        self._surroundings.note("world", f"deploy release {number} of {release.name}")
        durable.deploy(release)
        names = [name for name, (whose, _) in self._releases.items() if whose is durable]
        self._rng.shuffle(names)
        for name in names:
            self._releases[name] = durable, release
            await self._restart(name)
            await asyncio.sleep(self._rng.uniform(0, NEXT_S_MAX))
        self._rollouts -= 1

    def heal(self) -> None:
        """Take back whoever was taken for dead."""
        for role in list(self.running.values()):
            role.process.thaw()
            for member in role.bus.members:
                role.bus.inner.readmit(member)

    async def close(self) -> list[str]:
        """Stop everything, in good order; what does not stop."""
        self._is_closing = True
        for role in list(self.running.values()):
            role.stop()
        _, pending = await asyncio.wait(self._keepers, timeout=CLOSE_S_MAX)
        for keeper in self._keepers:
            if keeper.done() and not keeper.cancelled():
                keeper.result()
        return [f"these do not stop: {', '.join(self.running)}"] if pending else []

    def abandon(self) -> None:
        """Let nothing that they still do have any effect."""
        for role in self.running.values():
            role.process.is_alive = False

    async def _restart(self, name: str) -> None:
        """End a process for its next release, and wait until it is there again."""
        before = self.running.get(name)
        if before is None:
            return  # it has the next release when it is started again
        if self._surroundings.faults.is_on and self._rng.random() < KILLED_SHARE:
            before.process.crash("deploy")
        else:
            before.stop()
        is_there = self._awaited[name] = asyncio.Event()
        await is_there.wait()

    async def _keep_alive(self, name: str) -> None:
        """What a supervisor does: start it again whenever it is gone."""
        incarnation = 0
        while not self._is_closing:
            incarnation += 1
            process = Process(f"{name}.{incarnation}", self._surroundings)
            life = await process.lives(self._build_and_live(process, name))
            crashed = not process.is_alive
            self._absent[name] += 1
            role = self.running.pop(name, None)
            if not crashed:
                self._judge_end(process, life)
            process.is_alive = False
            await process.gone()
            if role is None:
                self._absent -= Counter([name])
            else:
                self._surroundings.loop.create_task(self._expire(role, crashed=crashed))
            if not self._is_closing:
                await asyncio.sleep(self._rng.uniform(0, RESTART_S_MAX))

    async def _build_and_live(self, process: Process, name: str) -> None:
        _, release = self._releases[name]
        role = self.running[name] = self._builds[name](process, release=release)
        if (awaited := self._awaited.pop(name, None)) is not None:
            awaited.set()
        await role.live()

    def _judge_end(self, process: Process, task: asyncio.Task[None]) -> None:
        error = task.exception() if not task.cancelled() else None
        if error is None:
            return
        faults = self._surroundings.faults
        starting = not process.has_started and isinstance(error, (BusUnavailable, StoreUnavailable))
        if starting and faults.is_on:
            faults.seen["did not start"] += 1
        elif not starting or "made up" not in str(error):
            problems = "; ".join(f"{type(each).__name__}: {each}" for each in _leaves(error))
            self._surroundings.violations.append(f"{process.name} ended by itself: {problems}")

    async def _expire(self, role: AnyProcess, *, crashed: bool) -> None:
        """The group notices that its members are gone."""
        if crashed and self._surroundings.faults.is_on:
            await asyncio.sleep(self._rng.uniform(0, SESSION_S_MAX))
        for member in role.bus.members:
            await member.close()
        self._absent -= Counter([role.process.name.rpartition(".")[0]])


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error
