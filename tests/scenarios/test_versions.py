"""Versions side by side, in all ways to write a saga: pinned, stalled, healed, migrated."""

import pytest

from saga import Effects, SagaApp
from saga.core.intents import IntentIssued
from tests.authoring.loans import (
    CONTRACTS,
    WAYS,
    Fetch,
    Fetched,
    Lent,
    PutBack,
    Remind,
    Wanted,
    loan_as,
)

AT_MOST_S = 120


@pytest.fixture
def places(tmp_path):
    return {
        "bus": f"local:///{tmp_path}/saga.db",
        "store": f"sqlite:///{tmp_path}/saga.db",
        "effects_store": f"sqlite:///{tmp_path}/effects.db",
    }


@pytest.fixture(params=WAYS)
def loan(request, tmp_path):
    return loan_as(request.param, tmp_path)


def app_of(*versions):
    desk = Effects("loans")

    @desk.on(Fetch)
    async def fetch(intent: Fetch, ctx) -> Fetched:
        return Fetched(shelf="s-1")

    @desk.on(PutBack)
    async def put_back(intent: PutBack, ctx) -> None: ...

    @desk.on(Remind)
    async def remind(intent: Remind, ctx) -> None: ...

    return SagaApp(sagas=versions, effects=[desk], contracts=CONTRACTS)


async def steps_of(service, found):
    entries = [entry.body async for _, entry in service.catalogue.log() if entry.saga_id == found]
    return [each.step for each in entries if isinstance(each, IntentIssued)]


async def summary_of(service, found):
    (summary,) = await service.catalogue.summaries([found])
    return summary


async def test_running_sagas_keep_their_version_and_new_ones_start_with_the_newest(loan, places):
    async with app_of(loan.first).service(**places) as service:
        old = await service.start(Wanted(loan="old"))
        await service.idle(timeout=AT_MOST_S)

    async with app_of(loan.first, loan.second).service(**places) as service:
        new = await service.start(Wanted(loan="new"))
        for each in (old, new):
            await service.signal(each, "pick-up", {"card": "c"})
        outcomes = [await service.outcome(each, timeout=AT_MOST_S) for each in (old, new)]

        assert [each.event for each in outcomes] == [Lent(loan="old"), Lent(loan="new")]
        assert await steps_of(service, old) == ["fetch"]
        assert await steps_of(service, new) == ["bring", "remind"]
        versions = [(await summary_of(service, each)).definition_version for each in (old, new)]
        assert versions == [1, 2]


async def test_stalled_saga_is_healed_by_a_deploy_and_takes_what_came_in_order(loan, places):
    async with app_of(loan.first).service(**places) as service:
        found = await service.start(Wanted())
        await service.idle(timeout=AT_MOST_S)

    async with app_of(loan.second).service(**places) as service:
        for card in ("first", "second"):
            await service.signal(found, "pick-up", {"card": card})
        await service.idle(timeout=AT_MOST_S)
        stalled = await summary_of(service, found)
        assert (stalled.status, stalled.waiting_for) == ("stalled", "deploy")
        assert "version 1: deploy it" in stalled.reason
        assert len(await service.catalogue.unhandled(saga_id=found)) == 2

    async with app_of(loan.first, loan.second).service(**places) as service:
        await service.idle(timeout=AT_MOST_S)  # it is stalled until then, which is an outcome, too
        assert (await service.outcome(found, timeout=AT_MOST_S)).event == Lent(loan="l-1")
        assert not await service.catalogue.unhandled(saga_id=found)
        log = [entry.body async for _, entry in service.catalogue.log() if entry.saga_id == found]
        cards = [body.payload for body in log if type(body).__name__ == "SignalReceived"]
        assert cards == ['{"card":"first"}', '{"card":"second"}']


async def test_stalled_saga_is_migrated_by_a_worker_that_has_the_new_version_alone(loan, places):
    async with app_of(loan.first).service(**places) as service:
        found = await service.start(Wanted())
        await service.idle(timeout=AT_MOST_S)

    async with app_of(loan.second).service(**places) as service:
        await service.signal(found, "pick-up", {"card": "c"})
        await service.idle(timeout=AT_MOST_S)
        moves = service.migrate(
            "loan", from_version=1, to_version=2, steps=loan.steps, reason="only 2 is left"
        )
        assert [each.result async for each in moves] == ["applied"]
        assert (await service.outcome(found, timeout=AT_MOST_S)).event == Lent(loan="l-1")
        assert await steps_of(service, found) == ["fetch", "remind"]
        assert not await service.catalogue.unhandled(saga_id=found)
