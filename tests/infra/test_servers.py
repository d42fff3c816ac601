import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import psycopg
import pytest

from infra import NotInstalled
from tests.patience import HANG_S, wait_until
from tests.servers import Borrowed, Servers, Unavailable

ROOT = Path(__file__).parents[2]

SUITE = """
import pathlib, time, pytest

@pytest.mark.parametrize("number", [1, 2])
def test_address_is_written_down(number, postgres_server):
    folder = pathlib.Path(__file__).parent
    (folder / f"seen-{number}").write_text(postgres_server)
    assert number != 1, "one of them fails"
    while (folder / "stay").exists():
        time.sleep(0.05)
"""


def test_server_that_runs_already_is_used() -> None:
    """An address that was given is handed out, to test processes too."""
    servers = Servers(kafka="broker:9092", postgres=None)

    assert servers.address("kafka") == "broker:9092"
    assert Borrowed(servers.place).address("kafka") == "broker:9092"


def test_missing_server_is_tried_once_and_explained_to_everybody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where PostgreSQL cannot be had, each test that needs it learns what to install."""
    tried = []

    def start(*_: object) -> None:
        tried.append(1)
        raise NotInstalled("The PostgreSQL server", "Install it: apt-get install postgresql")

    monkeypatch.setattr("infra.Postgres.start", start)
    servers = Servers(kafka=None, postgres=None)

    for side in (servers, Borrowed(servers.place), servers):
        with pytest.raises(Unavailable, match="apt-get install postgresql"):
            side.address("postgres")
    assert tried == [1]


@pytest.mark.connected
def test_run_has_one_server_and_stops_it_when_tests_fail(tmp_path: Path) -> None:
    """Two test processes get the same server; after the run it is gone, although a test failed."""
    with suite(tmp_path) as run:
        assert run.wait(timeout=HANG_S) == pytest.ExitCode.TESTS_FAILED

    (address,) = {path.read_text() for path in tmp_path.glob("seen-*")}
    assert len(list(tmp_path.glob("seen-*"))) == 2
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(address)


@pytest.mark.connected
@pytest.mark.parametrize(
    "how",
    [
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        signal.SIGKILL,
    ],
)
def test_interrupted_run_leaves_no_server(tmp_path: Path, how: signal.Signals) -> None:
    """However a run is cut off, its server goes with it."""
    (tmp_path / "stay").touch()
    with suite(tmp_path) as run:
        address = seen(tmp_path / "seen-2")
        with psycopg.connect(address) as connection:
            backend = psutil.Process(connection.info.backend_pid)
            server = backend.parent()
        assert server is not None
        run.send_signal(how)
        run.wait(timeout=HANG_S)

    psutil.wait_procs([server], timeout=HANG_S)
    assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE


def suite(folder: Path) -> subprocess.Popen[bytes]:
    """A run of two test processes over a suite of its own."""
    path = folder / "test_suite.py"
    path.write_text(SUITE)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "TEST_"))}
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", "-n", "2", "-p", "tests.connected", "-q", path],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def seen(path: Path) -> str:
    """What a test has written down, once it has."""
    wait_until(lambda: path.exists() and path.read_text())
    return path.read_text()
