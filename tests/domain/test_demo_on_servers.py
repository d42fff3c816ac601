"""The demo on servers: several processes on servers, all kinds of which are killed on the way."""

import pytest

from domain.demo.command import ON_SERVERS
from domain.demo.workers import Worker, Workers
from saga.settings import Settings
from tests.domain.test_demo import demo, finish, folder, start

__all__ = ["folder"]

STORE = "postgresql://saga@127.0.0.1:1/saga"


@pytest.mark.slow
def test_all_kinds_of_processes_are_killed_and_the_books_balance(
    folder, kafka, postgres, namespace
):
    words = ("--limit", "90", "--json", "--namespace", namespace)
    words += ("--bus", kafka.url, "--store", postgres)

    row, err, code = finish(start(folder, *words, "--kill", "2"))

    assert code == 0, err
    assert (row["sagas"], row["parked"], row["kills"]) == (90, 0, 2)
    assert row["books"]["balanced"] is True
    completed = next(line["sagas"] for line in row["outcomes"] if line["status"] == "completed")
    assert row["books"]["lines"][2] == {
        "name": "slots booked",
        "services": completed,
        "histories": completed,
    }

    again, err, code = finish(start(folder, *words))

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
def test_addresses_that_do_not_go_together_are_refused(folder, words):
    """As is forgetting what is on servers, where more may be than ours."""
    demo(*words).fails(2, "--")


async def test_one_process_of_each_kind_is_killed_before_a_kind_comes_again(tmp_path):
    """However often that is."""
    killed: list[tuple[str, ...]] = []

    class Mortal(Worker):
        async def kill(self) -> None:
            killed.append(self.roles)

    workers = Workers(
        [
            Mortal(Settings.read({}), roles=spec.roles, log_file=tmp_path / spec.name)
            for spec in ON_SERVERS
        ]
    )

    for _ in range(6):
        await workers.kill()

    assert workers.kills == 6
    for first in (0, 2, 4):
        assert set(killed[first : first + 2]) == {("orchestrator",), ("effects",)}
