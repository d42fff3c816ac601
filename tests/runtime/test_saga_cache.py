"""Loaded sagas: a cache, and nothing but a cache."""

from saga.core.status import SagaStatus
from saga.runtime.saga_cache import LoadedSaga, SagaCache, UnloadableSaga, definition_of, summary_of
from tests.runtime.fixtures import Scenario, order_id
from tests.runtime.test_turns import placed, reserving, shipping
from tests.runtime.test_unhandled import flaw_at
from tests.runtime.toys import OrderDone, Reserve, Reserved, Ship, orders


async def test_the_least_recently_used_saga_leaves_first(scenario):
    """And its function ends where it stands."""
    await reserving(scenario, "a", "b", "c")
    found = await scenario.cache.load([order_id("a"), order_id("b"), order_id("c")])
    small = SagaCache(scenario.store, scenario.catalogue, scenario.app.registry, sagas_max=2)
    ids = [order_id(key) for key in "abc"]
    for saga in ids[:2]:
        small.keep(found[saga])
    await small.load(ids[:1])
    small.keep(found[ids[0]])
    small.keep(found[ids[2]])

    assert {saga.saga_id for saga in small} == {ids[0], ids[2]}
    assert found[ids[1]].state.program is None


async def test_whoever_works_with_a_saga_has_it_alone(scenario):
    """It leaves the memory until it is kept again; a saga that is not kept is forgotten."""
    await reserving(scenario)
    assert [saga.saga_id for saga in scenario.cache] == [order_id()]
    found = await scenario.cache.load([order_id()])

    assert len(scenario.cache) == 0
    again = await scenario.cache.load([order_id()])
    assert again[order_id()] is not found[order_id()]
    scenario.cache.keep(found[order_id()])
    assert (await scenario.cache.load([order_id()]))[order_id()] is found[order_id()]


async def test_all_that_are_missing_are_read_in_one_query(scenario):
    """A saga that does not exist is left out."""
    await reserving(scenario, "a", "b", "c")
    scenario.restart()
    queries: list[list[str]] = []
    load = scenario.store.inner.load

    async def counted(saga_ids):
        queries.append(list(saga_ids))
        return await load(saga_ids)

    scenario.store.load = counted
    ids = [order_id(key) for key in ("a", "b", "nobody", "c")]
    found = await scenario.cache.load(ids)

    assert queries == [ids]
    assert set(found) == {order_id(key) for key in "abc"}
    del scenario.store.load


async def test_a_saga_that_ended_is_not_kept(scenario):
    await shipping(scenario)
    assert len(scenario.cache) == 1
    await scenario.take(scenario.reply(scenario.on(Ship)[0]))

    assert len(scenario.cache) == 0
    assert len(scenario.on(OrderDone)) == 1


async def test_a_rebuilt_saga_knows_its_version_and_its_beginning(scenario):
    """The index row of a live saga is the same whether it was rebuilt or not."""
    await reserving(scenario)
    (kept,) = (await scenario.cache.load([order_id()])).values()
    scenario.restart()
    (rebuilt,) = (await scenario.cache.load([order_id()])).values()

    assert isinstance(kept, LoadedSaga)
    assert summary_of(kept) == summary_of(rebuilt)
    assert (rebuilt.version, rebuilt.started_at) == (2, scenario.history(order_id())[0].at)
    assert summary_of(rebuilt).waiting_for == "reply to reserve"


async def test_a_tiny_memory_changes_nothing_but_time(scenario):
    """With room for one saga, every turn of another is taken after a replay."""
    scenario.cache._sagas_max = 1  # noqa: SLF001
    keys = [f"o-{number}" for number in range(5)]
    await reserving(scenario, *keys)
    for intent in scenario.on(Reserve):
        await scenario.take(scenario.reply(intent, Reserved(shelf="s")))
    for intent in scenario.on(Ship):
        await scenario.take(scenario.reply(intent))

    assert {scenario.status(order_id(key)) for key in keys} == {"completed"}


async def test_what_cannot_be_brought_to_life_says_why(scenario):
    """With the status that people see, and a stable code."""
    await shipping(scenario)
    for sagas, code, status in (
        (orders(version=7), "stalled", SagaStatus.STALLED),
        (orders(note="other"), "replay_mismatch", SagaStatus.PARKED),
        (orders(flaw=flaw_at("reserved")), "replay_failed", SagaStatus.PARKED),
    ):
        scenario.restart(sagas)
        (found,) = (await scenario.cache.load([order_id()])).values()

        assert isinstance(found, UnloadableSaga)
        assert (found.deferral, found.status) == (code, status)
        assert found.reason
    scenario.restart(orders())


async def test_a_history_names_whose_it_is():
    """By its first fact; also when that is a failed turn."""
    scenario = Scenario(orders(version=3, flaw=flaw_at("start o-1")))
    await scenario.take(placed(scenario, "o-1"), placed(scenario, "o-2"))

    assert definition_of(scenario.history(order_id("o-1"))) == ("order", 3)
    assert definition_of(scenario.history(order_id("o-2"))) == ("order", 3)
