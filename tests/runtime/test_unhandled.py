"""What a bad saga, a bad record or missing code stops, what it does not, and how it
goes on again.
"""

from saga import Context
from saga.authoring import saga
from saga.contracts import CommandAct, IntentFailed
from saga.core.events import SignalReceived, TurnFailed
from saga.core.identity import saga_id
from saga.errors import CorruptHistory
from saga.ports import Inbound
from saga.ports.bus import Position
from saga.ports.store import DeferralReason
from saga.runtime import unhandled
from saga.runtime.unit_of_work import InboundBatch
from tests.runtime.lab import NAMES, Lab, header, order_id, take
from tests.runtime.shop import (
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
from tests.runtime.test_turns import placed, reserving, shipping

LEDGER = saga_id("ledger", "o-1")
ALARM = saga_id("alarm", "a")


def flaw_at(*places: str):
    """A bug that shows at some places of the code."""

    def flaw(place: str, subject: str) -> None:
        if place in places or f"{place} {subject}" in places:
            raise ValueError(f"a bug at {place} of {subject}")

    return flaw


class TestPoison:
    async def test_a_saga_whose_code_raises_parks_with_error_and_position(self) -> None:
        """The record it choked on is held, its position moves on."""
        lab = Lab(orders(flaw=flaw_at("reserved")))
        await reserving(lab)
        await lab.take(lab.reply(lab.on(Reserve)[0], Reserved(shelf="s-1")))
        *_, last = lab.history(order_id())

        assert isinstance(last.body, TurnFailed)
        assert last.body.error == "ValueError: a bug at reserved of s-1"
        assert last.body.position == f"{NAMES.topic('kiosk.evt.reserved.v2')}/0/0"
        assert lab.status(order_id()) == "parked"
        assert lab.reason(order_id()) == last.body.error
        assert [(one.reason, one.saga_id) for one in lab.held()] == [("turn_failed", order_id())]
        assert lab.dead() == []
        lab.check()

    async def test_the_neighbours_of_the_same_batch_go_on(self) -> None:
        """Wherever the bad ones stand in it, and however many they are."""
        lab = Lab(orders(flaw=flaw_at("reserved s-1", "reserved s-4", "reserved s-5")))
        keys = [f"o-{number}" for number in range(6)]
        await reserving(lab, *keys)
        draft = await lab.take(
            *[
                lab.reply(intent, Reserved(shelf=f"s-{number}"))
                for number, intent in enumerate(lab.on(Reserve))
            ]
        )

        assert draft.counts["failed_turns"] == 3
        assert [lab.status(order_id(key)) for key in keys] == [
            "running",
            "parked",
            "running",
            "running",
            "parked",
            "parked",
        ]
        assert [one.key for one in lab.on(Ship)] == [b"o-0", b"o-2", b"o-3"]
        lab.check()

    async def test_later_records_are_held_in_order_and_replayed_by_a_release(self) -> None:
        """With the code mended: nothing is lost, nothing overtakes, positions had moved on long
        ago.
        """
        lab = Lab(orders(flaw=flaw_at("reserved")))
        await reserving(lab)
        await lab.take(lab.reply(lab.on(Reserve)[0], Reserved(shelf="s-1")))
        for number in (1, 2, 3):
            await lab.take(lab.signal(order_id(), "note", number, id=f"c-{number}"))
        assert [one.reason for one in lab.held()] == ["turn_failed", *3 * ["behind_failed_turn"]]

        lab.restart(orders())
        draft = await lab.take(lab.release(order_id()))
        assert draft.revisits == {order_id()}
        await lab.take(revisits=draft.revisits)

        assert lab.held() == []
        assert lab.status(order_id()) == "running"
        assert len(lab.on(Ship)) == 1
        payloads = [
            entry.body.payload
            for entry in lab.history(order_id())
            if isinstance(entry.body, SignalReceived)
        ]
        assert payloads == ["1", "2", "3"]
        lab.check()

    async def test_a_release_of_what_is_not_mended_parks_again(self) -> None:
        """Each failure is an entry; the record stays held, in its place."""
        lab = Lab(orders(flaw=flaw_at("reserved")))
        await reserving(lab)
        await lab.take(lab.reply(lab.on(Reserve)[0], Reserved(shelf="s-1")))
        await lab.take(lab.signal(order_id(), "note", 1, id="c-1"))
        for number in (1, 2):
            draft = await lab.take(lab.release(order_id(), id=f"r-{number}"))
            await lab.take(revisits=draft.revisits)

        assert lab.bodies(order_id()).count("TurnFailed") == 3
        assert lab.bodies(order_id()).count("OperatorActed") == 2
        assert [one.reason for one in lab.held()] == ["turn_failed", "behind_failed_turn"]
        assert lab.status(order_id()) == "parked"
        lab.check()

    async def test_a_saga_that_fails_at_birth_is_there_and_can_be_released(self) -> None:
        """It is known by name and key before it has begun, and its trigger is not lost."""
        lab = Lab(orders(flaw=flaw_at("start")))
        await lab.take(placed(lab), placed(lab, "o-2"))
        (summary,) = [one for one in lab.store.inner.summaries.values() if one.key == "o-1"]

        assert lab.bodies(order_id()) == ["TurnFailed"]
        assert (summary.definition, summary.status.value) == ("order", "parked")
        assert [one.saga_id for one in lab.held()] == [order_id(), order_id("o-2")]

        lab.restart(orders())
        draft = await lab.take(lab.release(order_id()))
        await lab.take(revisits=draft.revisits)

        assert lab.bodies(order_id()) == [
            "TurnFailed",
            "OperatorActed",
            "SagaStarted",
            "IntentIssued",
        ]
        assert lab.status(order_id()) == "running"
        assert lab.status(order_id("o-2")) == "parked"
        lab.check()

    async def test_a_trigger_sent_again_to_a_saga_that_failed_at_birth_waits_too(self) -> None:
        """After the release the first one starts it and the second is a duplicate."""
        lab = Lab(orders(flaw=flaw_at("start")))
        await lab.take(placed(lab, id="m-1"))
        await lab.take(placed(lab, id="m-1"))
        lab.restart(orders())
        draft = await lab.take(lab.release(order_id()))
        draft = await lab.take(revisits=draft.revisits)

        assert draft.counts["duplicate"] == 1
        assert lab.held() == lab.dead() == []
        assert len(lab.on(Reserve)) == 1
        lab.check()

    async def test_a_saga_that_failed_at_birth_may_be_mended_by_a_new_version(self) -> None:
        """It has decided nothing yet, so there is nothing that binds it to the version that
        failed.
        """
        lab = Lab(orders(flaw=flaw_at("start")))
        await lab.take(placed(lab))
        lab.restart(orders(version=2))
        draft = await lab.take(lab.release(order_id()))
        await lab.take(revisits=draft.revisits)

        assert lab.status(order_id()) == "running"
        assert lab.history(order_id())[2].body.definition_version == 2
        lab.check()

    async def test_a_new_version_beside_the_one_that_failed_at_birth_takes_over(self) -> None:
        """The same, while the old version is still there for older sagas."""
        flawed = orders(flaw=flaw_at("start"))
        lab = Lab(flawed)
        await lab.take(placed(lab))
        lab.restart(flawed, orders(version=2))
        draft = await lab.take(lab.release(order_id()))
        await lab.take(revisits=draft.revisits)

        assert lab.status(order_id()) == "running"
        lab.check()

    async def test_a_timer_whose_turn_fails_parks_its_saga_and_fires_after_the_release(
        self,
    ) -> None:
        """It is looked at again later, neither lost nor tried ten times a second."""
        lab = Lab(alarms(flaw=flaw_at("woken")))
        await lab.take(lab.event(AlarmSet(name="a"), "a"))
        lab.clock.advance(61)
        await lab.take_due()
        assert lab.status(ALARM) == "parked"
        assert await lab.store.due_timers(until=lab.clock.now(), limit=10) == []

        lab.clock.advance(31)
        await lab.take_due()
        assert lab.bodies(ALARM).count("TurnFailed") == 1, "it is held up, not tried again"

        lab.restart(alarms())
        await lab.take(lab.release(ALARM))
        lab.clock.advance(31)
        await lab.take_due()

        assert lab.status(ALARM) == "running"
        assert lab.bodies(ALARM)[-2:] == ["TimerArmed", "SignalAwaited"] or "TimerFired" in (
            lab.bodies(ALARM)
        )
        lab.check()

    async def test_timers_of_parked_sagas_do_not_keep_others_from_firing(self) -> None:
        """However many of them are due before."""
        lab = Lab(
            alarms(flaw=lambda place, name: flaw_at("woken")(place, "") if name != "z" else 0)
        )
        await lab.take(*[lab.event(AlarmSet(name=f"a{n}"), f"a{n}") for n in range(250)])
        lab.clock.advance(1)
        await lab.take(lab.event(AlarmSet(name="z"), "z"))
        lab.clock.advance(61)
        for _ in range(3):
            await lab.take_due()  # a hundred at a time

        assert "TimerFired" in lab.bodies(saga_id("alarm", "z"))
        assert len(lab.store.inner.timers(1_000)) == 251
        lab.check()

    async def test_a_cancel_of_a_poisoned_saga_is_refused_and_an_abandon_is_not(self) -> None:
        """To undo needs the code; to give up does not, and what was held is let go."""
        lab = Lab(orders(flaw=flaw_at("reserved")))
        await reserving(lab)
        await lab.take(lab.reply(lab.on(Reserve)[0], Reserved(shelf="s-1")))
        await lab.take(lab.command(order_id(), CommandAct.CANCEL, id="c-1", reason="no"))
        assert lab.status(order_id()) == "parked"

        draft = await lab.take(lab.command(order_id(), CommandAct.ABANDON, id="c-2", reason="no"))
        await lab.take(revisits=draft.revisits)

        assert lab.status(order_id()) == "abandoned"
        assert lab.held() == []
        lab.check()

    async def test_compensate_undoes_what_a_poisoned_saga_had_done(self) -> None:
        """The way back needs the undo only, not the code that fails."""
        lab = Lab(orders(flaw=flaw_at("reserved")))
        await reserving(lab)
        await lab.take(lab.reply(lab.on(Reserve)[0], Reserved(shelf="s-1")))
        draft = await lab.take(
            lab.command(order_id(), CommandAct.COMPENSATE, id="c-1", reason="bug")
        )
        await lab.take(revisits=draft.revisits)
        blind, informed = lab.on(Unreserve)
        assert blind.value == b'{"order_id":"o-1","shelf":null}'
        assert informed.value == b'{"order_id":"o-1","shelf":"s-1"}'
        draft = await lab.take(lab.reply(informed))
        await lab.take(revisits=draft.revisits)

        assert lab.status(order_id()) == "rolled_back"
        assert lab.held() == []
        lab.check()

    async def test_a_failed_turn_of_an_ended_saga_sets_only_the_record_aside(self) -> None:
        """Its outcome stands."""
        lab = Lab(orders())
        await shipping(lab)
        ship = lab.on(Ship)[0]
        await lab.take(lab.reply(ship, IntentFailed(outcome="failed")))
        undo = lab.on(Unreserve)[0]
        await lab.take(lab.reply(undo))
        assert lab.status(order_id()) == "rolled_back_with_residue"
        found = await lab.cache.load([order_id()])
        before = found[order_id()].decider.handle

        def handle(state, event):
            if isinstance(event.fact, SignalReceived):
                raise RuntimeError("a bug in the engine itself")
            return before(state, event)

        object.__setattr__(found[order_id()].decider, "handle", handle)
        await lab.take(lab.signal(order_id(), "note", 1, id="c-1"))

        assert [one.reason for one in lab.dead()] == ["turn_failed"]
        assert lab.status(order_id()) == "rolled_back_with_residue"
        assert lab.held() == []

    async def test_a_hundred_poisonous_records_in_a_batch_are_each_found(self) -> None:
        """The batch begins again for each, and ends."""
        lab = Lab(orders(flaw=flaw_at("start")), ledger)
        draft = await lab.take(*[placed(lab, f"o-{number}") for number in range(100)])

        assert draft.counts["failed_turns"] == 100
        assert draft.counts["started"] == 100, "the ledgers"
        lab.check()


class TestCodeThatIsNotThere:
    async def test_a_saga_without_its_version_is_stalled_and_heals_with_it(self) -> None:
        """Its records are held in order; a process that has the version takes them up at its
        start.
        """
        lab = Lab(orders())
        await reserving(lab)
        reply = lab.reply(lab.on(Reserve)[0], Reserved(shelf="s-1"))
        lab.restart(orders(version=2))
        await lab.take(reply)
        await lab.take(lab.reply(f"{order_id()}/ship/do/1"))

        assert lab.status(order_id()) == "stalled"
        assert "'order' version 1: deploy it" in lab.reason(order_id())
        assert len(lab.history(order_id())) == 2
        assert [one.reason for one in lab.held()] == ["stalled", "stalled"]

        lab.restart(orders(), orders(version=2))
        async with lab.serving():
            await lab.until(lambda: lab.status(order_id()) == "completed", within_s=3)
        assert lab.held() == []
        lab.check()

    async def test_a_stalled_saga_heals_when_the_worker_without_the_code_leaves_later(
        self,
    ) -> None:
        """A rolling deployment: the new worker is there already when the old one holds the
        record.
        """
        lab = Lab(orders())
        await reserving(lab)
        reply = lab.reply(lab.on(Reserve)[0], Reserved(shelf="s-1"))
        lab.restart(orders(version=2))
        old = lab.turns
        lab.restart(orders(), orders(version=2))
        async with lab.serving():
            await lab.while_passing(2)
            inbound = Inbound(reply.topic, 9, 0, reply.key, reply.value, reply.headers, 0)
            await take(old, InboundBatch([inbound]))
            assert lab.status(order_id()) == "stalled"
            await lab.until(lambda: len(lab.on(Ship)) == 1, within_s=40)

        assert lab.status(order_id()) == "running"
        lab.check()

    async def test_a_stalled_saga_does_not_hold_up_others(self) -> None:
        """The new version takes what is new."""
        lab = Lab(orders())
        await reserving(lab)
        lab.restart(orders(version=2))
        await lab.take(lab.reply(lab.on(Reserve)[0], Reserved(shelf="s-1")), placed(lab, "o-2"))

        assert lab.status(order_id()) == "stalled"
        assert lab.status(order_id("o-2")) == "running"
        assert lab.history(order_id("o-2"))[0].body.definition_version == 2

    async def test_code_that_decides_otherwise_parks_the_saga_and_keeps_its_history(self) -> None:
        """Nothing is guessed, nothing re-sent; with the old code it goes on."""
        lab = Lab(orders())
        await reserving(lab)
        reserve = lab.on(Reserve)[0]
        lab.restart(orders(note="new"))
        await lab.take(lab.reply(reserve, Reserved(shelf="s-1")))

        assert lab.status(order_id()) == "parked"
        assert lab.reason(order_id()).startswith("entry 2: the history says intent-issued reserve")
        assert len(lab.history(order_id())) == 2
        assert [one.reason for one in lab.held()] == ["replay_mismatch"]
        assert len(lab.on(Reserve)) == 1

        lab.restart(orders())
        async with lab.serving():
            await lab.until(lambda: lab.on(Ship), within_s=3)
        assert lab.status(order_id()) == "running"
        assert lab.held() == []
        lab.check()

    async def test_code_that_raises_while_it_is_rebuilt_parks_the_saga(self) -> None:
        """With what it raised, and without a change of its history."""
        lab = Lab(orders())
        await shipping(lab)
        lab.restart(orders(flaw=flaw_at("reserved")))
        await lab.take(lab.reply(lab.on(Ship)[0]))

        assert [one.reason for one in lab.held()] == ["replay_failed"]
        assert lab.reason(order_id()) == (
            "the code at hand raised ValueError: a bug at reserved of s-1"
        )

        lab.restart(orders())
        await lab.take(revisits=[order_id()])
        assert lab.status(order_id()) == "completed"
        lab.check()

    async def test_a_due_timer_of_a_stalled_saga_fires_once_the_code_is_back(self) -> None:
        """Late, within half a minute of the deployment, and without anybody's help."""
        lab = Lab(alarms())
        await lab.take(lab.event(AlarmSet(name="a"), "a"))
        lab.restart(orders())
        lab.clock.advance(61)
        await lab.take_due()
        assert lab.status(ALARM) == "stalled"

        lab.restart(alarms())
        async with lab.serving():
            await lab.until(lambda: "TimerFired" in lab.bodies(ALARM), within_s=32)
        lab.check()

    async def test_a_corrupt_history_stops_that_saga_only_and_is_named(self) -> None:
        """Its records are held; the index says what is wrong, and the others of the batch go on."""
        lab = Lab(orders())
        await reserving(lab, "o-1", "o-2")
        replies = [lab.reply(one, Reserved(shelf="s")) for one in lab.on(Reserve)]
        lab.restart()
        load = lab.store.inner.load

        async def damaged(saga_ids):
            found = dict(await load(saga_ids))
            if order_id() in found:
                found[order_id()] = CorruptHistory(order_id(), 2, "the row is no JSON")
            return found

        lab.store.load = damaged
        await lab.take(*replies)
        (held,) = lab.held()

        assert held.reason == "corrupt_history"
        assert held.message == f"saga {order_id()}, entry 2: the row is no JSON"
        assert lab.status(order_id("o-2")) == "running"
        assert lab.status(order_id()) == "parked"
        assert lab.reason(order_id()) == held.message

        del lab.store.load
        await lab.take(revisits=[order_id()])
        assert lab.held() == []
        assert lab.status(order_id()) == "running"
        lab.check()


class TestHeldForASaga:
    async def test_a_reply_that_is_early_waits_for_its_saga(self) -> None:
        """Topics have no order between them: an answer may be read before the trigger."""
        lab = Lab(orders())
        ids = [f"{order_id()}/{step}/do/1" for step in ("reserve", "ship")]
        await lab.take(lab.reply(ids[0], Reserved(shelf="s-1")))
        await lab.take(lab.reply(ids[1]))
        assert [one.reason for one in lab.held()] == ["early", "early"]

        draft = await lab.take(placed(lab))
        await lab.take(revisits=draft.revisits)

        assert lab.held() == lab.dead() == []
        assert lab.status(order_id()) == "completed"
        lab.check()

    async def test_early_signals_keep_their_order(self) -> None:
        """Also with what comes while they are held."""
        lab = Lab(ledger)
        await lab.take(lab.signal(LEDGER, "stamp", "first", id="c-1"))
        draft = await lab.take(placed(lab), lab.signal(LEDGER, "stamp", "second", id="c-2"))
        await lab.take(revisits=draft.revisits)

        assert lab.on(Booked)[0].value == b'{"order_id":"first second"}'
        assert lab.held() == []
        lab.check()

    async def test_what_comes_behind_held_records_waits_for_them(self) -> None:
        """A record must not overtake those that were held before it."""
        lab = Lab(ledger)
        await lab.take(lab.signal(LEDGER, "stamp", "first", id="c-1"))
        await lab.take(placed(lab))
        draft = await lab.take(lab.signal(LEDGER, "stamp", "second", id="c-2"))
        assert [one.reason for one in lab.held()] == ["early", "behind_deferred"]
        await lab.take(revisits=draft.revisits)

        assert lab.on(Booked)[0].value == b'{"order_id":"first second"}'
        lab.check()

    async def test_a_saga_that_never_comes_makes_the_record_dead_after_the_hold(self) -> None:
        """Ten seconds by default, and not before."""
        lab = Lab(orders())
        async with lab.serving():
            lab.bus.append([lab.reply(f"{order_id()}/reserve/do/1", Reserved(shelf="s"))])
            lab.bus.append([lab.release(order_id("o-9"))])
            await lab.while_passing(9)
            assert len(lab.held()) == 2
            await lab.until(lambda: not lab.held(), within_s=3)

        assert [one.reason for one in lab.dead()] == ["unknown_saga", "unknown_saga"]
        assert order_id() in lab.dead()[0].message
        lab.check()

    async def test_a_command_to_what_can_be_no_saga_is_dead_at_once(self) -> None:
        """There is nothing to wait for."""
        lab = Lab(orders())
        value = b'{"act":"release","command_id":"c","saga_id":"order/o-1"}'
        await lab.take(lab.record(NAMES.topic("saga.ctl.command.v1"), b"o-1", value))

        assert [one.reason for one in lab.dead()] == ["unknown_saga"]
        assert lab.held() == []

    async def test_a_saga_of_many_held_records_takes_them_page_by_page(self) -> None:
        """More than one batch of them: all go on, in order."""

        @saga("ledger", version=1, starts_on=OrderPlaced)
        async def counting(ctx: Context, trigger: OrderPlaced) -> Booked:
            heard = [await ctx.wait("stamp", int) for _ in range(1_200)]
            return Booked(order_id=str(heard == list(range(1_200))))

        lab = Lab(counting)
        signals = [lab.signal(LEDGER, "stamp", number, id=f"c-{number}") for number in range(1_200)]
        async with lab.serving():
            lab.bus.append(signals)
            await lab.until(lambda: len(lab.held()) == 1_200)
            lab.bus.append([placed(lab)])
            await lab.until(lambda: lab.on(Booked), within_s=20)

        assert lab.on(Booked)[0].value == b'{"order_id":"True"}'
        assert lab.held() == []


class TestDeadRecords:
    async def test_a_dead_record_is_kept_whole_and_copied_to_its_dlq_topic(self) -> None:
        """Key, value and headers byte for byte, with where, when and why."""
        lab = Lab(orders())
        topic = NAMES.topic("kiosk.evt.order-placed.v2")
        headers = (("b", b"\xff\x00"), ("a", None), ("b", b"again"))
        lab.clock.advance(5)
        await lab.take(lab.record(topic, b"\xffkey", b"\xffvalue", headers))
        (dead,) = lab.dead()
        (copy,) = lab.on("kiosk.dlq.order-placed.v2")

        assert (dead.key, dead.value, dead.reason) == (b"\xffkey", b"\xffvalue", "not_utf8")
        assert dead.headers[:3] == headers
        assert dead.position == Position(topic, 0, 0)
        assert (copy.key, copy.value) == (dead.key, dead.value)
        assert copy.headers[: len(dead.headers)] == dead.headers
        assert dict(copy.headers[len(dead.headers) :]) == {
            "x-dlq-reason": b"not_utf8",
            "x-dlq-message": dead.message.encode(),
            "x-dlq-topic": topic.encode(),
            "x-dlq-partition": b"0",
            "x-dlq-offset": b"0",
            "x-dlq-timestamp": b"1700000005000",
        }

    async def test_dead_records_of_held_ones_leave_the_hold(self) -> None:
        """They are in the catalogue once."""
        lab = Lab(orders())
        wrong = lab.reply(f"{order_id()}/pay/do/1", Reserved(shelf="s"))
        await lab.take(wrong)
        draft = await lab.take(placed(lab))
        await lab.take(revisits=draft.revisits)

        assert [one.reason for one in lab.dead()] == ["unknown_intent"]
        assert lab.held() == []
        (copy,) = lab.on("kiosk.dlq.reserved.v2")
        assert (copy.value, header(copy, "x-dlq-offset")) == (wrong.value, "0")

    def test_every_topic_that_is_read_has_a_dlq_topic(self) -> None:
        """`{domain}.dlq.{name}.v{major}`; what is not ours has none."""
        assert unhandled.dlq_topic(NAMES.topic("kiosk.evt.reserved.v2"), NAMES) == NAMES.topic(
            "kiosk.dlq.reserved.v2"
        )
        assert unhandled.dlq_topic("kiosk.evt.reserved.v2", NAMES) is None
        assert unhandled.dlq_topic("", NAMES) is None

    def test_a_record_comes_back_as_it_was_received(self) -> None:
        """What is held is handled later as if it had come then."""
        inbound = Inbound("t", 3, 9, b"k", None, (("a", None), ("a", b"1")), 77)
        kept = unhandled.deferred(inbound, DeferralReason.EARLY, "x" * 5_000, 99, order_id())

        assert kept.inbound == inbound
        assert len(kept.message) == unhandled.MESSAGE_CHARS_MAX
