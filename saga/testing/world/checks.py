"""What must hold when a world, or a real deployment, has come to rest, whatever its sagas do.

The checks share no code with the engine's own fold; each yields what is wrong, in sentences.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Final, TypeVar

from saga.core.events import (
    ChildEnded,
    ChildStatus,
    MarkedAs,
    ReplyOutcome,
    TimerFired,
    TimersAdded,
)
from saga.core.history import Entry
from saga.core.identity import DO, intent_id
from saga.core.intents import (
    Continued,
    IntentIssued,
    IntentTold,
    Noted,
    RollbackGoal,
    RollbackPlanned,
    SagaAbandoned,
    SagaCleanedUp,
    SagaCompleted,
    SagaRolledBack,
    StepSettled,
    TimerArmed,
    TimerCancelled,
    TimerMoved,
    UndoAppended,
    Verdict,
)
from saga.core.status import NEVER_UNDONE, SagaStatus, StepKind, StepStatus
from saga.testing.world.acting import armed_in, check_acts, check_reruns, marked_in
from saga.testing.world.branches import check_branches
from saga.testing.world.children import children_of, is_of_another
from saga.testing.world.evidence import (
    Evidence,
    Line,
)
from saga.testing.world.histories import (
    all_of,
    facts_and_decisions,
    id_of,
    is_answered,
    is_fact,
    issued_in,
    kinds_in,
)
from saga.testing.world.holding import check_holding
from saga.testing.world.kinship import check_kinship
from saga.testing.world.migrations import check_migrations
from saga.testing.world.records import check_records
from saga.testing.world.updates import check_updates

BodyT = TypeVar("BodyT")
_GIVEN_UP: Final = frozenset({StepStatus.UNDO_STUCK, StepStatus.SKIPPED})
_AT_ANY_TIME: Final = frozenset({"cancelled", "compensated", "deadline"})
_ENDS = (SagaCompleted, SagaRolledBack, SagaAbandoned)


def check_all(evidence: Evidence) -> Iterator[str]:
    yield from check_histories(evidence)
    yield from check_records(evidence)
    yield from check_effects(evidence)
    still = frozenset(filter(evidence.is_parked, evidence.histories))
    yield from check_kinship(evidence.histories, still)
    yield from check_reruns(evidence.histories, evidence.is_parked)


def check_histories(evidence: Evidence) -> Iterator[str]:
    for saga_id, history in evidence.histories.items():
        for problem in (
            *_numbering(history),
            *_causes(history),
            *_timers(history),
            *_end(evidence, history),
            *_attempts(history),
            *check_holding(history),
            *check_branches(history),
            *check_acts(history, has_stalled=saga_id in evidence.stalled),
            *check_migrations(history, evidence.summaries[saga_id].definition_version),
            *_of_each_run(history, is_parked=evidence.is_parked(saga_id)),
            *check_updates(history, has_ended=evidence.summaries[saga_id].status.is_ended),
        ):
            yield f"{evidence.summaries[saga_id].definition} {saga_id}: {problem}"
    armed = frozenset(
        timer for history in evidence.histories.values() for timer in armed_in(history)
    )
    if armed != evidence.timers:
        yield f"due-index and histories differ: {sorted(armed ^ evidence.timers)[:3]}"


def _of_each_run(history: Sequence[Entry], *, is_parked: bool) -> Iterator[str]:
    """What an earlier run did is out of reach of the next one; in its place nothing is said."""
    begins = [place for place, entry in enumerate(history) if isinstance(entry.body, Continued)]
    for begin, end in pairwise([0, *begins, len(history)]):
        run = [
            entry if begin <= place < end else replace(entry, body=TimersAdded())
            for place, entry in enumerate(history)
        ]
        yield from _direction(run)
        yield from _plans(run)
        yield from _undoing(run)
        yield from _late_successes(run, is_parked=is_parked and end == len(history))


def _numbering(history: Sequence[Entry]) -> Iterator[str]:
    versions = [entry.version for entry in history]
    if versions != list(range(1, len(history) + 1)):
        yield f"versions are not gapless: {versions}"
    for before, after in pairwise(history):
        if after.at < before.at:
            yield f"entry {after.version} is dated before the one before it"


def _causes(history: Sequence[Entry]) -> Iterator[str]:
    if not is_fact(history[0]):
        yield f"begins with {history[0].body}"
    times: Counter[tuple[str, str | None]] = Counter()
    for fact, decided in facts_and_decisions(history):
        times[fact.cause, fact.source] += 1
        for entry in decided:
            if (entry.cause, entry.at) != (fact.cause, fact.at):
                yield f"entry {entry.version} has another cause or time than its turn"
    for (cause, _), count in times.items():
        if count > 1:
            yield f"cause {cause} has {count} batches of entries"


def _timers(history: Sequence[Entry]) -> Iterator[str]:
    armed: dict[str, TimerArmed] = {}
    names: set[str] = set()
    for entry in history:
        match entry.body:
            case TimerArmed(timer_id=timer_id) as timer:
                if timer_id in names:
                    yield f"timer {timer_id} is armed twice"
                names.add(timer_id)
                armed[timer_id] = timer
            case TimerMoved(timer_id=timer_id, due_at=due_at):
                if timer_id in armed:
                    armed[timer_id] = replace(armed[timer_id], due_at=due_at)
                else:
                    yield f"timer {timer_id} is moved and was not armed"
            case TimerCancelled(timer_id=timer_id):
                if armed.pop(timer_id, None) is None:
                    yield f"timer {timer_id} is cancelled and was not armed"
            case TimerFired(timer_id=timer_id):
                fired = armed.pop(timer_id, None)
                if (fired is None) is not _is_noted_stale(history, entry):
                    how = "not being armed" if fired is None else "armed, and is noted as stale"
                    yield f"timer {timer_id} fired at entry {entry.version}, {how}"
                elif fired is not None and entry.at < fired.due_at:
                    yield f"timer {timer_id} fired {fired.due_at - entry.at} microseconds early"


def _is_noted_stale(history: Sequence[Entry], fired: Entry) -> bool:
    following = history[fired.version].body if fired.version < len(history) else None
    return isinstance(following, Noted) and following.verdict is Verdict.STALE


def _end(evidence: Evidence, history: Sequence[Entry]) -> Iterator[str]:
    summary = evidence.summaries[history[0].saga_id]
    if summary.version != len(history):
        yield f"the index says version {summary.version} of {len(history)}"
    ends = [
        entry
        for entry in history
        if isinstance(entry.body, _ENDS) and not getattr(entry.body, "had_outcome", False)
    ]
    if summary.status is SagaStatus.PARKED and len(ends) < 2:  # noqa: PLR2004  # an end at most
        return
    is_undone = len(ends) > 1 and getattr(ends[1].body, "undo", None) is not None
    if len(ends) != 1 + is_undone:  # a child that had completed may be undone, once
        yield f"has {len(ends)} outcomes"
        return
    if is_undone and not isinstance(ends[0].body, SagaCompleted):
        yield "is undone, and had not completed"
    yield from _behind_end(history, ends[0].version)
    last = ends[-1].body
    bodies = (entry.body for entry in history)
    said = [body for body in bodies if isinstance(body, SagaRolledBack | SagaCleanedUp)]
    is_abandoned = any(isinstance(entry.body, SagaAbandoned) for entry in history)
    expected = "abandoned" if is_abandoned else "completed"
    if isinstance(last, SagaRolledBack) and not is_abandoned:
        expected = "rolled_back_with_residue" if said[-1].residue else "rolled_back"
    if summary.status.value != expected:
        yield f"the index says {summary.status.value}, the history {expected}"
    if armed := armed_in(history):
        yield f"has ended and armed timers: {sorted(armed)}"


def _behind_end(history: Sequence[Entry], end: int) -> Iterator[str]:
    """Behind its end a saga cleans up, or is undone as a child; nothing else is issued."""
    is_open = False
    for entry in history[end:]:
        if isinstance(entry.body, RollbackPlanned):
            is_open = entry.body.goal is not RollbackGoal.COMPLETED
        elif isinstance(entry.body, (SagaCleanedUp, *_ENDS)):
            is_open = False
        elif isinstance(entry.body, IntentIssued) and not is_open:
            yield f"entry {entry.version} issues an intent after the end"
    if is_open:
        yield "ends in the middle of cleaning up"


def _attempts(history: Sequence[Entry]) -> Iterator[str]:
    for direction in ("do", "undo"):
        for step, intents in issued_in(history, direction).items():
            numbers = [intent.attempt for _, intent in intents]
            if numbers != list(range(1, len(numbers) + 1)):
                yield f"{direction} of {step} has attempts {numbers}"
    begun: set[str] = set()
    for version, intent in all_of(history, IntentIssued):
        if unknown := set(intent.after or ()) - begun:
            yield f"entry {version}: {intent.step} depends on {unknown}, which never began"
        begun.add(intent.step)
    entered = marked_in(history, MarkedAs.DONE)
    for version, noted in all_of(history, Noted):
        if noted.verdict is not Verdict.CONFLICTING or is_of_another(history[version - 1]):
            continue
        if noted.subject.split("/")[1] not in entered:
            yield f"entry {version}: two different answers to {noted.subject}"


def _direction(history: Sequence[Entry]) -> Iterator[str]:
    """Once the saga itself is being undone, nothing is done any more."""
    is_rolling_back = undoing = False
    for entry in history:
        body = entry.body
        if isinstance(body, RollbackPlanned):
            is_rolling_back |= body.scope is None
        if not isinstance(body, IntentIssued):
            continue
        is_undo = body.direction.value == "undo"
        if undoing and not is_undo:
            yield f"entry {entry.version} goes forward after the first undo"
        undoing |= is_undo and is_rolling_back


def _plans(history: Sequence[Entry]) -> Iterator[str]:
    """A plan holds exactly what may have had an effect, what depended on a step before it."""
    for version, plan in all_of(history, RollbackPlanned):
        planned = [undo.step for undo in plan.steps]
        yield from _planned_too_early(version, planned, _dependencies(history[: version - 1]))
        if plan.goal in (RollbackGoal.ROLLED_BACK, RollbackGoal.SCOPE_LEFT):
            yield from _planned_set(history[: version - 1], version, plan)


def _planned_set(before: Sequence[Entry], version: int, plan: RollbackPlanned) -> Iterator[str]:
    expected: set[str] = set()
    undone = issued_in(before, "undo").keys()
    """By a scope, or taken over from one."""
    ended = _children_ended(before)
    for step, kind in _kinds_in(before, plan.scope).items():
        if step in ended:
            if ended[step] is ChildStatus.COMPLETED:
                expected.add(step)
            continue
        is_done = is_answered(before, step, "do", ReplyOutcome.DONE)
        is_refused = is_answered(before, step, "do", ReplyOutcome.REFUSED)
        # A pivot that was in flight when the saga was cancelled may still succeed.
        # An operator may have all undone that can be.
        if kind is StepKind.PIVOT and is_done and plan.code not in _AT_ANY_TIME:
            yield f"entry {version} rolls back past the pivot {step}"
        if kind is StepKind.COMPENSATABLE and (is_done or not is_refused):
            expected.add(step)
    planned = {undo.step for undo in plan.steps}
    if len(planned) < len(plan.steps) or planned - undone != expected - undone:
        yield f"entry {version} plans to undo {planned}, expected {sorted(expected - undone)}"
    if planned & _settled_undos(before):
        yield f"entry {version} plans to undo what is undone: {planned & _settled_undos(before)}"


def _settled_undos(before: Sequence[Entry]) -> set[str]:
    """The steps that are undone, and of which no success came late."""
    late = {
        noted.subject.split("/")[1]
        for _, noted in all_of(before, Noted)
        if noted.verdict is Verdict.LATE_SUCCESS
    }
    undone = issued_in(before, "undo").keys() - late
    return {step for step in undone if is_answered(before, step, "undo", ReplyOutcome.DONE)}


def _kinds_in(history: Sequence[Entry], scope: str | None) -> dict[str, StepKind]:
    """`_kinds` of the steps of a scope, and of those within it; None: of all."""
    if scope is None:
        return kinds_in(history)
    scopes: dict[str, str | None] = {
        intent.step: intent.scope for _, intent in all_of(history, IntentIssued)
    }
    return {
        step: kind
        for step, kind in kinds_in(history).items()
        if f"{scopes[step]}/".startswith(f"{scope}/")
    }


def _children_ended(history: Sequence[Entry]) -> dict[str, ChildStatus]:
    """By step how the child ended that it had started, as far as that was believed."""
    ended: dict[str, ChildStatus] = {}
    for fact, decided in facts_and_decisions(history):
        body = fact.body
        if not isinstance(body, ChildEnded) or f"/{DO}/" not in body.intent_id:
            continue
        note = decided[0].body if decided else None
        if not (isinstance(note, Noted) and note.verdict is Verdict.CONFLICTING):
            ended.setdefault(body.intent_id.split("/")[1], body.status)
    return ended


def _planned_too_early(
    version: int, planned: Sequence[str], dependencies: Mapping[str, set[str]]
) -> Iterator[str]:
    for place, step in enumerate(planned):
        for later in planned[place + 1 :]:
            if step in dependencies[later]:
                yield f"entry {version} plans {step} before {later}, which depended on it"


def _dependencies(history: Sequence[Entry]) -> dict[str, set[str]]:
    """Of each step all those that it depended on, near and far."""
    dependencies: dict[str, set[str]] = {}
    last: tuple[str, ...] = ()
    for _, intent in all_of(history, IntentIssued):
        if intent.direction.value != "do" or intent.step in dependencies:
            continue
        nearest = last if intent.after is None else intent.after
        far = (dependencies.get(step, set()) for step in nearest)
        dependencies[intent.step] = set(nearest).union(*far)
        last = (intent.step,)
    return dependencies


def _stuck(history: Sequence[Entry]) -> set[str]:
    """The steps whose undo was stuck, or that were left as they are."""
    settled = (each for _, each in all_of(history, StepSettled))
    return {each.step for each in settled if each.status in _GIVEN_UP}


def stuck_steps(history: Sequence[Entry]) -> list[str]:
    """The steps whose undo is stuck by now, in order."""
    stuck: dict[str, None] = {}
    for entry in history:
        match entry.body:
            case StepSettled(step=step, status=StepStatus.UNDO_STUCK):
                stuck[step] = None
            case StepSettled(step=step) | IntentIssued(step=step):
                stuck.pop(step, None)
    return list(stuck)


def _closed(history: Sequence[Entry]) -> set[str]:
    """The steps of which it was found out that there is nothing to undo, or nothing that can be."""
    settled = (each for _, each in all_of(history, StepSettled))
    return {each.step for each in settled if each.status in _CLOSED}


_CLOSED: Final = frozenset({StepStatus.UNDONE, StepStatus.SKIPPED, StepStatus.REFUSED})


def _undoing(history: Sequence[Entry]) -> Iterator[str]:
    """What depended on a step is undone before it, or stuck; in turn where the plan says so."""
    dependencies = _dependencies(history)
    appended = {undo.step for _, undo in all_of(history, UndoAppended)}
    planned: dict[str, tuple[int, bool]] = {}
    """Of each step the plan that it is in now, and whether that goes step by step."""
    begun: set[str] = set()
    for entry in history:
        body = entry.body
        if isinstance(body, RollbackPlanned):
            in_turn = body.one_by_one or all(undo.after is None for undo in body.steps)
            plan = (entry.version, bool(in_turn))
            planned |= dict.fromkeys((undo.step for undo in body.steps), plan)
        if not isinstance(body, IntentIssued) or body.direction.value != "undo":
            continue
        before = history[: entry.version]
        settled = {body.step, *_stuck(before), *_closed(before)}
        for other, plan in planned.items():
            if other in settled or is_answered(before, other, "undo", ReplyOutcome.DONE):
                continue
            # Nothing had happened, as was known only once it was planned.
            if other not in begun and is_answered(before, other, "do", ReplyOutcome.REFUSED):
                continue
            is_in_turn = plan[1] and plan == planned.get(body.step) and body.attempt == 1
            if other in begun and is_in_turn:
                yield f"entry {entry.version} undoes {body.step} while {other} is being undone"
            elif other not in appended and body.step in dependencies[other]:
                yield f"entry {entry.version} undoes {body.step}, and {other} is not undone"
        begun.add(body.step)


def _late_successes(history: Sequence[Entry], *, is_parked: bool) -> Iterator[str]:
    """A step whose success came late is undone after that."""
    kinds, undoes = kinds_in(history), issued_in(history, "undo")
    if any(all_of(history, SagaAbandoned)):
        return  # nobody undoes what it has done
    for version, noted in all_of(history, Noted):
        if noted.verdict is not Verdict.LATE_SUCCESS:
            continue
        _, step, direction, _ = noted.subject.split("/")
        if direction == "undo" or kinds[step] is not StepKind.COMPENSATABLE:
            continue
        # A child that completes before its undo has reached it is undone by that.
        after = 0 if step in children_of(history) else version
        is_taken_back = any(later > after for later, _ in undoes.get(step, ()))
        if not is_taken_back and not is_parked and step not in _stuck(history):
            yield f"entry {version}: the late success of {step} is never undone"


def check_effects(evidence: Evidence) -> Iterator[str]:
    """Yields what is wrong: each effect is carried out once, and undone where it has to be."""
    by_saga: dict[str, list[Line]] = {}
    for line in evidence.ledger:
        by_saga.setdefault(line.saga_id, []).append(line)
    for saga_id in by_saga.keys() - evidence.histories.keys():
        yield f"services have worked for {saga_id}, which is no saga"
    for saga_id, history in evidence.histories.items():
        for problem in _of_saga(evidence, history, by_saga.get(saga_id, [])):
            yield f"{evidence.summaries[saga_id].definition} {saga_id}: {problem}"


def _of_saga(evidence: Evidence, history: Sequence[Entry], lines: Sequence[Line]) -> Iterator[str]:
    saga_id = history[0].saga_id
    intents = {id_of(saga_id, intent) for _, intent in all_of(history, IntentIssued)}
    told = {intent_id(saga_id, each.step, DO, 1) for _, each in all_of(history, IntentTold)}
    done: dict[str, Line] = {}
    undone: dict[str, Line] = {}
    for line in lines:
        if line.intent_id in told:
            continue
        if line.intent_id not in intents:
            yield f"{line.intent_id} was carried out and never issued"
        sums = done if line.direction == "do" else undone
        if line.step in sums:
            yield f"{line.direction} of {line.step} was carried out twice"
        sums[line.step] = line
    for step, line in undone.items():
        if step not in done or done[step].number > line.number:
            yield f"{step} was undone before it was done"
    if not evidence.is_parked(saga_id):
        yield from _standing(history, done.keys() - undone.keys())
    yield from _order(history, undone)


def _standing(history: Sequence[Entry], standing: set[str]) -> Iterator[str]:
    """What stands of an ended saga's last run is what its outcome says."""
    begins = [place for place, entry in enumerate(history) if isinstance(entry.body, Continued)]
    history = history[begins[-1] :] if begins else history
    own = kinds_in(history).items()
    steps = {step for step, kind in own if kind not in NEVER_UNDONE} - children_of(history)
    residue: set[str] = set()
    end: object = None
    for entry in history:
        if isinstance(entry.body, _ENDS):
            end = entry.body
        if isinstance(entry.body, SagaRolledBack | SagaCleanedUp):
            residue = set(entry.body.residue)
    steps -= marked_in(history, MarkedAs.DONE) | marked_in(history, MarkedAs.UNDONE)
    if isinstance(end, SagaRolledBack):
        if left := (standing & steps) - residue:
            yield f"rolled back, and {sorted(left)} is not undone"
    elif isinstance(end, SagaCompleted):
        undone = issued_in(history, "undo")
        is_done = {step for step in steps if is_answered(history, step, "do", ReplyOutcome.DONE)}
        expected = is_done - undone.keys()
        if standing & steps - _unheard(history) != expected:
            yield f"completed: {sorted(standing & steps)} stands, expected {sorted(expected)}"


