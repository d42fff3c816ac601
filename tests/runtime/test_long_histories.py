"""Sagas with long histories: what it costs to bring them back, and that others run meanwhile."""

import asyncio
import gc
from functools import partial

import pytest

from benchmarks.growth import exponent, instructions
from saga.audit.replaying import replayed
from saga.authoring import SagaRegistry, saga
from saga.contracts import ContractRegistry, message_of
from saga.core.decider import RECORDED
from saga.core.events import Event, ReplyOutcome, ReplyReceived, SagaStarted, TimersAdded
from saga.core.history import RecordedTurn
from saga.core.identity import (
    Direction,
    Instant,
    IntentName,
    MessageId,
    StepId,
    intent_id,
    saga_id,
)
from saga.core.intents import IntentIssued
from saga.core.status import StepKind
from saga.ports import History, HistoryAppend
from saga.runtime import saga_cache, turns
from saga.runtime.saga_cache import COSTLY_ENTRIES, LoadedSaga, SagaCache
from saga.runtime.unit_of_work import UnitOfWork
from tests.runtime.fixtures import Scenario, order_id
from tests.runtime.test_turns import shipping
from tests.runtime.toys import AlarmSet, Ship, orders
from tests.toys import Notify, OrderPlaced, as_saga

SIZES = (50, 100, 200, 400, 800, 1_600)
FLAT = 0.05
ENTRIES = (50, 100, 250, 500, 1_000, 2_500, 5_000)
BESIDE = 1.1
"""What may be done for a saga beside its replay: its place in the cache, when it began."""


class Reading:
    """A store of histories that counts the entries that are read."""

    def __init__(self) -> None:
        self.histories: dict[str, History] = {}
        self.entries = 0

    async def load(self, saga_ids):
        found = {each: self.histories[each] for each in saga_ids if each in self.histories}
        self.entries += sum(map(len, found.values()))
        return found


class Memory:
    """A cache before such a store, and sagas that notify somebody again and again."""

    def __init__(self, sagas_max: int = 1) -> None:
        self.left: list[str] = []

        async def order(ctx, placed):
            try:
                while True:
                    await ctx.do(Notify())
            finally:
                self.left.append(placed.order_id)

        definition = as_saga(order)
        registry = SagaRegistry([definition], ContractRegistry([*definition.contracts(), Notify]))
        registered = registry.find(definition.name, definition.version)
        assert registered is not None
        self.decider = registered.decider
        self.store = Reading()
        self.cache = SagaCache(self.store, None, registry, sagas_max=sagas_max)

    def id_of(self, key: str) -> str:
        return saga_id(self.decider.name, key)

    async def turn(self, key: str) -> None:
        """The next answer: loaded, handled, stored, kept."""
        id_ = self.id_of(key)
        saga = (await self.cache.load([id_])).get(id_)
        if saga is None:
            saga = LoadedSaga(id_, self.decider, self.decider.initial_state(id_), 0, 1, 1)
            fact = SagaStarted(
                definition=self.decider.name,
                definition_version=1,
                fingerprint="",
                key=key,
                trigger=message_of(OrderPlaced(order_id=key)),
            )
        else:
            answered = intent_id(id_, next(reversed(saga.state.steps)), Direction.DO, 1)
            fact = ReplyReceived(intent_id=answered, outcome=ReplyOutcome.DONE)
        event = Event(fact, Instant(1), MessageId(f"message-{saga.version}"))
        decision = saga.decider.handle(saga.state, event)
        assert decision.disposition is RECORDED
        turn = RecordedTurn(id_, saga.version + 1, event, decision.intents)
        history = self.store.histories.setdefault(id_, History())
        history.add(turn)
        saga.version += len(turn)
        self.cache.keep(saga)

    async def grow(self, keys: str, turns: int) -> None:
        for _ in range(turns):
            for key in keys:
                await self.turn(key)


def _audited(decider, saga_id, history):
    replayed(decider, saga_id, history).program.close()


def _driven(work):
    """What *work* gives, which waits for nothing but others to run."""
    while True:
        try:
            work.send(None)
        except StopIteration as end:
            return end.value


@pytest.fixture
def memory():
    memory = Memory()
    yield memory
    memory.cache.clear()


async def test_what_is_read_does_not_grow_with_the_length_of_histories():
    """With room for one saga, two have their turns one after the other."""
    read = []
    for times in SIZES:
        memory = Memory(sagas_max=1)
        await memory.grow("ab", times)
        read.append((times, memory.store.entries))
        memory.cache.clear()

    assert exponent(read) < 0.5, read
    assert read[-1][1] < COSTLY_ENTRIES**2


async def test_a_saga_that_is_cheap_to_bring_back_is_one_of_so_many(memory):
    await memory.grow("abc", 3)

    assert [saga.saga_id for saga in memory.cache] == [memory.id_of("c")]
    assert memory.left.count("a") == 3


