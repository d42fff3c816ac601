"""Running sagas that go on with another version of their definition, over files and PostgreSQL."""

import pytest

from saga import Effects, SagaApp, saga
from saga.contracts import CommandAct
from saga.core.events import Migrated
from saga.core.intents import IntentIssued, Noted
from saga.ports.store import UnhandledKind
from saga.runtime.bulk_migration import Migration
from saga.settings import Settings
from tests.toys import OrderConfirmed, OrderPlaced, Paid, Pay, Refund, Ship

AT_MOST_S = 120


@pytest.fixture(params=["files", pytest.param("postgres", marks=pytest.mark.connected)])
def places(request, tmp_path):
    store = f"sqlite:///{tmp_path}/saga.db"
    if request.param == "postgres":
        store = request.getfixturevalue("postgres")
    return {
        "bus": f"local:///{tmp_path}/bus.db",
        "store": store,
        "effects_store": f"sqlite:///{tmp_path}/effects.db",
    }


def app_of(*functions):
    """The application that has these, each as the version of its name: `v1`, `v2`."""
    shop = Effects("shop")

    @shop.on(Pay)
    async def pay(intent: Pay, ctx) -> Paid:
        return Paid(receipt=f"r-{intent.order_id}")

    @shop.on(Refund)
    async def refund(intent: Refund, ctx) -> None: ...

    @shop.on(Ship)
    async def ship(intent: Ship, ctx) -> None: ...

    orders = [
        saga("order", version=int(each.__name__[1:]), starts_on=OrderPlaced)(each)
        for each in functions
    ]
    return SagaApp(sagas=orders, effects=[shop], contracts=[OrderConfirmed])


async def v1(ctx, placed):
    await ctx.do(Pay(order_id=placed.order_id), undo=Refund)
    await ctx.wait("go")
    return OrderConfirmed(order_id="one")


async def v2(ctx, placed):
    await ctx.do(Pay(order_id=placed.order_id), undo=Refund, id="charge")
    await ctx.wait("go")
    await ctx.do(Ship())
    return OrderConfirmed(order_id="two")


@pytest.fixture
async def found(places):
    """A saga of version 1 that waits to go on."""
    async with app_of(v1).service(**places) as service:
        begun = await service.publish(OrderPlaced())
        await service.idle(timeout=AT_MOST_S)
    return begun


async def bodies(service, found):
    """What the entries of one saga are, as the store has them."""
    return [entry.body async for _, entry in service.catalogue.log() if entry.saga_id == found]


async def summary_of(service, found):
    (summary,) = await service.catalogue.summaries([found])
    return summary


async def migrate(service, found, **said):
    asked = {"from_version": 1, "to_version": 2, "reason": "new rules"} | said
    command = await service.command(found, CommandAct.MIGRATE, **asked)
    return await service.receipt(found, command)


async def test_stalled_saga_goes_on_with_the_version_that_its_worker_has(places, found):
    async with app_of(v2).service(**places) as service:
        await service.signal(found, "go")
        await service.idle(timeout=AT_MOST_S)
        assert (await summary_of(service, found)).status == "stalled"

        receipt = await migrate(service, found, steps={"pay": "charge"})
        assert receipt.accepted, receipt
        outcome = await service.outcome(found, timeout=AT_MOST_S)

        assert outcome.event == OrderConfirmed(order_id="two")
        steps = [each.step for each in await bodies(service, found) if type(each) is IntentIssued]
        assert steps == ["pay", "ship"]
        assert (await summary_of(service, found)).definition_version == 2


async def test_saga_that_would_decide_otherwise_stays_as_it_is_and_says_why(places, found):
    async with app_of(v2).service(**places) as service:
        await service.signal(found, "go")
        await service.idle(timeout=AT_MOST_S)
        receipt = await migrate(service, found)

        assert receipt.result == "refused"
        assert "pay/do/1" in receipt.detail
        assert "charge/do/1" in receipt.detail
        assert (await summary_of(service, found)).status == "stalled"
        assert type((await bodies(service, found))[-1]) is Noted

    async with app_of(v1).service(**places) as service:
        await service.idle(timeout=AT_MOST_S)  # it is stalled until then, which is an outcome, too
        outcome = await service.outcome(found, timeout=AT_MOST_S)
        assert outcome.event == OrderConfirmed(order_id="one")


async def test_running_saga_that_is_in_memory_goes_on_with_the_new_version(places, found):
    async with app_of(v1, v2).service(**places) as service:
        await service.signal(found, "gone")
        await service.idle(timeout=AT_MOST_S)
        receipt = await migrate(service, found, steps={"pay": "charge"})
        assert receipt.detail == "goes on with version 2"
        await service.signal(found, "go")
        outcome = await service.outcome(found, timeout=AT_MOST_S)

        assert outcome.event == OrderConfirmed(order_id="two")
        migrated = [each for each in await bodies(service, found) if isinstance(each, Migrated)]
        assert [each.steps for each in migrated] == [(("pay", "charge"),)]


