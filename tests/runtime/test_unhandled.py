"""What a bad saga, a bad record or missing code stops, what not, and how it goes on again."""

from typing import Annotated

import pytest
from pydantic import AfterValidator

from saga import Context, Event, Intent
from saga.authoring import saga
from saga.contracts import CommandAct, IntentFailed
from saga.core.events import SignalReceived, TurnFailed
from saga.core.identity import saga_id
from saga.errors import CorruptHistory, UnknownEntry
from saga.ports import Inbound
from saga.ports.bus import Position
from saga.ports.store import DeferralReason
from saga.runtime import unhandled
from saga.runtime.unit_of_work import InboundBatch
from tests.records import header
from tests.runtime.fixtures import NAMES, Scenario, order_id, take
from tests.runtime.test_turns import placed, reserving, shipping
from tests.runtime.toys import (
    AlarmSet,
    Booked,
    OrderPlaced,
    Reserve,
    Reserved,
    Ship,
    Unreserve,
    alarms,
    ledger,
    orders,
)

LEDGER = saga_id("ledger", "o-1")
ALARM = saga_id("alarm", "a")
HOUR_US = 3_600_000_000


def flaw_at(*places: str):
    """A bug that shows at some places of the code."""

    def flaw(place: str, subject: str) -> None:
        if place in places or f"{place} {subject}" in places:
            raise ValueError(f"a bug at {place} of {subject}")

    return flaw