async def test_of_costly_ones_so_many_entries_are_kept(memory, monkeypatch):
    """The least recently used leave first; one alone stays, however long it is."""
    monkeypatch.setattr(saga_cache, "COSTLY_ENTRIES_KEPT_MIN", 450)
    await memory.grow("abc", 100)
    await memory.grow("d", 100)

    assert [saga.saga_id for saga in memory.cache] == [memory.id_of("c"), memory.id_of("d")]
    await memory.grow("d", 200)
    assert [saga.saga_id for saga in memory.cache] == [memory.id_of("d")]
    assert memory.left[-1] == "c"
    await memory.cache.load([memory.id_of("d")])
    await memory.grow("a", 1)
    assert memory.cache._costly_entries == len(memory.store.histories[memory.id_of("a")])  # noqa: SLF001


async def test_bringing_back_costs_no_more_an_entry_than_saga_replay_does(memory):
    id_, costs = memory.id_of("a"), []
    for entries in ENTRIES:
        while len(memory.store.histories.get(id_, ())) < entries:
            await memory.turn("a")
        memory.cache.clear()
        history = memory.store.histories[id_]
        found = []

        def revive():
            found.append(_driven(memory.cache.load([id_])))  # noqa: B023

        audited = instructions(partial(_audited, memory.decider, id_, history))
        revived = instructions(revive)
        memory.cache.keep(found[0][id_])
        costs.append((entries, revived / len(history)))
        assert revived < BESIDE * audited

    assert exponent(costs) < FLAT, costs


async def test_others_run_while_a_long_history_is_brought_back(memory, monkeypatch):
    monkeypatch.setattr(saga_cache, "TURNS_AT_ONCE", 10)
    await memory.grow("a", 100)
    memory.cache.clear()
    ran = 0

    async def others():
        nonlocal ran
        while True:
            await asyncio.sleep(0)
            ran += 1

    running = asyncio.create_task(others())
    await asyncio.sleep(0)
    found = await memory.cache.load([memory.id_of("a")])
    running.cancel()

    assert ran >= 10
    memory.cache.keep(found[memory.id_of("a")])


async def test_a_load_that_is_given_up_lets_go_of_what_it_had_begun(memory, monkeypatch):
    monkeypatch.setattr(saga_cache, "TURNS_AT_ONCE", 10)
    await memory.grow("ab", 100)
    memory.cache.clear()
    memory.left.clear()
    loading = asyncio.create_task(memory.cache.load([memory.id_of("a"), memory.id_of("b")]))
    for _ in range(15):
        await asyncio.sleep(0)
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading

    assert sorted(memory.left) == ["a", "b"]
    gc.collect()


async def test_whether_a_reply_comes_too_early_is_told_of_many_turns_of_a_batch_at_once(memory):
    """Each answer to one saga in a batch asks it."""
    costs = []
    for times in SIZES:
        id_, unit = memory.id_of("a"), UnitOfWork(Instant(1))
        history = unit.histories[id_] = HistoryAppend(id_, 0, [])
        for number in range(times):
            body = IntentIssued(StepId(f"s-{number}"), Direction.DO, 1, "c", "{}", StepKind.PLAIN)
            event = Event(TimersAdded(), Instant(1), MessageId("m"))
            history.turns.append(RecordedTurn(id_, 2 * number + 1, event, [body]))
            name = IntentName(id_, StepId(f"s-{number}"), Direction.DO, 1)
            cost = instructions(partial(unit.issues, name))
            assert unit.issues(name)
        assert not unit.issues(name._replace(attempt=2))
        costs.append((times, cost))

    assert exponent(costs) < 0.05, costs


async def test_of_a_history_that_becomes_long_people_are_told_once(monkeypatch, caplog):
    monkeypatch.setattr(turns, "LONG_HISTORY_ENTRIES", 4)
    scenario = Scenario(orders())
    await shipping(scenario, "a", "b")
    (ship, _) = scenario.on(Ship)
    await scenario.take(scenario.signal(order_id("a"), "none", 1, id="s-1"), scenario.reply(ship))

    told = [record.saga_id for record in caplog.records if "continue_as_new" in record.message]
    assert sorted(told) == sorted([order_id("a"), order_id("b")])


async def test_a_long_saga_can_go_on_in_a_next_one():
    """As people are advised: it publishes the trigger of the next one under a key of its own."""

    @saga("counting", version=1, starts_on=AlarmSet)
    async def counting(ctx, asked):
        number = int(asked.name)
        if number < 3:
            await ctx.publish(AlarmSet(name=str(number + 1)))

    scenario = Scenario(counting)
    await scenario.take(scenario.event(AlarmSet(name="1"), "1"))
    for _ in range(3):
        await scenario.take()
    ids = [saga_id("counting", key) for key in "123"]
    assert [scenario.status(each) for each in ids] == ["completed"] * 3
