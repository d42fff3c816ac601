"""Hops 3 to 6 for a whole batch: what one transaction records, defers, rejects, publishes."""

import asyncio

import pytest

from saga.authoring import saga
from saga.contracts import CommandAct, IntentFailed
from saga.core.events import SagaStarted, TurnFailed
from saga.core.identity import saga_id
from saga.core.intents import IntentIssued, Noted, SagaCompleted, Verdict
from saga.errors import AlreadyRecorded, HistoryConflict, StoreUnavailable
from saga.ports import Record, Source
from saga.runtime.unit_of_work import InboundBatch
from tests.records import header, without
from tests.runtime.fixtures import NAMES, Scenario, order_id, take
from tests.runtime.toys import (
    AlarmSet,
    Booked,
    OrderDone,
    OrderFailed,
    OrderPlaced,
    Reserve,
    Reserved,
    ReservedV1,
    Ship,
    Unreserve,
    ledger,
    orders,
)


def placed(
    scenario: Scenario, key: str = "o-1", *, amount: int = 2, id: str | None = None
) -> Record:
    return scenario.event(OrderPlaced(order_id=key, amount=amount), key, id=id)


async def reserving(scenario: Scenario, *keys: str) -> None:
    await scenario.take(*[placed(scenario, key) for key in keys or ("o-1",)])


async def shipping(scenario: Scenario, *keys: str) -> None:
    await reserving(scenario, *keys)
    await scenario.take(
        *[scenario.reply(intent, Reserved(shelf="s-1")) for intent in scenario.on(Reserve)]
    )


