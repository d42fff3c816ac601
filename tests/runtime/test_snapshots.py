"""A long saga is brought back from its snapshot: a checked cache, never the truth.

Whatever is wrong with a snapshot, the whole history is loaded and the snapshot written anew.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from saga import Event, Intent, Next, State, StepDone, continue_as_new, do, machine
from saga.adapters.memory import MemoryCatalogue, MemoryEventStore
from saga.audit.snapshots import Comparison, Found, compare_snapshot
from saga.authoring import SagaRegistry
from saga.authoring.machines.definition import MachineDefinition
from saga.contracts import ContractRegistry, message_of
from saga.core.decider import RECORDED
from saga.core.events import Event as Happened
from saga.core.events import ReplyOutcome, ReplyReceived, SagaStarted
from saga.core.history import History, RecordedTurn, continued_in
from saga.core.identity import Direction, Instant, MessageId, SagaId, intent_id, saga_id
from saga.core.state import parts_of
from saga.core.status import SagaStatus
from saga.errors import CorruptHistory
from saga.ports import Batch, HistoryAppend, Snapshot
from saga.runtime import saga_cache
from saga.runtime.saga_cache import (
    SNAPSHOT_ENTRIES,
    SNAPSHOT_SHARE,
    LoadedSaga,
    SagaCache,
    snapshot_in,
    summary_of,
)
from saga.runtime.unit_of_work import UnitOfWork
from tests.toys import Notify, OrderPlaced, as_saga


class Wound(Event, topic="clock.wound", version=1, key="id"):
    id: str


class Tick(Intent[None], topic="clock.tick", version=1):
    number: int


class Untick(Intent[None], topic="clock.untick", version=1):
    number: int


class Ticking(State):
    number: int = 0

    def handle(self, event: StepDone) -> Next[Ticking | Stopped]:
        number = self.number + 1
        if number == 10_000:
            return Stopped()
        return Ticking(number=number), do(Tick(number=number), undo=Untick)


class Stopped(State): ...


TABLE = {Ticking: {StepDone: (Ticking, Stopped)}}


@machine("clock", version=1, starts_on=Wound, transitions=TABLE)
def clock(_: Wound) -> Next[Ticking]:
    return Ticking(), do(Tick(number=0), undo=Untick)


class Lap(Ticking):
    def handle(self, event: StepDone) -> Next[Lap | Stopped]:
        number = self.number + 1
        if number == 20:
            return Stopped(), continue_as_new(Wound(id="c-1"))
        return Lap(number=number), do(Tick(number=number), undo=Untick)


@machine("clock", version=1, starts_on=Wound, transitions={Lap: {StepDone: (Lap, Stopped)}})
def laps(_: Wound) -> Next[Lap]:
    return Lap(), do(Tick(number=0), undo=Untick)


async def order(ctx, placed):
    while True:
        await ctx.do(Notify())


class Counting(MemoryEventStore):
    """A store that counts the entries that are read, and what is asked of snapshots."""

    def __init__(self) -> None:
        super().__init__()
        self.entries = 0
        self.calls: list[str] = []

    async def load(self, saga_ids: Any, *, is_whole: bool = False) -> Any:
        self.calls.append("load")
        return await super().load(saga_ids, is_whole=is_whole)

    async def load_from_snapshots(self, saga_ids: Any) -> Any:
        found = await super().load_from_snapshots(saga_ids)
        self.calls[-1:] = ["load from snapshots"]
        return found

    async def keep_snapshots(self, snapshots: Any) -> None:
        self.calls.append("keep")
        await super().keep_snapshots(snapshots)

    def damage(self, saga_id: SagaId, **changed: Any) -> None:
        snapshot, covered = self._snapshots[saga_id]
        self._snapshots[saga_id] = (replace(snapshot, **changed), covered)

    def rewrite(self, saga_id: SagaId, turns: int) -> None:
        """Have another turn in the place of the one that the snapshot covers last."""
        turn = self._histories[saga_id].recorded[turns - 1]
        event = replace(turn.event, at=Instant(turn.event.at + 1))
        self._histories[saga_id].recorded[turns - 1] = replace(turn, event=event, made=None)


class Clocks:
    """Sagas of one definition, over a cache and a store; each answer is a turn."""

    def __init__(self, definition: Any = clock, **options: Any) -> None:
        self.store = Counting()
        self.options = options
        self.use(definition)

    def use(self, definition: Any) -> None:
        """Have another code from here on, as another process."""
        models = [*definition.contracts(), Tick, Untick, Notify]
        self.definition = definition
        self.registry = SagaRegistry([definition], ContractRegistry(models))
        [registered] = self.registry.all().values()
        self.decider = registered.decider
        self.restart()

    def restart(self) -> None:
        """What was in memory is gone."""
        self.cache = SagaCache(
            self.store,
            MemoryCatalogue(self.store),
            self.registry,
            sagas_max=1_000,
            snapshots=self.store,
            **self.options,
        )
        self.store.calls.clear()

    def id_of(self, key: str = "c-1") -> SagaId:
        return saga_id(self.decider.name, key)

    async def loaded(self, key: str = "c-1") -> LoadedSaga:
        """A saga as it is brought back, and kept."""
        self.restart()
        saga = (await self.cache.load([self.id_of(key)]))[self.id_of(key)]
        assert isinstance(saga, LoadedSaga), saga
        self.cache.keep(saga)
        return saga

    async def turn(self, key: str = "c-1") -> LoadedSaga:
        id_ = self.id_of(key)
        saga = (await self.cache.load([id_])).get(id_)
        assert saga is None or isinstance(saga, LoadedSaga)
        if saga is None:
            saga = LoadedSaga(id_, self.decider, self.decider.initial_state(id_), 0, 1_000, 1_000)
            trigger = Wound(id=key) if self.decider.name == "clock" else OrderPlaced(order_id=key)
            fact: Any = SagaStarted(
                definition=self.decider.name,
                definition_version=1,
                fingerprint=self.decider.fingerprint,
                key=key,
                trigger=message_of(trigger),
            )
        else:
            answered = intent_id(id_, next(iter(saga.state.in_flight)), Direction.DO, 1)
            fact = ReplyReceived(intent_id=answered, outcome=ReplyOutcome.DONE)
        event = Happened(fact, Instant(1_000 + saga.version), MessageId(f"m-{saga.version}"))
        decision = saga.decider.handle(saga.state, event)
        assert decision.disposition is RECORDED
        turn = RecordedTurn(id_, saga.version + 1, event, decision.intents)
        history = HistoryAppend(id_, saga.turns, [turn])
        saga.version += len(turn)
        saga.turns += 1
        saga.last_at = event.at
        batch = Batch(histories=[history], summaries=[summary_of(saga)])
        await self.store.append(batch, at=event.at)
        self.cache.keep(saga)
        await self.cache.keep_snapshots()
        return saga

    async def grow(self, entries: int, key: str = "c-1") -> LoadedSaga:
        """So many entries and at most a turn more."""
        saga = await self.turn(key)
        while saga.version < entries:
            saga = await self.turn(key)
        return saga

    async def kept(self, key: str = "c-1") -> Snapshot | None:
        return (await self.store.snapshots([self.id_of(key)])).get(self.id_of(key))


@pytest.fixture
def handled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many entries each saga that is brought back has taken again, in order."""
    counts: list[int] = []
    reviving, following = saga_cache.replaying, saga_cache.following

    def whole(decider: Any, id_: Any, history: Any) -> Any:
        counts.append(len(history))
        return reviving(decider, id_, history)

    def tail(decider: Any, state: Any, recorded: Any) -> Any:
        counts.append(sum(map(len, recorded)))
        return following(decider, state, recorded)

    monkeypatch.setattr(saga_cache, "replaying", whole)
    monkeypatch.setattr(saga_cache, "following", tail)
    return counts


