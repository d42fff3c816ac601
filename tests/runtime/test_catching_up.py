"""A saga in memory that another worker has moved on takes over that worker's turns."""

import asyncio

import pytest

from saga import Context, Event, Intent, on, saga
from saga.contracts import CommandAct, IntentFailed
from saga.core.history import History, turns
from saga.core.identity import saga_id
from saga.errors import StoreUnavailable
from saga.runtime.children import start_of
from saga.runtime.conflicts import Contention
from saga.runtime.relay import may_publish
from saga.runtime.saga_cache import UnloadableSaga
from saga.runtime.unit_of_work import InboundBatch
from tests.runtime import invariants
from tests.runtime.fixtures import Scenario, take


class Placed(Event, topic="toys.placed", version=1, key="order_id"):
    order_id: str


class Settled(Event, topic="bank.settled", version=1):
    order_ref: str


class Paid(Event, topic="bank.paid", version=1):
    receipt: str


class Pay(Intent[Paid], topic="bank.pay", version=1):
    order_id: str


class Done(Event, topic="toys.done", version=1, key="order_id"):
    order_id: str


ORDER = saga_id("order", "o-1")


@pytest.fixture
def begun():
    """The orders whose function has begun to run, each time that it has."""
    return []


@pytest.fixture
def make_order(begun):
    """A saga that hears of two settlements, and pays behind the first."""

    def make(*, pays="o-1", may_park=False):
        @saga("order", version=1, starts_on=Placed, listens=on(Settled, key="order_ref"))
        async def order(ctx: Context, placed: Placed) -> Done:
            begun.append(placed.order_id)
            if may_park:
                await ctx.do(Pay(order_id="pivot"), kind="pivot")
                await ctx.all(ctx.do(Pay(order_id="a"), id="a"), ctx.do(Pay(order_id="b"), id="b"))
            await ctx.next(Settled)
            await ctx.do(Pay(order_id=pays), timeout="1m")
            await ctx.next(Settled)
            if await ctx.wait("again", timeout="1h"):
                await ctx.continue_as_new(placed)
            return Done(order_id=placed.order_id)

        return order

    return make


@pytest.fixture
def scenario(make_scenario, make_order):
    return make_scenario(make_order(), contracts=[Done], shares_file=False)


