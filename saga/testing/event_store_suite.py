"""What every event store must do, one test a sentence of the port.

Subclass `EventStoreSuite` beside fixtures `store` and `catalogue` of one empty store that leaves
publishing to a relay.
"""

# ruff: noqa: PLR2004 - expected values are written as they are

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from saga.core.history import History
from saga.core.identity import Instant, TimerId
from saga.core.status import SagaStatus
from saga.errors import AlreadyRecorded, HistoryConflict, PausesChanged
from saga.ports.bus import Origin, Source
from saga.ports.store import (
    Batch,
    Catalogue,
    DefinitionPause,
    EventStore,
    Place,
    PutOffTimer,
    Rebase,
)
from saga.testing.samples import (
    MOMENT,
    append,
    batch,
    entries,
    history,
    next_run,
    record,
    saga,
    summary,
    timer,
    unhandled,
)

FAR = Instant(MOMENT + 10**12)
LEFT = Source("shop.evt", 0)
RIGHT = Source("shop.evt", 1)


def whole_batch(first: int, offset: int) -> Batch:
    """A batch of two new sagas with something of every kind."""
    sagas = [saga(first), saga(first + 1)]
    return batch(
        *map(history, sagas),
        positions={LEFT: offset, RIGHT: offset},
        timers_armed=[timer(each, "deadline", 10) for each in sagas],
        unhandled=[unhandled(offset)],
        outgoing=[record("shop.int")],
    )


async def recorded(store: EventStore, catalogue: Catalogue) -> dict[str, Any]:
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


OLD, NEW = Origin("t1", "c1"), Origin("t2", "c1")


