"""What idle waits for, and what it leaves behind: on files, on servers, and rule by rule."""

from datetime import timedelta

import pytest

from saga import Context, EffectContext, Effects, Event, Intent, Retry, SagaApp, saga
from saga.adapters.clocks import ManualClock
from saga.adapters.memory.store import MemoryCatalogue, MemoryEventStore
from saga.core.status import SagaStatus
from saga.runtime.idle import Waits
from saga.settings import Settings
from saga.testing.samples import MOMENT, append, history, summary, timer
from saga.testing.samples import saga as saga_number
from tests.scenarios.order_app import addresses

SECOND_US = 1_000_000
FAR = timedelta(days=1)


class Begun(Event, topic="idle.begun", version=1, key="name"):
    name: str
    does: str


class Work(Intent[None], topic="idle.work", version=1):
    name: str
    fails: int


class Unanswered(Intent[None], topic="idle.unanswered", version=1):
    name: str


@saga("idle", version=1, starts_on=Begun)
async def idling(ctx: Context, begun: Begun) -> None:
    name = begun.name
    match begun.does:
        case "retry soon":
            retry = Retry(attempts=4, initial="600ms", jitter=0)
            await ctx.do(Work(name=name, fails=3), retry=retry)
        case "retry in the minute":
            retry = Retry(initial="59s", jitter=0)
            await ctx.do(Work(name=name, fails=1), retry=retry)
        case "retry late":
            retry = Retry(initial=FAR, cap=FAR, jitter=0)
            await ctx.do(Work(name=name, fails=1), retry=retry)
        case "fail for ever":
            retry = Retry(attempts=None, initial="600ms", cap="600ms", jitter=0)
            await ctx.do(Work(name=name, fails=1_000_000), retry=retry)
        case "deadline":
            await ctx.do(Unanswered(name=name), timeout="1s", retry=Retry(attempts=1))
        case "no answer":
            await ctx.do(Unanswered(name=name))
        case "sleep":
            await ctx.sleep(FAR)
        case "signal":
            await ctx.wait("approval", dict, timeout="50s")


def app() -> SagaApp:
    """Handlers that fail as often as they are told to."""
    service, failed = Effects("work"), {}

    @service.on(Work)
    async def work(intent: Work, ctx: EffectContext) -> None:
        failed[intent.name] = failed.get(intent.name, 0) + 1
        if failed[intent.name] <= intent.fails:
            raise OSError("not yet")

    return SagaApp(sagas=[idling], effects=[service])


async def after_idle(does: str, *, within: str = "1m", **settings):
    """The saga's status once the service is idle, and what that has left."""
    async with app().service(**settings) as service:
        started = await service.publish(Begun(name="n", does=does))
        left = await service.idle(within=within)
        [found] = await service.catalogue.summaries([started])
    return found.status, left


@pytest.mark.parametrize(
    ("does", "ends"), [("retry soon", SagaStatus.COMPLETED), ("deadline", SagaStatus.ROLLED_BACK)]
)
async def test_what_is_due_within_a_minute_is_waited_for(tmp_path, does, ends):
    status, left = await after_idle(does, **addresses(tmp_path))

    assert status.is_ended
    assert status in (ends, SagaStatus.ROLLED_BACK_WITH_RESIDUE)
    assert not left


@pytest.mark.parametrize("does", ["retry late", "no answer", "sleep", "signal"])
async def test_time_and_people_are_not_waited_for_and_named(tmp_path, does):
    """A wait has a person behind it, however soon its time is over."""
    status, left = await after_idle(does, **addresses(tmp_path))

    assert status is SagaStatus.RUNNING
    assert left.sagas == {"running": 1}
    assert sum(left.waiting_for.values()) == 1
    assert (left.next_at is not None) is (does == "retry late")
    assert str(left).startswith("1 running; 1 wait for ")
    assert (does == "signal") is ("signal approval" in str(left))


async def test_how_long_to_wait_can_be_said(tmp_path):
    status, left = await after_idle("retry in the minute", within="0s", **addresses(tmp_path))

    assert status is SagaStatus.RUNNING
    assert left.next_at is not None


async def test_what_fails_again_and_again_is_not_waited_for_without_end(tmp_path):
    status, left = await after_idle("fail for ever", within="1s", **addresses(tmp_path))

    assert status is SagaStatus.RUNNING
    assert left.next_at is not None


async def test_on_servers_the_same_is_waited_for(kafka, postgres, namespace):
    servers = {"bus": kafka.url, "store": postgres, "namespace": namespace, "http": "off"}
    status, left = await after_idle("retry soon", **servers)

    assert status is SagaStatus.COMPLETED
    assert not left


async def test_who_takes_no_turns_waits_for_none(tmp_path):
    """Retries and deadlines are seen to by whoever has the orchestrator."""
    settings = Settings.read({}, **addresses(tmp_path))
    async with app().build_service(settings, roles=["effects"]) as service:
        await service.publish(Begun(name="n", does="deadline"))
        assert await service.idle() is None


class Stored:
    """Timers of sagas in a store of its own, at noon."""

    def __init__(self) -> None:
        self.store = MemoryEventStore()
        self.clock = ManualClock(MOMENT)
        self.waits = Waits(MemoryCatalogue(self.store), self.clock, tuple)

    async def add(self, number: int, name: str, due_s: float, status=SagaStatus.RUNNING) -> None:
        saga_id = saga_number(number)
        armed = [timer(saga_id, name, round(due_s * SECOND_US))]
        row = summary(saga_id, status=status)
        await append(self.store, history(saga_id), summaries=[row], timers_armed=armed)

    async def are_due(self) -> bool:
        return await self.waits.are_due(within_us=60 * SECOND_US)


@pytest.mark.parametrize(
    ("name", "due_s", "status", "expected"),
    [
        ("pay/do/1/retry", 59, SagaStatus.RUNNING, True),
        ("pay/do/1/retry", 61, SagaStatus.RUNNING, False),
        ("pay/do/1/deadline", 59, SagaStatus.ROLLING_BACK, True),
        ("pay/do/1/deadline", -5, SagaStatus.RUNNING, True),
        ("pay/undo/1/retry", 5, SagaStatus.PARKED, False),
        ("pay/undo/1/retry", -5, SagaStatus.PARKED, False),
        ("pay/do/1/retry", -5, SagaStatus.STALLED, False),
        ("sleep-1/sleep", 1, SagaStatus.RUNNING, False),
        ("approval-1/wait", 1, SagaStatus.RUNNING, False),
        ("odd", 1, SagaStatus.RUNNING, False),
    ],
)
async def test_only_what_goes_on_by_itself_is_due(name, due_s, status, expected):
    stored = Stored()
    await stored.add(1, name, due_s, status)

    assert await stored.are_due() is expected


async def test_one_is_found_behind_any_number_of_others():
    stored = Stored()
    for number in range(600):
        await stored.add(number, "sleep-1/sleep", 1 + number / 1_000)
    assert not await stored.are_due()

    await stored.add(1_000, "pay/do/1/retry", 50)
    assert await stored.are_due()
    assert str(await stored.waits.left()).startswith("601 running; ")
