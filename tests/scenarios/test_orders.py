"""Whole services on real files: orders end, are refused, wait, are operated on, go wrong."""

import asyncio

import pytest

from saga.adapters.clocks import SystemClock
from saga.contracts import CommandAct
from saga.core.events import CancelMode, TimerFired
from saga.core.identity import Instant, saga_id
from saga.core.intents import TimerArmed
from saga.core.status import SagaStatus
from saga.errors import UnknownSaga
from saga.ports.store import UnhandledKind
from saga.publishing import Publisher
from saga.settings import file_of
from tests.patience import HANG_S, until
from tests.scenarios.order_app import (
    OrderConfirmed,
    OrderPlaced,
    OrderRejected,
    addresses,
    order_saga,
)

HOUR_US = 3_600 * 1_000_000


def flaw_at(*places: str):
    """A bug at some places of the code."""

    def flaw(place: str) -> None:
        if place in places:
            raise LookupError(f"a bug at {place}")

    return flaw


async def placed(service, *keys: str, **more) -> list[str]:
    return [await service.publish(OrderPlaced(order_id=key, **more)) for key in keys]


async def summary_of(service, saga: str):
    return (await service.catalogue.summaries([saga]))[0]


async def until_status(service, saga: str, status: str) -> None:
    async def is_so() -> bool:
        return [row.status for row in await service.catalogue.summaries([saga])] == [status]

    await until(is_so)


async def until_dead_letter(service) -> None:
    async def is_so() -> bool:
        return UnhandledKind.DEAD in {row.kind for row in await service.catalogue.unhandled()}

    await until(is_so)


class TestOrders:
    async def test_orders_are_confirmed_or_wholly_undone(self, deployment):
        async with deployment.service() as service:
            good = await placed(service, *[f"g-{number}" for number in range(20)])
            bad = await placed(service, *[f"b-{number}" for number in range(5)], amount=501)
            outcomes = await asyncio.gather(*[service.outcome(one, timeout=HANG_S) for one in good])
            refused = await asyncio.gather(*[service.outcome(one, timeout=HANG_S) for one in bad])
            await service.idle(timeout=HANG_S)
            counts = service.counts

        assert {outcome.status for outcome in outcomes} == {SagaStatus.COMPLETED}
        assert outcomes[3].event == OrderConfirmed(order_id="g-3", shelf="s-g-3")
        assert {outcome.status for outcome in refused} == {SagaStatus.ROLLED_BACK}
        assert refused[0].event == OrderRejected(
            order_id="b-0", reason="over the limit", code="limit", failed_step="pay"
        )
        assert (refused[0].reason, refused[0].residue) == ("over the limit", ())
        assert (counts["started"], counts["completed"], counts["rolled_back"]) == (25, 20, 5)
        done = deployment.effects()
        assert sum(done.values()) == 20 * 2 + 5 * 2
        assert all(
            ("unreserve", f"b-{n}") in done and ("refund", f"b-{n}") not in done for n in range(5)
        )

    async def test_the_same_order_again_changes_nothing(self, deployment):
        async with deployment.service() as service:
            (first,) = await placed(service, "o-1")
            await service.outcome(first, timeout=HANG_S)
            assert await placed(service, "o-1", "o-1") == [first, first]
            await service.idle(timeout=HANG_S)
        async with deployment.service() as service:
            await placed(service, "o-1")
            await service.idle(timeout=HANG_S)
            assert service.counts["duplicate"] == 1
            assert (await service.outcome(first, timeout=HANG_S)).status is SagaStatus.COMPLETED

        assert deployment.effects() == {("reserve", "o-1"): 1, ("pay", "o-1"): 1}

    async def test_an_order_under_the_same_key_with_another_content_is_a_dead_letter(
        self, one_file
    ):
        async with one_file.service() as service:
            (first,) = await placed(service, "o-1")
            await placed(service, "o-1", amount=7)
            await service.outcome(first, timeout=HANG_S)
            await service.idle(timeout=HANG_S)
            (letter,) = await service.catalogue.unhandled()

        assert letter.reason == "key_taken"
        assert b'"amount":7' in letter.value

    async def test_an_order_published_before_a_service_runs_is_not_lost(self, deployment):
        """Publishing needs no orchestrator."""
        async with deployment.service():
            pass  # makes the topics
        bus = addresses(deployment.folder, is_apart=deployment.is_apart)["bus"]
        async with Publisher(bus=bus) as publisher:
            await publisher.publish(OrderPlaced(order_id="o-1"))
        async with deployment.service() as service:
            saga = saga_id("order", "o-1")
            assert (await service.outcome(saga, timeout=HANG_S)).status is SagaStatus.COMPLETED


