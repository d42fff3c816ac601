"""A service: the order in which it starts and stops, what reaches those who wait, what can be
asked.

Its roles are stand-ins here, bus and store in memory; whole services are in `scenarios/`.
"""

import asyncio
import json
import math
from collections import Counter
from functools import partial
from itertools import count, pairwise
from uuid import UUID

import pytest

from saga import Context, SagaApp, saga
from saga.adapters.clocks import SystemClock
from saga.adapters.memory import MemoryBus, MemoryCatalogue, MemoryEventStore
from saga.contracts import COMMAND_CONTRACT, CommandAct, TopicNames, encode
from saga.core.events import CancelMode, Message
from saga.core.history import Entry, turn_of
from saga.core.identity import SagaId, saga_id
from saga.core.intents import SagaCompleted, SagaRolledBack
from saga.core.status import SagaStatus
from saga.errors import (
    BusUnavailable,
    CorruptHistory,
    MessageError,
    StoreTooNew,
    StoreUnavailable,
    TaskEnded,
    UnknownSaga,
)
from saga.lifecycle import Resource
from saga.ports import Batch, HistoryAppend, SagaSummary, TopicSpec
from saga.publishing.writer import EventWriter
from saga.runtime.outcomes import REST_SHARE, Outcome, OutcomeWaiters
from saga.runtime.publisher import Commands, Publisher
from saga.service import Service
from tests.patience import HANG_S, until
from tests.toys import OrderConfirmed, OrderPlaced

NAMES = TopicNames("test", "services")
O_1 = saga_id("service-order", "o-1")


@saga("service-order", version=1, starts_on=OrderPlaced)
async def order(ctx: Context, ordered: OrderPlaced) -> OrderConfirmed:
    return OrderConfirmed(order_id=ordered.order_id)


APP = SagaApp(sagas=[order])


