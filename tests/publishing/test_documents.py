"""What `docs/how-to/publish-events.md` prints works as it is printed."""

import asyncio
import re
import textwrap
from pathlib import Path

import psycopg

from saga import Event, Outbox, Publisher
from saga.adapters.postgres.outbox import OUTBOX_TABLE
from saga.publishing import OutboxRelay
from tests.publishing.reading import header, records_on

PAGE = (Path(__file__).parents[2] / "docs/how-to/publish-events.md").read_text()


class OrderPlaced(Event, topic="documented.order-placed", version=1, key="order_id"):
    order_id: str


def block(containing: str) -> str:
    """The page's only Python block that contains a text."""
    found = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    [one] = [text for text in found if containing in text]
    return one


async def test_publishing_works_as_printed(tmp_path, monkeypatch, postgres):
    monkeypatch.setenv("SAGA_BUS", f"local:///{tmp_path}/bus.db")
    with psycopg.connect(postgres) as connection:
        connection.execute(OUTBOX_TABLE)
        connection.execute("CREATE TABLE orders (id text)")
    names = {
        "OrderPlaced": OrderPlaced,
        "Outbox": Outbox,
        "Publisher": Publisher,
        "address": postgres,
        "psycopg": psycopg,
    }
    text = block("with Publisher(")
    exec("async def publish():\n" + textwrap.indent(text, "    "), names)
    await names["publish"]()
    await asyncio.to_thread(exec, block("Outbox("), names)
    await OutboxRelay(outbox=postgres).run(until_empty=True)

    records = await records_on("dev.saga.documented.evt.order-placed.v1", 2)
    assert sorted(record.key for record in records) == [b"o-3", b"o-4"]
    assert {header(record, "ce_source") for record in records} == {"/checkout"}
