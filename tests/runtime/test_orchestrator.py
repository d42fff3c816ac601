"""A whole orchestrator at work: nothing is lost or doubled, whatever store, bus or process do."""

import asyncio

import pytest

from saga.contracts import CommandAct, IntentFailed
from saga.core.identity import saga_id
from saga.errors import (
    AlreadyRecorded,
    BusUnavailable,
    HistoryConflict,
    StoreUnavailable,
)
from saga.ports import Batch, Source
from saga.runtime import orchestrator as module
from tests.runtime.lab import NAMES, Lab, order_id
from tests.runtime.shop import (
    AlarmSet,
    Booked,
    OrderDone,
    OrderPlaced,
    Reserve,
    Reserved,
    Ship,
    Unreserve,
    alarms,
    ledger,
    orders,
)
from tests.runtime.test_turns import placed

PLACED = NAMES.topic("kiosk.evt.order-placed.v2")
SERVICES = ((Reserve, Reserved(shelf="s-1")), (Ship, None), (Unreserve, None))
KEYS = [f"o-{number}" for number in range(30)]


async def serve_to_the_end(lab: Lab, *keys: str) -> None:
    """Answer everything until all orders have ended."""
    answer = lab.answerer(*SERVICES)
    summaries = lab.store.inner.summaries

    def all_ended() -> bool:
        answer()
        ids = [order_id(key) for key in keys]
        return all(one in summaries and summaries[one].status.is_ended for one in ids)

    await lab.until(all_ended)


def check_each_once(lab: Lab) -> None:
    """Every intent and outcome is on the bus once, every saga completed."""
    for contract in (Reserve, Ship, OrderDone):
        assert sorted(one.key.decode() for one in lab.on(contract)) == sorted(KEYS)
    assert {lab.status(order_id(key)) for key in KEYS} == {"completed"}
    assert lab.dead() == lab.held() == []
    assert lab.relay.relayed() == []


@pytest.fixture(params=[True, False], ids=["one file", "two files"])
def any_lab(request: pytest.FixtureRequest):
    """With a store that publishes by itself, and with one whose records are relayed."""
    lab = Lab(orders(), shares_file=request.param)
    yield lab
    lab.check()


