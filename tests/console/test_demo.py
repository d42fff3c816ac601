"""`demo`: a worker process that may be killed, a run that can be carried on, books that balance."""

import json
import signal
import time

import pytest

from saga.console.demo_tally import Ending, Tally
from saga.core.events import EMPTY_JSON, Message, ReplyOutcome, ReplyReceived, SagaStarted
from saga.core.history import Entry
from saga.core.identity import Instant, MessageId, SagaId
from saga.core.intents import SagaCompleted, SagaParked, SagaRolledBack
from tests.console.conftest import call
from tests.console.shop import DEMO, SHOP
from tests.console.test_serving import start, wait_for


@pytest.fixture
def shown(shop):
    """The shop as a package with a demo."""
    (shop / "store").mkdir()
    (shop / "store/__init__.py").write_text(SHOP)
    (shop / "store/demo.py").write_text("from store import OrderPlaced\n" + DEMO)
    return shop


def finish(process):
    """What a process has said, as JSON, and its exit code."""
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in err, err
    return (json.loads(out) if out else None), err, process.returncode


@pytest.mark.slow
def test_a_killed_worker_loses_nothing_and_a_second_run_has_nothing_to_do(shown):
    """Every order ends once, the books balance, and everything lies in the folder."""
    words = ("demo", "--app", "store:app", "--limit", "120", "--json")

    row, err, code = finish(start(shown, *words, "--kill", "2"))

    assert code == 0, err
    assert (row["sagas"], row["parked"], row["kills"]) == (120, 0, 2)
    assert row["outcomes"] == [
        {"status": "completed", "reason": None, "failed_step": None, "sagas": 108},
        {"status": "rolled_back", "reason": "far", "failed_step": "ship", "sagas": 12},
    ]
    assert row["undone_steps"] == 12
    assert row["books"]["balanced"] is True
    assert row["books"]["lines"] == [{"name": "orders paid", "services": 108, "histories": 108}]
    assert [path.name for path in (shown / ".saga").iterdir()] == ["demo"]

    again, err, code = finish(start(shown, *words))

    assert code == 0
    assert "ended already" in err
    assert again | {"kills": 2} == row


@pytest.mark.slow
def test_ctrl_c_stops_and_a_second_run_carries_on(shown):
    """The first ends with 0 and says what is left; the second does that, and shows what to type
    next.
    """
    words = ("demo", "--app", "store:app", "--store", "here")
    stopped = start(shown, *words, start_new_session=True)
    wait_for((shown / "here/saga.db").exists)
    time.sleep(0.5)
    stopped.send_signal(signal.SIGINT)
    _, err, code = finish(stopped)
    assert code == 0
    assert "run it again to carry on" in err

    out, _ = start(shown, *words).communicate(timeout=60)

    assert "The books balance." in out
    assert "sqlite:///here/saga.db" in out
    assert " show order/far-" in out
    called = call("ls", "--store", "sqlite:///here/saga.db", "--limit", 500, "--json")
    assert len(called.rows) == 200
    assert not (shown / ".saga").exists()


@pytest.mark.slow
def test_a_worker_that_cannot_run_ends_the_demo_with_its_words(shown):
    """Instead of waiting for it for ever."""
    source = SHOP.replace("CREATE TABLE IF NOT EXISTS paid", "CREATE NONSENSE")
    (shown / "store/__init__.py").write_text(source)

    out, err, code = finish(start(shown, "demo", "--app", "store:app", "--limit", "3"))

    assert (out, code) == (None, 1)
    assert "the worker has ended with 1" in err
    assert "NONSENSE" in err


def test_an_application_without_a_demo_is_refused(shop):
    """Exit 2; an address is no folder."""
    called = call("demo")

    assert called.code == 2
    assert "shop.demo" in called.err
    assert call("demo", "--store", "sqlite:///x.db").code == 2


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
    """The first entry of a saga."""
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


async def test_the_tally_counts_endings_undone_steps_and_working_time():
    """A long silence is no work, one of a killed worker's session is; latency goes from the trigger
    to the end.
    """
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

    assert tally.endings == {
        Ending("completed", "", ""): 1,
        Ending("rolled_back", "far", "ship"): 1,
    }
    assert tally.undone_steps == 1
    assert tally.working_us == (2 + 11) * SECOND
    assert list(tally.latencies_us) == [2 * SECOND, 70 * SECOND]
    assert (tally.latency_ms(0.0), tally.latency_ms(0.99)) == (2_000, 70_000)
    assert tally.examples == {"completed": "order/k-a", "rolled_back": "order/k-b"}


async def test_a_parked_saga_is_settled_until_it_ends():
    """It waits for someone, and is no longer counted so once it has ended after all."""
    tally = Tally()
    log = Log(("a", 1, started("k")), ("a", 2, SagaParked(reason="stuck")))
    await tally.follow(log)
    assert (tally.parked, tally.settled, tally.ended) == ({"a"}, {"a"}, set())

    log.entries += Log(*[("a", 3, SagaCompleted(outcome=None))] * 3).entries[2:]
    await tally.follow(log)

    assert (tally.parked, tally.ended) == (set(), {"a"})