class TestASagaFromEndToEnd:
    async def test_each_reply_leads_to_the_next_intent_and_the_last_to_the_outcome(self, scenario):
        """Each record has the business key; intents name themselves, their saga and their cause."""
        await scenario.take(placed(scenario, id="m-1"))
        (reserve,) = scenario.on(Reserve)

        assert reserve.key == b"o-1"
        assert reserve.value == b'{"note":"","order_id":"o-1"}'
        assert header(reserve, "ce_id") == f"{order_id()}/reserve/do/1"
        assert header(reserve, "ce_idempotencykey") == f"{order_id()}/reserve/do"
        assert header(reserve, "ce_subject") == header(reserve, "ce_correlationid") == order_id()
        assert header(reserve, "ce_causationid") == "m-1"
        assert header(reserve, "ce_type") == "toys.int.reserve.v1"

        await scenario.take(scenario.reply(reserve, Reserved(shelf="s-1")))
        (ship,) = scenario.on(Ship)
        await scenario.take(scenario.reply(ship))
        (done,) = scenario.on(OrderDone)

        assert done.value == b'{"order_id":"o-1","shelf":"s-1"}'
        assert header(done, "ce_id") == f"{order_id()}/outcome"
        assert scenario.status(order_id()) == "completed"
        assert len(scenario.cache) == 0, "an ended saga leaves the memory"

    async def test_a_refusal_undoes_in_reverse_and_the_undo_says_what_it_undoes(self, scenario):
        """The undo is built from the recorded reply."""
        await shipping(scenario)
        (ship,) = scenario.on(Ship)
        await scenario.take(
            scenario.reply(ship, IntentFailed(outcome="refused", code="no", message="van"))
        )
        (undo,) = scenario.on(Unreserve)

        assert undo.value == b'{"order_id":"o-1","shelf":"s-1"}'
        assert header(undo, "ce_sagaundoes") == "toys.int.reserve.v1"
        assert header(undo, "ce_id") == f"{order_id()}/reserve/undo/1"
        assert scenario.status(order_id()) == "rolling_back"

        await scenario.take(scenario.reply(undo))

        assert scenario.status(order_id()) == "rolled_back"
        assert scenario.on(OrderFailed)[0].value == b'{"order_id":"o-1","reason":"van"}'

    async def test_all_turns_of_a_batch_commit_in_one_transaction(self, all_sagas):
        """Entries of many sagas, positions, timers and index rows."""
        records = [placed(all_sagas, f"o-{number}") for number in range(20)]
        records += [all_sagas.event(AlarmSet(name="a"), "a")]
        unit = await all_sagas.take(*records)

        assert all_sagas.store.appends == 1
        assert unit.counts["recorded"] == unit.counts["started"] == 41
        assert len(all_sagas.on(Reserve)) == 20
        topic = records[0].topic
        assert await all_sagas.store.positions([Source(topic, 0)]) == {Source(topic, 0): 19}
        assert len(all_sagas.store.inner.timers(10)) == 1
        assert len(all_sagas.store.inner.summaries) == 41

    async def test_several_turns_of_one_saga_fit_into_one_batch(self, all_sagas):
        """The second is taken with the state that the first has left."""
        stamped = saga_id("ledger", "o-1")
        await all_sagas.take(placed(all_sagas))
        stamps = [all_sagas.signal(stamped, "stamp", said, id=said) for said in ("a", "b")]
        await all_sagas.take(*stamps)

        assert all_sagas.store.appends == 2
        assert all_sagas.status(stamped) == "completed"
        assert [one.value for one in all_sagas.on(Booked)] == [b'{"order_id":"a b"}']

    async def test_a_record_may_concern_two_sagas(self, all_sagas):
        """Both take their turn in one transaction; neither knows of the other."""
        await all_sagas.take(placed(all_sagas))

        assert all_sagas.bodies(order_id())[0] == "SagaStarted"
        assert all_sagas.bodies(saga_id("ledger", "o-1"))[:2] == ["SagaStarted", "SignalAwaited"]

    async def test_an_old_version_of_trigger_and_reply_will_do(self, scenario):
        """They are upcast on the way; the history has today's version only."""
        topic = NAMES.topic("toys.evt.order-placed.v1")
        await scenario.take(scenario.record(topic, b"o-1", b'{"order_id":"o-1"}'))
        await scenario.take(scenario.reply(scenario.on(Reserve)[0], ReservedV1(place="p-1")))
        started, _, replied, *_ = scenario.history(order_id())

        assert started.body.trigger.payload == '{"amount":1,"order_id":"o-1"}'
        assert replied.body.reply.contract == "toys.evt.reserved.v2"
        assert len(scenario.on(Ship)) == 1

    async def test_live_sagas_are_not_loaded_again(self, scenario):
        """A turn of a saga in memory reads nothing."""
        await shipping(scenario)

        async def load(saga_ids):
            raise AssertionError("loaded")

        scenario.store.load = load
        await scenario.take(scenario.reply(scenario.on(Ship)[0]))
        assert scenario.status(order_id()) == "completed"
        del scenario.store.load

    async def test_another_process_goes_on_from_the_history(self, scenario):
        """A rebuilt saga decides as the loaded one would have."""
        await reserving(scenario)
        scenario.restart()
        await scenario.take(scenario.reply(scenario.on(Reserve)[0], Reserved(shelf="s-1")))
        scenario.restart()
        await scenario.take(scenario.reply(scenario.on(Ship)[0]))

        assert scenario.on(OrderDone)[0].value == b'{"order_id":"o-1","shelf":"s-1"}'