class Behind:
    """A worker that has a saga in memory, of which others take turns."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.app, self.cache, self.turns = scenario.app, scenario.cache, scenario.turns
        scenario.restart()

    async def catch_up(self):
        """The saga, brought up to date; None where it has to be loaded whole."""
        taken = self.cache.take([ORDER])
        await self.cache.catch_up(taken, [ORDER])
        found = taken.get(ORDER)
        if found is not None:
            self.cache.keep(found)
            histories = {ORDER: self.scenario.history(ORDER)}
            invariants.check_live(self.app, self.cache, histories)
        return found


@pytest.fixture
async def behind(scenario):
    await scenario.take(scenario.event(Placed(order_id="o-1"), "o-1"))
    return Behind(scenario)


def settled(scenario):
    return scenario.event(Settled(order_ref="o-1"), "elsewhere")


async def pays(scenario):
    """Settled and paid, in three turns."""
    await scenario.take(settled(scenario))
    await scenario.take(scenario.reply(scenario.on(Pay)[-1], Paid(receipt="r")))
    await scenario.take(settled(scenario))


async def test_it_takes_over_turns_and_its_function_runs_on(scenario, behind, begun):
    await pays(scenario)
    before = len(begun)
    caught_up = await behind.catch_up()

    assert len(begun) == before + 1  # the check replays it
    assert (caught_up.version, caught_up.turns) == (len(scenario.history(ORDER)), 4)
    scenario.bus.append([scenario.signal(ORDER, "again", payload=False, id="c-1")])
    await take(behind.turns, InboundBatch(scenario.unread()))
    assert scenario.status(ORDER) == "completed"
    assert len(begun) == before + 1
    assert [record.key for record in scenario.on(Done)] == [b"o-1"]
    scenario.restart()


async def test_what_it_decides_then_follows_in_time(scenario, behind):
    """No entry is dated before one that it has taken over."""
    scenario.clock.advance(50)
    await scenario.take(settled(scenario))
    caught_up = await behind.catch_up()

    assert caught_up.last_at == scenario.history(ORDER)[-1].at


async def test_of_one_that_is_not_behind_nothing_changes(scenario, behind):
    before = scenario.history(ORDER)
    caught_up = await behind.catch_up()

    assert (caught_up.version, caught_up.turns) == (len(before), 1)


@pytest.mark.parametrize("pays_too", [False, True])
async def test_it_knows_whether_others_may_have_left_something_unpublished(
    scenario, behind, pays_too
):
    await scenario.take(settled(scenario))
    await behind.catch_up()
    saga_ = await behind.catch_up()
    assert saga_.is_possibly_unpublished  # the intent to pay
    saga_.is_possibly_unpublished = False
    if pays_too:
        await scenario.take(scenario.reply(scenario.on(Pay)[-1], Paid(receipt="r")))
    await scenario.take(scenario.signal(ORDER, "again", payload=False, id="c-1"))
    saga_ = await behind.catch_up()

    assert not saga_.is_possibly_unpublished


async def test_one_in_its_next_run_is_loaded_whole(scenario, behind):
    await pays(scenario)
    await scenario.take(scenario.signal(ORDER, "again", payload=True, id="c-1"))
    assert await behind.catch_up() is None


async def test_one_that_parked_on_a_failure_that_its_function_knows_is_loaded_whole(
    make_scenario, make_order
):
    scenario = make_scenario(make_order(may_park=True), contracts=[Done])
    refused = IntentFailed(outcome="refused", code="no", message="no")
    await scenario.take(scenario.event(Placed(order_id="o-1"), "o-1"))
    await scenario.take(scenario.reply(scenario.on(Pay)[0], Paid(receipt="r")))
    first, second = scenario.on(Pay)[1:]
    await scenario.take(scenario.reply(first, refused))
    behind = Behind(scenario)
    await scenario.take(scenario.reply(second, Paid(receipt="r")))
    assert scenario.status(ORDER) == "parked"
    await scenario.take(scenario.command(ORDER, CommandAct.RETRY, id="c-1", reason="r", step="a"))

    assert await behind.catch_up() is None


async def test_one_that_decides_otherwise_is_loaded_whole_which_says_so(
    scenario, behind, make_order
):
    """Another worker has other code under the same version."""
    scenario.restart(make_order(pays="other"))
    await scenario.take(settled(scenario))

    assert await behind.catch_up() is None
    found = (await behind.cache.load([ORDER]))[ORDER]
    assert isinstance(found, UnloadableSaga)
    assert found.deferral == "replay_mismatch"


async def test_where_the_store_is_away_none_is_left_running(scenario, behind):
    taken = behind.cache.take([ORDER])

    async def away(_):
        raise StoreUnavailable("away")

    scenario.store.tails = away
    with pytest.raises(StoreUnavailable):
        await behind.cache.catch_up(taken, [ORDER])
    del scenario.store.tails

    assert taken[ORDER].state.program is None


@pytest.mark.parametrize("error", [StoreUnavailable("away"), asyncio.CancelledError()])
@pytest.mark.parametrize("question", ["tails", "load behind it"])
async def test_a_batch_that_cannot_be_loaded_leaves_none_running(
    scenario, behind, error, question, monkeypatch
):
    """Not those that were in memory either, whichever question to the store goes wrong."""
    other = saga_id("order", "o-2")
    await scenario.take(scenario.event(Placed(order_id="o-2"), "o-2"))
    contention = Contention(behind.cache)
    contention._wary_batches = 1  # noqa: SLF001  # as behind a conflict
    ours = behind.cache.get(ORDER)
    really_catch_up, loaded = behind.cache.catch_up, []

    async def fail(_):
        raise error

    async def catch_up(sagas, remembered):
        loaded.extend(sagas.values())
        await really_catch_up(sagas, remembered)
        sagas.pop(other).let_go()
        monkeypatch.setattr(scenario.store, "load", fail)

    if question == "tails":
        monkeypatch.setattr(scenario.store, "tails", fail)
    else:
        monkeypatch.setattr(behind.cache, "catch_up", catch_up)
    with pytest.raises(type(error)):
        await contention.load([ORDER, other])

    assert ours.state.program is None
    assert behind.cache.get(ORDER) is None
    assert question == "tails" or ours in loaded


async def test_a_turn_that_may_publish_nothing_publishes_nothing(scenario):
    await scenario.take(scenario.event(Placed(order_id="o-1"), "o-1"))
    await pays(scenario)
    await scenario.take(scenario.signal(ORDER, "again", payload=False, id="c-1"))
    history = scenario.history(ORDER)
    start, parent = start_of(History(turns(history)))
    published = [
        bool(
            scenario.relay.encoder.records(
                turn.entries, definition="order", key="o-1", traceparent=None, parent=parent
            )
        )
        for turn in turns(history)
    ]
    assert start.key == "o-1"
    assert [may_publish(turn, parent) for turn in turns(history)] == published
    assert published == [False, True, False, False, True]


@pytest.mark.parametrize("others_pay", [False, True])
async def test_behind_a_conflict_it_is_known_what_may_be_unpublished(scenario, behind, others_pay):
    """What this worker has published itself is not looked for again."""
    if others_pay:
        await scenario.take(settled(scenario))
    else:
        await scenario.take(scenario.signal(ORDER, "again", payload=False, id="c-1"))
    scenario.bus.append([scenario.signal(ORDER, "again", payload=True, id="c-2")])
    unit = await take(behind.turns, InboundBatch(scenario.unread()))

    assert unit.sagas[ORDER].version == len(scenario.history(ORDER))
    assert unit.sagas[ORDER].is_possibly_unpublished == others_pay
    scenario.restart()
