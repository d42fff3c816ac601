"""How topics are to be set, how they are, and what is wrong with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from saga.adapters.kafka.cluster import Layout
from saga.core.values import value
from saga.ports.bus import TopicSpec

FRAMING_BYTES: Final = 65_536
"""What a batch may take beyond the keys, values and headers in it."""
AS_THE_BROKERS: Final = -1
KEPT_FOR_EVER_MS: Final = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicDefaults:
    """What all topics have in common. None: as the brokers are set.

    Args:
        replicas: copies of each partition.
        in_sync_min: how many of them must have a record before it counts as published. By default
            one less than there are, so that one broker may be away.
    """

    replicas: int | None = None
    in_sync_min: int | None = None

    @property
    def replicas_asked(self) -> int:
        """As the protocol says it."""
        return AS_THE_BROKERS if self.replicas is None else self.replicas

    def configs(self, spec: TopicSpec, *, record_bytes_max: int) -> dict[str, str]:
        """The settings that the topic is made with."""
        kept_ms = KEPT_FOR_EVER_MS if spec.retention_s is None else spec.retention_s * 1000
        found = {
            "cleanup.policy": "delete",
            "retention.ms": str(kept_ms),
            "max.message.bytes": str(record_bytes_max + FRAMING_BYTES),
        }
        in_sync_min = self.in_sync_min
        if in_sync_min is None and self.replicas is not None:
            in_sync_min = max(1, self.replicas - 1)
        if in_sync_min is not None:
            found["min.insync.replicas"] = str(in_sync_min)
        return found


@value(kw_only=True)
class TopicState:
    """How a topic is set. *retention_s* None keeps records for ever; *leaderless* are the
    partitions that nobody can read or write now.
    """

    name: str
    partitions: int
    replicas: int
    leaderless: tuple[int, ...]
    cleanup_policy: str
    retention_s: float | None
    record_bytes_max: int
    in_sync_min: int


@value
class TopicFlaw:
    """What is wrong with a topic. A warning does not keep anything from working today."""

    topic: str
    problem: str
    is_warning: bool = False


def state_of(layout: Layout, configs: Mapping[str, str]) -> TopicState:
    """The state of a topic, from the cluster's answers."""
    kept_ms = int(configs.get("retention.ms") or KEPT_FOR_EVER_MS)
    return TopicState(
        name=layout.name,
        partitions=len(layout.leaders),
        replicas=layout.replicas,
        leaderless=tuple(sorted(n for n, leader in layout.leaders.items() if leader is None)),
        cleanup_policy=configs.get("cleanup.policy", ""),
        retention_s=None if kept_ms < 0 else kept_ms / 1000,
        record_bytes_max=int(configs.get("max.message.bytes") or 0),
        in_sync_min=int(configs.get("min.insync.replicas") or 1),
    )


def flaws_of(
    wanted: Iterable[TopicSpec], found: Mapping[str, TopicState], *, record_bytes_max: int
) -> list[TopicFlaw]:
    """Compare what is wanted with what there is.

    Equal numbers of partitions matter to speed alone: only with them does one worker read all
    records of a saga. Which number it is may differ from the settings' for the same reason.
    """
    specs = list(wanted)
    states = [found[spec.name] for spec in specs if spec.name in found]
    usual = Counter(state.partitions for state in states).most_common(1)
    flaws: list[TopicFlaw] = []
    for spec in specs:
        state = found.get(spec.name)
        if state is None:
            flaws.append(TopicFlaw(spec.name, "does not exist; `saga topics create` makes it"))
        else:
            flaws += _flaws(spec, state, partitions=usual[0][0], record_bytes_max=record_bytes_max)
    return flaws


def _flaws(
    spec: TopicSpec, state: TopicState, *, partitions: int, record_bytes_max: int
) -> Iterator[TopicFlaw]:
    def flaw(problem: str, *, is_warning: bool = False) -> TopicFlaw:
        return TopicFlaw(state.name, problem, is_warning)

    if state.partitions != partitions:
        yield flaw(f"has {state.partitions} partitions, most others have {partitions}")
    if state.leaderless:
        numbers = ", ".join(map(str, state.leaderless))
        yield flaw(f"partitions without a leader now: {numbers}")
    if state.in_sync_min > state.replicas:
        yield flaw(
            f"min.insync.replicas is {state.in_sync_min}, replicas are {state.replicas}: nothing "
            f"can be published"
        )
    if state.record_bytes_max < record_bytes_max:
        yield flaw(f"max.message.bytes is {state.record_bytes_max}, less than {record_bytes_max}")
    if "compact" in state.cleanup_policy:
        yield flaw(
            f"cleanup.policy is {state.cleanup_policy}: compaction removes all but the last record "
            f"of a key, and all records of a saga have the same key",
            is_warning=True,
        )
    if (
        spec.retention_s is not None
        and state.retention_s is not None
        and state.retention_s < spec.retention_s
    ):
        yield flaw(
            f"keeps records for {state.retention_s:g} s, less than the {spec.retention_s} s that "
            f"the settings say",
            is_warning=True,
        )
