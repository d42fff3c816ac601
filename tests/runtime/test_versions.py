"""Which versions open sagas need: counted over all pages, with what to do about each."""

import logging

import pytest

from saga import SagaApp, saga
from saga.runtime.versions import Version, missing, versions
from tests.toys import OrderPlaced

AT_MOST_S = 120


async def waits(ctx, placed):
    await ctx.wait("go")


def app_of(*numbers):
    return SagaApp(
        sagas=[saga("order", version=each, starts_on=OrderPlaced)(waits) for each in numbers]
    )


@pytest.fixture
async def places(tmp_path):
    """Three sagas of version 1 have begun, and one of them has ended."""
    found = {"bus": f"local:///{tmp_path}/saga.db", "store": f"sqlite:///{tmp_path}/saga.db"}
    async with app_of(1).service(**found) as service:
        ids = [await service.publish(OrderPlaced(order_id=f"o-{number}")) for number in range(3)]
        await service.idle(timeout=AT_MOST_S)
        await service.signal(ids[0], "go")
        await service.outcome(ids[0], timeout=AT_MOST_S)
    return found


async def test_every_version_is_told_that_is_here_or_needed(places):
    app = app_of(2, 3)
    async with app.service(**places) as service:
        found = await versions(service.catalogue, app.registry)
        counts = [(each.version, each.open, each.is_here, each.is_newest) for each in found]

        assert counts == [(1, 2, False, False), (2, 0, True, False), (3, 0, True, True)]
        assert [str(each) for each in await missing(service.catalogue, app.registry)] == [
            "2 open sagas still need order@1, which this application does not have"
        ]


async def test_worker_without_a_version_that_open_sagas_need_says_so_when_it_starts(places, caplog):
    caplog.set_level(logging.WARNING, logger="saga.runtime.changed_code")
    async with app_of(2).service(**places) as service:
        await service.idle(timeout=AT_MOST_S)

    [line] = [each.getMessage() for each in caplog.records if "still need" in each.getMessage()]
    assert "2 open sagas still need order@1" in line
    assert "saga migrate --from order@1 --to order@2" in line


async def test_worker_that_has_all_versions_says_nothing(places, caplog):
    async with app_of(1, 2).service(**places) as service:
        await service.idle(timeout=AT_MOST_S)
    assert not [each for each in caplog.records if "still need" in each.getMessage()]


@pytest.mark.parametrize(
    ("open_sagas", "is_here", "newest", "advice"),
    [
        (0, True, 2, "no open saga needs it: it can go"),
        (3, True, 2, "keep it until they have ended, or move them with"),
        (3, False, 2, "they stall until somebody deploys it, or move them with"),
        (3, False, None, "they stall until somebody deploys it"),
    ],
)
def test_advice_says_what_to_do_with_a_version(open_sagas, is_here, newest, advice):
    found = Version(definition="order", version=1, open=open_sagas, is_here=is_here, newest=newest)
    assert found.advice is not None
    assert found.advice.startswith(advice)


def test_newest_version_needs_no_advice():
    assert Version(definition="o", version=2, open=9, is_here=True, newest=2).advice is None
