"""The benchmarks' command line, to be called in this process."""

import pytest

from benchmarks.command import program
from tests.console.conftest import Called, invoked, kept


def call(*words) -> Called:
    """`python -m benchmarks words…`."""
    return invoked(program(), words)


@pytest.fixture(autouse=True)
def untouched():
    """A command sets up its process; here that process has other tests to run."""
    with kept():
        yield
