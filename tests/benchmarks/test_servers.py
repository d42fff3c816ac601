"""Measuring on servers: engine and floor on the same servers, each process with its CPU."""

from types import SimpleNamespace

import psycopg
import pytest

from benchmarks.driving import ENGINES, FLOORS
from benchmarks.kafka_floor import ROW_BYTES, Orchestrating, Serving
from benchmarks.order import IDLE_CONTRACTS, app, app_with
from benchmarks.weights import Weights
from saga.settings import Settings
from tests.benchmarks.conftest import call

DATABASES = "SELECT datname FROM pg_database WHERE datname LIKE 'bench\\_%' ORDER BY datname"


def databases(store):
    """Those that benchmarks have made."""
    with psycopg.connect(store) as connection:
        return connection.execute(DATABASES).fetchall()


@pytest.mark.slow
def test_engine_and_floor_take_turns_on_the_same_servers(kafka, postgres, tmp_path, monkeypatch):
    """With one orchestrator and with two; afterwards no database is left."""
    monkeypatch.chdir(tmp_path)
    words = ("--bus", kafka.url, "--store", postgres, "--quick", "--sagas", 1_000)
    before = databases(postgres)

    report = call(*words, "--vs", "HEAD", "--in-flight", "16", "--json").row

    (place,) = report["places"]
    assert (place["partitions"], place["contracts"]) == (4, 20)
    assert all(weight > 50 for weight in place["weights"].values())
    (level,) = place["levels"]
    assert (level["in_flight"], level["sagas"]) == (16, 100)
    assert set(level["measured"]) == {*ENGINES, "HEAD", *FLOORS}
    for figures in level["measured"].values():
        assert 0 < figures["p50_ms"]["median"] <= figures["p99_ms"]["median"]
        for part in ("orchestrator", "effects", "driver"):
            assert figures[f"cpu_us_{part}"]["median"] > 0
    for name in ENGINES:
        assert set(level["beside"][name]) == {"HEAD", *FLOORS}
    assert databases(postgres) == before


def test_the_heavy_floor_fills_up_what_it_writes():
    """Records to the byte, and what a turn and a reply leave."""
    settings = Settings.read({})
    weights = Weights(record=600, turn=700, index=200, inbox=300)
    trigger = SimpleNamespace(topic="t", partition=0, offset=1, key=b"order-10", value=b"{}")

    (turns, index, _), (intent,) = Orchestrating(settings, weights).handle([trigger])
    served = SimpleNamespace(key=intent[1], value=intent[2], headers=intent[3])
    (inbox,), (reply,) = Serving(settings, weights).handle([served])

    for _, key, value, headers in (intent, reply):
        size = sum(len(name) + len(content) for name, content in headers)
        assert len(key) + len(value) + size == weights.record
    assert len(turns[1][-1][0]) == weights.turn
    assert len(index[1][-2][0]) > 100
    assert len(inbox[1][0][0]) + len(inbox[1][1][0]) + ROW_BYTES == weights.inbox


def test_idle_sagas_make_up_the_number_of_contracts():
    """One more topic to read for each trigger and each reply."""
    assert app_with(20) is app
    assert 100 - IDLE_CONTRACTS < len(app_with(100).contracts.contracts) <= 100
    assert app_with(100).effects == app.effects


def test_a_kafka_without_a_store_is_refused():
    """Before anything is measured."""
    called = call("--bus", "kafka://127.0.0.1:1")

    assert called.code == 2
    assert "--store" in called.err


def test_servers_that_do_not_answer_end_it_with_a_sentence():
    """Nothing was made there."""
    words = ("--bus", "kafka://127.0.0.1:1", "--store", "postgresql://saga@127.0.0.1:1/x")

    called = call(*words)

    assert called.code == 1
    assert "no database can be made" in called.err
