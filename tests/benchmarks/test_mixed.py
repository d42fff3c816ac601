"""A mixed load: sagas of all kinds, side by side, each of which comes to its end."""

import asyncio
from collections import Counter

import pytest

from benchmarks import mixed
from benchmarks.order import OrderConfirmed, OrderRejected
from benchmarks.servers import EMPTY, LOADED
from saga.contracts import business_key
from tests.benchmarks.conftest import call


def test_the_load_has_as_many_of_each_kind_and_a_key_for_each():
    asked = [mixed.asked(number) for number in range(60 * mixed.KINDS)]

    assert set(Counter(map(type, asked)).values()) == {60}
    assert len({business_key(each) for each in asked}) == len(asked)
    refused = [each for each in asked if not getattr(each, "is_shippable", True)]
    assert set(Counter(map(type, refused)).values()) == {6}


async def test_each_kind_but_those_that_wait_for_a_carrier_ends_as_its_order_does(tmp_path):
    """On files here; the carrier of parcels is the driver, and speaks to servers only."""
    places = {"bus": f"local:///{tmp_path}/b.db", "store": f"sqlite:///{tmp_path}/s.db"}
    asked = [mixed.asked(number) for number in range(12) if number % mixed.KINDS != 5]

    async with mixed.app.service(**places) as service:
        sagas = [await service.start(each) for each in asked]
        outcomes = await asyncio.gather(*(service.outcome(each, timeout=60) for each in sagas))

    for trigger, outcome in zip(asked, outcomes, strict=True):
        is_refused = not getattr(trigger, "is_shippable", True)
        assert isinstance(outcome.event, OrderRejected if is_refused else OrderConfirmed)
        assert outcome.status == ("rolled_back" if is_refused else "completed"), trigger


@pytest.mark.slow
def test_a_mixed_load_runs_beside_a_past_and_beside_none(kafka, postgres):
    words = ("--bus", kafka.url, "--store", postgres, "--mixed", "--quick")
    sizes = ("--finished", 200, "--open", 20, "--sagas", 1_000, "--in-flight", "30")

    report = call(*words, *sizes, "--json").row

    assert (report["past"]["finished"], report["past"]["open"]) == (200, 20)
    (level,) = report["levels"]
    assert set(level["measured"]) == {LOADED, EMPTY}
    for figures in level["measured"].values():
        assert figures["sagas_per_s"]["median"] > 0
        assert figures["cpu_us_effects"]["median"] > 0
    assert level["beside"][LOADED][EMPTY]["cpu_us_per_saga"]["median"] > 0


@pytest.mark.slow
def test_events_of_other_keys_are_measured_beside_those_of_equal_ones(kafka, postgres):
    words = ("--bus", kafka.url, "--store", postgres, "--events", "--quick")

    report = call(*words, "--sagas", 1_000, "--in-flight", "16", "--json").row

    (level,) = report["levels"]
    (ratios,) = level["beside"].values()
    (ratio,) = ratios.values()
    assert ratio["sagas_per_s"]["median"] > 0
