"""The checker from outside can fail: whatever is wrong with what a deployment left, it says so."""

from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

import pytest

from saga.core.identity import SagaId
from saga.core.status import SagaStatus
from saga.testing.world.broker import Published
from saga.testing.world.checks import Line, headers_of
from tests.chaos.client import Client
from tests.chaos.deployment import Deployment
from tests.chaos.load import start
from tests.chaos.outside import Left, Outside, judged

ORDERS = 60

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def _with(left: Left, **changes: object) -> Left:
    return left._replace(evidence=replace(left.evidence, **changes))


def _saga(left: Left, status: SagaStatus) -> SagaId:
    found = [one for one in left.evidence.summaries.values() if one.status is status]
    return max(found, key=lambda one: len(left.evidence.histories[one.saga_id])).saga_id


def _effect_twice(left: Left) -> Left:
    ledger = left.evidence.ledger
    return _with(left, ledger=[*ledger, ledger[0]._replace(number=len(ledger) + 1)])


def _effect_lost(left: Left) -> Left:
    saga_id = _saga(left, SagaStatus.COMPLETED)
    lost = next(line for line in left.evidence.ledger if line.saga_id == saga_id)
    return _with(left, ledger=[line for line in left.evidence.ledger if line is not lost])


def _other_amount(left: Left) -> Left:
    first, *others = left.moves
    return left._replace(moves=[first._replace(amount=first.amount + 1), *others])


def _undo_in_order_of_issue(left: Left) -> Left:
    undone = [line for line in left.evidence.ledger if line.direction == "undo"]
    undone.sort(key=lambda line: (line.saga_id, line.number))
    by_saga = [list(lines) for _, lines in groupby(undone, key=lambda line: line.saga_id)]
    first, second, *_ = next(lines for lines in by_saga if len(lines) > 1)
    swapped: dict[Line, int] = {first: second.number, second: first.number}
    ledger = [line._replace(number=swapped.get(line, line.number)) for line in left.evidence.ledger]
    return _with(left, ledger=sorted(ledger))


def _entry_lost(left: Left) -> Left:
    saga_id = _saga(left, SagaStatus.COMPLETED)
    history = left.evidence.histories[saga_id][:-1]
    return _with(left, histories={**left.evidence.histories, saga_id: history})


def _saga_lost(left: Left) -> Left:
    saga_id = _saga(left, SagaStatus.COMPLETED)
    histories = {key: one for key, one in left.evidence.histories.items() if key != saga_id}
    summaries = {key: one for key, one in left.evidence.summaries.items() if key != saga_id}
    return _with(left, histories=histories, summaries=summaries)


def _saga_twice(left: Left) -> Left:
    saga_id, other = _saga(left, SagaStatus.COMPLETED), SagaId("another")
    evidence = left.evidence
    history = [entry._replace(saga_id=other) for entry in evidence.histories[saga_id]]
    summary = replace(evidence.summaries[saga_id], saga_id=other)
    return _with(
        left,
        histories={**evidence.histories, other: history},
        summaries={**evidence.summaries, other: summary},
    )


def _published(left: Left, change: Callable[[Published], list[Published]], part: str) -> Left:
    """Does something to every copy of the first record whose topic has *part* in it."""
    first = next(one for one in left.evidence.published if part in one.record.topic)
    record_id = headers_of(first.record)["ce_id"]
    published: list[Published] = []
    for one in left.evidence.published:
        is_it = headers_of(one.record).get("ce_id") == record_id
        published += change(one) if is_it else [one]
    return _with(left, published=published)


def _intent_unpublished(left: Left) -> Left:
    return _published(left, lambda one: [], ".int.")


def _intent_undecided(left: Left) -> Left:
    def rename(one: Published) -> list[Published]:
        headers = [
            (name, b"never/pay/do/1" if name == "ce_id" else value)
            for name, value in one.record.headers
        ]
        return [one, one._replace(record=replace(one.record, headers=tuple(headers)))]

    return _published(left, rename, ".int.")


def _reply_changed(left: Left) -> Left:
    def change(one: Published) -> list[Published]:
        return [one, one._replace(record=replace(one.record, value=b"{}"))]

    return _published(left, change, ".evt.done")


def _reply_ignored(left: Left) -> Left:
    def change(one: Published) -> list[Published]:
        headers = [
            (name, b"reply-2" if name == "ce_id" else value) for name, value in one.record.headers
        ]
        headers = [
            (name, value + b"9" if name == "ce_causationid" else value) for name, value in headers
        ]
        return [one, one._replace(record=replace(one.record, headers=tuple(headers)))]

    return _published(left, change, ".evt.done")


def _timer_armed_after_the_end(left: Left) -> Left:
    saga_id = _saga(left, SagaStatus.COMPLETED)
    return _with(left, timers=left.evidence.timers | {f"{saga_id}/pay/timeout/1"})


class Damage(NamedTuple):
    """What is wrong, and what is said about it."""

    name: str
    damage: Callable[[Left], Left]
    said: str


DAMAGES = (
    Damage("an effect twice", _effect_twice, "was carried out twice"),
    Damage("an effect lost", _effect_lost, "completed"),
    Damage("another amount", _other_amount, "expected"),
    Damage("undone in order of issue", _undo_in_order_of_issue, "was undone before"),
    Damage("an entry lost", _entry_lost, "published and not stored"),
    Damage("a saga lost", _saga_lost, "there is no saga"),
    Damage("a saga twice", _saga_twice, "two sagas have one definition and key"),
    Damage("an intent unpublished", _intent_unpublished, "stored and not published"),
    Damage("an intent that nobody decided", _intent_undecided, "published and not stored"),
    Damage("a reply changed", _reply_changed, "with two contents"),
    Damage("a reply ignored", _reply_ignored, "nowhere"),
    Damage("a timer armed after the end", _timer_armed_after_the_end, "due-index"),
)


async def test_whatever_is_wrong_is_noticed(deployment: Deployment, client: Client) -> None:
    """What a real deployment left is damaged in one place after the other."""
    await start(deployment, ("orchestrator-1", "effects-1"))
    await client.place([client.drawn() for _ in range(ORDERS)])
    outside = Outside(deployment, client.log)
    await outside.rest()
    left = await outside.gather()
    assert all(order.is_acknowledged for order in client.log.triggers)
    assert judged(left) == []

    missed = {
        damage.name: judged(damage.damage(left))
        for damage in DAMAGES
        if damage.said not in "\n".join(judged(damage.damage(left)))
    }

    assert missed == {}
