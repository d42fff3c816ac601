"""`/metrics` tells what was done, how far everything is, and what is in the store."""

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from saga.adapters.http import METRICS, pages
from saga.core.status import SagaStatus
from saga.errors import StoreUnavailable
from saga.runtime.health import STATISTICS_AGE_S, OrchestratorHealth
from saga.runtime.store_clock import StoreClock
from tests.adapters.test_http import serving
from tests.pages import page
from tests.patience import HANG_S
from tests.runtime.fixtures import Scenario
from tests.runtime.test_turns import placed
from tests.runtime.toys import Reserve, orders
from tests.scenarios import order_app


class MetricsPage:
    """A page of metrics, parsed."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        """The value of one sample."""
        return self.samples[name, tuple(sorted(labels.items()))]

    def sum(self, name: str, **labels: str) -> float:
        """The sum over all samples with these labels, of which there must be one."""
        wanted = set(labels.items())
        values = [
            value
            for (sample, its), value in self.samples.items()
            if sample == name and wanted <= set(its)
        ]
        assert values, name
        return sum(values)


async def scraped(address: str) -> MetricsPage:
    """The page that Prometheus gets."""
    status, head, text = await page(address, METRICS)
    assert status == 200
    assert "text/plain" in head
    return MetricsPage(text)


async def test_a_service_shows_its_work(tmp_path: Path) -> None:
    """Sagas by definition and outcome, effects by service, positions and lag of all who read."""
    service = serving(tmp_path, http="127.0.0.1:0")
    async with service:
        amounts = {"a": 1, "b": 2, "dear": 1_000}
        placed = [
            order_app.OrderPlaced(order_id=name, amount=amount) for name, amount in amounts.items()
        ]
        waits = order_app.OrderPlaced(order_id="waits", wants_approval=True)
        sagas = [await service.publish(order) for order in placed]
        await service.publish(waits)
        for saga in sagas:
            await service.outcome(saga, timeout=HANG_S)
        await service.idle(timeout=HANG_S)
        page = await scraped(next(iter(service._roles)).address)  # noqa: SLF001

    assert page("saga_ready") == page("saga_store_up") == 1
    assert page("saga_started_total", definition="order") == 4
    assert page("saga_finished_total", definition="order", outcome="completed") == 2
    assert page("saga_finished_total", definition="order", outcome="rolled_back") == 1
    assert page("saga_compensations_total", definition="order") == 1
    assert page("saga_duration_seconds_count", definition="order") == 3
    assert page("saga_duration_seconds_bucket", definition="order", le="+Inf") == 3
    assert page("saga_active", definition="order", state="running") == 1
    assert page("saga_turns_total") > 8
    assert page("saga_tx_duration_seconds_count") > 0
    assert page("saga_effects_total", service="stock", outcome="done") == 5
    assert page("saga_effects_total", service="wallets", outcome="refused") == 1
    assert page("saga_records_total") == 4 + 8
    assert page("saga_dlq_total") == page("saga_outbox_pending") == 0
    groups = {dict(its)["group"] for name, its in page.samples if name == "saga_records_in_hand"}
    assert len(groups) == 3
    for group in groups:
        assert page("saga_partitions_assigned", group=group) > 0
        assert page("saga_partitions_stopped", group=group) == 0
        assert page("saga_records_in_hand", group=group) == 0
        assert page.sum("saga_consumer_lag", group=group) == 0
    assert page.sum("saga_consumer_position", topic="dev.saga.shop.int.pay.v1") == 3
    assert page("process_virtual_memory_bytes") > 0


async def page_of(scenario: Scenario) -> tuple[OrchestratorHealth, MetricsPage]:
    """The orchestrator's health and what a page says of it."""
    health = OrchestratorHealth(
        scenario.orchestrator,
        scenario.store,
        StoreClock(scenario.store, scenario.clock),
        statistics=scenario.statistics,
        group="orchestrators",
    )
    return health, await scrape(health)


async def scrape(health: OrchestratorHealth) -> MetricsPage:
    """What the page says now."""
    return MetricsPage(bytes((await pages([health])[METRICS]()).body).decode())


async def test_trouble_is_shown() -> None:
    """Not ready before the start; then backlog, timers and dead letters of the store."""
    scenario = Scenario(orders(), shares_file=False)
    health, page = await page_of(scenario)
    assert page("saga_ready") == 0
    async with scenario.serving():
        scenario.bus.append(
            [placed(scenario), scenario.record(scenario.router.topics[0], b"k", b"no json")]
        )
        await scenario.until(lambda: len(scenario.on(Reserve)) == 1)
        await scenario.while_passing(STATISTICS_AGE_S)
        page = await scrape(health)
        assert page("saga_ready") == 1
        assert page("saga_started_total", definition="order") == 1
        assert page("saga_active", definition="order", state=SagaStatus.RUNNING.value) == 1
        assert page("saga_dlq_total") == 1
        assert page.sum("saga_unhandled", kind="dead") == 1


async def test_the_store_is_counted_at_most_every_few_seconds() -> None:
    """Not with every request; a store that is away, or silent, costs little waiting."""
    scenario = Scenario(orders(), shares_file=False)
    health, page = await page_of(scenario)
    assert page.sum("saga_store_up") == 1
    taken = []
    take = scenario.statistics.take

    async def counted(*, at):
        taken.append(at)
        return await take(at=at)

    scenario.statistics.take = counted
    await scrape(health)
    assert taken == []
    scenario.clock.advance(STATISTICS_AGE_S)
    await scrape(health)
    await scrape(health)
    assert len(taken) == 1

    async def fail(*, at):
        raise StoreUnavailable("away")

    scenario.statistics.take = fail
    scenario.clock.advance(STATISTICS_AGE_S)
    page = await scrape(health)
    assert page("saga_store_up") == 0
    assert page.families["saga_active"].samples == []


async def test_a_service_on_kafka_shows_the_same(kafka, namespace: str, tmp_path: Path) -> None:
    """Orchestrator and effects, with the positions in the topics as the brokers have them."""
    service = serving(tmp_path, bus=kafka.url, namespace=namespace, http="127.0.0.1:0")
    async with service:
        for number in range(10):
            order = order_app.OrderPlaced(order_id=f"o-{number}")
            await service.outcome(await service.publish(order), timeout=HANG_S)
        page = await scraped(next(iter(service._roles)).address)  # noqa: SLF001

    assert page("saga_ready") == 1
    assert page("saga_finished_total", definition="order", outcome="completed") == 10
    assert page("saga_effects_total", service="wallets", outcome="done") == 10
    orchestrators = f"dev.{namespace}.saga-orchestrator.order"
    topic = f"dev.{namespace}.shop.evt.order-placed.v1"
    assert page.sum("saga_consumer_position", group=orchestrators, topic=topic) == 10
    assert page.sum("saga_consumer_lag", group=orchestrators, topic=topic) == 0
    topic = f"dev.{namespace}.shop.int.pay.v1"
    assert page.sum("saga_consumer_position", topic=topic) == 10
