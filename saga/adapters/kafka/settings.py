"""Everything that a consumer of aiokafka can be set to and that matters here, each with
its reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aiokafka.coordinator.assignors.range import RangePartitionAssignor


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerSettings:
    """How members of groups behave.

    Args:
        session_timeout_ms: how long a killed member's partitions stay unread. Not less than the
            brokers' `group.min.session.timeout.ms`, which is 6000 unless somebody changed it.
        heartbeat_interval_ms: how late a member hears of a rebalance.
        rebalance_timeout_ms: how long the others wait for one that does not answer.
        fetch_wait_ms: how long a broker holds a fetch without records; a record ends it at once.
        fetch_bytes, partition_bytes: of one answer, and of one partition in it. A larger record
            comes all the same, alone. What is buffered stays below twice *fetch_bytes* a broker.
        metadata_max_age_ms: how late new partitions, and topics that come later, are noticed.
        stalled_s: no progress for so long, although there is something to read, and the member is
            made anew.
        instance_id: static membership: a member that comes back within the session timeout under
            the same id gets its partitions back without a rebalance, and does not leave when it
            closes. Each process needs its own.
    """

    session_timeout_ms: int = 6_000
    heartbeat_interval_ms: int = 1_000
    rebalance_timeout_ms: int = 10_000
    fetch_wait_ms: int = 500
    fetch_bytes: int = 16 * 1_048_576
    partition_bytes: int = 1_048_576
    metadata_max_age_ms: int = 10_000
    stalled_s: float = 20.0
    instance_id: str | None = None

    def options(self) -> dict[str, Any]:
        """What a consumer of aiokafka is made with, beside its connection and group."""
        return {
            "session_timeout_ms": self.session_timeout_ms,
            "heartbeat_interval_ms": min(self.heartbeat_interval_ms, self.session_timeout_ms // 3),
            "rebalance_timeout_ms": self.rebalance_timeout_ms,
            "fetch_max_wait_ms": self.fetch_wait_ms,
            "fetch_min_bytes": 1,
            "fetch_max_bytes": self.fetch_bytes,
            "max_partition_fetch_bytes": self.partition_bytes,
            "metadata_max_age_ms": self.metadata_max_age_ms,
            "group_instance_id": self.instance_id,
            # Several assignors make aiokafka join once for each of them; range brings equal
            # partition numbers, hence the records of one saga, to one member.
            "partition_assignment_strategy": (RangePartitionAssignor,),
            # Positions are ours: nothing is committed behind our back, and where there is no
            # position, nothing is read rather than the wrong thing.
            "enable_auto_commit": False,
            "auto_offset_reset": "none",
            # What an upstream transaction has withdrawn must not start a saga.
            "isolation_level": "read_committed",
            "check_crcs": True,
            "exclude_internal_topics": True,
            # A store that is away for a day must not cost the membership; heartbeats go on.
            "max_poll_interval_ms": 86_400_000,
            "consumer_timeout_ms": 200,
        }