def _unheard(history: Sequence[Entry]) -> set[str]:
    """The steps without an undo whose time ran out: nobody has heard whether they were done."""
    kinds, settled = kinds_in(history), (each for _, each in all_of(history, StepSettled))
    return {
        each.step
        for each in settled
        if each.status is StepStatus.IN_DOUBT
        and kinds[each.step] is not StepKind.COMPENSATABLE
        and not is_answered(history, each.step, "do", ReplyOutcome.DONE)
    }


def _order(history: Sequence[Entry], undone: dict[str, Line]) -> Iterator[str]:
    """What depended on a step is undone before it, but for late successes and stuck undos."""
    late = _stuck(history) | {appended.step for _, appended in all_of(history, UndoAppended)}
    for _, plan in all_of(history, RollbackPlanned):
        if plan.goal is RollbackGoal.CLEANED_UP:
            late.update(undo.step for undo in plan.steps)
    dependencies = _dependencies(history)
    begun = {step: intents[0][0] for step, intents in issued_in(history, "do").items()}
    undoing = {step: intents[0][0] for step, intents in issued_in(history, "undo").items()}
    lines = sorted(undone.values(), key=lambda line: line.number)
    in_order = [line.step for line in lines if line.step not in late]
    for place, earlier in enumerate(in_order):
        for later in in_order[place + 1 :]:
            # What follows a scope that was undone depends on it, and came after that.
            if earlier in dependencies[later] and begun[later] < undoing[earlier]:
                yield f"{earlier} was undone before {later}, which depended on it"
