"""What the doctor has seen, and from that to findings: pure, so that rules are tested by facts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import groupby
from typing import TYPE_CHECKING, Final

from saga.console.cli.output import command_line
from saga.core.identity import Instant
from saga.core.status import SagaStatus
from saga.core.values import value
from saga.ports import Source
from saga.ports.bus import UNKNOWN_ORIGIN, Origin, why_misplaced
from saga.ports.store import Skip, SkipReason
from saga.runtime.saga_cache import LONG_HISTORY_ADVICE, LONG_HISTORY_ENTRIES
from saga.runtime.versions import Version

if TYPE_CHECKING:
    from saga.adapters.kafka import TopicFlaw

CLOCK_SKEW_S_MAX: Final = 2.0
"""Beyond it people who compare logs with histories are misled; workers go by the store's clock."""
BACKLOG_LATE_S: Final = 10.0
BACKLOG_STUCK_S: Final = 60.0
TIMER_LATE_S: Final = 30.0
OUTBOX_LATE_S: Final = 60.0
WHYS_MAX: Final = 2


SKIPPED: Final = {
    SkipReason.OF_OTHERS: "they are for sagas of other applications",
    SkipReason.NOT_LISTENED: "they start nothing here, answer nothing, and reach no saga",
    SkipReason.OWN: "sagas here have published them on a topic of replies",
    SkipReason.GONE: "they answer sagas of this application that the store does not have",
    SkipReason.NOT_THERE: "their sagas were not there in time",
    SkipReason.ENDED: "their sagas had ended",
    SkipReason.OTHER_VERSION: "their sagas are of versions that do not listen to them",
}
SKIP_ADVICE: Final = {
    SkipReason.OF_OTHERS: "nothing, if another application of this namespace takes them",
    SkipReason.NOT_LISTENED: "nothing, if they are facts for others; a reply must name the intent "
    "it answers in its header ce_causationid",
    SkipReason.OWN: "nothing: they are for others",
    SkipReason.GONE: "find out whether the store was set back, as by restoring a backup, or whether"
    " another application has a saga of the same name and key",
    SkipReason.NOT_THERE: "nothing, if others have such events, too; else give the saga longer to "
    "begin: on(…, early=…)",
    SkipReason.ENDED: "nothing, if the saga needs them no more",
    SkipReason.OTHER_VERSION: "nothing, if these versions need them not; else list them there, too",
}


class Severity(StrEnum):
    """What a finding means, the worst first."""

    ERROR = "error"
    """Something does not work, or is about to be lost."""
    WARNING = "warning"
    """It works, and an operator should look."""
    INFO = "info"


@value
class Finding:
    """What is wrong, where, and what to do; *is_unreachable* where nobody could even look."""

    check: str
    severity: Severity
    what: str
    where: str
    advice: str
    is_unreachable: bool = False


@value(kw_only=True)
class Group:
    """Who should read *sources*, and how far it is; *members* is None if nobody could be asked."""

    name: str
    role: str
    members: int | None
    sources: frozenset[Source]
    following: Mapping[Source, int]


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
    acts: tuple[str, ...] = ()
    """The commands that the example would take now."""


@value(kw_only=True)
class Snapshots:
    """How many there are of one definition and version, and how many today's code can use."""

    count: int
    usable: int


