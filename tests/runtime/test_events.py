"""Events of other services on their way to running sagas: whom they reach, and what of the rest."""

import pytest

from saga import Context, Event, Intent, on, saga, upcast
from saga.contracts import CommandAct
from saga.contracts import cloudevents as ce
from saga.core.events import EventReceived, SignalReceived
from saga.core.identity import saga_id
from saga.errors import HistoryConflict
from saga.ports import Inbound
from saga.ports.store import EARLY_EVENTS_MAX, Skip, SkipReason
from saga.runtime import deferred as deferred_module
from saga.runtime.unit_of_work import InboundBatch
from tests.runtime.fixtures import NAMES, Scenario, take


class Placed(Event, topic="toys.placed", version=1, key="order_id"):
    order_id: str
    bill: str = "b-1"


class ShippedV1(Event, topic="carrier.shipped", version=1, key="order_id"):
    order_id: str


class Shipped(Event, topic="carrier.shipped", version=2, key="order_id"):
    order_id: str
    parcel: int


@upcast
def with_parcel(old: ShippedV1) -> Shipped:
    return Shipped(order_id=old.order_id, parcel=0)


class Settled(Event, topic="bank.settled", version=1):
    order_ref: str | None
    amount: int = 1


class Paid(Event, topic="bank.paid", version=1):
    order_id: str
    receipt: str


class Pay(Intent[Paid], topic="bank.pay", version=1):
    order_id: str


class Done(Event, topic="toys.done", version=1, key="order_id"):
    order_id: str
    parcel: int
    bill: str = "b-1"


SHIPPED = NAMES.topic("carrier.evt.shipped.v2")
SETTLED = NAMES.topic("bank.evt.settled.v1")


LISTENS = (on(Shipped, early="5s"), on(Settled, key="order_ref"))


def order(*, version=1, listens=LISTENS, name="order"):
    @saga(name, version=version, starts_on=Placed, listens=listens)
    async def waits(ctx: Context, placed: Placed) -> Done:
        shipped = await ctx.next(Shipped)
        return Done(order_id=shipped.order_id, parcel=shipped.parcel)

    return waits


def order_id(key="o-1", name="order"):
    return saga_id(name, key)


def placed(scenario, key="o-1", **fields):
    return scenario.event(Placed(order_id=key, **fields), key)


def shipped(scenario, key="o-1", parcel=7, **options):
    return scenario.event(Shipped(order_id=key, parcel=parcel), key, **options)


def settled(scenario, key="o-1", *, under="bill-1", **options):
    return scenario.event(Settled(order_ref=key), under, **options)


def received(scenario, saga):
    facts = (entry.body for entry in scenario.history(saga))
    return [fact.contract for fact in facts if isinstance(fact, EventReceived)]


def done(scenario):
    return [Done.model_validate_json(record.value) for record in scenario.on(Done)]


@pytest.fixture
def scenario(make_scenario):
    return make_scenario(order())


