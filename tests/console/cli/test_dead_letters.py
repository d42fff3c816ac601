"""`dlq` and `timers`: what was set aside is listed, shown, and published again byte for byte."""

import asyncio

import pytest

from saga.adapters.opening import open_bus_and_store
from saga.adapters.sqlite.store import SqliteCatalogue
from saga.ports import Record
from saga.settings import Settings
from tests.console.conftest import call
from tests.console.toys import ORDER, TOYS

TOPIC = f"dev.saga.{ORDER}"
HEADERS = (("ce_id", b"m-1"), ("x-mine", b"\xff"), ("x-hop", b"a"), ("x-hop", None))
VALUE = b'{"order_id": "z"}'


@pytest.fixture
def dead_letter(waiting, tmp_path):
    """A record that lacks a field, as a publisher in another language may send it."""

    async def send() -> None:
        parts = open_bus_and_store(Settings.read({}))
        await parts.bus.publish([Record(TOPIC, b"z", VALUE, HEADERS)])
        await parts.close()

    asyncio.run(send())
    assert call("run", "--until-idle").code == 0
    return tmp_path


def test_a_dead_record_is_listed_and_shown(dead_letter):
    row = call("dlq", "ls", "--json").row

    assert row["reason"] == "schema"
    assert "amount: is missing" in row["message"]
    assert (row["topic"], row["key"], row["message_id"]) == (TOPIC, "z", "m-1")
    shown = call("dlq", "show", row["id"], "--json").row
    assert shown["value"] == VALUE.decode()
    assert shown["headers"] == {"ce_id": "m-1", "x-mine": "\\xff", "x-hop": ["a", None]}
    printed = call("dlq", "show", row["id"]).out
    assert "amount: is missing" in printed
    assert [line.split()[1:] for line in printed.splitlines() if "x-hop" in line] == [
        ["x-hop:", "a"],
        ["x-hop:", "None"],
    ]


def test_a_redriven_record_is_handled_by_code_that_can_read_it(dead_letter):
    [number] = [row["id"] for row in call("dlq", "ls", "--json").rows]
    (dead_letter / "toys.py").write_text(TOYS.replace("amount: int\n", "amount: int = 5\n"))

    row = call("dlq", "redrive", number, "--json").row
    assert call("run", "--until-idle").code == 0

    assert row == {"id": number, "topic": TOPIC, "redriven": True, "message_id": "m-1"}
    assert call("dlq", "ls", "--json").rows == []
    assert call("history", "order/z", "--json").rows[0]["cause"] == "m-1"


def test_a_redriven_record_that_is_still_bad_is_parked_again(dead_letter):
    assert call("dlq", "redrive", "--all").code == 0
    assert call("run", "--until-idle").code == 0

    assert call("dlq", "ls", "--json").row["message_id"] == "m-1"


def test_redrive_wants_to_know_which(dead_letter):
    assert call("dlq", "redrive").code == 2
    assert call("dlq", "redrive", 1, "--all").code == 2
    assert call("dlq", "redrive", 999).code == 1
    assert call("dlq", "redrive", "--code", "nonsense").code == 1
    assert call("dlq", "show", 999).code == 1


def test_timers_are_listed_with_their_saga(looking):
    row = call("timers", "--json").row

    assert list(row) == ["timer_id", "saga_id", "due_at"]
    assert row["saga_id"] == call("show", "leave/ann", "--json").row["id"]


@pytest.mark.parametrize(
    "words", [("dlq", "ls"), ("dlq", "ls", "--reason", "schema"), ("doctor",)], ids=" ".join
)
def test_no_value_is_loaded_to_list_records(dead_letter, monkeypatch, words):
    asked = []
    unhandled = SqliteCatalogue.unhandled

    def noting(self, **options):
        asked.append(options.get("values", True))
        return unhandled(self, **options)

    monkeypatch.setattr(SqliteCatalogue, "unhandled", noting)
    call(*words)

    assert asked
    assert not any(asked)


def test_all_are_redriven_whole_one_value_at_a_time(dead_letter, monkeypatch):
    loaded = []
    unhandled = SqliteCatalogue.unhandled

    async def noting(self, **options):
        found = await unhandled(self, **options)
        loaded.append(len([record for record in found if record.value is not None]))
        return found

    with monkeypatch.context() as patched:
        patched.setattr(SqliteCatalogue, "unhandled", noting)
        assert call("dlq", "redrive", "--all").code == 0
    assert call("run", "--until-idle").code == 0

    assert max(loaded) == 1
    assert call("dlq", "show", call("dlq", "ls", "--json").row["id"], "--json").row["value"] == (
        VALUE.decode()
    )
