"""`--loaded`: a store with a past, and what it costs."""

import asyncio
from collections import Counter

import psycopg
import pytest

from benchmarks.order import ANSWER, OrderCleared, app, question
from benchmarks.past import fill
from benchmarks.servers import EMPTY, LOADED
from saga.adapters.opening import open_store
from saga.audit.replaying import replay_all
from saga.core.identity import saga_id
from saga.settings import Settings
from saga.wiring import build_service
from tests.benchmarks.conftest import call
from tests.patience import HANG_S

FINISHED, OPEN = 200, 20
SAMPLES = 2
ENTRIES = 8 * (FINISHED + 1) + 5 * (OPEN + 1)
TIMERS = (
    "SELECT count(*), count(DISTINCT (originator_id, name)) FROM timers AS t "
    "WHERE EXISTS (SELECT FROM saga_index AS i "
    "WHERE i.originator_id = t.originator_id AND i.waiting_for = 'signal answer')"
)
CAUSES = (
    "SELECT count(DISTINCT convert_from(state, 'UTF8')::jsonb ->> 'cause') FROM stored_events "
    "WHERE originator_version = 1"
)


@pytest.fixture
def settings(kafka, postgres, namespace):
    """A namespace of its own."""
    own = {"bus": kafka.url, "store": postgres, "namespace": namespace}
    return own | {"env": "bench", "log": "error"}


async def replayed(settings):
    """Every history of the store, folded again, and the saga ids in order of their start."""
    parts = open_store(Settings.read({}, **settings))
    try:
        return [result async for result in replay_all(parts.store, parts.catalogue, app.registry)]
    finally:
        await parts.close()


async def answered(settings, key):
    """The outcome of the open saga *key*, once it has been answered."""
    own = Settings.read({}, **settings)
    async with build_service(app, own, roles=("orchestrator", "effects")) as service:
        saga = saga_id(question.name, key)
        await service.signal(saga, ANSWER, "yes")
        return await service.outcome(saga, timeout=HANG_S)


def test_a_filled_store_is_one_that_the_engine_goes_on_with(settings):
    """Histories replay, ids follow from keys, each has its own trigger; an open one goes on."""
    measured = fill(settings, FINISHED, OPEN)

    assert (measured["sagas"], measured["entries"]) == (FINISHED + OPEN, ENTRIES - 8 - 5)
    results = asyncio.run(replayed(settings))
    assert [result for result in results if not result.is_ok] == []
    assert sum(result.entries for result in results) == ENTRIES
    for result in results:
        summary = result.summary
        assert summary.saga_id == saga_id(summary.definition, summary.key)
        assert summary.version == result.entries
    assert Counter(result.summary.status.value for result in results) == {
        "completed": FINISHED + 1,
        "running": OPEN + 1,
    }
    with psycopg.connect(settings["store"]) as connection:
        assert connection.execute(TIMERS).fetchone() == (OPEN + 1, OPEN + 1)
        assert connection.execute(CAUSES).fetchone() == (FINISHED + OPEN + SAMPLES,)
    keys = (result.summary.key for result in results)
    key = next(key for key in keys if key.startswith("open-"))
    ended = asyncio.run(answered(settings, key))
    assert ended.event == OrderCleared(order_id=key, answer="yes")


@pytest.mark.slow
def test_loaded_and_empty_take_turns(kafka, postgres):
    """On the same servers, with their ratio and what there was."""
    words = ("--bus", kafka.url, "--store", postgres, "--loaded", "--quick")
    sizes = ("--finished", FINISHED, "--open", OPEN, "--sagas", 1_000, "--in-flight", "16")

    report = call(*words, *sizes, "--json").row

    past = report["past"]
    assert (past["finished"], past["open"], past["sagas"]) == (FINISHED, OPEN, FINISHED + OPEN)
    (level,) = report["levels"]
    rates = {name: of["sagas_per_s"]["median"] for name, of in level["measured"].items()}
    ratio = level["beside"][LOADED][EMPTY]["sagas_per_s"]["median"]
    assert ratio == pytest.approx(rates[LOADED] / rates[EMPTY])


@pytest.mark.parametrize("option", ["--loaded", "--mixed", "--events"])
def test_what_needs_servers_is_refused_without(option):
    """It is the servers' store that is filled."""
    called = call(option)

    assert called.code == 2
    assert f"{option}: needs servers" in called.err