class TestWhomItReaches:
    async def test_the_saga_of_its_key(self, scenario):
        await scenario.take(placed(scenario), placed(scenario, "o-2"))
        await scenario.take(shipped(scenario))

        assert scenario.status(order_id()) == "completed"
        assert scenario.status(order_id("o-2")) == "running"
        assert [record.value for record in scenario.on(Done)] == [
            b'{"bill":"b-1","order_id":"o-1","parcel":7}'
        ]

    async def test_the_saga_that_the_key_of_the_definition_names(self, scenario):
        """It travels under its own key, so it often comes through another worker."""
        await scenario.take(placed(scenario))
        await scenario.take(settled(scenario))

        assert received(scenario, order_id()) == ["bank.evt.settled.v1"]

    async def test_a_function_says_which_saga(self, make_scenario):
        key = on(Settled, key=lambda settled: settled.order_ref.lower())
        scenario = make_scenario(order(listens=(Shipped, key)))
        await scenario.take(placed(scenario))
        await scenario.take(settled(scenario, "O-1"))

        assert received(scenario, order_id()) == ["bank.evt.settled.v1"]

    async def test_one_whose_key_is_none_concerns_nobody(self, scenario):
        unit = await scenario.take(settled(scenario, None))

        assert unit.skipped == {Skip(SETTLED, "", SkipReason.NOT_LISTENED): 1}
        assert not scenario.dead_letters()

    async def test_all_definitions_that_listen_to_it(self, make_scenario):
        by_bill = (Shipped, on(Settled, key="order_ref"))
        scenario = make_scenario(order(), order(name="invoice", listens=by_bill))
        await scenario.take(placed(scenario))
        await scenario.take(settled(scenario))

        for name in ("order", "invoice"):
            assert received(scenario, order_id(name=name)) == ["bank.evt.settled.v1"]

    async def test_a_key_that_cannot_be_told_is_a_dead_letter_and_others_get_the_event(
        self, make_scenario
    ):
        def raises(settled):
            raise RuntimeError("no such order")

        broken = order(name="broken", listens=(Shipped, on(Settled, key=raises)))
        scenario = make_scenario(order(), broken)
        await scenario.take(placed(scenario))
        await scenario.take(settled(scenario))

        assert received(scenario, order_id()) == ["bank.evt.settled.v1"]
        [letter] = scenario.dead_letters()
        assert letter.reason == "wrong_key"
        assert letter.message == "broken: RuntimeError: no such order"

    async def test_it_is_read_as_its_current_version(self, scenario):
        await scenario.take(placed(scenario))
        await scenario.take(scenario.event(ShippedV1(order_id="o-1"), "o-1"))

        assert received(scenario, order_id()) == ["carrier.evt.shipped.v2"]
        assert [record.value for record in scenario.on(Done)] == [
            b'{"bill":"b-1","order_id":"o-1","parcel":0}'
        ]

    async def test_one_that_names_a_key_travels_under_it(self, scenario):
        await scenario.take(placed(scenario))
        await scenario.take(scenario.event(Shipped(order_id="o-1", parcel=1), "parcel-9"))

        assert [letter.reason for letter in scenario.dead_letters()] == ["wrong_key"]

    async def test_the_versions_of_the_definition_that_listen_to_it(self, make_scenario):
        """Each version has keys of its own; what no running version listens to is counted."""
        scenario = make_scenario(order(listens=Shipped))
        await scenario.take(placed(scenario))
        scenario.restart(order(listens=Shipped), order(version=2))
        await scenario.take(placed(scenario, "o-2"))
        unit = await scenario.take(settled(scenario), settled(scenario, "o-2"))

        assert received(scenario, order_id()) == []
        assert received(scenario, order_id("o-2")) == ["bank.evt.settled.v1"]
        assert unit.skipped == {Skip(SETTLED, "order", SkipReason.OTHER_VERSION): 1}

    async def test_a_saga_that_runs_gets_what_a_deploy_lets_it_listen_to(self, make_scenario):
        scenario = make_scenario(order(listens=Shipped))
        await scenario.take(placed(scenario))
        scenario.restart(order())
        await scenario.take(settled(scenario), shipped(scenario))

        assert received(scenario, order_id()) == ["bank.evt.settled.v1", "carrier.evt.shipped.v2"]
        assert scenario.status(order_id()) == "completed"

    async def test_a_reply_is_no_event_for_the_saga_that_asked(self, make_scenario):
        """Others hear it as what it is, a fact."""

        @saga("payer", version=1, starts_on=Placed, listens=on(Paid, key="order_id"))
        async def payer(ctx: Context, placed: Placed) -> None:
            await ctx.do(Pay(order_id=placed.order_id))
            await ctx.next(Paid)

        @saga("witness", version=1, starts_on=Placed, listens=on(Paid, key="order_id"))
        async def witness(ctx: Context, placed: Placed) -> None:
            await ctx.next(Paid)

        scenario = make_scenario(payer, witness)
        await scenario.take(placed(scenario))
        paid = Paid(order_id="o-1", receipt="r-1")
        await scenario.take(scenario.reply(scenario.on(Pay)[0], paid))

        assert received(scenario, order_id(name="payer")) == []
        assert scenario.status(order_id(name="payer")) == "running"
        assert scenario.status(order_id(name="witness")) == "completed"
        await scenario.take(scenario.event(paid, "o-1"))
        assert scenario.status(order_id(name="payer")) == "completed"


