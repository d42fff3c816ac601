"""Each rule of the doctor, on facts that a test has made up."""

import pytest

from saga.adapters.kafka import TopicFlaw
from saga.console.cli.doctor.judging import (
    Facts,
    Finding,
    Group,
    HeldUp,
    Schema,
    Severity,
    Snapshots,
    judge,
)
from saga.core.identity import Instant
from saga.core.status import SagaStatus
from saga.ports import Source

PLACE = Source("orders", 0)


def facts(**seen) -> Facts:
    """Facts of a deployment that is well, but for what is given."""
    return Facts(now=Instant(1_000_000_000), **seen)


def group(role: str = "orchestrator", *, members: int | None = 1, following: int = 0) -> Group:
    return Group(
        name="readers",
        role=role,
        members=members,
        sources=frozenset([PLACE]),
        following={PLACE: following},
    )


def held_up(status: SagaStatus) -> HeldUp:
    return HeldUp(
        definition="order", version=2, status=status, count=3, example="order/7", reason="a bug"
    )


def judged(seen: Facts, *, lag_max: int = 100) -> list[tuple[str, str]]:
    """Check and severity of each finding; all of them say what, where and what to do."""
    findings = judge(seen, lag_max=lag_max)
    assert all(finding.what and finding.where and finding.advice for finding in findings)
    return [(finding.check, finding.severity.value) for finding in findings]


WELL = [
    facts(),
    facts(accounted={PLACE: 9}, bounds={PLACE: (0, 10)}),
    facts(accounted={PLACE: 9}, bounds={PLACE: (10, 10)}),
    facts(accounted={PLACE: 9}),
    facts(groups=[group(members=0, following=10)], bounds={PLACE: (0, 10)}),
    facts(groups=[group(following=10)], bounds={PLACE: (0, 110)}),
    facts(groups=[group(members=0)], bounds={PLACE: (10, 10)}),
    facts(groups=[group(members=0)]),
    facts(schemas=[Schema(component="event store", stored=1, needed=1)]),
    facts(store_ahead_s=1.9),
    facts(store_ahead_s=-1.9),
    facts(backlog_s=9.0, timer_late_s=29.0, outbox_waits_s=59.0),
    facts(timer_late_s=-3600.0),
    facts(active={("order", 1): 5}, known=frozenset([("order", 1)])),
    facts(active={("order", 1): 5}, known=None),
    facts(snapshots={("order", 1): Snapshots(count=5, usable=5)}),
]

SICK = [
    (facts(missing=["orders"]), ("topics", "error")),
    (facts(nondeterminism=[("shop.py:3", "it calls time()", "use x")]), ("determinism", "warning")),
    (facts(topic_flaws=[TopicFlaw("t", problem="has 3", is_warning=False)]), ("topics", "error")),
    (
        facts(topic_flaws=[TopicFlaw("t", problem="compacts", is_warning=True)]),
        ("topics", "warning"),
    ),
    (facts(accounted={PLACE: 9}, bounds={PLACE: (11, 20)}), ("positions", "error")),
    (facts(accounted={PLACE: 9}, bounds={PLACE: (0, 9)}), ("positions", "error")),
    (facts(groups=[group("effects", following=3)], bounds={PLACE: (4, 9)}), ("positions", "error")),
    (
        facts(groups=[group("effects", following=9)], bounds={PLACE: (0, 8)}),
        ("positions", "warning"),
    ),
    (facts(groups=[group(members=0)], bounds={PLACE: (0, 1)}), ("workers", "error")),
    (facts(groups=[group(following=10)], bounds={PLACE: (0, 111)}), ("lag", "warning")),
    (facts(groups=[group(members=None)], bounds={PLACE: (0, 111)}), ("lag", "warning")),
    (facts(schemas=[Schema(component="s", stored=0, needed=1)]), ("schema", "error")),
    (facts(schemas=[Schema(component="s", stored=1, needed=2)]), ("schema", "error")),
    (facts(store_ahead_s=2.1), ("clock", "warning")),
    (facts(store_ahead_s=-31.0), ("clock", "warning")),
    (facts(clock_unsure="the store is slow"), ("clock", "error")),
    (facts(backlog_s=11.0), ("relay", "warning")),
    (facts(backlog_s=61.0), ("relay", "error")),
    (facts(timer_late_s=31.0), ("timers", "error")),
    (facts(active={("order", 1): 5}, known=frozenset([("order", 2)])), ("versions", "error")),
    (
        facts(active={("order", 1): 5}, known=frozenset([("order", 1), ("order", 2)])),
        ("versions", "info"),
    ),
    (facts(long={("order", 2): 3}), ("histories", "warning")),
    (facts(snapshots={("order", 1): Snapshots(count=5, usable=4)}), ("snapshots", "info")),
    (facts(held_up=[held_up(SagaStatus.STALLED)]), ("stalled", "error")),
    (facts(held_up=[held_up(SagaStatus.PARKED)]), ("parked", "warning")),
    (facts(dead={"no_key": 3}), ("dlq", "warning")),
    (facts(unhandled=["parcels.int.ship.v1"]), ("handlers", "info")),
    (facts(outbox_waits_s=61.0), ("outbox", "error")),
    (facts(outbox_refused=1), ("outbox", "error")),
]


@pytest.mark.parametrize("seen", WELL)
def test_healthy_facts_are_no_finding(seen):
    """Also at the very edge of each rule."""
    assert judged(seen) == []


@pytest.mark.parametrize(("seen", "finding"), SICK, ids=[f"{c}-{s}" for _, (c, s) in SICK])
def test_each_problem_is_one_finding(seen, finding):
    assert judged(seen) == [finding]


def test_a_missing_topic_is_one_finding():
    """Although the cluster's comparison says it too."""
    problem = TopicFlaw("t", problem="does not exist", is_warning=False)

    assert judged(facts(missing=["t"], topic_flaws=[problem])) == [("topics", "error")]


def test_the_worst_comes_first():
    """What cannot be reached stands among the errors."""
    away = Finding("bus", Severity.ERROR, "away", "kafka", "start it")
    seen = facts(dead={"schema": 1}, unhandled=["a.int.b.v1"], unreachable=[away])

    assert judged(seen) == [("bus", "error"), ("dlq", "warning"), ("handlers", "info")]