async def test_worker_that_has_a_saga_in_memory_follows_when_another_migrates_it(places, found):
    async with app_of(v1, v2).service(**places) as service:
        await service.signal(found, "gone")
        await service.idle(timeout=AT_MOST_S)
        async with app_of(v1, v2).service(**places) as other:
            receipt = await migrate(other, found, steps={"pay": "charge"})
            assert receipt.accepted, receipt
            await service.signal(found, "go")
            outcome = await service.outcome(found, timeout=AT_MOST_S)
        assert outcome.event == OrderConfirmed(order_id="two")


async def test_refused_migration_leaves_a_running_saga_running(places, found):
    async with app_of(v1, v2).service(**places) as service:
        assert (await migrate(service, found, to_version=3)).detail == (
            "no worker here has saga 'order' version 3: deploy it, then migrate"
        )
        assert "charge" in (await migrate(service, found)).detail
        wrong = await migrate(service, found, from_version=2, to_version=1)
        assert wrong.detail == "it is of version 1, not 2"
        await service.signal(found, "go")
        outcome = await service.outcome(found, timeout=AT_MOST_S)
        assert outcome.event == OrderConfirmed(order_id="one")
        again = await migrate(service, found)
        assert (again.result, again.detail) == ("refused", "the saga is completed")


async def test_command_under_another_key_moves_nothing(places, found):
    async with app_of(v1, v2).service(**places) as service:
        move = Migration(
            id="m-1",
            definition="order",
            from_version=1,
            to_version=2,
            reason="r",
            steps={"pay": "charge"},
        )
        await service.publisher.command(move.command(found), key="another")
        await service.idle(timeout=AT_MOST_S)

        assert (await summary_of(service, found)).definition_version == 1
        [letter] = await service.catalogue.unhandled(kind=UnhandledKind.DEAD)
        assert letter.reason == "wrong_key"
        await service.signal(found, "go")
        outcome = await service.outcome(found, timeout=AT_MOST_S)
        assert outcome.event == OrderConfirmed(order_id="one")


async def test_same_command_again_changes_nothing(places, found):
    async with app_of(v1, v2).service(**places) as service:
        said = {"from_version": 1, "to_version": 2, "reason": "r", "steps": {"pay": "charge"}}
        for _ in range(3):
            await service.command(found, CommandAct.MIGRATE, command_id="m-1", **said)
        await service.idle(timeout=AT_MOST_S)

        migrated = [each for each in await bodies(service, found) if isinstance(each, Migrated)]
        assert len(migrated) == 1
        assert (await service.receipt(found, "m-1")).accepted


async def test_saga_parked_by_changed_code_is_cured_and_takes_what_waited(places, found):
    async with app_of(changed, v2).service(**places) as service:
        await service.signal(found, "go")
        await service.idle(timeout=AT_MOST_S)
        parked = await summary_of(service, found)
        assert (parked.status, parked.definition_version) == ("parked", 1)
        assert "the code at hand decides" in parked.reason

        receipt = await migrate(service, found, steps={"pay": "charge"})
        assert receipt.accepted, receipt
        await service.idle(timeout=AT_MOST_S)
        outcome = await service.outcome(found, timeout=AT_MOST_S)
        assert outcome.event == OrderConfirmed(order_id="two")
        assert not await service.catalogue.unhandled(saga_id=found)


async def changed(ctx, placed):
    """Deployed as version 1, by mistake."""
    await ctx.do(Ship())
    await ctx.wait("go")


changed.__name__ = "v1"


async def test_moves_say_of_each_saga_what_came_of_it(places):
    async with app_of(v1).service(**places) as service:
        for number in range(3):
            await service.publish(OrderPlaced(order_id=f"o-{number}"))
        await service.idle(timeout=AT_MOST_S)

    async with app_of(v1, v2).service(**places) as service:
        said = {"from_version": 1, "to_version": 2, "reason": "r"}
        dry = [each async for each in service.migrate("order", **said, dry_run=True)]
        assert [each.result for each in dry] == ["refused"] * 3
        assert {each.difference.version for each in dry} == {2}
        moved = [each async for each in service.migrate("order", **said, steps={"pay": "charge"})]
        assert [each.result for each in moved] == ["applied"] * 3
        assert [each async for each in service.migrate("order", **said)] == []
        with pytest.raises(ValueError, match="it has order@1, order@2"):
            await anext(service.migrate("order", **said | {"to_version": 7}))


async def test_saga_that_a_batch_refuses_to_move_and_then_abandons_is_abandoned(places, found):
    async with app_of(v2).build_service(Settings.read({}, **places), roles=()) as service:
        said = {"from_version": 1, "to_version": 2, "reason": "new rules"}
        await service.command(found, CommandAct.MIGRATE, **said)
        await service.command(found, CommandAct.ABANDON, reason="enough")
    async with app_of(v2).service(**places) as service:
        await service.idle(timeout=AT_MOST_S)

        summary = await summary_of(service, found)
        assert (summary.status, summary.version) == ("abandoned", len(await bodies(service, found)))