class TestPoison:
    async def test_a_saga_whose_code_raises_parks_with_error_and_position(self, make_scenario):
        """The record that it raised on is deferred, its position moves on."""
        scenario = make_scenario(orders(flaw=flaw_at("reserved")))
        await reserving(scenario)
        await scenario.take(scenario.reply(scenario.on(Reserve)[0], Reserved(shelf="s-1")))
        *_, last = scenario.history(order_id())

        assert isinstance(last.body, TurnFailed)
        assert last.body.error.startswith("ValueError: a bug at reserved of s-1 (")
        assert last.body.position == f"{NAMES.topic('toys.evt.reserved.v2')}/0/0"
        assert scenario.status(order_id()) == "parked"
        assert scenario.reason(order_id()) == last.body.error
        assert [(record.reason, record.saga_id) for record in scenario.deferred()] == [
            ("turn_failed", order_id())
        ]
        assert scenario.dead_letters() == []

    async def test_the_neighbours_of_the_same_batch_go_on(self, make_scenario):
        """Wherever the bad ones stand in it, and however many they are."""
        scenario = make_scenario(
            orders(flaw=flaw_at("reserved s-1", "reserved s-4", "reserved s-5"))
        )
        keys = [f"o-{number}" for number in range(6)]
        await reserving(scenario, *keys)
        unit = await scenario.take(
            *[
                scenario.reply(intent, Reserved(shelf=f"s-{number}"))
                for number, intent in enumerate(scenario.on(Reserve))
            ]
        )

        assert unit.counts["failed_turns"] == 3
        assert [scenario.status(order_id(key)) for key in keys] == [
            "running",
            "parked",
            "running",
            "running",
            "parked",
            "parked",
        ]
        assert [record.key for record in scenario.on(Ship)] == [b"o-0", b"o-2", b"o-3"]

    async def test_later_records_are_deferred_in_order_and_replayed_by_a_release(
        self, make_scenario
    ):
        """With the code mended nothing is lost or overtakes; positions had moved on long ago."""
        scenario = make_scenario(orders(flaw=flaw_at("reserved")))
        await reserving(scenario)
        await scenario.take(scenario.reply(scenario.on(Reserve)[0], Reserved(shelf="s-1")))
        for number in (1, 2, 3):
            await scenario.take(scenario.signal(order_id(), "note", number, id=f"c-{number}"))
        assert [record.reason for record in scenario.deferred()] == [
            "turn_failed",
            *3 * ["behind_failed_turn"],
        ]

        scenario.restart(orders())
        unit = await scenario.take(scenario.release(order_id()))
        assert unit.revisits == {order_id()}
        await scenario.take(revisits=unit.revisits)

        assert scenario.deferred() == []
        assert scenario.status(order_id()) == "running"
        assert len(scenario.on(Ship)) == 1
        payloads = [
            entry.body.payload
            for entry in scenario.history(order_id())
            if isinstance(entry.body, SignalReceived)
        ]
        assert payloads == ["1", "2", "3"]

    async def test_a_release_of_what_is_not_mended_parks_again(self, make_scenario):
        """Each failure is an entry; the record stays deferred, in its place."""
        scenario = make_scenario(orders(flaw=flaw_at("reserved")))
        await reserving(scenario)
        await scenario.take(scenario.reply(scenario.on(Reserve)[0], Reserved(shelf="s-1")))
        await scenario.take(scenario.signal(order_id(), "note", 1, id="c-1"))
        for number in (1, 2):
            unit = await scenario.take(scenario.release(order_id(), id=f"r-{number}"))
            await scenario.take(revisits=unit.revisits)

        assert scenario.bodies(order_id()).count("TurnFailed") == 3
        assert scenario.bodies(order_id()).count("OperatorActed") == 2
        assert [record.reason for record in scenario.deferred()] == [
            "turn_failed",
            "behind_failed_turn",
        ]
        assert scenario.status(order_id()) == "parked"

    async def test_a_saga_that_fails_at_birth_is_there_and_can_be_released(self, make_scenario):
        """It is known by name and key before it has begun, and its trigger is not lost."""
        scenario = make_scenario(orders(flaw=flaw_at("start")))
        await scenario.take(placed(scenario), placed(scenario, "o-2"))
        (summary,) = [
            summary for summary in scenario.store.inner.summaries.values() if summary.key == "o-1"
        ]

        assert scenario.bodies(order_id()) == ["TurnFailed"]
        assert (summary.definition, summary.status.value) == ("order", "parked")
        assert [record.saga_id for record in scenario.deferred()] == [order_id(), order_id("o-2")]

        scenario.restart(orders())
        unit = await scenario.take(scenario.release(order_id()))
        await scenario.take(revisits=unit.revisits)

        assert scenario.bodies(order_id()) == [
            "TurnFailed",
            "OperatorActed",
            "SagaStarted",
            "IntentIssued",
        ]
        assert scenario.status(order_id()) == "running"
        assert scenario.status(order_id("o-2")) == "parked"

    async def test_a_trigger_sent_again_to_a_saga_that_failed_at_birth_waits_too(
        self, make_scenario
    ):
        """After the release the first one starts it and the second is a duplicate."""
        scenario = make_scenario(orders(flaw=flaw_at("start")))
        await scenario.take(placed(scenario, id="m-1"))
        await scenario.take(placed(scenario, id="m-1"))
        scenario.restart(orders())
        unit = await scenario.take(scenario.release(order_id()))
        unit = await scenario.take(revisits=unit.revisits)

        assert unit.counts["duplicate"] == 1
        assert scenario.deferred() == scenario.dead_letters() == []
        assert len(scenario.on(Reserve)) == 1

    async def test_a_saga_that_failed_at_birth_may_be_mended_by_a_new_version(self, make_scenario):
        """It has decided nothing yet, so nothing binds it to the version that failed."""
        scenario = make_scenario(orders(flaw=flaw_at("start")))
        await scenario.take(placed(scenario))
        scenario.restart(orders(version=2))
        unit = await scenario.take(scenario.release(order_id()))
        await scenario.take(revisits=unit.revisits)

        assert scenario.status(order_id()) == "running"
        assert scenario.history(order_id())[2].body.definition_version == 2

    async def test_a_new_version_beside_the_one_that_failed_at_birth_takes_over(
        self, make_scenario
    ):
        """The same, while the old version is still there for older sagas."""
        flawed = orders(flaw=flaw_at("start"))
        scenario = make_scenario(flawed)
        await scenario.take(placed(scenario))
        scenario.restart(flawed, orders(version=2))
        unit = await scenario.take(scenario.release(order_id()))
        await scenario.take(revisits=unit.revisits)

        assert scenario.status(order_id()) == "running"

    async def test_a_timer_whose_turn_fails_parks_its_saga_and_fires_after_the_release(
        self, make_scenario
    ):
        """It is looked at again later, neither lost nor tried ten times a second."""
        scenario = make_scenario(alarms(flaw=flaw_at("woken")))
        await scenario.take(scenario.event(AlarmSet(name="a"), "a"))
        scenario.clock.advance(61)
        await scenario.take_due()
        assert scenario.status(ALARM) == "parked"
        assert await scenario.store.due_timers(until=scenario.clock.now(), limit=10) == []

        scenario.clock.advance(31)
        await scenario.take_due()
        assert scenario.bodies(ALARM).count("TurnFailed") == 1, "it is postponed, not tried again"

        scenario.restart(alarms())
        await scenario.take(scenario.release(ALARM))
        await scenario.take_due()

        assert scenario.status(ALARM) == "running"
        assert scenario.bodies(ALARM)[-2:] == ["TimerArmed", "SignalAwaited"] or "TimerFired" in (
            scenario.bodies(ALARM)
        )

    async def test_a_due_timer_is_tried_the_less_often_the_longer_its_saga_has_been_parked(
        self, make_scenario
    ):
        """Not twice a minute for ever, and a release still fires it at once."""
        scenario = make_scenario(alarms(flaw=flaw_at("woken")))
        await scenario.take(scenario.event(AlarmSet(name="a"), "a"))
        scenario.clock.advance(61)
        await scenario.take_due()
        tries, until = 0, scenario.clock.now() + HOUR_US
        while (due := (await scenario.catalogue.timers())[0].due_at) <= until:
            scenario.clock.advance(max(0, due - scenario.clock.now()) / 1_000_000)
            await scenario.take_due()
            tries += 1
        assert tries <= 16

        scenario.restart(alarms())
        await scenario.take(scenario.release(ALARM))
        assert len(await scenario.store.due_timers(until=scenario.clock.now(), limit=9)) == 1

    async def test_timers_of_parked_sagas_do_not_keep_others_from_firing(self, make_scenario):
        """However many of them are due before."""
        scenario = make_scenario(
            alarms(flaw=lambda place, name: flaw_at("woken")(place, "") if name != "z" else 0)
        )
        await scenario.take(*[scenario.event(AlarmSet(name=f"a{n}"), f"a{n}") for n in range(250)])
        scenario.clock.advance(1)
        await scenario.take(scenario.event(AlarmSet(name="z"), "z"))
        scenario.clock.advance(61)
        for _ in range(3):
            await scenario.take_due()  # a hundred at a time

        assert "TimerFired" in scenario.bodies(saga_id("alarm", "z"))
        assert len(scenario.store.inner.timers(1_000)) == 251

    async def test_a_cancel_of_a_poisoned_saga_is_refused_and_an_abandon_is_not(
        self, make_scenario
    ):
        """To undo needs the code; to give up does not, and and the deferred records go."""
        scenario = make_scenario(orders(flaw=flaw_at("reserved")))
        await reserving(scenario)
        await scenario.take(scenario.reply(scenario.on(Reserve)[0], Reserved(shelf="s-1")))
        await scenario.take(scenario.command(order_id(), CommandAct.CANCEL, id="c-1", reason="no"))
        assert scenario.status(order_id()) == "parked"

        unit = await scenario.take(
            scenario.command(order_id(), CommandAct.ABANDON, id="c-2", reason="no")
        )
        await scenario.take(revisits=unit.revisits)

        assert scenario.status(order_id()) == "abandoned"
        assert scenario.deferred() == []

    async def test_compensate_undoes_what_a_poisoned_saga_had_done(self, make_scenario):
        """The way back needs the undo only, not the code that fails."""
        scenario = make_scenario(orders(flaw=flaw_at("reserved")))
        await reserving(scenario)
        await scenario.take(scenario.reply(scenario.on(Reserve)[0], Reserved(shelf="s-1")))
        unit = await scenario.take(
            scenario.command(order_id(), CommandAct.COMPENSATE, id="c-1", reason="bug")
        )
        await scenario.take(revisits=unit.revisits)
        blind, informed = scenario.on(Unreserve)
        assert blind.value == b'{"order_id":"o-1","shelf":null}'
        assert informed.value == b'{"order_id":"o-1","shelf":"s-1"}'
        unit = await scenario.take(scenario.reply(informed))
        await scenario.take(revisits=unit.revisits)

        assert scenario.status(order_id()) == "rolled_back"
        assert scenario.deferred() == []

    async def test_a_failed_turn_of_an_ended_saga_makes_only_the_record_a_dead_letter(self):
        scenario = Scenario(orders())
        await shipping(scenario)
        ship = scenario.on(Ship)[0]
        await scenario.take(scenario.reply(ship, IntentFailed(outcome="failed")))
        undo = scenario.on(Unreserve)[0]
        await scenario.take(scenario.reply(undo))
        assert scenario.status(order_id()) == "rolled_back_with_residue"
        found = await scenario.cache.load([order_id()])
        before = found[order_id()].decider.handle

        def handle(state, event, recorded=None):
            if isinstance(event.fact, SignalReceived):
                raise RuntimeError("a bug in the engine itself")
            return before(state, event, recorded)

        object.__setattr__(found[order_id()].decider, "handle", handle)
        await scenario.take(scenario.signal(order_id(), "note", 1, id="c-1"))

        assert [record.reason for record in scenario.dead_letters()] == ["turn_failed"]
        assert scenario.status(order_id()) == "rolled_back_with_residue"
        assert scenario.deferred() == []

    async def test_a_hundred_poisonous_records_in_a_batch_are_each_found(self, make_scenario):
        """The batch begins again for each, and ends."""
        scenario = make_scenario(orders(flaw=flaw_at("start")), ledger)
        unit = await scenario.take(*[placed(scenario, f"o-{number}") for number in range(100)])

        assert unit.counts["failed_turns"] == 100
        assert unit.counts["started"] == 100, "the ledgers"


