"""The checker from outside can fail: whatever is wrong with what a deployment left, it says so."""

from collections.abc import Callable
from dataclasses import replace
from itertools import groupby

import pytest

from saga.core.identity import SagaId
from saga.core.status import SagaStatus
from saga.testing.world.broker import Published
from saga.testing.world.evidence import Line, headers_of
from tests.chaos.client import Client
from tests.chaos.deployment import Deployment
from tests.chaos.load import start
from tests.chaos.outside import Left, Outside, judged

ORDERS = 60

pytestmark = pytest.mark.slow


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
    history = [replace(entry, saga_id=other) for entry in evidence.histories[saga_id]]
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


def _published_beside(
    left: Left, part: str, *, value: bytes | None = None, **headers: Callable[[bytes], bytes]
) -> Left:
    """The same once more, with another value or other headers."""

    def change(one: Published) -> list[Published]:
        other = tuple(
            (name, headers[name](text) if name in headers else text)
            for name, text in one.record.headers
        )
        record = replace(one.record, value=value or one.record.value, headers=other)
        return [one, one._replace(record=record)]

    return _published(left, change, part)


def _intent_unpublished(left: Left) -> Left:
    return _published(left, lambda one: [], ".int.")


def _intent_undecided(left: Left) -> Left:
    return _published_beside(left, ".int.", ce_id=lambda _: b"never/pay/do/1")


def _reply_changed(left: Left) -> Left:
    return _published_beside(left, ".evt.done", value=b"{}")


def _reply_ignored(left: Left) -> Left:
    return _published_beside(
        left, ".evt.done", ce_id=lambda _: b"reply-2", ce_causationid=lambda cause: cause + b"9"
    )


def _timer_armed_after_the_end(left: Left) -> Left:
    saga_id = _saga(left, SagaStatus.COMPLETED)
    return _with(left, timers=left.evidence.timers | {f"{saga_id}/pay/timeout/1"})


DAMAGES = {  # what is wrong, and what is said about it
    _effect_twice: "was carried out twice",
    _effect_lost: "completed",
    _other_amount: "expected",
    _undo_in_order_of_issue: "was undone before",
    _entry_lost: "published and not stored",
    _saga_lost: "there is no saga",
    _saga_twice: "two sagas have one definition and key",
    _intent_unpublished: "stored and not published",
    _intent_undecided: "published and not stored",
    _reply_changed: "with two contents",
    _reply_ignored: "nowhere",
    _timer_armed_after_the_end: "due-index",
}


async def test_whatever_is_wrong_is_noticed(deployment: Deployment, client: Client) -> None:
    """What a real deployment left is damaged in one place after the other."""
    await start(deployment, ("orchestrator-1", "effects-1"))
    await client.place([client.drawn() for _ in range(ORDERS)])
    outside = Outside(deployment, client.log)
    await outside.rest()
    left = await outside.gather()
    assert all(order.is_acknowledged for order in client.log.triggers)
    assert judged(left) == []

    said = {damage: "\n".join(judged(damage(left))) for damage in DAMAGES}
    missed = [damage.__name__ for damage, why in DAMAGES.items() if why not in said[damage]]

    assert missed == [], said