class TestDuplicates:
    async def test_a_trigger_published_twice_starts_one_saga(self, scenario):
        """At two positions, in one batch or in two."""
        unit = await scenario.take(placed(scenario, id="m-1"), placed(scenario, id="m-1"))
        assert (unit.counts["started"], unit.counts["duplicate"]) == (1, 1)
        unit = await scenario.take(placed(scenario, id="m-1"))

        assert unit.counts["duplicate"] == 1
        assert scenario.bodies(order_id()) == ["SagaStarted", "IntentIssued"]
        assert scenario.dead_letters() == []

    async def test_the_same_order_under_another_id_is_a_duplicate_while_it_says_the_same(
        self, scenario
    ):
        """A publisher that retries under a new id means the same order."""
        await scenario.take(placed(scenario, id="m-1"))
        unit = await scenario.take(placed(scenario, id="m-2"))

        assert unit.counts["duplicate"] == 1
        assert len(scenario.on(Reserve)) == 1

    @pytest.mark.parametrize(("id", "reason"), [("m-1", "id_conflict"), ("m-2", "key_taken")])
    async def test_the_same_key_with_another_content_is_a_conflict(self, scenario, id, reason):
        """The first one wins; the second is a dead letter that says whether the id came before."""
        await scenario.take(placed(scenario, id="m-1"))
        await scenario.take(placed(scenario, amount=99, id=id))
        (letter,) = scenario.dead_letters()

        assert letter.reason == reason
        assert b"99" in letter.value
        assert len(scenario.on(Reserve)) == 1
        assert len(scenario.history(order_id())) == 2

    async def test_a_reply_that_comes_twice_is_counted(self, scenario):
        """Under its own id or another: one answer to one attempt."""
        await reserving(scenario)
        reply = scenario.reply(scenario.on(Reserve)[0], Reserved(shelf="s-1"))
        await scenario.take(reply)
        unit = await scenario.take(reply, without(reply, "ce_id"))

        assert unit.counts["duplicate"] == 2
        assert len(scenario.on(Ship)) == 1
        assert scenario.dead_letters() == []

    async def test_a_second_different_reply_is_noted_once_and_changes_nothing(self, scenario):
        """An incident: a service has said two things about one attempt."""
        await reserving(scenario)
        (reserve,) = scenario.on(Reserve)
        await scenario.take(scenario.reply(reserve, Reserved(shelf="s-1")))
        other = without(scenario.reply(reserve, Reserved(shelf="s-2")), "ce_id")
        await scenario.take(other)
        notes = [e.body for e in scenario.history(order_id()) if isinstance(e.body, Noted)]

        assert [note.verdict for note in notes] == [Verdict.CONFLICTING]
        await scenario.take(scenario.reply(scenario.on(Ship)[0]))
        assert b"s-1" in scenario.on(OrderDone)[0].value

    async def test_a_command_sent_twice_is_done_once(self, all_sagas):
        await all_sagas.take(placed(all_sagas))
        ledger_id = saga_id("ledger", "o-1")
        stamp = all_sagas.signal(ledger_id, "stamp", "x", id="c-1")
        unit = await all_sagas.take(stamp, stamp)

        assert unit.counts["duplicate"] == 1
        assert all_sagas.status(ledger_id) == "running"

    async def test_a_timer_that_is_no_longer_armed_is_nothing(self, all_sagas):
        """Two processes may both find it due; the second finds it fired."""
        await all_sagas.take(all_sagas.event(AlarmSet(name="a"), "a"))
        all_sagas.clock.advance(61)
        due = await all_sagas.store.due_timers(until=all_sagas.clock.now(), limit=10)
        await all_sagas.take(due=due)
        unit = await all_sagas.take(due=due)

        assert unit.counts["duplicate"] == 1
        assert all_sagas.bodies(saga_id("alarm", "a")).count("TimerFired") == 1


