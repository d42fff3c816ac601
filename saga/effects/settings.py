"""How much a service does at once, and how long it waits before it tries again."""

from __future__ import annotations

from dataclasses import dataclass, field

from saga.core.retry import Retry


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectsSettings:
    """The limits of one service.

    Args:
        concurrency: how many handlers may be waiting for something at once.
        threads: how many sync handlers run at once; 0 runs them on the event loop itself.
        records_in_hand_max: how many records are fetched and not yet answered.
        fetch_records_max: how many are fetched at once.
        slow_after_s: a handler that takes longer has others started beside it.
        drain_s: how long stopping may take to finish what is in hand.
        offsets_every_s: how often the group's offsets are committed.
        backoff: how long to wait for a bus or store that cannot be reached.
        listen_retry: how often a fact is given to a listener that fails, before it is parked.
    """

    concurrency: int = 64
    threads: int = 8
    records_in_hand_max: int = 512
    fetch_records_max: int = 256
    slow_after_s: float = 0.002
    drain_s: float = 10.0
    offsets_every_s: float = 0.2
    backoff: Retry = field(
        default_factory=lambda: Retry(attempts=None, initial="50ms", cap="5s", jitter=0.5)
    )
    listen_retry: Retry = field(default_factory=lambda: Retry(attempts=5, initial="100ms"))