class TestTheSameAgain:
    async def test_produced_twice_it_is_a_duplicate(self, scenario):
        await scenario.take(placed(scenario))
        unit = await scenario.take(settled(scenario, id="s-1"), settled(scenario, id="s-1"))

        assert received(scenario, order_id()) == ["bank.evt.settled.v1"]
        assert unit.counts["duplicate"] == 1

    async def test_another_content_under_its_id_is_a_dead_letter(self, scenario):
        await scenario.take(placed(scenario))
        other = scenario.event(Settled(order_ref="o-1", amount=99), "bill-1", id="s-1")
        await scenario.take(settled(scenario, id="s-1"), other)

        assert received(scenario, order_id()) == ["bank.evt.settled.v1"]
        assert [letter.reason for letter in scenario.dead_letters()] == ["id_conflict"]

    async def test_ids_of_two_sources_are_two_events(self, scenario):
        await scenario.take(placed(scenario))
        twice = [settled(scenario, id="s-1"), settled(scenario, id="s-1")]
        twice[1] = scenario.record(
            SETTLED, b"bill-1", twice[1].value, ((ce.ID, b"s-1"), (ce.SOURCE, b"/other"))
        )
        await scenario.take(*twice)

        assert len(received(scenario, order_id())) == 2


class TestBeforeTheSaga:
    async def test_it_waits_for_a_saga_that_is_not_there_yet(self, scenario):
        """And comes before what arrived after it."""
        await scenario.take(settled(scenario), shipped(scenario, parcel=1))
        assert [record.reason for record in scenario.deferred()] == ["early_event"] * 2
        assert not scenario.dead_letters()

        async with scenario.serving():
            scenario.bus.append([placed(scenario), shipped(scenario, parcel=2)])
            await scenario.until(lambda: scenario.on(Done), within_s=3)

        assert [record.value for record in scenario.on(Done)] == [
            b'{"bill":"b-1","order_id":"o-1","parcel":1}'
        ]
        assert not scenario.deferred()

    async def test_it_is_let_go_when_its_saga_does_not_come_in_time(self, scenario):
        """As long as its definition says, and not longer: counted, no dead letter."""
        async with scenario.serving():
            scenario.bus.append([shipped(scenario), settled(scenario)])
            await scenario.until(lambda: len(scenario.deferred()) == 2)
            await scenario.while_passing(4)
            assert len(scenario.deferred()) == 2
            await scenario.until(lambda: len(scenario.deferred()) == 1, within_s=3)
            assert [record.position.topic for record in scenario.deferred()] == [SETTLED]
            await scenario.until(lambda: not scenario.deferred(), within_s=7)

        assert not scenario.dead_letters()
        assert await scenario.catalogue.skipped() == {
            Skip(SHIPPED, "order", SkipReason.NOT_THERE): 1,
            Skip(SETTLED, "order", SkipReason.NOT_THERE): 1,
        }

    async def test_what_another_process_deferred_is_let_go_too(self, scenario):
        async with scenario.dying():
            scenario.bus.append([shipped(scenario)])
            await scenario.until(scenario.deferred)
        scenario.restart()
        async with scenario.serving():
            await scenario.while_passing(3)
            assert scenario.deferred()
            await scenario.until(lambda: not scenario.deferred(), within_s=4)

        assert not scenario.dead_letters()

    async def test_without_early_it_waits_for_nobody(self, make_scenario):
        scenario = make_scenario(order(listens=on(Shipped, early=None)))
        unit = await scenario.take(shipped(scenario))

        assert not scenario.deferred()
        assert unit.skipped == {Skip(SHIPPED, "order", SkipReason.NOT_THERE): 1}

    async def test_for_each_saga_by_itself(self, make_scenario):
        """One runs, one begins meanwhile, one never does."""
        scenario = make_scenario(
            order(),
            order(name="late", listens=(Shipped, on(Settled, key="order_ref", early="1h"))),
        )
        await scenario.take(placed(scenario))
        only_late = order_id("o-9", name="late")
        await scenario.take(scenario.event(Settled(order_ref="o-9"), "bill-1"))
        assert {record.saga_id for record in scenario.deferred()} == {
            order_id("o-9"),
            only_late,
        }
        scenario.clock.advance(10)
        unit = await scenario.take(revisits=[order_id("o-9"), only_late])

        assert unit.skipped == {Skip(SETTLED, "order", SkipReason.NOT_THERE): 1}
        assert [record.saga_id for record in scenario.deferred()] == [only_late]

    async def test_so_many_wait_in_a_store_and_not_more(self, scenario, monkeypatch):
        monkeypatch.setattr(deferred_module, "EARLY_EVENTS_MAX", 3)
        events = [shipped(scenario, f"o-{number}") for number in range(5)]
        unit = await scenario.take(*events)

        assert [record.key for record in scenario.deferred()] == [b"o-0", b"o-1", b"o-2"]
        assert unit.skipped == {Skip(SHIPPED, "order", SkipReason.NOT_THERE): 2}
        assert unit.counts["deferred"] == 3
        scenario.restart()
        await scenario.take(shipped(scenario, "o-9"))
        assert len(scenario.deferred()) == 3
        # What is let go of makes room again.
        scenario.clock.advance(5)
        await scenario.take(revisits=[order_id("o-0")])
        await scenario.orchestrator._sweep()  # noqa: SLF001  # as each second
        await scenario.take(shipped(scenario, "o-10"))
        assert [record.key for record in scenario.deferred()] == [b"o-1", b"o-2", b"o-10"]

    def test_the_limit_is_ten_thousand(self):
        assert EARLY_EVENTS_MAX == 10_000

    async def test_a_deferred_one_that_concerns_nobody_by_the_code_at_hand_is_gone(self, scenario):
        await scenario.take(settled(scenario))
        scenario.restart(order(listens=(Shipped, on(Settled, key=lambda settled: None))))
        await scenario.take(revisits=[order_id()])

        assert not scenario.deferred()
        assert not scenario.dead_letters()


