"""A worker goes by the store's clock, and knows when it does not know it."""

import pytest

from saga.adapters.clocks import ManualClock
from saga.assembly import Assembly, Parts
from saga.core.durations import SECOND_US
from saga.core.identity import Instant, saga_id
from saga.core.state import Unarmed
from saga.errors import StoreUnavailable
from saga.ports import Clock, DueTimer
from saga.runtime.store_clock import AGE_S_MAX, ERROR_S_MAX, MEASURE_S, StoreClock
from saga.runtime.unit_of_work import InboundBatch
from saga.settings import Settings
from tests.runtime.fixtures import NAMES, Scenario, take
from tests.runtime.toys import AlarmSet, alarms

MINUTE, HOUR = 60, 3_600
AHEAD = [-HOUR, -MINUTE, 0, MINUTE, HOUR]
ALARM = saga_id("alarm", "a")


class WrongClock(Clock):
    """A machine's clock, so many seconds ahead of the true one."""

    def __init__(self, true: ManualClock, ahead_s: float = 0) -> None:
        self.true = true
        self.ahead_s = ahead_s

    def now(self) -> Instant:
        return Instant(self.true.now() + round(self.ahead_s * SECOND_US))

    def monotonic_s(self) -> float:
        return self.true.monotonic_s()

    async def sleep(self, seconds: float) -> None:
        await self.true.sleep(seconds)


class TimedStore:
    """What a store says of the time: the true one, asked over a line that takes so long."""

    def __init__(self, true: ManualClock, *, there_s: float = 0, back_s: float = 0) -> None:
        self.true = true
        self.there_s, self.back_s = there_s, back_s
        self.is_away = False
        self.asked = 0

    async def now(self) -> Instant:
        self.asked += 1
        self.true.advance(self.there_s)
        if self.is_away:
            raise StoreUnavailable("away")
        now = self.true.now()
        self.true.advance(self.back_s)
        return now


@pytest.fixture
def true() -> ManualClock:
    return ManualClock()


@pytest.mark.parametrize("ahead_s", AHEAD)
@pytest.mark.parametrize(("there_s", "back_s"), [(0, 0), (0.2, 0), (0, 0.2), (0.2, 0.2)])
async def test_it_says_the_earliest_time_that_the_store_may_have(true, ahead_s, there_s, back_s):
    """Never ahead of it, behind it by the round trip at most; whatever a machine says."""
    clock = StoreClock(TimedStore(true, there_s=there_s, back_s=back_s), WrongClock(true, ahead_s))
    await clock.measure()

    for _ in range(3):
        behind_s = (true.now() - clock.now()) / SECOND_US
        assert 0 <= behind_s <= there_s + back_s + 1e-5
        true.advance(1)
    assert clock.error_s == pytest.approx((there_s + back_s) / 2)
    assert clock.ahead_s == pytest.approx(-ahead_s, abs=clock.error_s + 1e-5)
    assert clock.why_unsure() is None


async def test_without_a_clock_of_its_own_the_machine_s_counts(true):
    """So it is with a file: nothing is measured, and nothing is unsure."""

    class File:
        async def now(self) -> None:
            return None

    own = WrongClock(true, HOUR)
    clock = StoreClock(File(), own)
    await clock.measure()
    true.advance(10 * AGE_S_MAX)
    own.ahead_s = MINUTE
    await clock.keep()

    assert clock.now() == await clock.read() == own.now()
    assert clock.why_unsure() is None


async def test_it_measures_every_ten_seconds(true):
    store = TimedStore(true)
    clock = StoreClock(store, true)
    assert "not measured yet" in (clock.why_unsure() or "")
    for _ in range(25):
        await clock.keep()
        true.advance(1)

    assert MEASURE_S == 10
    assert store.asked == 3


async def test_too_coarse_a_measurement_is_none(true):
    """It asks again at once, and is sure once an answer is quick."""
    store = TimedStore(true, there_s=2 * ERROR_S_MAX + 0.1)
    clock = StoreClock(store, true)
    await clock.keep()
    assert "within 1.1 s only" in (clock.why_unsure() or "")

    await clock.keep()
    store.there_s = 0.2
    await clock.keep()

    assert store.asked == 3
    assert clock.why_unsure() is None


async def test_after_a_minute_without_an_answer_it_is_unsure(true):
    """Until then it goes on by what it knows."""
    store = TimedStore(true)
    clock = StoreClock(store, true)
    await clock.keep()
    store.is_away = True
    true.advance(AGE_S_MAX - 1)
    with pytest.raises(StoreUnavailable):
        await clock.keep()
    assert clock.why_unsure() is None
    assert clock.now() == true.now()

    true.advance(1)
    assert "last measured 60 s ago" in (clock.why_unsure() or "")


@pytest.mark.parametrize("ahead_s", [-HOUR, -1, 1, HOUR])
async def test_a_clock_that_was_set_is_measured_anew_before_a_turn(true, ahead_s):
    """The machine slept, or somebody set its clock: what was known may not be so any more."""
    store, own = TimedStore(true), WrongClock(true)
    clock = StoreClock(store, own)
    await clock.measure()
    own.ahead_s = ahead_s
    assert "was set" in (clock.why_unsure() or "")

    assert await clock.read() == true.now()

    assert store.asked == 2
    assert clock.why_unsure() is None


