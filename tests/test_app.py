"""An application: what makes one, what it refuses, and which topics it needs."""

from types import ModuleType

import pytest

from saga import Context, Effects, Event, SagaApp, saga
from saga.contracts import TopicNames
from saga.errors import DefinitionError, DuplicateSaga, SettingsError
from saga.service import Service
from tests.toys import OrderPlaced, OrderSeen, Paid, Pay, Refund

NAMES = TopicNames("test", "apps")


def order_saga(name: str = "app-order", version: int = 1):
    @saga(name, version=version, starts_on=OrderPlaced)
    async def order(ctx: Context, ordered: OrderPlaced) -> None:
        await ctx.do(Pay(order_id=ordered.order_id), undo=Refund)

    return order


def payments(name: str = "payments") -> Effects:
    service = Effects(name)

    @service.on(Pay)
    def pay(intent: Pay, ctx) -> Paid:
        return Paid(receipt=intent.order_id)

    return service


class TestRefused:
    def test_two_sagas_of_one_name_and_version(self):
        with pytest.raises(DuplicateSaga, match=r"test_app\.py:\d+: .*app-order.*test_app\.py:\d+"):
            SagaApp(sagas=[order_saga(), order_saga()])

    def test_what_is_no_saga(self):
        async def order(ctx: Context, ordered: OrderPlaced) -> None: ...

        with pytest.raises(DefinitionError, match="decorate its function with @saga"):
            SagaApp(sagas=[order])

    def test_two_services_of_one_name(self):
        with pytest.raises(DefinitionError, match=r"test_app\.py:\d+: .*'till'.*test_app\.py:\d+"):
            SagaApp(effects=[Effects("till"), Effects("till")])

    def test_one_service_named_twice(self):
        """It would be started twice."""
        service = payments()

        with pytest.raises(DefinitionError, match="'payments'"):
            SagaApp(effects=[service, service])

    def test_two_services_that_handle_one_intent(self):
        """Both would do it, each with an inbox of its own; both handlers are named."""
        with pytest.raises(DefinitionError) as refused:
            SagaApp(effects=[payments(), payments("oven")])

        said = str(refused.value)
        assert "shop.int.pay.v1" in said
        assert said.count("test_app.py:") == 2
        assert "only one service" in said

    def test_a_contract_that_is_none(self):
        class Nameless(Event): ...

        with pytest.raises(DefinitionError, match="Nameless"):
            SagaApp(contracts=[Nameless])

    def test_a_setting_that_is_none(self):
        with pytest.raises(SettingsError, match="SAGA_STORE"):
            SagaApp().service(store="nowhere")
        with pytest.raises(SettingsError, match="SAGA_SPEED"):
            SagaApp().service(speed=3)


class TestContracts:
    def test_those_that_a_saga_names_come_along(self):
        published = SagaApp(sagas=[order_saga()]).contracts.published

        assert {contract.model for contract in published} == {OrderPlaced, Pay, Paid, Refund}

    def test_those_of_a_module_come_along(self):
        """What else is in it does not."""
        module = ModuleType("messages")
        module.OrderSeen, module.Event, module.number = OrderSeen, Event, 3

        published = SagaApp(contracts=[module]).contracts.published

        assert [contract.model for contract in published] == [OrderSeen]

    def test_versions_of_a_saga_live_side_by_side(self):
        app = SagaApp(sagas=[order_saga(version=2), order_saga(version=1)])

        [started] = app.registry.started_by("shop.evt.order-placed.v1")
        assert started.saga.version == 2
        assert app.registry.find("app-order", 1) is not None

    def test_services_may_listen_to_one_fact(self):
        """A fact may be heard by many."""
        one, other = Effects("one"), Effects("other")
        for service in (one, other):

            @service.listens(OrderSeen)
            def heard(closed: OrderSeen, ctx) -> None: ...

        assert SagaApp(effects=[one, other]).unhandled_intents() == []

    def test_intents_that_no_service_here_handles_are_known(self):
        """Another process may handle them."""
        assert SagaApp(sagas=[order_saga()]).unhandled_intents() == [
            "shop.int.pay.v1",
            "shop.int.refund.v1",
        ]
        app = SagaApp(sagas=[order_saga()], effects=[payments()])
        assert app.unhandled_intents() == ["shop.int.refund.v1"]


class TestTopics:
    def test_whatever_is_said_or_heard_has_one(self):
        app = SagaApp(sagas=[order_saga()], effects=[payments()])

        assert app.topics(NAMES) == [
            f"test.apps.{name}"
            for name in (
                "saga.ctl.command.v1",
                "saga.dlq.command.v1",
                "saga.evt.child-ended.v1",
                "saga.evt.child-started.v1",
                "shop.ctl.intent-cancelled.v1",
                "shop.dlq.intent-done.v1",
                "shop.dlq.intent-failed.v1",
                "shop.dlq.intent-progress.v1",
                "shop.dlq.order-placed.v1",
                "shop.dlq.paid.v1",
                "shop.dlq.pay.v1",
                "shop.evt.intent-done.v1",
                "shop.evt.intent-failed.v1",
                "shop.evt.intent-progress.v1",
                "shop.evt.order-placed.v1",
                "shop.evt.paid.v1",
                "shop.int.pay.v1",
                "shop.int.refund.v1",
            )
        ]

    def test_an_application_of_nothing_still_takes_commands(self):
        assert "test.apps.saga.ctl.command.v1" in SagaApp().topics(NAMES)

    async def test_making_a_service_starts_nothing(self, tmp_path):
        service = SagaApp(sagas=[order_saga()]).service(
            bus=f"local:///{tmp_path}/saga.db", store=f"sqlite:///{tmp_path}/saga.db"
        )

        assert isinstance(service, Service)
        assert not service.counts
        assert await service.catalogue.sagas() == []
        await service.stop()
