"""Disks that cannot be written: named with the file and the remedy, exit 3; nothing is lost.

Room is limited by the largest size of a file that a process may write, which needs no privileges.
Linux lets another process raise that limit again, as if the disk were cleared meanwhile.
"""

import os
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.console.cli.test_serving import publish
from tests.console.conftest import call, enter, environment
from tests.console.toys import LEAVE, ORDER
from tests.patience import HANG_S, wait_until

ORDERS = 40
NOBODY = 65_534
CHANGING = re.compile(r"[\d,]+ a second")
"""How fast that was."""
LIMITED = """
import resource, runpy, sys
room = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
runpy.run_module("saga", run_name="__main__")
"""


def limited(folder: Path, *words: str, room_bytes: int) -> subprocess.Popen[str]:
    """`saga words…`, for whose files the disk has little room left."""
    stored = sum(path.stat().st_size for path in (folder / ".saga").glob("saga.db*"))
    return subprocess.Popen(
        [sys.executable, "-c", LIMITED, str(stored + room_bytes), *words],
        cwd=folder,
        env=environment(folder),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def served_by_all(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A done order and a waiting leave in a folder that all may enter and nobody may write."""
    with tempfile.TemporaryDirectory() as name, monkeypatch.context() as patches:
        folder = enter(Path(name), patches)
        folder.chmod(0o755)
        publish(1)
        assert call("publish", LEAVE, '{"name": "ann"}').code == 0
        # Whatever is imported late is imported now: another user may not be able to read it.
        assert call("run", "--until-idle").code == 0
        stored = folder / ".saga"
        for path in stored.iterdir():
            path.chmod(0o444)
        stored.chmod(0o555)
        yield folder
        stored.chmod(0o755)
        os.chdir("/")


@contextmanager
def nobody() -> Iterator[None]:
    """Do without the privilege to write everywhere, where this is root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


@contextmanager
def served_elsewhere(folder: Path) -> Iterator[None]:
    """Somebody who may has another order served, and keeps it from moving into the file itself."""
    stored = folder / ".saga"
    modes = {path: path.stat().st_mode for path in (stored, *stored.iterdir())}
    for path in modes:
        path.chmod(0o755)
    reader = sqlite3.connect(stored / "saga.db", isolation_level=None)
    try:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM stored_events").fetchone()
        assert call("publish", ORDER, '{"order_id": "o-9", "amount": 1}').code == 0
        assert call("run", "--until-idle").code == 0
        for path, mode in modes.items():
            path.chmod(mode)
        yield
    finally:
        reader.close()


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["run", "--until-idle"], "saga-effects.db"),
        (["run", "--until-idle", "--roles", "orchestrator"], "saga.db"),
        (["publish", ORDER, '{"order_id": "o-2", "amount": 1}'], "saga.db"),
        (["cancel", "leave/ann", "--reason", "x"], "saga.db"),
    ],
    ids=["effects", "orchestrator", "publish", "cancel"],
)
def test_a_read_only_store_is_exit_3(served_by_all, words, name):
    before = (served_by_all / ".saga" / "saga.db").read_bytes()

    with nobody():
        called = call(*words)

    assert (called.code, called.out) == (3, "")
    assert f".saga/{name}: it is read-only" in called.err
    assert "writable" in called.err
    assert (served_by_all / ".saga" / "saga.db").read_bytes() == before


@pytest.mark.parametrize(
    "words",
    [
        ("ls", "--json"),
        ("show", "order/o-0", "--json"),
        ("history", "order/o-0", "--json"),
        ("timers", "--json"),
        ("dlq", "ls", "--json"),
        ("replay", "--jobs", "0"),
    ],
    ids=" ".join,
)
def test_a_read_only_store_can_be_read(served_by_all, words):
    as_ever = call(*words)
    assert as_ever.code == 0
    assert as_ever.out or words == ("dlq", "ls", "--json")
    files = sorted(path.name for path in (served_by_all / ".saga").iterdir())

    with nobody():
        called = call(*words)

    assert called.code == 0, called.err
    assert CHANGING.sub("", called.out) == CHANGING.sub("", as_ever.out)
    assert sorted(path.name for path in (served_by_all / ".saga").iterdir()) == files


def test_rows_of_a_running_worker_can_be_read_by_others(served_by_all):
    """Also while it is in the file beside the store."""
    with served_elsewhere(served_by_all):
        assert (served_by_all / ".saga" / "saga.db-wal").stat().st_size
        with nobody():
            called = call("ls", "--json")

    assert called.code == 0, called.err
    assert [row["key"] for row in called.rows] == ["o-0", "ann", "o-9"]


def test_a_folder_that_is_read_only_is_exit_3(served_by_all):
    with nobody():
        call("run", "--until-idle", "--store", "sqlite:///.saga/new.db").fails(
            3, ".saga/new", "writable"
        )


def test_a_worker_waits_for_room_and_loses_nothing(toys):
    publish(ORDERS)
    worker = limited(toys, "run", "--json", room_bytes=24_000)
    logged: list[str] = []
    listening = threading.Thread(target=lambda: logged.extend(worker.stderr))
    listening.start()
    try:
        wait_until(lambda: any("saga.db" in line and "disk" in line for line in logged))
        assert worker.poll() is None
        resource.prlimit(
            worker.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        )
        words = ("ls", "--status", "completed", "--json", "--limit", ORDERS + 1)
        wait_until(lambda: len(call(*words).rows) == ORDERS)
    finally:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(HANG_S) == 0, logged
        listening.join()
        for pipe in (worker.stdin, worker.stdout, worker.stderr):
            pipe.close()

    connection = sqlite3.connect(".saga/saga-effects.db")
    paid = connection.execute("SELECT count(*), count(DISTINCT order_id) FROM paid").fetchone()
    connection.close()
    assert paid == (ORDERS, ORDERS)
    assert call("replay", "--jobs", "0").code == 0
    assert call("dlq", "ls", "--json").rows == []


def test_lines_that_could_not_be_published_are_named(toys):
    publish(1)
    lines = "".join(f'{{"order_id": "n-{number}", "amount": 1}}\n' for number in range(3_000))
    publisher = limited(toys, "publish", ORDER, "-", "--json", room_bytes=200_000)
    out, err = publisher.communicate(lines, timeout=HANG_S)

    assert publisher.returncode == 3, err
    assert "saga.db: the disk" in err
    assert "room" in err
    assert "Traceback" not in err
    acknowledged = len(out.splitlines())
    assert 0 < acknowledged < 3_000
    assert call("run", "--until-idle", "--json").row["completed"] >= acknowledged + 1
