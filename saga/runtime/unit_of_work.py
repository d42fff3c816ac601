"""A unit of work: one batch of turns, and what they lead to, committed in one transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from operator import attrgetter
from typing import Any, Final, NamedTuple

from saga.core.durations import SECOND_US
from saga.core.events import Fact, TimerFired
from saga.core.identity import DO, Instant, IntentName, SagaId, TimerId
from saga.core.intents import (
    Intent,
    IntentIssued,
    IntentTold,
    TimerArmed,
    TimerCancelled,
    TimerMoved,
)
from saga.core.program import Line
from saga.core.status import ENDED, SagaStatus
from saga.ports import (
    Batch,
    DueTimer,
    History,
    HistoryAppend,
    Inbound,
    PutOffTimer,
    Record,
    SagaSummary,
    Source,
    UnhandledRecord,
)
from saga.ports.store import DeferralReason, DefinitionPause, Skip, SkipReason
from saga.runtime.router import Delivery, Rejected, Skipped
from saga.runtime.saga_cache import LoadedSaga, UnloadableSaga, summary_of
from saga.runtime.unhandled import dead_letter, deferred

POSTPONED_S = 30
"""How long a due timer is left alone whose saga stands still, at least."""
POSTPONED_S_MAX = 300
"""A worker may postpone one just after another has released the saga: no later than by so much."""
SUSPECTS_MAX = 8
"""Of so many sagas that one record concerns it is found out which one cannot be recorded."""
CHANGES_OF_TIMERS: Final = frozenset({TimerArmed, TimerCancelled, TimerMoved})
_SOURCE: Final = attrgetter("topic", "partition")
_OFFSET: Final = attrgetter("offset")
_COUNTS: Final[Callable[[], defaultdict[Any, int]]] = partial(defaultdict, int)
"""Makes what counts as a `Counter` does, in one call of C."""


@dataclass(slots=True)
class InboundBatch:
    """What a unit of work is about.

    *revisits* are sagas whose deferred records may go on, *looks* those that this code may have
    new timeouts for, *resumes* those whose definition may be paused no more.
    """

    records: list[Inbound] = field(default_factory=list)
    due: list[DueTimer] = field(default_factory=list)
    revisits: list[SagaId] = field(default_factory=list)
    looks: list[SagaId] = field(default_factory=list)
    resumes: list[SagaId] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.records or self.due or self.revisits or self.looks or self.resumes)

    def halves(self) -> list[InboundBatch]:
        """Two batches to be taken one after the other; none where there is one thing to do."""
        parts = ("revisits", "records", "due", "looks", "resumes")
        things = [(part, each) for part in parts for each in getattr(self, part)]
        middle = len(things) // 2
        if not middle:
            return []
        halves = (InboundBatch(), InboundBatch())
        for number, (part, each) in enumerate(things):
            getattr(halves[number >= middle], part).append(each)
        return list(halves)

    def positions(self) -> dict[Source, int]:
        """Of each source the highest offset in this batch."""
        rising = sorted(self.records, key=_OFFSET)
        highest = dict(zip(map(_SOURCE, rising), map(_OFFSET, rising), strict=True))
        return {Source(*source): offset for source, offset in highest.items()}


def suspects(count: int) -> Iterator[Sequence[int]]:
    """Which of so many deliveries are to blame: each by itself, where they are few, then all."""
    if 1 < count <= SUSPECTS_MAX:
        yield from ((number,) for number in range(count))
    if count:
        yield range(count)


def issued(bodies: Iterable[Fact | Intent]) -> Iterator[tuple[object, ...]]:
    """Of each intent that *bodies* of entries issue its name, but for the saga."""
    for body in bodies:
        if isinstance(body, IntentIssued):
            yield body.step, body.direction, body.attempt
        elif isinstance(body, IntentTold):
            yield body.step, DO, 1


@dataclass(slots=True)
class TimerChanges:
    """What is to change in the due-index.

    *moved* are due at another time, where not cleared. *put_off* were found due and do not fire
    now, which is in no history.
    """

    armed: dict[TimerId, DueTimer] = field(default_factory=dict)
    moved: dict[TimerId, DueTimer] = field(default_factory=dict)
    put_off: dict[TimerId, PutOffTimer] = field(default_factory=dict)
    cleared: list[TimerId] = field(default_factory=list)

    def arm_again(self, timers: Iterable[TimerArmed], saga_id: SagaId) -> None:
        """Have timers of a saga that goes on fire when they are due: some may be postponed."""
        for timer in timers:
            if timer.timer_id not in self.armed:  # else this batch may yet cancel it
                self.moved[timer.timer_id] = DueTimer(timer.timer_id, saga_id, timer.due_at)

    def note(self, saga_id: SagaId, intents: Sequence[Intent]) -> None:
        for intent in intents:
            if type(intent) is TimerArmed:
                self.armed[intent.timer_id] = DueTimer(intent.timer_id, saga_id, intent.due_at)
            elif type(intent) is TimerMoved:
                due = DueTimer(intent.timer_id, saga_id, intent.due_at)
                (self.armed if due.timer_id in self.armed else self.moved)[due.timer_id] = due
            elif type(intent) is TimerCancelled and not self.armed.pop(intent.timer_id, None):
                self.cleared.append(intent.timer_id)

    def take_out(self, saga_ids: Collection[SagaId]) -> None:
        """Leave the timers of these sagas as they are."""
        for due in (*self.armed.values(), *self.moved.values()):
            if due.saga_id in saga_ids:
                self.armed.pop(due.timer_id, None)
                self.moved.pop(due.timer_id, None)
        for off in [each for each in self.put_off.values() if each.found.saga_id in saga_ids]:
            del self.put_off[off.found.timer_id]
        self.cleared = [each for each in self.cleared if each.partition("/")[0] not in saga_ids]


@dataclass(slots=True)
class UnhandledChanges:
    """What becomes of unhandled records; *handled* are the ids of those no longer deferred."""

    dead_letters: list[UnhandledRecord] = field(default_factory=list)
    deferred: list[UnhandledRecord] = field(default_factory=list)
    deferred_behind: dict[SagaId, Instant | None] = field(default_factory=dict)
    """With when to give up a saga that does not come; None where it is there."""
    early_events: list[tuple[Delivery, UnhandledRecord]] = field(default_factory=list)
    """Of the deferred ones those that are events of others, whose sagas are not there yet."""
    handled: list[int] = field(default_factory=list)


class Reached(NamedTuple):
    """A saga came to *status*; it took *took_s* where that is its end."""

    saga: LoadedSaga
    status: SagaStatus
    took_s: float | None


@dataclass(slots=True)
class UnitOfWork:
    """Everything that one batch has decided so far.

    Attributes:
        stood_still: sagas that could not take what came for them, as their code does not fit.
        without_code: ended sagas, as their entries say, where their code does not fit.
        to_migrate: of sagas that may be migrated in it, and are loaded, their histories.
        remembered: the sagas that were in memory, and may be behind the store.
        changed: those that have taken turns.
        histories: what these turns add.
        positions: of each source the highest offset that it accounts for.
        runs: of sagas that begin a new run, the number of the turn in which the last begins.
        summaries: index rows of sagas whose histories cannot be brought to life here.
        pauses: rows of definitions that are paused by it, or go on; *pauses_seen* is the sum of
            changes of those rows that it was decided with.
        reruns: the causes of reruns that ended sagas have taken.
        outgoing_of: of each of these sagas what it has to say, in the order of its turns.
        revisits: sagas whose deferred records may go on after this.
        counts: told to people, decides nothing, as all below.
        lines: what sagas want to say to a log.
    """

    at: Instant
    sagas: dict[SagaId, LoadedSaga | UnloadableSaga] = field(default_factory=dict)
    stood_still: dict[SagaId, UnloadableSaga] = field(default_factory=dict)
    without_code: dict[SagaId, LoadedSaga] = field(default_factory=dict)
    to_migrate: Mapping[SagaId, History] = field(default_factory=dict)
    remembered: Collection[SagaId] = ()
    changed: dict[SagaId, LoadedSaga] = field(default_factory=dict)
    histories: dict[SagaId, HistoryAppend] = field(default_factory=dict)
    timers: TimerChanges = field(default_factory=TimerChanges)
    unhandled: UnhandledChanges = field(default_factory=UnhandledChanges)
    positions: dict[Source, int] = field(default_factory=dict)
    runs: dict[SagaId, int] = field(default_factory=dict)
    outgoing_of: dict[SagaId, list[Record]] = field(default_factory=dict)
    summaries: list[SagaSummary] = field(default_factory=list)
    pauses: dict[str, DefinitionPause] = field(default_factory=dict)
    pauses_seen: int | None = None
    reruns: set[str] = field(default_factory=set)
    revisits: set[SagaId] = field(default_factory=set)
    skipped: defaultdict[Skip, int] = field(default_factory=_COUNTS)
    counts: defaultdict[str, int] = field(default_factory=_COUNTS)
    started: list[str] = field(default_factory=list)
    reached: list[Reached] = field(default_factory=list)
    append_s: float = 0.0
    lines: list[tuple[LoadedSaga, Sequence[Line]]] | None = None
    _issued: dict[SagaId, tuple[int, set[tuple[object, ...]]]] = field(default_factory=dict)

    @property
    def outgoing(self) -> list[Record]:
        return [*chain.from_iterable(self.outgoing_of.values())]

    @property
    def unloadable(self) -> list[UnloadableSaga]:
        """Those that could not take what came for them."""
        return [saga for saga in self.stood_still.values() if self.sagas[saga.saga_id] is saga]

    @property
    def possibly_unpublished(self) -> list[LoadedSaga]:
        """Sagas with records to publish of which another process may have earlier ones to."""
        sagas = [self.changed[saga_id] for saga_id, records in self.outgoing_of.items() if records]
        return [saga for saga in sagas if saga.is_possibly_unpublished]

    def issues(self, name: IntentName) -> bool:
        """Whether a turn in it issues this intent; each turn is looked at once."""
        history = self.histories.get(name.saga_id)
        if history is None:
            return False
        turns_known, known = self._issued.get(name.saga_id) or (0, set())
        for turn in history.turns[turns_known:]:
            known.update(issued(turn.decided))
        self._issued[name.saga_id] = len(history.turns), known
        return name[1:] in known

    def defer(
        self,
        delivery: Delivery,
        reason: DeferralReason,
        message: str,
        *,
        since: Instant | None = None,
        until: Instant | None = None,
    ) -> None:
        """Keep a record, in order, behind its saga, *until* then at most.

        A timer is looked at again later. The longer a saga has stood still, *since* it parked, the
        later: its release arms the timer.
        """
        if delivery.is_nudge:
            return
        if delivery.inbound is None:
            stands_us = 0 if since is None else self.at - since
            least, most = POSTPONED_S * SECOND_US, POSTPONED_S_MAX * SECOND_US
            self.put_off(delivery, Instant(self.at + min(max(least, stands_us), most)))
            return
        behind = self.unhandled.deferred_behind
        known = behind.get(delivery.saga_id)
        behind[delivery.saga_id] = until if known is None or until is None else min(known, until)
        if delivery.deferred_id:
            return  # it is deferred already, in its place
        self.counts["deferred"] += 1
        record = deferred(delivery.inbound, reason, message, self.at, delivery.saga_id)
        self.unhandled.deferred.append(record)
        if reason is DeferralReason.EARLY_EVENT:
            self.unhandled.early_events.append((delivery, record))

    def put_off(self, delivery: Delivery, due_at: Instant) -> None:
        """Have a timer that was found due found again later, unless it is moved meanwhile."""
        timer = delivery.timer
        assert timer is not None, delivery
        self.timers.put_off[timer.timer_id] = PutOffTimer(timer, due_at)

    def stand_still(self, delivery: Delivery, saga: UnloadableSaga) -> None:
        """Keep what came for a saga whose history cannot be brought to life here."""
        self.stood_still[saga.saga_id] = saga
        self.defer(delivery, saga.deferral, saga.reason)

    def reject(self, rejected: Rejected) -> None:
        self.counts["dead"] += 1
        letter = dead_letter(rejected.inbound, rejected.reason, rejected.message, self.at)
        self.unhandled.dead_letters.append(letter)
        if rejected.deferred_id:
            self.unhandled.handled.append(rejected.deferred_id)

    def skip(self, skipped: Skipped) -> None:
        self.counts["skipped"] += 1
        self.skipped[skipped.counted_as()] += 1
        if skipped.deferred_id:
            self.unhandled.handled.append(skipped.deferred_id)

    def let_go(self, delivery: Delivery, reason: SkipReason) -> None:
        """Count an event of others that no saga takes."""
        assert delivery.inbound is not None, delivery
        self.skip(
            Skipped(delivery.inbound, reason, delivery.deferred_id, delivery.definition or None)
        )

    def keep_early(self, count: int) -> None:
        """Have no more than so many events wait for their sagas; the last ones are let go."""
        changes = self.unhandled
        gone = changes.early_events[count:]
        unwanted = {id(record) for _, record in gone}
        changes.deferred = [each for each in changes.deferred if id(each) not in unwanted]
        self.counts["deferred"] -= len(gone)
        for delivery, _ in gone:
            self.let_go(delivery, SkipReason.NOT_THERE)

    def settle(self, delivery: Delivery) -> None:
        """The delivery is done with: it is not deferred any more, its timer does not fire again."""
        if delivery.deferred_id:
            self.unhandled.handled.append(delivery.deferred_id)
        fact = delivery.event.fact
        if type(fact) is TimerFired and fact.timer_id not in self.timers.armed:
            self.timers.cleared.append(fact.timer_id)

    def count_change(self, saga: LoadedSaga, *, has_started: bool, before: SagaStatus) -> None:
        status = saga.state.status
        if has_started:
            self.counts["started"] += 1
            self.started.append(saga.decider.name)
        if status is not before:
            self.counts[status.value] += 1
            took_s = (self.at - saga.started_at) / SECOND_US if status in ENDED else None
            self.reached.append(Reached(saga, status, took_s))

    def batch(self, relayed: list[int]) -> Batch:
        """The transaction, which also says what was *relayed* before."""
        timers, unhandled = self.timers, self.unhandled
        armed = list(timers.armed.values())
        if timers.moved:
            cleared = set(timers.cleared)
            armed += [due for due in timers.moved.values() if due.timer_id not in cleared]
        return Batch(
            histories=list(self.histories.values()),
            positions=self.positions,
            timers_put_off=list(timers.put_off.values()),
            timers_armed=armed,
            timers_cleared=timers.cleared,
            summaries=[*map(summary_of, self._loaded_changed()), *self.summaries],
            unhandled=unhandled.dead_letters + unhandled.deferred,
            handled=unhandled.handled,
            outgoing=self.outgoing,
            relayed=relayed,
            pauses=list(self.pauses.values()),
            pauses_seen=self.pauses_seen,
            runs=self.runs,
            snapshots_over=self._snapshots_over() if self.reached or self.runs else (),
        )

    def _loaded_changed(self) -> Iterable[LoadedSaga]:
        """Sagas that have taken turns; of those whose code does not fit, *summaries* has rows."""
        if not self.stood_still:
            return self.changed.values()
        unloadable = {saga.saga_id for saga in self.unloadable} - self.without_code.keys()
        return [saga for saga_id, saga in self.changed.items() if saga_id not in unloadable]

    def _snapshots_over(self) -> list[SagaId]:
        """Sagas that have ended, or begin a run: no snapshot before that says anything more."""
        ended = {each.saga.saga_id for each in self.reached if each.status in ENDED}
        over = ended.union(self.runs)
        return [
            each for each, saga in self.changed.items() if each in over and saga.may_have_snapshot
        ]