@dataclass(slots=True, kw_only=True)
class Facts:
    """All that was seen; empty or None where nobody looked.

    Args:
        now: the time when the look began, by the store's clock where it has one.
        bounds: of every source of the application its begin and end.
        origins: which topic of which cluster each topic is.
        accounted: of each source the offset that the store accounts for.
        belongs: which topic that offset belongs to.
        known: definitions and versions that the application has.
        active: how many unfinished sagas each definition and version has.
        long: how many unfinished sagas of each definition and version have long histories.
        snapshots: of each definition and version those that were kept; empty where the application
            is not known.
        store_ahead_s: how far the store's clock is ahead of this machine's.
        clock_unsure: why a worker here would not know the store's time.
        backlog_s: how long the oldest entry has waited to be published.
        dead: how many dead letters there are, by reason.
        nondeterminism: what sagas do that no replay gives again: which one and where, what, and
            what to do in its place.
        doubts: what is doubtful about the settings, with what to do.
    """

    now: Instant
    unreachable: list[Finding] = field(default_factory=list)
    unhandled: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    topic_flaws: list[TopicFlaw] = field(default_factory=list)
    bounds: dict[Source, tuple[int, int]] = field(default_factory=dict)
    origins: Mapping[str, Origin] = field(default_factory=dict)
    accounted: dict[Source, int] = field(default_factory=dict)
    belongs: Mapping[Source, Origin] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)
    schemas: list[Schema] = field(default_factory=list)
    known: frozenset[tuple[str, int]] | None = None
    active: dict[tuple[str, int], int] = field(default_factory=dict)
    long: dict[tuple[str, int], int] = field(default_factory=dict)
    snapshots: Mapping[tuple[str, int], Snapshots] = field(default_factory=dict)
    held_up: list[HeldUp] = field(default_factory=list)
    store_ahead_s: float | None = None
    clock_unsure: str | None = None
    backlog_s: float | None = None
    timer_late_s: float | None = None
    dead: dict[str, int] = field(default_factory=dict)
    skipped: Mapping[Skip, int] = field(default_factory=dict)
    damaged: Sequence[str] = ()
    outbox_waits_s: float | None = None
    outbox_refused: int = 0
    doubts: list[str] = field(default_factory=list)
    nondeterminism: list[tuple[str, str, str]] = field(default_factory=list)


def judge(facts: Facts, *, lag_max: int) -> list[Finding]:
    """All that is wrong, the worst first. A group more than *lag_max* records behind is late."""
    findings = [
        *facts.unreachable,
        *_topics(facts),
        *_positions(facts),
        *(finding for group in facts.groups for finding in _group(facts, group, lag_max)),
        *_schemas(facts),
        *_store(facts),
        *_versions(facts),
        *_long_histories(facts),
        *_snapshots(facts),
        *map(_held_up, facts.held_up),
        *_dead_letters(facts),
        *_skipped(facts),
        *_damaged(facts),
        *_handlers(facts),
        *_outbox(facts),
        *_nondeterminism(facts),
        *(_doubt(doubt) for doubt in facts.doubts),
    ]
    return sorted(findings, key=lambda finding: list(Severity).index(finding.severity))


def _severity(*, is_error: bool) -> Severity:
    return Severity.ERROR if is_error else Severity.WARNING


def _topics(facts: Facts) -> Iterator[Finding]:
    advice = "run `saga topics create`"
    for topic in facts.missing:
        yield Finding("topics", Severity.ERROR, "the topic does not exist", topic, advice)
    advice = "set the topic as the settings say (`saga topics check` compares), or change the "
    for flaw in facts.topic_flaws:
        if flaw.topic not in facts.missing:
            severity = _severity(is_error=not flaw.is_warning)
            yield Finding("topics", severity, flaw.problem, flaw.topic, f"{advice}settings")


def _positions(facts: Facts) -> Iterator[Finding]:
    for topic, found in groupby(_misplaced(facts), lambda each: each[0].topic):
        alike = list(found)
        numbers = ",".join(str(source.partition) for source, _ in alike)
        what = "; ".join(why for _, why in alike[:WHYS_MAX])
        if len(alike) > WHYS_MAX:
            what = f"{what}; and {len(alike) - WHYS_MAX} more of its partitions"
        advice = (
            f"nobody reads it on by itself: bring the old topic back, or accept it (what was "
            f"handled before is recognised): `saga store rebase {topic} --from begin "
            f"--reason 'I know why'`; with --from end, what is there now is left out"
        )
        yield Finding("positions", Severity.ERROR, what, f"{topic}[{numbers}]", advice)


def _misplaced(facts: Facts) -> Iterator[tuple[Source, str]]:
    for source, offset in sorted(facts.accounted.items()):
        bounds = facts.bounds.get(source)
        belongs = facts.belongs.get(source, UNKNOWN_ORIGIN)
        found = facts.origins.get(source.topic, UNKNOWN_ORIGIN)
        if bounds and (why := why_misplaced(source, offset, belongs, bounds, found)):
            yield source, why


