"""Whole services whose handlers use `ctx.db` in some calls and not in others.

Each call gives another answer, so that it is seen which one was kept, and which one was given.
"""

import asyncio
import json
import random
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from saga import EffectContext, Effects, Refused, SagaApp
from saga.adapters.clocks import SystemClock
from saga.adapters.sqlite import LocalBus, SqliteDatabase, connection
from saga.core.events import ReplyReceived
from saga.core.status import SagaStatus
from saga.ports import Source
from tests.patience import HANG_S, until
from tests.scenarios import order_app, struck_answers
from tests.scenarios.test_failing_disk import Moody
from tests.toys import OrderPlaced, Paid, Pay, Refund, Reserve, Reserved, Unreserve

ORDERS = 40
KEPT = """SELECT service, saga_id || '/' || step, attempt, undone, payload
    FROM saga_inbox JOIN saga_inbox_sagas ON number = saga"""


class Shop:
    """The application, which notes its calls; *writes* says which of them use `ctx.db`."""

    def __init__(self, writes: Callable[[int], bool]) -> None:
        self.calls: Counter[str] = Counter()
        self.writes = writes
        self.begun = asyncio.Event()
        self.going_on = asyncio.Event()
        self.going_on.set()
        self.numbers = count()

    def app(self) -> SagaApp:
        shop = Effects("shop")

        @shop.on_start
        async def make_tables(db):
            await db.execute("CREATE TABLE IF NOT EXISTS effects (what TEXT, order_id TEXT)")

        @shop.on(Reserve)
        async def reserve(intent: Reserve, ctx: EffectContext) -> Reserved:
            number = await self.work(ctx)
            return Reserved(shelf=f"s-{number}")

        @shop.on(Unreserve)
        async def unreserve(intent: Unreserve, ctx: EffectContext) -> None:
            await self.work(ctx)

        @shop.on(Pay)
        async def pay(intent: Pay, ctx: EffectContext) -> Paid:
            if intent.amount > 500:
                raise Refused("over the limit", code="limit")
            return Paid(receipt=f"r-{await self.work(ctx)}")

        @shop.on(Refund)
        async def refund(intent: Refund, ctx: EffectContext) -> None:
            await self.work(ctx)

        return SagaApp(sagas=[order_app.order_saga()], effects=[shop])

    def service(self, folder: Path, **settings):
        """By default with all rows that go with nothing else in the file of the bus."""
        places = order_app.addresses(folder)
        return self.app().service(**places | {"early_hold": "2m"} | settings)

    async def work(self, ctx: EffectContext) -> int:
        self.calls[ctx.idempotency_key] += 1
        number = next(self.numbers)
        if self.writes(number):
            sql = "INSERT INTO effects VALUES (:key, :order)"
            await ctx.db.execute(sql, key=ctx.idempotency_key, order=ctx.key)
            self.begun.set()
            await self.going_on.wait()
        return number


def never(_: int) -> bool:
    return False


def always(_: int) -> bool:
    return True


def in_every_second_call(number: int) -> bool:
    return number % 2 == 0


def rows_in(folder: Path) -> dict[str, dict[tuple[str, str], tuple]]:
    """The inbox rows of each file."""
    found = {}
    for name in ("saga.db", "saga-effects.db"):
        with sqlite3.connect(folder / name) as file:
            rows = file.execute(KEPT).fetchall()
        file.close()
        found[name] = {(service, key): tuple(rest) for service, key, *rest in rows}
    return found


