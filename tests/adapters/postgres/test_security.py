"""The way to PostgreSQL: encrypted, to the right server, with a password that nobody else sees."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from infra import InfraError, Postgres
from infra.scratch import scratch_folder
from saga.console.cli.output import ExitCode
from tests.authority import Authority
from tests.patience import HANG_S

ROOT = Path(__file__).parents[3]
WRONG = "wr0ng-passw0rd"

pytestmark = pytest.mark.connected


@dataclass(frozen=True)
class Secured:
    """A server that speaks TLS, and the authority that signed its certificate."""

    server: Postgres
    authority: Authority

    @property
    def password(self) -> str:
        """Of its user."""
        return str(urlsplit(self.server.url()).password)

    def address(self, mode: str, authority: Path, *, host: str = "127.0.0.1") -> str:
        """Its address without a password."""
        options = f"sslmode={mode}&sslrootcert={authority}&hostaddr=127.0.0.1"
        return f"postgresql://saga@{host}:{self.server.port}/postgres?{options}"


@pytest.fixture(scope="module")
def secured() -> Iterator[Secured]:
    """A server of one's own."""
    with scratch_folder() as folder:
        authority = Authority(folder / "authority")
        certificate = authority.issue("postgres", "db.test", "127.0.0.1")
        server = Postgres(folder / "postgres", certificate=certificate)
        try:
            server.start()
        except InfraError as error:
            pytest.fail(str(error), pytrace=False)
        yield Secured(server, authority)
        server.kill()


def saga(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`saga words…` in a process of its own, and with these settings."""
    return subprocess.run(
        [sys.executable, "-m", "saga", *words],
        env={**os.environ, "SAGA_LOG": "debug", "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_S,
    )


def test_the_right_server_is_believed(secured: Secured, tmp_path: Path) -> None:
    """By its authority and its name; the password is in a file, and a line ends there."""
    secret = tmp_path / "password"
    secret.write_text(f"{secured.password}\n")
    address = secured.address("verify-full", secured.authority.certificate, host="db.test")
    variables = {"SAGA_STORE": address, "SAGA_STORE_PASSWORD_FILE": str(secret)}

    migrated = saga("store", "migrate", **variables)
    listed = saga("ls", "--json", **variables)
    shown = saga("config", "show", "--json", **variables)

    assert migrated.returncode == 0, migrated.stderr
    assert listed.returncode == 0, listed.stderr
    assert json.loads(shown.stdout)["store_password"] == "***"
    for result in (migrated, listed, shown):
        assert secured.password not in result.stdout + result.stderr


def test_another_server_is_not_believed(secured: Secured, tmp_path: Path) -> None:
    """Signed by another authority, or called otherwise than its certificate says."""
    other = Authority(tmp_path / "other").certificate
    ours = secured.authority.certificate
    for address, says in (
        (secured.address("verify-full", other), "certificate verify failed"),
        (secured.address("verify-full", ours, host="elsewhere.test"), "elsewhere.test"),
        (secured.address("verify-ca", tmp_path / "none.pem"), "none.pem"),
    ):
        refused = saga("ls", SAGA_STORE=address, SAGA_STORE_PASSWORD=secured.password)

        assert refused.returncode == ExitCode.UNREACHABLE, refused.stderr
        assert says in refused.stderr.replace("\n", " ")
        assert "sslrootcert" in refused.stderr
        assert secured.password not in refused.stderr


@pytest.mark.parametrize("wrong", [{}, {"SAGA_STORE_PASSWORD": WRONG}])
def test_a_wrong_password_is_said_to_be_wrong(secured: Secured, wrong: dict[str, str]) -> None:
    """And so is none at all; with the setting."""
    address = secured.address("verify-full", secured.authority.certificate)
    refused = saga("ls", SAGA_STORE=address, **wrong)

    assert refused.returncode == ExitCode.UNREACHABLE
    assert "SAGA_STORE_PASSWORD" in refused.stderr
    assert WRONG not in refused.stderr
