"""
The same service with everything in PostgreSQL, on a real Kafka and on the embedded bus.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from saga import Service
from saga.core.status import SagaStatus
from tests.connected import KafkaAddress, database_on
from tests.scenarios import depot

ORDERS = 60
OVER_THE_LIMIT = 1_000
BOOKS = "SELECT what, order_id FROM effects"
INBOX = "SELECT key, outcome FROM saga_inbox"

MakeService = Callable[..., Service]


@pytest.fixture(params=["kafka", "embedded"])
def on_postgres(request: pytest.FixtureRequest, postgres: str, tmp_path: Path) -> MakeService:
    """
    Makes services whose stores are one database.
    """
    bus = {}
    if request.param == "kafka":
        cluster: KafkaAddress = request.getfixturevalue("kafka")
        bus = {"bus": cluster.url, "namespace": request.getfixturevalue("namespace")}

    def service(**settings: str) -> Service:
        return depot.service(tmp_path, store=postgres, **bus, **settings)

    return service


@pytest.fixture
def another_postgres(postgres_server: str) -> Iterator[str]:
    """
    One more empty database.
    """
    with database_on(postgres_server) as url:
        yield url


def rows(address: str, query: str) -> list[tuple[str, str]]:
    """
    What is there, as any other program sees it.
    """
    with psycopg.connect(address) as connection:
        return connection.execute(query).fetchall()


async def settle(service: Service) -> dict[str, SagaStatus]:
    """
    Place many orders, every third of which is refused, and wait for them to end.
    """
    amounts = {f"o-{n}": OVER_THE_LIMIT if n % 3 == 0 else n for n in range(ORDERS)}
    placed = [depot.OrderPlaced(order_id=name, amount=of) for name, of in amounts.items()]
    sagas = await asyncio.gather(*(service.publish(one) for one in placed))
    outcomes = await asyncio.gather(*(service.outcome(one, timeout=60) for one in sagas))
    await service.idle(timeout=30)
    return {name: one.status for name, one in zip(amounts, outcomes, strict=True)}


def expected_books(statuses: dict[str, SagaStatus]) -> Counter[tuple[str, str]]:
    """
    What the services have to have done.
    """
    books = Counter(("reserve", name) for name in statuses)
    for name, status in statuses.items():
        books["pay" if status is SagaStatus.COMPLETED else "unreserve", name] += 1
    return books


async def test_effects_are_kept_in_the_store_of_the_sagas(
    on_postgres: MakeService, postgres: str
) -> None:
    """
    Without a word about effects in the settings: each is done once, with one inbox row.
    """
    async with on_postgres() as service:
        statuses = await settle(service)

    assert Counter(statuses.values()) == {SagaStatus.COMPLETED: 40, SagaStatus.ROLLED_BACK: 20}
    books = Counter(rows(postgres, BOOKS))
    assert books == expected_books(statuses)
    outcomes = Counter(outcome for _, outcome in rows(postgres, INBOX))
    assert outcomes == {"done": sum(books.values()), "refused": 20}


async def test_effects_may_have_a_database_of_their_own(
    on_postgres: MakeService, postgres: str, another_postgres: str
) -> None:
    """
    Then there is nothing of theirs in that of the sagas.
    """
    async with on_postgres(effects_store=another_postgres) as service:
        statuses = await settle(service)

    assert Counter(rows(another_postgres, BOOKS)) == expected_books(statuses)
    with pytest.raises(psycopg.errors.UndefinedTable):
        rows(postgres, INBOX)
