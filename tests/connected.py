"""Fixtures with real servers behind them, and the options that name servers which already run.

A test that asks for one of them is `connected` without saying so. It never skips: where a server
cannot be had, it fails and says what to install.
"""

from __future__ import annotations

import gc
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from infra import InfraError, Kafka, Postgres
from infra.scratch import scratch_folder
from tests.servers import Borrowed, Servers, Unavailable

FIXTURES = {"kafka", "postgres", "postgres_server", "own_kafka", "own_postgres"}

_SERVERS = pytest.StashKey[Servers | Borrowed]()


@dataclass(frozen=True, slots=True)
class KafkaAddress:
    """Where the Kafka of this run is."""

    bootstrap: str

    @property
    def url(self) -> str:
        return f"kafka://{self.bootstrap}"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Takes the addresses of real services from options, or from the environment."""
    group = parser.getgroup("saga")
    group.addoption(
        "--kafka",
        metavar="HOST:PORT",
        default=os.environ.get("TEST_KAFKA"),
        help="use this Kafka instead of starting one",
    )
    group.addoption(
        "--postgres",
        metavar="URL",
        default=os.environ.get("TEST_POSTGRES"),
        help="use this PostgreSQL instead of starting one; the user must be able to make databases",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Says who owns the servers: this process, or the one that started it."""
    place = getattr(config, "workerinput", {}).get("servers")
    config.stash[_SERVERS] = (
        Servers(kafka=config.getoption("--kafka"), postgres=config.getoption("--postgres"))
        if place is None
        else Borrowed(place)
    )


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node) -> None:
    """Tells a test process where to ask."""
    node.workerinput["servers"] = node.config.stash[_SERVERS].place


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stops the servers, whatever became of the tests."""
    servers = config.stash.get(_SERVERS, None)
    if isinstance(servers, Servers):
        servers.stop()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what needs a server, before `-m` chooses."""
    for item in items:
        if FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.connected)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """What a test left open to a server is found in that test and not in one that runs later."""
    yield
    if item.get_closest_marker("connected"):
        gc.collect()


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest) -> KafkaAddress:
    """A running Kafka, shared by all tests of the run: use topics and groups below `namespace`."""
    return KafkaAddress(_address(request, "kafka"))


@pytest.fixture(scope="session")
def postgres_server(request: pytest.FixtureRequest) -> str:
    """A running PostgreSQL, shared by all tests of the run; its user may make databases."""
    return _address(request, "postgres")


@pytest.fixture
def postgres(postgres_server: str) -> Iterator[str]:
    """An empty database of one's own, dropped at the end with whoever still uses it."""
    with database_on(postgres_server) as url:
        yield url


@contextmanager
def database_on(server: str) -> Iterator[str]:
    """The address of a new database, dropped at the end with whoever still uses it."""
    name = f"t_{secrets.token_hex(6)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    yield urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
def namespace() -> str:
    """A name that no other test has, fit for `SAGA_NAMESPACE` and so for topics and groups."""
    return f"t{secrets.token_hex(6)}"


@pytest.fixture
def server_folder() -> Iterator[Path]:
    """A folder for servers of one's own: PostgreSQL's user can reach it, unlike `tmp_path`."""
    with scratch_folder() as folder:
        yield folder


@pytest.fixture
def own_kafka(request: pytest.FixtureRequest, server_folder: Path) -> Iterator[Kafka]:
    """A Kafka that may be killed, of as many brokers as the test is parametrized with."""
    server = Kafka(server_folder / "kafka", brokers=getattr(request, "param", 1))
    yield from _started(server)


@pytest.fixture
def own_postgres(server_folder: Path) -> Iterator[Postgres]:
    yield from _started(Postgres(server_folder / "postgres"))


def _address(request: pytest.FixtureRequest, name: str) -> str:
    try:
        return request.config.stash[_SERVERS].address(name)
    except Unavailable as error:
        pytest.fail(str(error), pytrace=False)


def _started(server):
    try:
        server.start()
    except InfraError as error:
        pytest.fail(str(error), pytrace=False)
    yield server
    server.kill()