class TestCodeThatIsNotThere:
    async def test_a_saga_without_its_version_is_stalled_and_heals_with_it(self, scenario):
        """Its records are deferred in order; a process with the version takes them up."""
        await reserving(scenario)
        reply = scenario.reply(scenario.on(Reserve)[0], Reserved(shelf="s-1"))
        scenario.restart(orders(version=2))
        await scenario.take(reply)
        await scenario.take(scenario.signal(order_id(), "hint", 1, id="c-1"))

        assert scenario.status(order_id()) == "stalled"
        assert "'order' version 1: deploy it" in scenario.reason(order_id())
        assert len(scenario.history(order_id())) == 2
        assert [record.reason for record in scenario.deferred()] == ["stalled", "stalled"]

        scenario.restart(orders(), orders(version=2))
        async with scenario.serving():
            await scenario.until(lambda: not scenario.deferred(), within_s=3)
        kinds = [kind for kind in scenario.bodies(order_id()) if kind.endswith("Received")]
        assert kinds == ["ReplyReceived", "SignalReceived"]

    async def test_a_stalled_saga_heals_when_the_worker_without_the_code_leaves_later(
        self, scenario
    ):
        """A rolling deployment: the new worker is there when the old one defers the record."""
        await reserving(scenario)
        reply = scenario.reply(scenario.on(Reserve)[0], Reserved(shelf="s-1"))
        scenario.restart(orders(version=2))
        old = scenario.turns
        scenario.restart(orders(), orders(version=2))
        async with scenario.serving():
            await scenario.while_passing(2)
            inbound = Inbound(reply.topic, 9, 0, reply.key, reply.value, reply.headers, 0)
            await take(old, InboundBatch([inbound]))
            assert scenario.status(order_id()) == "stalled"
            await scenario.until(lambda: len(scenario.on(Ship)) == 1, within_s=40)

        assert scenario.status(order_id()) == "running"

    async def test_a_stalled_saga_does_not_hold_up_others(self):
        scenario = Scenario(orders())
        await reserving(scenario)
        scenario.restart(orders(version=2))
        await scenario.take(
            scenario.reply(scenario.on(Reserve)[0], Reserved(shelf="s-1")), placed(scenario, "o-2")
        )

        assert scenario.status(order_id()) == "stalled"
        assert scenario.status(order_id("o-2")) == "running"
        assert scenario.history(order_id("o-2"))[0].body.definition_version == 2

    async def test_code_that_decides_otherwise_parks_the_saga_and_keeps_its_history(self, scenario):
        """Nothing is guessed, nothing re-sent; with the old code it goes on."""
        await reserving(scenario)
        reserve = scenario.on(Reserve)[0]
        scenario.restart(orders(note="new"))
        await scenario.take(scenario.reply(reserve, Reserved(shelf="s-1")))

        assert scenario.status(order_id()) == "parked"
        assert scenario.reason(order_id()).startswith(
            "entry 2: the history says intent-issued reserve"
        )
        assert len(scenario.history(order_id())) == 2
        assert [record.reason for record in scenario.deferred()] == ["replay_mismatch"]
        assert len(scenario.on(Reserve)) == 1

        scenario.restart(orders())
        async with scenario.serving():
            await scenario.until(lambda: scenario.on(Ship), within_s=3)
        assert scenario.status(order_id()) == "running"
        assert scenario.deferred() == []

    async def test_code_that_raises_while_it_is_rebuilt_parks_the_saga(self, scenario):
        """With what it raised, and without a change of its history."""
        await shipping(scenario)
        scenario.restart(orders(flaw=flaw_at("reserved")))
        await scenario.take(scenario.reply(scenario.on(Ship)[0]))

        assert [record.reason for record in scenario.deferred()] == ["replay_failed"]
        assert scenario.reason(order_id()) == (
            "the code at hand raised ValueError: a bug at reserved of s-1"
        )

        scenario.restart(orders())
        await scenario.take(revisits=[order_id()])
        assert scenario.status(order_id()) == "completed"

    async def test_a_due_timer_of_a_stalled_saga_fires_once_the_code_is_back(self, make_scenario):
        """Late, within half a minute of the deployment, and without anybody's help."""
        scenario = make_scenario(alarms())
        await scenario.take(scenario.event(AlarmSet(name="a"), "a"))
        scenario.restart(orders())
        scenario.clock.advance(61)
        await scenario.take_due()
        assert scenario.status(ALARM) == "stalled"

        scenario.restart(alarms())
        async with scenario.serving():
            await scenario.until(lambda: "TimerFired" in scenario.bodies(ALARM), within_s=32)

    async def test_a_corrupt_history_stops_that_saga_only_and_is_named(self, scenario):
        """Its records are deferred, the index says what is wrong, the rest of the batch goes on."""
        await reserving(scenario, "o-1", "o-2")
        replies = [scenario.reply(intent, Reserved(shelf="s")) for intent in scenario.on(Reserve)]
        scenario.restart()
        load = scenario.store.inner.load

        async def damaged(saga_ids):
            found = dict(await load(saga_ids))
            if order_id() in found:
                found[order_id()] = CorruptHistory(order_id(), 2, "the row is no JSON")
            return found

        scenario.store.load = damaged
        await scenario.take(*replies)
        (record,) = scenario.deferred()

        assert record.reason == "corrupt_history"
        assert record.message == f"saga {order_id()}, entry 2: the row is no JSON"
        assert scenario.status(order_id("o-2")) == "running"
        assert scenario.status(order_id()) == "parked"
        assert scenario.reason(order_id()) == record.message

        del scenario.store.load
        await scenario.take(revisits=[order_id()])
        assert scenario.deferred() == []
        assert scenario.status(order_id()) == "running"

    async def test_an_entry_of_a_newer_release_stalls_that_saga_only(self, scenario):
        """Its records wait for that release; with it the saga goes on, and nothing was guessed."""
        await reserving(scenario, "o-1", "o-2")
        replies = [scenario.reply(intent, Reserved(shelf="s")) for intent in scenario.on(Reserve)]
        scenario.restart()
        load = scenario.store.inner.load

        async def of_a_newer_release(saga_ids):
            histories = dict(await load(saga_ids))
            if order_id() in histories:
                histories[order_id()] = UnknownEntry(order_id(), 2, "there is no entry 'paused'")
            return histories

        scenario.store.load = of_a_newer_release
        await scenario.take(*replies)
        (record,) = scenario.deferred()

        assert record.reason == "stalled"
        assert "there is no entry 'paused'" in record.message
        assert scenario.status(order_id()) == "stalled"
        assert scenario.store.inner.summaries[order_id()].waiting_for == "deploy"
        assert scenario.status(order_id("o-2")) == "running"

        del scenario.store.load
        await scenario.take(revisits=[order_id()])
        assert scenario.deferred() == []
        assert scenario.status(order_id()) == "running"


