"""The sweep: every crash point, every kind of message, both stores.

The fast tests run two kinds of messages at each point with SQLite, and one with PostgreSQL;
`make test-long` runs the rest.
"""

import re
from pathlib import Path

import pytest

from tests.simulation.crash_points.kinds import KINDS, Kind
from tests.simulation.crash_points.stage import Stage
from tests.simulation.crash_points.stores import PostgresPlace, SqlitePlace
from tests.simulation.crash_points.table import ABSENT, CRASH_POINTS, CrashPoint

pytestmark = pytest.mark.usefixtures("quiet")
QUICK = {"sqlite": {"reply done", "cancel", "trigger"}, "postgres": {"reply done"}}
CASES = [(point, kind) for point in CRASH_POINTS for kind in KINDS if point.concerns(kind)]


def _named(point: CrashPoint, kind: Kind, *marks: pytest.MarkDecorator):
    return pytest.param(point, kind, id=f"{point.name}, {kind.name}", marks=marks)


def _cases(store: str):
    return [
        _named(*case, *([] if _is_quick(*case, store) else [pytest.mark.long])) for case in CASES
    ]


def _is_quick(point: CrashPoint, kind: Kind, store: str) -> bool:
    """Points that concern none of the quick kinds concern few others."""
    concerned = {each.name for each in KINDS if point.concerns(each)}
    return kind.name in (QUICK[store] & concerned or concerned)


@pytest.mark.parametrize(("point", "kind"), _cases("sqlite"))
def test_sqlite_survives(point: CrashPoint, kind: Kind, folder: Path) -> None:
    """Everything a world's checker knows holds after the crash; and the crash has happened."""
    check(point, kind, SqlitePlace(folder))


@pytest.mark.parametrize(("point", "kind"), _cases("postgres"))
def test_postgres_survives(point: CrashPoint, kind: Kind, crashed_postgres: str) -> None:
    """The same with two orchestrators on one database, so that another one may take over."""
    check(point, kind, PostgresPlace(crashed_postgres))


@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_each_kind_is_what_it_says_it_is(kind: Kind, folder: Path) -> None:
    """Without a crash: the turn publishes so many records and keeps so many dead letters."""
    outcome = Stage(SqlitePlace(folder), kind.script(), ()).run()

    assert outcome.violations == []
    assert (outcome.published, outcome.dead_letters) == (kind.publishes, kind.dead_letters)
    assert dict(outcome.statuses) == {kind.ends: 1}


def test_every_crash_point_is_in_the_table_or_has_a_reason() -> None:
    """CP-1 to CP-20, each exactly in one of both places, and each with some kind of message."""
    named = {found[0] for point in CRASH_POINTS if (found := re.match(r"CP-\d+", point.name))}

    assert named | ABSENT.keys() == {f"CP-{number}" for number in range(1, 21)}
    assert not named & ABSENT.keys()
    assert {point.name for point, _ in CASES} == {point.name for point in CRASH_POINTS}


def check(point: CrashPoint, kind: Kind, place) -> None:
    """Run one case."""
    outcome = Stage(place, kind.script(), point.strikes).run()

    assert outcome.violations == []
    assert outcome.is_as_planned, outcome.happened
    assert dict(outcome.statuses) == {kind.ends: 1}
