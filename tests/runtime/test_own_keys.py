"""An event with a key of its own travels under it, whoever publishes it, and starts its saga."""

import asyncio
from enum import StrEnum
from typing import Any
from uuid import UUID

import pytest

from saga import Context, EffectContext, Effects, Event, Intent, SagaApp, saga
from saga.authoring import SagaDefinition
from saga.contracts import cloudevents as ce
from saga.core.identity import saga_id
from saga.core.retry import ONCE
from saga.runtime.unit_of_work import InboundBatch
from saga.testing import given
from tests.patience import HANG_S
from tests.records import header
from tests.runtime.fixtures import Scenario

INVOICE = UUID("6f4c29a6-6a3c-5d0e-9a55-0d5c6f0b8a11")
DELIVERY = saga_id("delivery", "d-1")
PAY = f"{DELIVERY}/pay/do/1"


class Region(StrEnum):
    EU = "eu"


class Delivered(Event, topic="own.delivered", version=1, key="delivery_id"):
    delivery_id: str
    with_key: bool = True


class Paid(Event, topic="own.paid", version=1, key="receipt"):
    receipt: str


class Pay(Intent[Paid], topic="own.pay", version=1):
    amount: int = 1


class Invoiced(Event, topic="own.invoiced", version=1, key="invoice_id"):
    invoice_id: UUID


class Sold(Event, topic="own.sold", version=1, key="region"):
    region: Region | None


class Closed(Event, topic="own.closed", version=1):
    why: str = ""


class Failed(Event, topic="own.failed", version=1, key="code"):
    code: str | None


class Booked(Event, topic="own.booked", version=1):
    what: str


@saga("delivery", version=1, starts_on=Delivered, rolled_back=Failed)
async def delivery(ctx: Context, delivered: Delivered) -> Invoiced:
    await ctx.publish(Sold(region=Region.EU if delivered.with_key else None))
    await ctx.do(Pay(), id="pay", retry=ONCE)
    return Invoiced(invoice_id=INVOICE)


def follower(name: str, trigger: type[Event]) -> SagaDefinition:
    @saga(name, version=1, starts_on=trigger)
    async def follow(ctx: Context, event: Any) -> Booked:
        return Booked(what=name)

    return follow


@pytest.fixture
def scenario() -> Scenario:
    sagas = [("invoice", Invoiced), ("region", Sold), ("receipt", Paid), ("failure", Failed)]
    return Scenario(delivery, *(follower(*each) for each in sagas))


async def begin(scenario: Scenario, **said: Any) -> None:
    await scenario.take(scenario.event(Delivered(delivery_id="d-1", **said), "d-1"))


async def test_a_fact_that_a_saga_publishes_travels_under_its_own_key(scenario):
    await begin(scenario)
    await scenario.take()

    assert [one.key for one in scenario.on(Sold)] == [b"eu"]
    assert scenario.status(saga_id("region", "eu")) == "completed"
    assert scenario.dead_letters() == []
    scenario.check(is_all_published=False)


async def test_an_outcome_travels_under_its_own_key_and_starts_its_saga(scenario):
    await begin(scenario)
    await scenario.take(scenario.reply(PAY, Paid(receipt="r-1"), key="d-1"))
    await scenario.take()

    assert [one.key for one in scenario.on(Invoiced)] == [str(INVOICE).encode()]
    assert header(scenario.on(Invoiced)[0], ce.SUBJECT) == DELIVERY
    assert scenario.status(saga_id("invoice", str(INVOICE))) == "completed"
    assert scenario.dead_letters() == []


async def test_the_outcome_of_a_rollback_does_so_too(scenario):
    await begin(scenario)
    refused = scenario.record(
        "test.toys.own.evt.intent-failed.v1",
        b"d-1",
        b'{"outcome":"refused","code":"limit"}',
        ((ce.CAUSATION_ID, PAY.encode()),),
    )
    await scenario.take(refused)
    await scenario.take()

    assert [one.key for one in scenario.on(Failed)] == [b"limit"]
    assert scenario.status(saga_id("failure", "limit")) == "completed"


async def test_an_event_whose_key_is_empty_here_travels_under_its_sagas(scenario):
    await begin(scenario, with_key=False)

    assert [one.key for one in scenario.on(Sold)] == [b"d-1"]


