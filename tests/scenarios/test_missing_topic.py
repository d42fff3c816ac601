"""A topic of a service on Kafka is deleted: sagas and answers that need it wait, no others."""

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from saga.console.cli.output import Printer
from saga.console.cli.rebasing import store_rebase
from saga.console.cli.session import Session
from saga.settings import Settings
from tests.patience import HANG_S, until
from tests.scenarios import order_app
from tests.scenarios.examined import effects


@pytest.fixture
async def admin(kafka):
    client = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await client.start()
    yield client
    await client.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shop.int.pay.v1", "shop.evt.reserved.v1"])
async def test_a_topic_that_is_deleted_stops_no_worker(kafka, admin, namespace, tmp_path, name):
    """The intents of an orchestrator, or the answers of an effect service, are kept.

    The process says which topic is missing, and goes on by itself once it is made again; where the
    orchestrator reads it, once an operator has accepted that. Each effect happens once.
    """
    topic = f"dev.{namespace}.{name}"
    given = order_app.addresses(tmp_path) | {"bus": kafka.url, "namespace": namespace}
    async with order_app.service(tmp_path, **given) as service:
        first = await service.publish(order_app.OrderPlaced(order_id="before"))
        await service.outcome(first, timeout=HANG_S)

        await admin.delete_topics([topic])
        orders = [order_app.OrderPlaced(order_id=f"o-{n}") for n in range(20)]
        sagas = [await service.publish(order) for order in orders]

        async def is_noticed() -> bool:
            return any(topic in problem for problem in await service.problems())

        async def is_done_before_it() -> bool:
            done = sum(what == "reserve" for what, _ in effects(tmp_path))
            return done == len(orders) + 1

        await until(is_noticed)
        await until(is_done_before_it)

        await admin.create_topics([NewTopic(topic, 4, 1)])
        if ".evt." in topic:

            async def is_stopped() -> bool:
                return any("topic id" in problem for problem in await service.problems())

            await until(is_stopped)
            session = Session(Settings.read({}, **given), Printer(is_json=True))
            await store_rebase(session, [topic], start="begin", reason="made again")

        async def is_well() -> bool:
            return await service.problems() == []

        await until(is_well)
        outcomes = [await service.outcome(saga_id, timeout=HANG_S) for saga_id in sagas]

    assert {outcome.status.value for outcome in outcomes} == {"completed"}
    assert set(effects(tmp_path).values()) == {1}
