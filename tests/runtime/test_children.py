"""Parent and child between bus and store: what travels, under which key, and who is believed."""

import pytest

from saga import Context, Event, Intent
from saga.authoring import saga
from saga.contracts import COMMAND_CONTRACT, CommandAct, IntentFailed
from saga.contracts import cloudevents as ce
from saga.contracts.between_sagas import CHILD_ENDED, CHILD_STARTED
from saga.core.identity import SagaId, saga_id
from saga.core.intents import Noted
from saga.core.retry import ONCE
from saga.ports import Record
from tests.records import header
from tests.runtime.fixtures import NAMES, Scenario
from tests.runtime.test_relay import stored_only
from tests.runtime.test_signed import KEYS, signed
from tests.runtime.toys import OrderFailed, OrderPlaced, Ship


class ParcelAsked(Event, topic="parcels.parcel-asked", version=1, key="parcel_id"):
    parcel_id: str
    wraps: int = 1


class Packed(Event, topic="parcels.packed", version=1):
    parcel_id: str


class NotPacked(Event, topic="parcels.not-packed", version=1):
    parcel_id: str
    reason: str


class Wrap(Intent[None], topic="parcels.wrap", version=1):
    parcel_id: str


class Unwrap(Intent[None], topic="parcels.unwrap", version=1):
    parcel_id: str


@saga("order", version=1, starts_on=OrderPlaced, rolled_back=OrderFailed)
async def order(ctx: Context, placed: OrderPlaced) -> None:
    await ctx.child(
        ParcelAsked(parcel_id=f"p-{placed.order_id}", wraps=placed.amount),
        outcome=Packed,
        id="pack",
        timeout="60s",
    )
    await ctx.do(Ship(order_id=placed.order_id), retry=ONCE)


def parcels(version: int = 1):
    @saga("parcel", version=version, starts_on=ParcelAsked, rolled_back=NotPacked)
    async def parcel(ctx: Context, asked: ParcelAsked) -> Packed:
        for _ in range(asked.wraps):
            wrap = Wrap(parcel_id=asked.parcel_id)
            await ctx.do(wrap, undo=lambda did, _: Unwrap(parcel_id=did.parcel_id), retry=ONCE)
        return Packed(parcel_id=asked.parcel_id)

    return parcel


@saga("label", version=1, starts_on=ParcelAsked)
async def label(ctx: Context, asked: ParcelAsked) -> Packed:
    await ctx.wait("print")
    return Packed(parcel_id=asked.parcel_id)


PARENT, CHILD = saga_id("order", "o-1"), saga_id("parcel", "p-o-1")
INTENT = f"{PARENT}/pack/do/1"


@pytest.fixture
def scenario(make_scenario):
    return make_scenario(order, parcels(), contracts=[Unwrap])


async def settle(scenario: Scenario, *records: Record) -> None:
    """Take turns until nothing comes of them."""
    unit = await scenario.take(*records)
    while unit.histories:
        unit = await scenario.take()


async def begun(scenario: Scenario, amount: int = 1) -> None:
    """The child has begun, and its parent knows."""
    await settle(scenario, scenario.event(OrderPlaced(order_id="o-1", amount=amount), "o-1"))


async def completed(scenario: Scenario) -> None:
    await begun(scenario)
    await settle(scenario, scenario.reply(scenario.on(Wrap)[0]))


def at(record, *headers: str) -> list[str]:
    return [header(record, name) for name in headers]


def told(scenario: Scenario, saga: SagaId) -> list[str]:
    return [type(entry.body).__name__ for entry in scenario.history(saga)]


async def test_a_child_is_started_by_an_event_that_names_intent_and_parent(scenario):
    """It travels under its own key, and the child's history says whose it is."""
    await begun(scenario)
    (trigger,) = scenario.on(ParcelAsked)

    assert trigger.key == b"p-o-1"
    assert at(trigger, "ce_id", "ce_causationid", "ce_parentkey") == [INTENT, INTENT, "o-1"]
    started = scenario.history(CHILD)[0].body
    assert (started.parent.intent_id, started.parent.key) == (INTENT, "o-1")


async def test_it_says_that_it_has_begun_and_how_it_ends_under_its_parents_key(scenario):
    """Beside its own outcome."""
    await completed(scenario)
    (begun_,), (ended,) = scenario.on(CHILD_STARTED), scenario.on(CHILD_ENDED)

    assert (begun_.key, ended.key) == (b"o-1", b"o-1")
    names = ("ce_causationid", "ce_subject", "ce_source")
    assert at(begun_, *names) == at(ended, *names) == [INTENT, CHILD, "/test/toys/sagas/parcel"]
    assert begun_.value == b'{"definition":"parcel","key":"p-o-1","saga_id":"%s"}' % CHILD.encode()
    assert b'"outcome":{"contract":"parcels.evt.packed.v1","payload":{"parcel_id":"p-o-1"}}' in (
        ended.value
    )
    assert len(scenario.on(Packed)) == 1
    assert scenario.status(CHILD) == "completed"
    assert told(scenario, PARENT)[-3:] == ["ChildEnded", "TimerCancelled", "IntentIssued"]


