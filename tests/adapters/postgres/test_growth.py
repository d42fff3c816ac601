"""What is asked of a large store reads no more rows than of a small one."""

import json

import pytest

from saga.adapters.postgres import PostgresCatalogue, PostgresDatabase, PostgresEventStore
from saga.core.identity import saga_id
from saga.core.status import SagaStatus
from saga.testing.samples import MOMENT, append, history, timer

SIZES = (30, 100, 300, 1_000, 5_000, 20_000)
MORE = 100
"""Rows that a query may read more of a larger store: plans differ."""
FILL = """
INSERT INTO saga_ids SELECT gen_random_uuid(),
    ('01890000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid
    FROM generate_series({first}, {last}) AS n;
INSERT INTO saga_index SELECT originator_id, saga_id, 'order', 1, 'key', '{status}', 1, 1,
    NULL, NULL, 1 FROM saga_ids
    WHERE originator_id NOT IN (SELECT originator_id FROM saga_index);
INSERT INTO stored_events (originator_id, originator_version, topic, state)
    SELECT originator_id, 1, 'none', '' FROM saga_ids
    WHERE originator_id NOT IN (SELECT originator_id FROM stored_events);
INSERT INTO timers SELECT originator_id, 'later', {due} + row_number() OVER () FROM saga_ids
    WHERE '{status}' = 'running' AND originator_id NOT IN (SELECT originator_id FROM timers);
INSERT INTO unhandled (kind, reason, message, topic, partition, "offset", headers,
    timestamp, kept_at, saga_id)
    SELECT CASE WHEN n % 2 = 0 THEN 'dead' ELSE 'deferred' END, 'early', '', 't', 0, n, '[]', 1, 1,
    CASE WHEN n % 2 = 0 THEN NULL ELSE gen_random_uuid() END
    FROM generate_series({first}, {last}) AS n;
ANALYZE
"""


@pytest.fixture
def read(database: PostgresDatabase, monkeypatch):
    """How many rows were read by each query, as the server tells."""
    rows: dict[str, int] = {}
    fetch = database.fetch

    async def explained(query, *values):
        if (
            isinstance(query, str)
            and query.startswith(("SELECT", "WITH"))
            and "pg_notify" not in query
        ):
            [[plan]] = await fetch(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}", *values)
            plan = json.loads(plan) if isinstance(plan, str | bytes) else plan
            rows[query] = rows.get(query, 0) + _scanned(plan[0]["Plan"])
        return await fetch(query, *values)

    monkeypatch.setattr(database, "fetch", explained)
    return rows


def _scanned(plan) -> int:
    """The rows that a plan looks at, taken or not."""
    looked_at = plan["Actual Rows"] + sum(
        rows for name, rows in plan.items() if name.startswith("Rows Removed")
    )
    own = looked_at * plan["Actual Loops"] if "Relation Name" in plan else 0
    return int(own) + sum(map(_scanned, plan.get("Plans", ())))


@pytest.mark.parametrize("status", ["completed", "running"])
async def test_a_large_store_is_read_as_a_small_one(
    store: PostgresEventStore,
    catalogue: PostgresCatalogue,
    run,
    read,
    status,
):
    """What workers ask again and again, what a saga asks, and pages that people look at."""
    found = []
    one = saga_id("growth", "one")
    due = timer(one, "later", 10**12)
    await append(store, history(one), timers_armed=[due])
    for before, size in zip((0, *SIZES), SIZES, strict=False):
        for statement in FILL.split(";"):
            run(statement.format(first=before + 1, last=size, status=status, due=due.due_at))
        read.clear()
        await store.due_timers(until=MOMENT, limit=500)
        await store.backlog(limit=100)
        await store.backlog(limit=100, saga_ids=[one])
        await store.tails({one: 0})
        await store.load([one])
        await store.beginnings([one])
        await catalogue.last_unhandled()
        await catalogue.awaited(limit=25)
        await catalogue.unhandled(saga_id=one, limit=20)
        await catalogue.unhandled(limit=20, values=False)
        await catalogue.summaries([one])
        for filters in ({}, {"status": SagaStatus.PARKED}, {"after": one}):
            await catalogue.sagas(limit=20, **filters)
        await catalogue.timers(limit=20)
        await catalogue.timers(after=due.timer_id, limit=20)
        found.append(dict(read))
    grown = {
        query: rows
        for query in found[0]
        if max(rows := [each[query] for each in found]) > rows[0] + MORE
    }
    assert grown == {}
