"""Records that concern no saga here: others' commands and replies, facts nobody here listens to."""

import pytest

from saga import Context, Event, Intent
from saga.app import SagaApp
from saga.authoring import saga
from saga.contracts import CommandAct
from saga.core.identity import saga_id
from saga.errors import DefinitionError
from saga.ports.store import SkipReason
from saga.runtime.unhandled import OTHER_SOURCES, SKIPS_KNOWN_MAX, SkippedRecords
from saga.settings import Settings
from tests.runtime.fixtures import NAMES, Scenario, order_id
from tests.runtime.test_turns import placed, reserving
from tests.runtime.toys import Reserve, Reserved, ledger, orders

OTHERS = saga_id("invoice", "o-1")


class ParcelAsked(Event, topic="mail.parcel-asked", version=1, key="number"):
    number: str


class ParcelSent(Event, topic="mail.parcel-sent", version=1):
    number: str


class Send(Intent[ParcelSent], topic="mail.send", version=1):
    number: str


@saga("parcel", version=1, starts_on=ParcelAsked)
async def parcel(ctx: Context, asked: ParcelAsked) -> ParcelSent:
    """Its outcome is of the very contract that its intent is answered with."""
    return await ctx.do(Send(number=asked.number))


@pytest.fixture
def scenario() -> Scenario:
    return Scenario(orders(), ledger)


def set_aside(scenario: Scenario) -> list:
    return scenario.dead_letters() + scenario.deferred()


@pytest.mark.parametrize("names_definition", [True, False])
async def test_a_command_for_a_saga_of_others_is_left_to_them(scenario, names_definition):
    """Neither dead nor deferred; by its definition, or by its key where it names none."""
    said = {"definition": "invoice"} if names_definition else {}
    command = scenario.command(OTHERS, CommandAct.CANCEL, id="c-1", reason="why", **said)
    unit = await scenario.take(command)

    assert set_aside(scenario) == []
    assert [skip.reason for skip in unit.skipped] == [SkipReason.OF_OTHERS]


@pytest.mark.parametrize("names_definition", [True, False])
async def test_a_command_for_a_saga_of_ours_waits_for_it(scenario, names_definition):
    said = {"definition": "order"} if names_definition else {}
    command = scenario.command(order_id(), CommandAct.CANCEL, id="c-1", reason="why", **said)
    await scenario.take(command)

    assert [record.reason for record in scenario.deferred()] == ["early"]


async def test_a_saga_that_is_there_gets_its_command_whatever_that_names(scenario):
    """Another worker may have a definition that this one does not know yet."""
    await reserving(scenario)
    said = {"name": "note", "payload": 1, "definition": "of-a-later-release"}
    await scenario.take(scenario.command(order_id(), CommandAct.SIGNAL, id="c-1", **said))

    assert "SignalReceived" in scenario.bodies(order_id())


async def test_a_reply_to_a_saga_of_others_is_left_to_them(scenario):
    unit = await scenario.take(scenario.reply(f"{OTHERS}/reserve/do/1", Reserved(shelf="s")))

    assert set_aside(scenario) == []
    [(skip, count)] = unit.skipped.items()
    topic = NAMES.topic("toys.evt.reserved.v2")
    assert (skip, count) == ((topic, "/test/service", SkipReason.OF_OTHERS), 1)


async def test_a_reply_to_a_saga_that_the_store_has_lost_is_told_apart(scenario):
    """The store was set back: skipped as well, and counted as that."""
    unit = await scenario.take(scenario.reply(f"{order_id()}/reserve/do/1", Reserved(shelf="s")))

    assert set_aside(scenario) == []
    assert [skip.reason for skip in unit.skipped] == [SkipReason.GONE]


async def test_a_fact_that_nobody_here_listens_to_is_skipped(scenario):
    """Somebody published what is a reply here, as a fact; with or without a cause of its own."""
    unit = await scenario.take(
        scenario.event(Reserved(shelf="s"), "o-1", id="m-1"),
        scenario.record(NAMES.topic("toys.evt.reserved.v2"), b"o-1", b'{"shelf": "s"}'),
    )

    assert set_aside(scenario) == []
    assert {skip.reason for skip in unit.skipped} == {SkipReason.NOT_LISTENED}
    assert unit.counts["skipped"] == 2


