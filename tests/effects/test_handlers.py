"""Handlers wait, overlap, run in threads, and fail in every way."""

import asyncio
import json
import logging
import threading
from pathlib import Path

import pytest

from saga.adapters.sqlite import SqliteEffectsStore
from saga.effects import EffectContext, Effects, EffectsService, Refused, Subscription
from saga.errors import DefinitionError
from tests.effects.fixtures import NAMES, Scenario, intent
from tests.patience import HANG_S
from tests.toys import Paid, Pay, Refund


def steps(count: int) -> list:
    return [intent(Pay(), step=f"s{n}") for n in range(count)]


def failure(scenario: Scenario) -> dict:
    ((name, value),) = scenario.answers()
    assert name == "shop.evt.intent-failed.v1"
    return json.loads(value)


class ThreadedScenario(Scenario):
    """The same with a file, a thread that commits and threads for sync handlers."""

    def __init__(self, effects: Effects, folder: Path, **settings) -> None:
        self.folder = folder
        super().__init__(effects, **{"threads": 4} | settings)

    def _make(self) -> tuple[SqliteEffectsStore, EffectsService]:
        store, _ = super()._make()
        store = SqliteEffectsStore(str(self.folder / "effects.db"))
        service = EffectsService(
            Subscription(self.effects, self.contracts, NAMES),
            bus=self.bus,
            store=store,
            clock=self.clock,
            dead_letters=self._keep_dead_letter,
            settings=self.settings,
        )
        return store, service

    async def until(self, is_so) -> None:
        """As before, with real time passing for the threads."""
        async with asyncio.timeout(HANG_S):
            while not is_so():
                await asyncio.sleep(0.0005)
                self.clock.advance(0.0005)

    async def query(self, sql: str) -> list[dict]:
        unit = self.store.unit()
        try:
            return await unit.db.fetch(sql)
        finally:
            unit.drop()


async def test_slow_handlers_overlap():
    """Forty that wait a second each take two, as twenty may wait at once, and never more."""
    effects = Effects("slow")
    running = most = 0

    @effects.on(Pay)
    async def pay(intent: Pay, ctx: EffectContext) -> Paid:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await scenario.clock.sleep(1)
        running -= 1
        return Paid(receipt="r")

    async with Scenario(effects, concurrency=20) as scenario:
        await scenario.send(*steps(40))
        assert most == 20
        assert scenario.clock.monotonic_s() < 2.5


async def test_quick_handlers_need_one_task():
    """However many intents come, no task is made for any of them."""
    effects = Effects("quick")
    tasks: set = set()

    @effects.on(Pay)
    async def pay(intent: Pay, ctx: EffectContext) -> Paid:
        tasks.add(asyncio.current_task())
        return Paid(receipt="r")

    async with Scenario(effects) as scenario:
        await scenario.send(*steps(200))

    assert len(tasks) == 1


async def test_a_slow_handler_does_not_hold_up_the_next_batch():
    """Later intents are answered while it waits."""
    effects = Effects("slow")

    @effects.on(Pay)
    async def pay(intent: Pay, ctx: EffectContext) -> Paid:
        if intent.amount == 1:
            await scenario.clock.sleep(100)
        return Paid(receipt="r")

    async with Scenario(effects, drain_s=0.1) as scenario:
        await scenario.bus.publish([intent(Pay(amount=1), step="slow")])
        await scenario.until(lambda: scenario.service.in_hand == 1)
        await scenario.bus.publish(steps(50))
        await scenario.until(lambda: len(scenario.replies()) == 50)

        assert scenario.clock.monotonic_s() < 1


async def test_one_step_is_never_handled_twice_at_once():
    """A retry that comes while the first attempt still runs waits for its end."""
    effects = Effects("slow")
    running = 0

    @effects.on(Pay)
    async def pay(intent: Pay, ctx: EffectContext) -> Paid:
        nonlocal running
        running += 1
        assert running == 1
        await scenario.clock.sleep(0.5)
        running -= 1
        raise OSError("try again")

    async with Scenario(effects) as scenario:
        await scenario.send(*[intent(Pay(), attempt=n) for n in (1, 2, 3)])

        assert scenario.service.counts["effects_failed"] == 3


async def test_a_handler_that_waits_before_it_writes_lets_others_write():
    """The write transaction is taken with the first use of the db, not before."""
    effects = Effects("polite")
    effects.on_start(_make_table)
    order: list[str] = []

    @effects.on(Pay)
    async def pay(intent: Pay, ctx: EffectContext) -> Paid:
        if intent.order_id == "slow":
            await scenario.clock.sleep(1)
        await ctx.db.execute("INSERT INTO seen VALUES (:order_id)", order_id=intent.order_id)
        order.append(intent.order_id)
        return Paid(receipt="r")

    async with Scenario(effects) as scenario:
        await scenario.send(*[intent(Pay(order_id=name), step=name) for name in ("slow", "a", "b")])

    assert order == ["a", "b", "slow"]