class Part:
    """A role that does nothing but tell what is done with it."""

    def __init__(self, told: list[str], name: str) -> None:
        self.told = told
        self.name = name
        self.is_idle = True
        self.counts: Counter[str] = Counter()
        self.fails_to_start: Exception | None = None
        self.fails_to_close: Exception | None = None
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.stopped = asyncio.Event()

    async def start(self) -> None:
        if self.fails_to_start is not None:
            raise self.fails_to_start
        self.told.append(f"start {self.name}")

    async def run(self) -> None:
        stopping = asyncio.create_task(self.stopped.wait())
        await asyncio.wait([stopping, self.failed], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if self.failed.done():
            self.failed.result()
        await asyncio.sleep(0)
        self.told.append(f"drained {self.name}")

    def fail(self, error: Exception) -> None:
        self.failed.set_exception(error)

    def stop(self) -> None:
        self.told.append(f"stop {self.name}")
        self.stopped.set()

    async def close(self) -> None:
        self.told.append(f"close {self.name}")
        if self.fails_to_close is not None:
            raise self.fails_to_close


class Helper(Part):
    """A role of another kind."""


class Bus(MemoryBus):
    """A bus that tells of its topics, and of what it is given."""

    def __init__(self, told: list[str]) -> None:
        super().__init__(clock=SystemClock())
        self.told = told
        self.sent: list = []
        self.is_away = False

    async def create_topics(self, topics) -> None:
        self.told.append("topics")
        await super().create_topics(topics)

    async def publish(self, records) -> None:
        if self.is_away:
            raise BusUnavailable("the bus is away")
        await super().publish(records)
        self.sent += records


class Catalogue(MemoryCatalogue):
    """A catalogue that is away as often as told, and counts what it is asked."""

    failures = 0

    def __init__(self, store) -> None:
        super().__init__(store)
        self.asked: list[int] = []

    async def summaries(self, saga_ids):
        self.asked.append(len(saga_ids))
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable("the store is away")
        return await super().summaries(saga_ids)


class TellingStore(MemoryEventStore):
    """A store that tells of appends when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.told = asyncio.Event()
        self.listening = 0

    async def appends(self, *, poll_s: float):
        """Once at the beginning, then whenever it was told."""
        self.listening += 1
        try:
            while True:
                yield None
                await self.told.wait()
                self.told.clear()
        finally:
            self.listening -= 1


class Bench:
    """A service of stand-ins, and what was told of it."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.bus = Bus(self.told)
        self.store = MemoryEventStore()
        self.catalogue = Catalogue(self.store)
        self.waiters = OutcomeWaiters(APP.contracts)
        self.running: set[SagaId] = set()

    def part(self, name: str) -> Part:
        return Part(self.told, name)

    def service(self, *roles) -> Service:
        numbers = count(1)

        async def close() -> None:
            self.told.append("closed")

        def new_id() -> str:
            return f"m-{next(numbers)}"

        writer = EventWriter(
            NAMES,
            clock=self.bus.clock,
            source="/test",
            contracts=APP.contracts,
            sagas=APP.registry,
            new_id=new_id,
        )
        publisher = Publisher(self.bus, writer)
        specs = [TopicSpec(topic, 1) for topic in APP.topics(NAMES)]
        prepare = partial(self.bus.create_topics, specs)
        return Service(
            parts=[Resource("bus", start=prepare, close=close), *roles],
            store=self.store,
            catalogue=self.catalogue,
            commands=Commands(publisher, self.catalogue, new_id=new_id),
            waiters=self.waiters,
            is_running=self.running.__contains__,
            sagas=APP.registry,
        )

    async def store_ending(self, key: str, status: SagaStatus, body=None, reason=None) -> None:
        """What another process has stored of a saga."""
        saga = saga_id("service-order", key)
        histories = (
            [HistoryAppend(saga, 0, [turn_of([Entry(saga, 1, 7, "cause", body)])])] if body else []
        )
        row = SagaSummary(
            saga_id=saga,
            definition="service-order",
            definition_version=1,
            key=key,
            status=status,
            started_at=7,
            updated_at=7,
            waiting_for=None,
            reason=reason,
            version=1,
        )
        await self.store.append(Batch(histories=histories, summaries=[row]), at=7)


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A bench on which nobody has to wait long."""
    monkeypatch.setattr("saga.runtime.outcomes.POLL_S", 0.01)
    monkeypatch.setattr("saga.runtime.outcomes.GRACE_S", 0.001)
    monkeypatch.setattr("saga.service.IDLE_POLL_S", 0.001)
    monkeypatch.setattr("saga.service.IDLE_CALM_POLLS", 20)
    return Bench()


class TestLifecycle:
    async def test_it_starts_in_order_and_drains_in_reverse(self, bench):
        async with bench.service(bench.part("one"), Helper(bench.told, "two")):
            assert bench.told == ["topics", "start one", "start two"]
            bench.told.clear()

        assert bench.told == [
            *("stop two", "drained two", "close two"),
            *("stop one", "drained one", "close one"),
            "closed",
        ]

    async def test_roles_of_one_kind_drain_together(self, bench):
        """Each may take its time, but not one after another."""
        async with bench.service(bench.part("one"), *[Helper(bench.told, name) for name in "ab"]):
            bench.told.clear()

        assert bench.told[:2] == ["stop b", "stop a"]
        assert sorted(bench.told[2:4]) == ["drained a", "drained b"]
        assert bench.told[4:6] == ["close b", "close a"]
        assert bench.told[6] == "stop one"

    async def test_a_role_that_cannot_start_takes_back_those_before_it(self, bench):
        late = Helper(bench.told, "late")
        late.fails_to_start = StoreTooNew("gone")

        with pytest.raises(StoreTooNew, match="gone"):
            await bench.service(bench.part("one"), late, bench.part("never")).open()

        assert bench.told == [
            *("topics", "start one"),
            *("close late", "stop one", "drained one", "close one"),
            "closed",
        ]

    async def test_a_role_that_fails_ends_the_service_with_its_error(self, bench):
        ill, well = bench.part("ill"), Helper(bench.told, "well")
        service = bench.service(ill, well)
        await service.open()
        waiting = asyncio.create_task(service.wait())
        await asyncio.sleep(0)
        assert not waiting.done()

        ill.fail(StoreTooNew("gone"))
        await asyncio.wait_for(waiting, HANG_S)
        with pytest.raises(StoreTooNew, match="gone"):
            await service.stop()

        assert "drained well" in bench.told
        assert bench.told[-3:] == ["stop ill", "close ill", "closed"]

    async def test_what_a_role_failed_with_counts_more_than_how_it_closed(self, bench):
        ill = bench.part("ill")
        ill.fails_to_close = BusUnavailable("away")
        service = bench.service(ill)
        await service.open()
        ill.fail(StoreTooNew("gone"))

        with pytest.raises(StoreTooNew):
            await service.stop()
        assert bench.told[-1] == "closed"

    async def test_stopping_twice_is_stopping_once(self, bench):
        service = bench.service(bench.part("one"))
        await service.open()
        await service.stop()
        bench.told.clear()

        await service.stop()

        assert bench.told == []

    async def test_a_service_without_roles_has_nothing_to_wait_for(self, bench):
        async with bench.service() as service:
            await asyncio.wait_for(service.wait(), HANG_S)
            await service.idle(timeout=HANG_S)
            assert service.counts == Counter()

    async def test_counts_are_those_of_all_roles(self, bench):
        one, two = bench.part("one"), Helper(bench.told, "two")
        one.counts.update(turns=2, completed=1)
        two.counts.update(turns=1, effects=3)
        async with bench.service(one, two) as service:
            assert service.counts == Counter(turns=3, completed=1, effects=3)


class TestOutcome:
    async def test_the_end_that_this_process_brought_about(self, bench):
        event = Message("shop.evt.order-confirmed.v1", encode(OrderConfirmed(order_id="o-1")))
        async with bench.service(bench.part("one")) as service:
            waiting = asyncio.create_task(service.outcome(O_1, timeout=HANG_S))
            await asyncio.sleep(0)
            bench.waiters.tell(O_1, SagaStatus.COMPLETED, event)

            assert await waiting == Outcome(
                SagaStatus.COMPLETED, OrderConfirmed(order_id="o-1"), None, ()
            )
        assert bench.catalogue.asked == []

    @pytest.mark.parametrize("after_s", [0, 0.03], ids=["before", "meanwhile"])
    async def test_the_end_that_another_process_brought_about(self, bench, after_s):
        body = SagaRolledBack(
            reason="no", code="c", failed_step="pay", residue=("pay",), outcome=None
        )
        await bench.store_ending("o-1", SagaStatus.RUNNING)
        async with bench.service(bench.part("one")) as service:
            waiting = asyncio.create_task(service.outcome(O_1, timeout=HANG_S))
            await asyncio.sleep(after_s)
            assert not waiting.done()
            await bench.store_ending("o-1", SagaStatus.ROLLED_BACK_WITH_RESIDUE, body)

            assert await waiting == Outcome(
                SagaStatus.ROLLED_BACK_WITH_RESIDUE, None, "no", ("pay",)
            )

    @pytest.mark.parametrize("status", [SagaStatus.PARKED, SagaStatus.STALLED])
    async def test_a_saga_that_does_not_go_on_is_told_too(self, bench, status):
        """With why; one could wait long for its end."""
        await bench.store_ending("o-1", status, reason="LookupError: x")
        async with bench.service(bench.part("one")) as service:
            outcome = await service.outcome(O_1, timeout=HANG_S)

        assert outcome == Outcome(status, None, "LookupError: x", ())

    async def test_a_saga_that_runs_is_waited_for_in_vain(self, bench):
        await bench.store_ending("o-1", SagaStatus.RUNNING)
        async with bench.service(bench.part("one")) as service:
            with pytest.raises(TimeoutError, match="has not ended within"):
                await service.outcome(O_1, timeout=0.03)

        assert not bench.waiters.awaited

    async def test_a_failing_role_reaches_those_who_wait(self, bench):
        """All of them at once, those who come later, and who waits for calm: nothing would come."""
        ill = bench.part("ill")
        service = bench.service(ill)
        await service.open()
        waiting = [
            asyncio.create_task(service.outcome(saga_id("service-order", name), timeout=HANG_S))
            for name in ("o-1", "o-2", "o-2")
        ]
        await asyncio.sleep(0)
        ill.fail(StoreTooNew("gone"))

        for one in (*waiting, service.outcome(O_1, timeout=HANG_S), service.idle(timeout=HANG_S)):
            with pytest.raises(StoreTooNew, match="gone"):
                await one
        with pytest.raises(StoreTooNew):
            await service.stop()

    async def test_a_saga_that_was_just_asked_for_is_left_to_run(self, bench, monkeypatch):
        """The store is not asked at once whether it has ended; it is for one that may be old."""
        monkeypatch.setattr("saga.runtime.outcomes.GRACE_S", 0)
        monkeypatch.setattr("saga.runtime.outcomes.POLL_S", 2 * HANG_S)
        await bench.store_ending("o-2", SagaStatus.RUNNING)
        async with bench.service(bench.part("one")) as service:
            new = await service.publish(OrderPlaced(order_id="o-1"))
            assert new is not None
            with pytest.raises(TimeoutError):
                await service.outcome(new, timeout=0.05)
            assert bench.catalogue.asked == []

            old = saga_id("service-order", "o-2")
            waiting = asyncio.create_task(service.outcome(old))
            await until(lambda: bench.catalogue.asked)
            assert sum(bench.catalogue.asked) == 1
            waiting.cancel()

    async def test_a_saga_that_runs_here_is_looked_up_now_and_then(self, bench, monkeypatch):
        """Its turns tell of its end, until another process takes over."""
        monkeypatch.setattr("saga.runtime.outcomes.POLL_S", 0.001)
        monkeypatch.setattr("saga.runtime.outcomes.LOOK_AT_ALL_LOOKS", 1_000_000)
        await bench.store_ending("o-1", SagaStatus.RUNNING)
        async with bench.service(bench.part("one")) as service:
            waiting = asyncio.create_task(service.outcome(O_1, timeout=HANG_S))
            await until(lambda: len(bench.catalogue.asked) > 2)
            bench.running.add(O_1)
            await asyncio.sleep(0.05)  # a look that has begun may end
            looks = len(bench.catalogue.asked)
            await bench.store_ending("o-1", SagaStatus.PARKED)
            await asyncio.sleep(0.05)
            assert len(bench.catalogue.asked) == looks
            assert not waiting.done()

            monkeypatch.setattr("saga.runtime.outcomes.LOOK_AT_ALL_LOOKS", 2)
            assert (await waiting).status is SagaStatus.PARKED

    async def test_a_store_that_tells_of_appends_is_asked_at_once(self, bench, monkeypatch):
        """It is listened to from the first who waits on, until the service stops."""
        monkeypatch.setattr("saga.runtime.outcomes.POLL_S", 2 * HANG_S)
        bench.store = store = TellingStore()
        bench.catalogue = Catalogue(store)
        async with bench.service(bench.part("one")) as service:
            await asyncio.sleep(0.01)
            assert store.listening == 0
            for name in ("o-1", "o-2"):
                saga = saga_id("service-order", name)
                await bench.store_ending(name, SagaStatus.RUNNING)
                waiting = asyncio.create_task(service.outcome(saga, timeout=HANG_S))
                while sum(bench.catalogue.asked) < int(name[-1]):  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
                await bench.store_ending(name, SagaStatus.PARKED)
                assert store.listening == 1
                store.told.set()
                await waiting

        assert store.listening == 0

    async def test_who_comes_is_looked_for_however_many_others_wait(self, bench, monkeypatch):
        """Each newcomer costs one row, so that many are no more than their number."""
        monkeypatch.setattr("saga.runtime.outcomes.GRACE_S", 0)
        monkeypatch.setattr("saga.runtime.outcomes.POLL_S", 2 * HANG_S)
        async with bench.service(bench.part("one")) as service:
            waiting = []
            for number in range(40):
                await bench.store_ending(f"o-{number}", SagaStatus.RUNNING)
                saga = saga_id("service-order", f"o-{number}")
                waiting.append(asyncio.create_task(service.outcome(saga)))
                await until(lambda: sum(bench.catalogue.asked) > number)  # noqa: B023
            for task in waiting:
                task.cancel()

        assert sum(bench.catalogue.asked) == 40

    async def test_much_that_is_told_does_not_fill_the_time_with_asking(self, bench, monkeypatch):
        """After each look it rests for a multiple of the time that the look took."""
        monkeypatch.setattr("saga.runtime.outcomes.POLL_S", 2 * HANG_S)
        bench.store = store = TellingStore()
        bench.catalogue = Catalogue(store)
        await bench.store_ending("o-1", SagaStatus.RUNNING)
        running = await bench.catalogue.summaries([O_1])
        now = asyncio.get_running_loop().time
        looks: list[tuple[float, float]] = []

        async def slow(saga_ids):
            began_s = now()
            await asyncio.sleep(0.01)
            looks.append((began_s, now()))
            return running

        def are_enough() -> bool:
            store.told.set()
            return len(looks) > 3

        monkeypatch.setattr(bench.catalogue, "summaries", slow)
        async with bench.service(bench.part("one")) as service:
            waiting = asyncio.create_task(service.outcome(O_1))
            await until(are_enough)
            waiting.cancel()

        _, *looks = sorted(looks)  # the first one was at who had come
        for (began_s, ended_s), (next_s, _) in pairwise(looks):
            assert next_s - ended_s >= (ended_s - began_s) * REST_SHARE * 0.9

    async def test_a_store_that_is_away_is_asked_again(self, bench):
        """Who waits does not notice."""
        await bench.store_ending("o-1", SagaStatus.COMPLETED, SagaCompleted(outcome=None))
        bench.catalogue.failures = 3
        async with bench.service(bench.part("one")) as service:
            outcome = await service.outcome(O_1, timeout=HANG_S)

        assert outcome.status is SagaStatus.COMPLETED
        assert len(bench.catalogue.asked) == 4

    async def test_an_end_that_cannot_be_read_is_said(self, bench, monkeypatch):
        await bench.store_ending("o-1", SagaStatus.COMPLETED, SagaCompleted(outcome=None))
        await bench.store_ending("o-2", SagaStatus.PARKED)
        corrupt = CorruptHistory(O_1, 1, "no JSON")

        async def load(saga_ids):
            return dict.fromkeys(saga_ids, corrupt)

        monkeypatch.setattr(bench.store, "load", load)
        async with bench.service(bench.part("one")) as service:
            ill = asyncio.create_task(service.outcome(O_1, timeout=HANG_S))
            well = await service.outcome(saga_id("service-order", "o-2"), timeout=HANG_S)
            with pytest.raises(CorruptHistory, match="no JSON"):
                await ill

        assert well.status is SagaStatus.PARKED

    async def test_many_who_wait_are_looked_up_in_pages(self, bench, monkeypatch):
        """However many there are, a question stays small."""
        monkeypatch.setattr("saga.runtime.outcomes.LOOK_UP_SAGAS_MAX", 4)
        for number in range(10):
            await bench.store_ending(str(number), SagaStatus.PARKED)
        async with bench.service(bench.part("one")) as service:
            sagas = [saga_id("service-order", str(number)) for number in range(10)]
            outcomes = await asyncio.gather(
                *[service.outcome(one, timeout=HANG_S) for one in sagas]
            )

        assert {one.status for one in outcomes} == {SagaStatus.PARKED}
        assert max(bench.catalogue.asked) == 4

    @pytest.mark.parametrize(
        "name",
        ["service-order/nobody", "no-such-saga/1", "nonsense", "", "/", "\x00/\ud800", O_1],
    )
    async def test_a_saga_that_is_not_there_is_said_at_once(self, bench, name):
        """A name of whatever form harms nobody else who waits."""
        await bench.store_ending("o-2", SagaStatus.RUNNING)
        async with bench.service(bench.part("one")) as service:
            waiting = asyncio.create_task(service.outcome("service-order/o-2", timeout=HANG_S))
            await asyncio.sleep(0)
            with pytest.raises(UnknownSaga):
                await service.outcome(name, timeout=HANG_S)
            await bench.store_ending("o-2", SagaStatus.PARKED)

            assert (await waiting).status is SagaStatus.PARKED
            assert await service.problems() == []

    async def test_a_saga_that_cannot_be_looked_up_fails_alone(self, bench, monkeypatch):
        await bench.store_ending("o-1", SagaStatus.PARKED)
        well = bench.catalogue.summaries

        async def summaries(saga_ids):
            if saga_id("service-order", "ill") in saga_ids:
                raise LookupError("a damaged row")
            return await well(saga_ids)

        monkeypatch.setattr(bench.catalogue, "summaries", summaries)
        async with bench.service(bench.part("one")) as service:
            ill = asyncio.create_task(service.outcome("service-order/ill", timeout=HANG_S))
            outcome = await service.outcome("service-order/o-1", timeout=HANG_S)
            with pytest.raises(LookupError, match="damaged"):
                await ill
            assert set(service.status().values()) == {"up"}

        assert outcome.status is SagaStatus.PARKED

    async def test_a_listener_that_ends_begins_anew(self, bench, monkeypatch):
        """Whether it raises or returns; outcomes are found by asking all the same."""
        monkeypatch.setattr("saga.runtime.outcomes.LISTEN_AGAIN_S", 0.001)
        began: list[int] = []

        class Ending(MemoryEventStore):
            async def appends(self, *, poll_s: float):
                began.append(1)
                if len(began) == 1:
                    raise LookupError("gone")
                if len(began) == 2:
                    return
                yield None
                await asyncio.Event().wait()

        bench.store = Ending()
        bench.catalogue = Catalogue(bench.store)
        await bench.store_ending("o-1", SagaStatus.RUNNING)
        async with bench.service(bench.part("one")) as service:
            waiting = asyncio.create_task(service.outcome(O_1, timeout=HANG_S))
            while len(began) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            await bench.store_ending("o-1", SagaStatus.PARKED)
            await waiting


class TestPartsThatEnd:
    """However a part ends that was to go on: nobody waits in vain, and nothing looks healthy."""

    @pytest.mark.parametrize("how", ["raises", "returns", "is cancelled"])
    async def test_a_role_that_ends_is_said_at_once(self, bench, how):
        await bench.store_ending("o-1", SagaStatus.RUNNING)
        ill = bench.part("ill")
        service = bench.service(ill, Helper(bench.told, "well"))
        await service.open()
        assert set(service.status().values()) == {"up"}
        waiting = [
            asyncio.create_task(service.outcome(O_1)),
            asyncio.create_task(service.idle()),
            asyncio.create_task(service.wait()),
        ]
        await asyncio.sleep(0)
        self._end(ill, how)
        await asyncio.wait(waiting)

        error = {
            "raises": "no more",
            "returns": "ill has ended, and was to go on",
            "is cancelled": "ill was cancelled by somebody else",
        }[how]
        for asked in (*waiting[:2], service.outcome(O_1), service.idle()):
            with pytest.raises((LookupError, TaskEnded), match=error):
                await asked
        status = service.status()
        assert error in status.pop("ill")
        assert status == {"bus": "up", "well": "up", "outcome poller": "up"}
        assert any(error in problem for problem in await service.problems())
        assert "close ill" in bench.told  # so that others take over
        with pytest.raises((LookupError, TaskEnded), match=error):
            await service.stop()
        assert "drained well" in bench.told

    @pytest.mark.parametrize("how", ["raises", "returns", "is cancelled"])
    async def test_the_poller_of_outcomes_ends_the_service_with_it(self, bench, monkeypatch, how):
        started = asyncio.Event()

        async def poll(self):
            await started.wait()
            if how == "raises":
                raise LookupError("no more")

        monkeypatch.setattr("saga.runtime.outcomes.OutcomePoller._poll", poll)
        service = bench.service(bench.part("one"))
        await service.open()
        waiting = asyncio.create_task(service.outcome(O_1))
        await asyncio.sleep(0)
        if how == "is cancelled":
            self._task("outcome poller").cancel()
        started.set()
        await service.wait()

        with pytest.raises((LookupError, TaskEnded)):
            await waiting
        assert service.status()["outcome poller"].startswith("ended: ")
        assert await service.problems() != []
        with pytest.raises((LookupError, TaskEnded)):
            await service.stop()

    def _end(self, part: Part, how: str) -> None:
        match how:
            case "raises":
                part.fail(LookupError("no more"))
            case "returns":
                part.stopped.set()
            case _:
                self._task(part.name).cancel()

    @staticmethod
    def _task(name: str) -> asyncio.Task:
        (task,) = [task for task in asyncio.all_tasks() if task.get_name() == name]
        return task


class TestIdle:
    async def test_work_in_hand_is_not_idle(self, bench):
        busy = bench.part("busy")
        async with bench.service(busy) as service:
            busy.is_idle = False
            with pytest.raises(TimeoutError):
                await service.idle(timeout=0.05)

            busy.is_idle = True
            ticks = asyncio.create_task(self._tick(busy, 20))
            await service.idle(timeout=HANG_S)
            assert ticks.done()
            assert busy.counts["turns"] == 20

    @staticmethod
    async def _tick(part: Part, times: int) -> None:
        for _ in range(times):
            part.counts["turns"] += 1
            await asyncio.sleep(0.004)


class TestAsking:
    async def test_an_event_that_starts_no_saga_has_none(self, bench):
        async with bench.service() as service:
            assert await service.publish(OrderPlaced(order_id="o-1")) == O_1
            assert await service.publish(OrderConfirmed(order_id="o-1"), key="o-1") is None

        assert [(one.topic, one.key) for one in bench.bus.sent] == [
            ("test.services.shop.evt.order-placed.v1", b"o-1"),
            ("test.services.shop.evt.order-confirmed.v1", b"o-1"),
        ]

    async def test_the_event_that_starts_a_saga_gives_its_id(self, bench):
        async with bench.service() as service:
            assert await service.start(OrderPlaced(order_id="o-1")) == O_1
            with pytest.raises(ValueError, match="OrderConfirmed does not start exactly one saga"):
                await service.start(OrderConfirmed(order_id="o-1"), key="o-1")

        assert [one.topic for one in bench.bus.sent] == ["test.services.shop.evt.order-placed.v1"]

    async def test_what_cannot_be_published_says_so(self, bench):
        async with bench.service() as service:
            for event, key in (
                (OrderPlaced(order_id=" "), None),
                (OrderConfirmed(order_id="o-1"), None),
                (OrderConfirmed(order_id="o-1"), ""),
                (OrderPlaced(order_id="o-1"), "o-2"),
            ):
                with pytest.raises(MessageError, match="key"):
                    await service.publish(event, key=key)
            bench.bus.is_away = True
            with pytest.raises(BusUnavailable):
                await service.publish(OrderPlaced(order_id="o-1"))

        assert bench.bus.sent == []

    async def test_a_saga_that_is_not_there_can_be_asked_nothing(self, bench):
        async with bench.service() as service:
            for ask in (
                service.signal(O_1, "approval"),
                service.cancel(O_1, reason="x"),
                *(service.command(O_1, act, reason="x", name="n") for act in CommandAct),
            ):
                with pytest.raises(UnknownSaga, match=O_1):
                    await ask

        assert bench.bus.sent == []

    async def test_commands_say_what_was_asked(self, bench):
        await bench.store_ending("o-1", SagaStatus.RUNNING)
        async with bench.service() as service:
            ids = [
                await service.signal(O_1, "approval", OrderConfirmed(order_id="x"), actor="ann"),
                await service.cancel(O_1, reason="late", mode=CancelMode.IMMEDIATE),
                await service.command(
                    O_1, CommandAct.SKIP, command_id="c-1", step="pay", reason="by hand"
                ),
            ]

        assert {one.topic for one in bench.bus.sent} == {NAMES.topic(COMMAND_CONTRACT)}
        assert {one.key for one in bench.bus.sent} == {b"o-1"}
        signal, cancel, skip = (json.loads(one.value) for one in bench.bus.sent)
        assert [one["command_id"] for one in (signal, cancel, skip)] == ids
        assert ids[2] == "c-1"
        assert (signal["payload"], signal["actor"]) == ({"order_id": "x", "shelf": "s-1"}, "ann")
        assert (cancel["mode"], cancel["reason"]) == ("immediate", "late")
        assert (skip["act"], skip["step"]) == ("skip", "pay")

    async def test_a_saga_id_may_be_a_uuid(self, bench):
        """As programs keep it that have a type for that."""
        await bench.store_ending("o-1", SagaStatus.RUNNING)
        async with bench.service() as service:
            await service.signal(UUID(O_1), "approval")
            await service.signal("service-order/o-1", "approval")
            with pytest.raises(TimeoutError, match=O_1):
                await service.outcome(UUID(O_1), timeout=0.01)

        signal, again = (json.loads(one.value) for one in bench.bus.sent)
        assert again["saga_id"] == O_1
        assert signal["saga_id"] == O_1

    async def test_a_command_that_says_too_little_is_refused(self, bench):
        """Or what JSON cannot say; nothing is sent."""
        await bench.store_ending("o-1", SagaStatus.RUNNING)
        async with bench.service() as service:
            for ask, said in (
                (service.signal(O_1, "approval", math.nan), "finite number"),
                (service.signal(O_1, "approval", object()), "serialize"),
                (service.signal(O_1, ""), "name"),
                (service.signal(O_1, "n" * 1_001), "name"),
                (service.signal(O_1, "a\x00b"), "name"),
                (service.cancel(O_1, reason="r" * 10_001), "reason"),
                (service.command(O_1, CommandAct.RELEASE, command_id="c" * 1_001), "command_id"),
                (service.command(O_1, CommandAct.ABANDON), "needs a reason"),
            ):
                with pytest.raises(ValueError, match=said):
                    await ask

        assert bench.bus.sent == []

    async def test_a_saga_just_published_can_be_told_something_before_it_began(
        self, bench, monkeypatch
    ):
        monkeypatch.setattr("saga.runtime.publisher.KEYS_MAX", 2)
        async with bench.service() as service:
            sagas = [await service.publish(OrderPlaced(order_id=f"o-{n}")) for n in range(3)]
            for saga in sagas[1:]:
                await service.signal(saga, "approval")
            with pytest.raises(UnknownSaga):
                await service.signal(sagas[0], "approval")