async def test_redelivered_records_of_a_child_change_nothing(scenario):
    await completed(scenario)
    before = len(scenario.history(PARENT))
    records = [*scenario.on(CHILD_STARTED), *scenario.on(CHILD_ENDED), *scenario.on(ParcelAsked)]
    again = [Record(each.topic, each.key, each.value, each.headers) for each in records]
    await settle(scenario, *again)

    assert (len(scenario.history(PARENT)), scenario.dead_letters()) == (before, [])


async def test_a_failing_parent_has_its_completed_child_undone(scenario):
    """The child publishes a second outcome, and the parent is rolled back behind it."""
    await completed(scenario)
    refusal = IntentFailed(outcome="refused", code="van", message="no van")
    await settle(scenario, scenario.reply(scenario.on(Ship)[0], refusal))
    (command,) = scenario.on(COMMAND_CONTRACT)
    assert (command.key, header(command, "ce_id")) == (b"p-o-1", f"{PARENT}/pack/undo/1")
    assert scenario.status(CHILD) == "rolling_back"

    await settle(scenario, scenario.reply(scenario.on(Unwrap)[0]))
    assert (scenario.status(CHILD), scenario.status(PARENT)) == ("rolled_back", "rolled_back")
    outcomes = [header(each, "ce_id") for each in scenario.on(Packed) + scenario.on(NotPacked)]
    assert outcomes == [f"{CHILD}/outcome", f"{CHILD}/outcome/undone"]
    assert at(scenario.on(CHILD_ENDED)[1], "ce_causationid") == [f"{PARENT}/pack/undo/1"]


async def test_a_cancel_of_the_parent_goes_to_the_child_first(scenario):
    await begun(scenario)
    cancel = scenario.command(PARENT, CommandAct.CANCEL, id="c-1", reason="no more")
    await settle(scenario, cancel)
    assert "CancelRequested" in told(scenario, CHILD)
    assert scenario.status(PARENT) == "running"

    await settle(scenario, scenario.reply(scenario.on(Wrap)[0]))
    await settle(scenario, scenario.reply(scenario.on(Unwrap)[0]))
    assert (scenario.status(CHILD), scenario.status(PARENT)) == ("rolled_back", "rolled_back")
    assert (scenario.reason(PARENT), scenario.reason(CHILD)) == ("no more", "no more")


async def test_a_late_child_is_cancelled_when_the_parents_timer_fires(scenario):
    await begun(scenario)
    scenario.clock.advance(61)
    await scenario.take_due()
    await settle(scenario)

    assert header(scenario.on(COMMAND_CONTRACT)[0], "ce_id") == f"{INTENT}/cancel"
    assert "CancelRequested" in told(scenario, CHILD)


@pytest.mark.parametrize("wraps", [1, 7])
async def test_a_key_that_is_taken_is_answered_whatever_the_trigger_says(scenario, wraps):
    """No dead letter, and the saga that has the key goes on."""
    asked = ParcelAsked(parcel_id="p-o-1", wraps=wraps)
    await settle(scenario, scenario.event(asked, "p-o-1", id="mine"))
    await begun(scenario)

    assert scenario.dead_letters() == []
    assert (scenario.status(PARENT), scenario.status(CHILD)) == ("rolled_back", "running")
    (ended,) = scenario.on(CHILD_ENDED)
    assert (ended.key, header(ended, "ce_causationid")) == (b"o-1", INTENT)
    assert b'"code":"key_taken"' in ended.value
    assert b'"status":"refused"' in ended.value


async def test_a_second_saga_of_the_same_trigger_is_noted_by_the_parent(make_scenario):
    scenario = make_scenario(order, parcels(), label, contracts=[Unwrap])
    await completed(scenario)

    notes = [entry.body for entry in scenario.history(PARENT) if type(entry.body) is Noted]
    assert [note.verdict.value for note in notes] == ["conflicting"]
    assert scenario.status(saga_id("label", "p-o-1")) == "running"
    assert (len(scenario.on(Ship)), scenario.dead_letters()) == (1, [])


