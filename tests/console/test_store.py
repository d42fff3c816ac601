"""`saga store`: making tables, and saying how they are; and a service with its store in
PostgreSQL.
"""

from pathlib import Path

import pytest

from tests.console.conftest import call
from tests.console.shop import ORDER


@pytest.fixture
def shop_on_postgres(shop: Path, postgres: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shop, with its bus in a file and everything else in an empty database."""
    monkeypatch.setenv("SAGA_STORE", postgres)
    return shop


def test_tables_are_made_once_and_looked_at(postgres: str) -> None:
    """The status says what to type, and ends with 1 until it was typed."""
    before = call("store", "status", "--store", postgres)
    assert before.code == 1
    assert "run `saga store migrate`" in before.out

    made = call("store", "migrate", "--store", postgres, "--json")
    again = call("store", "migrate", "--store", postgres, "--json")
    after = call("store", "status", "--store", postgres, "--json")

    assert (made.code, again.code, after.code) == (0, 0, 0)
    for found, key, version in ((made, "before", 0), (again, "before", 1), (after, "version", 1)):
        assert found.rows == [
            {"component": "event store", key: version, "needed": 1},
            {"component": "effects store", key: version, "needed": 1},
        ]


def test_an_effects_store_is_migrated_where_it_is(
    postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store may be a file, and effects in a database."""
    monkeypatch.setenv("SAGA_EFFECTS_STORE", postgres)

    made = call("store", "migrate", "--store", f"sqlite:///{tmp_path}/saga.db", "--json")

    assert made.rows == [{"component": "effects store", "before": 0, "needed": 1}]


def test_a_file_needs_no_migration(tmp_path: Path) -> None:
    """Whoever opens it does that; saying so is not doing something else in silence."""
    said = call("store", "migrate", "--store", f"sqlite:///{tmp_path}/saga.db")

    assert said.code == 2
    assert "brought up to date by whoever opens it" in said.err
    assert not list(tmp_path.iterdir())


def test_a_store_that_cannot_be_reached_is_said_without_its_password() -> None:
    """Which database, and what to do."""
    said = call("ls", "--store", "postgresql://shop:hunter2@127.0.0.1:1/shop")

    assert said.code == 3
    assert "postgresql://shop@127.0.0.1:1/shop: it cannot be reached" in said.err
    assert "hunter2" not in said.err + said.out
    wrong = call("ls", "--store", "postgresql://shop:hunter2@127.0.0.1:1/shop?nonsense=1")
    assert wrong.code == 2
    assert "hunter2" not in wrong.err + wrong.out


@pytest.mark.usefixtures("shop_on_postgres")
def test_a_whole_service_runs_on_an_empty_database() -> None:
    """Bus in a file, store in PostgreSQL: what the relay publishes makes the sagas end."""
    assert call("ls").code == 3, "a question makes no tables"
    lines = "".join(f'{{"order_id": "o-{number}", "amount": 1}}\n' for number in range(3))
    assert call("publish", ORDER, "-", stdin=lines).code == 0
    ran = call("run", "--until-idle", "--json")

    assert ran.code == 0, ran.err
    assert ran.row["completed"] == 3
    assert {row["status"] for row in call("ls", "--json").rows} == {"completed"}
    assert call("replay", "--json").code == 0
