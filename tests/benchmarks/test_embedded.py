"""Measuring on files: engine and floor measured in turns, and the orders that it measures with."""

import sqlite3

import pytest

from benchmarks import embedded, product
from benchmarks.embedded import WITHOUT_ENGINE
from tests.benchmarks.conftest import call

CIRCUMSTANCES = {"machine", "load", "python", "commit", "beside_commit", "runs"}
SMALL = ("--quick", "--sagas", 400, "--in-flight", "8")


class TestCommand:
    def test_all_rivals_are_measured_in_the_same_run(self, tmp_path):
        """With their ratios, latencies and CPU, beside an older commit too; nothing is left."""
        report = call(*SMALL, "--vs", "HEAD", "--in", tmp_path, "--json").row

        assert set(report) == CIRCUMSTANCES | {"levels", "replay", "open"}
        assert (report["runs"], report["beside_commit"]) == (1, "HEAD")
        (level,) = report["levels"]
        assert (level["in_flight"], level["sagas"]) == (8, 40)
        measured, beside = level["measured"], level["beside"]["saga"]
        assert {"saga", "HEAD", *WITHOUT_ENGINE} == set(measured) == {"saga", *beside}
        for name, figures in measured.items():
            assert 0 < figures["p50_ms"]["median"] <= figures["p99_ms"]["median"], name
            assert figures["cpu_us_per_saga"]["median"] > 0
        ratio = (
            measured["saga"]["sagas_per_s"]["median"] / measured["floor"]["sagas_per_s"]["median"]
        )
        assert beside["floor"]["sagas_per_s"]["median"] == pytest.approx(ratio)
        assert report["replay"]["measured"]["HEAD"]["entries"]["median"] >= 8 * 80
        assert report["open"]["sagas"] == 10_000
        assert report["open"]["resident_mb"] < 500
        assert not list(tmp_path.iterdir())

    def test_a_commit_that_is_not_there_is_refused(self):
        """Before anything is measured."""
        called = call("--vs", "no-such-commit")

        assert called.code == 2
        assert "no-such-commit" in called.err

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
    product.engine(str(engine), 100, 16)

    def rows(path, table, counted="count(*)"):
        with sqlite3.connect(path) as connection:
            return connection.execute(f"SELECT {counted} FROM {table}").fetchone()[0]

    records = rows(engine / "saga.db", "bus_batches", "sum(records)")
    assert rows(engine / "saga.db", "stored_events") == rows(floor / "floor.db", "events")
    assert records == rows(floor / "floor.db", "records")
    assert rows(engine / "saga-effects.db", "saga_inbox") == rows(
        floor / "floor-effects.db", "inbox"
    )