class Workers:
    """Two orchestrators on one store, whose machines' clocks are wrong."""

    def __init__(self, *ahead_s: float, there_s: float = 0, back_s: float = 0) -> None:
        self.scenario = Scenario(alarms(), shares_file=False)
        self.true = self.scenario.clock
        timed = TimedStore(self.true, there_s=there_s, back_s=back_s)
        self.scenario.store.now = timed.now
        self.timed = timed
        self.clocks = [WrongClock(self.true, each) for each in ahead_s]
        self.assemblies = [self._assembly(clock) for clock in self.clocks]

    def _assembly(self, clock: WrongClock) -> Assembly:
        scenario = self.scenario
        settings = Settings.read({}, env=NAMES.env, namespace=NAMES.namespace)
        parts = Parts(
            bus=scenario.bus, store=scenario.store, catalogue=scenario.catalogue, clock=clock
        )
        return Assembly(scenario.app, settings, parts)

    async def take(self, worker: int, *records, due=()) -> None:
        await self.scenario.make_topics()
        self.scenario.bus.append(records)
        batch = InboundBatch(self.scenario.unread(), list(due))
        await self.assemblies[worker].store_clock.keep()
        await take(self.assemblies[worker].turns, batch)

    async def due(self, worker: int) -> list[DueTimer]:
        """The timers that this worker would fire."""
        clock = self.assemblies[worker].store_clock
        await clock.keep()
        if clock.why_unsure() is not None:
            return []
        return list(await self.scenario.store.due_timers(until=clock.now(), limit=10))


@pytest.mark.parametrize("there_and_back_s", [(0, 0), (0.2, 0.2)], ids=["near", "200 ms away"])
@pytest.mark.parametrize("firing_ahead_s", AHEAD)
@pytest.mark.parametrize("arming_ahead_s", AHEAD)
async def test_a_timer_is_late_never_early(arming_ahead_s, firing_ahead_s, there_and_back_s):
    """Armed by one worker and fired by the other, whatever their machines say."""
    there_s, back_s = there_and_back_s
    workers = Workers(arming_ahead_s, firing_ahead_s, there_s=there_s, back_s=back_s)
    await workers.take(0, workers.scenario.event(AlarmSet(name="a"), "a"))
    [armed] = workers.scenario.store.inner.timers(10)
    slack_s = there_s + back_s
    assert abs(armed.due_at - workers.true.now() - MINUTE * SECOND_US) <= slack_s * SECOND_US + 10

    while workers.true.now() < armed.due_at - SECOND_US:
        assert await workers.due(1) == []
        workers.true.advance(1)
    while not (due := await workers.due(1)):
        assert workers.true.now() < armed.due_at + (1 + slack_s) * SECOND_US, "it is too late"
        workers.true.advance(0.05)

    assert workers.true.now() >= armed.due_at
    await workers.take(1, due=due)
    history = workers.scenario.history(ALARM)
    assert [entry.at for entry in history] == sorted(entry.at for entry in history)
    assert history[-1].at >= armed.due_at


async def test_the_distance_may_change_while_it_runs():
    """A clock is set, forth and back, again and again: no timer is early, no entry goes back."""
    workers = Workers(0, 0)
    await workers.take(0, workers.scenario.event(AlarmSet(name="a"), "a"))
    [armed] = workers.scenario.store.inner.timers(10)
    for step in range(200):
        for number, clock in enumerate(workers.clocks):
            clock.ahead_s = AHEAD[(step + number) % len(AHEAD)]
        for worker in (0, 1):
            due = await workers.due(worker)
            assert (not due) or workers.true.now() >= armed.due_at
            if due:
                await workers.take(worker, due=due)
                times = [entry.at for entry in workers.scenario.history(ALARM)]
                assert times == sorted(times)
                return
        workers.true.advance(0.5)
    pytest.fail("it never fired")


async def stop(workers: Workers) -> None:
    await workers.take(1, workers.scenario.signal(ALARM, "stop", "now", id="c-1"))


async def park(workers: Workers) -> None:
    await workers.assemblies[1].turns.park(ALARM, "its topic does not take it")


async def look(workers: Workers) -> None:
    """Its code has a timeout by now that it had not."""
    [saga] = (await workers.assemblies[1].cache.load([ALARM])).values()
    [timer] = saga.state.timers.values()
    saga.state.unarmed[timer.timer_id] = Unarmed(timer, MINUTE * SECOND_US)
    workers.assemblies[1].cache.keep(saga)
    await take(workers.assemblies[1].turns, InboundBatch(looks=[ALARM]))


@pytest.mark.parametrize("act", [stop, park, look])
async def test_entries_never_go_back_in_time(act):
    """A history that a wrong worker of an earlier release has dated an hour ahead goes on there."""
    workers = Workers(0, 0)
    workers.timed.true.advance(HOUR)
    await workers.take(0, workers.scenario.event(AlarmSet(name="a"), "a"))
    before = workers.scenario.history(ALARM)
    workers.true.advance(-HOUR / 2)
    await workers.assemblies[1].store_clock.measure()
    await act(workers)

    times = [entry.at for entry in workers.scenario.history(ALARM)]
    assert len(times) > len(before)
    assert times == sorted(times)
    assert times[-1] == before[-1].at
    assert workers.scenario.store.inner.summaries[ALARM].updated_at == before[-1].at


async def test_a_worker_that_does_not_know_the_time_fires_nothing_and_says_so():
    """It takes turns, and is not ready; with a quick answer it goes on."""
    scenario = Scenario(alarms(), shares_file=False)
    store = TimedStore(scenario.clock, there_s=2.5)
    scenario.store.now = store.now
    async with scenario.serving():
        scenario.bus.append([scenario.event(AlarmSet(name="a"), "a")])
        await scenario.until(lambda: scenario.store.inner.timers(1))
        await scenario.while_passing(2 * MINUTE)
        assert scenario.bodies(ALARM).count("TimerFired") == 0
        [why] = scenario.orchestrator.problems()
        assert "no timer fires" in why

        store.there_s = 0.1
        await scenario.until(lambda: "TimerFired" in scenario.bodies(ALARM))
        assert scenario.orchestrator.problems() == []
