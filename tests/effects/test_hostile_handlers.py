"""Whatever a handler, a listener or `on_start` raises harms nothing but its own attempt."""

# ruff: noqa: SLF001 - only tests ask whether a service has ended

import asyncio
import json
import logging
import sqlite3

import pytest

from saga.effects import EffectContext, Effects
from saga.errors import DefinitionError
from tests.effects.fixtures import Scenario, intent
from tests.effects.hostile import HOSTILE, REFUSALS
from tests.effects.test_handlers import ThreadedScenario
from tests.effects.test_listening import fact
from tests.toys import OrderConfirmed, Paid, Pay

EVIL = 13


@pytest.fixture(autouse=True)
def silent(caplog):
    """What a handler raised goes to the log, where half a character cannot leave the process."""
    caplog.set_level(logging.CRITICAL + 1)


def service(misbehave, *, is_async: bool) -> Effects:
    """A service whose handler misbehaves on one amount, after it has written."""
    effects = Effects("wallets")

    @effects.on_start
    async def make_tables(db):
        await db.execute("CREATE TABLE IF NOT EXISTS ledger (amount INTEGER)")

    if is_async:

        @effects.on(Pay)
        async def pay(intent: Pay, ctx: EffectContext) -> Paid:
            await ctx.db.execute("INSERT INTO ledger VALUES (:n)", n=intent.amount)
            if intent.amount == EVIL:
                misbehave()
            return Paid(receipt="r")

    else:

        @effects.on(Pay)
        def pay(intent: Pay, ctx: EffectContext) -> Paid:
            ctx.db.execute("INSERT INTO ledger VALUES (:n)", n=intent.amount)
            if intent.amount == EVIL:
                misbehave()
            return Paid(receipt="r")

    return effects


def rows(scenario: Scenario) -> list[int]:
    connection = scenario.disk
    if isinstance(scenario, ThreadedScenario):
        connection = sqlite3.connect(scenario.folder / "effects.db")
    found = [amount for (amount,) in connection.execute("SELECT amount FROM ledger ORDER BY 1")]
    if connection is not scenario.disk:
        connection.close()
    return found


async def check(scenario: Scenario) -> None:
    """The evil one fails, its neighbours are answered, and the service goes on."""
    async with scenario:
        amounts = [1, EVIL, 2]
        await scenario.send(*[intent(Pay(amount=n), step=f"s{n}") for n in amounts])
        await scenario.send(intent(Pay(amount=3), step="s3"))
        answers = [name.split(".")[2] for name, _ in scenario.answers()]
        assert sorted(answers) == ["intent-failed", "paid", "paid", "paid"]
        assert rows(scenario) == [1, 2, 3]
        assert not scenario.service._has_ended.is_set()


@pytest.mark.parametrize("kind", HOSTILE)
async def test_whatever_an_async_handler_raises_fails_its_attempt_alone(kind):
    await check(Scenario(service(HOSTILE[kind], is_async=True)))


@pytest.mark.parametrize("kind", HOSTILE)
async def test_whatever_a_sync_handler_raises_on_the_loop_fails_its_attempt_alone(kind):
    await check(Scenario(service(HOSTILE[kind], is_async=False)))


@pytest.mark.parametrize("kind", HOSTILE)
async def test_whatever_a_sync_handler_raises_in_a_thread_fails_its_attempt_alone(kind, tmp_path):
    """`StopIteration` too, which no future takes: its thread's place was lost for ever."""
    await check(ThreadedScenario(service(HOSTILE[kind], is_async=False), tmp_path, threads=1))


@pytest.mark.parametrize("kind", ["raises", "returns", "waits"])
async def test_a_handler_that_cancels_its_own_task_fails_alone(kind):
    """The task is the service's, and goes on to serve others."""
    effects = Effects("wallets")

    @effects.on(Pay)
    async def pay(intent: Pay, ctx: EffectContext) -> Paid:
        if intent.amount == EVIL:
            asyncio.current_task().cancel()
            if kind == "raises":
                raise ValueError("and more")
            if kind == "waits":
                await asyncio.sleep(0)
        return Paid(receipt="r")

    async with Scenario(effects) as scenario:
        await scenario.send(*[intent(Pay(amount=n), step=f"s{n}") for n in (1, EVIL, 2)])
        answers = sorted(name.split(".")[2] for name, _ in scenario.answers())
        assert answers == (["paid"] * 3 if kind == "returns" else ["intent-failed", "paid", "paid"])
        await scenario.send(intent(Pay(amount=3), step="s3"))


async def test_what_a_handler_raises_while_the_service_ends_is_no_attempt():
    """It was interrupted: the next process calls it as if for the first time."""
    effects = Effects("wallets")
    calls: list[int] = []

    @effects.on(Pay)
    async def pay(intent: Pay, ctx: EffectContext) -> Paid:
        calls.append(ctx.attempt)
        if len(calls) == 1:
            try:
                await scenario.clock.sleep(1_000)
            finally:
                raise ValueError("while cleaning up")
        return Paid(receipt="r")

    async with Scenario(effects) as scenario:
        await scenario.bus.publish([intent(Pay())])
        await scenario.until(lambda: calls)
        await scenario.crash()
        await scenario.until(scenario.replies)

        assert calls == [1, 1]
        assert [name for name, _ in scenario.answers()] == ["shop.evt.paid.v1"]


