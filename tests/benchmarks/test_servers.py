"""Measuring on servers: engine and floor on the same servers, each process with its CPU."""

import psycopg
import pytest

from benchmarks.driving import RIVALS
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

    report = call(*words, "--in-flight", "16", "--json").row

    (level,) = report["levels"]
    assert (level["in_flight"], level["sagas"]) == (16, 100)
    for name in RIVALS:
        measured = level[name]
        assert 0 < measured["p50_ms"] <= measured["p99_ms"]
        assert all(measured[f"cpu_us_{part}"] > 0 for part in ("orchestrator", "effects", "driver"))
        assert measured["ratio"] == pytest.approx(
            measured["sagas_per_s"] / level["floor"]["sagas_per_s"]
        )
    assert databases(postgres) == before


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
