"""From facts to findings: pure, so that each rule is tested without a server."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Final

from saga.console.cli.doctor.facts import Facts, Finding, Group, HeldUp, Severity
from saga.core.status import SagaStatus
from saga.ports import Source
from saga.ports.bus import why_lost

CLOCK_SKEW_S_MAX: Final = 2.0
"""Beyond it timers and times that people read are off; nothing else depends on clocks."""
CLOCK_SKEW_ALARMING_S: Final = 30.0
BACKLOG_LATE_S: Final = 10.0
BACKLOG_STUCK_S: Final = 60.0
TIMER_LATE_S: Final = 30.0
OUTBOX_LATE_S: Final = 60.0

_ORDER: Final = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.INFO: 2}


def judge(facts: Facts, *, lag_max: int) -> list[Finding]:
    """All that is wrong, the worst first. A group more than *lag_max* records behind is late."""
    findings = [
        *facts.unreachable,
        *_topics(facts),
        *_positions(facts),
        *(finding for group in facts.groups for finding in _group(facts, group, lag_max)),
        *_schemas(facts),
        *_clock(facts),
        *_relay(facts),
        *_timers(facts),
        *_versions(facts),
        *(_held_up(held_up) for held_up in facts.held_up),
        *_dead_letters(facts),
        *_handlers(facts),
        *_outbox(facts),
    ]
    return sorted(findings, key=lambda finding: _ORDER[finding.severity])


def _topics(facts: Facts) -> Iterator[Finding]:
    for topic in facts.missing:
        yield Finding(
            check="topics",
            severity=Severity.ERROR,
            what="the topic does not exist",
            where=topic,
            advice="run `saga topics create`",
        )
    for problem in facts.topic_problems:
        if problem.topic not in facts.missing:
            yield Finding(
                check="topics",
                severity=Severity.WARNING if problem.is_warning else Severity.ERROR,
                what=problem.problem,
                where=problem.topic,
                advice="set the topic as the settings say (`saga topics check` compares), or "
                "change the settings",
            )


def _positions(facts: Facts) -> Iterator[Finding]:
    for source, offset in sorted(facts.accounted.items()):
        bounds = facts.bounds.get(source)
        if bounds is None:
            continue
        lost = why_lost(source, offset + 1, *bounds)
        if lost is not None:
            yield Finding(
                check="positions",
                severity=Severity.ERROR,
                what=lost,
                where=_place(source),
                advice="its worker does not read on by itself: bring the records back, or decide "
                "to go on without them and set the position",
            )


def _group(facts: Facts, group: Group, lag_max: int) -> Iterator[Finding]:
    lag = sum(_lag(facts, group, source) for source in group.sources)
    if lag and group.members == 0:
        yield Finding(
            check="workers",
            severity=Severity.ERROR,
            what=f"{lag:,} records wait and nobody reads them",
            where=group.name,
            advice=f"start a worker: `saga run --roles {group.role}`",
        )
    elif lag > lag_max:
        yield Finding(
            check="lag",
            severity=Severity.WARNING,
            what=f"is {lag:,} records behind",
            where=group.name,
            advice="wait if it shrinks; else look for errors in the workers' logs, and start "
            "more of them",
        )
    for source in sorted(group.sources):
        if group.role == "orchestrator" or source not in facts.bounds:
            continue  # the store's positions count there, and are judged above
        following = group.following.get(source)
        begin, end = facts.bounds[source]
        if following is not None and not begin <= following <= end:
            yield Finding(
                check="positions",
                severity=Severity.ERROR,
                what=f"is at {following}, but the topic has {begin} to {end}",
                where=f"{group.name}: {_place(source)}",
                advice="records were removed before they were read, or the topic was made anew: "
                "find out which, then reset the group's offsets",
            )


def _lag(facts: Facts, group: Group, source: Source) -> int:
    begin, end = facts.bounds.get(source, (0, 0))
    return max(0, end - max(begin, group.following.get(source, begin)))


def _schemas(facts: Facts) -> Iterator[Finding]:
    for schema in facts.schemas:
        if schema.stored == schema.needed:
            continue
        what = (
            "has no tables yet"
            if schema.stored == 0
            else f"tables have version {schema.stored}, this saga needs {schema.needed}"
        )
        yield Finding(
            check="schema",
            severity=Severity.ERROR,
            what=what,
            where=schema.component,
            advice="run `saga store migrate`",
        )


def _clock(facts: Facts) -> Iterator[Finding]:
    ahead = facts.store_ahead_s
    if ahead is not None and abs(ahead) > CLOCK_SKEW_S_MAX:
        word = "ahead of" if ahead > 0 else "behind"
        is_alarming = abs(ahead) > CLOCK_SKEW_ALARMING_S
        yield Finding(
            check="clock",
            severity=Severity.ERROR if is_alarming else Severity.WARNING,
            what=f"the store's clock is {abs(ahead):.1f} s {word} this machine's",
            where="store",
            advice="let all machines keep time by NTP: timers fire by the workers' clocks",
        )


def _relay(facts: Facts) -> Iterator[Finding]:
    waits = facts.backlog_s
    if waits is not None and waits > BACKLOG_LATE_S:
        yield Finding(
            check="relay",
            severity=Severity.ERROR if waits > BACKLOG_STUCK_S else Severity.WARNING,
            what=f"what was decided {waits:.0f} s ago is not published yet",
            where="store",
            advice="see that an orchestrator runs and reaches the bus: it publishes what is left",
        )


def _timers(facts: Facts) -> Iterator[Finding]:
    late = facts.timer_late_s
    if late is not None and late > TIMER_LATE_S:
        yield Finding(
            check="timers",
            severity=Severity.ERROR,
            what=f"a timer has been due for {late:.0f} s",
            where="store",
            advice="see that an orchestrator runs; `saga timers` lists them",
        )


def _versions(facts: Facts) -> Iterator[Finding]:
    if facts.known is None:
        return
    for (definition, version), count in sorted(facts.active.items()):
        if (definition, version) not in facts.known:
            yield Finding(
                check="versions",
                severity=Severity.ERROR,
                what=f"{count:,} unfinished sagas, and this application has no such version",
                where=f"{definition} version {version}",
                advice="keep the version in the application until its sagas have ended",
            )


def _held_up(held_up: HeldUp) -> Finding:
    is_stalled = held_up.status is SagaStatus.STALLED
    reason = f": {held_up.reason}" if held_up.reason else ""
    sagas = f"{held_up.count:,} sagas are {held_up.status.value}"
    return Finding(
        check="stalled" if is_stalled else "parked",
        severity=Severity.ERROR if is_stalled else Severity.WARNING,
        what=f"{sagas}, for example {held_up.example}{reason}",
        where=f"{held_up.definition} version {held_up.version}",
        advice="run workers whose application has this version"
        if is_stalled
        else f"look with `saga show`, mend the cause, then `saga release {held_up.example}`",
    )


def _dead_letters(facts: Facts) -> Iterator[Finding]:
    for reason, count in sorted(facts.dead.items()):
        yield Finding(
            check="dlq",
            severity=Severity.WARNING,
            what=f"{count:,} records are dead letters: {reason}",
            where="store",
            advice="look with `saga dlq ls`, mend the cause, then `saga dlq redrive`",
        )


def _handlers(facts: Facts) -> Iterator[Finding]:
    domains = groupby(sorted(facts.unhandled), key=lambda name: name.partition(".")[0])
    for domain, names in domains:
        listed = list(names)
        yield Finding(
            check="handlers",
            severity=Severity.INFO,
            what=f"no effect service of this application handles {', '.join(listed)}",
            where=domain,
            advice="see that a service elsewhere does",
        )


def _outbox(facts: Facts) -> Iterator[Finding]:
    if facts.outbox_waits_s is not None and facts.outbox_waits_s > OUTBOX_LATE_S:
        yield Finding(
            check="outbox",
            severity=Severity.ERROR,
            what=f"an event has waited for {facts.outbox_waits_s:.0f} s",
            where="outbox",
            advice="run `saga outbox relay`, and see in its log what it waits for",
        )
    if facts.outbox_refused:
        yield Finding(
            check="outbox",
            severity=Severity.ERROR,
            what=f"{facts.outbox_refused:,} events were refused by the bus",
            where="outbox",
            advice="look with `saga outbox status`, mend the cause, then `saga outbox retry`",
        )


def _place(source: Source) -> str:
    return f"{source.topic}[{source.partition}]"