async def test_what_another_worker_publishes_has_the_same_key():
    """The one that stored it died before."""
    scenario = Scenario(delivery, shares_file=False)
    await scenario.make_topics()
    scenario.bus.append([scenario.event(Delivered(delivery_id="d-1"), "d-1")])
    await scenario.turns.take_turns(InboundBatch(scenario.unread()))
    assert scenario.on(Sold) == []

    scenario.restart(delivery)
    await scenario.relay.take_over(older_than_s=-1)

    assert [one.key for one in scenario.on(Sold)] == [b"eu"]
    assert [one.key for one in scenario.on(Pay)] == [b"d-1"]


async def test_a_reply_has_its_sagas_key_and_may_start_another_saga_under_its_own(scenario):
    await begin(scenario)
    await scenario.take(scenario.reply(PAY, Paid(receipt="r-1"), key="d-1"))

    assert scenario.status(DELIVERY) == "completed"
    assert scenario.status(saga_id("receipt", "r-1")) == "completed"
    assert scenario.dead_letters() == []


async def test_an_event_that_names_an_intent_as_its_cause_is_no_reply(scenario):
    """As a handler does that publishes it with the intent for its cause."""
    await begin(scenario)
    caused = ((ce.ID, b"m-1"), (ce.CAUSATION_ID, PAY.encode()))
    region = scenario.record("test.toys.own.evt.sold.v1", b"eu", b'{"region":"eu"}', caused)
    await scenario.take(region)

    assert scenario.status(saga_id("region", "eu")) == "completed"
    assert scenario.status(DELIVERY) == "running"
    assert [letter.reason for letter in scenario.dead_letters()] == []


async def test_not_even_where_it_is_the_reply_to_another_intent(scenario):
    """Or its cause is an intent of a saga that this store does not have."""
    unknown = f"{saga_id('delivery', 'd-2')}/pay/do/1"
    for number, cause in enumerate((f"{DELIVERY}/other/do/1", unknown)):
        caused = ((ce.CAUSATION_ID, cause.encode()),)
        payload = b'{"receipt":"r-%d"}' % number
        await scenario.take(
            scenario.record("test.toys.own.evt.paid.v1", b"r-%d" % number, payload, caused)
        )

        assert scenario.status(saga_id("receipt", f"r-{number}")) == "completed"
    assert scenario.dead_letters() == []
    assert scenario.deferred() == []


async def test_a_trigger_under_another_key_than_its_own_is_refused(scenario):
    await scenario.take(scenario.event(Sold(region=Region.EU), "de"))

    assert [letter.reason for letter in scenario.dead_letters()] == ["wrong_key"]


@pytest.mark.parametrize("key", ["", " ", "k" * 1_001])
async def test_an_event_with_a_key_that_can_be_none_parks_the_saga_that_publishes_it(key):
    @saga("odd", version=1, starts_on=Delivered)
    async def odd(ctx: Context, delivered: Delivered) -> Paid:
        return Paid(receipt=key)

    scenario = Scenario(odd)
    await begin(scenario)

    assert scenario.status(saga_id("odd", "d-1")) == "parked"
    assert "the business key" in scenario.reason(saga_id("odd", "d-1"))
    with pytest.raises(Exception, match="the business key"):
        given(odd, Delivered(delivery_id="d-1")).then_nothing()


@pytest.mark.parametrize("is_apart", [False, True], ids=["one file", "two files"])
async def test_a_whole_service_goes_from_saga_to_saga_by_their_keys(tmp_path, is_apart):
    payments = Effects("payments")

    @payments.on(Pay)
    async def pay(intent: Pay, ctx: EffectContext) -> Paid:
        return Paid(receipt="r-1")

    app = SagaApp(
        sagas=[delivery, follower("invoice", Invoiced), follower("receipt", Paid)],
        effects=[payments],
    )
    bus = tmp_path / ("bus.db" if is_apart else "saga.db")
    addresses = {"bus": f"local:///{bus}", "store": f"sqlite:///{tmp_path / 'saga.db'}"}
    async with app.service(**addresses) as service:
        await service.publish(Delivered(delivery_id="d-1"))
        await service.idle(timeout=HANG_S)  # a saga that is not there yet has no outcome
        waited = [service.outcome(saga_id("invoice", str(INVOICE))), service.outcome(DELIVERY)]
        waited.append(service.outcome(saga_id("receipt", "r-1")))
        async with asyncio.timeout(HANG_S):
            outcomes = await asyncio.gather(*waited)

        assert [one.status.value for one in outcomes] == ["completed"] * 3
        assert await service.catalogue.unhandled() == []