class TestTime:
    async def test_a_sleeping_saga_survives_a_restart(self, deployment, monkeypatch):
        async with deployment.service(order_saga(nap="1h")) as service:
            (saga,) = await placed(service, "o-1", amount=0)
            await service.idle(timeout=HANG_S)
            (timer,) = await service.catalogue.timers()
            assert timer.timer_id.startswith(saga)
            assert (await summary_of(service, saga)).waiting_for.startswith("timer")
        assert ("pay", "o-1") not in deployment.effects()
        now = SystemClock.now
        monkeypatch.setattr(SystemClock, "now", lambda self: Instant(now(self) + HOUR_US))
        async with deployment.service() as service:
            assert (await service.outcome(saga, timeout=HANG_S)).status is SagaStatus.COMPLETED
            assert await service.catalogue.timers() == []
        history = (await deployment.histories())[saga]
        armed, fired = (
            next(
                entry
                for entry in history
                if isinstance(entry.body, kind) and entry.body.timer_id == timer.timer_id
            )
            for kind in (TimerArmed, TimerFired)
        )

        assert armed.version < fired.version
        assert armed.body.due_at == timer.due_at <= fired.at
        assert fired.cause == timer.timer_id


class TestPeople:
    async def test_a_signal_is_waited_for_and_may_come_before_its_saga(self, deployment):
        """Sent right after the order it may overtake it; it is kept."""
        async with deployment.service() as service:
            saga = saga_id("order", "o-1")
            given = await service.publish(OrderPlaced(order_id="o-1", wants_approval=True))
            await service.signal(given, "approval", "ann", actor="ann")
            assert given == saga
            assert (await service.outcome(saga, timeout=HANG_S)).status is SagaStatus.COMPLETED

    async def test_a_signal_of_another_kind_is_no_signal(self, one_file):
        async with one_file.service() as service:
            (saga,) = await placed(service, "o-1", wants_approval=True)
            await service.signal(saga, "approval", {"by": ["ann"]})
            await service.signal(saga, "applause", "x")
            await service.idle(timeout=HANG_S)
            assert (await summary_of(service, saga)).status is SagaStatus.RUNNING
            with pytest.raises(TimeoutError):
                await service.outcome(saga, timeout=0.3)
            await service.signal(saga, "approval", "ann")
            assert (await service.outcome(saga, timeout=HANG_S)).status is SagaStatus.COMPLETED

    @pytest.mark.parametrize("mode", [CancelMode.GRACEFUL, CancelMode.IMMEDIATE])
    async def test_a_cancelled_order_is_undone(self, one_file, mode):
        async with one_file.service() as service:
            (saga,) = await placed(service, "o-1", wants_approval=True)
            await until_status(service, saga, "running")
            await service.idle(timeout=HANG_S)
            await service.cancel(saga, reason="changed my mind", mode=mode)
            outcome = await service.outcome(saga, timeout=HANG_S)

        assert outcome.status is SagaStatus.ROLLED_BACK
        assert outcome.event == OrderRejected(
            order_id="o-1", reason="changed my mind", code="cancelled"
        )
        assert one_file.effects() == {("reserve", "o-1"): 1, ("unreserve", "o-1"): 1}

    async def test_an_abandoned_order_says_what_is_left(self, one_file):
        async with one_file.service() as service:
            (saga,) = await placed(service, "o-1", wants_approval=True)
            await service.idle(timeout=HANG_S)
            await service.command(saga, CommandAct.ABANDON, reason="fire", actor="bob")
            outcome = await service.outcome(saga, timeout=HANG_S)

        assert (outcome.status, outcome.reason) == (SagaStatus.ABANDONED, "fire")
        assert outcome.residue == ("reserve",)
        assert one_file.effects() == {("reserve", "o-1"): 1}

    async def test_a_command_sent_twice_is_done_once(self, one_file):
        async with one_file.service() as service:
            (saga,) = await placed(service, "o-1", wants_approval=True)
            for _ in range(2):
                assert await service.signal(saga, "approval", "ann", id="c-1") == "c-1"
            await service.outcome(saga, timeout=HANG_S)
            await service.idle(timeout=HANG_S)
            for _ in range(2):
                assert await service.cancel(saga, reason="too late", id="c-2") == "c-2"
            await service.idle(timeout=HANG_S)
            assert service.counts["duplicate"] == 2

    async def test_a_saga_that_is_not_there_can_be_told_nothing(self, one_file):
        async with one_file.service() as service:
            for ask in (
                service.signal(saga_id("order", "x"), "approval"),
                service.cancel(saga_id("order", "x"), reason="x"),
                service.outcome(saga_id("order", "x"), timeout=HANG_S),
            ):
                with pytest.raises(UnknownSaga, match=saga_id("order", "x")):
                    await ask


