"""Hops 3 to 6 for a whole batch: what is recorded, held, set aside and published, in one
transaction.
"""

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
from tests.runtime.lab import NAMES, Lab, header, order_id, take, without
from tests.runtime.shop import (
    AlarmSet,
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


def placed(lab: Lab, key: str = "o-1", *, amount: int = 2, id: str | None = None) -> Record:
    """A trigger."""
    return lab.event(OrderPlaced(order_id=key, amount=amount), key, id=id)


async def reserving(lab: Lab, *keys: str) -> None:
    """Orders that wait for their reservation."""
    await lab.take(*[placed(lab, key) for key in keys or ("o-1",)])


async def shipping(lab: Lab, *keys: str) -> None:
    """Orders that wait for their delivery."""
    await reserving(lab, *keys)
    await lab.take(*[lab.reply(one, Reserved(shelf="s-1")) for one in lab.on(Reserve)])


class TestASagaFromEndToEnd:
    async def test_each_reply_leads_to_the_next_intent_and_the_last_to_the_outcome(
        self, order_lab: Lab
    ) -> None:
        """Every record has the business key; intents name themselves, their saga and their
        cause.
        """
        lab = order_lab
        await lab.take(placed(lab, id="m-1"))
        (reserve,) = lab.on(Reserve)

        assert reserve.key == b"o-1"
        assert reserve.value == b'{"note":"","order_id":"o-1"}'
        assert header(reserve, "ce_id") == f"{order_id()}/reserve/do/1"
        assert header(reserve, "ce_idempotencykey") == f"{order_id()}/reserve/do"
        assert header(reserve, "ce_subject") == header(reserve, "ce_correlationid") == order_id()
        assert header(reserve, "ce_causationid") == "m-1"
        assert header(reserve, "ce_type") == "kiosk.int.reserve.v1"

        await lab.take(lab.reply(reserve, Reserved(shelf="s-1")))
        (ship,) = lab.on(Ship)
        await lab.take(lab.reply(ship))
        (done,) = lab.on(OrderDone)

        assert done.value == b'{"order_id":"o-1","shelf":"s-1"}'
        assert header(done, "ce_id") == f"{order_id()}/outcome"
        assert lab.status(order_id()) == "completed"
        assert len(lab.cache) == 0, "an ended saga leaves the memory"

    async def test_a_refusal_undoes_in_reverse_and_the_undo_says_what_it_undoes(
        self, order_lab: Lab
    ) -> None:
        """The undo is built from the recorded reply."""
        lab = order_lab
        await shipping(lab)
        (ship,) = lab.on(Ship)
        await lab.take(lab.reply(ship, IntentFailed(outcome="refused", code="no", message="van")))
        (undo,) = lab.on(Unreserve)

        assert undo.value == b'{"order_id":"o-1","shelf":"s-1"}'
        assert header(undo, "ce_sagaundoes") == "kiosk.int.reserve.v1"
        assert header(undo, "ce_id") == f"{order_id()}/reserve/undo/1"
        assert lab.status(order_id()) == "rolling_back"

        await lab.take(lab.reply(undo))

        assert lab.status(order_id()) == "rolled_back"
        assert lab.on(OrderFailed)[0].value == b'{"order_id":"o-1","reason":"van"}'

    async def test_all_turns_of_a_batch_commit_in_one_transaction(self, lab: Lab) -> None:
        """Entries of many sagas, positions, timers and index rows."""
        records = [placed(lab, f"o-{number}") for number in range(20)]
        records += [lab.event(AlarmSet(name="a"), "a")]
        draft = await lab.take(*records)

        assert lab.store.appends == 1
        assert draft.counts["recorded"] == draft.counts["started"] == 41
        assert len(lab.on(Reserve)) == 20
        topic = records[0].topic
        assert await lab.store.positions([Source(topic, 0)]) == {Source(topic, 0): 19}
        assert len(lab.store.inner.timers(10)) == 1
        assert len(lab.store.inner.summaries) == 41

    async def test_several_turns_of_one_saga_fit_into_one_batch(self, order_lab: Lab) -> None:
        """The second is taken with the state that the first has left."""
        lab = order_lab
        await reserving(lab)
        (reserve,) = lab.on(Reserve)
        ship_id = f"{order_id()}/ship/do/1"
        await lab.take(lab.reply(reserve, Reserved(shelf="s-1")), lab.reply(ship_id))

        assert lab.store.appends == 2
        assert lab.status(order_id()) == "completed"
        assert [len(lab.on(one)) for one in (Ship, OrderDone)] == [1, 1]

    async def test_a_record_may_concern_two_sagas(self, lab: Lab) -> None:
        """Both take their turn in one transaction; neither knows of the other."""
        await lab.take(placed(lab))

        assert lab.bodies(order_id())[0] == "SagaStarted"
        assert lab.bodies(saga_id("ledger", "o-1"))[:2] == ["SagaStarted", "SignalAwaited"]

    async def test_an_old_version_of_trigger_and_reply_will_do(self, order_lab: Lab) -> None:
        """They are upcast on the way; the history has today's version only."""
        lab = order_lab
        topic = NAMES.topic("kiosk.evt.order-placed.v1")
        await lab.take(lab.record(topic, b"o-1", b'{"order_id":"o-1"}'))
        await lab.take(lab.reply(lab.on(Reserve)[0], ReservedV1(place="p-1")))
        started, _, replied, *_ = lab.history(order_id())

        assert started.body.trigger.payload == '{"amount":1,"order_id":"o-1"}'
        assert replied.body.reply.contract == "kiosk.evt.reserved.v2"
        assert len(lab.on(Ship)) == 1

    async def test_live_sagas_are_not_loaded_again(self, order_lab: Lab) -> None:
        """A turn of a saga in memory reads nothing."""
        lab = order_lab
        await shipping(lab)

        async def load(saga_ids):
            raise AssertionError("loaded")

        lab.store.load = load
        await lab.take(lab.reply(lab.on(Ship)[0]))
        assert lab.status(order_id()) == "completed"
        del lab.store.load

    async def test_another_process_goes_on_from_the_history(self, order_lab: Lab) -> None:
        """What is rebuilt decides as the live saga would have."""
        lab = order_lab
        await reserving(lab)
        lab.restart()
        await lab.take(lab.reply(lab.on(Reserve)[0], Reserved(shelf="s-1")))
        lab.restart()
        await lab.take(lab.reply(lab.on(Ship)[0]))

        assert lab.on(OrderDone)[0].value == b'{"order_id":"o-1","shelf":"s-1"}'


class TestDuplicates:
    async def test_a_trigger_published_twice_starts_one_saga(self, order_lab: Lab) -> None:
        """At two positions, in one batch or in two."""
        lab = order_lab
        draft = await lab.take(placed(lab, id="m-1"), placed(lab, id="m-1"))
        assert (draft.counts["started"], draft.counts["duplicate"]) == (1, 1)
        draft = await lab.take(placed(lab, id="m-1"))

        assert draft.counts["duplicate"] == 1
        assert lab.bodies(order_id()) == ["SagaStarted", "IntentIssued"]
        assert lab.dead() == []

    async def test_the_same_order_under_another_id_is_a_duplicate_while_it_says_the_same(
        self, order_lab: Lab
    ) -> None:
        """A publisher that retries under a new id means the same order."""
        lab = order_lab
        await lab.take(placed(lab, id="m-1"))
        draft = await lab.take(placed(lab, id="m-2"))

        assert draft.counts["duplicate"] == 1
        assert len(lab.on(Reserve)) == 1

    @pytest.mark.parametrize("id", ["m-1", "m-2"])
    async def test_the_same_key_with_another_content_is_a_conflict(
        self, order_lab: Lab, id: str
    ) -> None:
        """The first one wins; the second is set aside for somebody to look at."""
        lab = order_lab
        await lab.take(placed(lab, id="m-1"))
        await lab.take(placed(lab, amount=99, id=id))
        (dead,) = lab.dead()

        assert dead.reason == "id_conflict"
        assert b"99" in dead.value
        assert len(lab.on(Reserve)) == 1
        assert len(lab.history(order_id())) == 2

    async def test_a_reply_that_comes_twice_is_counted(self, order_lab: Lab) -> None:
        """Under its own id or another: one answer to one attempt."""
        lab = order_lab
        await reserving(lab)
        reply = lab.reply(lab.on(Reserve)[0], Reserved(shelf="s-1"))
        await lab.take(reply)
        draft = await lab.take(reply, without(reply, "ce_id"))

        assert draft.counts["duplicate"] == 2
        assert len(lab.on(Ship)) == 1
        assert lab.dead() == []

    async def test_a_second_different_reply_is_noted_once_and_changes_nothing(
        self, order_lab: Lab
    ) -> None:
        """An incident: a service has said two things about one attempt."""
        lab = order_lab
        await reserving(lab)
        (reserve,) = lab.on(Reserve)
        await lab.take(lab.reply(reserve, Reserved(shelf="s-1")))
        other = without(lab.reply(reserve, Reserved(shelf="s-2")), "ce_id")
        await lab.take(other)
        notes = [e.body for e in lab.history(order_id()) if isinstance(e.body, Noted)]

        assert [note.verdict for note in notes] == [Verdict.CONFLICTING]
        await lab.take(lab.reply(lab.on(Ship)[0]))
        assert b"s-1" in lab.on(OrderDone)[0].value

    async def test_a_command_sent_twice_is_done_once(self, lab: Lab) -> None:
        """Whoever sends it knows its id."""
        await lab.take(placed(lab))
        ledger_id = saga_id("ledger", "o-1")
        stamp = lab.signal(ledger_id, "stamp", "x", id="c-1")
        draft = await lab.take(stamp, stamp)

        assert draft.counts["duplicate"] == 1
        assert lab.status(ledger_id) == "running"

    async def test_a_timer_that_is_no_longer_armed_is_nothing(self, lab: Lab) -> None:
        """Two processes may both find it due; the second finds it fired."""
        await lab.take(lab.event(AlarmSet(name="a"), "a"))
        lab.clock.advance(61)
        due = await lab.store.due_timers(until=lab.clock.now(), limit=10)
        await lab.take(due=due)
        draft = await lab.take(due=due)

        assert draft.counts["duplicate"] == 1
        assert lab.bodies(saga_id("alarm", "a")).count("TimerFired") == 1


class TestMisfits:
    @pytest.mark.parametrize("step", ["reserve/do/2", "reserve/undo/1", "pay/do/1", "reserve/do/0"])
    async def test_a_reply_to_what_was_never_asked_is_set_aside(
        self, order_lab: Lab, step: str
    ) -> None:
        """Of a saga that is there: another attempt, another direction, another step."""
        lab = order_lab
        await reserving(lab)
        await lab.take(lab.reply(f"{order_id()}/{step}", Reserved(shelf="s-1")))

        assert [one.reason for one in lab.dead()] == ["unknown_intent"]
        assert len(lab.history(order_id())) == 2

    async def test_a_reply_of_another_contract_is_set_aside(self, order_lab: Lab) -> None:
        """Done without what was asked for is no answer; nor is what another intent asks for."""
        lab = order_lab
        await shipping(lab)
        reserve_id, ship_id = (f"{order_id()}/{step}/do/1" for step in ("reserve", "ship"))
        await lab.take(lab.reply(reserve_id), lab.reply(ship_id, Reserved(shelf="s")))

        assert [one.reason for one in lab.dead()] == ["wrong_reply", "wrong_reply"]
        assert lab.status(order_id()) == "running"

    async def test_a_reply_under_another_key_is_set_aside(self, order_lab: Lab) -> None:
        """It would be some other order's."""
        lab = order_lab
        await reserving(lab)
        await lab.take(lab.reply(lab.on(Reserve)[0], Reserved(shelf="s"), key="o-2"))

        assert [one.reason for one in lab.dead()] == ["wrong_key"]

    async def test_a_signal_after_the_end_is_noted(self, order_lab: Lab) -> None:
        """It is recorded that it came, and that it came too late."""
        lab = order_lab
        await shipping(lab)
        await lab.take(lab.reply(lab.on(Ship)[0]))
        await lab.take(lab.signal(order_id(), "stamp", "x", id="c-1"))
        *_, note = lab.history(order_id())

        assert isinstance(note.body, Noted)
        assert note.body.verdict is Verdict.AFTER_END

    async def test_what_cannot_be_read_does_not_hold_up_its_neighbours(
        self, order_lab: Lab
    ) -> None:
        """Same topic, same partition, same batch."""
        lab = order_lab
        topic = NAMES.topic("kiosk.evt.order-placed.v2")
        bad = [lab.record(topic, b"x", value) for value in (b"{", None, b'{"order_id":1}')]
        draft = await lab.take(placed(lab, "o-1"), *bad, placed(lab, "o-2"))

        assert draft.counts["started"] == 2
        assert [one.reason for one in lab.dead()] == ["not_json", "null_value", "schema"]
        assert await lab.store.positions([Source(topic, 0)]) == {Source(topic, 0): 4}


class TestWhenTheStoreSaysNo:
    @pytest.mark.parametrize(
        "error", [StoreUnavailable("full"), HistoryConflict((order_id(),)), AlreadyRecorded()]
    )
    async def test_a_batch_that_could_not_be_stored_leaves_no_trace(
        self, order_lab: Lab, error: Exception
    ) -> None:
        """Nothing is published, and memory that was ahead is thrown away."""
        lab = order_lab
        await reserving(lab)
        reply = lab.reply(lab.on(Reserve)[0], Reserved(shelf="s-1"))
        lab.store.before.append(error)
        with pytest.raises(type(error)):
            await lab.take(reply)

        assert lab.on(Ship) == []
        assert len(lab.cache) == 0
        await lab.take(reply)
        assert len(lab.on(Ship)) == 1

    async def test_another_process_was_first(self, order_lab: Lab) -> None:
        """The version says so; the one who is late decides again on what is there now."""
        lab = order_lab
        await reserving(lab)
        late = lab.turns
        lab.restart()
        await lab.take(lab.reply(lab.on(Reserve)[0], Reserved(shelf="s-1")))

        stale = lab.signal(order_id(), "x", "y", id="c-1")
        lab.bus.append([stale])
        work = InboundBatch(lab.unread())
        with pytest.raises(HistoryConflict):
            await take(late, work)
        await take(late, work)

        assert lab.bodies(order_id())[-1] == "SignalReceived"
        lab.restart()

    async def test_memory_that_is_behind_does_not_judge_a_reply(self, order_lab: Lab) -> None:
        """A reply to an intent that another process has issued is no reply to an unknown intent."""
        lab = order_lab
        await reserving(lab)
        behind = lab.turns
        lab.restart()
        await lab.take(lab.reply(lab.on(Reserve)[0], Reserved(shelf="s-1")))
        lab.bus.append([lab.reply(lab.on(Ship)[0])])
        await take(behind, InboundBatch(lab.unread()))
        lab.restart()

        assert lab.dead() == []
        assert lab.status(order_id()) == "completed"

    async def test_two_turns_of_one_saga_never_overlap(self, order_lab: Lab) -> None:
        """The second waits until the first is stored and published."""
        lab = order_lab
        await reserving(lab)
        (reserve,) = lab.on(Reserve)
        order: list[str] = []
        lab.store.on_append = lambda batch: order.append("append")
        works = []
        for record in (
            lab.reply(reserve, Reserved(shelf="s")),
            lab.reply(f"{order_id()}/ship/do/1"),
        ):
            lab.bus.append([record])
            works.append(InboundBatch(lab.unread()))
        await asyncio.gather(*(take(lab.turns, work) for work in works))

        assert order == ["append", "append"]
        assert lab.status(order_id()) == "completed"


class TestSize:
    @pytest.mark.parametrize("spare", [-500, -40, -31, -30, 0, 500])
    async def test_a_payload_that_no_record_can_hold_parks_its_saga(self, spare: int) -> None:
        """Key and value count; the bus would refuse it for ever. Its neighbours go on."""
        lab = Lab(orders(note="x" * (3_000 + spare)), ledger, record_bytes=3_000)
        await lab.take(placed(lab))

        is_small = spare <= -31  # what is around the note, and the key
        assert lab.status(order_id()) == ("running" if is_small else "parked")
        assert len(lab.on(Reserve)) == is_small
        assert is_small or "kiosk.int.reserve.v1: key and value have" in lab.reason(order_id())
        assert lab.status(saga_id("ledger", "o-1")) == "running"
        lab.check()

    @pytest.mark.parametrize("size", range(48_600, 49_600, 100))
    async def test_a_record_too_large_for_its_dlq_headers_is_set_aside_all_the_same(
        self, size: int
    ) -> None:
        """The catalogue has it whole; a copy that no topic can take is done without."""
        lab = Lab(orders(), record_bytes=1_024)
        topic = NAMES.topic("kiosk.evt.order-placed.v2")
        small, large = (lab.record(topic, b"o-1", b"x" * length) for length in (9, size - 20))
        await lab.take(small, large, placed(lab, "o-2"))

        assert [one.reason for one in lab.dead()] == ["not_json", "not_json"]
        assert lab.dead()[1].value == large.value
        assert lab.on("kiosk.dlq.order-placed.v2")[-1].value in {small.value, large.value}
        assert lab.status(order_id("o-2")) == "running"


async def test_what_a_function_may_not_send_parks_it() -> None:
    """A contract that its application does not know is found when it is issued, not by the bus."""
    hidden = {"intent": Ship}

    @saga("order", version=1, starts_on=OrderPlaced)
    async def order(ctx, trigger):
        await ctx.do(hidden["intent"](order_id="x"))

    lab = Lab(order)
    await lab.take(placed(lab))

    assert lab.status(order_id()) == "parked"
    assert "kiosk.int.ship.v1" in lab.reason(order_id())
    assert [type(one.body) for one in lab.history(order_id())] == [TurnFailed]


async def test_entries_name_their_cause(lab: Lab) -> None:
    """Every entry of a turn has the message, timer or command that caused it, and the
    turn's time.
    """
    await lab.take(placed(lab, id="m-1"))
    ledger_id = saga_id("ledger", "o-1")
    await lab.take(lab.command(ledger_id, CommandAct.CANCEL, id="c-9", reason="no"))
    causes = [(entry.cause, type(entry.body).__name__) for entry in lab.history(ledger_id)]

    assert causes[0] == ("m-1", "SagaStarted")
    assert causes[-1] == ("c-9", "SagaRolledBack")
    assert len({entry.at for entry in lab.history(order_id())}) == 1
    assert isinstance(lab.history(order_id())[0].body, SagaStarted)
    assert isinstance(lab.history(order_id())[1].body, IntentIssued)
    assert not any(isinstance(entry.body, SagaCompleted) for entry in lab.history(ledger_id))
    assert ledger.name == "ledger"
