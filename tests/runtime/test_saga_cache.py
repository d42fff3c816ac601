"""Loaded sagas: a cache, and nothing but a cache."""

from saga.core.status import SagaStatus
from saga.runtime.saga_cache import LoadedSaga, SagaCache, UnloadableSaga, definition_of, summary_of
from tests.runtime.lab import Lab, order_id
from tests.runtime.shop import OrderDone, Reserve, Reserved, Ship, orders
from tests.runtime.test_turns import placed, reserving, shipping
from tests.runtime.test_unhandled import flaw_at


async def test_the_least_recently_used_saga_leaves_first(order_lab: Lab) -> None:
    """And its function ends where it stands."""
    lab = order_lab
    await reserving(lab, "a", "b", "c")
    found = await lab.cache.load([order_id("a"), order_id("b"), order_id("c")])
    small = SagaCache(lab.store, lab.catalogue, lab.app.registry, sagas_max=2)
    ids = [order_id(key) for key in "abc"]
    for saga in ids[:2]:
        small.keep(found[saga])
    await small.load(ids[:1])
    small.keep(found[ids[0]])
    small.keep(found[ids[2]])

    assert small.among(ids) == {ids[0], ids[2]}
    assert found[ids[1]].state.program._context._is_over  # noqa: SLF001


async def test_whoever_works_with_a_saga_has_it_alone(order_lab: Lab) -> None:
    """It leaves the memory until it is kept again; what is not kept is forgotten."""
    lab = order_lab
    await reserving(lab)
    assert lab.cache.among([order_id()]) == {order_id()}
    found = await lab.cache.load([order_id()])

    assert len(lab.cache) == 0
    again = await lab.cache.load([order_id()])
    assert again[order_id()] is not found[order_id()]
    lab.cache.keep(found[order_id()])
    assert (await lab.cache.load([order_id()]))[order_id()] is found[order_id()]


async def test_all_that_are_missing_are_read_in_one_query(order_lab: Lab) -> None:
    """A saga that does not exist is left out."""
    lab = order_lab
    await reserving(lab, "a", "b", "c")
    lab.restart()
    queries: list[list[str]] = []
    load = lab.store.inner.load

    async def counted(saga_ids):
        queries.append(list(saga_ids))
        return await load(saga_ids)

    lab.store.load = counted
    ids = [order_id(key) for key in ("a", "b", "nobody", "c")]
    found = await lab.cache.load(ids)

    assert queries == [ids]
    assert set(found) == {order_id(key) for key in "abc"}
    del lab.store.load


async def test_a_saga_that_ended_is_not_kept(order_lab: Lab) -> None:
    """What it would take is memory for ever."""
    lab = order_lab
    await shipping(lab)
    assert len(lab.cache) == 1
    await lab.take(lab.reply(lab.on(Ship)[0]))

    assert len(lab.cache) == 0
    assert len(lab.on(OrderDone)) == 1


async def test_a_rebuilt_saga_knows_its_version_and_its_beginning(order_lab: Lab) -> None:
    """The index row of a live saga is the same whether it was rebuilt or not."""
    lab = order_lab
    await reserving(lab)
    (kept,) = (await lab.cache.load([order_id()])).values()
    lab.restart()
    (rebuilt,) = (await lab.cache.load([order_id()])).values()

    assert isinstance(kept, LoadedSaga)
    assert summary_of(kept, lab.clock.now()) == summary_of(rebuilt, lab.clock.now())
    assert (rebuilt.version, rebuilt.started_at) == (2, lab.history(order_id())[0].at)
    assert summary_of(rebuilt, lab.clock.now()).waiting_for == "reply to reserve"


async def test_a_tiny_memory_changes_nothing_but_time(order_lab: Lab) -> None:
    """With room for one saga, every turn of another is taken after a replay."""
    lab = order_lab
    lab.cache._sagas_max = 1  # noqa: SLF001
    keys = [f"o-{number}" for number in range(5)]
    await reserving(lab, *keys)
    for intent in lab.on(Reserve):
        await lab.take(lab.reply(intent, Reserved(shelf="s")))
    for intent in lab.on(Ship):
        await lab.take(lab.reply(intent))

    assert {lab.status(order_id(key)) for key in keys} == {"completed"}


async def test_what_cannot_be_brought_to_life_says_why(order_lab: Lab) -> None:
    """With the status that people see, and a stable code."""
    lab = order_lab
    await shipping(lab)
    for sagas, code, status in (
        (orders(version=7), "stalled", SagaStatus.STALLED),
        (orders(note="other"), "replay_mismatch", SagaStatus.PARKED),
        (orders(flaw=flaw_at("reserved")), "replay_failed", SagaStatus.PARKED),
    ):
        lab.restart(sagas)
        (found,) = (await lab.cache.load([order_id()])).values()

        assert isinstance(found, UnloadableSaga)
        assert (found.deferral, found.status) == (code, status)
        assert found.reason
    lab.restart(orders())


async def test_a_history_names_whose_it_is() -> None:
    """By its first fact; also when that is a failed turn."""
    lab = Lab(orders(version=3, flaw=flaw_at("start o-1")))
    await lab.take(placed(lab, "o-1"), placed(lab, "o-2"))

    assert definition_of(lab.history(order_id("o-1"))) == ("order", 3)
    assert definition_of(lab.history(order_id("o-2"))) == ("order", 3)
