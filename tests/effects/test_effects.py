"""Handlers are checked when they are registered; an error names the line."""

import re

import pytest

from saga.contracts import ContractRegistry, Event, Intent, upcast
from saga.effects import EffectContext, Effects, Refused
from saga.errors import DefinitionError
from tests.effects.fixtures import NAMES, Scenario
from tests.toys import OrderConfirmed, Paid, Pay, Refund

HERE = re.escape(__file__) + r":\d+: "


def refused(match: str):
    """Expects a DefinitionError that begins with this file and a line."""
    return pytest.raises(DefinitionError, match=HERE + match)


def test_a_fitting_handler_is_registered_and_returned():
    effects = Effects("e")

    @effects.on(Pay)
    async def pay(intent: Pay, ctx: EffectContext) -> Paid:
        return Paid(receipt="r")

    @effects.on(Refund)
    def refund(intent, ctx): ...

    @effects.listens(OrderConfirmed)
    async def done(event: OrderConfirmed, ctx: EffectContext) -> None: ...

    assert list(effects.intents) == [Pay, Refund]
    assert effects.intents[Pay].function is pay
    assert [handler.is_async for handler in effects.intents.values()] == [True, False]
    assert list(effects.facts) == [OrderConfirmed]


@pytest.mark.parametrize("name", ["", "A", "a b", "a.b", "-a"])
def test_a_name_must_fit_into_a_topic(name):
    with refused("Effects"):
        Effects(name)


def test_a_handler_takes_message_and_context():
    effects = Effects("e")
    with refused(r".*alone must take two arguments.*\(Pay, EffectContext\) -> Paid"):

        @effects.on(Pay)
        async def alone(intent: Pay): ...

    with refused(".*three must take two arguments"):

        @effects.on(Pay)
        async def three(intent, ctx, more): ...

    with refused(".*named needs 'more' by name"):

        @effects.on(Pay)
        async def named(intent, ctx, *, more): ...

    @effects.on(Pay)
    async def optional(intent, ctx, more=1): ...


def test_annotations_must_fit_the_contract():
    effects = Effects("e")
    with refused(".*wrong_intent has 'intent' annotated as Refund, but handles shop.int.pay"):

        @effects.on(Pay)
        async def wrong_intent(intent: Refund, ctx: EffectContext) -> Paid: ...

    with refused(".*wrong_context has 'ctx' annotated as int"):

        @effects.on(Pay)
        async def wrong_context(intent: Pay, ctx: int) -> Paid: ...

    with refused(".*wrong_reply has 'return' annotated as NoneType"):

        @effects.on(Pay)
        async def wrong_reply(intent: Pay, ctx: EffectContext) -> None: ...

    with refused(".*listener has 'return' annotated as OrderConfirmed"):

        @effects.listens(OrderConfirmed)
        async def listener(event: OrderConfirmed, ctx: EffectContext) -> OrderConfirmed: ...


def test_one_handler_may_serve_several_intents():
    """As type checkers see it: whoever takes more takes this one, too."""

    class Ship(Intent[None], topic="shop.ship", version=1): ...

    effects = Effects("e")

    @effects.on(Refund)
    @effects.on(Ship)
    async def either(intent: Refund | Ship, ctx: EffectContext) -> None: ...

    assert {handler.function for handler in effects.intents.values()} == {either}
    assert set(effects.intents) == {Refund, Ship}

    others = Effects("others")
    with refused(r".*neither has 'intent' annotated as .*Refund.* but handles shop.int.ship"):

        @others.on(Ship)
        async def neither(intent: Refund | Pay, ctx: EffectContext) -> None: ...


def test_a_contract_has_one_handler():
    """The second is refused, and told where the first is."""
    effects = Effects("e")

    @effects.on(Pay)
    async def first(intent, ctx): ...

    with refused(r".*shop.int.pay.v1 already has a handler in 'e': .*first \(.*\.py:\d+\)"):

        @effects.on(Pay)
        async def second(intent, ctx): ...


def test_on_takes_intents_and_listens_takes_events():
    effects = Effects("e")

    class Base(Intent[None]):
        pass

    for wrong in (Paid, int, "scenario.pay", Intent):
        with refused(""):
            effects.on(wrong)
    with refused(r".*Base is no contract"):
        effects.on(Base)
    for wrong in (Pay, int, Event):
        with refused(""):
            effects.listens(wrong)


def test_on_start_takes_the_db():
    effects = Effects("e")
    with refused(".*tables must take one argument, the db"):

        @effects.on_start
        def tables(): ...


class MeterReadV1(Event, topic="shop.meter-read", version=1):
    value: int


class MeterReadV2(Event, topic="shop.meter-read", version=2):
    value: float


@upcast
def to_v2(old: MeterReadV1) -> MeterReadV2:
    return MeterReadV2(value=old.value)


async def test_a_handler_of_an_old_version_is_refused_with_the_new_one_named():
    """Messages are read in their current version only."""
    effects = Effects("e")

    @effects.listens(MeterReadV1)
    async def listen(event, ctx): ...

    with refused(".*listen .* handles shop.evt.meter-read.v1, .*: handle MeterReadV2"):
        Scenario(effects)


async def test_a_handler_of_the_current_version_gets_the_old_ones_too():
    effects = Effects("e")

    @effects.listens(MeterReadV2)
    async def listen(event, ctx): ...

    assert ContractRegistry([MeterReadV2]).names_read_as("shop.evt.meter-read.v2")
    assert Scenario(effects).service.subscription.topics_read == (
        NAMES.topic("shop.evt.meter-read.v1"),
        NAMES.topic("shop.evt.meter-read.v2"),
    )


def test_refused_carries_message_and_code():
    assert (str(Refused("no")), Refused("no").code) == ("no", "refused")
    assert Refused("no", code="limit").code == "limit"