@pytest.mark.parametrize("name", [CHILD_STARTED, CHILD_ENDED])
async def test_who_names_no_intent_of_a_child_is_not_believed(scenario, name):
    """No cause at all, and an intent that was never issued."""
    await begun(scenario)
    value = b'{"saga_id":"s","definition":"d","key":"k","status":"completed"}'
    nothing = scenario.record(NAMES.topic(name), b"o-1", value)
    causes = ((ce.CAUSATION_ID, f"{PARENT}/other/do/1".encode()),)
    other = scenario.record(NAMES.topic(name), b"o-1", value, causes)
    await settle(scenario, nothing, other)

    reasons = [letter.reason for letter in scenario.dead_letters()]
    assert reasons == ["no_causation", "unknown_intent"]


async def test_a_child_is_not_believed_under_another_key():
    scenario = Scenario(order, parcels(), contracts=[Unwrap])
    await begun(scenario)
    (first,) = scenario.on(CHILD_STARTED)
    await settle(scenario, Record(first.topic, b"o-2", first.value, first.headers))

    assert [letter.reason for letter in scenario.dead_letters()] == ["wrong_key"]


async def test_an_event_that_has_the_intent_as_its_cause_alone_is_no_answer(scenario):
    """A child that ends in its first turn publishes its outcome under that cause."""
    await begun(scenario)
    done = scenario.reply(INTENT)
    await settle(scenario, done)

    assert (scenario.dead_letters(), scenario.status(PARENT)) == ([], "running")


async def test_an_undo_is_believed_from_the_parent_alone(scenario):
    """Whoever else may write commands changes nothing, and nobody is answered."""
    await completed(scenario)
    for name in ("c-1", f"{PARENT}/ship/undo/1", f"{CHILD}/pack/undo/1"):
        undo = scenario.command(CHILD, CommandAct.UNDO, id=name, reason="r")
        await settle(scenario, undo)

    assert (scenario.status(CHILD), len(scenario.on(CHILD_ENDED))) == ("completed", 1)
    notes = [entry.body.detail for entry in scenario.history(CHILD) if type(entry.body) is Noted]
    assert notes == ["only its parent may have it undone"] * 3


async def test_a_child_whose_code_is_gone_refuses_to_be_undone_until_it_is_back(scenario):
    """The parent parks; once the code is deployed, an operator tries again."""
    await completed(scenario)
    scenario.restart(order, parcels(version=2))
    await settle(scenario, scenario.reply(scenario.on(Ship)[0], IntentFailed(outcome="refused")))
    assert (scenario.status(CHILD), scenario.status(PARENT)) == ("completed", "parked")
    assert b"no code here can run it" in scenario.on(CHILD_ENDED)[1].value

    scenario.restart(order, parcels())
    retry = scenario.command(PARENT, CommandAct.RETRY, id="r-1", reason="back", step="pack")
    await settle(scenario, retry)
    await settle(scenario, scenario.reply(scenario.on(Unwrap)[0]))
    assert (scenario.status(CHILD), scenario.status(PARENT)) == ("rolled_back", "rolled_back")


async def test_a_completed_child_whose_code_raises_when_it_is_undone_parks(make_scenario):
    """Released with better code, it goes back, and its parent with it."""

    def flawed(*, has_flaw: bool):
        @saga("parcel", version=1, starts_on=ParcelAsked, rolled_back=NotPacked)
        async def parcel(ctx: Context, asked: ParcelAsked) -> Packed:
            def undo(did, _):
                if has_flaw:
                    raise ValueError("no string")
                return Unwrap(parcel_id=did.parcel_id)

            await ctx.do(Wrap(parcel_id=asked.parcel_id), undo=undo, retry=ONCE)
            return Packed(parcel_id=asked.parcel_id)

        return parcel

    scenario = make_scenario(order, flawed(has_flaw=True), contracts=[Unwrap])
    await completed(scenario)
    await settle(scenario, scenario.reply(scenario.on(Ship)[0], IntentFailed(outcome="refused")))
    assert scenario.status(CHILD) == "parked"
    assert "no string" in scenario.reason(CHILD)

    scenario.restart(order, flawed(has_flaw=False))
    await settle(scenario, scenario.release(CHILD))
    await scenario.take(revisits=[CHILD])
    await settle(scenario)
    await settle(scenario, scenario.reply(scenario.on(Unwrap)[0]))
    assert (scenario.status(CHILD), scenario.status(PARENT)) == ("rolled_back", "rolled_back")


async def test_an_abandoned_child_answers_its_parent(scenario):
    await begun(scenario)
    command = scenario.command(CHILD, CommandAct.ABANDON, id="c-1", reason="enough")
    await settle(scenario, command)

    assert (scenario.status(CHILD), scenario.status(PARENT)) == (
        "abandoned",
        "rolled_back_with_residue",
    )


