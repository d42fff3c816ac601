"""What every test gets: nothing of the developer's shell, and real servers if it asks for them."""

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

pytest_plugins = ["tests.connected"]

# Two test processes share two cores: how long one example takes says nothing about the code.
# A build decides the same twice; `--hypothesis-profile=search` looks at other examples each time.
settings.register_profile("saga", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None)
settings.load_profile("saga")


def pytest_configure() -> None:
    """Forgets `SAGA_…` variables: a test that needs a setting sets it.

    Ctrl-C is heard, by what tests start as well, although a shell has begun all this in background.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in [name for name in os.environ if name.startswith("SAGA_")]:
        del os.environ[name]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """A test may log half a surrogate pair, which test processes cannot tell each other."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    return report