class TestSagasThatCannotTakeIt:
    async def test_for_an_ended_saga_it_is_counted(self, scenario):
        await scenario.take(placed(scenario), shipped(scenario))
        entries = len(scenario.history(order_id()))
        unit = await scenario.take(settled(scenario))

        assert len(scenario.history(order_id())) == entries
        assert unit.skipped == {Skip(SETTLED, "order", SkipReason.ENDED): 1}

    async def test_for_an_ended_saga_whose_code_is_gone_too(self, scenario):
        await scenario.take(placed(scenario), shipped(scenario))
        scenario.restart(order(version=2))
        unit = await scenario.take(settled(scenario))

        assert unit.skipped == {Skip(SETTLED, "order", SkipReason.ENDED): 1}

    async def test_behind_a_failed_turn_it_waits_in_order(self, make_scenario):
        flaws = [RuntimeError("a bug")]

        @saga("order", version=1, starts_on=Placed, listens=(Shipped, on(Settled, key="order_ref")))
        async def fragile(ctx: Context, placed: Placed) -> Done:
            first = await ctx.next(Shipped)
            if flaws:
                raise flaws[0]
            second = await ctx.next(Shipped)
            return Done(order_id=first.order_id, parcel=10 * first.parcel + second.parcel)

        scenario = make_scenario(fragile)
        await scenario.take(placed(scenario))
        await scenario.take(shipped(scenario, parcel=1))
        await scenario.take(shipped(scenario, parcel=2))
        assert scenario.status(order_id()) == "parked"
        assert len(scenario.deferred()) == 2

        flaws.clear()
        await scenario.take(scenario.release(order_id()))
        await scenario.take(revisits=[order_id()])
        assert [record.value for record in scenario.on(Done)] == [
            b'{"bill":"b-1","order_id":"o-1","parcel":12}'
        ]

    async def test_behind_a_stalled_saga_it_waits_for_its_code(self, scenario):
        await scenario.take(placed(scenario))
        scenario.restart(order(version=2))
        await scenario.take(shipped(scenario))
        assert [record.reason for record in scenario.deferred()] == ["stalled"]

        scenario.restart(order(), order(version=2))
        await scenario.take(revisits=[order_id()])
        assert scenario.status(order_id()) == "completed"