class TestDeferredForASaga:
    async def test_a_reply_is_never_early(self, scenario):
        """Its intent was stored before it was published: one that comes before it is forged."""
        ids = [f"{order_id()}/{step}/do/1" for step in ("reserve", "ship")]
        await scenario.take(scenario.reply(ids[0], Reserved(shelf="s-1")))
        unit = await scenario.take(scenario.reply(ids[1]))
        assert unit.counts["skipped"] == 1

        await scenario.take(placed(scenario))

        assert scenario.deferred() == scenario.dead_letters() == []
        assert scenario.status(order_id()) == "running"
        assert scenario.bodies(order_id()).count("ReplyReceived") == 0

    async def test_early_signals_keep_their_order(self, make_scenario):
        """Also with those that come while they are deferred."""
        scenario = make_scenario(ledger)
        await scenario.take(scenario.signal(LEDGER, "stamp", "first", id="c-1"))
        unit = await scenario.take(
            placed(scenario), scenario.signal(LEDGER, "stamp", "second", id="c-2")
        )
        await scenario.take(revisits=unit.revisits)

        assert scenario.on(Booked)[0].value == b'{"order_id":"first second"}'
        assert scenario.deferred() == []

    async def test_a_record_behind_deferred_ones_waits_for_them(self, make_scenario):
        """A record must not overtake those that were deferred before it."""
        scenario = make_scenario(ledger)
        await scenario.take(scenario.signal(LEDGER, "stamp", "first", id="c-1"))
        await scenario.take(placed(scenario))
        unit = await scenario.take(scenario.signal(LEDGER, "stamp", "second", id="c-2"))
        assert [record.reason for record in scenario.deferred()] == ["early", "behind_deferred"]
        await scenario.take(revisits=unit.revisits)

        assert scenario.on(Booked)[0].value == b'{"order_id":"first second"}'

    async def test_a_record_whose_saga_never_comes_becomes_a_dead_letter(self, scenario):
        """Ten seconds by default, and not before."""
        async with scenario.serving():
            scenario.bus.append([scenario.signal(order_id(), "note", 1, id="c-1")])
            scenario.bus.append([scenario.release(order_id())])
            await scenario.while_passing(9)
            assert len(scenario.deferred()) == 2
            await scenario.until(lambda: not scenario.deferred(), within_s=3)

        assert [record.reason for record in scenario.dead_letters()] == [
            "unknown_saga",
            "unknown_saga",
        ]
        assert order_id() in scenario.dead_letters()[0].message

    async def test_a_command_to_what_can_be_no_saga_is_a_dead_letter_at_once(self):
        scenario = Scenario(orders())
        value = b'{"act":"release","command_id":"c","saga_id":"order/o-1"}'
        await scenario.take(scenario.record(NAMES.topic("saga.ctl.command.v1"), b"o-1", value))

        assert [record.reason for record in scenario.dead_letters()] == ["unknown_saga"]
        assert scenario.deferred() == []

    async def test_a_saga_of_many_deferred_records_takes_them_page_by_page(self):
        """More than one batch of them: all go on, in order."""

        @saga("ledger", version=1, starts_on=OrderPlaced)
        async def counting(ctx: Context, trigger: OrderPlaced) -> Booked:
            heard = [await ctx.wait("stamp", int) for _ in range(1_200)]
            return Booked(order_id=str(heard == list(range(1_200))))

        scenario = Scenario(counting)
        signals = [
            scenario.signal(LEDGER, "stamp", number, id=f"c-{number}") for number in range(1_200)
        ]
        async with scenario.serving():
            scenario.bus.append(signals)
            await scenario.until(lambda: len(scenario.deferred()) == 1_200)
            scenario.bus.append([placed(scenario)])
            await scenario.until(lambda: scenario.on(Booked), within_s=20)

        assert scenario.on(Booked)[0].value == b'{"order_id":"True"}'
        assert scenario.deferred() == []


