"""A library whose private parts are used is one of the versions known, or is refused."""

from importlib.metadata import version

import pytest

from saga.adapters import versions
from saga.adapters.kafka import KafkaBus, KafkaConnection
from saga.errors import SettingsError


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch):
    """Have every library say that it is of one version."""
    versions.check_version.cache_clear()
    yield lambda found: monkeypatch.setattr(versions, "version", lambda library: found)
    versions.check_version.cache_clear()


@pytest.mark.parametrize("found", ["0.13.9", "0.15.0", "0.15.0rc1", "1.0"])
async def test_a_bus_on_an_unknown_aiokafka_is_refused(installed, found: str) -> None:
    """With the version found, those known, and what to install."""
    installed(found)
    with pytest.raises(SettingsError) as caught:
        KafkaBus(KafkaConnection(servers=("k:1",)))

    assert f"aiokafka {found} is installed" in str(caught.value)
    assert "pip install 'aiokafka>=0.14,<0.15'" in str(caught.value)


@pytest.mark.parametrize("found", ["0.14", "0.14.0", "0.14.7"])
async def test_a_later_patch_of_a_known_version_is_taken(installed, found: str) -> None:
    """Patches fix what is wrong and leave the parts where they are."""
    installed(found)
    await KafkaBus(KafkaConnection(servers=("k:1",))).close()


@pytest.mark.parametrize("found", ["0.7.7", "0.8.0"])
def test_an_unknown_faststream_is_refused(installed, found: str) -> None:
    """An earlier patch too: it does other things with a batch that fails."""
    installed(found)
    with pytest.raises(SettingsError, match=f"faststream {found} .*from 0.7.8 to below 0.8"):
        versions.check_version("faststream", setting="SAGA_BUS")


def test_the_versions_installed_are_known() -> None:
    """Otherwise nothing below would mean anything."""
    for library in versions.KNOWN:
        versions.check_version(library, setting="SAGA_BUS")
    assert version("aiokafka").startswith("0.14")
