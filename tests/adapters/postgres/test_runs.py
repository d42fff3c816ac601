"""A saga with many runs is read from its last run on, by the index of turns."""

from saga.adapters.postgres import PostgresEventStore
from saga.adapters.postgres.store import _LAST_RUNS
from saga.core.history import History
from saga.testing.samples import append, history, next_run, saga


async def test_earlier_turns_are_not_read_however_many_there_are(
    store: PostgresEventStore, run
) -> None:
    await append(store, history(saga(1), count=3_000))
    await append(store, next_run(saga(1), 3_000), runs={saga(1): 3_001})
    run("ANALYZE stored_events, saga_ids, saga_runs")

    asked = _LAST_RUNS.replace("%s::uuid[]", f"ARRAY['{saga(1)}']::uuid[]")
    plan = "\n".join(row[0] for row in run(f"EXPLAIN (ANALYZE, TIMING OFF) {asked}"))
    assert "originator_version >= " in plan.partition("Index Cond")[2], plan
    assert "rows=3001" not in plan.replace("actual rows", "rows"), plan

    read = (await store.load([saga(1)]))[saga(1)]
    assert isinstance(read, History)
    assert (read.turns, read.version, len(read)) == (3_001, 6_002, 2)
