"""What every test gets: no settings from the developer's shell, and real servers if it asks for
them.
"""

import os

from hypothesis import settings

pytest_plugins = ["tests.connected"]

# Two test processes share two cores: how long one example takes says nothing about the code.
settings.register_profile("saga", deadline=None)
settings.load_profile("saga")


def pytest_configure() -> None:
    """Forgets `SAGA_…` variables: a test that needs a setting sets it."""
    for name in [name for name in os.environ if name.startswith("SAGA_")]:
        del os.environ[name]
