import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from infra import InfraError, Kafka, NotInstalled, NotStarted, Postgres
from infra.ports import free_port, is_free
from infra.processes import ServerProcess, run, wait_until_ready
from infra.programs import java, postgres_folder
from tests.patience import HANG_S

ROOT = Path(__file__).parents[2]

OWNER = """
import os, sys, time
from pathlib import Path
from infra.processes import ServerProcess
folder = Path(sys.argv[1])
process = ServerProcess.spawn(["sleep", "600"], folder=folder, log=folder / "log", is_bound={bound})
print(process.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_server_dies_with_its_owner(tmp_path: Path, how: signal.Signals) -> None:
    """However an owner dies, no server of it goes on."""
    server = server_of_a_dying_owner(tmp_path, how, is_bound=True)

    assert has_ended(server)


def test_unbound_server_outlives_its_owner(tmp_path: Path) -> None:
    """A server that is to stay in the background does."""
    server = server_of_a_dying_owner(tmp_path, signal.SIGKILL, is_bound=False)

    assert server.is_running()
    server.kill()


def test_server_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    """A server started from a thread that ends goes on: it belongs to the process."""
    started = []

    def start() -> None:
        started.append(ServerProcess.spawn(["sleep", "600"], folder=tmp_path, log=tmp_path / "log"))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    time.sleep(0.1)

    assert started[0].is_running()
    started[0].kill()
    assert not started[0].is_running()


def test_kill_takes_the_descendants_along(tmp_path: Path) -> None:
    """Nothing that a server has started survives its kill, in whatever session it is."""
    script = "setsid sleep 600 & echo $!; wait"
    log = tmp_path / "log"
    process = ServerProcess.spawn(["sh", "-c", script], folder=tmp_path, log=log)
    wait_until_ready(process, lambda: log.read_bytes() != b"", name="sh", log=log, timeout_s=HANG_S)
    descendant = psutil.Process(int(log.read_text()))

    process.kill()

    assert not descendant.is_running() or descendant.status() == psutil.STATUS_ZOMBIE


def test_process_is_found_again_but_not_its_successor(tmp_path: Path) -> None:
    """A process id that the kernel gave to somebody else is not taken for the server."""
    process = ServerProcess.spawn(["sleep", "600"], folder=tmp_path, log=tmp_path / "log")

    assert ServerProcess.find(process.pid, process.created) is not None
    assert ServerProcess.find(process.pid, process.created - 1) is None
    process.kill()
    assert ServerProcess.find(process.pid, process.created) is None


def test_error_quotes_the_end_of_the_log(tmp_path: Path) -> None:
    """Who reads that a server did not start reads why in the same place."""
    log = tmp_path / "log"
    script = ["sh", "-c", "seq 1000; echo no disk; exit 3"]

    with pytest.raises(NotStarted) as failed:
        run("mkfs", script, log=log, timeout_s=HANG_S)
    assert "mkfs failed with exit code 3" in str(failed.value)
    assert str(failed.value).endswith("  1000\n  no disk")
    assert "  900\n" not in str(failed.value)

    process = ServerProcess.spawn(script, folder=tmp_path, log=log)
    with pytest.raises(NotStarted, match="ended instead of starting"):
        wait_until_ready(process, lambda: False, name="mkfs", log=log, timeout_s=HANG_S)


def test_what_hangs_is_given_up_and_killed(tmp_path: Path) -> None:
    """A server that never becomes ready is killed when its time is over."""
    log = tmp_path / "log"
    process = ServerProcess.spawn(["sleep", "600"], folder=tmp_path, log=log)

    with pytest.raises(NotStarted, match=r"was not ready after 0\.05 s"):
        wait_until_ready(process, lambda: False, name="sleep", log=log, timeout_s=0.05)
    assert not process.is_running()


def test_port_is_free_and_not_of_outgoing_connections() -> None:
    """A drawn port can be listened on and is never one that a client's near end may have."""
    ranges = Path("/proc/sys/net/ipv4/ip_local_port_range")
    lowest = int(ranges.read_text().split()[0]) if ranges.exists() else 32768
    port = free_port()

    assert port < lowest
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
        server.listen()
        assert not is_free(port)
        assert free_port(preferred=port) != port
    assert free_port(preferred=port) == port


def test_missing_program_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who cannot install a program here is told which, and the command that does it."""
    monkeypatch.setattr("infra.programs._POSTGRES_FOLDERS", ())
    monkeypatch.setattr("infra.programs.shutil.which", lambda n, **_: n if n == "apt-get" else None)
    monkeypatch.setattr("infra.programs.os.geteuid", lambda: 1000)

    with pytest.raises(NotInstalled, match=r"Java 17 .* apt-get install default-jre-headless"):
        java()
    with pytest.raises(NotInstalled, match=r"PostgreSQL server .* apt-get install postgresql"):
        postgres_folder()


@pytest.mark.connected
def test_settings_that_a_server_refuses_are_quoted(server_folder: Path) -> None:
    """A server that ends on a bad setting says so in the error, and nothing is left running."""
    postgres = Postgres(server_folder / "postgres", settings={"max_connections": "many"})
    with pytest.raises(NotStarted, match='invalid value for parameter "max_connections"'):
        postgres.start()
    assert not postgres.is_running

    kafka = Kafka(server_folder / "kafka", properties={"num.partitions": "many"})
    with pytest.raises(NotStarted, match=r"Invalid value many for configuration num\.partitions"):
        kafka.start()
    assert not kafka.brokers[0].is_running


@pytest.mark.connected
@pytest.mark.skipif(os.geteuid() != 0, reason="only root's PostgreSQL runs as somebody else")
def test_unreachable_folder_is_said_to_be_one(tmp_path: Path) -> None:
    """As root, a folder that PostgreSQL's user cannot enter is refused by name."""
    tmp_path.chmod(0o700)

    with pytest.raises(InfraError, match="who cannot reach"):
        Postgres(tmp_path / "postgres").start()


def server_of_a_dying_owner(folder: Path, how: signal.Signals, *, is_bound: bool) -> ServerProcess:
    """A server whose owner was just ended by a signal."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER.format(bound=is_bound), str(folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        server = ServerProcess(pid, psutil.Process(pid).create_time())
        assert server.is_running()
        owner.send_signal(how)
        owner.wait(timeout=HANG_S)
    return server


def has_ended(process: ServerProcess) -> bool:
    return process.has_ended(timeout_s=HANG_S)
