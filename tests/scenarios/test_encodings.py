# ruff: noqa: SLF001
"""How often one saga's messages are encoded and decoded between its trigger and its outcome.

Six messages travel: the trigger, two intents, two replies, the outcome. Each is written once by who
says it and read once by who receives it; a saga reads nothing that the router has read already. The
numbers are exact, so that a translation that comes in unnoticed is noticed here.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from saga import Context, EffectContext, Effects, SagaApp, saga
from saga.adapters import mapper
from saga.contracts import IntentDone, IntentFailed, codec
from saga.core.status import SagaStatus
from tests.patience import HANG_S
from tests.toys import OrderConfirmed, OrderPlaced, Paid, Pay, Refund, Ship

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "explanation" / "forms-of-an-event.md"
CONTRACTS = (OrderPlaced, Pay, Paid, Refund, Ship, OrderConfirmed, IntentDone, IntentFailed)
NOT_OF_A_SAGA = "saga.adapters.sqlite.groups"
"""What members of a group tell each other, now and then."""
NEVER_S = 600.0
EXPECTED = {
    "models made": 5,  # by the test, the saga (twice an intent, the outcome) and the payment
    "models read": 6,  # was 9: once by each reader, and the outcome by who waits for it
    "models written": 0,  # all are flat: their fields are their JSON
    "JSON written": 13,  # 5 by their authors, 5 to compare, 3 turns; headers are not JSON
    "JSON read": 0,
}
ROWS = 6
"""Of the local bus: one a message, which is one line of JSON."""


@dataclass
class Counted:
    """Stands for a validator or serializer of pydantic's, and counts calls of some methods."""

    inner: Any
    names: dict[str, str]
    count: Callable[[str], None]

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)
        what = self.names.get(name)
        return method if what is None else counting(what, method, self.count)


@dataclass
class Tally:
    """Counts while it is on."""

    is_on: bool = False
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, what: str) -> None:
        if self.is_on:
            self.counts[what] += 1

    @contextmanager
    def counting(self):
        self.counts.clear()
        self.is_on = True
        try:
            yield self.counts
        finally:
            self.is_on = False


def counting(what: str, function: Callable[..., Any], count: Callable[[str], None]):
    def counted(*args: Any, **options: Any) -> Any:
        if sys._getframe(1).f_globals["__name__"] != NOT_OF_A_SAGA:
            count(what)
        return function(*args, **options)

    return counted


@pytest.fixture
def tally(monkeypatch: pytest.MonkeyPatch) -> Tally:
    """Counts what is encoded and decoded by all that the test makes from here on."""
    tally = Tally()
    for module in (orjson, json):
        for name, what in (("dumps", "JSON written"), ("loads", "JSON read")):
            counted = counting(what, getattr(module, name), tally.add)
            monkeypatch.setattr(module, name, counted)
    for module in (mapper, codec):  # bound when they were imported
        monkeypatch.setattr(module, "_dumps", counting("JSON written", module._dumps, tally.add))
    # All three read what is stored: the second where the store tells of appends, once at least.
    for by_the_clock in ("outcomes.POLL_S", "outcomes.GRACE_S", "orchestrator.SWEEP_S"):
        monkeypatch.setattr(f"saga.runtime.{by_the_clock}", NEVER_S)
    read = {"validate_json": "models read", "validate_python": "models made"}
    for model in CONTRACTS:
        validator, serializer = model.__pydantic_validator__, model.__pydantic_serializer__
        counted = Counted(validator, read, tally.add)
        monkeypatch.setattr(model, "__pydantic_validator__", counted)
        counted = Counted(serializer, {"to_json": "models written"}, tally.add)
        monkeypatch.setattr(model, "__pydantic_serializer__", counted)
    return tally


def application() -> SagaApp:
    """A saga of two steps, and a service for each."""

    @saga("counted", version=1, starts_on=OrderPlaced)
    async def counted(ctx: Context, placed: OrderPlaced) -> OrderConfirmed:
        await ctx.do(Pay(order_id=placed.order_id), undo=Refund, timeout="1m")
        await ctx.do(Ship(order_id=placed.order_id))
        return OrderConfirmed(order_id=placed.order_id)

    payments, parcels = Effects("payments"), Effects("parcels")

    @payments.on(Pay)
    async def pay(intent: Pay, ctx: EffectContext) -> Paid:
        return Paid(receipt=f"r-{intent.order_id}")

    @payments.on(Refund)
    async def refund(intent: Refund, ctx: EffectContext) -> None:
        pass

    @parcels.on(Ship)
    async def ship(intent: Ship, ctx: EffectContext) -> None:
        pass

    return SagaApp(sagas=[counted], effects=[payments, parcels])


async def counts_of_one_saga(tally: Tally, **settings: Any) -> dict[str, int]:
    """What one saga costs, when everything is warm."""
    async with application().service(**settings) as service:
        for order_id in ("o-1", "o-2"):
            with tally.counting() as counts:
                started = await service.publish(OrderPlaced(order_id=order_id))
                assert started is not None
                outcome = await service.outcome(started, timeout=HANG_S)
            assert outcome.status is SagaStatus.COMPLETED
            assert outcome.event == OrderConfirmed(order_id=order_id)
    return {what: counts[what] for what in EXPECTED}


async def test_embedded_each_message_is_written_once_and_read_once(tally, tmp_path):
    places = {"bus": f"local:///{tmp_path}/s.db", "store": f"sqlite:///{tmp_path}/s.db"}

    rows = {"JSON written": EXPECTED["JSON written"] + ROWS}
    assert await counts_of_one_saga(tally, **places) == EXPECTED | rows


async def test_on_servers_each_message_is_written_once_and_read_once(
    tally, kafka, postgres, namespace
):
    places = {"bus": kafka.url, "store": postgres, "namespace": namespace}

    assert await counts_of_one_saga(tally, **places) == EXPECTED


def test_each_form_is_where_the_page_says():
    rows = re.findall(r"^\| \d+ \| (.+?) \| `(.+?)` \|", PAGE.read_text("utf-8"), re.MULTILINE)

    assert len(rows) == 12
    for form, path in rows:
        source = (ROOT / path).read_text("utf-8")
        for name in re.findall(r"`(\w+)`", form):
            assert re.search(rf"^(class|def) {name}\b|^{name} = ", source, re.MULTILINE), name