async def test_handlers_that_wait_while_they_write_take_turns():
    """They are slow, and correct: each is committed or rolled back by itself."""
    effects = Effects("impolite")
    effects.on_start(_make_table)

    @effects.on(Pay)
    async def pay(intent: Pay, ctx: EffectContext) -> Paid:
        await ctx.db.execute("INSERT INTO seen VALUES (:order_id)", order_id=intent.order_id)
        await scenario.clock.sleep(0.05)
        if intent.order_id == "b":
            raise Refused("not b")
        return Paid(receipt="r")

    async with Scenario(effects) as scenario:
        await scenario.send(*[intent(Pay(order_id=name), step=name) for name in "abc"])

        assert scenario.disk.execute("SELECT name FROM seen").fetchall() == [("a",), ("c",)]


async def test_the_context_says_what_is_asked():
    effects = Effects("e")
    seen: list[EffectContext] = []

    @effects.on(Pay)
    async def pay(intent: Pay, ctx: EffectContext) -> Paid:
        seen.append(ctx)
        return Paid(receipt="r")

    async with Scenario(effects) as scenario:
        await scenario.send(intent(Pay(), attempt=3))
    (ctx,) = seen

    assert ctx.intent_id == f"{ctx.saga_id}/pay/do/3"
    assert ctx.idempotency_key == f"{ctx.saga_id}/pay/do"
    assert (ctx.key, ctx.attempt) == ("o-1", 3)


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (None, "returned None, but Pay is answered by Paid"),
        (Pay(), "returned a Pay, but Pay is answered by Paid"),
        ({"receipt": "r"}, "returned a dict"),
    ],
)
async def test_a_wrong_reply_fails_and_names_the_handler(reply, problem):
    effects = Effects("e")

    @effects.on(Pay)
    async def pay(intent, ctx):
        return reply

    async with Scenario(effects) as scenario:
        await scenario.send(intent(Pay()))

        assert failure(scenario)["code"] == "wrong_reply"
        assert f"test_handlers.py:{pay.__code__.co_firstlineno}" in failure(scenario)["message"]
        assert problem in failure(scenario)["message"]


async def test_a_reply_that_is_too_large_is_a_failed_attempt():
    """Before it is kept: otherwise it could never be sent."""
    effects = Effects("e")

    @effects.on(Pay)
    async def pay(intent, ctx) -> Paid:
        return Paid(receipt="x" * 1_000_001)

    async with Scenario(effects) as scenario:
        await scenario.send(intent(Pay()))

        assert failure(scenario)["code"] == "reply_too_large"


async def test_odd_errors_are_recorded_like_others(caplog):
    """Half a character in the text, no text at all, a cancellation from within."""
    # A captured log with half a character cannot travel between the processes that run tests.
    caplog.set_level(logging.CRITICAL + 1)
    effects = Effects("e")
    errors = {
        1: ValueError("\ud800"),
        2: KeyError(),
        3: asyncio.CancelledError(),
        4: OSError("x" * 9999),
    }

    @effects.on(Pay)
    async def pay(intent, ctx) -> Paid:
        raise errors[intent.amount]

    async with Scenario(effects) as scenario:
        await scenario.send(*[intent(Pay(amount=n), step=f"s{n}") for n in errors])
        failures = [json.loads(value) for _, value in scenario.answers()]

    codes = [failure["code"] for failure in failures]
    assert codes == ["ValueError", "KeyError", "CancelledError", "OSError"]
    assert max(len(failure["message"]) for failure in failures) < 2_100


async def test_a_handler_that_ends_the_transaction_fails_alone():
    """Others in its group are handled again."""
    effects = Effects("e")
    effects.on_start(_make_table)

    @effects.on(Pay)
    async def pay(intent, ctx) -> Paid:
        await ctx.db.execute("INSERT INTO seen VALUES (:order_id)", order_id=intent.order_id)
        if intent.order_id == "b":
            ctx.db.raw.execute("ROLLBACK")
        return Paid(receipt="r")

    async with Scenario(effects) as scenario:
        await scenario.send(*[intent(Pay(order_id=name), step=name) for name in "abc"])

        assert sorted(scenario.disk.execute("SELECT name FROM seen")) == [("a",), ("c",)]
        assert [json.loads(v).get("code") for _, v in scenario.answers()].count(
            "transaction_ended"
        ) == 1
        assert scenario.service.counts["effects_done"] == 2


