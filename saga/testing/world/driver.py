"""The client of a world's sagas: publishes triggers, signals and cancels, and keeps a log of it.

Each trigger begins a *story* of events, signals, cancels and operators' acts. The world lets
stories begin at any moment, repeats triggers, cancels sagas, and publishes garbage.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from random import Random
from typing import Any, Final

from saga.app import SagaApp
from saga.assembly import Assembly
from saga.contracts import Command, CommandAct, Event, Unreadable, contract_of, decode, encode
from saga.core.events import Act as OperatorsAct
from saga.core.events import (
    CancelMode,
    CancelRequested,
    MarkedAs,
    OperatorActed,
    Paused,
    Resumed,
    SignalReceived,
)
from saga.core.history import Entry
from saga.core.identity import DO, UNDO, SagaId, saga_id
from saga.errors import BusUnavailable, DefinitionError, StoreUnavailable
from saga.ports import Record, SagaSummary
from saga.runtime.bulk_migration import Migration, migrate
from saga.testing.happenings import (
    After,
    Happening,
    MigratedTo,
    Plain,
    Redelivered,
    TimerAct,
    Update,
)
from saga.testing.world.acting import armed_in, open_in
from saga.testing.world.assembly import Durable, assembled
from saga.testing.world.evidence import Log, SagaName, Trigger
from saga.testing.world.faults import Faults
from saga.testing.world.hearing import topics_read
from saga.testing.world.migrations import version_before
from saga.testing.world.ports import ProcessBus
from saga.testing.world.process import Process

_Sent = Plain | Update | TimerAct | MigratedTo
Happens = Event | After | Redelivered | Happening | MigratedTo
Starts = Callable[[Event], bool]
Story = Event | Sequence[Happens]
Triggers = Iterable[Story] | Callable[[Random], Iterable[Story]]

TRIGGERS_S: Final = 1.2
"""How long stories begin."""
FOLLOW_UP_S: Final = 1.5
"""How long after its trigger the world cancels a saga."""
REPEAT_S: Final = 3.0
JITTER_S: Final = 0.2
"""How much earlier or later than the story says something happens."""
TRIES_MAX: Final = 4
GARBAGE_SHARE: Final = 0.4
GARBAGE: Final = (b'{"order_id": 7', b"\xff\xfe", b"[1, 2]", b'{"order_id": NaN}')
REPEATED_SHARE: Final = 0.2


@dataclass(frozen=True, slots=True)
class Repeat:
    """A trigger that is published once more, under the same message id."""

    trigger: Trigger


@dataclass(frozen=True, slots=True)
class Somewhere:
    """Happens to one of the sagas that are there then, perhaps a child; to none if none is."""

    happens: _Sent


@dataclass(frozen=True, slots=True)
class Send:
    """A command to the sagas of *trigger*, or to whichever is there; to their definitions as a
    whole where it *is_for_all*. Which step or *timer* it is about, or from which version to
    migrate, may be found out when it is sent.
    """

    trigger: Trigger | None
    act: CommandAct
    words: dict[str, Any]
    is_for_all: bool = False
    timer: TimerAct | None = None
    migration: MigratedTo | None = None


@dataclass(frozen=True, slots=True)
class Garbage:
    """A record that nobody can read."""


Deed = Trigger | Repeat | Send | Garbage


@dataclass(frozen=True, slots=True)
class Act:
    at_s: float
    deed: Deed


def told(triggers: Triggers, rng: Random) -> list[list[Happens]]:
    """The stories of one world; DefinitionError if one of them is none."""
    stories = triggers(rng) if callable(triggers) else triggers
    return [_checked([story] if isinstance(story, Event) else list(story)) for story in stories]


def migrations_in(stories: Iterable[Sequence[Happens]]) -> Iterator[MigratedTo]:
    """The migrations that *stories* have for one saga."""
    for happens in chain.from_iterable(stories):
        sent = happens.happens if isinstance(happens, Somewhere) else happens
        if isinstance(sent, MigratedTo):
            yield sent


def planned(stories: Iterable[Sequence[Happens]], faults: Faults, starts: Starts) -> list[Act]:
    """What the driver does in one world, in order of time; *starts* tells triggers apart."""
    rng, rates = faults.rng, faults.rates
    acts: list[Act] = []
    count = 0
    for first, *others in stories:
        assert isinstance(first, Event), first
        count += 1
        at_s = begins_s = rng.uniform(0, TRIGGERS_S)
        trigger = latest = last = Trigger(first, f"m-{count}")
        acts.append(Act(at_s, trigger))
        for happens in others:
            if isinstance(happens, After):
                at_s += happens.length_us / 1_000_000
                continue
            if isinstance(happens, Event):
                count += 1
                last = Trigger(happens, f"m-{count}")
                latest = last if starts(happens) else latest
                deed: Deed = last
            elif isinstance(happens, Redelivered):
                deed = Repeat(last)
            elif isinstance(happens, Somewhere):
                deed = command_of(None, happens.happens)
            else:
                assert isinstance(happens, _Sent), happens
                deed = command_of(latest, happens)
            acts.append(Act(max(at_s + rng.uniform(-JITTER_S, JITTER_S), 0.0), deed))
        if rng.random() < REPEATED_SHARE:
            acts.append(Act(begins_s + rng.uniform(0, REPEAT_S), Repeat(trigger)))
        if faults.hits("cancel", rates.cancel):
            words = {
                "mode": CancelMode(rng.choice(("graceful", "immediate"))),
                "reason": "the world changed its mind",
            }
            cancel = Send(trigger, CommandAct.CANCEL, words)
            acts.append(Act(begins_s + rng.uniform(0, FOLLOW_UP_S), cancel))
        if faults.hits("pause", rates.pause):
            acts += _paused_for_a_while(rng, begins_s)
    if rng.random() < GARBAGE_SHARE:
        acts += [Act(rng.uniform(0, TRIGGERS_S), Garbage()) for _ in range(rng.randint(1, 3))]
    return sorted(acts, key=lambda act: act.at_s)


def _paused_for_a_while(rng: Random, begins_s: float) -> Iterator[Act]:
    at_s = begins_s + rng.uniform(0, FOLLOW_UP_S)
    words = {"reason": "the world waits and sees"}
    yield Act(at_s, Send(None, CommandAct.PAUSE, words))
    yield Act(at_s + rng.uniform(0, FOLLOW_UP_S), Send(None, CommandAct.RESUME, words))


def command_of(trigger: Trigger | None, happens: _Sent) -> Send:
    """The command that makes *happens* happen to a saga; DefinitionError if there is none."""
    words: dict[str, Any]
    if isinstance(happens, MigratedTo):
        words = {"reason": happens.reason, "actor": happens.actor, "steps": dict(happens.steps)}
        return Send(trigger, CommandAct.MIGRATE, words, migration=happens)
    if isinstance(happens, TimerAct):
        words = {"reason": happens.reason, "actor": "operator"}
        return Send(trigger, CommandAct(happens.act.value), words, timer=happens)
    if isinstance(happens, Update):
        words = {"name": happens.name, "payload": json.loads(happens.payload)}
        return Send(trigger, CommandAct.UPDATE, words | {"actor": happens.actor})
    match happens.is_what:
        case SignalReceived(name=name, payload=payload, actor=actor):
            words = {"name": name, "payload": json.loads(payload), "actor": actor}
            return Send(trigger, CommandAct.SIGNAL, words)
        case CancelRequested(mode=mode, reason=reason):
            return Send(trigger, CommandAct.CANCEL, {"mode": mode, "reason": reason})
        case OperatorActed(act=act, reply=reply, key=key) as acted:
            words = {"step": acted.step, "reason": acted.reason, "actor": "operator", "key": key}
            words |= {"state": acted.state, "evidence": acted.evidence}
            if reply is not None:
                words["reply"] = {
                    "contract": reply.contract,
                    "payload": json.loads(reply.payload),
                }
            return Send(trigger, CommandAct(act.value), words)
        case Paused(reason=reason, scope=scope) | Resumed(reason=reason, scope=scope) as fact:
            pauses = isinstance(fact, Paused)
            words = {"reason": reason, "actor": "operator"}
            command = CommandAct.PAUSE if pauses else CommandAct.RESUME
            return Send(trigger, command, words, is_for_all=scope is not None)
        case fact:
            raise DefinitionError(
                f"{type(fact).__name__} cannot be part of a world's story: it happens by itself"
            )


class Driver:
    """A client of the bus, in a process that never crashes."""

    def __init__(self, process: Process, durables: Sequence[Durable], acts: Sequence[Act]) -> None:
        self._durables = durables
        self._rng = process.surroundings.faults.rng
        self._numbers = 0
        bus = ProcessBus(process, durables[0].bus)
        self._assemblies = {
            release: assembled(process, durable, bus, release=release)
            for durable in durables
            for release in durable.releases
        }
        assembly = self._assemblies[durables[0].app]
        self._bus, self._clock = assembly.parts.bus, assembly.parts.clock
        self._publisher = assembly.publisher
        self._read = sorted(frozenset().union(*map(_read_by, self._assemblies.values())))
        self._acts = acts
        self.next_at_s: float | None = acts[0].at_s if acts else None
        """When something is done next; None when nothing is left, or while it is being done."""
        self.log = Log()

    async def drive(self) -> None:
        for act in self._acts:
            self.next_at_s = act.at_s
            await self._clock.sleep(act.at_s - self._clock.monotonic_s())
            self.next_at_s = None
            await self._do(act.deed)

    def history(self, saga: SagaId) -> Sequence[Entry]:
        """What is stored of a saga, of whichever application."""
        stores = (durable.store for durable in self._durables)
        return next((store.history(saga) for store in stores if saga in store.summaries), ())

    async def release(self, parked: SagaId, key: str) -> None:
        words = {"reason": "mended", "actor": "operator"}
        await self._command(CommandAct.RELEASE, parked, key, words)

    async def cancel(self, waiting: SagaId, key: str) -> None:
        """End a saga that waits for something that never comes."""
        await self._command(CommandAct.CANCEL, waiting, key, {"reason": "nobody comes any more"})

    async def act(self, act: CommandAct, saga: SagaSummary, step: str | None = None) -> None:
        """What an operator does to a saga; *step* where it is about one."""
        words = {"reason": "seen enough", "actor": "operator", "step": step}
        await self._command(act, saga.saga_id, saga.key, words)

    async def resume_all(self, definition: str) -> None:
        """Have all sagas of a definition go on."""
        words = {"reason": "seen enough", "actor": "operator"}
        await self._command_all(CommandAct.RESUME, definition, words)

    async def migrate(self, durable: Durable, migration: Migration, *, is_tried: bool) -> None:
        """Move the sagas of a version, after a replay of each where *is_tried*."""
        if not is_tried:
            moved = filter(migration.takes, list(durable.store.summaries.values()))
            await self._send_commands(
                [(migration.command(saga.saga_id), saga.key) for saga in moved]
            )
            return
        assembly = self._assemblies[durable.newest]
        store, catalogue = assembly.parts.store, assembly.parts.catalogue
        sagas, send = assembly.app.registry, self._send_commands
        for _ in range(TRIES_MAX):
            try:
                async for _ in migrate(store, catalogue, sagas, migration, send=send, wait_s=None):
                    pass
            except StoreUnavailable:
                await self._clock.sleep(0.1)
            else:
                return

    async def _do(self, deed: Deed) -> None:
        match deed:
            case Trigger():
                self.log.triggers.append(deed)
                await self._publish(deed)
            case Repeat(trigger):
                trigger.is_repeated |= not trigger.is_acknowledged
                await self._publish(trigger)
            case Send(trigger, act, words, is_for_all):
                for name in self._meant(trigger, deed.migration):
                    if is_for_all:
                        await self._command_all(act, name.definition, words)
                        continue
                    more = self._found_out(name, deed)
                    await self._command(act, name.saga_id, name.key, words | more)
            case Garbage():
                await self._litter()

    def _meant(self, trigger: Trigger | None, migration: MigratedTo | None) -> Sequence[SagaName]:
        definition = None if migration is None else migration.saga.name
        if trigger is not None:
            started = self._started_by(trigger.event)
            return [name for name in started if definition in (None, name.definition)]
        found = [row for row in self._summaries() if definition in (None, row.definition)]
        if not found:
            return ()
        saga = self._rng.choice(found)
        return (SagaName(saga.definition, saga.key, saga.saga_id),)

    def _found_out(self, name: SagaName, send: Send) -> dict[str, Any]:
        """What an operator looks up before acting: a step under way, a timer, the definition."""
        if send.timer is not None:
            return self._timer_of(name.saga_id, send.timer)
        if (migration := send.migration) is not None:
            rows = (row for row in self._summaries() if row.saga_id == name.saga_id)
            before, now = version_before(next(rows, None), migration), migration.saga.version
            return {"definition": name.definition, "from_version": before, "to_version": now}
        if send.act is CommandAct.RERUN:
            return {"definition": name.definition}
        if send.act is CommandAct.MARK and not send.words["step"]:
            direction = UNDO if send.words["state"] is MarkedAs.UNDONE else DO
            steps = open_in(self.history(name.saga_id), direction)
            return {"step": self._rng.choice(steps) if steps else "none"}
        return {}

    def _summaries(self) -> Iterator[SagaSummary]:
        return (row for durable in self._durables for row in durable.store.summaries.values())

    def _timer_of(self, saga: SagaId, act: TimerAct) -> dict[str, Any]:
        """The timer that is meant, of all that are armed one by chance, and when it is to be due.

        Where there is none, one that is not armed: that is refused.
        """
        armed = list(armed_in(self.history(saga)).values())
        meant = [timer for timer in armed if act.means(timer)] if act.target else armed
        timer = self._rng.choice(meant).timer_id if meant else f"{saga}/{act.target or 'none'}"
        if act.to_us is None:
            return {"timer": timer}
        return {"timer": timer, "due_at": self._clock.now() + act.to_us}

    def _started_by(self, event: Event) -> tuple[SagaName, ...]:
        """The sagas that any release of any application begins with it."""
        found = (name for release in self._assemblies for name in started_by(release, event))
        return tuple(dict.fromkeys(found))

    def _perhaps_started_by(self, event: Event) -> frozenset[SagaName]:
        """Those of them that another release, which reads the event too, does not begin."""
        contract = contract_of(type(event)).contract_name
        perhaps: set[SagaName] = set()
        for durable in self._durables:
            if not durable.deploys:
                continue
            topic = durable.names.topic(contract)
            reading = [
                frozenset(started_by(release, event))
                for release in durable.releases
                if topic in topics_read(release, durable.names)
            ]
            if reading:
                perhaps |= frozenset().union(*reading) - reading[0].intersection(*reading)
        return frozenset(perhaps)

    async def _publish(self, trigger: Trigger) -> None:
        contract = contract_of(type(trigger.event)).contract_name
        knowing = (each for each in self._assemblies.values() if contract in each.app.contracts)
        writer = next(knowing).writer
        prepared = writer.record(trigger.event, message_id=trigger.message_id)
        trigger.starts = self._started_by(trigger.event)
        trigger.perhaps = self._perhaps_started_by(trigger.event)
        if await self._send([prepared.record]):
            trigger.is_acknowledged = True

    async def _litter(self) -> None:
        self._numbers += 1
        # Spaces, so that each can be told from the others.
        value = self._rng.choice(GARBAGE) + b" " * self._numbers
        self.log.garbage.append(value)
        await self._send([Record(self._rng.choice(self._read), b"garbage", value)])

    async def _command(
        self, act: CommandAct, target: SagaId, key: str, words: dict[str, Any]
    ) -> None:
        await self._send_command({"act": act, "saga_id": target, **words}, key)

    async def _command_all(self, act: CommandAct, definition: str, words: dict[str, Any]) -> None:
        await self._send_command({"act": act, "definition": definition, **words}, definition)

    async def _send_command(self, words: dict[str, Any], key: str) -> None:
        self._numbers += 1
        command_id = f"command-{self._numbers}"
        command = Command.model_validate({"command_id": command_id, **words})
        await self._send_commands([(command, key)])

    async def _send_commands(self, commands: Sequence[tuple[Command, str]]) -> None:
        if not commands:
            return
        self.log.commands |= {command.command_id: command for command, _ in commands}
        for _ in range(TRIES_MAX):
            try:
                await self._publisher.commands(commands)
            except BusUnavailable:
                await self._clock.sleep(0.1)
            else:
                return

    async def _send(self, records: Sequence[Record]) -> bool:
        for _ in range(self._rng.randint(1, TRIES_MAX)):
            try:
                await self._bus.publish(records)
            except BusUnavailable:
                await self._clock.sleep(0.1)
            else:
                return True
        return False


def starts_sagas(app: SagaApp, event: Event) -> bool:
    contract = contract_of(type(event)).contract_name
    if contract not in app.contracts:
        return False
    return bool(app.registry.started_by(app.contracts.current(contract).contract_name))


def started_by(app: SagaApp, event: Event) -> tuple[SagaName, ...]:
    """The sagas that *event* begins in *app*; none where that does not know it."""
    if not starts_sagas(app, event):
        return ()
    contract = contract_of(type(event)).contract_name
    starters = app.registry.started_by(app.contracts.current(contract).contract_name)
    decoded = decode(app.contracts, contract, encode(event).encode())
    assert not isinstance(decoded, Unreadable), decoded
    assert isinstance(decoded.model, Event), decoded
    keys = [(starter.decider.name, starter.saga.key_of(decoded.model)) for starter in starters]
    return tuple(SagaName(*named, saga_id(*named)) for named in keys)


def _read_by(assembly: Assembly) -> frozenset[str]:
    """The topics that somebody in an application reads."""
    intents = (contract_of(each) for service in assembly.app.effects for each in service.intents)
    asked = (assembly.names.topic(contract.contract_name) for contract in intents)
    return frozenset((*assembly.router.topics, *asked))


def _checked(story: list[Happens]) -> list[Happens]:
    if not story or not isinstance(story[0], Event):
        raise DefinitionError(f"a story begins with the event that starts a saga, not {story[:1]}")
    for happens in story:
        if not isinstance(happens, Event | After | Redelivered | Somewhere | _Sent):
            raise DefinitionError(
                f"{happens!r} cannot be part of a world's story: replies come from handlers, and "
                f"time passes by itself"
            )
        sent = happens.happens if isinstance(happens, Somewhere) else happens
        if isinstance(sent, _Sent) and (lacking := _lacks(sent)) is not None:
            raise DefinitionError(f"{happens!r} cannot be part of a world's story: {lacking}")
    return story


def _lacks(happens: _Sent) -> str | None:
    """What an act needs, and this one does not say."""
    match happens:
        case TimerAct(act=OperatorsAct.MOVE_TIMER, to_us=None):
            return 'say how long from now the timer is due: operator("move-timer", …, to="2s")'
        case Plain(OperatorActed(act=OperatorsAct.MARK, state=None)):
            return 'say what a step is: operator("mark", "pay", state="done")'
        case Plain(OperatorActed(act=OperatorsAct.RERUN, key=None)):
            return 'say under which key: operator("rerun", key="o-1-again")'
    return None
