"""`SyncPublisher`: the same from threads, and in processes that are forked off or end."""

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from saga import SyncPublisher
from saga.errors import BusUnavailable, MalformedMessage
from tests.publishing.events import SOLD, CupSold, ShopOpened
from tests.publishing.reading import header, records_on

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bus(tmp_path) -> str:
    """The address of an embedded bus."""
    return f"local:///{tmp_path}/bus.db"


async def test_a_call_returns_when_the_event_is_durable(bus):
    """With its id; the thread ends with the publisher."""
    with SyncPublisher(bus=bus, source="/shop") as publisher:
        message_id = publisher.publish(CupSold(cup="c", cents=1))
        [record] = await records_on(f"dev.saga.{SOLD}", 1, bus=bus)

    assert header(record, "ce_id") == message_id
    assert "saga-publisher" not in {thread.name for thread in threading.enumerate()}


async def test_all_threads_of_a_process_share_one_publisher(bus):
    """Each keeps its own order."""

    def sell(thread: int) -> None:
        for cents in range(20):
            publisher.publish(CupSold(cup=f"c-{thread}", cents=cents))

    with SyncPublisher(bus=bus) as publisher:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(sell, range(8)))
        assert sum(thread.name == "saga-publisher" for thread in threading.enumerate()) == 1

    records = await records_on(f"dev.saga.{SOLD}", 160, bus=bus)
    for thread in range(8):
        cents = [json.loads(r.value)["cents"] for r in records if r.key == f"c-{thread}".encode()]
        assert cents == list(range(20))


async def test_a_closed_publisher_begins_anew(bus):
    """With the next event."""
    publisher = SyncPublisher(bus=bus)
    publisher.close()
    for cents in range(2):
        publisher.publish(CupSold(cup="c", cents=cents))
        publisher.close()

    assert len(await records_on(f"dev.saga.{SOLD}", 2, bus=bus)) == 2


def test_a_bad_event_costs_nothing(bus, tmp_path):
    """It is refused in the caller's thread, before there is another one."""
    publisher = SyncPublisher(bus=bus)
    with pytest.raises(MalformedMessage):
        publisher.publish(ShopOpened(by="ann"))

    assert list(tmp_path.iterdir()) == []


def test_every_wait_has_an_end():
    """Also where nobody answers."""
    with (
        SyncPublisher(bus="kafka://127.0.0.1:9", timeout="300ms") as publisher,
        pytest.raises(BusUnavailable, match="not published within"),
    ):
        publisher.publish(CupSold(cup="c", cents=1))


PROGRAM = """
import os, sys
from saga import SyncPublisher
from tests.publishing.events import CupSold

publisher = SyncPublisher(bus=sys.argv[1])
publisher.publish(CupSold(cup="parent", cents=1))
child = os.fork()
publisher.publish(CupSold(cup="parent" if child else "child", cents=2))
if child:
    _, status = os.waitpid(child, 0)
    sys.exit(os.waitstatus_to_exitcode(status))
"""


def run(bus: str) -> subprocess.CompletedProcess[str]:
    """The program above, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, bus],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=30,
        check=False,
        capture_output=True,
        text=True,
    )


async def test_a_forked_process_has_its_own_and_both_end_by_themselves(bus):
    """As a preloaded web server does: nobody has to call `close`, and nothing hangs."""
    ran = run(bus)

    assert (ran.returncode, ran.stderr) == (0, "")
    records = await records_on(f"dev.saga.{SOLD}", 3, bus=bus)
    assert sorted(record.key for record in records) == [b"child", b"parent", b"parent"]