async def test_what_a_dead_process_left_of_a_child_is_published_as_it_would_have_been(
    make_scenario,
):
    """Its beginning, its end, and the command that has it undone: ids, headers and bytes."""
    scenario = make_scenario(order, parcels(), contracts=[Unwrap], shares_file=False)
    await completed(scenario)
    direct = make_scenario(order, parcels(), contracts=[Unwrap])
    await completed(direct)
    for each in (scenario, direct):
        each.taken = [*each.on(CHILD_STARTED), *each.on(CHILD_ENDED)]
    assert [told.value for told in scenario.taken] == [told.value for told in direct.taken]

    refusal = IntentFailed(outcome="refused", message="no van")
    await stored_only(scenario, scenario.reply(scenario.on(Ship)[0], refusal))
    assert scenario.on(COMMAND_CONTRACT) == []
    assert await scenario.relay.take_over(older_than_s=-1) == 1
    await direct.take(direct.reply(direct.on(Ship)[0], refusal))
    ours, theirs = scenario.on(COMMAND_CONTRACT)[0], direct.on(COMMAND_CONTRACT)[0]
    assert (ours.key, ours.value) == (theirs.key, theirs.value)
    assert header(ours, "ce_id") == header(theirs, "ce_id")

    await stored_only(scenario)  # the child is being undone, and its worker dies
    assert await scenario.relay.take_over(older_than_s=-1) == 1
    await stored_only(scenario, scenario.reply(scenario.on(Unwrap)[0]))
    await scenario.relay.take_over(older_than_s=-1)
    await settle(scenario)
    assert scenario.status(PARENT) == "rolled_back"


async def test_parent_and_child_are_signed_where_replies_and_commands_are():
    """Unsigned, or signed by others, they are dead letters; a command to a child is signed too."""
    scenario = Scenario(order, parcels(), contracts=[Unwrap], signing_keys=KEYS)
    await begun(scenario)
    await settle(scenario, signed(scenario.reply(scenario.on(Wrap)[0])))
    assert (scenario.dead_letters(), len(scenario.on(Ship))) == ([], 1)
    for record in [*scenario.on(CHILD_STARTED), *scenario.on(CHILD_ENDED)]:
        headers = tuple(pair for pair in record.headers if pair[0] != ce.SIGNATURE)
        await settle(scenario, Record(record.topic, record.key, record.value, headers))
    assert [letter.reason for letter in scenario.dead_letters()] == ["bad_signature"] * 2

    refusal = signed(scenario.reply(scenario.on(Ship)[0], IntentFailed(outcome="refused")))
    await settle(scenario, refusal)
    await settle(scenario, signed(scenario.reply(scenario.on(Unwrap)[0])))
    assert (scenario.status(CHILD), scenario.status(PARENT)) == ("rolled_back", "rolled_back")


def test_the_topics_of_children_are_made_and_read_where_they_are_needed():
    """Any saga may be a child, so its application makes them; only parents read them."""
    with_parents, without = Scenario(order), Scenario(parcels())
    names = [NAMES.topic(name) for name in (CHILD_ENDED, CHILD_STARTED)]
    for scenario in (with_parents, without):
        assert set(names) <= set(scenario.app.topics(NAMES))

    assert set(names) <= set(with_parents.router.topics)
    assert not set(names) & set(without.router.topics)


async def test_no_service_is_told_of_a_child_that_is_given_up(scenario):
    """A notice goes to services; there is none that works on this step."""
    await begun(scenario)
    scenario.clock.advance(61)
    await scenario.take_due()

    assert [topic for topic in scenario.app.topics(NAMES) if "intent-cancelled" in topic]
    assert scenario.on("parcels.ctl.intent-cancelled.v1") == []


async def test_a_child_that_was_abandoned_before_it_began_answers_its_parent(make_scenario):
    """Its first turn had failed, so nobody knew of it; its trigger comes behind the abandon."""

    def fails(asked: ParcelAsked) -> None:
        raise ValueError("no string")

    @saga("parcel", version=1, starts_on=ParcelAsked)
    async def parcel(ctx: Context, asked: ParcelAsked) -> None:
        fails(asked)

    scenario = make_scenario(order, parcel)
    await begun(scenario)
    assert (scenario.status(CHILD), scenario.on(CHILD_STARTED)) == ("parked", [])

    await settle(
        scenario,
        scenario.command(CHILD, CommandAct.ABANDON, id="c-1", reason="no use", key="p-o-1"),
    )
    await scenario.take(revisits=[CHILD])
    await settle(scenario)
    assert scenario.status(CHILD) == "abandoned"
    assert scenario.status(PARENT) == "rolled_back_with_residue"
    assert scenario.reason(PARENT) == "abandoned before it had begun"
