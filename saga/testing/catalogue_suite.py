"""What every catalogue must do, one test a sentence of the port.

Subclass `CatalogueSuite` beside fixtures `store` and `catalogue` of one empty store.
"""

# ruff: noqa: PLR2004 - expected values are written as they are

from __future__ import annotations

from dataclasses import replace
from typing import Any

from saga.core.events import Json
from saga.core.identity import Instant, TimerId
from saga.core.status import SagaStatus
from saga.ports.store import (
    KEY_BYTES_LISTED,
    Awaited,
    Catalogue,
    DeferralReason,
    DueTimer,
    EventStore,
    SagaSummary,
    Skip,
    SkipReason,
    UnhandledKind,
)
from saga.testing.samples import (
    MOMENT,
    append,
    entries,
    history,
    saga,
    said,
    summary,
    timer,
    unhandled,
)

STATUSES = (SagaStatus.RUNNING, SagaStatus.COMPLETED, SagaStatus.PARKED)


class CatalogueSuite:
    async def test_sagas_come_in_order_of_start_page_by_page(
        self, store: EventStore, catalogue: Catalogue
    ) -> None:
        """A page begins after the saga named; later changes of a saga do not move it."""
        await _start(store, 7)
        later = replace(_summary(2), status=SagaStatus.ROLLING_BACK, version=9)
        await append(store, history(saga(2), 1), summaries=[later])

        pages = [await catalogue.sagas(limit=3)]
        while pages[-1]:
            pages.append(await catalogue.sagas(after=pages[-1][-1].saga_id, limit=3))

        assert [len(page) for page in pages] == [3, 3, 1, 0]
        assert [each.saga_id for page in pages for each in page] == [saga(n) for n in range(7)]

    async def test_sagas_are_found_by_status_and_definition(
        self, store: EventStore, catalogue: Catalogue
    ) -> None:
        """Each filter alone and both together, with paging."""
        await _start(store, 9)
        queries: list[tuple[dict[str, Any], list[int]]] = [
            ({"status": SagaStatus.RUNNING}, [0, 3, 6]),
            ({"status": SagaStatus.COMPLETED}, [1, 4, 7]),
            ({"status": SagaStatus.PARKED, "after": saga(2)}, [5, 8]),
            ({"status": SagaStatus.ABANDONED}, []),
            ({"definition": "return"}, [1, 3, 5, 7]),
            ({"definition": "return", "status": SagaStatus.RUNNING}, [3]),
            ({"status": SagaStatus.COMPLETED, "limit": 2}, [1, 4]),
            ({"key": f"key of {saga(4)}"}, [4]),
            ({"key": "key of nobody"}, []),
            ({"since": Instant(MOMENT + 6)}, [6, 7, 8]),
            ({"since": Instant(MOMENT + 6), "definition": "return"}, [7]),
            ({"reason": "é'%_\x00 3"}, [3]),
            ({"reason": "because"}, [3, 7]),
            ({"reason": "Because"}, []),
        ]

        for query, expected in queries:
            found = await catalogue.sagas(**query)
            assert [each.saga_id for each in found] == [saga(n) for n in expected], query

    async def test_sagas_are_counted(self, store: EventStore, catalogue: Catalogue) -> None:
        """All, or those of a status, a definition, a time, and all three together."""
        await _start(store, 9)
        since = Instant(MOMENT + 6)

        assert await catalogue.count() == 9
        assert await catalogue.count(status=SagaStatus.RUNNING) == 3
        assert await catalogue.count(status=SagaStatus.COMPLETED) == 3
        assert await catalogue.count(definition="return") == 4
        assert await catalogue.count(definition="nothing") == 0
        assert await catalogue.count(since=since) == 3
        completed = SagaStatus.COMPLETED
        assert await catalogue.count(status=completed, definition="return", since=since) == 1

    async def test_sagas_that_their_definition_pauses_are_found(
        self, store: EventStore, catalogue: Catalogue
    ) -> None:
        """In order of start, page by page, as long as the row says so."""
        await _start(store, 9)
        paused = {1: "definition", 2: "definition", 3: "both", 5: "saga", 7: "definition"}
        for number, by in paused.items():
            row = replace(_summary(number), paused=by)
            await append(store, history(saga(number), 1), summaries=[row])

        first = await catalogue.paused("return", limit=2)
        rest = await catalogue.paused("return", after=first[-1].saga_id, limit=2)

        assert [each.saga_id for each in (*first, *rest)] == [saga(1), saga(3), saga(7)]
        assert first[-1].paused == "both"
        assert await catalogue.paused("none") == []
        await append(store, history(saga(1), 2), summaries=[_summary(1)])
        assert [each.saga_id for each in await catalogue.paused("return")] == [saga(3), saga(7)]

    async def test_sagas_are_found_by_what_they_show(
        self, store: EventStore, catalogue: Catalogue
    ) -> None:
        """By texts, numbers and booleans, each by its kind; pages go on behind any of them."""
        said = [
            *('{"step":"paid"}', '{"step":3}', '{"step":"3"}', '{"step":true}', '{"step":"true"}'),
            *('{"step":3.5}', '{"step":null}', '{"step":["paid"]}', '{"n":3,"step":"paid"}'),
            *("{}", '{"ü":"\'%é\\"{"}', '{"n":9000000000000000000}', '{"n":0}', '{"n":false}'),
        ]
        for number, text in enumerate(said):
            row = replace(_summary(number), shown=Json(text))
            await append(store, history(saga(number)), summaries=[row])
        await append(store, history(saga(99)), summaries=[_summary(99)])
        queries: list[tuple[dict[str, list[str]], list[int]]] = [
            ({"step": ['"paid"']}, [0, 8]),
            ({"step": ['"3"', "3"]}, [1, 2]),
            ({"step": ["3.0"]}, [1]),
            ({"step": ["3.5"]}, [5]),
            ({"step": ['"true"', "true"]}, [3, 4]),
            ({"step": ["false"]}, []),
            ({"n": ["3"], "step": ['"paid"']}, [8]),
            ({"n": ["3"], "step": ['"shipped"']}, []),
            ({"ü": ['"\'%é\\"{"']}, [10]),
            ({"n": ["9000000000000000000"]}, [11]),
            ({"n": ["1e300"]}, []),
            ({"n": ["18446744073709551615"]}, []),
            ({"n": ["0"]}, [12]),
            ({"n": ["false"]}, [13]),
            ({"$.step": ['"paid"']}, []),
        ]

        for query, expected in queries:
            found = await catalogue.sagas(shown=query)  # type: ignore[arg-type]  # it is JSON
            assert [each.saga_id for each in found] == [saga(n) for n in expected], query
        behind = await catalogue.sagas(shown={"step": [Json('"paid"')]}, after=saga(0), limit=5)
        assert [each.saga_id for each in behind] == [saga(8)]
        assert [each.shown for each in await catalogue.sagas()] == [*said, None]

    async def test_what_a_saga_shows_stays_until_it_shows_something_else(
        self, store: EventStore, catalogue: Catalogue
    ) -> None:
        """A row without it leaves what is there, as one of a saga that cannot be read does."""
        first = replace(_summary(0), shown=Json('{"a":1}'))
        await append(store, history(saga(0)), history(saga(1)), summaries=[first, _summary(1)])
        later = [replace(_summary(0), version=9), replace(_summary(1), shown=Json('{"b":2}'))]
        await append(store, history(saga(0), 1), summaries=later[:1])
        await append(store, history(saga(1), 1), summaries=later)

        rows = await catalogue.summaries([saga(0), saga(1)])

        assert [each.shown for each in rows] == ['{"a":1}', '{"b":2}']
        await append(store, summaries=[replace(later[0], shown=Json("{}"))])
        assert [each.shown for each in await catalogue.summaries([saga(0)])] == ["{}"]

    async def test_summaries_are_found_by_id(self, store: EventStore, catalogue: Catalogue) -> None:
        """Rows are whole, and a saga that does not exist is left out."""
        await _start(store, 3)

        found = await catalogue.summaries([saga(2), saga(99), saga(0)])

        assert {each.saga_id: each for each in found} == {saga(n): _summary(n) for n in (0, 2)}

    async def test_unhandled_records_keep_order_and_every_byte(
        self, store: EventStore, catalogue: Catalogue
    ) -> None:
        """Null values, repeated names and bytes that are no text come back as they were."""
        for offset in (0, 2, 4):
            await append(store, unhandled=[unhandled(offset), unhandled(offset + 1)])

        found = await catalogue.unhandled()

        kept = [unhandled(offset) for offset in range(6)]
        assert [replace(each, record_id=0) for each in found] == kept
        ids = [each.record_id for each in found]
        assert ids == sorted(set(ids))
        page = await catalogue.unhandled(after=ids[1], limit=3)
        assert [each.record_id for each in page] == ids[2:5]

    async def test_a_record_that_saga_wrote_is_kept_with_the_bytes_of_its_headers(
        self, store: EventStore, catalogue: Catalogue
    ) -> None:
        await append(store, unhandled=[replace(unhandled(0), headers=said())])

        (kept,) = await catalogue.unhandled()
        assert tuple(kept.headers) == tuple(said())

    async def test_unhandled_records_are_listed_without_their_values(
        self, store: EventStore, catalogue: Catalogue
    ) -> None:
        """A page of a megabyte each is more than a lister may take; so may a key be one."""
        large = replace(unhandled(0), value=b"v" * 900_000, key=b"k" * 900_000)
        await append(store, unhandled=[large, replace(unhandled(1), key=None)])

        first, second = await catalogue.unhandled(values=False)

        whole = await catalogue.unhandled()
        assert first == replace(whole[0], value=None, key=b"k" * KEY_BYTES_LISTED)
        assert second == replace(whole[1], value=None)
        assert whole[0].value == large.value

    async def test_unhandled_records_are_found_by_kind_and_saga(
        self, store: EventStore, catalogue: Catalogue
    ) -> None:
        """What waits for a saga is found in order, whatever else is there."""
        deferred = UnhandledKind.DEFERRED
        records = [
            unhandled(0),
            unhandled(1, kind=deferred, saga_id=saga(1)),
            unhandled(2, kind=deferred, saga_id=saga(2)),
            unhandled(3, kind=deferred, saga_id=saga(1)),
            unhandled(4, saga_id=saga(1)),
        ]
        await append(store, history(saga(1)), unhandled=records)

        held = await catalogue.unhandled(kind=deferred, saga_id=saga(1))

        assert [each.position.offset for each in held] == [1, 3]
        dead = await catalogue.unhandled(kind=UnhandledKind.DEAD)
        assert [each.position.offset for each in dead] == [0, 4]
        assert len(await catalogue.unhandled(saga_id=saga(1))) == 3

    async def test_sagas_behind_which_records_wait_come_page_by_page(
        self, store: EventStore, catalogue: Catalogue
    ) -> None:
        """Each once, with one of its records, in order of their ids; dead letters have no saga."""
        deferred = UnhandledKind.DEFERRED
        assert await catalogue.awaited() == []
        sagas = sorted(saga(number) for number in range(7))
        for number in (3, 1, 6, 1, 0, 5, 2, 1, 4):
            await append(store, unhandled=[unhandled(9, kind=deferred, saga_id=sagas[number])])
        await append(store, unhandled=[unhandled(10), unhandled(11)])

        pages = [await catalogue.awaited(limit=3)]
        while pages[-1]:
            pages.append(await catalogue.awaited(after=pages[-1][-1].saga_id, limit=3))

        kept = unhandled(9)
        assert [len(page) for page in pages] == [3, 3, 1, 0]
        assert [each for page in pages for each in page] == [
            Awaited(saga_id, kept.reason, kept.kept_at) for saga_id in sagas
        ]

    async def test_events_that_wait_for_their_sagas_are_counted(
        self, store: EventStore, catalogue: Catalogue
    ) -> None:
        """Other records are not, whatever became of them; nor are more than it is asked for."""
        dead = unhandled(1)
        deferred = unhandled(2, kind=UnhandledKind.DEFERRED, saga_id=saga(1))
        event = replace(deferred, reason=DeferralReason.EARLY_EVENT)
        other = replace(deferred, reason=DeferralReason.EARLY)
        assert await catalogue.early_events(limit=9) == 0

        await append(store, unhandled=[event, other, event, dead, event])

        assert await catalogue.early_events(limit=9) == 3
        assert await catalogue.early_events(limit=2) == 2

    async def test_the_last_unhandled_record_is_known(
        self, store: EventStore, catalogue: Catalogue
    ) -> None:
        """Of either kind."""
        assert await catalogue.last_unhandled() == 0
        for kind in UnhandledKind:
            await append(store, unhandled=[unhandled(0), unhandled(1, kind=kind)])
            assert await catalogue.last_unhandled() == (await catalogue.unhandled())[-1].record_id

    async def test_a_handled_record_is_gone_and_its_id_with_it(
        self, store: EventStore, catalogue: Catalogue
    ) -> None:
        """It may be removed twice without an error; ids are not given again."""
        await append(store, unhandled=[unhandled(0), unhandled(1)])
        first, second = [each.record_id for each in await catalogue.unhandled()]

        await append(store, handled=[second, 10**6])
        await append(store, handled=[second], unhandled=[unhandled(2)])

        left = await catalogue.unhandled()
        assert [each.position.offset for each in left] == [0, 2]
        assert left[0].record_id == first
        assert left[1].record_id > second

    async def test_timers_come_earliest_first(
        self, store: EventStore, catalogue: Catalogue
    ) -> None:
        """All armed timers, due or not."""
        timers = [timer(saga(1), f"t{at}", at) for at in (10**15, 5, 70)]
        await append(store, history(saga(1)), timers_armed=timers)

        assert await catalogue.timers() == [timers[1], timers[2], timers[0]]
        assert await catalogue.timers(limit=1) == [timers[1]]

    async def test_skipped_records_are_counted(
        self, store: EventStore, catalogue: Catalogue
    ) -> None:
        """By topic, source and reason, as long as the store is there; any text is a source."""
        plain = Skip("shop.evt", "/dev/shop/effects/a", SkipReason.OF_OTHERS)
        odd = Skip("shop.evt", "/\x00\x10\u20ac'%s", SkipReason.OWN)
        assert await catalogue.skipped() == {}

        await append(store, skipped={plain: 2, odd: 1})
        await append(store, skipped={plain: 40, plain._replace(reason=SkipReason.GONE): 3})

        expected = {plain: 42, odd: 1, plain._replace(reason=SkipReason.GONE): 3}
        assert await catalogue.skipped() == expected

    async def test_timers_are_read_page_by_page(
        self, store: EventStore, catalogue: Catalogue
    ) -> None:
        """Those of one moment too, each once; after one that is not armed there are none."""
        timers = [timer(saga(n), f"t{at}", at) for n in (2, 1) for at in (7, 5, 7_000)]
        timers += [timer(saga(1), name, 7) for name in ("ü", "a\x00b")]
        await append(store, history(saga(1)), history(saga(2)), timers_armed=timers)

        listed: list[DueTimer] = []
        while page := await catalogue.timers(
            after=listed[-1].timer_id if listed else None, limit=2
        ):
            listed += page

        assert {each.timer_id for each in listed} == {each.timer_id for each in timers}
        assert [each.due_at for each in listed] == sorted(each.due_at for each in timers)
        for unknown in (f"{saga(1)}/gone", f"{saga(3)}/t5", "no timer"):
            assert await catalogue.timers(after=TimerId(unknown)) == []

    async def test_the_log_holds_every_entry_in_commit_order(
        self, store: EventStore, catalogue: Catalogue
    ) -> None:
        """Places only grow, and reading goes on behind any of them."""
        await append(store, history(saga(2)), history(saga(1)))
        await append(store, history(saga(2), 1))

        log = [item async for item in catalogue.log()]

        one, two = saga(1), saga(2)
        expected = [*entries(two, 0), *entries(one, 0), *entries(two, 2)]
        assert [entry for _, entry in log] == expected
        places = [place for place, _ in log]
        assert places == sorted(places)
        assert len(set(places)) == 3, "entries of one turn share a place"
        for place in places:
            later = [item for item in log if item[0] > place]
            assert [item async for item in catalogue.log(after=place)] == later


async def _start(store: EventStore, count: int) -> None:
    for number in range(count):
        await append(store, history(saga(number)), summaries=[_summary(number)])


def _summary(number: int) -> SagaSummary:
    return summary(
        saga(number),
        status=STATUSES[number % len(STATUSES)],
        definition="return" if number % 2 else "order",
        started_at=Instant(MOMENT + number),
        reason=f"because é'%_\x00 {number}" if number % 4 == 3 else None,
    )
