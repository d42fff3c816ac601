"""A process that starts before its store or bus waits for them: alive, not ready, saying why."""

import asyncio
import http.client
import logging

import pytest

from infra.ports import free_port
from saga.adapters.clocks import ManualClock, SystemClock
from saga.core.status import SagaStatus
from saga.errors import BusUnavailable, StoreUnavailable
from saga.settings import Settings
from saga.starting import Start
from tests.patience import HANG_S
from tests.scenarios import order_app

NOBODY = "postgresql://saga@127.0.0.1:1/saga"


async def until_says(service, words: str) -> None:
    """The test's own limit ends a wait in vain."""
    reasons: list[str] = []
    while not any(words in why for why in reasons):
        await asyncio.sleep(0.01)
        reasons = await service.problems()


async def test_a_start_waits_for_what_passes_by_itself_and_says_so(caplog):
    """Step by step, with a line in the log."""
    left = {"the store": 3, "the bus": 2}
    clock = ManualClock()

    def away(what: str, error: type[Exception]):
        async def act() -> None:
            left[what] -= 1
            if left[what]:
                raise error(f"{what} is away")

        return what, act

    async def begin() -> None:
        await start.wait_for(*away("the store", StoreUnavailable))
        await start.wait_for(*away("the bus", BusUnavailable))

    start = Start(clock)
    assert await start.why_not_ready() == []
    starting = asyncio.create_task(begin())
    reasons = []
    with caplog.at_level(logging.WARNING):
        while not starting.done():
            await asyncio.sleep(0)
            reasons += await start.why_not_ready()
            assert start.why_dead() == []
            clock.advance(1)
    await starting

    assert "start: waits for the store: the store is away" in reasons
    assert "start: waits for the bus: the bus is away" in reasons
    assert await start.why_not_ready() == []
    assert "waits for the store" in caplog.text


async def test_what_does_not_pass_by_itself_ends_a_start():
    """A wrong password is nothing to wait for."""
    error = StoreUnavailable("wrong password")
    error.passes = False

    async def act() -> None:
        raise error

    with pytest.raises(StoreUnavailable, match="wrong password"):
        await Start(SystemClock()).wait_for("the store", act)


@pytest.mark.parametrize("role", ["orchestrator", "effects"])
async def test_a_service_whose_store_is_away_is_alive_and_not_ready(tmp_path, monkeypatch, role):
    """Its probes answer meanwhile, and it can be stopped."""
    monkeypatch.chdir(tmp_path)
    port = free_port()
    settings = Settings.read({}, store=NOBODY, bus="local:///bus.db", http=f"127.0.0.1:{port}")
    service = order_app.app().build_service(settings, roles=[role], has_probes=True)
    starting = asyncio.create_task(service.open())

    await until_says(service, "waits for the store")
    answers = [await asyncio.to_thread(asked, port, path) for path in ("live", "ready")]

    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    assert answers == [200, 503]
    assert not starting.done() or starting.cancelled()


def asked(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HANG_S)
    connection.request("GET", f"/health/{path}")
    status = connection.getresponse().status
    connection.close()
    return status


@pytest.mark.parametrize("first", ["kafka", pytest.param("postgres", marks=pytest.mark.long)])
@pytest.mark.timeout(240)
async def test_servers_may_come_after_the_process_in_any_order(
    own_kafka, own_postgres, tmp_path, monkeypatch, first
):
    """All roles; then it works as if they had been there."""
    monkeypatch.chdir(tmp_path)
    addresses = {"bus": f"kafka://{own_kafka.bootstrap}", "store": own_postgres.url()}
    servers = {"kafka": own_kafka, "postgres": own_postgres}
    for server in servers.values():
        server.kill()
    settings = Settings.read({}, **addresses, effects_store=addresses["store"], http="off")
    service = order_app.app().build_service(settings)
    starting = asyncio.create_task(service.open())
    await until_says(service, "waits for the store")

    await asyncio.to_thread(servers.pop(first).start)
    if first == "postgres":
        await until_says(service, "waits for the bus")
    assert not starting.done()
    for server in servers.values():
        await asyncio.to_thread(server.start)
    await starting

    saga = await service.publish(order_app.OrderPlaced(order_id="o-1", amount=1))
    assert (await service.outcome(saga)).status is SagaStatus.COMPLETED
    assert await service.problems() == []
    await service.stop()
