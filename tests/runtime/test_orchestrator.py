"""A whole orchestrator at work: nothing is lost or doubled, whatever store, bus or process do."""

import asyncio

import pytest

from saga.contracts import CommandAct, IntentFailed
from saga.core.identity import saga_id
from saga.errors import AlreadyRecorded, BusUnavailable, HistoryConflict, StoreUnavailable
from saga.ports import Batch, Source
from saga.runtime import orchestrator as module
from tests.runtime.fixtures import NAMES, Scenario, order_id
from tests.runtime.test_turns import placed
from tests.runtime.toys import (
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

PLACED = NAMES.topic("toys.evt.order-placed.v2")
SERVICES = ((Reserve, Reserved(shelf="s-1")), (Ship, None), (Unreserve, None))
KEYS = [f"o-{number}" for number in range(30)]


async def serve_to_the_end(scenario: Scenario, *keys: str) -> None:
    answer = scenario.answerer(*SERVICES)
    summaries = scenario.store.inner.summaries

    def all_ended() -> bool:
        answer()
        ids = [order_id(key) for key in keys]
        return all(saga_id in summaries and summaries[saga_id].status.is_ended for saga_id in ids)

    await scenario.until(all_ended)


def check_each_once(scenario: Scenario) -> None:
    """Every intent and outcome is on the bus once, every saga completed."""
    for contract in (Reserve, Ship, OrderDone):
        assert sorted(record.key.decode() for record in scenario.on(contract)) == sorted(KEYS)
    assert {scenario.status(order_id(key)) for key in KEYS} == {"completed"}
    assert scenario.dead_letters() == scenario.deferred() == []
    assert scenario.relay.relayed == []


@pytest.fixture(params=[True, False], ids=["one file", "two files"])
def scenario(request: pytest.FixtureRequest, make_scenario):
    """With a store that publishes by itself, and with one whose records are relayed."""
    return make_scenario(orders(), shares_file=request.param)


class TestServing:
    async def test_many_sagas_on_many_partitions_all_end(self, scenario):
        async with scenario.serving(partitions=4):
            scenario.bus.append([placed(scenario, key) for key in KEYS])
            await serve_to_the_end(scenario, *KEYS)

        check_each_once(scenario)

    async def test_under_load_what_comes_one_by_one_is_taken_together(self, scenario, monkeypatch):
        """As many records as the batch before had make a batch, not one each."""
        batch_s = 30.0
        sizes: list[int] = []

        def append(batch: Batch) -> None:
            if batch.histories:
                sizes.append(len(batch.histories))
                scenario.clock.advance(batch_s)

        monkeypatch.setattr(module, "LINGER_S_MAX", batch_s)
        scenario.store.on_append = append
        async with scenario.serving():
            scenario.bus.append([placed(scenario, key) for key in KEYS[:10]])
            await scenario.until(lambda: scenario.orchestrator.counts["started"] == 10)
            for key in KEYS[10:20]:
                assert sizes == [10]
                scenario.bus.append([placed(scenario, key)])
                await scenario.until(lambda: True)
            await scenario.until(lambda: scenario.orchestrator.counts["started"] == 20)

        assert sizes == [10, 10]

    async def test_offsets_are_committed_for_those_who_look_at_lag(self, scenario):
        """Now and then, and at the end; the store's positions are what counts."""
        async with scenario.serving():
            scenario.bus.append([placed(scenario, key) for key in KEYS])
            await scenario.until(lambda: len(scenario.on(Reserve)) == 30)

        assert (
            scenario.bus.committed[NAMES.topic("saga-orchestrator.order"), Source(PLACED, 0)] == 30
        )
        assert await scenario.store.positions([Source(PLACED, 0)]) == {Source(PLACED, 0): 29}

    async def test_it_begins_where_the_store_says_not_where_the_group_says(self, scenario):
        """An offset of the group may be behind, or ahead of what was handled."""
        for committed in (0, 3, 99):
            async with scenario.serving():
                scenario.bus.append([placed(scenario, f"c-{committed}")])
                await scenario.until(
                    lambda c=committed: order_id(f"c-{c}") in scenario.store.inner.summaries
                )
            scenario.bus.committed[NAMES.topic("saga-orchestrator.order"), Source(PLACED, 0)] = (
                committed
            )
            scenario.restart()

        assert len(scenario.on(Reserve)) == 3
        assert scenario.orchestrator.counts["duplicate"] == 0

    async def test_it_is_idle_when_nothing_is_in_hand(self, scenario):
        """A saga that waits for a reply or a timer is not in hand."""
        async with scenario.serving():
            await scenario.until(lambda: scenario.orchestrator.is_idle, within_s=2)
            scenario.bus.append([placed(scenario)])
            await scenario.until(lambda: not scenario.orchestrator.is_idle, within_s=2)
            await scenario.until(lambda: scenario.orchestrator.is_idle, within_s=2)

        assert scenario.orchestrator.counts["started"] == 1

    async def test_what_is_in_hand_is_finished_when_it_stops(self, scenario):
        """A record that was fetched is handled."""
        async with scenario.serving():
            scenario.bus.append([placed(scenario, key) for key in KEYS])
            await scenario.until(
                lambda: scenario.orchestrator.receiver.in_hand or len(scenario.on(Reserve))
            )

        assert len(scenario.on(Reserve)) == 30

    async def test_a_batch_is_bounded(self, scenario):
        """However much is waiting, a transaction takes so much of it."""
        await scenario.make_topics()
        scenario.bus.append([placed(scenario, f"o-{number}") for number in range(600)])
        sizes: list[int] = []
        scenario.store.on_append = lambda batch: sizes.append(len(batch.histories))
        async with scenario.serving():
            await scenario.until(lambda: sum(sizes) == 600)

        assert max(sizes) == module.BATCH_RECORDS_MAX == 256


class TestTheStore:
    @pytest.mark.parametrize("when", ["before", "after"])
    @pytest.mark.parametrize(
        "error",
        [StoreUnavailable("locked"), HistoryConflict(()), AlreadyRecorded()],
        ids=lambda error: type(error).__name__,
    )
    @pytest.mark.parametrize("every", [1, 3])
    async def test_appends_that_fail_lose_and_double_nothing(self, scenario, when, error, every):
        """Whether the batch was recorded or not: an answer may get lost on its way."""
        number = 0

        def fail(batch) -> None:
            nonlocal number
            if not batch.positions:
                return  # nobody else can have been quicker
            number += 1
            if number % every == 0 and number <= 12:
                getattr(scenario.store, when).append(error)

        scenario.store.on_append = fail
        async with scenario.serving(partitions=2):
            scenario.bus.append([placed(scenario, key) for key in KEYS])
            await serve_to_the_end(scenario, *KEYS)
            await scenario.while_passing(3)

        check_each_once(scenario)

    async def test_a_store_that_is_away_for_long_is_waited_for(self, scenario):
        """Nothing is parked, no position moves; then it goes on."""
        scenario.store.before.extend([StoreUnavailable("away")] * 20)
        async with scenario.serving():
            scenario.bus.append([placed(scenario, key) for key in KEYS])
            await scenario.while_passing(20)
            assert await scenario.store.positions([Source(PLACED, 0)]) == {Source(PLACED, 0): -1}
            assert scenario.on(Reserve) == []
            await serve_to_the_end(scenario, *KEYS)

        check_each_once(scenario)

    @pytest.mark.parametrize(
        "query", ["positions", "origins", "adopt", "due_timers", "load", "backlog"]
    )
    async def test_questions_that_cannot_be_asked_are_asked_again(self, scenario, query):
        """Each of the store's questions may fail at any time."""
        ask, left = getattr(scenario.store.inner, query), 5

        async def flaky(*args, **kwargs):
            nonlocal left
            if left and scenario.orchestrator.counts["turns"]:
                left -= 1
                raise StoreUnavailable("busy")
            return await ask(*args, **kwargs)

        def conflict_once(batch) -> None:
            if batch.histories:
                scenario.store.on_append = lambda batch: None
                scenario.store.before.append(HistoryConflict(()))

        setattr(scenario.store, query, flaky)
        async with scenario.serving():
            scenario.bus.append([placed(scenario, key) for key in KEYS[:10]])
            await scenario.until(lambda: len(scenario.on(Reserve)) == 10)
            scenario.cache.clear()
            scenario.store.on_append = conflict_once
            scenario.bus.append([placed(scenario, key) for key in KEYS[10:]])
            await serve_to_the_end(scenario, *KEYS)
            await scenario.while_passing(4)

        check_each_once(scenario)
        delattr(scenario.store, query)

    async def test_the_catalogue_may_be_away(self, scenario, monkeypatch):
        """The sweep for deferred records tries again."""
        ask, calls = scenario.catalogue.last_unhandled, 0

        async def flaky():
            nonlocal calls
            calls += 1
            if 1 < calls < 5:
                raise StoreUnavailable("busy")
            return await ask()

        monkeypatch.setattr(scenario.catalogue, "last_unhandled", flaky)
        async with scenario.serving():
            scenario.bus.append([scenario.signal(order_id(), "note", 1, id="c-1")])
            await scenario.until(scenario.deferred)
            scenario.bus.append([placed(scenario)])
            await scenario.until(lambda: not scenario.deferred() and calls >= 5, within_s=10)

        assert scenario.bodies(order_id()).count("SignalReceived") == 1

    async def test_it_can_be_stopped_while_the_store_is_away(self, scenario, monkeypatch):
        """Records that could not be stored come again at the next start."""
        monkeypatch.setattr(module, "DRAIN_S", 0.05)
        scenario.store.before.extend([StoreUnavailable("away")] * 10_000)
        async with scenario.serving():
            scenario.bus.append([placed(scenario, key) for key in KEYS])
            await scenario.while_passing(1)
            scenario.orchestrator.stop()
            await scenario.while_passing(1)
            await asyncio.sleep(0.1)
        scenario.store.before.clear()
        scenario.restart()
        async with scenario.serving():
            await serve_to_the_end(scenario, *KEYS)

        check_each_once(scenario)


class TestTheBus:
    async def test_records_wait_for_a_bus_that_is_away(self, make_scenario):
        """In the order of the history, none twice; the turns themselves are stored."""
        scenario = make_scenario(orders(), shares_file=False)
        async with scenario.serving():
            scenario.bus.is_away = True
            scenario.bus.append([placed(scenario, key) for key in KEYS])
            await scenario.until(lambda: scenario.bus.attempts > 5)
            assert scenario.on(Reserve) == []
            assert len(scenario.store.inner.summaries) == 30
            scenario.bus.is_away = False
            await serve_to_the_end(scenario, *KEYS)

        check_each_once(scenario)

    async def test_turns_go_on_while_others_are_published(self, make_scenario):
        """Up to a few batches: the number of stored and unpublished ones is bounded."""
        scenario = make_scenario(orders(), shares_file=False)
        async with scenario.serving():
            scenario.bus.is_away = True
            for number, key in enumerate(KEYS[: module.PUBLISHING_MAX + 1], 1):
                scenario.bus.append([placed(scenario, key)])
                await scenario.until(lambda n=number: len(scenario.store.inner.summaries) == n)
            scenario.bus.append(
                [placed(scenario, key) for key in KEYS[module.PUBLISHING_MAX + 1 :]]
            )
            await scenario.while_passing(2)
            assert len(scenario.store.inner.summaries) == module.PUBLISHING_MAX + 1
            assert not scenario.orchestrator.is_idle
            scenario.bus.is_away = False
            await serve_to_the_end(scenario, *KEYS)

        check_each_once(scenario)

    async def test_a_saga_has_its_next_turn_once_its_last_one_is_published(self, make_scenario):
        """Its intents leave in the order of its history."""
        scenario = make_scenario(orders(), shares_file=False)
        saga = order_id("o-1")
        async with scenario.serving():
            scenario.bus.is_away = True
            scenario.bus.append([placed(scenario)])
            await scenario.until(lambda: saga in scenario.store.inner.summaries)
            begun = scenario.history(saga)
            scenario.bus.append(
                [scenario.command(saga, CommandAct.CANCEL, id="c-1", reason="no more")]
            )
            await scenario.while_passing(2)
            assert scenario.history(saga) == begun
            scenario.bus.is_away = False
            await scenario.until(lambda: scenario.history(saga) != begun)

        assert len(scenario.on(Reserve)) == 1

    async def test_it_can_be_stopped_while_the_bus_is_away(self, monkeypatch, make_scenario):
        """The next process publishes its stored records."""
        monkeypatch.setattr(module, "DRAIN_S", 0.05)
        scenario = make_scenario(orders(), shares_file=False)
        async with scenario.serving():
            scenario.bus.is_away = True
            scenario.bus.append([placed(scenario)])
            await scenario.until(lambda: scenario.bus.attempts > 1)
            scenario.orchestrator.stop()
            await scenario.while_passing(1)
            await asyncio.sleep(0.1)

        assert scenario.on(Reserve) == []
        scenario.bus.is_away = False
        scenario.restart()
        async with scenario.serving():
            await serve_to_the_end(scenario, "o-1")

    async def test_dead_records_wait_for_their_copies(self):
        """Their position does not move before the copy is out."""
        scenario = Scenario(orders())
        async with scenario.serving():
            scenario.bus.is_away = True
            scenario.bus.append([scenario.record(PLACED, b"o-1", b"{")])
            await scenario.until(lambda: scenario.bus.attempts > 3)
            assert await scenario.store.positions([Source(PLACED, 0)]) == {Source(PLACED, 0): -1}
            scenario.bus.is_away = False
            await scenario.until(scenario.dead_letters)

        assert len(scenario.on("toys.dlq.order-placed.v2")) == 1

    async def test_fetches_that_fail_are_repeated(self, scenario, monkeypatch):
        async with scenario.serving():
            consumer, left = scenario.orchestrator.receiver.consumer, 4
            fetch = consumer.fetch

            async def flaky(**kwargs):
                nonlocal left
                left -= 1
                if left > 0:
                    raise BusUnavailable("away")
                return await fetch(**kwargs)

            monkeypatch.setattr(consumer, "fetch", flaky)
            scenario.bus.append([placed(scenario)])
            await scenario.until(lambda: scenario.on(Reserve))

        assert left <= 0

    @pytest.mark.parametrize(
        ("handled", "begin", "said"),
        [(5, 0, "ends at 4, but 5 was handled"), (0, 3, "begins at 3, but 1 is next")],
    )
    async def test_a_partition_that_lost_records_stops_alone(self, scenario, handled, begin, said):
        """It was made anew, or retention was too fast: an operator has to know.

        The orchestrator itself goes on.
        """
        await scenario.make_topics()
        source = Source(PLACED, 0)
        scenario.bus.append([placed(scenario, key) for key in KEYS[:4]])
        await scenario.store.append(Batch(positions={source: handled}), at=scenario.clock.now())
        del scenario.bus.partitions[source].records[:begin]
        scenario.bus.partitions[source].begin = begin
        async with scenario.serving():
            await scenario.while_passing(1)
            stopped = scenario.orchestrator.receiver.stopped

        assert list(stopped) == [source]
        assert said in stopped[source]
        assert scenario.on(Reserve) == []


class TestCrashes:
    async def test_a_backlog_of_a_crashed_process_is_taken_over_at_the_next_start(
        self, make_scenario
    ):
        """Stored and not published: the same records, same ids, same bytes."""
        scenario = make_scenario(orders(), ledger, shares_file=False)
        async with scenario.dying():
            scenario.bus.is_away = True
            scenario.bus.append([placed(scenario, key) for key in KEYS])
            await scenario.until(lambda: scenario.bus.attempts > 2)
        assert scenario.on(Reserve) == []
        scenario.bus.is_away = False
        scenario.restart()
        async with scenario.serving():
            assert len(scenario.on(Reserve)) == 30
            await serve_to_the_end(scenario, *KEYS)

        check_each_once(scenario)

    async def test_a_backlog_is_taken_over_while_another_process_runs(self, make_scenario):
        scenario = make_scenario(orders(), shares_file=False)
        async with scenario.dying():
            scenario.bus.is_away = True
            scenario.bus.append([placed(scenario)])
            await scenario.until(lambda: scenario.bus.attempts > 2)
            first = scenario.orchestrator
            scenario.restart()
            second = asyncio.ensure_future(_serve(scenario))
            await scenario.while_passing(0.5)
            scenario.bus.is_away = False
            await scenario.until(lambda: scenario.on(Reserve), within_s=8)
        scenario.orchestrator.stop()
        await scenario.until(second.done)

        assert first is not scenario.orchestrator
        assert {record.value for record in scenario.on(Reserve)} == {
            b'{"note":"","order_id":"o-1"}'
        }

    async def test_a_batch_with_a_saga_that_failed_at_birth_can_be_taken_over(self, make_scenario):
        """It has nothing to publish, and the rest of its batch is published."""

        def flaw(place: str, subject: str) -> None:
            if (place, subject) == ("start", "o-0"):
                raise ValueError("a bug")

        scenario = make_scenario(orders(flaw=flaw), shares_file=False)
        async with scenario.dying():
            scenario.bus.is_away = True
            scenario.bus.append([placed(scenario, key) for key in KEYS])
            await scenario.until(lambda: scenario.bus.attempts > 2)
        scenario.bus.is_away = False
        scenario.restart()
        async with scenario.serving():
            await scenario.until(lambda: len(scenario.on(Reserve)) == 29, within_s=5)

    @pytest.mark.parametrize("appends", range(1, 7))
    async def test_a_process_killed_anywhere_loses_and_doubles_nothing(self, scenario, appends):
        """Another one on the same data goes on; intents that come again are the same."""
        for _ in range(6):
            limit = scenario.store.appends + appends
            async with scenario.dying():
                if not scenario.on(OrderPlaced):
                    scenario.bus.append([placed(scenario, key) for key in KEYS])
                answer = scenario.answerer(*SERVICES)

                def is_time(answer=answer, limit=limit) -> bool:
                    answer()
                    return scenario.store.appends >= limit or len(scenario.on(OrderDone)) >= 30

                await scenario.until(is_time)
            scenario.restart()
        async with scenario.serving():
            await serve_to_the_end(scenario, *KEYS)
            await scenario.while_passing(3)

        assert {scenario.status(order_id(key)) for key in KEYS} == {"completed"}
        for contract in (Reserve, Ship, OrderDone):
            assert len({record.key for record in scenario.on(contract)}) == 30

    async def test_two_processes_share_the_partitions_and_do_nothing_twice(self, scenario):
        async with scenario.serving(partitions=4):
            first = scenario.orchestrator
            scenario.restart()
            async with scenario.serving(partitions=4):
                await scenario.while_passing(0.3)
                scenario.bus.append([placed(scenario, key) for key in KEYS])
                await serve_to_the_end(scenario, *KEYS)
                second = scenario.orchestrator
            scenario.orchestrator = first
            assert first.counts["started"] + second.counts["started"] == 30
            assert first.counts["started"] > 0 < second.counts["started"]

        check_each_once(scenario)


class TestTimers:
    async def test_a_timer_fires_late_never_early(self, all_sagas):
        """Within a fraction of a second after it is due."""
        alarm = saga_id("alarm", "a")
        async with all_sagas.serving():
            all_sagas.bus.append([all_sagas.event(AlarmSet(name="a"), "a")])
            await all_sagas.until(lambda: all_sagas.store.inner.timers(1))
            (timer,) = all_sagas.store.inner.timers(1)
            await all_sagas.until(lambda: "TimerFired" in all_sagas.bodies(alarm), within_s=62)

        fired = next(
            entry for entry in all_sagas.history(alarm) if type(entry.body).__name__ == "TimerFired"
        )
        assert 0 <= fired.at - timer.due_at <= 300_000
        assert fired.cause == timer.timer_id

    async def test_a_sleeping_saga_survives_a_restart_and_a_wait_times_out(self, all_sagas):
        """What became due in between fires at once."""
        alarm = saga_id("alarm", "a")
        async with all_sagas.serving():
            all_sagas.bus.append([all_sagas.event(AlarmSet(name="a"), "a")])
            await all_sagas.until(lambda: all_sagas.store.inner.timers(1))
        all_sagas.restart()
        all_sagas.clock.advance(600)
        async with all_sagas.serving():
            await all_sagas.until(lambda: "SignalAwaited" in all_sagas.bodies(alarm), within_s=1)
        all_sagas.restart()
        async with all_sagas.serving():
            await all_sagas.while_passing(59)
            assert all_sagas.status(alarm) == "running"
            await all_sagas.until(lambda: all_sagas.status(alarm) == "rolled_back", within_s=2)

        assert all_sagas.store.inner.timers(1) == []

    async def test_a_signal_in_time_wins_over_the_timeout(self, all_sagas):
        alarm = saga_id("alarm", "a")
        async with all_sagas.serving():
            all_sagas.bus.append([all_sagas.event(AlarmSet(name="a"), "a")])
            await all_sagas.until(lambda: "SignalAwaited" in all_sagas.bodies(alarm), within_s=62)
            all_sagas.bus.append([all_sagas.signal(alarm, "stop", "please", id="c-1")])
            await all_sagas.until(lambda: all_sagas.on(Booked))

        assert all_sagas.on(Booked)[0].value == b'{"order_id":"please"}'
        assert all_sagas.store.inner.timers(1) == []

    async def test_many_timers_due_at_once_all_fire_once(self):
        """More than one look at the due-index gives."""
        scenario = Scenario(alarms())
        names = [f"a{number}" for number in range(1_200)]
        async with scenario.serving():
            scenario.bus.append([scenario.event(AlarmSet(name=name), name) for name in names])
            await scenario.until(lambda: len(scenario.store.inner.timers(2_000)) == 1_200)
            await scenario.while_passing(59)
            assert scenario.orchestrator.counts["turns"] == 1_200
            ids = [saga_id("alarm", name) for name in names]
            await scenario.until(
                lambda: all("SignalAwaited" in scenario.bodies(saga_id) for saga_id in ids),
                within_s=4,
            )

        assert {scenario.bodies(saga_id).count("TimerFired") for saga_id in ids} == {1}
        assert scenario.orchestrator.counts["duplicate"] == 0

    async def test_a_retry_waits_for_its_delay(self, scenario):
        """A step that failed is asked again as a new attempt, under the same idempotency key."""
        async with scenario.serving():
            scenario.bus.append([placed(scenario)])
            await scenario.until(lambda: scenario.on(Reserve))
            scenario.bus.append([scenario.reply(scenario.on(Reserve)[0], Reserved(shelf="s"))])
            await scenario.until(lambda: scenario.on(Ship))
            scenario.bus.append(
                [scenario.reply(scenario.on(Ship)[0], IntentFailed(outcome="refused"))]
            )
            await scenario.until(lambda: scenario.on(Unreserve))
            before = scenario.clock.now()
            scenario.bus.append(
                [scenario.reply(scenario.on(Unreserve)[0], IntentFailed(outcome="failed"))]
            )
            await scenario.until(lambda: len(scenario.on(Unreserve)) == 2, within_s=120)

        keys = [dict(record.headers)["ce_idempotencykey"] for record in scenario.on(Unreserve)]
        assert keys[0] == keys[1]
        assert scenario.clock.now() > before


async def _serve(scenario: Scenario) -> None:
    await scenario.orchestrator.start()
    await scenario.orchestrator.run()
    await scenario.orchestrator.close()
