"""`topics ls|check|lock`: a contract that readers rely on does not change unnoticed."""

import pytest

from tests.console.conftest import call
from tests.console.shop import ORDER, SHOP


@pytest.fixture
def locked(shop):
    """The shop with its lock file."""
    assert call("topics", "lock", "--json").row["changes"] > 0
    return shop


def change(shop, before, after):
    """Another version of the application, in which a line reads differently."""
    assert before in SHOP
    (shop / "shop.py").write_text(SHOP.replace(before, after))


def test_contracts_are_listed_with_topic_key_and_replies(locked):
    """One object each."""
    rows = {row["contract"]: row for row in call("topics", "ls", "--json").rows}

    assert rows[ORDER]["topic"] == f"dev.saga.{ORDER}"
    assert (rows[ORDER]["key"], rows[ORDER]["locked"]) == ("order_id", True)
    replies = ["payments.evt.paid.v1", "payments.evt.intent-failed.v1"]
    assert rows["payments.int.pay.v1"]["replies"] == replies


def test_without_a_lock_file_the_check_fails(shop):
    """And says how to make one."""
    called = call("topics", "check")

    assert called.code == 1
    assert "saga topics lock" in called.err


def test_what_is_locked_passes(locked):
    """Exit 0; the summary says so."""
    called = call("topics", "check", "--json")

    assert called.code == 0
    assert called.row["ok"] is True


def test_a_change_that_readers_can_follow_is_to_be_locked(locked):
    """The check fails until it is; what to do is said."""
    change(locked, "    receipt: str\n", "    receipt: str\n    note: str | None = None\n")

    called = call("topics", "check", "--json")

    assert called.code == 1
    assert (called.rows[0]["field"], called.rows[0]["compatible"]) == ("note", True)
    assert "saga topics lock" in called.rows[0]["advice"]
    assert call("topics", "lock").code == 0
    assert call("topics", "check").code == 0


def test_a_change_that_breaks_readers_is_not_locked(locked):
    """Unless somebody insists; the lock file stays as it is."""
    change(locked, "    receipt: str\n", "    receipt: int\n")
    before = (locked / "topics/contracts.lock.json").read_bytes()

    called = call("topics", "check", "--json")

    assert called.code == 1
    assert (called.rows[-1]["breaking"], called.rows[-1]["ok"]) == (1, False)
    refused = call("topics", "lock")
    assert refused.code == 1
    assert "receipt" in refused.err
    assert (locked / "topics/contracts.lock.json").read_bytes() == before
    assert call("topics", "lock", "--force").code == 0
    assert call("topics", "check").code == 0


def test_a_lock_file_that_is_none_is_refused_by_name(locked):
    """No traceback, exit 1."""
    (locked / "mine.json").write_text("{")

    called = call("topics", "check", "--file", "mine.json")

    assert called.code == 1
    assert "mine.json" in called.err