class TestMisfits:
    @pytest.mark.parametrize("step", ["reserve/do/2", "reserve/undo/1", "pay/do/1", "reserve/do/0"])
    async def test_a_reply_to_what_was_never_asked_is_set_aside(self, scenario, step):
        """Of a saga that is there: another attempt, another direction, another step."""
        await reserving(scenario)
        await scenario.take(scenario.reply(f"{order_id()}/{step}", Reserved(shelf="s-1")))

        assert [record.reason for record in scenario.dead_letters()] == ["unknown_intent"]
        assert len(scenario.history(order_id())) == 2

    async def test_a_reply_of_another_contract_is_set_aside(self, scenario):
        """Done without the reply is no answer, and the reply to another intent is none."""
        await shipping(scenario)
        reserve_id, ship_id = (f"{order_id()}/{step}/do/1" for step in ("reserve", "ship"))
        await scenario.take(
            scenario.reply(reserve_id), scenario.reply(ship_id, Reserved(shelf="s"))
        )

        assert [record.reason for record in scenario.dead_letters()] == [
            "wrong_reply",
            "wrong_reply",
        ]
        assert scenario.status(order_id()) == "running"

    async def test_a_reply_under_another_key_is_set_aside(self, scenario):
        await reserving(scenario)
        await scenario.take(scenario.reply(scenario.on(Reserve)[0], Reserved(shelf="s"), key="o-2"))

        assert [record.reason for record in scenario.dead_letters()] == ["wrong_key"]

    async def test_a_signal_after_the_end_is_noted(self, scenario):
        """It is recorded that it came, and that it came too late."""
        await shipping(scenario)
        await scenario.take(scenario.reply(scenario.on(Ship)[0]))
        await scenario.take(scenario.signal(order_id(), "stamp", "x", id="c-1"))
        *_, note = scenario.history(order_id())

        assert isinstance(note.body, Noted)
        assert note.body.verdict is Verdict.AFTER_END

    async def test_what_cannot_be_read_does_not_hold_up_its_neighbours(self, scenario):
        topic = NAMES.topic("toys.evt.order-placed.v2")
        bad = [scenario.record(topic, b"x", value) for value in (b"{", None, b'{"order_id":1}')]
        unit = await scenario.take(placed(scenario, "o-1"), *bad, placed(scenario, "o-2"))

        assert unit.counts["started"] == 2
        assert [record.reason for record in scenario.dead_letters()] == [
            "not_json",
            "null_value",
            "schema",
        ]
        assert await scenario.store.positions([Source(topic, 0)]) == {Source(topic, 0): 4}


class TestWhenTheStoreSaysNo:
    @pytest.mark.parametrize(
        "error", [StoreUnavailable("full"), HistoryConflict(("not told",)), AlreadyRecorded()]
    )
    async def test_a_batch_that_could_not_be_stored_leaves_no_trace(self, scenario, error):
        """Nothing is published, and the states in memory that were ahead are dropped."""
        await reserving(scenario)
        reply = scenario.reply(scenario.on(Reserve)[0], Reserved(shelf="s-1"))
        scenario.store.before.append(error)
        with pytest.raises(type(error)):
            await scenario.take(reply)

        assert scenario.on(Ship) == []
        assert len(scenario.cache) == 0
        await scenario.take(reply)
        assert len(scenario.on(Ship)) == 1

    async def test_another_process_was_first(self, scenario):
        """The number of turns tells; the late one decides again on the new history."""
        await reserving(scenario)
        late = scenario.turns
        scenario.restart()
        await scenario.take(scenario.reply(scenario.on(Reserve)[0], Reserved(shelf="s-1")))

        stale = scenario.signal(order_id(), "x", "y", id="c-1")
        scenario.bus.append([stale])
        work = InboundBatch(scenario.unread())
        await take(late, work)

        assert scenario.bodies(order_id())[-1] == "SignalReceived"
        scenario.restart()

    async def test_memory_that_is_behind_does_not_judge_a_reply(self, scenario):
        """A reply to an intent that another process has issued is no reply to an unknown intent."""
        await reserving(scenario)
        behind = scenario.turns
        scenario.restart()
        await scenario.take(scenario.reply(scenario.on(Reserve)[0], Reserved(shelf="s-1")))
        scenario.bus.append([scenario.reply(scenario.on(Ship)[0])])
        await take(behind, InboundBatch(scenario.unread()))
        scenario.restart()

        assert scenario.dead_letters() == []
        assert scenario.status(order_id()) == "completed"

    async def test_two_turns_of_one_saga_never_overlap(self, scenario):
        """The second waits until the first is stored and published."""
        await reserving(scenario)
        (reserve,) = scenario.on(Reserve)
        order: list[str] = []
        scenario.store.on_append = lambda batch: order.append("append")
        works = []
        for record in (
            scenario.reply(reserve, Reserved(shelf="s")),
            scenario.reply(f"{order_id()}/ship/do/1"),
        ):
            scenario.bus.append([record])
            works.append(InboundBatch(scenario.unread()))
        await asyncio.gather(*(take(scenario.turns, work) for work in works))

        assert order == ["append", "append"]
        assert scenario.status(order_id()) == "completed"


