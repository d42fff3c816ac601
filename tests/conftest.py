"""
What every test gets: no settings from the developer's shell, and the addresses of real services.

Tests marked `connected` ask for `kafka_servers` or `postgres_url` and are skipped where none is
given.
"""

import os

import pytest
from hypothesis import settings

# Two test processes share two cores: how long one example takes says nothing about the code.
settings.register_profile("saga", deadline=None)
settings.load_profile("saga")


def pytest_addoption(parser: pytest.Parser) -> None:
    """
    Takes the addresses of real services from options, or from the environment.
    """
    group = parser.getgroup("saga")
    group.addoption("--kafka", metavar="HOST:PORT", default=os.environ.get("TEST_KAFKA"))
    group.addoption("--postgres", metavar="URL", default=os.environ.get("TEST_POSTGRES"))


def pytest_configure() -> None:
    """
    Forgets `SAGA_…` variables: a test that needs a setting sets it.
    """
    for name in [name for name in os.environ if name.startswith("SAGA_")]:
        del os.environ[name]


@pytest.fixture(scope="session")
def kafka_servers(request: pytest.FixtureRequest) -> str:
    """
    The address of a running Kafka, `host:port[,host:port]`.
    """
    return request.config.getoption("--kafka") or pytest.skip("no Kafka: give --kafka=host:port")


@pytest.fixture(scope="session")
def postgres_url(request: pytest.FixtureRequest) -> str:
    """
    The address of a running PostgreSQL, `postgresql://user@host/database`.
    """
    return request.config.getoption("--postgres") or pytest.skip(
        "no PostgreSQL: give --postgres=url"
    )