async def test_to_bring_back_a_long_saga_takes_its_tail_only(handled):
    clocks = Clocks()
    live = await clocks.grow(5_000)
    kept = await clocks.kept()
    assert kept is not None
    tail = live.version - kept.version
    assert tail < live.version / SNAPSHOT_SHARE

    brought_back = await clocks.loaded()

    assert handled == [tail]
    assert clocks.store.calls == ["load from snapshots"]
    assert parts_of(brought_back.state) == parts_of(live.state)
    told, again = snapshot_in(brought_back), snapshot_in(live)
    assert (told, brought_back.turns) == (again, live.turns)


async def test_a_saga_from_a_snapshot_goes_on_as_the_others(handled):
    clocks, others = Clocks(), Clocks()
    await clocks.grow(150)
    await clocks.loaded()
    ours, theirs = await clocks.grow(300), await others.grow(300)

    assert handled == [150 - 100]
    assert clocks.store.history(ours.saga_id) == others.store.history(theirs.saga_id)
    assert summary_of(ours) == summary_of(theirs)


async def test_a_snapshot_may_be_taken_at_every_turn_and_each_is_as_the_history():
    clocks = Clocks(snapshot_entries=1)
    for number in range(1, 40):
        live = await clocks.turn()
        kept = await clocks.kept()
        assert kept is not None
        assert (kept.turns, kept.version) == (number, live.version)
        brought_back = await clocks.loaded()
        assert clocks.store.calls == ["load from snapshots"]
        assert parts_of(brought_back.state) == parts_of(live.state)
        await clocks.store.drop_snapshots([live.saga_id])
        whole = await clocks.loaded()
        assert snapshot_in(whole) == snapshot_in(brought_back)


