"""Measuring on files: engine and floor measured in turns, and the orders that it measures with."""

import sqlite3

import pytest

from benchmarks import embedded
from tests.benchmarks.conftest import call

SECTIONS = {"machine", "python", "runs", "levels", "replay", "open"}


class TestCommand:
    def test_engine_and_floor_are_measured_in_the_same_run(self, tmp_path):
        """With their ratio, latencies and CPU; nothing is left behind."""
        words = ("--quick", "--sagas", 400, "--in-flight", "8", "--in", tmp_path, "--json")
        report = call(*words).row

        assert set(report) == SECTIONS
        (level,) = report["levels"]
        assert level["in_flight"] == 8
        assert level["saga"]["ratio"] == pytest.approx(
            level["saga"]["sagas_per_s"] / level["floor"]["sagas_per_s"]
        )
        for measured in (level["saga"], level["floor"]):
            assert 0 < measured["p50_ms"] <= measured["p99_ms"]
            assert measured["cpu_us_per_saga"] > 0
        assert report["replay"]["entries"] >= 8 * 80
        assert report["open"]["sagas"] == 10_000
        assert report["open"]["resident_mb"] < 500
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("text", ["0", "many", "1,,2", "-1"])
    def test_a_wrong_number_in_flight_is_refused(self, text):
        """Before anything is measured."""
        called = call(f"--in-flight={text}")

        assert called.code == 2
        assert "--in-flight" in called.err

    def test_a_folder_that_is_not_there_is_named(self, tmp_path):
        """With what is the matter."""
        called = call("--quick", "--in", tmp_path / "gone")

        assert called.code == 2
        assert "gone: No such file or directory" in called.err


def test_the_floor_writes_as_many_rows_as_the_engine(tmp_path):
    """Turns, records and inbox rows."""
    floor, engine = tmp_path / "floor", tmp_path / "engine"
    floor.mkdir()
    embedded.floor(str(floor), 100, 16)
    embedded.engine(str(engine), 100, 16)

    def rows(path, table, counted="count(*)"):
        with sqlite3.connect(path) as connection:
            return connection.execute(f"SELECT {counted} FROM {table}").fetchone()[0]

    records = rows(engine / "saga.db", "bus_batches", "sum(records)")
    assert rows(engine / "saga.db", "stored_events") == rows(floor / "floor.db", "events")
    assert records == rows(floor / "floor.db", "records")
    assert rows(engine / "effects.db", "saga_inbox") == rows(floor / "floor-effects.db", "inbox")
