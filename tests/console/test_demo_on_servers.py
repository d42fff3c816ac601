"""`demo --bus --store`: several processes on servers, all kinds of which are killed on the way."""

import pytest

from saga.console.demo_report import shown_address
from saga.console.demo_stage import ENSEMBLE
from saga.console.demo_worker import Worker, Workers
from saga.settings import Settings
from tests.console.conftest import call
from tests.console.test_demo import finish, shown
from tests.console.test_serving import start

__all__ = ["shown"]

STORE = "postgresql://saga@127.0.0.1:1/saga"


@pytest.mark.slow
def test_all_kinds_of_processes_are_killed_and_the_books_balance(shown, kafka, postgres, namespace):
    """Each order ends once, and a second run finds that all have."""
    words = ("demo", "--app", "store:app", "--limit", "90", "--json", "--namespace", namespace)
    words += ("--bus", kafka.url, "--store", postgres)

    row, err, code = finish(start(shown, *words, "--kill", "2"))

    assert code == 0, err
    assert (row["sagas"], row["parked"], row["kills"]) == (90, 0, 2)
    assert row["books"]["balanced"] is True
    assert row["books"]["lines"] == [{"name": "orders paid", "services": 81, "histories": 81}]

    again, err, code = finish(start(shown, *words))

    assert code == 0
    assert "ended already" in err
    assert again | {"kills": 2} == row


@pytest.mark.parametrize(
    "words",
    [
        ("--bus", "kafka://127.0.0.1:1"),
        ("--bus", "kafka://127.0.0.1:1", "--store", "folder"),
        ("--bus", "local:///bus.db", "--store", STORE),
        ("--store", STORE),
        ("--effects-store", STORE),
        ("--bus", "kafka://127.0.0.1:1", "--store", STORE, "--fresh"),
    ],
    ids=" ".join,
)
def test_addresses_that_do_not_go_together_are_refused(words):
    """As is forgetting what is on servers, where more may be than ours."""
    called = call("demo", *words)

    assert called.code == 2
    assert "--" in called.err


def test_a_password_is_not_shown():
    """Only where it is; an address without one is shown as it is."""
    assert shown_address("postgresql://saga:geheim@host/db") == "postgresql://saga:***@host/db"
    assert shown_address(STORE) == STORE


async def test_one_process_of_each_kind_is_killed_before_a_kind_comes_again(tmp_path):
    """However often that is."""
    killed: list[tuple[str, ...]] = []

    class Mortal(Worker):
        async def kill(self) -> None:
            killed.append(self.roles)

    workers = Workers(
        [
            Mortal(Settings.read({}), roles=part.roles, log_file=tmp_path / part.name)
            for part in ENSEMBLE
        ]
    )

    for _ in range(6):
        await workers.kill()

    assert workers.kills == 6
    for first in (0, 2, 4):
        assert set(killed[first : first + 2]) == {("orchestrator",), ("effects",)}