async def test_a_short_saga_has_no_snapshot_and_asks_for_nothing():
    clocks = Clocks()
    saga = await clocks.grow(SNAPSHOT_ENTRIES - 3)

    assert await clocks.kept() is None
    assert "keep" not in clocks.store.calls
    assert not saga.may_have_snapshot


async def test_what_is_written_of_a_long_saga_is_some_times_its_length():
    clocks = Clocks()
    sizes: dict[int, int] = {}
    for _ in range(1_000):
        await clocks.turn()
        kept = await clocks.kept()
        if kept is not None:
            sizes[kept.version] = kept.version

    assert len(sizes) < 20
    assert sum(sizes.values()) < 3_000 * (SNAPSHOT_SHARE + 1)


async def test_a_function_has_no_snapshot_and_its_store_is_not_asked_for_any():
    clocks = Clocks(as_saga(order))
    await clocks.grow(250)
    await clocks.loaded()

    assert clocks.store.calls == ["load"]
    assert await clocks.kept() is None


def other(**changed: Any) -> MachineDefinition:
    parts = {name: getattr(clock, name) for name in clock.__dataclass_fields__} | changed
    return MachineDefinition(**parts)


WRONG = {
    "of other code": {"code": "0" * 32},
    "of a version that is not here": {"definition_version": 2},
    "no json": {"state": b"{"},
    "nothing": {"state": b""},
    "of another format": {"state": orjson.dumps({"saga": {"state": {}, "program": {}}})},
    "a list": {"state": b"[]"},
}


@pytest.mark.parametrize("changed", WRONG.values(), ids=WRONG)
async def test_a_snapshot_that_is_wrong_is_ignored_and_written_anew(handled, changed):
    clocks = Clocks()
    live = await clocks.grow(120)
    before = await clocks.kept()
    clocks.store.damage(live.saga_id, **changed)

    brought_back = await clocks.loaded()
    await clocks.cache.keep_snapshots()

    assert handled == [live.version]
    assert parts_of(brought_back.state) == parts_of(live.state)
    after = await clocks.kept()
    assert before is not None
    assert after is not None
    assert (after.code, after.version) == (before.code, live.version)
    await clocks.loaded()
    assert handled == [live.version]


@pytest.mark.parametrize("path", ["state", "program"])
async def test_of_a_snapshot_that_lacks_anything_nothing_is_believed(handled, path):
    """Each of its members is needed, or has its default."""
    clocks = Clocks()
    live = await clocks.grow(120)
    kept = await clocks.kept()
    assert kept is not None
    told = orjson.loads(kept.state)
    part = told["saga"][path]
    for name in part:
        less = {other: each for other, each in part.items() if other != name}
        saga = {**told["saga"], path: less}
        clocks.store.damage(live.saga_id, state=orjson.dumps({**told, "saga": saga}))

        brought_back = await clocks.loaded()

        if handled.pop() == live.version:
            assert parts_of(brought_back.state) == parts_of(live.state), name


async def test_a_snapshot_is_not_believed_whose_last_turn_is_another(handled):
    clocks = Clocks()
    live = await clocks.grow(120)
    kept = await clocks.kept()
    assert kept is not None
    clocks.store.rewrite(live.saga_id, kept.turns)

    await clocks.loaded()

    assert handled == [live.version]


async def test_code_that_decides_otherwise_does_not_go_on_from_the_snapshot_of_another(handled):
    """A deploy is found out as without any: by a replay of the whole history."""
    clocks = Clocks()
    live = await clocks.grow(120)
    clocks.use(other(fingerprint="changed"))

    await clocks.loaded()

    assert handled == [live.version]


async def test_the_code_of_a_definition_is_that_of_its_package_and_release(monkeypatch):
    clocks = Clocks()
    same, others = Clocks(), Clocks(other(version=2))
    assert same.decider.code == clocks.decider.code
    assert others.decider.code == clocks.decider.code  # its version is beside it
    monkeypatch.setattr("saga.authoring.declaration.RELEASE", "9.9.9")
    assert Clocks().decider.code != clocks.decider.code
    monkeypatch.undo()
    monkeypatch.setattr("saga.authoring.source._source_in", lambda _: "changed")
    assert Clocks().decider.code != clocks.decider.code


async def test_a_store_that_cannot_keep_a_snapshot_is_told_of_and_nothing_else(monkeypatch, caplog):
    clocks = Clocks()
    await clocks.grow(50)

    async def fail(_: Any) -> None:
        raise OSError("no room")

    monkeypatch.setattr(clocks.store, "keep_snapshots", fail)
    live = await clocks.grow(200)

    assert live.version >= 200
    assert "1 snapshots are not kept: no room" in caplog.text


