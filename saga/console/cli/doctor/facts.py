"""What the doctor has seen, without judgement, and its findings, which are judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from saga.core.identity import Instant
from saga.core.status import SagaStatus
from saga.core.values import value
from saga.ports import Source


class Severity(StrEnum):
    """What a finding means."""

    ERROR = "error"
    """Something does not work, or is about to be lost."""
    WARNING = "warning"
    """It works, and an operator should look."""
    INFO = "info"
    """Worth knowing."""


@value(kw_only=True)
class Finding:
    """A thing to know: what, where, and what to do about it.

    *check* is a stable name; *is_unreachable* marks a place that could not even be looked at.
    """

    check: str
    severity: Severity
    what: str
    where: str
    advice: str
    is_unreachable: bool = False


@value(kw_only=True)
class Group:
    """A consumer group: who should read *sources*, and the next offset of each that has one.

    *members* is None where nobody could be asked.
    """

    name: str
    role: str
    members: int | None
    sources: frozenset[Source]
    following: Mapping[Source, int]


@value(kw_only=True)
class TopicProblem:
    """What the cluster's own comparison says of a topic."""

    topic: str
    problem: str
    is_warning: bool


@value(kw_only=True)
class Schema:
    """The version of a set of tables, as stored and as this code needs it."""

    component: str
    stored: int
    needed: int


@value(kw_only=True)
class HeldUp:
    """Sagas of one definition and version in one status; *example* has the *reason*."""

    definition: str
    version: int
    status: SagaStatus
    count: int
    example: str
    reason: str | None


@dataclass(slots=True, kw_only=True)
class Facts:
    """All that was seen; empty or None where nobody looked.

    Args:
        now: the time on this machine when the look began.
        unhandled: intents that no effect service of the application handles.
        missing: topics of the application that do not exist.
        bounds: of every source of the application its begin and end.
        accounted: of each source the offset that the store accounts for.
        known: definitions and versions that the application has.
        active: what definitions and versions unfinished sagas have, and how many.
        store_ahead_s: how far the store's clock is ahead of this machine's.
        backlog_s: how long the oldest entry has waited to be published.
        timer_late_s: how long the earliest timer has been due.
        dead: how many dead letters there are, by reason.
        outbox_waits_s, outbox_refused: of the outbox that the settings name.
    """

    now: Instant
    unreachable: list[Finding] = field(default_factory=list)
    unhandled: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    topic_problems: list[TopicProblem] = field(default_factory=list)
    bounds: dict[Source, tuple[int, int]] = field(default_factory=dict)
    accounted: dict[Source, int] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)
    schemas: list[Schema] = field(default_factory=list)
    known: frozenset[tuple[str, int]] | None = None
    active: dict[tuple[str, int], int] = field(default_factory=dict)
    held_up: list[HeldUp] = field(default_factory=list)
    store_ahead_s: float | None = None
    backlog_s: float | None = None
    timer_late_s: float | None = None
    dead: dict[str, int] = field(default_factory=dict)
    outbox_waits_s: float | None = None
    outbox_refused: int = 0
