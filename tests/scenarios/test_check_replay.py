"""`service(check_replay=True)`: what a function takes from elsewhere shows when its saga ends."""

import logging
import socket
import subprocess
import threading
import time
from itertools import count

import pytest

from saga import Context, Effects, SagaApp, saga
from saga.errors import ReplayMismatch
from saga.testing import given, replied
from tests.toys import CONTRACTS, OrderConfirmed, OrderPlaced, Ship, as_saga

AT_MOST_S = 60
chance = count()


async def differing(ctx: Context, placed: OrderPlaced) -> OrderConfirmed:
    await ctx.do(Ship(order_id=f"o-{next(chance)}"))
    return OrderConfirmed()


async def even(ctx: Context, placed: OrderPlaced) -> OrderConfirmed:
    await ctx.do(Ship(order_id=str(ctx.uuid())))
    return OrderConfirmed()


@pytest.fixture
def places(tmp_path):
    return {"bus": f"local:///{tmp_path}/saga.db", "store": f"sqlite:///{tmp_path}/saga.db"}


def app_of(function):
    shop = Effects("shop")

    @shop.on(Ship)
    async def ship(intent: Ship, ctx) -> None: ...

    order = saga("order", version=1, starts_on=OrderPlaced)(function)
    return SagaApp(sagas=[order], effects=[shop], contracts=[OrderConfirmed])


async def run(function, places, **options):
    async with app_of(function).service(**places, **options) as service:
        ids = [await service.start(OrderPlaced(order_id=f"o-{n}")) for n in range(3)]
        outcomes = [await service.outcome(each, timeout=AT_MOST_S) for each in ids]
        await service.idle(timeout=AT_MOST_S)
        return outcomes, service.status(), service.counts


async def test_leaving_the_service_raises_where_a_saga_decides_otherwise(places, caplog):
    with caplog.at_level(logging.ERROR), pytest.raises(ReplayMismatch) as raised:
        await run(differing, places, check_replay=True)

    assert "of saga order/o-" in str(raised.value)
    assert "ship/do/1" in str(raised.value)
    logged = [record for record in caplog.records if "does not replay" in record.message]
    assert len(logged) == 3
    assert all(record.saga_id for record in logged)


async def test_the_status_of_a_service_says_so_at_once(places):
    with pytest.raises(ReplayMismatch):  # noqa: PT012 - it is raised when the service is left
        async with app_of(differing).service(**places, check_replay=True) as service:
            found = await service.start(OrderPlaced())
            await service.outcome(found, timeout=AT_MOST_S)
            await service.idle(timeout=AT_MOST_S)
            assert service.status()["replay check"] == "1 of 1 sagas replayed otherwise"


async def test_sagas_that_replay_are_counted_and_nothing_else(places):
    outcomes, status, counts = await run(even, places, check_replay=True)

    assert [each.event for each in outcomes] == [OrderConfirmed()] * 3
    assert status["replay check"] == "up"
    assert counts["replayed"] == 3
    assert counts["replayed_otherwise"] == 0


async def test_without_it_nothing_is_replayed(places):
    _, status, counts = await run(differing, places)

    assert "replay check" not in status
    assert counts["replayed"] == 0


def _sleep():
    time.sleep(0)


def _thread():
    threading.Thread(target=print).start()


def _process():
    subprocess.run(["true"], check=True)


def _socket():
    socket.getaddrinfo("127.0.0.1", 80)


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (_sleep, "sleeps, which no replay gives again: use await ctx.sleep"),
        (_thread, "starts a thread"),
        (_process, "starts a process"),
        (_socket, "opens a connection"),
    ],
)
class TestAtRunTime:
    async def test_a_saga_parks_that_reaches_for_the_machine(self, places, act, says):
        async def reaching(ctx: Context, placed: OrderPlaced) -> None:
            act()

        outcomes, _, _ = await run(reaching, places, check_replay=True)

        assert says in outcomes[0].reason
        assert f"{__file__}:{act.__code__.co_firstlineno + 1}" in outcomes[0].reason

    def test_given_refuses_it_too(self, act, says):
        async def reaching(ctx: Context, placed: OrderPlaced) -> None:
            await ctx.do(Ship())
            act()

        scenario = given(as_saga(reaching), OrderPlaced(), contracts=CONTRACTS)
        scenario.when(replied(Ship)).then_parked(says)

    def test_others_may_do_as_they_like(self, act, says):
        given(as_saga(even), OrderPlaced(), contracts=CONTRACTS)
        act()
