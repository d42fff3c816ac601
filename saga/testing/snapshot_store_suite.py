"""What every store of snapshots must do, one test a sentence of the port.

Subclass `SnapshotStoreSuite` beside a fixture `store` of one empty store, which is an event store.
"""

# ruff: noqa: PLR2004 - expected values are written as they are

from __future__ import annotations

from dataclasses import replace

import pytest

from saga.core.history import History
from saga.core.identity import SagaId
from saga.core.status import ENDED, SagaStatus
from saga.ports.store import Snapshot, SnapshotAndTail, SnapshotsOf, Store
from saga.testing.samples import append, entries, history, next_run, saga, summary


def snapshot(saga_id: SagaId, turns: int, *, state: bytes = b'{"n":1}') -> Snapshot:
    """A snapshot of a saga of `samples`, whose turns have two entries each."""
    return Snapshot(
        saga_id=saga_id,
        definition="order",
        definition_version=1,
        code="c0de",
        turns=turns,
        version=2 * turns,
        state=state,
    )


class SnapshotStoreSuite:
    async def test_a_saga_is_resumed_from_its_snapshot(self, store: Store) -> None:
        """With the turns behind it, if there are any; others as they are loaded."""
        await append(store, history(saga(1), count=4), history(saga(2)), history(saga(3), count=2))
        kept = [snapshot(saga(1), 3), snapshot(saga(3), 2)]

        await store.keep_snapshots(kept)
        found = await store.load_from_snapshots([saga(1), saga(2), saga(3), saga(99)])

        assert found.keys() == {saga(1), saga(2), saga(3)}
        first, third = found[saga(1)], found[saga(3)]
        assert isinstance(first, SnapshotAndTail)
        assert isinstance(third, SnapshotAndTail)
        assert [first.snapshot, third.snapshot] == kept
        assert first.tail == entries(saga(1), 6, 2)
        assert first.tail.turns == 4
        assert (first.tail.recorded[0].version, list(third.tail)) == (7, [])
        assert third.tail.turns == 2
        assert found[saga(2)] == entries(saga(2), 0, 2)
        assert await store.load_from_snapshots([]) == {}

    async def test_a_snapshot_takes_the_place_of_the_one_before(self, store: Store) -> None:
        """It grows with its saga, and turns that come are behind it."""
        await append(store, history(saga(1), count=2))
        await store.keep_snapshots([snapshot(saga(1), 1)])
        await store.keep_snapshots([snapshot(saga(1), 2, state=bytes(range(256)) * 4_000)])
        await append(store, history(saga(1), 2))

        [found] = (await store.load_from_snapshots([saga(1)])).values()

        assert isinstance(found, SnapshotAndTail)
        assert found.snapshot.state == bytes(range(256)) * 4_000
        assert found.tail == entries(saga(1), 4, 2)
        assert await store.snapshots([saga(1), saga(2)]) == {saga(1): found.snapshot}

    async def test_no_snapshot_of_a_turn_that_is_not_stored_is_kept(self, store: Store) -> None:
        """Nor of a saga that is not there."""
        await append(store, history(saga(1)))

        await store.keep_snapshots([snapshot(saga(1), 2), snapshot(saga(2), 1)])

        assert await store.snapshots([saga(1), saga(2)]) == {}
        assert await store.load_from_snapshots([saga(1)]) == {saga(1): entries(saga(1), 0, 2)}

    @pytest.mark.parametrize("status", sorted(ENDED))
    async def test_no_snapshot_of_an_ended_saga_is_kept(
        self, store: Store, status: SagaStatus
    ) -> None:
        """It may be late: the saga went on in another process."""
        await append(store, history(saga(1)), summaries=[summary(saga(1), status=status)])

        await store.keep_snapshots([snapshot(saga(1), 1)])

        assert await store.snapshots([saga(1)]) == {}

    async def test_a_batch_takes_snapshots_away_that_are_over(self, store: Store) -> None:
        """In its transaction; of a saga without one, nothing."""
        await append(store, history(saga(1)), history(saga(2)), history(saga(3)))
        await store.keep_snapshots([snapshot(saga(1), 1), snapshot(saga(2), 1)])

        await append(store, history(saga(1), 1), snapshots_over=[saga(1), saga(3)])

        assert (await store.snapshots([saga(1), saga(2)])).keys() == {saga(2)}
        await store.drop_snapshots([saga(2), saga(99)])
        assert await store.snapshots([saga(1), saga(2)]) == {}
        assert await store.load_from_snapshots([saga(2)]) == {saga(2): entries(saga(2), 0, 2)}

    async def test_snapshots_are_counted_by_whose_they_are(self, store: Store) -> None:
        """By definition, version and code, without their sagas being named."""
        await append(store, *(history(saga(number)) for number in range(1, 5)))
        assert await store.count_snapshots() == {}
        first, second, third = (snapshot(saga(number), 1) for number in (1, 2, 3))

        await store.keep_snapshots(
            [
                first,
                second,
                replace(third, code="other"),
                replace(snapshot(saga(4), 1), definition_version=2),
            ]
        )

        assert await store.count_snapshots() == {
            SnapshotsOf("order", 1, "c0de"): 2,
            SnapshotsOf("order", 1, "other"): 1,
            SnapshotsOf("order", 2, "c0de"): 1,
        }

    async def test_a_snapshot_of_an_earlier_run_is_none(self, store: Store) -> None:
        """What is loaded begins with the last run; a snapshot of that one counts."""
        await append(store, history(saga(1), count=2))
        await store.keep_snapshots([snapshot(saga(1), 2)])
        run = next_run(saga(1), 2)
        await append(store, run, runs={saga(1): 3})

        assert await store.load_from_snapshots([saga(1)]) == {saga(1): run.entries}
        last = replace(snapshot(saga(1), 3), version=run.entries[-1].version)
        await store.keep_snapshots([last])
        [found] = (await store.load_from_snapshots([saga(1)])).values()
        assert found == SnapshotAndTail(last, History(turns=3))

    async def test_a_snapshot_that_says_another_version_than_its_turn_is_none(
        self, store: Store
    ) -> None:
        """Whatever else it says."""
        await append(store, history(saga(1), count=2))
        await store.keep_snapshots([replace(snapshot(saga(1), 1), version=3)])

        assert await store.load_from_snapshots([saga(1)]) == {saga(1): entries(saga(1), 0, 4)}

    async def test_many_sagas_are_resumed_at_once(self, store: Store) -> None:
        """More than are read on the loop."""
        sagas = [saga(number) for number in range(100)]
        await append(store, *[history(each, count=2) for each in sagas])
        await store.keep_snapshots([snapshot(each, 1) for each in sagas[::2]])

        found = await store.load_from_snapshots(sagas)

        resumed = [isinstance(found[each], SnapshotAndTail) for each in sagas]
        assert resumed == [True, False] * 50
