import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from infra.standing import StandingServers

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.connected


def test_servers_stay_are_found_again_and_keep_their_data(server_folder: Path) -> None:
    """Also over `down` and the next `up`; only `down --erase` leaves nothing."""
    first = infra(server_folder, "up")
    try:
        assert [line.removeprefix("export ").partition("://")[0] for line in first] == [
            "SAGA_BUS=kafka",
            "SAGA_STORE=postgresql",
        ]
        store = first[1].partition("SAGA_STORE=")[2]
        with psycopg.connect(store) as connection:
            connection.execute("CREATE TABLE things (name text)")
        pids = {server.pid for server in StandingServers(server_folder).running()}

        assert infra(server_folder, "up") == first
        assert pids == {server.pid for server in StandingServers(server_folder).running()}

        infra(server_folder, "down")
        assert StandingServers(server_folder).running() == []
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(store)

        assert infra(server_folder, "up") == first
        with psycopg.connect(store) as connection:
            assert connection.execute("SELECT name FROM things").fetchall() == []
    finally:
        infra(server_folder, "down", "--erase")
    assert StandingServers(server_folder).running() == []
    assert not (server_folder / "kafka").exists()
    assert not (server_folder / "state.json").exists()


def test_what_does_not_run_is_said(server_folder: Path) -> None:
    """`status` fails where a server is down, and `down` is content with that."""
    status = subprocess.run(
        [sys.executable, "-m", "infra", "--folder", server_folder, "status"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert status.returncode == 1
    assert re.findall(r"(\w+) does not run", status.stderr) == ["kafka", "postgres"]
    assert infra(server_folder, "down") == []


def infra(folder: Path, *words: str) -> list[str]:
    """What `python -m infra` prints on standard output."""
    done = subprocess.run(
        [sys.executable, "-m", "infra", "--folder", folder, *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()
