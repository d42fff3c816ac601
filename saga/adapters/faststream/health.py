"""Is a service alive, and is it ready? What FastStream's own ping cannot say.

A ping asks the cluster. A consumer that has stopped, a group that was never joined, a store that is
away or a partition that is not read leave it as it is. These answers come from what was done last,
and from the store itself; they never wait longer than a probe may.

Alive means that restarting would not help. An outage of Kafka or of the store is no reason to
restart anything: then a service is alive and not ready.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from saga.adapters.faststream.subscriber import EffectsSubscriber
from saga.effects.health import effects_metrics
from saga.errors import StoreUnavailable
from saga.ports.metrics import Measured

ANSWER_S: Final = 2.0
"""How long the store may take to answer a probe; those of Kubernetes wait for one second more."""
POLL_AGE_S: Final = 15.0
"""How long ago Kafka may have answered last, where there is room for more records."""
ATTEMPT_AGE_S: Final = 120.0
"""How long ago it may have been asked last, be it without an answer."""
PROBED: Final = "health"


class Health:
    """The health of the services of one process."""

    def __init__(self, subscribers: Sequence[EffectsSubscriber]) -> None:
        self._subscribers = tuple(subscribers)

    def why_dead(self) -> list[str]:
        """The reasons to restart this process; none while it is alive, or only just starting."""
        return [
            f"{subscriber.name}: {reason}"
            for subscriber in self._subscribers
            for reason in _why_dead(subscriber)
        ]

    async def why_not_ready(self) -> list[str]:
        """The reasons why it does not do all of its work now."""
        found = [
            f"{subscriber.name}: {reason}"
            for subscriber in self._subscribers
            for reason in (*_why_dead(subscriber), *_why_idle(subscriber))
        ]
        if found:
            return found  # a store that is away is most likely why, and takes long to say so
        asked = [_why_no_store(subscriber) for subscriber in self._subscribers]
        return [reason for reasons in await asyncio.gather(*asked) for reason in reasons]

    def facts(self) -> dict[str, dict[str, Any]]:
        """Of each service, what an operator wants to know."""
        return {subscriber.name: _facts(subscriber) for subscriber in self._subscribers}

    async def metrics(self) -> list[Measured]:
        """What a machine wants to know."""
        return [measured for one in self._subscribers for measured in _metrics(one)]


async def _why_no_store(subscriber: EffectsSubscriber) -> list[str]:
    workplace = subscriber.workplace
    if workplace is None:
        return [f"{subscriber.name}: stopped"]
    try:
        async with asyncio.timeout(ANSWER_S):
            await workplace.store.kept(subscriber.name, [PROBED])
    except TimeoutError:
        return [f"{subscriber.name}: its store did not answer within {ANSWER_S:g} s"]
    except StoreUnavailable as error:
        return [f"{subscriber.name}: its store cannot be used: {error}"]
    return []


def _why_dead(subscriber: EffectsSubscriber) -> list[str]:
    failure = subscriber.failure
    if failure is not None:
        return [f"ended: {failure}"]
    if subscriber.member is None:
        return []
    if not subscriber.is_reading:
        return ["its consume loop has ended"]
    age_s = _age_s(subscriber, subscriber.attempted_at_s)
    return [f"has not asked for records for {age_s:.0f} s"] if age_s > ATTEMPT_AGE_S else []


def _why_idle(subscriber: EffectsSubscriber) -> list[str]:
    member = subscriber.member
    if member is None:
        return ["not started yet, or Kafka or the store is away"]
    if member.waits_for is not None:
        return [f"waits for {member.waits_for}"]
    found = list(member.stopped.values())
    age_s = _age_s(subscriber, subscriber.polled_at_s)
    if age_s > POLL_AGE_S:
        found.append(f"Kafka did not answer for {age_s:.0f} s")
    return found


def _age_s(subscriber: EffectsSubscriber, at_s: float) -> float:
    """How long ago that was; no time at all while there is enough to do without new records."""
    if subscriber.in_hand:
        return 0.0
    return asyncio.get_running_loop().time() - at_s


def _metrics(subscriber: EffectsSubscriber) -> list[Measured]:
    return effects_metrics(
        subscriber.name,
        str(subscriber.group_id),
        subscriber.counts,
        subscriber.member,
        in_hand=subscriber.in_hand,
    )


def _facts(subscriber: EffectsSubscriber) -> dict[str, Any]:
    member = subscriber.member
    return {
        "group": subscriber.group_id,
        "sources": 0 if member is None else len(member.assignment()),
        "stopped": {}
        if member is None
        else {f"{at.topic}[{at.partition}]": why for at, why in sorted(member.stopped.items())},
        "in_hand": subscriber.in_hand,
        "last_poll_s": round(asyncio.get_running_loop().time() - subscriber.polled_at_s, 3),
    }