class TestDeadLetters:
    async def test_a_dead_letter_is_kept_whole_and_copied_to_its_dlq_topic(self):
        """Key, value and headers byte for byte, with where, when and why."""
        scenario = Scenario(orders())
        topic = NAMES.topic("toys.evt.order-placed.v2")
        headers = (("b", b"\xff\x00"), ("a", None), ("b", b"again"))
        scenario.clock.advance(5)
        await scenario.take(scenario.record(topic, b"\xffkey", b"\xffvalue", headers))
        (letter,) = scenario.dead_letters()
        (copy,) = scenario.on("toys.dlq.order-placed.v2")

        assert (letter.key, letter.value, letter.reason) == (b"\xffkey", b"\xffvalue", "not_utf8")
        assert letter.headers[:3] == headers
        assert letter.position == Position(topic, 0, 0)
        assert (copy.key, copy.value) == (letter.key, letter.value)
        assert copy.headers[: len(letter.headers)] == letter.headers
        assert dict(copy.headers[len(letter.headers) :]) == {
            "x-dlq-reason": b"not_utf8",
            "x-dlq-message": letter.message.encode(),
            "x-dlq-topic": topic.encode(),
            "x-dlq-partition": b"0",
            "x-dlq-offset": b"0",
            "x-dlq-timestamp": b"1700000005000",
        }

    async def test_a_deferred_record_that_becomes_a_dead_letter_is_deferred_no_more(self):
        scenario = Scenario(orders(flaw=flaw_at("reserved")))
        await reserving(scenario)
        wrong = scenario.reply(f"{order_id()}/pay/do/1", Reserved(shelf="s"))
        await scenario.take(scenario.reply(scenario.on(Reserve)[0], Reserved(shelf="s-1")))
        await scenario.take(wrong)
        scenario.restart(orders())
        unit = await scenario.take(scenario.release(order_id()))
        await scenario.take(revisits=unit.revisits)

        assert [record.reason for record in scenario.dead_letters()] == ["unknown_intent"]
        assert scenario.deferred() == []
        (copy,) = scenario.on("toys.dlq.reserved.v2")
        assert (copy.value, header(copy, "x-dlq-offset")) == (wrong.value, "1")

    def test_every_topic_that_is_read_has_a_dlq_topic(self):
        """`{domain}.dlq.{name}.v{major}`; what is not ours has none."""
        assert unhandled.dlq_topic(NAMES.topic("toys.evt.reserved.v2"), NAMES) == NAMES.topic(
            "toys.dlq.reserved.v2"
        )
        assert unhandled.dlq_topic("toys.evt.reserved.v2", NAMES) is None
        assert unhandled.dlq_topic("", NAMES) is None

    def test_a_record_comes_back_as_it_was_received(self):
        """A deferred record is handled later as if it had come then."""
        inbound = Inbound("t", 3, 9, b"k", None, (("a", None), ("a", b"1")), 77)
        kept = unhandled.deferred(inbound, DeferralReason.EARLY, "x" * 5_000, 99, order_id())

        assert kept.inbound == inbound
        assert len(kept.message) == unhandled.MESSAGE_CHARS_MAX


