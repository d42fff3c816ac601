"""One assembly makes the objects of a process, each once, of the parts that it is given."""

import pytest

from saga.adapters.clocks import ManualClock
from saga.adapters.memory import MemoryBus, MemoryCatalogue, MemoryEventStore
from saga.adapters.opening import open_bus_and_store
from saga.application import Application
from saga.assembly import Assembly, Parts
from saga.contracts import Event
from saga.runtime.turns import Turns
from saga.settings import Settings


class Asked(Event, topic="assembly.asked", version=1, key="id"):
    id: str = "a-1"


class Watched(Turns):
    pass


@pytest.fixture
def parts() -> Parts:
    clock = ManualClock()
    store = MemoryEventStore()
    return Parts(
        bus=MemoryBus(clock=clock),
        store=store,
        catalogue=MemoryCatalogue(store),
        clock=clock,
        worker_id="worker-1",
        new_id=lambda: "m-1",
    )


def assembly_of(parts: Parts, **options) -> Assembly:
    return Assembly(Application(contracts=[Asked]), Settings.read({}), parts, **options)


def test_each_object_is_made_once(parts):
    assembly = assembly_of(parts)

    for name in ("waiters", "relay", "router", "cache", "turns", "orchestrator", "publisher"):
        assert getattr(assembly, name) is getattr(assembly, name)
    assert assembly.commands.publisher is assembly.publisher


def test_what_is_not_asked_for_is_not_made(parts):
    """A command that sends something needs no orchestrator."""
    assembly = assembly_of(parts)
    assert assembly.publisher.bus is parts.bus

    assert {"publisher", "writer"} <= vars(assembly).keys()
    assert not {"orchestrator", "turns", "relay"} & vars(assembly).keys()


async def test_the_parts_given_are_the_parts_used(parts):
    assembly = assembly_of(parts)
    written = assembly.writer.record(Asked())
    headers = dict(written.record.headers)

    assert (written.message_id, headers["ce_id"]) == ("m-1", b"m-1")
    assert headers["ce_time"].startswith(b"2023-11-14T22:13:20")
    assert assembly.worker_id == "worker-1"


def test_turns_may_be_of_a_kind_that_watches(parts):
    assert type(assembly_of(parts).turns) is Turns
    assert type(assembly_of(parts, turns_type=Watched).turns) is Watched


def test_a_process_without_a_name_gets_one_of_its_own(parts):
    nameless = Parts(bus=parts.bus, store=parts.store, catalogue=parts.catalogue, clock=parts.clock)

    assert assembly_of(nameless).worker_id != assembly_of(nameless).worker_id


@pytest.mark.parametrize("is_one_file", [True, False])
async def test_bus_and_store_open_as_one_where_they_are_one_file(tmp_path, is_one_file):
    store = tmp_path / ("s.db" if is_one_file else "t.db")
    settings = Settings.read({}, bus=f"local:///{tmp_path}/s.db", store=f"sqlite:///{store}")
    opened = open_bus_and_store(settings)

    assert settings.is_one_file is is_one_file
    assert store.exists()
    await opened.close()