async def test_handlers_may_begin_with_the_drivers_connection():
    """Also in an inner function; their writes through it are rolled back when they fail."""
    effects = Effects("e")

    @effects.on_start
    async def make_table(db) -> None:
        db.raw.execute("CREATE TABLE seen (name TEXT)")

    @effects.on(Pay)
    async def pay(intent, ctx) -> Paid:
        def write() -> None:
            ctx.db.raw.execute("INSERT INTO seen VALUES (?)", [intent.order_id])

        write()
        if intent.order_id == "b":
            raise Refused("not b")
        return Paid(receipt="r")

    @effects.on(Refund)
    def refund(intent, ctx) -> None:
        ctx.db.raw.execute("INSERT INTO seen VALUES ('sync')")

    async with Scenario(effects) as scenario:
        await scenario.send(*[intent(Pay(order_id=name), step=name) for name in "abc"])
        await scenario.send(intent(Refund(), step="u"))

        seen = sorted(name for (name,) in scenario.disk.execute("SELECT name FROM seen"))
        assert seen == ["a", "c", "sync"]
        assert scenario.service.counts["effects_failed"] == 0


async def test_a_helper_that_wants_the_drivers_connection_too_early_is_told_what_to_do():
    """The handler's code does not show that it needs the connection."""
    effects = Effects("e")
    effects.on_start(_make_table)

    @effects.on(Pay)
    async def pay(intent, ctx) -> Paid:
        if intent.order_id == "b":
            await ctx.db.fetch("SELECT 1")
        _write_raw(ctx.db, intent.order_id)
        return Paid(receipt="r")

    async with Scenario(effects) as scenario:
        await scenario.send(intent(Pay(order_id="a"), step="a"))
        assert "first awaits a statement" in failure(scenario)["message"]
        await scenario.send(intent(Pay(order_id="b"), step="b"))
        assert scenario.disk.execute("SELECT name FROM seen").fetchall() == [("b",)]


async def test_sync_handlers_run_in_threads_beside_each_other(tmp_path):
    """And write through the same transaction as everybody else."""
    effects = Effects("sync")
    effects.on_start(lambda db: db.execute("CREATE TABLE seen (name TEXT)"))
    together = threading.Barrier(3, timeout=HANG_S)

    @effects.on(Pay)
    def pay(intent: Pay, ctx: EffectContext) -> Paid:
        together.wait()
        assert ctx.db.execute("INSERT INTO seen VALUES (:name)", name=intent.order_id) == 1
        assert ctx.db.fetch("SELECT count(*) AS n FROM seen")[0]["n"] > 0
        if intent.order_id == "b":
            raise Refused("not b", code="b")
        return Paid(receipt=threading.current_thread().name)

    async with ThreadedScenario(effects, tmp_path) as scenario:
        await scenario.send(*[intent(Pay(order_id=name), step=name) for name in "abc"])

        assert await scenario.query("SELECT name FROM seen ORDER BY name") == [
            {"name": "a"},
            {"name": "c"},
        ]
        answers = dict(scenario.answers())
        assert "effects of sync" in answers["shop.evt.paid.v1"]
        assert '"b"' in answers["shop.evt.intent-failed.v1"]


async def test_a_file_and_threads_give_the_same_answers(tmp_path):
    """Hundreds of intents, some failing, committed in groups; each effect is there once."""
    effects = Effects("wallets")
    effects.on_start(_make_table)

    @effects.on(Pay)
    async def pay(intent: Pay, ctx: EffectContext) -> Paid:
        await ctx.db.execute("INSERT INTO seen VALUES (:order_id)", order_id=intent.order_id)
        if intent.amount % 10 == 0:
            raise Refused("every tenth")
        return Paid(receipt="r")

    async with ThreadedScenario(effects, tmp_path) as scenario:
        records = [intent(Pay(order_id=f"o{n}", amount=n), step=f"s{n}") for n in range(300)]
        await scenario.send(*records, *records)

        seen = await scenario.query("SELECT name FROM seen")
        assert len(seen) == len({row["name"] for row in seen}) == 270
        assert len(scenario.replies()) == 600


async def test_sync_handlers_may_run_without_threads():
    """As in simulated worlds: one after another, on the loop."""
    effects = Effects("sync")
    effects.on_start(lambda db: db.execute("CREATE TABLE seen (name TEXT)"))

    @effects.on(Pay)
    def pay(intent: Pay, ctx: EffectContext) -> Paid:
        ctx.db.execute("INSERT INTO seen VALUES (:name)", name=intent.order_id)
        return Paid(receipt="r")

    async with Scenario(effects) as scenario:
        await scenario.send(*steps(3))

        assert len(scenario.disk.execute("SELECT * FROM seen").fetchall()) == 3


def _write_raw(db, name) -> None:
    db.raw.execute("INSERT INTO seen VALUES (?)", [name])


async def _make_table(db) -> None:
    await db.execute("CREATE TABLE IF NOT EXISTS seen (name TEXT)")


def test_a_service_has_a_name_that_fits_into_its_keys():
    with pytest.raises(DefinitionError, match="at most 100"):
        Effects("x" * 101)
    assert Effects("x" * 100).name == "x" * 100