class TestEndedSagaWithoutItsCode:
    """What an ended saga has had already, or only notes, is none of its code's business."""

    @pytest.fixture(params=["version gone", "other decisions", "raises"])
    def changed(self, request):
        """The code of today, under which the history of an ended saga cannot be replayed."""
        return {
            "version gone": orders(version=7),
            "other decisions": orders(note="other"),
            "raises": orders(flaw=flaw_at("start")),
        }[request.param]

    async def ended(self, scenario):
        await shipping(scenario)
        reply = scenario.reply(scenario.on(Ship)[0])
        await scenario.take(reply)
        assert scenario.status(order_id()) == "completed"
        return reply

    async def test_the_same_trigger_again_changes_nothing(self, make_scenario, changed):
        scenario = make_scenario(orders())
        await self.ended(scenario)
        before = scenario.history(order_id())

        scenario.restart(changed)
        unit = await scenario.take(placed(scenario), placed(scenario, id="again"))

        assert unit.counts["duplicate"] == 2
        assert scenario.status(order_id()) == "completed"
        assert (scenario.deferred(), scenario.dead_letters()) == ([], [])
        assert scenario.history(order_id()) == before
        scenario.restart(orders())

    async def test_another_trigger_for_the_same_key_is_a_dead_letter(self, make_scenario, changed):
        scenario = make_scenario(orders())
        await self.ended(scenario)

        scenario.restart(changed)
        await scenario.take(placed(scenario, id="foreign", amount=99))

        assert [record.reason for record in scenario.dead_letters()] == ["key_taken"]
        assert scenario.status(order_id()) == "completed"
        assert scenario.deferred() == []
        scenario.restart(orders())

    async def test_what_comes_after_the_end_is_noted(self, make_scenario, changed):
        """A signal, a cancel, an operator's act; the same reply again is a duplicate."""
        scenario = make_scenario(orders())
        reply = await self.ended(scenario)

        scenario.restart(changed)
        unit = await scenario.take(
            scenario.signal(order_id(), "note", 1, id="c-1"),
            scenario.command(order_id(), CommandAct.CANCEL, id="c-2", reason="late"),
            scenario.command(order_id(), CommandAct.COMPENSATE, id="c-3", reason="late"),
            reply,
        )

        assert (unit.counts["recorded"], unit.counts["duplicate"]) == (3, 1)
        assert scenario.bodies(order_id()).count("Noted") == 3
        assert scenario.status(order_id()) == "completed"
        assert (scenario.deferred(), scenario.dead_letters()) == ([], [])
        scenario.restart(orders())
        await scenario.take(placed(scenario, id="once more"))
        assert scenario.status(order_id()) == "completed"

    async def test_a_reply_is_a_duplicate_whose_intent_nobody_has_any_more(self):
        class Asked(Event, topic="renewed.asked", version=1, key="name"):
            name: str

        class Old(Intent[None], topic="renewed.old", version=1):
            name: str

        class New(Intent[None], topic="renewed.new", version=1):
            name: str

        @saga("renewed", version=1, starts_on=Asked)
        async def old(ctx: Context, asked: Asked) -> None:
            await ctx.do(Old(name=asked.name))

        @saga("renewed", version=2, starts_on=Asked)
        async def new(ctx: Context, asked: Asked) -> None:
            await ctx.do(New(name=asked.name))

        scenario = Scenario(old)
        await scenario.take(scenario.event(Asked(name="a"), "a"))
        reply = scenario.reply(scenario.on(Old)[0])
        await scenario.take(reply)
        assert scenario.status(saga_id("renewed", "a")) == "completed"

        scenario.restart(new)
        unit = await scenario.take(reply)

        assert unit.counts["duplicate"] == 1
        assert (scenario.deferred(), scenario.dead_letters()) == ([], [])


