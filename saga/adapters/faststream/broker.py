"""A broker with its effect services as part of a process: connection, health, probes.

FastStream's own ping asks the cluster only. It stays well when a consumer has stopped, a group was
never joined, a store is away or a partition is not read. The health here comes from the last poll,
and from the store itself; it never waits longer than a probe may.

Alive means that restarting would not help. An outage of Kafka or of the store is no reason to
restart anything: then a service is alive and not ready.

There is no AsyncAPI page here and never its "try it out": a dry run stops the consumers of its
broker for good, and shows no sign of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Final

from faststream import AckPolicy
from faststream.asgi import AsgiResponse, get
from faststream.kafka import KafkaBroker
from prometheus_client import Metric
from typing_extensions import override

from saga.adapters.faststream._faststream import connection_arguments
from saga.adapters.faststream.subscriber import EffectsSubscriber
from saga.adapters.http import Page, probes
from saga.adapters.kafka import KafkaConnection
from saga.adapters.kafka.connection import IDENTITY
from saga.core.values import value
from saga.effects.health import effects_metrics
from saga.errors import StoreUnavailable
from saga.ports.health import Health

ANSWER_S: Final = 2.0
"""How long the store may take to answer a probe; those of Kubernetes wait for one second more."""
POLL_AGE_S: Final = 15.0
"""How long ago Kafka may have answered last, where there is room for more records."""
ATTEMPT_AGE_S: Final = 120.0
"""How long ago it may have been asked last, be it without an answer."""
GRACEFUL_S: Final = 5.0
PROBE_KEY: Final = "health"


@value(kw_only=True)
class BrokerConnection(KafkaConnection):
    """A connection with the credentials of *broker*, which are read when they are needed."""

    broker: KafkaBroker

    @override
    def options(self) -> dict[str, Any]:
        given = connection_arguments(self.broker)
        # Named, as `super()` in a class with slots would still mean the one without.
        ours = KafkaConnection.options(self)
        # The behaviour of a broker's own producer is none of our business.
        return ours | {name: given[name] for name in IDENTITY if given.get(name) is not None}


def own_broker(servers: Sequence[str]) -> KafkaBroker:
    """A broker for our subscribers alone: it makes no connection of its own."""
    return KafkaBroker(
        list(servers),
        consumer_only=True,
        allow_auto_create_topics=False,
        ack_policy=AckPolicy.MANUAL,
        graceful_timeout=GRACEFUL_S,
        logger=logging.getLogger("saga.faststream"),
        log_level=logging.DEBUG,
        apply_types=False,
    )


def connection_of(broker: KafkaBroker) -> KafkaConnection:
    """The connection of a user's *broker*: its servers, its encryption, its credentials."""
    servers = connection_arguments(broker)["bootstrap_servers"]
    listed = servers.split(",") if isinstance(servers, str) else servers
    return BrokerConnection(servers=tuple(listed), broker=broker)


class BrokerHealth(Health):
    """The health of the services of one process."""

    def __init__(self, subscribers: Sequence[EffectsSubscriber]) -> None:
        self._subscribers = tuple(subscribers)

    @override
    def why_dead(self) -> list[str]:
        return [
            f"{subscriber.name}: {reason}"
            for subscriber in self._subscribers
            for reason in _why_dead(subscriber)
        ]

    @override
    async def why_not_ready(self) -> list[str]:
        reasons = [
            f"{subscriber.name}: {reason}"
            for subscriber in self._subscribers
            for reason in (*_why_dead(subscriber), *_why_idle(subscriber))
        ]
        if reasons:
            return reasons  # a store that is away is most likely why, and takes long to say so
        answers = await asyncio.gather(*map(_why_no_store, self._subscribers))
        return [reason for answer in answers for reason in answer]

    @override
    def facts(self) -> dict[str, dict[str, Any]]:
        return {subscriber.name: _facts(subscriber) for subscriber in self._subscribers}

    @override
    async def metrics(self) -> list[Metric]:
        return [family for subscriber in self._subscribers for family in _metrics(subscriber)]


def routes(subscribers: Sequence[EffectsSubscriber]) -> list[tuple[str, Any]]:
    """The probes of these services, for `asgi_routes` of an `AsgiFastStream`."""
    return [(path, _route(page)) for path, page in probes([BrokerHealth(subscribers)]).items()]


def _route(page: Page) -> Any:
    @get(include_in_schema=False)
    async def route(scope: dict[str, Any]) -> AsgiResponse:  # noqa: ARG001  # FastStream gives it
        answer = await page()
        headers = {"content-type": "application/json"}
        return AsgiResponse(bytes(answer.body), status_code=answer.status_code, headers=headers)

    return route


async def _why_no_store(subscriber: EffectsSubscriber) -> list[str]:
    running = subscriber.running_service
    if running is None:
        return [f"{subscriber.name}: stopped"]
    try:
        async with asyncio.timeout(ANSWER_S):
            await running.store.kept(subscriber.name, [PROBE_KEY])
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
    reasons = list(member.stopped.values())
    age_s = _age_s(subscriber, subscriber.polled_at_s)
    if age_s > POLL_AGE_S:
        reasons.append(f"Kafka did not answer for {age_s:.0f} s")
    return reasons


def _age_s(subscriber: EffectsSubscriber, at_s: float) -> float:
    """How long ago that was; zero while there is enough to do without new records."""
    if subscriber.in_hand:
        return 0.0
    return asyncio.get_running_loop().time() - at_s


def _metrics(subscriber: EffectsSubscriber) -> list[Metric]:
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
