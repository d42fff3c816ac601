"""`bench --loaded`: a store with a past, and what it costs."""

import asyncio
from collections import Counter

import psycopg
import pytest

from saga.audit.replaying import replay_all
from saga.console.bench.connected_loaded import EMPTY, LOADED
from saga.console.bench.filling import filling
from saga.console.bench.order import ANSWER, OrderCleared, app, question
from saga.core.identity import saga_id
from saga.settings import Settings
from saga.wiring import build_service, open_store
from tests.console.conftest import call

FINISHED, OPEN = 200, 20
SAMPLES = 2
ENTRIES = 8 * (FINISHED + 1) + 5 * (OPEN + 1)
TIMERS = (
    "SELECT count(*), count(DISTINCT timer_id) FROM timers AS t "
    "WHERE starts_with(timer_id, saga_id::text) AND EXISTS (SELECT FROM saga_index AS i "
    "WHERE i.saga_id = t.saga_id AND i.waiting_for = 'signal answer')"
)
CAUSES = (
    "SELECT count(DISTINCT convert_from(state, 'UTF8')::jsonb ->> 'cause') FROM stored_events "
    "WHERE originator_version = 1"
)


@pytest.fixture
def settings(kafka, postgres, namespace):
    """Those of a place of one's own."""
    own = {"bus": kafka.url, "store": postgres, "namespace": namespace}
    return own | {"env": "bench", "log": "error"}


async def replayed(settings):
    """Every history of the store, folded again, and the saga ids in order of their start."""
    parts = open_store(Settings.read({}, **settings))
    try:
        return [one async for one in replay_all(parts.store, parts.catalogue, app.registry)]
    finally:
        await parts.close()


async def answered(settings, key):
    """The outcome of the open saga *key*, once somebody has given it the word that it waits for."""
    own = Settings.read({}, **settings)
    async with build_service(app, own, roles=("orchestrator", "effects")) as service:
        saga = saga_id(question.name, key)
        await service.signal(saga, ANSWER, "yes")
        return await service.outcome(saga, timeout=10)


def test_a_filled_store_is_one_that_the_engine_goes_on_with(settings):
    """Every history replays, ids follow from keys, no two sagas share a trigger or a timer, and an
    open one takes the word that it waits for.
    """
    measured = filling(settings, FINISHED, OPEN)

    assert (measured["sagas"], measured["entries"]) == (FINISHED + OPEN, ENTRIES - 8 - 5)
    found = asyncio.run(replayed(settings))
    assert [one for one in found if not one.is_ok] == []
    assert sum(one.entries for one in found) == ENTRIES
    for one in found:
        assert one.summary.saga_id == saga_id(one.summary.definition, one.summary.key)
        assert one.summary.version == one.entries
    assert Counter(one.summary.status.value for one in found) == {
        "completed": FINISHED + 1,
        "running": OPEN + 1,
    }
    with psycopg.connect(settings["store"]) as connection:
        assert connection.execute(TIMERS).fetchone() == (OPEN + 1, OPEN + 1)
        assert connection.execute(CAUSES).fetchone() == (FINISHED + OPEN + SAMPLES,)
    key = next(one.summary.key for one in found if one.summary.key.startswith("open-"))
    ended = asyncio.run(answered(settings, key))
    assert ended.event == OrderCleared(order_id=key, answer="yes")


@pytest.mark.slow
def test_loaded_and_empty_take_turns(kafka, postgres):
    """On the same servers, with their ratio and what there was."""
    words = ("bench", "--bus", kafka.url, "--store", postgres, "--loaded", "--quick")
    sizes = ("--finished", FINISHED, "--open", OPEN, "--sagas", 1_000, "--in-flight", "16")

    found = call(*words, *sizes, "--json").row

    past = found["past"]
    assert (past["finished"], past["open"], past["sagas"]) == (FINISHED, OPEN, FINISHED + OPEN)
    (level,) = found["levels"]
    assert level["ratio"] == pytest.approx(
        level[LOADED]["sagas_per_s"] / level[EMPTY]["sagas_per_s"]
    )


def test_a_past_without_servers_is_refused():
    """It is the servers' store that is filled."""
    called = call("bench", "--loaded")

    assert called.code == 2
    assert "--loaded needs servers" in called.err