class TestGoneWrong:
    async def test_a_bug_parks_its_sagas_and_a_fixed_release_loses_nothing(self, deployment):
        flawed = order_saga(flaw=flaw_at("reserved o-1", "start o-2"))
        async with deployment.service(flawed) as service:
            good, late, unstarted = await placed(service, "o-0", "o-1", "o-2", wants_approval=True)
            assert (await service.outcome(late, timeout=HANG_S)).status is SagaStatus.PARKED
            reason = (await service.outcome(unstarted, timeout=HANG_S)).reason
            assert reason
            assert reason.startswith(f"LookupError: a bug at start o-2 ({__file__}:")
            for saga_id in (good, late, unstarted):
                await service.signal(saga_id, "approval", "ann")
            assert (await service.outcome(good, timeout=HANG_S)).status is SagaStatus.COMPLETED
            await service.idle(timeout=HANG_S)
            deferred = await service.catalogue.unhandled()
            assert sorted((record.saga_id, record.reason) for record in deferred) == sorted(
                (saga, reason)
                for saga in (late, unstarted)
                for reason in ("turn_failed", "behind_failed_turn")
            )

        async with deployment.service(order_saga()) as service:
            assert (await service.outcome(late, timeout=HANG_S)).status is SagaStatus.PARKED
            for saga_id in (late, unstarted):
                await service.command(saga_id, CommandAct.RELEASE, reason="mended")
            for saga_id in (late, unstarted):
                await until_status(service, saga_id, "completed")
            await service.idle(timeout=HANG_S)
            assert await service.catalogue.unhandled() == []
            assert {
                (await service.outcome(saga_id, timeout=HANG_S)).status
                for saga_id in (late, unstarted)
            } == {SagaStatus.COMPLETED}

    async def test_a_version_that_is_not_there_stalls_and_heals_with_a_deployment(self, deployment):
        async with deployment.service(order_saga()) as service:
            (old,) = await placed(service, "o-1", wants_approval=True)
            await service.idle(timeout=HANG_S)
        async with deployment.service(order_saga(version=2)) as service:
            await service.signal(old, "approval", "ann")
            outcome = await service.outcome(old, timeout=HANG_S)
            assert outcome.status is SagaStatus.STALLED
            assert "version 1" in outcome.reason
            (new,) = await placed(service, "o-2")
            assert (await service.outcome(new, timeout=HANG_S)).status is SagaStatus.COMPLETED
        async with deployment.service(order_saga(), order_saga(version=2)) as service:
            await until_status(service, old, "completed")

    async def test_code_that_decides_otherwise_is_refused_for_that_saga(self, one_file):
        from tests.scenarios.order_app import Context, Pay, saga

        @saga("order", version=1, starts_on=OrderPlaced)
        async def other(ctx: Context, placed: OrderPlaced) -> None:
            await ctx.do(Pay(order_id=placed.order_id, amount=1))

        async with one_file.service(order_saga()) as service:
            (saga_of_one,) = await placed(service, "o-1", wants_approval=True)
            await service.idle(timeout=HANG_S)
        before = (await one_file.histories())[saga_of_one]
        async with one_file.service(other) as service:
            await service.signal(saga_of_one, "approval", "ann")
            outcome = await service.outcome(saga_of_one, timeout=HANG_S)
            assert outcome.status is SagaStatus.PARKED
            assert outcome.reason.startswith("entry 2: the history says")
        assert (await one_file.histories())[saga_of_one] == before
        async with one_file.service(order_saga()) as service:
            await until_status(service, saga_of_one, "completed")

    async def test_a_damaged_row_stops_its_saga_only(self, one_file):
        import sqlite3

        path = file_of(addresses(one_file.folder)["store"])

        def write(state: bytes, saga: str) -> bytes:
            with sqlite3.connect(path) as connection:
                number = "SELECT printf('%032x', number) FROM saga_index WHERE saga_id = ?"
                where = f"originator_id = ({number}) AND originator_version = 1"
                (was,) = connection.execute(
                    f"SELECT state FROM stored_events WHERE {where}", (saga,)
                ).fetchone()
                connection.execute(
                    f"UPDATE stored_events SET state = ? WHERE {where}", (state, saga)
                )
            connection.close()
            return was

        async with one_file.service() as service:
            ill, well = await placed(service, "o-1", "o-2", wants_approval=True)
            await service.idle(timeout=HANG_S)
        was = write(b"{", ill)
        async with one_file.service() as service:
            for saga_id in (ill, well):
                await service.signal(saga_id, "approval", "ann")
            assert (await service.outcome(well, timeout=HANG_S)).status is SagaStatus.COMPLETED
            outcome = await service.outcome(ill, timeout=HANG_S)
            assert outcome.status is SagaStatus.PARKED
            assert f"saga {ill}, entry 1" in outcome.reason
        write(was, ill)
        async with one_file.service() as service:
            await until_status(service, ill, "completed")

    async def test_a_record_that_cannot_be_read_is_one_dead_letter_and_the_rest_goes_on(
        self, deployment
    ):
        from saga.ports import Record

        async with deployment.service() as service:
            topic = "dev.saga.shop.evt.order-placed.v1"
            await service.publisher.bus.publish(
                [
                    Record(topic, b"x", b"{", (("h", b"\xff"),), 0),
                    Record(topic, b"o-1", b'{"order_id":"o-1"}', (), 0),
                    Record("dev.saga.shop.int.reserve.v1", b"x", b"[]", (), 0),
                ]
            )
            saga = saga_id("order", "o-1")
            assert (await service.outcome(saga, timeout=HANG_S)).status is SagaStatus.COMPLETED
            await service.idle(timeout=HANG_S)
            letters = await service.catalogue.unhandled()
            assert sorted(record.reason for record in letters) == ["not_an_object", "not_json"]
            assert (("h", b"\xff"),) in [record.headers for record in letters]
            consumer = await service.publisher.bus.subscribe(
                "looker", ["dev.saga.shop.dlq.order-placed.v1", "dev.saga.shop.dlq.reserve.v1"]
            )
            copies = []
            while len(copies) < 2:
                copies += await consumer.fetch(records_max=10, timeout_s=1)
            assert sorted(record.value for record in copies) == [b"[]", b"{"]

    async def test_an_early_command_to_a_saga_that_never_comes_is_a_dead_letter_in_time(
        self, one_file
    ):
        from saga.contracts import Command

        async with one_file.service(early_hold="1s") as service:
            saga = saga_id("order", "never")
            command = Command(command_id="c", act=CommandAct.RELEASE, saga_id=saga)
            await service.publisher.command(command, key="never")
            await until_dead_letter(service)
            (letter,) = await service.catalogue.unhandled()

        assert letter.reason == "unknown_saga"
        assert saga in letter.message

    async def test_live_states_are_what_their_histories_say(self, deployment):
        async with deployment.service() as service:
            await placed(service, *[f"o-{number}" for number in range(10)], wants_approval=True)
            await placed(service, "p-1", amount=501, wants_approval=True)
            await service.idle(timeout=HANG_S)
            await deployment.check_live(service)