class TestSize:
    @pytest.mark.parametrize("spare", [-500, -40, -31, -30, 0, 500])
    async def test_a_payload_that_no_record_can_hold_parks_its_saga(self, spare, make_scenario):
        """Key and value count; the bus would refuse it for ever. Its neighbours go on."""
        scenario = make_scenario(orders(note="x" * (3_000 + spare)), ledger, record_bytes=3_000)
        await scenario.take(placed(scenario))

        is_small = spare <= -31  # what is around the note, and the key
        assert scenario.status(order_id()) == ("running" if is_small else "parked")
        assert len(scenario.on(Reserve)) == is_small
        assert is_small or "toys.int.reserve.v1: key and value have" in scenario.reason(order_id())
        assert scenario.status(saga_id("ledger", "o-1")) == "running"

    @pytest.mark.parametrize("size", range(48_600, 49_600, 100))
    async def test_a_record_too_large_for_its_dlq_headers_is_set_aside_all_the_same(self, size):
        """The catalogue has it whole; a copy that no topic takes is left out."""
        scenario = Scenario(orders(), record_bytes=1_024)
        topic = NAMES.topic("toys.evt.order-placed.v2")
        small, large = (scenario.record(topic, b"o-1", b"x" * length) for length in (9, size - 20))
        await scenario.take(small, large, placed(scenario, "o-2"))

        assert [record.reason for record in scenario.dead_letters()] == ["not_json", "not_json"]
        assert scenario.dead_letters()[1].value == large.value
        assert scenario.on("toys.dlq.order-placed.v2")[-1].value in {small.value, large.value}
        assert scenario.status(order_id("o-2")) == "running"


async def test_what_a_function_may_not_send_parks_it():
    """A contract that its application does not know is found when it is issued, not by the bus."""
    hidden = {"intent": Ship}

    @saga("order", version=1, starts_on=OrderPlaced)
    async def order(ctx, trigger):
        await ctx.do(hidden["intent"](order_id="x"))

    scenario = Scenario(order)
    await scenario.take(placed(scenario))

    assert scenario.status(order_id()) == "parked"
    assert "toys.int.ship.v1" in scenario.reason(order_id())
    assert [type(entry.body) for entry in scenario.history(order_id())] == [TurnFailed]


async def test_entries_name_their_cause(all_sagas):
    """Every entry of a turn has its time and the message, timer or command that caused it."""
    await all_sagas.take(placed(all_sagas, id="m-1"))
    ledger_id = saga_id("ledger", "o-1")
    await all_sagas.take(all_sagas.command(ledger_id, CommandAct.CANCEL, id="c-9", reason="no"))
    causes = [(entry.cause, type(entry.body).__name__) for entry in all_sagas.history(ledger_id)]

    assert causes[0] == ("m-1", "SagaStarted")
    assert causes[-1] == ("c-9", "SagaRolledBack")
    assert len({entry.at for entry in all_sagas.history(order_id())}) == 1
    assert isinstance(all_sagas.history(order_id())[0].body, SagaStarted)
    assert isinstance(all_sagas.history(order_id())[1].body, IntentIssued)
    assert not any(isinstance(entry.body, SagaCompleted) for entry in all_sagas.history(ledger_id))
    assert ledger.name == "ledger"