class TestServing:
    async def test_many_sagas_on_many_partitions_all_end(self, any_lab: Lab) -> None:
        """Each intent once, each outcome once."""
        lab = any_lab
        async with lab.serving(partitions=4):
            lab.bus.append([placed(lab, key) for key in KEYS])
            await serve_to_the_end(lab, *KEYS)

        check_each_once(lab)

    async def test_under_load_what_comes_one_by_one_is_taken_together(
        self, any_lab: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As many records as the batch before had make a batch, not one each."""
        lab = any_lab
        batch_s = 30.0
        sizes: list[int] = []

        def append(batch: Batch) -> None:
            if batch.histories:
                sizes.append(len(batch.histories))
                lab.clock.advance(batch_s)

        monkeypatch.setattr(module, "LINGER_S_MAX", batch_s)
        lab.store.on_append = append
        async with lab.serving():
            lab.bus.append([placed(lab, key) for key in KEYS[:10]])
            await lab.until(lambda: lab.orchestrator.counts["started"] == 10)
            for key in KEYS[10:20]:
                assert sizes == [10]
                lab.bus.append([placed(lab, key)])
                await lab.until(lambda: True)
            await lab.until(lambda: lab.orchestrator.counts["started"] == 20)

        assert sizes == [10, 10]

    async def test_offsets_are_committed_for_those_who_look_at_lag(self, any_lab: Lab) -> None:
        """Now and then, and at the end; the store's positions are what counts."""
        lab = any_lab
        async with lab.serving():
            lab.bus.append([placed(lab, key) for key in KEYS])
            await lab.until(lambda: len(lab.on(Reserve)) == 30)

        assert lab.bus.committed[NAMES.topic("saga-orchestrator"), Source(PLACED, 0)] == 30
        assert await lab.store.positions([Source(PLACED, 0)]) == {Source(PLACED, 0): 29}

    async def test_it_begins_where_the_store_says_not_where_the_group_says(
        self, any_lab: Lab
    ) -> None:
        """An offset of the group may be behind, or ahead of what was handled."""
        lab = any_lab
        for committed in (0, 3, 99):
            async with lab.serving():
                lab.bus.append([placed(lab, f"c-{committed}")])
                await lab.until(lambda c=committed: order_id(f"c-{c}") in lab.store.inner.summaries)
            lab.bus.committed[NAMES.topic("saga-orchestrator"), Source(PLACED, 0)] = committed
            lab.restart()

        assert len(lab.on(Reserve)) == 3
        assert lab.orchestrator.counts["duplicate"] == 0

    async def test_it_is_idle_when_nothing_is_in_hand(self, any_lab: Lab) -> None:
        """What waits for a reply or a timer is nothing in hand."""
        lab = any_lab
        async with lab.serving():
            await lab.until(lambda: lab.orchestrator.is_idle, within_s=2)
            lab.bus.append([placed(lab)])
            await lab.until(lambda: not lab.orchestrator.is_idle, within_s=2)
            await lab.until(lambda: lab.orchestrator.is_idle, within_s=2)

        assert lab.orchestrator.counts["started"] == 1

    async def test_what_is_in_hand_is_finished_when_it_stops(self, any_lab: Lab) -> None:
        """A record that was fetched is handled."""
        lab = any_lab
        async with lab.serving():
            lab.bus.append([placed(lab, key) for key in KEYS])
            await lab.until(lambda: lab.orchestrator.receiver.in_hand or len(lab.on(Reserve)))

        assert len(lab.on(Reserve)) == 30

    async def test_a_batch_is_bounded(self, any_lab: Lab) -> None:
        """However much is waiting, a transaction takes so much of it."""
        lab = any_lab
        await lab.make_topics()
        lab.bus.append([placed(lab, f"o-{number}") for number in range(600)])
        sizes: list[int] = []
        lab.store.on_append = lambda batch: sizes.append(len(batch.histories))
        async with lab.serving():
            await lab.until(lambda: sum(sizes) == 600)

        assert max(sizes) == module.BATCH_RECORDS_MAX == 256


class TestTheStore:
    @pytest.mark.parametrize("when", ["before", "after"])
    @pytest.mark.parametrize(
        "error",
        [StoreUnavailable("locked"), HistoryConflict(()), AlreadyRecorded()],
        ids=lambda error: type(error).__name__,
    )
    @pytest.mark.parametrize("every", [1, 3])
    async def test_appends_that_fail_lose_and_double_nothing(
        self, any_lab: Lab, when: str, error: Exception, every: int
    ) -> None:
        """Whether the batch was recorded or not: an answer may get lost on its way."""
        lab = any_lab
        number = 0

        def fail(batch) -> None:
            nonlocal number
            if not batch.positions:
                return  # nobody else can have been quicker
            number += 1
            if number % every == 0 and number <= 12:
                getattr(lab.store, when).append(error)

        lab.store.on_append = fail
        async with lab.serving(partitions=2):
            lab.bus.append([placed(lab, key) for key in KEYS])
            await serve_to_the_end(lab, *KEYS)
            await lab.while_passing(3)

        check_each_once(lab)

    async def test_a_store_that_is_away_for_long_is_waited_for(self, any_lab: Lab) -> None:
        """Nothing is parked, no position moves; then it goes on."""
        lab = any_lab
        lab.store.before.extend([StoreUnavailable("away")] * 20)
        async with lab.serving():
            lab.bus.append([placed(lab, key) for key in KEYS])
            await lab.while_passing(20)
            assert await lab.store.positions([Source(PLACED, 0)]) == {}
            assert lab.on(Reserve) == []
            await serve_to_the_end(lab, *KEYS)

        check_each_once(lab)

    @pytest.mark.parametrize("query", ["positions", "due_timers", "load", "backlog"])
    async def test_questions_that_cannot_be_asked_are_asked_again(
        self, any_lab: Lab, query: str
    ) -> None:
        """Each of the store's questions may fail at any time."""
        lab = any_lab
        ask, left = getattr(lab.store.inner, query), 5

        async def flaky(*args, **kwargs):
            nonlocal left
            if left and lab.orchestrator.counts["turns"]:
                left -= 1
                raise StoreUnavailable("busy")
            return await ask(*args, **kwargs)

        def conflict_once(batch) -> None:
            if batch.histories:
                lab.store.on_append = lambda batch: None
                lab.store.before.append(HistoryConflict(()))

        setattr(lab.store, query, flaky)
        async with lab.serving():
            lab.bus.append([placed(lab, key) for key in KEYS[:10]])
            await lab.until(lambda: len(lab.on(Reserve)) == 10)
            lab.cache.clear()
            lab.store.on_append = conflict_once
            lab.bus.append([placed(lab, key) for key in KEYS[10:]])
            await serve_to_the_end(lab, *KEYS)
            await lab.while_passing(4)

        check_each_once(lab)
        delattr(lab.store, query)

    async def test_the_catalogue_may_be_away(self, any_lab: Lab, monkeypatch) -> None:
        """The sweep for held records tries again."""
        lab = any_lab
        ask, calls = lab.catalogue.unhandled, 0

        async def flaky(**kwargs):
            nonlocal calls
            calls += 1
            if 1 < calls < 5:
                raise StoreUnavailable("busy")
            return await ask(**kwargs)

        monkeypatch.setattr(lab.catalogue, "unhandled", flaky)
        async with lab.serving():
            reply = lab.reply(f"{order_id()}/reserve/do/1", Reserved(shelf="s"))
            lab.bus.append([reply])
            await lab.until(lab.held)
            lab.bus.append([placed(lab)])
            await lab.until(lambda: lab.on(Ship), within_s=10)

        assert calls >= 5

    async def test_it_can_be_stopped_while_the_store_is_away(
        self, any_lab: Lab, monkeypatch
    ) -> None:
        """What could not be recorded comes again at the next start."""
        lab = any_lab
        monkeypatch.setattr(module, "DRAIN_S", 0.05)
        lab.store.before.extend([StoreUnavailable("away")] * 10_000)
        async with lab.serving():
            lab.bus.append([placed(lab, key) for key in KEYS])
            await lab.while_passing(1)
            lab.orchestrator.stop()
            await lab.while_passing(1)
            await asyncio.sleep(0.1)
        lab.store.before.clear()
        lab.restart()
        async with lab.serving():
            await serve_to_the_end(lab, *KEYS)

        check_each_once(lab)


class TestTheBus:
    async def test_records_wait_for_a_bus_that_is_away(self) -> None:
        """In the order of the history, none twice; the turns themselves are stored."""
        lab = Lab(orders(), shares_file=False)
        async with lab.serving():
            lab.bus.is_away = True
            lab.bus.append([placed(lab, key) for key in KEYS])
            await lab.until(lambda: lab.bus.attempts > 5)
            assert lab.on(Reserve) == []
            assert len(lab.store.inner.summaries) == 30
            lab.bus.is_away = False
            await serve_to_the_end(lab, *KEYS)

        check_each_once(lab)
        lab.check()

    async def test_turns_go_on_while_others_are_published(self) -> None:
        """Up to a few batches: what is stored and not published yet is bounded."""
        lab = Lab(orders(), shares_file=False)
        async with lab.serving():
            lab.bus.is_away = True
            for number, key in enumerate(KEYS[: module.PUBLISHING_MAX + 1], 1):
                lab.bus.append([placed(lab, key)])
                await lab.until(lambda n=number: len(lab.store.inner.summaries) == n)
            lab.bus.append([placed(lab, key) for key in KEYS[module.PUBLISHING_MAX + 1 :]])
            await lab.while_passing(2)
            assert len(lab.store.inner.summaries) == module.PUBLISHING_MAX + 1
            assert not lab.orchestrator.is_idle
            lab.bus.is_away = False
            await serve_to_the_end(lab, *KEYS)

        check_each_once(lab)
        lab.check()

    async def test_a_saga_has_its_next_turn_once_its_last_one_is_published(self) -> None:
        """Its intents leave in the order of its history."""
        lab = Lab(orders(), shares_file=False)
        saga = order_id("o-1")
        async with lab.serving():
            lab.bus.is_away = True
            lab.bus.append([placed(lab)])
            await lab.until(lambda: saga in lab.store.inner.summaries)
            begun = lab.history(saga)
            lab.bus.append([lab.command(saga, CommandAct.CANCEL, id="c-1", reason="no more")])
            await lab.while_passing(2)
            assert lab.history(saga) == begun
            lab.bus.is_away = False
            await lab.until(lambda: lab.history(saga) != begun)

        assert len(lab.on(Reserve)) == 1
        lab.check()

    async def test_it_can_be_stopped_while_the_bus_is_away(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is stored is published by the next one."""
        monkeypatch.setattr(module, "DRAIN_S", 0.05)
        lab = Lab(orders(), shares_file=False)
        async with lab.serving():
            lab.bus.is_away = True
            lab.bus.append([placed(lab)])
            await lab.until(lambda: lab.bus.attempts > 1)
            lab.orchestrator.stop()
            await lab.while_passing(1)
            await asyncio.sleep(0.1)

        assert lab.on(Reserve) == []
        lab.bus.is_away = False
        lab.restart()
        async with lab.serving():
            await serve_to_the_end(lab, "o-1")
        lab.check()

    async def test_dead_records_wait_for_their_copies(self) -> None:
        """Their position does not move before the copy is out."""
        lab = Lab(orders())
        async with lab.serving():
            lab.bus.is_away = True
            lab.bus.append([lab.record(PLACED, b"o-1", b"{")])
            await lab.until(lambda: lab.bus.attempts > 3)
            assert await lab.store.positions([Source(PLACED, 0)]) == {}
            lab.bus.is_away = False
            await lab.until(lab.dead)

        assert len(lab.on("kiosk.dlq.order-placed.v2")) == 1

    async def test_fetches_that_fail_are_repeated(self, order_lab: Lab, monkeypatch) -> None:
        """Nothing was lost by them."""
        lab = order_lab
        async with lab.serving():
            consumer, left = lab.orchestrator.receiver.consumer, 4
            fetch = consumer.fetch

            async def flaky(**kwargs):
                nonlocal left
                left -= 1
                if left > 0:
                    raise BusUnavailable("away")
                return await fetch(**kwargs)

            monkeypatch.setattr(consumer, "fetch", flaky)
            lab.bus.append([placed(lab)])
            await lab.until(lambda: lab.on(Reserve))

        assert left <= 0

    @pytest.mark.parametrize(
        ("handled", "begin", "said"),
        [(5, 0, "ends at 4, but 5 was handled"), (0, 3, "begins at 3, but 1 is next")],
    )
    async def test_a_partition_that_lost_records_stops_alone(
        self, order_lab: Lab, handled: int, begin: int, said: str
    ) -> None:
        """It was made anew, or retention was faster than we: an operator has to know. The
        orchestrator itself goes on.
        """
        lab = order_lab
        await lab.make_topics()
        source = Source(PLACED, 0)
        lab.bus.append([placed(lab, key) for key in KEYS[:4]])
        await lab.store.append(Batch(positions={source: handled}), at=lab.clock.now())
        del lab.bus.partitions[source].records[:begin]
        lab.bus.partitions[source].begin = begin
        async with lab.serving():
            await lab.while_passing(1)
            stopped = lab.orchestrator.receiver.stopped

        assert list(stopped) == [source]
        assert said in stopped[source]
        assert lab.on(Reserve) == []


class TestCrashes:
    async def test_a_backlog_of_a_crashed_process_is_taken_over_at_the_next_start(self) -> None:
        """Stored and not published: the same records, same ids, same bytes."""
        lab = Lab(orders(), ledger, shares_file=False)
        async with lab.dying():
            lab.bus.is_away = True
            lab.bus.append([placed(lab, key) for key in KEYS])
            await lab.until(lambda: lab.bus.attempts > 2)
        assert lab.on(Reserve) == []
        lab.bus.is_away = False
        lab.restart()
        async with lab.serving():
            assert len(lab.on(Reserve)) == 30
            await serve_to_the_end(lab, *KEYS)

        check_each_once(lab)
        lab.check()

    async def test_a_backlog_is_taken_over_while_another_process_runs(self) -> None:
        """Within some seconds, without anybody's restart."""
        lab = Lab(orders(), shares_file=False)
        async with lab.dying():
            lab.bus.is_away = True
            lab.bus.append([placed(lab)])
            await lab.until(lambda: lab.bus.attempts > 2)
            first = lab.orchestrator
            lab.restart()
            second = asyncio.ensure_future(_serve(lab))
            await lab.while_passing(0.5)
            lab.bus.is_away = False
            await lab.until(lambda: lab.on(Reserve), within_s=8)
        lab.orchestrator.stop()
        await lab.until(second.done)

        assert first is not lab.orchestrator
        assert {one.value for one in lab.on(Reserve)} == {b'{"note":"","order_id":"o-1"}'}
        lab.check()

    async def test_a_batch_with_a_saga_that_failed_at_birth_can_be_taken_over(self) -> None:
        """It has nothing to publish, and must not keep the others of its batch from being
        published.
        """

        def flaw(place: str, subject: str) -> None:
            if (place, subject) == ("start", "o-0"):
                raise ValueError("a bug")

        lab = Lab(orders(flaw=flaw), shares_file=False)
        async with lab.dying():
            lab.bus.is_away = True
            lab.bus.append([placed(lab, key) for key in KEYS])
            await lab.until(lambda: lab.bus.attempts > 2)
        lab.bus.is_away = False
        lab.restart()
        async with lab.serving():
            await lab.until(lambda: len(lab.on(Reserve)) == 29, within_s=5)
        lab.check()

    @pytest.mark.parametrize("appends", range(1, 7))
    async def test_a_process_killed_anywhere_loses_and_doubles_nothing(
        self, any_lab: Lab, appends: int
    ) -> None:
        """Another one on the same data goes on; intents that come again are the same."""
        lab = any_lab
        for _ in range(6):
            limit = lab.store.appends + appends
            async with lab.dying():
                if not lab.on(OrderPlaced):
                    lab.bus.append([placed(lab, key) for key in KEYS])
                answer = lab.answerer(*SERVICES)

                def is_time(answer=answer, limit=limit) -> bool:
                    answer()
                    return lab.store.appends >= limit or len(lab.on(OrderDone)) >= 30

                await lab.until(is_time)
            lab.restart()
        async with lab.serving():
            await serve_to_the_end(lab, *KEYS)
            await lab.while_passing(3)

        assert {lab.status(order_id(key)) for key in KEYS} == {"completed"}
        for contract in (Reserve, Ship, OrderDone):
            assert len({one.key for one in lab.on(contract)}) == 30

    async def test_two_processes_share_the_partitions_and_do_nothing_twice(
        self, any_lab: Lab
    ) -> None:
        """In one group on one store."""
        lab = any_lab
        async with lab.serving(partitions=4):
            first = lab.orchestrator
            lab.restart()
            async with lab.serving(partitions=4):
                await lab.while_passing(0.3)
                lab.bus.append([placed(lab, key) for key in KEYS])
                await serve_to_the_end(lab, *KEYS)
                second = lab.orchestrator
            lab.orchestrator = first
            assert first.counts["started"] + second.counts["started"] == 30
            assert first.counts["started"] > 0 < second.counts["started"]

        check_each_once(lab)


class TestTimers:
    async def test_a_timer_fires_late_never_early(self, lab: Lab) -> None:
        """Within a fraction of a second after it is due."""
        alarm = saga_id("alarm", "a")
        async with lab.serving():
            lab.bus.append([lab.event(AlarmSet(name="a"), "a")])
            await lab.until(lambda: lab.store.inner.timers(1))
            (timer,) = lab.store.inner.timers(1)
            await lab.until(lambda: "TimerFired" in lab.bodies(alarm), within_s=62)

        fired = next(one for one in lab.history(alarm) if type(one.body).__name__ == "TimerFired")
        assert 0 <= fired.at - timer.due_at <= 300_000
        assert fired.cause == timer.timer_id

    async def test_a_sleeping_saga_survives_a_restart_and_a_wait_times_out(self, lab: Lab) -> None:
        """What became due in between fires at once."""
        alarm = saga_id("alarm", "a")
        async with lab.serving():
            lab.bus.append([lab.event(AlarmSet(name="a"), "a")])
            await lab.until(lambda: lab.store.inner.timers(1))
        lab.restart()
        lab.clock.advance(600)
        async with lab.serving():
            await lab.until(lambda: "SignalAwaited" in lab.bodies(alarm), within_s=1)
        lab.restart()
        async with lab.serving():
            await lab.while_passing(59)
            assert lab.status(alarm) == "running"
            await lab.until(lambda: lab.status(alarm) == "rolled_back", within_s=2)

        assert lab.store.inner.timers(1) == []

    async def test_a_signal_in_time_wins_over_the_timeout(self, lab: Lab) -> None:
        """The timer is disarmed with it."""
        alarm = saga_id("alarm", "a")
        async with lab.serving():
            lab.bus.append([lab.event(AlarmSet(name="a"), "a")])
            await lab.until(lambda: "SignalAwaited" in lab.bodies(alarm), within_s=62)
            lab.bus.append([lab.signal(alarm, "stop", "please", id="c-1")])
            await lab.until(lambda: lab.on(Booked))

        assert lab.on(Booked)[0].value == b'{"order_id":"please"}'
        assert lab.store.inner.timers(1) == []

    async def test_many_timers_due_at_once_all_fire_once(self) -> None:
        """More than one look at the due-index gives."""
        lab = Lab(alarms())
        names = [f"a{number}" for number in range(1_200)]
        async with lab.serving():
            lab.bus.append([lab.event(AlarmSet(name=name), name) for name in names])
            await lab.until(lambda: len(lab.store.inner.timers(2_000)) == 1_200)
            await lab.while_passing(59)
            assert lab.orchestrator.counts["turns"] == 1_200
            ids = [saga_id("alarm", name) for name in names]
            await lab.until(
                lambda: all("SignalAwaited" in lab.bodies(one) for one in ids), within_s=4
            )

        assert {lab.bodies(one).count("TimerFired") for one in ids} == {1}
        assert lab.orchestrator.counts["duplicate"] == 0

    async def test_a_retry_waits_for_its_delay(self, any_lab: Lab) -> None:
        """A step that failed is asked again as a new attempt, under the same idempotency key."""
        lab = any_lab
        async with lab.serving():
            lab.bus.append([placed(lab)])
            await lab.until(lambda: lab.on(Reserve))
            lab.bus.append([lab.reply(lab.on(Reserve)[0], Reserved(shelf="s"))])
            await lab.until(lambda: lab.on(Ship))
            lab.bus.append([lab.reply(lab.on(Ship)[0], IntentFailed(outcome="refused"))])
            await lab.until(lambda: lab.on(Unreserve))
            before = lab.clock.now()
            lab.bus.append([lab.reply(lab.on(Unreserve)[0], IntentFailed(outcome="failed"))])
            await lab.until(lambda: len(lab.on(Unreserve)) == 2, within_s=120)

        keys = [dict(one.headers)["ce_idempotencykey"] for one in lab.on(Unreserve)]
        assert keys[0] == keys[1]
        assert lab.clock.now() > before


async def _serve(lab: Lab) -> None:
    await lab.orchestrator.start()
    await lab.orchestrator.run()
    await lab.orchestrator.close()