async def test_our_own_outcome_that_comes_back_is_skipped():
    """A contract that is reply and outcome: one false dead letter a saga, before."""
    scenario = Scenario(parcel)
    await scenario.take(scenario.event(ParcelAsked(number="o-1"), "o-1"))
    await scenario.take(scenario.reply(scenario.on(Send)[0], ParcelSent(number="o-1")))
    assert scenario.status(saga_id("parcel", "o-1")) == "completed"

    unit = await scenario.take()

    assert set_aside(scenario) == []
    assert [skip.reason for skip in unit.skipped] == [SkipReason.OWN]
    assert [skip.source for skip in unit.skipped] == ["/test/toys/sagas/parcel"]


async def test_a_reply_without_cause_on_a_topic_of_replies_alone_is_still_a_dead_letter(scenario):
    """Nothing but an answer can be meant there."""
    await scenario.take(scenario.record(NAMES.topic("toys.evt.intent-done.v1"), b"o-1", b"{}"))

    assert [record.reason for record in scenario.dead_letters()] == ["no_causation"]


async def test_an_early_reply_that_an_earlier_release_deferred_is_let_go(scenario):
    """Stores have such records; they are not deferred for ever."""
    await reserving(scenario)
    reply = scenario.reply(f"{OTHERS}/reserve/do/1", Reserved(shelf="s"))
    await scenario.make_topics()
    scenario.bus.append([reply])
    (inbound,) = [each for each in scenario.unread() if each.topic == reply.topic]
    from saga.ports.store import Batch, DeferralReason
    from saga.runtime.unhandled import deferred

    record = deferred(inbound, DeferralReason.EARLY, "", scenario.clock.now(), OTHERS)
    await scenario.store.append(Batch(unhandled=[record]), at=scenario.clock.now())

    await scenario.take(revisits=[OTHERS])

    assert set_aside(scenario) == []


async def test_counts_come_into_the_store_now_and_then_and_at_the_end(scenario):
    """By topic, source and reason."""
    async with scenario.serving():
        reply = scenario.reply(f"{OTHERS}/reserve/do/1", Reserved(shelf="s"))
        scenario.bus.append([reply, reply])
        await scenario.until(lambda: sum(scenario.store.inner.skipped.values()) == 2)
        scenario.bus.append([reply, placed(scenario)])
        await scenario.until(lambda: scenario.on(Reserve))

    [(skip, count)] = (await scenario.catalogue.skipped()).items()
    assert (skip.source, skip.reason, count) == ("/test/service", SkipReason.OF_OTHERS, 3)


async def test_sources_without_limit_are_counted_together(scenario):
    """Whoever may write to a topic may write any source."""
    from saga.ports.store import Skip

    skipped = SkippedRecords(scenario.store)
    skips = [Skip("t", f"/{n}", SkipReason.OF_OTHERS) for n in range(SKIPS_KNOWN_MAX + 7)]
    for skip in skips:
        skipped.add({skip: 1})
    await skipped.record()
    await skipped.record()

    counts = await scenario.catalogue.skipped()
    assert len(counts) == SKIPS_KNOWN_MAX + 1
    assert counts[Skip("t", OTHER_SOURCES, SkipReason.OF_OTHERS)] == 7


def test_the_group_tells_the_application():
    """Two applications of one namespace do not take each other's records."""
    settings = Settings.read({}, env="test", namespace="toys")
    groups = {
        SagaApp(sagas=[orders(), ledger]).group(settings): "test.toys.saga-orchestrator.order",
        SagaApp(sagas=[parcel]).group(settings): "test.toys.saga-orchestrator.parcel",
        SagaApp(sagas=[parcel], name="mail").group(settings): "test.toys.saga-orchestrator.mail",
        SagaApp().group(settings): "test.toys.saga-orchestrator.saga",
    }
    assert list(groups) == list(groups.values())
    given = Settings.read({}, env="test", namespace="toys", group="mine")
    assert SagaApp(sagas=[parcel]).group(given) == "test.toys.mine"


@pytest.mark.parametrize("name", ["", " ", "a b", "a/b", "x" * 101, "ä"])
def test_a_name_that_no_group_can_have_is_refused(name):
    with pytest.raises(DefinitionError, match="cannot be an application's name"):
        SagaApp(name=name)
