"""What every event store must do, one test a sentence of the port.

Subclass `EventStoreSuite` beside fixtures `store` and `catalogue` of one empty store that leaves
publishing to a relay. `whole_batch` and `recorded` together see everything that a batch can change:
after each kind of conflict the store must look exactly as before.
"""

# ruff: noqa: PLR2004 - expected values are written as they are

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from saga.core.identity import Instant, SagaId, TimerId
from saga.core.status import SagaStatus
from saga.errors import AlreadyRecorded, HistoryConflict
from saga.ports.bus import Source
from saga.ports.store import Batch, Catalogue, EventStore, History
from saga.testing import samples
from saga.testing.samples import MOMENT, saga

FAR = Instant(MOMENT + 10**12)
LEFT = Source("shop.evt", 0)
RIGHT = Source("shop.evt", 1)


def whole_batch(first: int, offset: int) -> Batch:
    """A batch of two new sagas with something of every kind."""
    sagas = [saga(first), saga(first + 1)]
    return samples.batch(
        *(samples.history(each) for each in sagas),
        positions={LEFT: offset, RIGHT: offset},
        timers_armed=[samples.timer(each, "deadline", 10) for each in sagas],
        summaries=[samples.summary(each) for each in sagas],
        unhandled=[samples.unhandled(offset)],
        outgoing=[samples.record("shop.int")],
    )


async def recorded(store: EventStore, catalogue: Catalogue) -> dict[str, object]:
    """Everything that can be read of a store."""
    log = [item async for item in catalogue.log()]
    ids = list(dict.fromkeys(entry.saga_id for _, entry in log))
    return {
        "log": log,
        "histories": await store.load(ids),
        "positions": await store.positions([LEFT, RIGHT]),
        "timers": await store.due_timers(until=FAR, limit=1000),
        "backlog": await store.backlog(limit=1000),
        "sagas": await catalogue.sagas(limit=1000),
        "unhandled": await catalogue.unhandled(limit=1000),
    }


