"""A service says that it still works on an intent: the deadline of that attempt begins anew."""

from __future__ import annotations

from typing import Final

from saga.core import events, intents
from saga.core.decider import RECORDED, Disposition
from saga.core.identity import Instant, parse_intent_id
from saga.core.intents import TimerPurpose
from saga.core.runs import is_of_earlier_run
from saga.core.turn import Turn

NEWS_SHARE: Final = 3
"""Of a deadline: progress is recorded once in such a part, however often a service says it."""


def progress(turn: Turn, fact: events.ProgressReceived) -> Disposition:
    """Put off the deadline of the attempt that *fact* is about; it may be over, or have none."""
    state, name = turn.state, parse_intent_id(fact.intent_id)
    step = None if name is None else state.steps.get(name.step)
    if name is None or step is None:
        is_over = name is not None and is_of_earlier_run(state, name.step)
        return Disposition.NO_NEWS if is_over else Disposition.UNKNOWN
    if not state.was_issued(name):
        return Disposition.UNKNOWN
    if turn.recorded is not None:
        turn.take_fact()
        for moved in turn.recorded:
            turn.record(moved)
        return RECORDED
    place = f"{name.step}/{name.direction.value}/{name.attempt}"
    timer = state.timers.get(turn.timer_id(TimerPurpose.DEADLINE, place))
    if timer is None or (length_us := turn.policy(step).timeout_us) is None:
        return Disposition.NO_NEWS
    due_at = Instant(turn.at + length_us)
    if due_at - timer.due_at < length_us // NEWS_SHARE:
        return Disposition.NO_NEWS
    turn.take_fact()
    turn.record(intents.TimerMoved(timer_id=timer.timer_id, due_at=due_at))
    return RECORDED