async def test_a_saga_that_cannot_be_told_goes_on_and_is_tried_again_later(monkeypatch, caplog):
    clocks = Clocks()
    await clocks.grow(90)
    told = saga_cache.snapshot_of

    def fail(_: Any) -> None:
        raise KeyError("lost")

    monkeypatch.setattr(saga_cache, "snapshot_of", fail)
    live = await clocks.grow(150)
    assert caplog.text.count(f"no snapshot of saga {live.saga_id}") == 1
    assert await clocks.kept() is None

    monkeypatch.setattr(saga_cache, "snapshot_of", told)
    await clocks.grow(220)
    assert await clocks.kept() is not None


async def test_a_snapshot_beyond_measure_is_not_kept(monkeypatch):
    monkeypatch.setattr(saga_cache, "SNAPSHOT_BYTES_MAX", 1_000)
    clocks = Clocks()
    await clocks.grow(150)

    assert await clocks.kept() is None


@pytest.mark.parametrize(("entries", "is_dropped"), [(60, False), (120, True)])
def test_a_batch_says_which_snapshots_are_over(entries: int, *, is_dropped: bool):
    """Those of sagas that end, or begin a run; a saga that may have none costs no statement."""
    clocks = Clocks()
    id_ = clocks.id_of()
    state = clocks.decider.initial_state(id_)
    ended = LoadedSaga(id_, clocks.decider, state, entries, 1, 1)
    unit = UnitOfWork(Instant(2), changed={id_: ended})
    state.status = SagaStatus.COMPLETED
    unit.count_change(ended, has_started=False, before=SagaStatus.RUNNING)

    assert unit.batch([]).snapshots_over == ([id_] if is_dropped else [])
    assert UnitOfWork(Instant(2), changed={id_: ended}).batch([]).snapshots_over == ()
    runs = UnitOfWork(Instant(2), changed={id_: ended}, runs={id_: 3})
    assert runs.batch([]).snapshots_over == ([id_] if is_dropped else [])


async def test_snapshots_are_compared_with_what_their_histories_give():
    """As far as the code at hand is that which wrote them; what is wrong is said."""
    clocks = Clocks()
    for key in ("right", "wrong", "torn", "of others"):
        await clocks.grow(130, key)
    wrong, torn, others = map(clocks.id_of, ("wrong", "torn", "of others"))
    kept = (await clocks.store.snapshots([wrong]))[wrong]
    clocks.store.damage(wrong, state=kept.state.replace(b'"ended_steps":', b'"run_steps":'))
    clocks.store.damage(torn, state=kept.state[:-9])
    clocks.store.damage(others, code="0" * 32)
    ids = [clocks.id_of(key) for key in ("right", "wrong", "torn", "of others")]
    snapshots = await clocks.store.snapshots(ids)

    for histories in (await clocks.store.load(ids), await clocks.store.load(ids, is_whole=True)):
        compared = [
            compare_snapshot(clocks.registry, snapshots[each], histories[each]) for each in ids
        ]
        assert compared == [
            Comparison(Found.SAME),
            Comparison(Found.WRONG, "its state is not what its history gives"),
            Comparison(Found.WRONG, "it cannot be read"),
            Comparison(Found.NOT_COMPARED, "other code has written it"),
        ]


async def test_of_what_a_history_does_not_give_nothing_is_said():
    clocks = Clocks()
    live = await clocks.grow(130)
    kept = await clocks.kept()
    assert kept is not None

    async def compared(history: Any) -> Comparison:
        return compare_snapshot(clocks.registry, kept, history)

    whole = (await clocks.store.load([live.saga_id]))[live.saga_id]
    assert isinstance(whole, History)
    unread = CorruptHistory(live.saga_id, 1, "no")
    short = History(whole.recorded[: kept.turns - 1])
    later = History(whole.recorded[-1:], turns=whole.turns)

    assert (await compared(unread)).problem == "its history cannot be read"
    assert (await compared(None)).found is Found.NOT_COMPARED
    assert (await compared(short)).problem == (
        f"it covers {kept.turns} turns, and the history has {kept.turns - 1}"
    )
    assert (await compared(later)).problem == "it is of an earlier run"


async def test_of_a_whole_history_only_the_last_run_gives_a_snapshot():
    clocks = Clocks(laps)
    await clocks.grow(100)
    live = await clocks.loaded()
    snapshot = snapshot_in(live)
    assert snapshot is not None
    whole = (await clocks.store.load([live.saga_id], is_whole=True))[live.saga_id]
    assert isinstance(whole, History)
    runs = [number for number, turn in enumerate(whole.recorded, 1) if continued_in(turn)]

    assert len(runs) == 2
    assert compare_snapshot(clocks.registry, snapshot, whole) == Comparison(Found.SAME)
    earlier = replace(snapshot, turns=runs[-1] - 1)
    assert compare_snapshot(clocks.registry, earlier, whole).problem == "it is of an earlier run"
