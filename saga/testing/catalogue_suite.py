"""What every catalogue must do, one test a sentence of the port.

Subclass `CatalogueSuite` beside fixtures `store` and `catalogue` of one empty store.
"""

# ruff: noqa: PLR2004 - expected values are written as they are

from __future__ import annotations

from dataclasses import replace

from saga.core.identity import Instant
from saga.core.status import SagaStatus
from saga.ports.store import Batch, Catalogue, EventStore, SagaSummary, UnhandledKind
from saga.testing import samples
from saga.testing.samples import MOMENT, saga

STATUSES = (SagaStatus.RUNNING, SagaStatus.COMPLETED, SagaStatus.PARKED)


class CatalogueSuite:
    """The contract of the port `Catalogue`."""

    async def test_sagas_come_in_order_of_start_page_by_page(
        self, store: EventStore, catalogue: Catalogue
    ) -> None:
        """A page begins after the saga named; later changes of a saga do not move it."""
        await _start(store, 7)
        later = samples.summary(saga(2), status=SagaStatus.ROLLING_BACK, version=9)
        await store.append(
            samples.batch(
                samples.history(saga(2), 1),
                summaries=[replace(later, started_at=Instant(MOMENT + 2))],
            ),
            at=MOMENT,
        )

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

        async def found(**filters: object) -> list[int]:
            rows = await catalogue.sagas(**filters)  # type: ignore[arg-type]  # tested by name
            return [number for number in range(9) if saga(number) in {r.saga_id for r in rows}]

        assert await found(status=SagaStatus.RUNNING) == [0, 3, 6]
        assert await found(status=SagaStatus.COMPLETED) == [1, 4, 7]
        assert await found(status=SagaStatus.PARKED, after=saga(2)) == [5, 8]
        assert await found(status=SagaStatus.ABANDONED) == []
        assert await found(definition="return") == [1, 3, 5, 7]
        assert await found(definition="return", status=SagaStatus.RUNNING) == [3]
        assert await found(status=SagaStatus.COMPLETED, limit=2) == [1, 4]

    async def test_summaries_are_found_by_id(self, store: EventStore, catalogue: Catalogue) -> None:
        """Rows are whole, and a saga that does not exist is left out."""
        await _start(store, 3)

        found = await catalogue.summaries([saga(2), saga(99), saga(0)])

        assert {each.saga_id: each for each in found} == {
            saga(number): _summary(number) for number in (0, 2)
        }

    async def test_unhandled_records_keep_order_and_every_byte(
        self, store: EventStore, catalogue: Catalogue
    ) -> None:
        """Null values, repeated names and bytes that are no text come back as they were."""
        for offset in range(3):
            batch = Batch(
                unhandled=[samples.unhandled(2 * offset), samples.unhandled(2 * offset + 1)]
            )
            await store.append(batch, at=MOMENT)

        found = await catalogue.unhandled()

        assert [replace(each, record_id=0) for each in found] == [
            samples.unhandled(offset) for offset in range(6)
        ]
        ids = [each.record_id for each in found]
        assert ids == sorted(set(ids))
        assert [each.record_id for each in await catalogue.unhandled(after=ids[1], limit=3)] == ids[
            2:5
        ]

    async def test_unhandled_records_are_found_by_kind_and_saga(
        self, store: EventStore, catalogue: Catalogue
    ) -> None:
        """What waits for a saga is found in order, whatever else is there."""
        await store.append(
            samples.batch(
                samples.history(saga(1)),
                unhandled=[
                    samples.unhandled(0),
                    samples.unhandled(1, kind=UnhandledKind.DEFERRED, saga_id=saga(1)),
                    samples.unhandled(2, kind=UnhandledKind.DEFERRED, saga_id=saga(2)),
                    samples.unhandled(3, kind=UnhandledKind.DEFERRED, saga_id=saga(1)),
                    samples.unhandled(4, saga_id=saga(1)),
                ],
            ),
            at=MOMENT,
        )

        held = await catalogue.unhandled(kind=UnhandledKind.DEFERRED, saga_id=saga(1))

        assert [each.position.offset for each in held] == [1, 3]
        dead = await catalogue.unhandled(kind=UnhandledKind.DEAD)
        assert [each.position.offset for each in dead] == [0, 4]
        assert len(await catalogue.unhandled(saga_id=saga(1))) == 3

    async def test_a_handled_record_is_gone_and_its_id_with_it(
        self, store: EventStore, catalogue: Catalogue
    ) -> None:
        """It may be removed twice without an error; ids are not given again."""
        await store.append(Batch(unhandled=[samples.unhandled(0), samples.unhandled(1)]), at=MOMENT)
        first, second = [each.record_id for each in await catalogue.unhandled()]

        await store.append(Batch(handled=[second, 10**6]), at=MOMENT)
        await store.append(Batch(handled=[second], unhandled=[samples.unhandled(2)]), at=MOMENT)

        left = await catalogue.unhandled()
        assert [each.position.offset for each in left] == [0, 2]
        assert left[0].record_id == first
        assert left[1].record_id > second

    async def test_timers_come_earliest_first(
        self, store: EventStore, catalogue: Catalogue
    ) -> None:
        """All armed timers, due or not."""
        timers = [samples.timer(saga(1), f"t{at}", at) for at in (10**15, 5, 70)]
        await store.append(samples.batch(samples.history(saga(1)), timers_armed=timers), at=MOMENT)

        assert await catalogue.timers() == [timers[1], timers[2], timers[0]]
        assert await catalogue.timers(limit=1) == [timers[1]]

    async def test_the_log_holds_every_entry_in_commit_order(
        self, store: EventStore, catalogue: Catalogue
    ) -> None:
        """Places only grow, and reading goes on behind any of them."""
        await store.append(
            samples.batch(samples.history(saga(2)), samples.history(saga(1))), at=MOMENT
        )
        await store.append(samples.batch(samples.history(saga(2), 1)), at=MOMENT)

        log = [item async for item in catalogue.log()]

        assert [entry for _, entry in log] == [
            *samples.entries(saga(2), 0),
            *samples.entries(saga(1), 0),
            *samples.entries(saga(2), 2),
        ]
        assert [place for place, _ in log] == sorted(place for place, _ in log)
        assert len({place for place, _ in log}) == 3, "entries of one turn share a place"
        for position, _ in log:
            later = [item for item in log if item[0] > position]
            assert [item async for item in catalogue.log(after=position)] == later


async def _start(store: EventStore, count: int) -> None:
    for number in range(count):
        await store.append(
            samples.batch(samples.history(saga(number)), summaries=[_summary(number)]),
            at=MOMENT,
        )


def _summary(number: int) -> SagaSummary:
    return samples.summary(
        saga(number),
        status=STATUSES[number % len(STATUSES)],
        definition="return" if number % 2 else "order",
        started_at=Instant(MOMENT + number),
    )
