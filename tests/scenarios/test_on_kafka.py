"""The same service on a real Kafka: nothing but the addresses differs."""

import asyncio
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from saga.contracts import contract_of
from saga.core.status import SagaStatus
from saga.errors import SettingsError
from saga.ports import Record
from tests.patience import HANG_S, until
from tests.scenarios import order_app
from tests.scenarios.examined import effects

ORDERS = 60
SIGNING_KEYS = "k1 c2FnYSB0ZXN0IHNlY3JldCwgMzIgYnl0ZXMgbG9uZyE="
OVER_THE_LIMIT = 1_000


@pytest.fixture
def on_kafka(kafka, namespace: str, tmp_path: Path):
    """Makes services on the cluster and one store."""

    def service(**settings):
        return order_app.service(tmp_path, bus=kafka.url, namespace=namespace, **settings)

    return service


async def test_sagas_are_confirmed_and_undone_on_kafka(on_kafka, tmp_path):
    """Each effect happens once; the reservation of an order that cannot be paid is undone."""
    amounts = {f"o-{n}": OVER_THE_LIMIT if n % 3 == 0 else n for n in range(ORDERS)}
    async with on_kafka() as service:
        placed = [order_app.OrderPlaced(order_id=name, amount=of) for name, of in amounts.items()]
        sagas = await asyncio.gather(*(service.publish(event) for event in placed))
        outcomes = await asyncio.gather(
            *(service.outcome(saga_id, timeout=HANG_S) for saga_id in sagas)
        )
        await service.idle(timeout=HANG_S)

    expected = Counter()
    for (name, amount), outcome in zip(amounts.items(), outcomes, strict=True):
        expected["reserve", name] = 1
        if amount == OVER_THE_LIMIT:
            expected["unreserve", name] = 1
            assert outcome.status is SagaStatus.ROLLED_BACK
            assert isinstance(outcome.event, order_app.OrderRejected)
        else:
            expected["pay", name] = 1
            assert outcome.status is SagaStatus.COMPLETED
            assert outcome.event == order_app.OrderConfirmed(order_id=name, shelf=f"s-{name}")
    assert Counter(effects(tmp_path)) == expected


async def test_a_service_goes_on_where_its_store_stands(on_kafka, tmp_path):
    """Whatever the group has committed.

    A second service under another group name finds nothing to do again, and takes the records that
    were published meanwhile.
    """
    async with on_kafka() as service:
        first = await service.publish(order_app.OrderPlaced(order_id="a"))
        await service.outcome(first, timeout=HANG_S)

    async with on_kafka(group="another") as service:
        second = await service.publish(order_app.OrderPlaced(order_id="b"))
        await service.outcome(second, timeout=HANG_S)
        await service.idle(timeout=HANG_S)
        counts = service.counts

    assert counts["started"] == 1, counts
    assert set(effects(tmp_path).values()) == {1}


async def test_replies_and_commands_are_signed_and_believed_on_kafka(on_kafka, namespace):
    """What a stranger writes to the same topics is set aside, and nothing comes of it."""
    async with on_kafka(signing_keys=SIGNING_KEYS) as service:
        saga = await service.publish(order_app.OrderPlaced(order_id="a"))
        forged = f"{saga}/reserve/do/1"
        contract = contract_of(order_app.Reserved).contract_name
        topic = f"dev.{namespace}.{contract}"
        await service.outcome(saga, timeout=HANG_S)
        headers = (("ce_causationid", forged.encode()),)
        await service.publisher.bus.publish([Record(topic, b"a", b'{"shelf":"x"}', headers)])
        await until(partial(_has_dead_letter, service))
        (letter,) = await service.catalogue.unhandled()

    assert letter.reason == "bad_signature"


async def _has_dead_letter(service) -> bool:
    return len(await service.catalogue.unhandled(values=False)) == 1


async def test_credentials_that_are_missing_are_asked_for(tmp_path):
    with pytest.raises(SettingsError, match="SAGA_KAFKA_SASL_USERNAME"):
        order_app.service(
            tmp_path, bus="kafka://127.0.0.1:9", kafka_security_protocol="SASL_PLAINTEXT"
        )
