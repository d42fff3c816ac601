"""A broker of our own, and how to reach the cluster of one that somebody else has configured."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from faststream import AckPolicy
from faststream.kafka import KafkaBroker

from saga.adapters.kafka import KafkaConnection

GRACEFUL_S: Final = 5.0
TAKEN_OVER: Final = (
    "client_id",
    "security_protocol",
    "ssl_context",
    "sasl_mechanism",
    "sasl_plain_username",
    "sasl_plain_password",
    "sasl_kerberos_service_name",
    "sasl_kerberos_domain_name",
    "sasl_oauth_token_provider",
)
"""Who we are and how we talk. How a broker's own producer behaves is none of our business."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConnection(KafkaConnection):
    """A connection with the credentials of *broker*, which are read when they are needed."""

    broker: KafkaBroker

    def options(self) -> dict[str, Any]:
        """What every client of aiokafka is made with."""
        given = _arguments(self.broker)
        # Named, as `super()` in a class with slots would still mean the one without.
        ours = KafkaConnection.options(self)
        return ours | {name: given[name] for name in TAKEN_OVER if given.get(name) is not None}


def own_broker(servers: Sequence[str]) -> KafkaBroker:
    """A broker that serves nothing but our subscribers: it makes no connection of its own."""
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
    """The connection of *broker*, whoever made it: its servers, its encryption, its credentials."""
    servers = _arguments(broker)["bootstrap_servers"]
    listed = servers.split(",") if isinstance(servers, str) else servers
    return BrokerConnection(servers=tuple(listed), broker=broker)


def _arguments(broker: KafkaBroker) -> dict[str, Any]:
    # FastStream has no public name for it.
    return dict(broker._connection_kwargs)  # noqa: SLF001