async def examine(folder: Path, service) -> dict[str, int]:
    """What sagas were told is what is kept, once; gives the number of rows in each file."""
    rows = rows_in(folder)
    here, apart = rows["saga.db"], rows["saga-effects.db"]
    for key in here.keys() & apart.keys():
        assert here[key][:2] != apart[key][:2], f"{key} has two rows of one attempt"
    newest = {key: max(each[key] for each in (here, apart) if key in each) for key in here | apart}
    async for _, entry in service.catalogue.log():
        if isinstance(entry.body, ReplyReceived) and entry.body.reply is not None:
            key, _, attempt = entry.body.intent_id.rpartition("/")
            kept_attempt, _, payload = newest["shop", key]
            assert kept_attempt >= int(attempt)
            if kept_attempt == int(attempt) and payload is not None:
                assert json.loads(payload) == json.loads(entry.body.reply.payload)
    with sqlite3.connect(folder / "saga-effects.db") as file:
        written = Counter(what for (what,) in file.execute("SELECT what FROM effects"))
    file.close()
    assert set(written.values()) <= {1}
    assert {("shop", key) for key in written} <= apart.keys()
    return {name: len(each) for name, each in rows.items()}


async def test_every_second_call_writes(tmp_path):
    shop = Shop(in_every_second_call)
    async with shop.service(tmp_path) as service:
        ends = await order_app.run_orders(service, range(ORDERS))
        await service.idle(timeout=HANG_S)
        kept = await examine(tmp_path, service)

    assert ends == {"completed": ORDERS - ORDERS // 5, "rolled_back": ORDERS // 5}
    assert set(shop.calls.values()) == {1}
    assert min(kept.values()) > 0


async def test_a_handler_that_keeps_its_file_holds_up_no_turn(tmp_path):
    """Other sagas begin, and are told to wait for an approval, while it has not ended."""
    shop = Shop(lambda number: number == 0)
    shop.going_on.clear()
    async with shop.service(tmp_path) as service:
        slow = await service.publish(OrderPlaced(order_id="slow", amount=1))
        await shop.begun.wait()
        others = [await service.publish(OrderPlaced(order_id=f"o-{n}")) for n in range(5)]

        async def have_all_begun() -> bool:
            return len(await service.catalogue.summaries(others)) == len(others)

        await until(have_all_begun)
        assert shop.calls.total() >= 1
        shop.going_on.set()
        outcomes = [await service.outcome(saga, timeout=HANG_S) for saga in (slow, *others)]
        await service.idle(timeout=HANG_S)
        await examine(tmp_path, service)

    assert {outcome.status for outcome in outcomes} == {SagaStatus.COMPLETED}
    assert set(shop.calls.values()) == {1}


@pytest.mark.parametrize("settings", [{}, {"effects_store": "the same"}], ids=["apart", "in it"])
@pytest.mark.parametrize("seed", [1, 2])
async def test_every_order_ends_on_a_failing_disk(tmp_path, monkeypatch, caplog, seed, settings):
    """What was answered is kept, and what is kept is answered, in whichever file."""
    if settings:
        settings = {"effects_store": f"sqlite:///{tmp_path}/saga.db"}
    real = sqlite3.connect
    monkeypatch.setattr(
        connection.sqlite3,
        "connect",
        lambda *args, **options: real(*args, **{"factory": Moody} | options),
    )
    monkeypatch.setattr(Moody, "dice", random.Random(seed))
    monkeypatch.setattr(Moody, "failed", 0)
    shop = Shop(in_every_second_call)
    async with shop.service(tmp_path, **settings) as service:
        monkeypatch.setattr(Moody, "share", 0.35)
        ends = await order_app.run_orders(service, range(ORDERS))
        monkeypatch.setattr(Moody, "share", 0.0)
        await service.idle(timeout=HANG_S)
        if not settings:
            await examine(tmp_path, service)

    assert Moody.failed > 3
    assert ends.total() == ORDERS


def deliver_all_again(folder: Path) -> None:
    """As where a group's offsets were lost: each intent comes once more."""
    with sqlite3.connect(folder / "saga.db") as file:
        file.execute("DELETE FROM bus_offsets WHERE group_name LIKE '%effects%'")
    file.close()


async def run_releases(folder: Path, releases) -> Counter[str]:
    """What was done by each, with its settings, where all that came before is delivered again."""
    done: Counter[str] = Counter()
    for number, (writes, settings) in enumerate(releases):
        shop, first = Shop(writes), number * 10
        async with shop.service(folder, **settings) as service:
            await order_app.run_orders(service, range(first, first + 10))
            await service.idle(timeout=HANG_S)
            await examine(folder, service)
        assert not done.keys() & shop.calls.keys()
        done += shop.calls
        deliver_all_again(folder)
    return done


async def test_releases_that_use_ctx_db_find_what_others_have_done(tmp_path):
    """Without it, with it, without it: each finds all keys, and answers as they were answered."""
    done = await run_releases(tmp_path, [(never, {}), (always, {}), (never, {})])

    assert set(done.values()) == {1}


async def test_an_address_for_the_effects_may_come_and_go(tmp_path):
    """All keys are found as long as the files are the same."""
    address = {"effects_store": f"sqlite:///{tmp_path}/saga-effects.db"}
    each = in_every_second_call
    done = await run_releases(tmp_path, [(each, {}), (each, address), (each, {})])

    assert set(done.values()) == {1}


ROOT = Path(__file__).parents[2]
STRIKES = 2
ANSWER = "/reply"
"""Ends the id of an answer; before it stands the id of what is answered."""


@pytest.mark.parametrize(
    "point",
    [
        pytest.param(point, marks=[pytest.mark.long] * (point not in ("written", "committed")))
        for point in struck_answers.POINTS
    ],
)
async def test_a_killed_service_has_answered_what_it_has_kept(tmp_path, point):
    """Wherever it is killed (-9), and no answer differs; the next one calls the handlers that are
    left, each once.
    """
    sagas = []
    for strike in range(STRIKES):
        async with order_app.service(tmp_path, with_services=False) as service:
            for number in range(ORDERS):
                placed = OrderPlaced(order_id=f"o-{strike}-{number}")
                sagas.append(await service.publish(placed))
        command = (sys.executable, "-m", "tests.scenarios.struck_answers", str(tmp_path), point)
        killed = await asyncio.to_thread(
            subprocess.run, command, cwd=ROOT, timeout=HANG_S, check=False
        )
        assert killed.returncode == -signal.SIGKILL
        assert answers_in(tmp_path) == payloads_in(tmp_path)
        assert bool(payloads_in(tmp_path)) == (point in {"committed", "told"})
    before = payloads_in(tmp_path)
    shop = Shop(never)
    async with shop.service(tmp_path) as service:
        outcomes = [await service.outcome(each, timeout=HANG_S) for each in sagas]
        await service.idle(timeout=HANG_S)
        kept = await examine(tmp_path, service)

    assert Counter(each.status.value for each in outcomes) == {"completed": len(sagas)}
    assert kept == {"saga.db": 2 * len(sagas), "saga-effects.db": 0}
    # A slow service may have done all before it came to its end.
    assert set(shop.calls.values()) <= {1}
    assert len(shop.calls) == 2 * len(sagas) - len(before)
    assert not shop.calls.keys() & {key for _, key in before}
    assert answers_in(tmp_path) == payloads_in(tmp_path)


def payloads_in(folder: Path) -> dict[tuple[str, str], object]:
    """What is kept in the file of the bus, by key."""
    rows = rows_in(folder)["saga.db"]
    return {key: json.loads(row[2] or "{}") for key, row in rows.items()}


def answers_in(folder: Path) -> dict[tuple[str, str], object]:
    """What is answered there; who is asked again says the same again."""
    database = SqliteDatabase(folder / "saga.db")
    bus = LocalBus(database, clock=SystemClock())
    found: dict[tuple[str, str], object] = {}

    def read(cursor: sqlite3.Cursor) -> None:
        topics = cursor.execute("SELECT name, partitions FROM bus_topics").fetchall()
        for source in (Source(name, each) for name, most in topics for each in range(most)):
            for record in bus.log.read(cursor, source, 0, 1_000):
                id_ = dict(record.headers)["ce_id"].decode()
                if id_.endswith(ANSWER):
                    key = ("shop", id_.removesuffix(ANSWER).rpartition("/")[0])
                    payload = json.loads(record.value)
                    assert found.setdefault(key, payload) == payload

    database.read_now(read)
    return found
