"""Whole services on a disk that fails now and then: commits with errors, some done all the same."""

import random
import sqlite3

import pytest

from saga.adapters.sqlite import connection
from tests.patience import HANG_S
from tests.scenarios import order_app

ORDERS = 60


class Moody(sqlite3.Connection):
    """A connection of which some commits fail, and some of those are done all the same."""

    dice = random.Random(0)
    share = 0.0
    failed = 0

    def execute(self, sql, *args):
        if sql != "COMMIT" or Moody.dice.random() >= Moody.share:
            return super().execute(sql, *args)
        Moody.failed += 1
        if Moody.dice.random() < 0.5:
            super().execute(sql)
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorname = "SQLITE_IOERR_FSYNC"
        raise error


@pytest.mark.parametrize("seed", [1, 2])
async def test_every_order_ends_although_commits_fail(one_file, monkeypatch, caplog, seed):
    """No order twice, none lost, no effect twice, also of records that were delivered early."""
    real = sqlite3.connect
    monkeypatch.setattr(
        connection.sqlite3,
        "connect",
        lambda *args, **options: real(*args, **{"factory": Moody} | options),
    )
    monkeypatch.setattr(Moody, "dice", random.Random(seed))
    monkeypatch.setattr(Moody, "failed", 0)
    async with one_file.service(early_hold="30s") as service:
        monkeypatch.setattr(Moody, "share", 0.15)
        ends = await order_app.run_orders(service, range(ORDERS))
        monkeypatch.setattr(Moody, "share", 0.0)
        await service.idle(timeout=HANG_S)

    assert Moody.failed > 10
    assert "records were retracted" in caplog.text
    assert ends.keys() == {"completed", "rolled_back"}
    done = one_file.effects()
    assert set(done.values()) == {1}
    assert sum(what == "pay" for what, _ in done) == ORDERS - ORDERS // 5