class TestWhatStartsASagaToo:
    """The first one starts it; while it runs the others reach it."""

    @pytest.fixture
    def scenario(self, make_scenario):
        @saga("order", version=1, starts_on=Placed, listens=(Placed, Shipped))
        async def collects(ctx: Context, placed: Placed) -> Done:
            again = await ctx.next(Placed)
            shipped = await ctx.next(Shipped)
            return Done(order_id=placed.order_id, bill=again.bill, parcel=shipped.parcel)

        return make_scenario(collects)

    async def test_the_first_starts_and_the_next_reaches_it(self, scenario):
        await scenario.take(placed(scenario), placed(scenario, bill="b-2"))

        assert received(scenario, order_id()) == ["toys.evt.placed.v1"]
        assert not scenario.dead_letters()
        await scenario.take(shipped(scenario))
        assert [record.value for record in scenario.on(Done)] == [
            b'{"bill":"b-2","order_id":"o-1","parcel":7}'
        ]

    async def test_the_trigger_again_is_a_duplicate(self, scenario):
        trigger = scenario.event(Placed(order_id="o-1"), "o-1", id="p-1")
        unit = await scenario.take(trigger, trigger)

        assert received(scenario, order_id()) == []
        assert unit.counts["duplicate"] == 1

    async def test_the_next_one_again_is_a_duplicate_too(self, scenario):
        again = scenario.event(Placed(order_id="o-1", bill="b-2"), "o-1", id="p-2")
        unit = await scenario.take(placed(scenario), again, again)

        assert received(scenario, order_id()) == ["toys.evt.placed.v1"]
        assert unit.counts["duplicate"] == 1
        other = scenario.event(Placed(order_id="o-1", bill="b-3"), "o-1", id="p-2")
        await scenario.take(other)
        assert [letter.reason for letter in scenario.dead_letters()] == ["id_conflict"]

    async def test_another_content_under_the_triggers_id_is_a_dead_letter(self, scenario):
        trigger = scenario.event(Placed(order_id="o-1"), "o-1", id="p-1")
        other = scenario.event(Placed(order_id="o-1", bill="b-3"), "o-1", id="p-1")
        await scenario.take(trigger, other)

        assert [letter.reason for letter in scenario.dead_letters()] == ["id_conflict"]

    async def test_of_another_key_it_starts_one_and_reaches_the_other(self, make_scenario):
        listens = (Shipped, on(Placed, key="bill"))

        @saga("order", version=1, starts_on=Placed, listens=listens)
        async def order(ctx: Context, placed: Placed) -> Done:
            other = await ctx.next(Placed)
            return Done(order_id=placed.order_id, bill=other.order_id, parcel=1)

        scenario = make_scenario(order)
        await scenario.take(placed(scenario, "b-1", bill="none"))
        await scenario.take(placed(scenario, "o-2", bill="b-1"))

        assert scenario.status(saga_id("order", "b-1")) == "completed"
        assert scenario.status(saga_id("order", "o-2")) == "running"


class TestThroughAnotherWorker:
    async def test_two_workers_take_a_saga_in_turns(self, scenario):
        """Versions decide: who was second reloads, and both events are in the history."""
        await scenario.take(placed(scenario))
        first = scenario.turns
        scenario.restart()
        await scenario.take(settled(scenario))
        late = shipped(scenario)
        inbound = Inbound(late.topic, 9, 0, late.key, late.value, late.headers, 0)
        await take(first, InboundBatch([inbound]))

        assert received(scenario, order_id()) == ["bank.evt.settled.v1", "carrier.evt.shipped.v2"]
        assert scenario.status(order_id()) == "completed"
        scenario.restart()  # what the second has in memory is behind

    async def test_signals_and_events_keep_the_order_of_arrival(self, make_scenario):
        @saga("order", version=1, starts_on=Placed, listens=Shipped)
        async def waits(ctx: Context, placed: Placed) -> None:
            await ctx.all(ctx.wait("go"), ctx.next(Shipped))

        scenario = make_scenario(waits)
        await scenario.take(placed(scenario))
        go = scenario.command(order_id(), CommandAct.SIGNAL, id="c-1", name="go", payload=1)
        await scenario.take(shipped(scenario))
        await scenario.take(go)

        facts = [type(entry.body) for entry in scenario.history(order_id())]
        assert facts.index(EventReceived) < facts.index(SignalReceived)
        assert scenario.status(order_id()) == "completed"


def test_its_topics_are_subscribed_in_every_version():
    topics = Scenario(order()).router.topics
    assert {NAMES.topic("carrier.evt.shipped.v1"), SHIPPED, SETTLED} <= set(topics)


