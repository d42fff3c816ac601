"""What must hold of every single history, whatever has befallen the world."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from saga.core.events import ReplyOutcome, TimerFired
from saga.core.history import FACTS, Entry
from saga.core.intents import (
    IntentIssued,
    Noted,
    RollbackGoal,
    RollbackPlanned,
    SagaAbandoned,
    SagaCleanedUp,
    SagaCompleted,
    SagaRolledBack,
    TimerArmed,
    TimerCancelled,
    UndoStuck,
    Verdict,
)
from saga.core.status import StepKind
from saga.testing.world.evidence import Evidence, answered, issued, turns_of

_ENDS = (SagaCompleted, SagaRolledBack, SagaAbandoned)


def check_histories(evidence: Evidence) -> Iterator[str]:
    """Yields what is wrong with any of them."""
    for saga_id, history in evidence.histories.items():
        for problem in (
            *_numbering(history),
            *_causes(history),
            *_timers(history),
            *_end(evidence, history),
            *_attempts(history),
            *_direction(history),
            *_plans(history),
            *_undoing(history),
            *_late_successes(history),
        ):
            yield f"{evidence.summaries[saga_id].definition} {saga_id}: {problem}"
    armed = frozenset(timer for history in evidence.histories.values() for timer in _armed(history))
    if armed != evidence.timers:
        yield f"due-index and histories differ: {sorted(armed ^ evidence.timers)[:3]}"


def _numbering(history: Sequence[Entry]) -> Iterator[str]:
    versions = [entry.version for entry in history]
    if versions != list(range(1, len(history) + 1)):
        yield f"versions are not gapless: {versions}"


def _causes(history: Sequence[Entry]) -> Iterator[str]:
    if type(history[0].body) not in FACTS:
        yield f"begins with {history[0].body}"
    times = Counter(turn.fact.cause for turn in turns_of(history))
    for cause, count in times.items():
        if count > 1:
            yield f"cause {cause} has {count} batches of entries"
    for turn in turns_of(history):
        for entry in turn.decided:
            if (entry.cause, entry.at) != (turn.fact.cause, turn.fact.at):
                yield f"entry {entry.version} has another cause or time than its turn"


def _timers(history: Sequence[Entry]) -> Iterator[str]:
    armed: dict[str, TimerArmed] = {}
    known: set[str] = set()
    for entry in history:
        body = entry.body
        if isinstance(body, TimerArmed):
            if body.timer_id in known:
                yield f"timer {body.timer_id} is armed twice"
            known.add(body.timer_id)
            armed[body.timer_id] = body
        elif isinstance(body, TimerCancelled):
            if armed.pop(body.timer_id, None) is None:
                yield f"timer {body.timer_id} is cancelled and was not armed"
        elif isinstance(body, TimerFired):
            timer = armed.pop(body.timer_id, None)
            if (timer is None) is not _is_noted_stale(history, entry):
                said = "not being armed" if timer is None else "armed, and is noted as stale"
                yield f"timer {body.timer_id} fired at entry {entry.version}, {said}"
            elif timer is not None and entry.at < timer.due_at:
                yield f"timer {body.timer_id} fired {timer.due_at - entry.at} microseconds early"


def _is_noted_stale(history: Sequence[Entry], fired: Entry) -> bool:
    """Whether the turn of a timer that fired says that it was armed no longer."""
    following = history[fired.version].body if fired.version < len(history) else None
    return isinstance(following, Noted) and following.verdict is Verdict.STALE


def _armed(history: Sequence[Entry]) -> set[str]:
    armed: set[str] = set()
    for entry in history:
        body = entry.body
        if isinstance(body, TimerArmed):
            armed.add(body.timer_id)
        elif isinstance(body, TimerCancelled | TimerFired):
            armed.discard(body.timer_id)
    return armed


def _end(evidence: Evidence, history: Sequence[Entry]) -> Iterator[str]:
    summary = evidence.summaries[history[0].saga_id]
    if summary.version != len(history):
        yield f"the index says version {summary.version} of {len(history)}"
    ends = [entry for entry in history if isinstance(entry.body, _ENDS)]
    if len(ends) != 1:
        yield f"has {len(ends)} outcomes"
        return
    last = ends[0].body
    residue = getattr(last, "residue", ())
    expected = "abandoned" if isinstance(last, SagaAbandoned) else "completed"
    is_open = False
    for entry in history[ends[0].version :]:
        if isinstance(entry.body, RollbackPlanned):
            is_open = entry.body.goal is RollbackGoal.CLEANED_UP
        elif isinstance(entry.body, SagaCleanedUp):
            is_open, residue = False, entry.body.residue
        elif isinstance(entry.body, IntentIssued) and not is_open:
            yield f"entry {entry.version} issues an intent after the end"
    if isinstance(last, SagaRolledBack):
        expected = "rolled_back_with_residue" if residue else "rolled_back"
    if is_open:
        yield "ends in the middle of cleaning up"
    if summary.status.value != expected:
        yield f"the index says {summary.status.value}, the history {expected}"
    if _armed(history):
        yield f"has ended and armed timers: {sorted(_armed(history))}"


def _attempts(history: Sequence[Entry]) -> Iterator[str]:
    for direction in ("do", "undo"):
        for step, entries in issued(history, direction).items():
            numbers = [e.body.attempt for e in entries if isinstance(e.body, IntentIssued)]
            if numbers != list(range(1, len(numbers) + 1)):
                yield f"{direction} of {step} has attempts {numbers}"
    for entry in history:
        if isinstance(entry.body, Noted) and entry.body.verdict is Verdict.CONFLICTING:
            yield f"entry {entry.version}: two different answers to {entry.body.subject}"


def _direction(history: Sequence[Entry]) -> Iterator[str]:
    undoing = False
    for entry in history:
        if isinstance(entry.body, IntentIssued):
            if entry.body.direction.value == "undo":
                undoing = True
            elif undoing:
                yield f"entry {entry.version} goes forward after the first undo"


def _plans(history: Sequence[Entry]) -> Iterator[str]:
    """A plan holds exactly what may have had an effect, in reverse order of issue."""
    for entry in history:
        plan = entry.body
        if not isinstance(plan, RollbackPlanned) or plan.goal is not RollbackGoal.ROLLED_BACK:
            continue
        before = history[: entry.version - 1]
        expected: list[str] = []
        for step, intents in issued(before, "do").items():
            body = intents[0].body
            assert isinstance(body, IntentIssued)
            is_done = answered(before, step, "do", ReplyOutcome.DONE)
            is_refused = answered(before, step, "do", ReplyOutcome.REFUSED)
            # A pivot that was in flight when the saga was cancelled may still succeed.
            if body.kind is StepKind.PIVOT and is_done and plan.code != "cancelled":
                yield f"entry {entry.version} rolls back past the pivot {step}"
            if body.kind is StepKind.COMPENSATABLE and (is_done or not is_refused):
                expected.insert(0, step)
        planned = [step for group in plan.groups for step in group]
        # Within a group the order means nothing.
        sizes = [len(group) for group in plan.groups]
        if _sorted_in(planned, sizes) != _sorted_in(expected, sizes):
            yield f"entry {entry.version} plans to undo {plan.groups}, expected {expected}"


def _sorted_in(steps: Sequence[str], sizes: Sequence[int]) -> list[list[str]]:
    found: list[list[str]] = []
    begin = 0
    for size in (*sizes, len(steps)):
        found.append(sorted(steps[begin : begin + size]))
        begin += size
    return found


def _undoing(history: Sequence[Entry]) -> Iterator[str]:
    """A group is undone only after the one before it: is undone, or stuck."""
    groups: list[set[str]] = []
    begun: list[str] = []
    for entry in history:
        body = entry.body
        if isinstance(body, RollbackPlanned):
            groups += [set(group) for group in body.groups]
        if not isinstance(body, IntentIssued) or body.direction.value != "undo":
            continue
        before = history[: entry.version]
        together = next((group for group in groups if body.step in group), set())
        for other in begun:
            if other in together or other == body.step:
                continue
            is_undone = answered(before, other, "undo", ReplyOutcome.DONE)
            is_stuck = any(isinstance(e.body, UndoStuck) and e.body.step == other for e in before)
            if not is_undone and not is_stuck:
                yield f"entry {entry.version} undoes {body.step} while {other} is not undone"
        if body.step not in begun:
            begun.append(body.step)


def _late_successes(history: Sequence[Entry]) -> Iterator[str]:
    """What succeeded when nobody expected it any more is undone after that."""
    kinds = {step: entries[0].body for step, entries in issued(history, "do").items()}
    for entry in history:
        body = entry.body
        if not isinstance(body, Noted) or body.verdict is not Verdict.LATE_SUCCESS:
            continue
        _, step, direction, _ = body.subject.split("/")
        first = kinds[step]
        assert isinstance(first, IntentIssued)
        if direction == "undo" or first.kind is not StepKind.COMPENSATABLE:
            continue
        is_stuck = any(isinstance(e.body, UndoStuck) and e.body.step == step for e in history)
        undoes = issued(history, "undo").get(step, ())
        if not is_stuck and not any(one.version > entry.version for one in undoes):
            yield f"entry {entry.version}: the late success of {step} is never undone"
