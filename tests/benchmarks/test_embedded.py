"""Measuring on files: engine and floor measured in turns, and the orders that it measures with."""

import sqlite3
from contextlib import closing
from dataclasses import asdict

import pytest

from benchmarks import product
from benchmarks.child import MEASUREMENTS, named
from benchmarks.embedded import WITHOUT_ENGINE, without_engine
from benchmarks.revisions import commit_of
from benchmarks.weights import LIGHT, weigh
from benchmarks.writing import writing
from saga.console.cli.output import NotSo
from tests.benchmarks.conftest import call

CIRCUMSTANCES = {"machine", "load", "python", "commit", "beside_commit", "runs"}
SMALL = ("--quick", "--sagas", 400, "--in-flight", "8")


class TestCommand:
    @pytest.mark.long
    def test_all_rivals_are_measured_in_the_same_run(self, tmp_path):
        """With their ratios, latencies and CPU, beside an older commit too; nothing is left."""
        report = call(*SMALL, "--vs", "HEAD", "--in", tmp_path, "--json").row

        assert set(report) == CIRCUMSTANCES | {"levels", "replay", "open", "ways"}
        assert (report["runs"], report["beside_commit"]) == (1, commit_of("HEAD"))
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
        assert set(level["counts"]) == set(measured)
        instructions = {name: counts["instructions"] for name, counts in level["counts"].items()}
        assert 1_000 < instructions["floor"] < instructions["program, one file"]
        assert instructions["program, one file"] < instructions["saga"] / 2
        assert sum(level["shares"].values()) == pytest.approx(1)
        assert "saga/adapters/sqlite" in level["shares"]
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

    def test_a_folder_that_is_not_there_isnamed(self, tmp_path):
        """With what is the matter."""
        called = call("--quick", "--in", tmp_path / "gone")

        assert called.code == 2
        assert "gone: No such file or directory" in called.err


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """Files of 200 orders, 16 at a time."""
    folder = tmp_path_factory.mktemp("engine")
    product.engine(str(folder), 100, 16)
    return folder


class TestWithoutEngine:
    """What is measured beside the engine writes what the engine writes."""

    @pytest.mark.parametrize("name", WITHOUT_ENGINE)
    def test_as_many_rows(self, name, engine, tmp_path):
        """Turns, records, inbox rows and sagas."""
        measure(name, LIGHT, tmp_path, 100, 16)

        assert rows(tmp_path, "events") == rows(engine, "stored_events")
        assert rows(tmp_path, "records") == rows(engine, "bus_batches", "sum(records)")
        assert rows(tmp_path, "inbox") == rows(engine, "saga_inbox")
        assert rows(tmp_path, "sagas") == rows(engine, "saga_index") == 200

    @pytest.mark.parametrize("name", WITHOUT_ENGINE[1:])
    def test_rows_as_large(self, name, engine, tmp_path):
        """Within a few bytes, since content is of different length."""
        weights = weigh(engine)
        measure(name, weights, tmp_path, 100, 16)

        for table, weight in {
            "events": weights.turn,
            "records": weights.record,
            "inbox": weights.inbox,
            "sagas": weights.index,
        }.items():
            assert size_of_a_row(tmp_path, table) == pytest.approx(weight, rel=0.05), table

    @pytest.mark.parametrize(
        ("name", "commits"), list(zip(WITHOUT_ENGINE, (11.6, 11.6, 7.4, 4.2), strict=True))
    )
    def test_commits_of_one_at_a_time(self, name, commits, tmp_path):
        """Four turns a saga and three effects; every tenth has two more of both."""
        child, _ = without_engine(LIGHT)[name]
        weights = asdict(LIGHT)

        written = writing(named(MEASUREMENTS[child]), str(tmp_path), 30, 1, weights)

        assert written["commits"] == pytest.approx(commits)

    def test_tables_that_are_not_the_engines_arenamed(self, tmp_path):
        """Whoever renames one is told that rows are weighed here."""
        sqlite3.connect(tmp_path / "saga.db").close()

        with pytest.raises(NotSo, match="record"):
            weigh(tmp_path)


def measure(name, weights, folder, sagas, in_flight):
    child, own = without_engine(weights)[name]
    named(MEASUREMENTS[child])(str(folder), sagas, in_flight, asdict(own))


def rows(folder, table, counted="count(*)"):
    """In whichever of the files they are."""
    return sum(found(folder, f"SELECT {counted} FROM {table}", table))


def size_of_a_row(folder, table):
    """Bytes, on average."""
    connection = sqlite3.connect(next(folder.glob("*.db")))
    columns = [each[1] for each in connection.execute(f"PRAGMA table_info({table})")]
    connection.close()
    size = " + ".join(f"length(CAST({each} AS BLOB))" for each in columns)
    return sum(found(folder, f"SELECT sum({size}) FROM {table}", table)) / rows(folder, table)


def found(folder, query, table):
    for path in folder.glob("*.db"):
        with closing(sqlite3.connect(path)) as connection:
            if connection.execute(f"PRAGMA table_info({table})").fetchall():
                yield connection.execute(query).fetchone()[0] or 0
