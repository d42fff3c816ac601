"""The same service with everything in PostgreSQL, on a real Kafka and on the embedded bus."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest

from saga import Intent, Service
from saga.adapters.opening import open_bus_and_store
from saga.contracts import contract_of
from saga.core.status import SagaStatus
from saga.ports import Source
from saga.settings import Settings
from saga.wiring import build_service
from tests.connected import KafkaAddress, database_on
from tests.patience import HANG_S
from tests.scenarios import order_app

ORDERS = 60
OVER_THE_LIMIT = 1_000
BOOKS = "SELECT what, order_id FROM effects"
INBOX = "SELECT step, outcome FROM saga_inbox"

MakeService = Callable[..., Service]


@pytest.fixture(params=["kafka", "embedded"])
def places(request: pytest.FixtureRequest, postgres: str, tmp_path: Path) -> dict[str, str]:
    bus = {}
    if request.param == "kafka":
        cluster: KafkaAddress = request.getfixturevalue("kafka")
        bus = {"bus": cluster.url, "namespace": request.getfixturevalue("namespace")}
    return order_app.addresses(tmp_path) | {"store": postgres} | bus


@pytest.fixture
def on_postgres(places: dict[str, str], tmp_path: Path) -> MakeService:
    def service(**settings: str) -> Service:
        return order_app.service(tmp_path, **places, **settings)

    return service


@pytest.fixture
def another_postgres(postgres_server: str) -> Iterator[str]:
    with database_on(postgres_server) as url:
        yield url


def rows(address: str, query: str) -> list[tuple[str, str]]:
    """The rows, as any other program sees them."""
    with psycopg.connect(address) as connection:
        return connection.execute(query).fetchall()


async def settle(service: Service) -> dict[str, SagaStatus]:
    """Place many orders, every third of which is refused, and wait for them to end."""
    amounts = {f"o-{n}": OVER_THE_LIMIT if n % 3 == 0 else n for n in range(ORDERS)}
    placed = [order_app.OrderPlaced(order_id=name, amount=of) for name, of in amounts.items()]
    sagas = await asyncio.gather(*(service.publish(event) for event in placed))
    outcomes = await asyncio.gather(
        *(service.outcome(saga_id, timeout=HANG_S) for saga_id in sagas)
    )
    await service.idle(timeout=HANG_S)
    return {name: outcome.status for name, outcome in zip(amounts, outcomes, strict=True)}


def expected_books(statuses: dict[str, SagaStatus]) -> Counter[tuple[str, str]]:
    books = Counter(("reserve", name) for name in statuses)
    for name, status in statuses.items():
        books["pay" if status is SagaStatus.COMPLETED else "unreserve", name] += 1
    return books


async def test_effects_are_kept_in_the_store_of_the_sagas(on_postgres, postgres):
    async with on_postgres() as service:
        statuses = await settle(service)

    assert Counter(statuses.values()) == {SagaStatus.COMPLETED: 40, SagaStatus.ROLLED_BACK: 20}
    books = Counter(rows(postgres, BOOKS))
    assert books == expected_books(statuses)
    outcomes = Counter(outcome for _, outcome in rows(postgres, INBOX))
    assert outcomes == {"done": sum(books.values()), "refused": 20}


async def test_effects_may_have_a_database_of_their_own(on_postgres, postgres, another_postgres):
    async with on_postgres(effects_store=another_postgres) as service:
        statuses = await settle(service)

    assert Counter(rows(another_postgres, BOOKS)) == expected_books(statuses)
    with pytest.raises(psycopg.errors.UndefinedTable):
        rows(postgres, INBOX)


def process(places: dict[str, str], *roles: str) -> Service:
    """A service of another process, with *roles* only."""
    return build_service(order_app.app(), Settings.read(**places), roles=roles)


async def test_an_outcome_of_another_process_is_heard_of(on_postgres, places, monkeypatch):
    """Who waits for it need not wait for the next time that the store is asked."""
    monkeypatch.setattr("saga.runtime.outcomes.POLL_S", 2 * HANG_S)
    monkeypatch.setattr("saga.runtime.outcomes.LISTENING_POLL_S", 2 * HANG_S)
    async with on_postgres(), process(places) as waiting:
        placed = order_app.OrderPlaced(order_id="o-1", amount=0)  # which takes some time
        outcome = await waiting.outcome(await waiting.publish(placed), timeout=HANG_S)

    assert outcome.status is SagaStatus.COMPLETED


async def test_stored_records_of_a_dead_process_are_published_by_another(
    on_postgres, places, monkeypatch
):
    monkeypatch.setattr("saga.runtime.orchestrator.DRAIN_S", 0.1)
    parts, stored = open_bus_and_store(Settings.read(**places)), asyncio.Event()

    async def publish(records: object) -> None:
        stored.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(parts.bus, "publish", publish)
    with monkeypatch.context() as patch:
        patch.setattr("saga.wiring.open_bus_and_store", lambda *_, **__: parts)
        mute = process(places, "orchestrator")
    async with on_postgres() as service:
        await mute.open()
        placed = [order_app.OrderPlaced(order_id=f"o-{number}") for number in range(ORDERS)]
        sagas = [await service.publish(event) for event in placed]
        async with asyncio.timeout(HANG_S):
            await stored.wait()
        await mute.stop()
        outcomes = await asyncio.gather(
            *(service.outcome(saga_id, timeout=HANG_S) for saga_id in sagas)
        )

    assert {outcome.status for outcome in outcomes} == {SagaStatus.COMPLETED}
    reserves = await sent(places, order_app.Reserve)
    assert len(reserves) == ORDERS
    assert {len(same) for same in reserves.values()} == {1}


async def sent(places: dict[str, str], model: type[Intent[Any]]) -> dict[bytes, set[object]]:
    """All that is on the topic of *model*, by its id."""

    async def from_the_beginning(sources: Sequence[Source]) -> dict[Source, int]:
        return dict.fromkeys(sources, 0)

    settings = Settings.read(**places)
    parts = open_bus_and_store(settings)
    topic = settings.topic_names.topic(contract_of(model).contract_name)
    found: dict[bytes, set[object]] = defaultdict(set)
    bounds = await parts.bus.bounds([Source(topic, n) for n in range(settings.partitions)])
    left = sum(end - begin for begin, end in bounds.values())
    consumer = await parts.bus.subscribe("who-looks-on", [topic], resume_at=from_the_beginning)
    try:
        while left > 0:
            for record in await consumer.fetch(records_max=500, timeout_s=0.2):
                left -= 1
                headers = dict(record.headers)
                found[headers["ce_id"]].add((record.key, record.value, *sorted(headers.items())))
    finally:
        await consumer.close()
        await parts.close()
    return found
