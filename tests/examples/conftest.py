"""Where an example runs: beside nothing but files, or with real servers behind it."""

import pytest

SERVERS = pytest.param("servers", marks=[pytest.mark.connected, pytest.mark.slow])
"""Every life joins its consumer groups anew, which takes seconds."""


@pytest.fixture(params=["files", SERVERS])
def pair(request: pytest.FixtureRequest) -> dict[str, str]:
    """Names bus and store to a program, by its environment; nothing means files in its folder."""
    if request.param == "files":
        return {}
    return {
        "SAGA_BUS": request.getfixturevalue("kafka").url,
        "SAGA_STORE": request.getfixturevalue("postgres"),
        "SAGA_NAMESPACE": request.getfixturevalue("namespace"),
        "SAGA_PARTITIONS": "2",
    }
