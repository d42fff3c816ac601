"""A few small baskets, and the effect services' handlers on a real store of their own."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from domain.baskets import Basket
from saga import EffectContext, Effects, Refused
from saga.adapters.sqlite import SqliteDatabase, SqliteEffectsStore
from saga.adapters.sqlite.connection import connect


def basket(
    basket_id: str = "1",
    *lines: tuple[str, int, str],
    household_id: str = "7",
    store_id: str = "2",
    at: str = "2017-01-01T10:00:00Z",
) -> Basket:
    """A basket of (product, quantity, paid) lines."""
    written = {
        "basket_id": basket_id,
        "household_id": household_id,
        "store_id": store_id,
        "at": at,
        "lines": [
            {
                "product_id": product_id,
                "department": None,
                "quantity": quantity,
                "paid": paid,
                "discount": "0.00",
            }
            for product_id, quantity, paid in lines or [("11", 1, "1.00")]
        ],
    }
    return Basket.model_validate_json(json.dumps(written))


@asynccontextmanager
async def looking_at(store: SqliteEffectsStore):
    """The services' tables, in a transaction that keeps nothing."""
    unit = store.unit()
    try:
        yield unit.db
    finally:
        unit.drop()
        await unit.keep([])


class Services:
    """Asks services as their runtime does: a transaction each, which a refusal rolls back."""

    def __init__(self, store: SqliteEffectsStore) -> None:
        self.store = store

    async def open(self, *services: Effects) -> None:
        for service in services:
            for starter in service.starters:
                unit = self.store.unit()
                await starter.function(unit.db)
                await unit.keep([])

    async def ask(self, service: Effects, intent):
        """The reply to *intent*; raises Refused as the handler did."""
        unit = self.store.unit()
        ctx = EffectContext(
            intent_id="i", idempotency_key="k", saga_id="s", key="1", attempt=1, db=unit.db
        )
        try:
            reply = await service.intents[type(intent)].function(intent, ctx)
        except Refused:
            unit.drop()
            await unit.keep([])
            raise
        await unit.keep([])
        return reply

    async def fetch(self, sql: str, **params):
        async with looking_at(self.store) as db:
            return await db.fetch(sql, **params)

    async def execute(self, sql: str, **params) -> int:
        unit = self.store.unit()
        touched = await unit.db.execute(sql, **params)
        await unit.keep([])
        return touched


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    connection = connect(str(tmp_path / "effects.db"))
    store = SqliteEffectsStore(SqliteDatabase("effects", connection=connection))
    await store.open()
    yield Services(store)
    await store.close()
    connection.close()


@pytest.fixture
def stocked_from(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Stocks the services from the given baskets instead of the real ones."""

    def stock(*baskets: Basket) -> None:
        for team in ("warehouse", "payments", "delivery"):
            monkeypatch.setattr(f"domain.{team}.read_baskets", lambda: iter(baskets))

    return stock
