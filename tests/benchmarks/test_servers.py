"""Measuring on servers: engine and floor on the same servers, each process with its CPU."""

import psycopg
import pytest

from benchmarks.driving import ENGINES, FLOORS
from benchmarks.order import app, app_with
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


def test_idle_sagas_make_up_the_number_of_contracts():
    """One more topic to read for each trigger and each reply."""
    assert app_with(20) is app
    assert len(app_with(100).contracts.contracts) == 100
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
