"""An application: what makes one, what it refuses, and which topics it needs."""

from types import ModuleType

import pytest

from saga import Context, Effects, Event, Intent, SagaApp, saga
from saga.contracts import TopicNames
from saga.errors import DefinitionError, DuplicateSaga, SettingsError
from saga.service import Service

NAMES = TopicNames("test", "kiosk")


class Ordered(Event, topic="app-kiosk.ordered", version=1, key="order_id"):
    order_id: str


class Baked(Event, topic="app-bakery.baked", version=1):
    loaf: str


class Bake(Intent[Baked], topic="app-bakery.bake", version=1):
    order_id: str


class Discard(Intent[None], topic="app-bakery.discard", version=1):
    order_id: str


class Closed(Event, topic="app-kiosk.closed", version=1):
    order_id: str


def order_saga(name: str = "app-order", version: int = 1):
    """A saga that has something baked."""

    @saga(name, version=version, starts_on=Ordered)
    async def order(ctx: Context, ordered: Ordered) -> None:
        await ctx.do(Bake(order_id=ordered.order_id), undo=Discard)

    return order


def bakery(name: str = "bakery") -> Effects:
    """A service that bakes."""
    service = Effects(name)

    @service.on(Bake)
    def bake(intent: Bake, ctx) -> Baked:
        return Baked(loaf=intent.order_id)

    return service


class TestRefused:
    def test_two_sagas_of_one_name_and_version(self) -> None:
        """Both places are named."""
        with pytest.raises(DuplicateSaga, match=r"test_app\.py:\d+: .*app-order.*test_app\.py:\d+"):
            SagaApp(sagas=[order_saga(), order_saga()])

    def test_what_is_no_saga(self) -> None:
        """A function that nobody has decorated."""

        async def order(ctx: Context, ordered: Ordered) -> None: ...

        with pytest.raises(DefinitionError, match="decorate its function with @saga"):
            SagaApp(sagas=[order])

    def test_two_services_of_one_name(self) -> None:
        """Even without handlers: what is common to them is inbox and consumer group."""
        with pytest.raises(DefinitionError, match=r"test_app\.py:\d+: .*'till'.*test_app\.py:\d+"):
            SagaApp(effects=[Effects("till"), Effects("till")])

    def test_one_service_named_twice(self) -> None:
        """It would be started twice."""
        service = bakery()

        with pytest.raises(DefinitionError, match="'bakery'"):
            SagaApp(effects=[service, service])

    def test_two_services_that_handle_one_intent(self) -> None:
        """Both would do it, each with an inbox of its own; both handlers are named."""
        with pytest.raises(DefinitionError) as refused:
            SagaApp(effects=[bakery(), bakery("oven")])

        said = str(refused.value)
        assert "app-bakery.int.bake.v1" in said
        assert said.count("test_app.py:") == 2
        assert "only one service" in said

    def test_a_contract_that_is_none(self) -> None:
        """A class without a topic."""

        class Nameless(Event): ...

        with pytest.raises(DefinitionError, match="Nameless"):
            SagaApp(contracts=[Nameless])

    def test_a_setting_that_is_none(self) -> None:
        """Before anything is opened."""
        with pytest.raises(SettingsError, match="SAGA_STORE"):
            SagaApp().service(store="nowhere")
        with pytest.raises(SettingsError, match="SAGA_SPEED"):
            SagaApp().service(speed=3)


class TestContracts:
    def test_those_that_a_saga_names_come_along(self) -> None:
        """Trigger, intent, its undo and its reply, without being listed."""
        published = SagaApp(sagas=[order_saga()]).contracts.published

        assert {contract.model for contract in published} == {Ordered, Bake, Baked, Discard}

    def test_those_of_a_module_come_along(self) -> None:
        """What else is in it does not."""
        module = ModuleType("messages")
        module.Closed, module.Event, module.number = Closed, Event, 3

        published = SagaApp(contracts=[module]).contracts.published

        assert [contract.model for contract in published] == [Closed]

    def test_versions_of_a_saga_live_side_by_side(self) -> None:
        """New ones begin with the newest."""
        app = SagaApp(sagas=[order_saga(version=2), order_saga(version=1)])

        [started] = app.registry.started_by("app-kiosk.evt.ordered.v1")
        assert started.saga.version == 2
        assert app.registry.find("app-order", 1) is not None

    def test_services_may_listen_to_one_fact(self) -> None:
        """A fact may be heard by many."""
        one, other = Effects("one"), Effects("other")
        for service in (one, other):

            @service.listens(Closed)
            def heard(closed: Closed, ctx) -> None: ...

        assert SagaApp(effects=[one, other]).unhandled_intents() == []

    def test_intents_that_no_service_here_handles_are_known(self) -> None:
        """Another process may handle them."""
        assert SagaApp(sagas=[order_saga()]).unhandled_intents() == [
            "app-bakery.int.bake.v1",
            "app-bakery.int.discard.v1",
        ]
        app = SagaApp(sagas=[order_saga()], effects=[bakery()])
        assert app.unhandled_intents() == ["app-bakery.int.discard.v1"]


class TestTopics:
    def test_whatever_is_said_or_heard_has_one(self) -> None:
        """Replies without a contract of their own, commands, and a dlq for all that is read."""
        app = SagaApp(sagas=[order_saga()], effects=[bakery()])

        assert app.topics(NAMES) == [
            f"test.kiosk.{name}"
            for name in (
                "app-bakery.dlq.bake.v1",
                "app-bakery.dlq.baked.v1",
                "app-bakery.dlq.intent-done.v1",
                "app-bakery.dlq.intent-failed.v1",
                "app-bakery.evt.baked.v1",
                "app-bakery.evt.intent-done.v1",
                "app-bakery.evt.intent-failed.v1",
                "app-bakery.int.bake.v1",
                "app-bakery.int.discard.v1",
                "app-kiosk.dlq.ordered.v1",
                "app-kiosk.evt.ordered.v1",
                "saga.ctl.command.v1",
                "saga.dlq.command.v1",
            )
        ]

    def test_an_application_of_nothing_still_takes_commands(self) -> None:
        """Which is how the command line speaks to sagas without knowing their code."""
        assert "test.kiosk.saga.ctl.command.v1" in SagaApp().topics(NAMES)

    async def test_making_a_service_starts_nothing(self, tmp_path) -> None:
        """It has its files open, and nothing is in them."""
        service = SagaApp(sagas=[order_saga()]).service(
            bus=f"local:///{tmp_path}/saga.db", store=f"sqlite:///{tmp_path}/saga.db"
        )

        assert isinstance(service, Service)
        assert not service.counts
        assert await service.catalogue.sagas() == []
        await service.stop()