class EventStoreSuite:
    async def test_a_history_reads_as_it_was_appended(self, store: EventStore) -> None:
        """Entries come back equal, in order of version, over several appends."""
        await append(store, history(saga(1)))
        await append(store, history(saga(1), 1, 2))

        loaded = await store.load([saga(1)])
        assert loaded == {saga(1): entries(saga(1), 0, 6)}
        read = loaded[saga(1)]
        assert isinstance(read, History)
        assert read.turns == 3

    async def test_what_is_behind_known_turns_is_told(self, store: EventStore) -> None:
        """Of a saga that has nothing more, or is not there, nothing; runs make no difference."""
        await append(store, history(saga(1), count=4), history(saga(2)), history(saga(3)))
        await append(store, next_run(saga(3), 1), runs={saga(3): 2})

        known = {saga(1): 2, saga(2): 1, saga(3): 1, saga(99): 0}
        tails = await store.tails(known)

        assert tails.keys() == {saga(1), saga(3)}
        assert tails[saga(1)] == entries(saga(1), 4, 4)
        assert tails[saga(3)] == next_run(saga(3), 1).entries
        for number, turns in ((1, 4), (3, 2)):
            tail = tails[saga(number)]
            assert isinstance(tail, History)
            assert tail.turns == turns
        assert await store.tails({}) == {}
        await append(store, history(saga(1), 4))
        assert await store.tails({saga(1): 4}) == {saga(1): entries(saga(1), 8)}

    async def test_a_history_begins_with_its_first_turn(self, store: EventStore) -> None:
        """However long it is; a saga that is not there is left out."""
        await append(store, history(saga(1), count=4))
        await append(store, history(saga(2)))

        found = await store.beginnings([saga(1), saga(2), saga(99)])

        assert {saga_id: list(turn) for saga_id, turn in found.items()} == {
            saga(number): entries(saga(number), 0) for number in (1, 2)
        }
        assert await store.beginnings([]) == {}

    async def test_definitions_that_are_paused_are_kept(self, store: EventStore) -> None:
        """A row of a definition takes the place of the one before it."""
        assert await store.pauses() == []
        first = DefinitionPause("order", 1, '{"said": "é \\u0000"}')
        other, second = DefinitionPause("leave", 1, "{}"), DefinitionPause("order", 2, "{}")
        await append(store, history(saga(1)), pauses=[first, other])
        assert sorted(await store.pauses(), key=lambda row: row.definition) == [other, first]

        await append(store, history(saga(1), 1), pauses=[second], pauses_seen=2)

        assert sorted(await store.pauses(), key=lambda row: row.definition) == [other, second]

    async def test_a_batch_that_was_decided_under_other_pauses_is_refused(
        self, store: EventStore, catalogue: Catalogue
    ) -> None:
        """Nothing of it is recorded; one that says of none is not asked."""
        await append(store, history(saga(1)), pauses_seen=0)
        await append(store, pauses=[DefinitionPause("order", 1, "{}")])
        before = await recorded(store, catalogue)

        with pytest.raises(PausesChanged):
            await store.append(replace(whole_batch(2, 7), pauses_seen=0), at=MOMENT)

        assert await recorded(store, catalogue) == before
        await append(store, history(saga(2)), pauses_seen=1)
        await append(store, history(saga(3)))

    async def test_of_a_saga_with_several_runs_the_last_one_is_loaded(
        self, store: EventStore, catalogue: Catalogue
    ) -> None:
        """From the turn on that begins it; whoever asks for the whole history has all of it."""
        second, third = next_run(saga(1), 2), next_run(saga(1), 4, run=3)
        await append(store, history(saga(1), count=2), history(saga(2)))
        await append(store, second, runs={saga(1): 3})
        await append(store, history(saga(1), 3), history(saga(2), 1))

        loaded = await store.load([saga(1), saga(2)])
        assert loaded[saga(1)] == [*second.entries, *entries(saga(1), 6)]
        assert loaded[saga(2)] == entries(saga(2), 0, 4)
        read = loaded[saga(1)]
        assert isinstance(read, History)
        assert (read.turns, read.version) == (4, 8)
        assert list((await store.beginnings([saga(1)]))[saga(1)]) == second.entries

        await append(store, third, runs={saga(1): 5})

        assert (await store.load([saga(1)]))[saga(1)] == third.entries
        whole = (await store.load([saga(1)], is_whole=True))[saga(1)]
        assert isinstance(whole, History)
        logged = [entry async for _, entry in catalogue.log() if entry.saga_id == saga(1)]
        assert whole == logged
        assert (whole.turns, whole.version, len(whole)) == (5, 10, 10)

    async def test_a_saga_in_a_later_run_takes_turns_and_conflicts(self, store: EventStore) -> None:
        """How many turns it has counts those of all its runs."""
        await append(store, history(saga(1), count=2))
        await append(store, next_run(saga(1), 2), runs={saga(1): 3})
        read = (await store.load([saga(1)]))[saga(1)]
        assert isinstance(read, History)
        await append(store, history(saga(1), read.turns))

        with pytest.raises(HistoryConflict):
            await append(store, next_run(saga(1), 2), runs={saga(1): 3})

        again = (await store.load([saga(1)]))[saga(1)]
        assert again == [*next_run(saga(1), 2).entries, *entries(saga(1), 6)]

    async def test_many_histories_load_at_once(self, store: EventStore) -> None:
        """One call reads any number of sagas; one without a history is left out."""
        await append(store, *(history(saga(number)) for number in range(600)))

        loaded = await store.load([saga(number) for number in range(700)])

        assert loaded == {saga(number): entries(saga(number), 0) for number in range(600)}
        assert await store.load([]) == {}

    async def test_one_append_records_something_of_every_kind(
        self, store: EventStore, catalogue: Catalogue
    ) -> None:
        """Entries, positions, timers, summaries, unhandled records and backlog together."""
        answer = await store.append(whole_batch(1, 7), at=MOMENT)

        found = await recorded(store, catalogue)
        assert found["positions"] == {LEFT: 7, RIGHT: 7}
        by_saga = {armed.saga_id: armed for armed in found["timers"]}
        assert by_saga == {saga(n): timer(saga(n), "deadline", 10) for n in (1, 2)}
        assert found["sagas"] == [summary(saga(1)), summary(saga(2))]
        assert [item.record_id > 0 for item in found["unhandled"]] == [True]
        (backlog,) = found["backlog"]
        assert backlog.backlog_id == answer.backlog_id
        assert list(backlog.entries) == [*entries(saga(1), 0), *entries(saga(2), 0)]

    @pytest.mark.parametrize("expected", [0, 2, 3, 7])
    async def test_a_history_that_is_elsewhere_is_a_conflict(
        self, store: EventStore, expected: int
    ) -> None:
        """Turns have no gaps: neither one that is taken nor one beyond the next is appended."""
        await append(store, history(saga(1)))

        with pytest.raises(HistoryConflict) as caught:
            await append(store, history(saga(1), expected))

        assert caught.value.saga_ids == (saga(1),)
        with pytest.raises(HistoryConflict):
            await append(store, history(saga(2), 1))

    async def test_a_conflict_names_exactly_the_histories_that_moved(
        self, store: EventStore
    ) -> None:
        """The others of the batch need not be loaded again."""
        await append(store, *(history(saga(number)) for number in range(6)))
        stale = [history(saga(number), 1 if number % 2 else 2) for number in range(6)]

        with pytest.raises(HistoryConflict) as caught:
            await append(store, *stale, history(saga(9)))

        assert set(caught.value.saga_ids) == {saga(0), saga(2), saga(4)}

    @pytest.mark.parametrize("error", [HistoryConflict, AlreadyRecorded])
    async def test_a_refused_batch_records_nothing(
        self, store: EventStore, catalogue: Catalogue, error: type[Exception]
    ) -> None:
        """One history that moved on, or one record that was handled, keeps back all that came."""
        await store.append(whole_batch(1, 7), at=MOMENT)
        before = await recorded(store, catalogue)
        refused = whole_batch(5, 8)
        if error is HistoryConflict:
            refused.histories.append(history(saga(1), 2))
        else:
            refused.positions = {LEFT: 8, RIGHT: 7}
        _take_away(refused, before)

        with pytest.raises(error) as caught:
            await store.append(refused, at=MOMENT)

        assert getattr(caught.value, "sources", ("shop.evt:1",)) == ("shop.evt:1",)
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
        races = [append(store, history(saga(1), cause=f"m-{number}")) for number in range(8)]

        answers = await asyncio.gather(*races, return_exceptions=True)

        assert sum(isinstance(answer, HistoryConflict) for answer in answers) == 7
        (read,) = (await store.load([saga(1)])).values()
        assert not isinstance(read, Exception)
        assert [entry.version for entry in read] == [1, 2]
        assert len({entry.cause for entry in read}) == 1

    async def test_positions_only_move_forward(self, store: EventStore) -> None:
        """An offset that was covered, or one before it, is refused; one of several is enough."""
        await append(store, positions={LEFT: 0})
        await append(store, positions={LEFT: 5, RIGHT: 2})

        for offset in (0, 4, 5):
            with pytest.raises(AlreadyRecorded) as caught:
                await append(store, positions={LEFT: offset, RIGHT: 3})
            assert caught.value.sources == ("shop.evt:0",)

        assert await store.positions([LEFT, RIGHT]) == {LEFT: 5, RIGHT: 2}

    async def test_offsets_may_have_gaps(self, store: EventStore) -> None:
        """Compacted topics and control records leave them."""
        for offset in (3, 4, 1_000_000_000_000):
            await append(store, positions={LEFT: offset})

        assert await store.positions([LEFT]) == {LEFT: 1_000_000_000_000}

    async def test_a_source_never_seen_has_no_position(self, store: EventStore) -> None:
        """Partitions of one topic, and topics with similar names, are told apart."""
        await append(store, positions={LEFT: 1})

        others = [RIGHT, Source("shop.evt:0", 0), Source("shop", 0)]
        assert await store.positions([LEFT, *others]) == {LEFT: 1}
        assert await store.positions([]) == {}

    async def test_a_position_belongs_to_a_topic(self, store: EventStore) -> None:
        """One that is adopted stays, and with it where it belongs; what is unknown is added."""
        await append(store, positions={LEFT: 5})
        assert await store.origins([LEFT, RIGHT]) == {}

        await store.adopt({LEFT: Place(2, Origin(None, "c1")), RIGHT: Place(7, OLD)})
        await store.adopt({LEFT: Place(9, NEW), RIGHT: Place(9, NEW)})

        assert await store.positions([LEFT, RIGHT]) == {LEFT: 5, RIGHT: 7}
        assert await store.origins([LEFT, RIGHT]) == {LEFT: NEW, RIGHT: OLD}
        await append(store, positions={RIGHT: 8})
        assert await store.origins([RIGHT]) == {RIGHT: OLD}
        await store.adopt({})

    async def test_a_place_of_which_nothing_was_read_belongs_to_whoever_comes(
        self, store: EventStore
    ) -> None:
        """There is nothing that could be skipped."""
        await store.adopt({LEFT: Place(-1, OLD)})
        await store.adopt({LEFT: Place(-1, NEW)})

        assert await store.origins([LEFT]) == {LEFT: NEW}
        await append(store, positions={LEFT: 0})
        assert await store.positions([LEFT]) == {LEFT: 0}

    async def test_an_operator_may_set_a_position_back_and_elsewhere(
        self, store: EventStore, catalogue: Catalogue
    ) -> None:
        """Only the sources named; it is recorded with its reason, in order of time."""
        await append(store, positions={LEFT: 5, RIGHT: 6})
        await store.adopt({LEFT: Place(5, OLD), RIGHT: Place(6, OLD)})
        reason = "failed over, \x10 'quoted' \\ %"

        await store.rebase({LEFT: Place(-1, NEW)}, reason=reason, at=MOMENT)
        await store.rebase({LEFT: Place(40, OLD)}, reason="back", at=Instant(MOMENT + 1))

        assert await store.positions([LEFT, RIGHT]) == {LEFT: 40, RIGHT: 6}
        assert await store.origins([LEFT, RIGHT]) == {LEFT: OLD, RIGHT: OLD}
        assert await catalogue.rebases() == [
            Rebase(at=MOMENT, reason=reason, before={LEFT: 5}, after={LEFT: -1}),
            Rebase(at=Instant(MOMENT + 1), reason="back", before={LEFT: -1}, after={LEFT: 40}),
        ]

    async def test_it_says_its_time_or_has_none_of_its_own(self, store: EventStore) -> None:
        """A clock of its own does not stand still, nor go back."""
        times = [await store.now() for _ in range(3)]
        if times[0] is not None:
            assert times == sorted(time for time in times if time is not None)
            assert times[0] > MOMENT
        else:
            assert times == [None] * 3

    async def test_no_timer_is_due_before_the_store_s_own_time(self, store: EventStore) -> None:
        """Whatever a worker takes for the present."""
        now = await store.now()
        if now is None:
            return
        near, far = now - MOMENT - 10**6, now - MOMENT + 10**9
        timers = [timer(saga(1), f"t{due_at}", due_at) for due_at in (near, far)]
        await append(store, history(saga(1)), timers_armed=timers)

        due = await store.due_timers(until=Instant(now + 10**12), limit=10)

        assert [each.due_at - MOMENT for each in due] == [near]

    async def test_due_timers_come_in_order_and_within_limits(self, store: EventStore) -> None:
        """The earliest first; due at the moment itself counts as due; no more than asked for."""
        timers = [timer(saga(1), f"t{due_at}", due_at) for due_at in (30, 10, 20, 40)]
        await append(store, history(saga(1)), timers_armed=timers)

        for until, limit, expected in ((9, 10, []), (20, 10, [10, 20]), (100, 3, [10, 20, 30])):
            found = await store.due_timers(until=Instant(MOMENT + until), limit=limit)
            assert [due.due_at - MOMENT for due in found] == expected

    async def test_a_cleared_timer_is_gone(self, store: EventStore) -> None:
        """Also one armed in the same batch; one that is not there is no error."""
        first, second = timer(saga(1), "a", 1), timer(saga(1), "b", 2)
        await append(store, history(saga(1)), timers_armed=[first])

        cleared = [first.timer_id, second.timer_id, TimerId("nobody's")]
        await append(store, timers_armed=[second], timers_cleared=cleared)

        assert await store.due_timers(until=FAR, limit=10) == []

    async def test_a_timer_that_is_put_off_is_due_later(self, store: EventStore) -> None:
        """One that the same batch arms or clears is armed or cleared."""
        found = [timer(saga(1), name, 10) for name in ("a", "b", "c")]
        await append(store, history(saga(1)), timers_armed=found)

        put_off = [PutOffTimer(each, Instant(MOMENT + 30)) for each in found]
        moved = timer(saga(1), "b", 20)
        cleared = [found[2].timer_id]
        await append(store, timers_put_off=put_off, timers_armed=[moved], timers_cleared=cleared)

        due = await store.due_timers(until=FAR, limit=10)
        assert due == [moved, timer(saga(1), "a", 30)]

    async def test_a_timer_that_was_moved_since_it_was_found_is_not_put_off(
        self, store: EventStore
    ) -> None:
        """Nor does one come back that is gone; one of a saga that is not there is no error."""
        found = [timer(saga(1), name, 10) for name in ("sooner", "later", "gone")]
        await append(store, history(saga(1)), timers_armed=found)
        moved = [timer(saga(1), "sooner", 5), timer(saga(1), "later", 99)]
        await append(store, timers_armed=moved, timers_cleared=[found[2].timer_id])

        nobodys = timer(saga(2), "a", 10)
        put_off = [PutOffTimer(each, Instant(MOMENT + 30)) for each in (*found, nobodys)]
        await append(store, timers_put_off=put_off)

        assert await store.due_timers(until=FAR, limit=10) == moved

    async def test_index_rows_are_written_whole(
        self, store: EventStore, catalogue: Catalogue
    ) -> None:
        """A later row of a saga takes the place of the one before."""
        await append(store, history(saga(1)))
        ended = summary(saga(1), status=SagaStatus.COMPLETED, version=4)
        ended = replace(ended, waiting_for=None)

        await append(store, history(saga(1), 1), summaries=[ended])

        assert await catalogue.sagas() == [ended]

    async def test_an_index_row_without_a_turn_never_takes_the_place_of_a_newer_one(
        self, store: EventStore, catalogue: Catalogue
    ) -> None:
        """Whoever cannot take a saga on may know less of it than the worker that has."""
        await append(store, history(saga(1)), history(saga(2)))
        stalled = [summary(saga(number), status=SagaStatus.STALLED, version=2) for number in (1, 2)]
        ended = replace(summary(saga(1), status=SagaStatus.COMPLETED, version=4), waiting_for=None)
        await append(store, history(saga(1), 1), summaries=[ended])

        await append(store, history(saga(3)), summaries=[*stalled, summary(saga(3))])

        assert await catalogue.sagas() == [ended, stalled[1], summary(saga(3))]

    async def test_nothing_to_publish_leaves_no_backlog(self, store: EventStore) -> None:
        """A batch without outgoing records has no place in the relay's backlog."""
        assert (await append(store, history(saga(1)))).backlog_id is None
        assert await store.backlog(limit=10) == []

    async def test_backlog_comes_oldest_first_and_within_limits(self, store: EventStore) -> None:
        """No more batches than asked for, and only those after the one asked for."""
        outgoing = [record("shop.int")]
        ids = [
            (
                await append(store, history(saga(n)), outgoing=outgoing, at=Instant(MOMENT + n))
            ).backlog_id
            for n in range(4)
        ]

        all_of_them = await store.backlog(limit=10)
        few = await store.backlog(limit=2)
        later = await store.backlog(limit=2, after=few[1].backlog_id)

        assert [each.backlog_id for each in all_of_them] == ids
        assert [each.backlog_id for each in later] == ids[2:]
        assert [each.appended_at for each in all_of_them] == [MOMENT + n for n in range(4)]
        assert [list(each.entries) for each in few] == [entries(saga(n), 0) for n in (0, 1)]

    async def test_of_the_backlog_some_sagas_can_be_asked_for(self, store: EventStore) -> None:
        """A batch that has nothing of them is there without entries: an id may be looked for."""
        outgoing = [record("shop.int")]
        for numbers in ((1, 2, 3), (4,), (5, 1)):
            histories = [history(saga(n), int(numbers == (5, 1) and n == 1)) for n in numbers]
            await append(store, *histories, outgoing=outgoing)

        found = await store.backlog(limit=10, saga_ids=[saga(1), saga(3), saga(99)])
        one = await store.backlog(limit=1, after=found[1].backlog_id, saga_ids=[saga(5)])
        bare = await store.backlog(limit=10, saga_ids=())

        said = [{entry.saga_id for entry in each.entries} for each in found]
        assert said == [{saga(1), saga(3)}, set(), {saga(1)}]
        assert list(found[2].entries) == entries(saga(1), 2)
        assert [list(each.entries) for each in one] == [entries(saga(5), 0)]
        assert [(each.backlog_id, each.appended_at, list(each.entries)) for each in bare] == [
            (each.backlog_id, each.appended_at, []) for each in found
        ]

    async def test_what_was_relayed_leaves_the_backlog(self, store: EventStore) -> None:
        """Saying so twice, or of no batch, is no error; ids are not given again."""
        first = (await store.append(whole_batch(1, 1), at=MOMENT)).backlog_id
        second = (await store.append(whole_batch(3, 2), at=MOMENT)).backlog_id

        for _ in range(2):
            await append(store, relayed=[first, second, 10**6])
        third = (await store.append(whole_batch(5, 3), at=MOMENT)).backlog_id

        assert [each.backlog_id for each in await store.backlog(limit=10)] == [third]
        assert third not in {first, second}

    async def test_a_large_batch_is_one_append(
        self, store: EventStore, catalogue: Catalogue
    ) -> None:
        """More rows than any adapter writes at once: still all of them, in order."""
        sagas = [saga(number) for number in range(700)]
        timers = [timer(each, "t", 5) for each in sagas]
        positions = {Source("shop.evt", number): number for number in range(300)}
        twice = [history(each, 0, 2) for each in sagas]
        await append(store, *twice, positions=positions, timers_armed=timers)
        again = [history(each, 2) for each in sagas]
        await append(store, *again, timers_cleared=[each.timer_id for each in timers])

        log = [(position, entry.saga_id) async for position, entry in catalogue.log()]
        four_each, two_each = ([each for each in sagas for _ in range(count)] for count in (4, 2))
        assert [each for _, each in log] == four_each + two_each
        places = [position for position, _ in log]
        assert places[::2] == places[1::2] == sorted(set(places))
        assert await store.due_timers(until=FAR, limit=10) == []
        assert len(await store.positions(list(positions))) == 300


def _take_away(batch: Batch, before: dict[str, Any]) -> None:
    """Have *batch* also remove everything that can be removed of what is there."""
    assert before["timers"]
    assert before["unhandled"]
    assert before["backlog"]
    batch.timers_cleared = [timer.timer_id for timer in before["timers"]]
    batch.handled = [record.record_id for record in before["unhandled"]]
    batch.relayed = [each.backlog_id for each in before["backlog"]]
    batch.summaries.append(summary(saga(1), status=SagaStatus.PARKED, version=9))
