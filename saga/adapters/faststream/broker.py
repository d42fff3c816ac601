"""A broker with its effect services as part of a process: connection, health, probes.

FastStream's own ping asks the cluster only; health here comes from the last poll and the store. In
an outage of either a service is alive, as a restart would not help, and not ready. No AsyncAPI page
is served: a dry run on it stops the consumers of its broker for good, without a sign.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
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
    """The credentials of *broker* are read when they are needed."""

    broker: KafkaBroker

    @override
    def options(self) -> dict[str, Any]:
        given = connection_arguments(self.broker)
        # Named, as `super()` in a class with slots would still mean the one without.
        ours = KafkaConnection.options(self)
        return ours | {name: given[name] for name in IDENTITY if given.get(name) is not None}


def own_broker(servers: Sequence[str]) -> KafkaBroker:
    """A broker for our subscribers alone, which makes no connection."""
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
    servers = connection_arguments(broker)["bootstrap_servers"]
    listed = servers.split(",") if isinstance(servers, str) else servers
    return BrokerConnection(servers=tuple(listed), broker=broker)


class SubscriberHealth(Health):
    def __init__(self, subscriber: EffectsSubscriber) -> None:
        self._subscriber = subscriber
        self._name = subscriber.name

    @override
    def why_dead(self) -> list[str]:
        return [f"{self._name}: {reason}" for reason in self._ends()]

    @override
    async def why_not_ready(self) -> list[str]:
        # A store that is away is most likely why, and takes long to say so.
        reasons = [*self._ends(), *self._lacks()] or await self._why_no_store()
        return [f"{self._name}: {reason}" for reason in reasons]

    @override
    def facts(self) -> dict[str, dict[str, Any]]:
        subscriber, member = self._subscriber, self._subscriber.member
        stopped = {} if member is None else member.stopped
        facts = {
            "group": subscriber.group_id,
            "sources": 0 if member is None else len(member.assignment()),
            "stopped": {f"{at.topic}[{at.partition}]": why for at, why in sorted(stopped.items())},
            "in_hand": subscriber.in_hand,
            "last_poll_s": round(asyncio.get_running_loop().time() - subscriber.polled_at_s, 3),
        }
        return {self._name: facts}

    @override
    async def metrics(self) -> list[Metric]:
        subscriber, group = self._subscriber, self._subscriber.subscription.group
        return effects_metrics(
            self._name, group, subscriber.counts, subscriber.member, in_hand=subscriber.in_hand
        )

    def _ends(self) -> Iterator[str]:
        """Why only a restart helps."""
        subscriber = self._subscriber
        if subscriber.failure is not None:
            yield f"ended: {subscriber.failure}"
        elif subscriber.member is not None and not subscriber.is_reading:
            yield "its consume loop has ended"
        elif subscriber.member is not None:
            age_s = self._age_s(subscriber.attempted_at_s)
            if age_s > ATTEMPT_AGE_S:
                yield f"has not asked for records for {age_s:.0f} s"

    def _lacks(self) -> Iterator[str]:
        member = self._subscriber.member
        if member is None:
            yield "not started yet, or Kafka or the store is away"
        elif member.waits_for is not None:
            yield f"waits for {member.waits_for}"
        else:
            yield from member.stopped.values()
            age_s = self._age_s(self._subscriber.polled_at_s)
            if age_s > POLL_AGE_S:
                yield f"Kafka did not answer for {age_s:.0f} s"

    async def _why_no_store(self) -> list[str]:
        running = self._subscriber.running_service
        if running is None:
            return ["stopped"]
        try:
            async with asyncio.timeout(ANSWER_S):
                await running.store.kept(self._name, [PROBE_KEY])
        except TimeoutError:
            return [f"its store did not answer within {ANSWER_S:g} s"]
        except StoreUnavailable as error:
            return [f"its store cannot be used: {error}"]
        return []

    def _age_s(self, at_s: float) -> float:
        """Zero while there is enough to do without new records."""
        if self._subscriber.in_hand:
            return 0.0
        return asyncio.get_running_loop().time() - at_s


def routes(subscribers: Sequence[EffectsSubscriber]) -> list[tuple[str, Any]]:
    """The probes, for `asgi_routes` of an `AsgiFastStream`."""
    pages = probes([SubscriberHealth(each) for each in subscribers])
    return [(path, _route(page)) for path, page in pages.items()]


def _route(page: Page) -> Any:
    @get(include_in_schema=False)
    async def route(scope: dict[str, Any]) -> AsgiResponse:  # noqa: ARG001  # FastStream gives it
        answer = await page()
        headers = {"content-type": "application/json"}
        return AsgiResponse(bytes(answer.body), status_code=answer.status_code, headers=headers)

    return route