class EventStoreSuite:
    """The contract of the port `EventStore`."""

    async def test_a_history_reads_as_it_was_appended(self, store: EventStore) -> None:
        """Entries come back equal, in order of version, over several appends."""
        await store.append(samples.batch(samples.history(saga(1))), at=MOMENT)
        await store.append(samples.batch(samples.history(saga(1), 1, 2)), at=MOMENT)

        loaded = await store.load([saga(1)])
        assert loaded == {saga(1): samples.entries(saga(1), 0, 6)}
        (history,) = loaded.values()
        assert isinstance(history, History)
        assert history.turns == 3

    async def test_many_histories_load_at_once(self, store: EventStore) -> None:
        """One call reads any number of sagas; one without a history is left out."""
        batch = samples.batch(*(samples.history(saga(number)) for number in range(600)))
        await store.append(batch, at=MOMENT)

        loaded = await store.load([saga(number) for number in range(700)])

        assert loaded == {saga(n): samples.entries(saga(n), 0) for n in range(600)}
        assert await store.load([]) == {}

    async def test_one_append_records_something_of_every_kind(
        self, store: EventStore, catalogue: Catalogue
    ) -> None:
        """Entries, positions, timers, summaries, unhandled records and backlog together."""
        answer = await store.append(whole_batch(1, 7), at=MOMENT)

        found = await recorded(store, catalogue)
        assert found["positions"] == {LEFT: 7, RIGHT: 7}
        timers = await store.due_timers(until=FAR, limit=9)
        assert {timer.saga_id: timer for timer in timers} == {
            saga(number): samples.timer(saga(number), "deadline", 10) for number in (1, 2)
        }
        assert found["sagas"] == [samples.summary(saga(1)), samples.summary(saga(2))]
        assert [item.record_id > 0 for item in await catalogue.unhandled()] == [True]
        (backlog,) = await store.backlog(limit=9)
        assert backlog.backlog_id == answer.backlog_id
        assert list(backlog.entries) == [
            *samples.entries(saga(1), 0),
            *samples.entries(saga(2), 0),
        ]

    @pytest.mark.parametrize("expected", [0, 2, 3, 7])
    async def test_a_history_that_is_elsewhere_is_a_conflict(
        self, store: EventStore, expected: int
    ) -> None:
        """Turns have no gaps: neither one that is taken nor one beyond the next is appended."""
        await store.append(samples.batch(samples.history(saga(1))), at=MOMENT)

        with pytest.raises(HistoryConflict) as caught:
            await store.append(samples.batch(samples.history(saga(1), expected)), at=MOMENT)

        assert caught.value.saga_ids == (saga(1),)
        with pytest.raises(HistoryConflict):
            await store.append(samples.batch(samples.history(saga(2), 1)), at=MOMENT)

    async def test_a_conflict_names_exactly_the_histories_that_moved(
        self, store: EventStore
    ) -> None:
        """The others of the batch need not be loaded again."""
        await store.append(
            samples.batch(*(samples.history(saga(number)) for number in range(6))), at=MOMENT
        )
        stale = [samples.history(saga(n), 1 if n % 2 else 2) for n in range(6)]

        with pytest.raises(HistoryConflict) as caught:
            await store.append(samples.batch(*stale, samples.history(saga(9))), at=MOMENT)

        assert set(caught.value.saga_ids) == {saga(0), saga(2), saga(4)}

    async def test_a_conflict_records_nothing_of_the_batch(
        self, store: EventStore, catalogue: Catalogue
    ) -> None:
        """One history that moved on keeps back everything that came with it."""
        await store.append(whole_batch(1, 7), at=MOMENT)
        before = await recorded(store, catalogue)
        batch = whole_batch(5, 8)
        batch.histories.append(samples.history(saga(1), 2))
        _take_away(batch, before)

        with pytest.raises(HistoryConflict):
            await store.append(batch, at=MOMENT)

        assert await recorded(store, catalogue) == before

    async def test_a_covered_position_records_nothing_of_the_batch(
        self, store: EventStore, catalogue: Catalogue
    ) -> None:
        """A zombie that handles a record again fails, whatever else its batch holds."""
        await store.append(whole_batch(1, 7), at=MOMENT)
        before = await recorded(store, catalogue)
        batch = whole_batch(5, 7)
        batch.positions = {LEFT: 8, RIGHT: 7}
        _take_away(batch, before)

        with pytest.raises(AlreadyRecorded) as caught:
            await store.append(batch, at=MOMENT)

        assert caught.value.sources == ("shop.evt:1",)
        assert await recorded(store, catalogue) == before

    async def test_after_a_refused_batch_the_store_goes_on(
        self, store: EventStore, catalogue: Catalogue
    ) -> None:
        """What was refused can be appended once it is right, as if nothing had been."""
        await store.append(whole_batch(1, 7), at=MOMENT)
        with pytest.raises(AlreadyRecorded):
            await store.append(whole_batch(3, 7), at=MOMENT)

        await store.append(whole_batch(3, 8), at=MOMENT)

        assert await store.positions([LEFT]) == {LEFT: 8}
        assert [each.saga_id for each in await catalogue.sagas()] == [saga(n) for n in (1, 2, 3, 4)]

    async def test_of_writers_that_race_one_wins(self, store: EventStore) -> None:
        """Appends under the same expected version, at the same time: one is recorded, whole."""
        races = [
            store.append(samples.batch(samples.history(saga(1), cause=f"m-{number}")), at=MOMENT)
            for number in range(8)
        ]

        answers = await asyncio.gather(*races, return_exceptions=True)

        assert sum(isinstance(answer, HistoryConflict) for answer in answers) == 7
        (history,) = (await store.load([saga(1)])).values()
        assert not isinstance(history, Exception)
        assert [entry.version for entry in history] == [1, 2]
        assert len({entry.cause for entry in history}) == 1

    async def test_positions_only_move_forward(self, store: EventStore) -> None:
        """An offset that was covered, or one before it, is refused; one of several is enough."""
        await store.append(Batch(positions={LEFT: 0}), at=MOMENT)
        await store.append(Batch(positions={LEFT: 5, RIGHT: 2}), at=MOMENT)

        for offset in (0, 4, 5):
            with pytest.raises(AlreadyRecorded) as caught:
                await store.append(Batch(positions={LEFT: offset, RIGHT: 3}), at=MOMENT)
            assert caught.value.sources == ("shop.evt:0",)

        assert await store.positions([LEFT, RIGHT]) == {LEFT: 5, RIGHT: 2}

    async def test_offsets_may_have_gaps(self, store: EventStore) -> None:
        """Compacted topics and control records leave them."""
        for offset in (3, 4, 1_000_000_000_000):
            await store.append(Batch(positions={LEFT: offset}), at=MOMENT)

        assert await store.positions([LEFT]) == {LEFT: 1_000_000_000_000}

    async def test_a_source_never_seen_has_no_position(self, store: EventStore) -> None:
        """Partitions of one topic, and topics with similar names, are told apart."""
        await store.append(Batch(positions={LEFT: 1}), at=MOMENT)

        others = [RIGHT, Source("shop.evt:0", 0), Source("shop", 0)]
        assert await store.positions([LEFT, *others]) == {LEFT: 1}
        assert await store.positions([]) == {}

    async def test_due_timers_come_in_order_and_within_limits(self, store: EventStore) -> None:
        """The earliest first; due at the moment itself counts as due; no more than asked for."""
        timers = [samples.timer(saga(1), f"t{due_at}", due_at) for due_at in (30, 10, 20, 40)]
        await store.append(samples.batch(samples.history(saga(1)), timers_armed=timers), at=MOMENT)

        async def due(until: int, limit: int) -> list[int]:
            found = await store.due_timers(until=Instant(MOMENT + until), limit=limit)
            return [timer.due_at - MOMENT for timer in found]

        assert await due(9, 10) == []
        assert await due(20, 10) == [10, 20]
        assert await due(100, 3) == [10, 20, 30]

    async def test_a_cleared_timer_is_gone(self, store: EventStore) -> None:
        """Also one armed in the same batch; one that is not there is no error."""
        first, second = samples.timer(saga(1), "a", 1), samples.timer(saga(1), "b", 2)
        await store.append(samples.batch(samples.history(saga(1)), timers_armed=[first]), at=MOMENT)

        await store.append(
            Batch(
                timers_armed=[second],
                timers_cleared=[first.timer_id, second.timer_id, TimerId("nobody's")],
            ),
            at=MOMENT,
        )

        assert await store.due_timers(until=FAR, limit=10) == []

    async def test_index_rows_are_written_whole(
        self, store: EventStore, catalogue: Catalogue
    ) -> None:
        """A later row of a saga takes the place of the one before."""
        await store.append(
            samples.batch(samples.history(saga(1)), summaries=[samples.summary(saga(1))]),
            at=MOMENT,
        )
        ended = replace(
            samples.summary(saga(1), status=SagaStatus.COMPLETED, version=4), waiting_for=None
        )

        await store.append(samples.batch(samples.history(saga(1), 1), summaries=[ended]), at=MOMENT)

        assert await catalogue.sagas() == [ended]

    async def test_nothing_to_publish_leaves_no_backlog(self, store: EventStore) -> None:
        """A batch without outgoing records has no place in the relay's backlog."""
        answer = await store.append(samples.batch(samples.history(saga(1))), at=MOMENT)

        assert answer.backlog_id is None
        assert await store.backlog(limit=10) == []

    async def test_backlog_comes_oldest_first_and_within_limits(self, store: EventStore) -> None:
        """No more batches than asked for, and only those after the one asked for."""
        ids = []
        for number in range(4):
            batch = samples.batch(
                samples.history(saga(number)), outgoing=[samples.record("shop.int")]
            )
            ids.append((await store.append(batch, at=Instant(MOMENT + number))).backlog_id)

        all_of_them = await store.backlog(limit=10)
        few = await store.backlog(limit=2)
        later = await store.backlog(limit=2, after=few[1].backlog_id)

        assert [each.backlog_id for each in all_of_them] == ids
        assert [each.backlog_id for each in later] == ids[2:]
        assert [each.appended_at for each in all_of_them] == [MOMENT + n for n in range(4)]
        assert [list(each.entries) for each in few] == [
            samples.entries(saga(number), 0) for number in (0, 1)
        ]

    async def test_what_was_relayed_leaves_the_backlog(self, store: EventStore) -> None:
        """Saying so twice, or of no batch, is no error; ids are not given again."""
        first = await store.append(whole_batch(1, 1), at=MOMENT)
        second = await store.append(whole_batch(3, 2), at=MOMENT)
        assert first.backlog_id is not None
        assert second.backlog_id is not None

        for _ in range(2):
            await store.append(
                Batch(relayed=[first.backlog_id, second.backlog_id, 10**6]), at=MOMENT
            )
        third = await store.append(whole_batch(5, 3), at=MOMENT)

        left = await store.backlog(limit=10)
        assert [each.backlog_id for each in left] == [third.backlog_id]
        assert third.backlog_id not in {first.backlog_id, second.backlog_id}

    async def test_a_large_batch_is_one_append(
        self, store: EventStore, catalogue: Catalogue
    ) -> None:
        """More rows than any adapter writes at once: still all of them, in order."""
        sagas: list[SagaId] = [saga(number) for number in range(700)]
        batch = samples.batch(
            *(samples.history(each, 0, 2) for each in sagas),
            positions={Source("shop.evt", number): number for number in range(300)},
            timers_armed=[samples.timer(each, "t", 5) for each in sagas],
            summaries=[samples.summary(each) for each in sagas],
        )
        await store.append(batch, at=MOMENT)
        again = samples.batch(*(samples.history(each, 2) for each in sagas))
        again.timers_cleared = [timer.timer_id for timer in batch.timers_armed]
        await store.append(again, at=MOMENT)

        log = [(position, entry.saga_id) async for position, entry in catalogue.log()]
        assert [each for _, each in log] == [
            *(each for each in sagas for _ in range(4)),
            *(each for each in sagas for _ in range(2)),
        ]
        places = [position for position, _ in log]
        assert places[::2] == places[1::2] == sorted(set(places))
        assert await store.due_timers(until=FAR, limit=10) == []
        assert len(await store.positions(list(batch.positions))) == 300


def _take_away(batch: Batch, before: dict[str, object]) -> None:
    """Have *batch* also remove everything that can be removed of what is there."""
    timers, unhandled, backlog = before["timers"], before["unhandled"], before["backlog"]
    assert isinstance(timers, list)
    assert isinstance(unhandled, list)
    assert isinstance(backlog, list)
    assert timers
    assert unhandled
    assert backlog
    batch.timers_cleared = [timer.timer_id for timer in timers]
    batch.handled = [record.record_id for record in unhandled]
    batch.relayed = [each.backlog_id for each in backlog]
    batch.summaries.append(samples.summary(saga(1), status=SagaStatus.PARKED, version=9))
