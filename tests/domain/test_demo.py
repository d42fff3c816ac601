"""The demo: workers that may be killed, a run that can be carried on, books that balance."""

import json
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager, suppress

import pytest

from domain.demo.command import program
from domain.demo.report import print_report
from domain.demo.tally import Outcome, Tally
from saga.console.cli.output import Printer
from saga.core.events import EMPTY_JSON, Message, ReplyOutcome, ReplyReceived, SagaStarted
from saga.core.history import Entry
from saga.core.identity import Instant, MessageId, SagaId
from saga.core.intents import SagaCompleted, SagaParked, SagaRolledBack
from saga.settings import Settings
from tests.console.conftest import call, environment, invoked, kept
from tests.patience import HANG_S, wait_until


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAGA_LOG", "warning")
    with kept():
        yield tmp_path


def demo(*words):
    """`python -m domain words…` in this process."""
    return invoked(program(), words)


def start(folder, *words, **more):
    """`python -m domain words…` as a process of its own, whatever application is set."""
    return subprocess.Popen(
        [sys.executable, "-m", "domain", *words],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def finish(process):
    """The output of a process as JSON, its errors and its exit code."""
    out, err = process.communicate(timeout=HANG_S)
    assert "Traceback" not in err, err
    return (json.loads(out) if out else None), err, process.returncode


@contextmanager
def held_while_sagas_run(path):
    """Wait until sagas run; inside, none of them goes on."""
    wait_until(path.exists)
    with closing(sqlite3.connect(path, timeout=HANG_S, isolation_level=None)) as connection:

        def do_some_run():
            connection.execute("BEGIN IMMEDIATE")
            running = "SELECT EXISTS (SELECT 1 FROM saga_index WHERE status = 'running')"
            with suppress(sqlite3.OperationalError):  # there are no tables yet
                if connection.execute(running).fetchone() == (1,):
                    return True
            connection.execute("ROLLBACK")
            return False

        wait_until(do_some_run)
        yield


def outcome(status, reason, failed_step, sagas):
    return {"status": status, "reason": reason, "failed_step": failed_step, "sagas": sagas}


@pytest.mark.slow
def test_a_killed_worker_loses_nothing_and_a_second_run_has_nothing_to_do(folder):
    words = ("--limit", "120", "--json")

    row, err, code = finish(start(folder, *words, "--kill", "2"))

    assert code == 0, err
    assert (row["sagas"], row["parked"], row["kills"]) == (120, 0, 2)
    assert row["outcomes"] == [
        outcome("completed", None, None, 110),
        outcome("rolled_back", "bad_line", "check-order", 6),
        outcome("rolled_back", "out_of_stock", "reserve-stock", 1),
        outcome("rolled_back", "wallet_too_small", "charge-household", 3),
    ]
    assert row["undone_steps"] == 3
    assert row["books"]["balanced"] is True
    assert row["books"]["lines"] == [
        {"name": "units reserved", "services": 45_432, "histories": 45_432},
        {"name": "cents charged", "services": 259_441, "histories": 259_441},
        {"name": "slots booked", "services": 110, "histories": 110},
    ]
    assert [path.name for path in (folder / ".saga").iterdir()] == ["demo"]

    again, err, code = finish(start(folder, *words))

    assert code == 0
    assert "ended already" in err
    assert again | {"kills": 2} == row


@pytest.mark.slow
def test_ctrl_c_stops_and_a_second_run_carries_on(folder):
    words = ("--limit", "300", "--store", "here")
    stopped = start(folder, *words, start_new_session=True)
    with held_while_sagas_run(folder / "here/saga.db"):
        stopped.send_signal(signal.SIGINT)
    _, err, code = finish(stopped)
    assert code == 0
    assert "run it again to carry on" in err

    out, _ = start(folder, *words).communicate(timeout=HANG_S)

    assert "The books balance." in out
    assert "\n\nTo look around:\n" in out
    assert "\\n" not in out
    assert "sqlite:///here/saga.db" in out
    assert " show order/" in out
    called = call("ls", "--store", "sqlite:///here/saga.db", "--limit", 500, "--json")
    assert len(called.rows) == 300
    assert not (folder / ".saga").exists()


@pytest.mark.slow
def test_a_worker_that_cannot_run_ends_the_demo_with_its_words(folder):
    (folder / ".saga/demo/saga-effects.db").mkdir(parents=True)

    out, err, code = finish(start(folder, "--limit", "3"))

    assert (out, code) == (None, 3)
    assert "the worker has ended with 3" in err
    assert "saga-effects.db" in err


def test_an_address_is_no_folder(folder):
    assert demo("--store", "sqlite:///x.db").code == 2
    assert list(folder.iterdir()) == []


def test_the_demo_runs_its_own_application(folder, monkeypatch):
    """Whatever else is set; and says so in what to type next."""
    monkeypatch.setenv("SAGA_APP", "nonsense:app")
    called = demo("--limit", "1")

    assert called.code == 0
    assert "SAGA_APP=domain:app" in called.out


def test_a_password_is_not_shown(capsys):
    settings = Settings.read({}, store="postgresql://saga:geheim@host/db")
    print_report(Printer(), Tally(), None, settings, kills=0)

    out = capsys.readouterr().out
    assert "postgresql://saga:***@host/db" in out
    assert "geheim" not in out


class Log:
    """A catalogue that has nothing but a log."""

    def __init__(self, *happened):
        self.entries = [
            Entry(SagaId(saga), version, Instant(at), MessageId("m"), body)
            for version, (saga, at, body) in enumerate(happened, 1)
        ]

    async def log(self, *, after=0):
        """What was logged after a place in it."""
        for position, entry in enumerate(self.entries, 1):
            if position > after:
                yield position, entry


def started(key):
    return SagaStarted(
        definition="order",
        definition_version=1,
        fingerprint="f",
        key=key,
        trigger=Message("c", EMPTY_JSON),
    )


UNDONE = ReplyReceived(
    intent_id="6f4c29a6-6a3c-5d0e-9a55-0d5c6f0b8a11/pay/undo/1", outcome=ReplyOutcome.DONE
)
ROLLED_BACK = SagaRolledBack(
    reason="too far", code="far", failed_step="ship", residue=(), outcome=None
)
SECOND = 1_000_000


async def test_the_tally_counts_outcomes_undone_steps_and_working_time():
    log = Log(
        ("a", 0 * SECOND + 1, started("k-a")),
        ("b", 1 * SECOND + 1, started("k-b")),
        ("a", 2 * SECOND + 1, SagaCompleted(outcome=None)),
        ("b", 60 * SECOND + 1, UNDONE),
        ("b", 71 * SECOND + 1, ROLLED_BACK),
    )
    tally = Tally()

    assert await tally.follow(log) == 5
    assert await tally.follow(log) == 0

    assert tally.outcomes == {
        Outcome("completed", "", ""): 1,
        Outcome("rolled_back", "far", "ship"): 1,
    }
    assert tally.undone_steps == 1
    assert tally.working_us == (2 + 11) * SECOND
    assert list(tally.latencies_us) == [2 * SECOND, 70 * SECOND]
    assert (tally.latency_ms(0.0), tally.latency_ms(0.99)) == (2_000, 70_000)
    assert tally.examples == {"completed": "order/k-a", "rolled_back": "order/k-b"}


async def test_a_parked_saga_is_settled_until_it_ends():
    tally = Tally()
    log = Log(("a", 1, started("k")), ("a", 2, SagaParked(reason="stuck")))
    await tally.follow(log)
    assert (tally.parked, tally.settled, tally.ended) == ({"a"}, {"a"}, set())

    log.entries += Log(*[("a", 3, SagaCompleted(outcome=None))] * 3).entries[2:]
    await tally.follow(log)

    assert (tally.parked, tally.ended) == (set(), {"a"})
