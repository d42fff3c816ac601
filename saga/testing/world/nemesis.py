"""What befalls whole processes: crashes at any place, freezes, lost memberships, lost offsets."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from saga.testing.world.assembly import AnyProcess
from saga.testing.world.broker import SimulatedBus
from saga.testing.world.process import Surroundings

FREEZE_S_MAX = 2.0
SESSION_S = 0.3
"""After so long a silence a group takes its member for dead."""
DEAF_S_MAX = 1.0
REWOUND_SHARE = 0.5


class Nemesis:
    def __init__(
        self, surroundings: Surroundings, bus: SimulatedBus, running: Mapping[str, AnyProcess]
    ) -> None:
        self._surroundings = surroundings
        self._rng = surroundings.faults.rng
        self._bus = bus
        self._running = running
        self._strikes = {
            "kill": self._kill,
            "freeze": self._freeze,
            "deafen": self._deafen,
            "rewind": self._rewind,
            "reset": self._reset,
            "restart": self._restart,
        }

    async def strike(self) -> None:
        every_s = self._surroundings.faults.rates.nemesis_every_s
        if every_s is None:
            return
        while True:
            await asyncio.sleep(self._rng.uniform(0, 2 * every_s))
            name = self._rng.choice(sorted(self._strikes))
            victims = sorted(self._running)
            if victims:
                victim = self._running[self._rng.choice(victims)]
                self._surroundings.faults.seen[name] += 1
                self._surroundings.note(victim.process.name, name)
                await self._strikes[name](victim)

    async def _kill(self, victim: AnyProcess) -> None:
        victim.process.crash("nemesis")

    async def _restart(self, victim: AnyProcess) -> None:
        victim.stop()

    async def _freeze(self, victim: AnyProcess) -> None:
        """A zombie: taken for dead while it is frozen, and back before it is told."""
        victim.process.freeze()
        await asyncio.sleep(SESSION_S)
        for member in victim.bus.members:
            self._bus.cut_off(member)
        await asyncio.sleep(self._rng.uniform(0, FREEZE_S_MAX))
        victim.process.thaw()
        await asyncio.sleep(self._rng.uniform(0, DEAF_S_MAX))
        self._readmit(victim)

    async def _deafen(self, victim: AnyProcess) -> None:
        """Two members own a partition for a while."""
        for member in victim.bus.members:
            self._bus.cut_off(member)
        await asyncio.sleep(self._rng.uniform(0, DEAF_S_MAX))
        self._readmit(victim)

    async def _rewind(self, victim: AnyProcess) -> None:
        """Its client reads some partitions again."""
        for member in victim.bus.members:
            for source in sorted(member.assignment()):
                if self._rng.random() < REWOUND_SHARE:
                    member.rewind(source)

    async def _reset(self, victim: AnyProcess) -> None:
        """The offsets of its groups are gone, and it has to begin anew."""
        for member in victim.bus.members:
            self._bus.forget_offsets(member.group)
            self._bus.cut_off(member)
            self._bus.readmit(member)

    def _readmit(self, victim: AnyProcess) -> None:
        if victim.process.is_alive:
            for member in victim.bus.members:
                self._bus.readmit(member)