def _group(facts: Facts, group: Group, lag_max: int) -> Iterator[Finding]:
    lag = sum(_lag(facts, group, source) for source in group.sources)
    if lag and group.members == 0:
        what = f"{lag:,} records wait and nobody reads them"
        advice = f"start a worker: `saga run --roles {group.role}`"
        yield Finding("workers", Severity.ERROR, what, group.name, advice)
    elif lag > lag_max:
        what = f"is {lag:,} records behind"
        advice = "wait if it shrinks; else look for errors in the workers' logs, and start more of "
        yield Finding("lag", Severity.WARNING, what, group.name, f"{advice}them")
    if group.role == "orchestrator":
        return  # the store's positions count there, and are judged above
    for source in sorted(group.sources & facts.bounds.keys()):
        begin, end = facts.bounds[source]
        following = group.following.get(source, begin)
        if begin <= following <= end:
            continue
        what = f"is at {following}, but the topic has {begin} to {end}"
        where = f"{group.name}: {_place(source)}"
        if following < begin:
            advice = "records were removed before they were read: have the topic keep them for "
            advice += "longer; its service goes on with those that are left"
            yield Finding("positions", Severity.ERROR, what, where, advice)
        else:
            advice = "the topic was made anew: nothing is to be done, its service begins it at its "
            advice += "begin"
            yield Finding("positions", Severity.WARNING, what, where, advice)


def _lag(facts: Facts, group: Group, source: Source) -> int:
    begin, end = facts.bounds.get(source, (0, 0))
    return max(0, end - max(begin, group.following.get(source, begin)))


def _schemas(facts: Facts) -> Iterator[Finding]:
    for schema in facts.schemas:
        if schema.stored != schema.needed:
            what = f"tables have version {schema.stored}, this saga needs {schema.needed}"
            what = what if schema.stored else "has no tables yet"
            advice = "run `saga store migrate`"
            yield Finding("schema", Severity.ERROR, what, schema.component, advice)


def _store(facts: Facts) -> Iterator[Finding]:
    ahead_s, waits_s, late_s = facts.store_ahead_s, facts.backlog_s, facts.timer_late_s
    if ahead_s is not None and abs(ahead_s) > CLOCK_SKEW_S_MAX:
        word = "ahead of" if ahead_s > 0 else "behind"
        what = f"the store's clock is {abs(ahead_s):.1f} s {word} this machine's"
        advice = (
            "let all machines keep time by NTP: sagas go by the store's clock, logs by a machine's"
        )
        yield Finding("clock", Severity.WARNING, what, "store", advice)
    if facts.clock_unsure is not None:
        advice = "bring workers and store nearer to each other, or give the store more to run on"
        yield Finding("clock", Severity.ERROR, facts.clock_unsure, "store", advice)
    if waits_s is not None and waits_s > BACKLOG_LATE_S:
        severity = _severity(is_error=waits_s > BACKLOG_STUCK_S)
        what = f"what was decided {waits_s:.0f} s ago is not published yet"
        advice = "see that an orchestrator runs and reaches the bus: it publishes what is left"
        yield Finding("relay", severity, what, "store", advice)
    if late_s is not None and late_s > TIMER_LATE_S:
        what = f"a timer has been due for {late_s:.0f} s"
        advice = "see that an orchestrator runs; `saga timers` lists them"
        yield Finding("timers", Severity.ERROR, what, "store", advice)


def _versions(facts: Facts) -> Iterator[Finding]:
    """Versions that open sagas need: those that are not here, and those that newer ones follow."""
    if facts.known is None:
        return
    needed = Counter(facts.active)
    for held_up in facts.held_up:
        needed[held_up.definition, held_up.version] += held_up.count
    newest: dict[str, int] = {}
    for definition, version in facts.known:
        newest[definition] = max(version, newest.get(definition, 0))
    for (definition, version), count in sorted(needed.items()):
        found = Version(
            definition=definition,
            version=version,
            open=count,
            is_here=(definition, version) in facts.known,
            newest=newest.get(definition),
        )
        if found.advice is not None:
            severity = Severity.INFO if found.is_here else Severity.ERROR
            where = f"{definition} version {version}"
            yield Finding("versions", severity, str(found), where, found.advice)


def _long_histories(facts: Facts) -> Iterator[Finding]:
    for (definition, version), count in sorted(facts.long.items()):
        what = f"{count:,} sagas have histories of {LONG_HISTORY_ENTRIES:,} entries and more, which"
        what += " take long to be brought back"
        where = f"{definition} version {version}"
        yield Finding("histories", Severity.WARNING, what, where, LONG_HISTORY_ADVICE)