class TestStricterContracts:
    async def test_what_was_deferred_was_accepted(self):
        """A reply that waits behind a failed turn is taken, although the rules have grown."""
        is_broken, is_strict = True, False

        def rule(text: str) -> str:
            if is_strict:
                raise ValueError("nothing is good enough")
            return text

        class Placed(Event, topic="rules.placed", version=1, key="name"):
            name: Annotated[str, AfterValidator(rule)]

        class Done(Event, topic="rules.done", version=1):
            text: Annotated[str, AfterValidator(rule)]

        class Do(Intent[Done], topic="rules.do", version=1):
            name: str

        @saga("rules", version=1, starts_on=Placed)
        async def rules(ctx: Context, placed: Placed) -> None:
            done = await ctx.do(Do(name=placed.name))
            if is_broken:
                raise KeyError("a bug")
            assert done.text == "fine"

        found = saga_id("rules", "a")
        scenario = Scenario(rules)
        await scenario.take(scenario.event(Placed(name="a"), "a"))
        reply = scenario.reply(scenario.on(Do)[0], Done(text="fine"))
        await scenario.take(reply)
        assert scenario.status(found) == "parked"
        assert len(scenario.deferred()) == 1

        is_broken, is_strict = False, True
        scenario.restart()
        release = scenario.command(found, CommandAct.RELEASE, id="r-1", key="a", reason="mended")
        unit = await scenario.take(release)
        await scenario.take(revisits=unit.revisits)

        assert scenario.dead_letters() == []
        assert scenario.deferred() == []
        assert scenario.status(found) == "completed"