class TestConflicts:
    """Only sagas that moved on decide again: the others of the batch are left as they are."""

    @pytest.fixture
    def asked(self):
        return []

    @pytest.fixture
    def scenario(self, make_scenario, asked):
        def fits(settled):
            asked.append(settled.order_ref)
            return settled.amount > 1

        @saga("order", version=1, starts_on=Placed, listens=on(Settled, key="order_ref"))
        async def order(ctx: Context, placed: Placed) -> Done:
            settled = await ctx.next(Settled, where=fits, timeout="1h")
            await ctx.do(Pay(order_id=placed.order_id), timeout="1m")
            return Done(order_id=placed.order_id, parcel=settled.amount)

        return make_scenario(order)

    def batch(self, scenario, *amounts):
        events = [
            scenario.event(Settled(order_ref=f"o-{n}", amount=amount), "elsewhere", id=f"e-{n}")
            for n, amount in enumerate(amounts)
        ]
        scenario.bus.append(events)
        return InboundBatch(scenario.unread())

    async def test_the_others_of_a_batch_are_not_decided_again(self, scenario, asked):
        await scenario.take(*[placed(scenario, f"o-{n}") for n in range(4)])
        behind = scenario.turns
        scenario.restart()
        await scenario.take(settled(scenario, "o-2"))
        asked.clear()
        unit = await take(behind, self.batch(scenario, 5, 5, 5, 5))
        scenario.restart()

        assert asked == ["o-0", "o-1", "o-2", "o-3", "o-2"]
        assert [record.key for record in scenario.on(Pay)] == [b"o-0", b"o-1", b"o-3", b"o-2"]
        assert unit.counts["recorded"] == 4
        assert received(scenario, order_id("o-2")) == ["bank.evt.settled.v1"] * 2
        for number in range(4):
            bodies = scenario.bodies(order_id(f"o-{number}"))
            assert bodies[-5:] == [
                *("EventReceived", "WaitEnded", "TimerCancelled"),
                *("IntentIssued", "TimerArmed"),
            ]
        armed = {timer.timer_id.partition("/")[0] for timer in await scenario.catalogue.timers()}
        assert armed == {order_id(f"o-{number}") for number in range(4)}

    async def test_one_that_meanwhile_ended_is_counted(self, scenario):
        await scenario.take(*[placed(scenario, f"o-{n}") for n in range(2)])
        behind = scenario.turns
        scenario.restart()
        cancel = scenario.command(
            order_id("o-1"), CommandAct.CANCEL, id="c-1", reason="enough", mode="immediate"
        )
        await scenario.take(cancel)
        unit = await take(behind, self.batch(scenario, 5, 5))
        scenario.restart()

        assert scenario.status(order_id("o-1")) == "rolled_back"
        assert unit.skipped == {Skip(SETTLED, "order", SkipReason.ENDED): 1}
        assert scenario.bodies(order_id("o-0"))[-2:] == ["IntentIssued", "TimerArmed"]

    async def test_after_a_conflict_it_is_looked_first_what_is_stale(self, scenario, asked):
        await scenario.take(*[placed(scenario, f"o-{n}") for n in range(2)])
        behind = scenario.turns
        scenario.restart()
        await scenario.take(settled(scenario, "o-0"))
        await take(behind, self.batch(scenario, 1))
        await scenario.take(settled(scenario, "o-1", under="again"))
        asked.clear()
        other = scenario.event(Settled(order_ref="o-1", amount=9), "elsewhere")
        scenario.bus.append([other])
        await take(behind, InboundBatch(scenario.unread()))
        scenario.restart()

        assert asked == ["o-1"]

    async def test_what_cannot_be_told_apart_begins_anew(self, scenario, asked):
        """Here the saga that moved on has also a timer of the same batch."""
        await scenario.take(*[placed(scenario, f"o-{n}") for n in range(2)])
        behind = scenario.turns
        scenario.restart()
        await scenario.take(settled(scenario, "o-1"))
        scenario.clock.advance(3600)
        due = await scenario.store.due_timers(until=scenario.clock.now(), limit=9)
        work = self.batch(scenario, 5)
        work.due.extend(timer for timer in due if timer.saga_id == order_id("o-1"))
        with pytest.raises(HistoryConflict):
            await take(behind, work)
        await take(behind, work)
        scenario.restart()

        assert scenario.bodies(order_id("o-0"))[-1] == "TimerArmed"
        assert scenario.status(order_id("o-1")) == "rolled_back"