def _snapshots(facts: Facts) -> Iterator[Finding]:
    """Those of other code, which is no fault: after a deploy that may be all."""
    for (definition, version), found in sorted(facts.snapshots.items()):
        if useless := found.count - found.usable:
            what = f"{found.count:,} sagas have snapshots, of which today's code cannot use "
            what += f"{useless:,}: other code has written them"
            advice = (
                "nothing: such a saga is replayed whole when it is loaded next, and then its "
                "snapshot is written anew; workers that still run that code use it"
            )
            where = f"{definition} version {version}"
            yield Finding("snapshots", Severity.INFO, what, where, advice)


def _held_up(held_up: HeldUp) -> Finding:
    where = f"{held_up.definition} version {held_up.version}"
    reason = f": {held_up.reason}" if held_up.reason else ""
    sagas = f"{held_up.count:,} sagas are {held_up.status.value}"
    what = f"{sagas}, for example {held_up.example}{reason}"
    if held_up.status is SagaStatus.STALLED:
        advice = "run workers whose application has this version"
        return Finding("stalled", Severity.ERROR, what, where, advice)
    acts = ", or ".join(held_up.acts) or "deploy the code that wrote its history"
    advice = f"look with {command_line('show', held_up.example)}, mend the cause, then {acts}"
    return Finding("parked", Severity.WARNING, what, where, advice)


def _dead_letters(facts: Facts) -> Iterator[Finding]:
    for reason, count in sorted(facts.dead.items()):
        look = command_line("dlq", "ls", "--reason", reason)
        redrive = command_line("dlq", "redrive", "--code", reason)
        advice = f"look with {look}, mend the cause, then {redrive}"
        what = f"{count:,} records are dead letters: {reason}"
        yield Finding("dlq", Severity.WARNING, what, "store", advice)


def _damaged(facts: Facts) -> Iterator[Finding]:
    advice = "mend the row, or restore the store from a backup: until then it is left out, and all"
    advice += " others are served"
    for row in facts.damaged:
        yield Finding("damaged", Severity.ERROR, row, "store", advice)


def _skipped(facts: Facts) -> Iterator[Finding]:
    for skip, count in sorted(facts.skipped.items()):
        what = f"{count:,} records {_whose(skip)} were skipped: {SKIPPED[skip.reason]}"
        is_gone = skip.reason is SkipReason.GONE
        severity = Severity.WARNING if is_gone else Severity.INFO
        yield Finding("skipped", severity, what, skip.topic, SKIP_ADVICE[skip.reason])


def _handlers(facts: Facts) -> Iterator[Finding]:
    advice = "see that a service elsewhere does"
    for domain, names in groupby(sorted(facts.unhandled), lambda name: name.partition(".")[0]):
        what = f"no effect service of this application handles {', '.join(names)}"
        yield Finding("handlers", Severity.INFO, what, domain, advice)


def _outbox(facts: Facts) -> Iterator[Finding]:
    if facts.outbox_waits_s is not None and facts.outbox_waits_s > OUTBOX_LATE_S:
        what = f"an event has waited for {facts.outbox_waits_s:.0f} s"
        advice = "run `saga outbox relay`, and see in its log what it waits for"
        yield Finding("outbox", Severity.ERROR, what, "outbox", advice)
    if facts.outbox_refused:
        what = f"{facts.outbox_refused:,} events were refused by the bus"
        advice = "look with `saga outbox status`, mend the cause, then `saga outbox retry`"
        yield Finding("outbox", Severity.ERROR, what, "outbox", advice)


def _nondeterminism(facts: Facts) -> Iterator[Finding]:
    for where, does, instead in facts.nondeterminism:
        what = f"{does}, which no replay gives again"
        yield Finding("determinism", Severity.WARNING, what, where, instead)


def _doubt(doubt: str) -> Finding:
    where, _, what = doubt.partition(": ")
    what, _, advice = what.partition(": ")
    return Finding("settings", Severity.WARNING, what, where, advice)


def _place(source: Source) -> str:
    return f"{source.topic}[{source.partition}]"


def _whose(skip: Skip) -> str:
    if skip.definition is not None:
        return f"that {skip.definition} listens to"
    return f"from {skip.source}" if skip.source else "that do not say where from"
