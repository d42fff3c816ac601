import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from infra.standing import StandingServers
from tests.infra.test_standing import ROOT, infra
from tests.patience import HANG_S

pytestmark = pytest.mark.connected

SAY = 'echo "$SAGA_BUS $SAGA_STORE"'


def lend(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`python -m infra with` beside the standing servers of *folder*."""
    command = [sys.executable, "-m", "infra", "--folder", str(folder), "with", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_command_finds_servers_that_end_with_it(server_folder: Path) -> None:
    """Addresses are in its environment, its exit code is ours; a folder that is kept keeps all."""
    kept = server_folder / "kept"
    store = 'import os, psycopg; c = psycopg.connect(os.environ["SAGA_STORE"], autocommit=True);'
    words = ("--kept", str(kept), "--", sys.executable, "-c")

    first = lend(server_folder, *words, f'{store} c.execute("CREATE TABLE kept ()"); exit(3)')
    second = lend(server_folder, *words, f'{store} print(c.execute("TABLE kept").fetchall())')

    assert first.returncode == 3, first.stderr
    assert second.stdout == "[]\n", second.stderr


@pytest.mark.long
def test_servers_of_a_command_are_gone_when_it_is_told_to_end(server_folder: Path) -> None:
    """A signal is passed on to the command; afterwards nobody listens at its addresses."""
    command = [sys.executable, "-m", "infra", "--folder", str(server_folder), "with", "--fast"]
    command += ["--", "sh", "-c", f"{SAY}; exec sleep 60"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as lending:
        assert lending.stdout is not None
        _, store = lending.stdout.readline().split()
        psycopg.connect(store).close()

        lending.send_signal(signal.SIGTERM)

        assert lending.wait(timeout=HANG_S) == 128 + signal.SIGTERM
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(store)


def test_servers_that_stand_are_used_and_left(server_folder: Path) -> None:
    """Whoever has started both finds the command's data there afterwards."""
    standing = [line.partition("=")[2] for line in infra(server_folder, "up")]
    try:
        done = lend(server_folder, "--", "sh", "-c", SAY)

        assert done.stdout.split() == standing, done.stderr
        assert len(StandingServers(server_folder).running()) == 2
    finally:
        infra(server_folder, "down", "--erase")