async def test_what_is_ours_ends_the_service_and_is_no_attempt():
    """The next process takes the intent again."""
    effects = Effects("wallets")
    raised: list[int] = []

    @effects.on(Pay)
    def pay(intent: Pay, ctx: EffectContext) -> Paid:
        if not raised:
            raised.append(1)
            raise MemoryError
        return Paid(receipt="r")

    async with Scenario(effects) as scenario:
        await scenario.bus.publish([intent(Pay())])
        await scenario.until(scenario.service._has_ended.is_set)
        with pytest.raises(MemoryError):
            await scenario.service.wait()
        await scenario.crash()
        await scenario.until(scenario.replies)

        assert [name for name, _ in scenario.answers()] == ["shop.evt.paid.v1"]


@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize("kind", HOSTILE)
async def test_whatever_a_listener_raises_becomes_a_dead_letter(kind, is_async):
    """After a few calls, as no orchestrator repeats a fact; facts behind it are heard."""
    effects = Effects("wallets")
    misbehave, heard = HOSTILE[kind], []

    async def hear(event: OrderConfirmed, ctx: EffectContext) -> None:
        listen(event, ctx)

    def listen(event: OrderConfirmed, ctx: EffectContext) -> None:
        if event.order_id == "evil":
            misbehave()
        heard.append(event.order_id)

    effects.listens(OrderConfirmed)(hear if is_async else listen)
    async with Scenario(effects) as scenario:
        await scenario.send(fact("evil", event_id="e1"), fact("good", event_id="e2"))

        assert heard == ["good"]
        reasons = [reason for _, reason, _ in scenario.dead_letters]
        assert reasons == ([] if kind in REFUSALS else ["listener_failed"])


@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize("kind", HOSTILE)
async def test_whatever_on_start_raises_is_a_definition_error(kind, is_async):
    """It names the function's place, so that its author finds it."""
    effects = Effects("wallets")
    misbehave = HOSTILE[kind]

    @effects.on(Pay)
    async def pay(intent: Pay, ctx: EffectContext) -> Paid:
        return Paid(receipt="r")

    def start(db) -> None:
        misbehave()

    async def start_async(db) -> None:
        misbehave()

    effects.on_start(start_async if is_async else start)
    scenario = Scenario(effects)
    with pytest.raises(DefinitionError, match="on_start function") as raised:
        await scenario.__aenter__()

    assert __file__ in str(raised.value)
    await scenario.__aexit__()


async def test_what_a_handler_says_is_kept_as_it_can_be():
    """Half a character, NUL and a megabyte are no reason to lose the answer."""
    async with Scenario(service(HOSTILE["half a refusal"], is_async=True)) as scenario:
        await scenario.send(intent(Pay(amount=EVIL)))
        ((_, value),) = scenario.answers()

    assert json.loads(value) == {
        "outcome": "refused",
        "code": "\\udfff",
        "message": "\\ud800\\u0000",
    }


@pytest.mark.parametrize("kind", ["gathered", "grouped", "awaited", "nested"])
async def test_a_task_of_a_handler_that_exits_fails_its_attempt_alone(kind):
    """By itself asyncio would end the loop, and with it the process, each time the intent comes."""
    effects = Effects("wallets")

    async def leave() -> None:
        await asyncio.sleep(0)
        raise SystemExit(3)

    async def nested() -> None:
        await asyncio.gather(leave())

    @effects.on(Pay)
    async def pay(intent: Pay, ctx: EffectContext) -> Paid:
        if intent.amount == EVIL:
            if kind == "gathered":
                await asyncio.gather(leave(), asyncio.sleep(0))
            elif kind == "grouped":
                async with asyncio.TaskGroup() as group:
                    group.create_task(leave())
            else:
                await asyncio.create_task(leave() if kind == "awaited" else nested())
        return Paid(receipt="r")

    async with Scenario(effects) as scenario:
        await scenario.send(*[intent(Pay(amount=n), step=f"s{n}") for n in (1, EVIL, 2)])
        answers = [name.split(".")[2] for name, _ in scenario.answers()]
        assert sorted(answers) == ["intent-failed", "paid", "paid"]
        assert any("SystemExit" in value for _, value in scenario.answers()) or kind == "grouped"


async def test_a_task_that_a_handler_leaves_behind_ends_nothing_else():
    """The loop tells its exception handler, as of any other task."""
    effects = Effects("wallets")
    left: list[asyncio.Task] = []

    @effects.on(Pay)
    async def pay(intent: Pay, ctx: EffectContext) -> Paid:
        async def leave() -> None:
            await asyncio.sleep(0)
            raise SystemExit(3)

        left.append(asyncio.create_task(leave()))
        return Paid(receipt="r")

    async with Scenario(effects) as scenario:
        await scenario.send(intent(Pay()))
        await scenario.until(left[0].done)
        assert "SystemExit: 3" in str(left[0].exception())
        await scenario.send(intent(Pay(), step="other"))
