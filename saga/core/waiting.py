"""Waits and what ends them: a turn gives an arrival to a wait, or a wait what was kept for it.

Which one a wait that selects takes is asked of the program in the live turn, and recorded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from operator import itemgetter

from saga.core import pauses, program, updates
from saga.core.arrivals import kept_as, kept_for, selects
from saga.core.decider import RECORDED, Disposition
from saga.core.events import Arrival, EventReceived, SignalReceived, UpdateReceived, channel_of
from saga.core.intents import (
    UPDATE_ENDED,
    UPDATE_INVALID,
    UPDATE_NOT_NOW,
    ArrivalRefused,
    EventAwaited,
    SignalAwaited,
    TimerPurpose,
    UpdateAnswered,
    Verdict,
    WaitEnded,
)
from saga.core.turn import Turn


def receive(turn: Turn, arrival: Arrival) -> tuple[Disposition, str | None]:
    """Give an arrival to the oldest wait that takes it, which is named, or keep it."""
    state = turn.state
    if isinstance(arrival, UpdateReceived) and updates.is_anothers(turn, arrival):
        return Disposition.CONFLICT, None
    if state.has_ended:
        return _too_late(turn, arrival), None
    waits = state.waits.get(channel_of(arrival))
    if not waits:
        return _keep(turn, arrival), None
    wait: str | None = next(iter(waits))
    is_chosen = selects(state.waited[next(iter(waits))])
    if is_chosen:
        wait = _choose_wait(turn, arrival, waits)
    if not isinstance(arrival, EventReceived):
        refusal = turn.refusal(_refusal, turn, wait, arrival)
        if refusal is not None:
            return _refuse(turn, arrival, UPDATE_INVALID, refusal), None
    if wait is None:
        return _keep(turn, arrival), None
    turn.take_fact()
    if is_chosen:
        turn.record(WaitEnded(wait=wait, took=turn.version))
    turn.disarm(turn.timer_id(TimerPurpose.WAIT, wait))
    return RECORDED, wait


def _too_late(turn: Turn, arrival: Arrival) -> Disposition:
    if isinstance(arrival, EventReceived):
        return Disposition.AFTER_END
    why = f"the saga is {turn.state.status.value}"
    if isinstance(arrival, UpdateReceived):
        return updates.refuse(turn, arrival, Verdict.AFTER_END, UPDATE_ENDED, why)
    return turn.note(Verdict.AFTER_END, arrival.name, why)


def _keep(turn: Turn, arrival: Arrival) -> Disposition:
    """Keep what no wait has taken, unless nothing ahead can take it."""
    state = turn.state
    if state.plan is None and not (state.is_stopping or state.is_finishing):
        refusal = turn.refusal(turn.program.takes, arrival)
        if refusal is not None:
            return _refuse(turn, arrival, UPDATE_NOT_NOW, refusal)
    turn.take_fact()
    return RECORDED


def refuse_kept(turn: Turn) -> None:
    """Refuse what was kept for what is ahead no more, in order of arrival."""
    kept = [item for arrivals in turn.state.kept.values() for item in arrivals.items()]
    for version, arrival in sorted(kept, key=itemgetter(0)):
        refusal = turn.program.takes(arrival)
        if refusal is None:
            continue
        turn.record(_refused(version, arrival, UPDATE_NOT_NOW, refusal))


def _refused(
    version: int, arrival: Arrival, code: str, why: str
) -> UpdateAnswered | ArrivalRefused:
    """The refusal of what was kept."""
    if isinstance(arrival, UpdateReceived):
        return UpdateAnswered(update=arrival.update, code=code, message=why)
    return ArrivalRefused(arrived=version, detail=why)


def _refuse(turn: Turn, arrival: Arrival, code: str, why: str) -> Disposition:
    match arrival:
        case UpdateReceived():
            return updates.refuse(turn, arrival, Verdict.REFUSED, code, why)
        case SignalReceived():
            return turn.note(Verdict.REFUSED, f"signal {arrival.name}", why)
        case EventReceived():
            return turn.note(Verdict.REFUSED, f"event {arrival.contract}", why)


def begin(turn: Turn, command: program.Await) -> Arrival | None:
    """Record that a wait begins; what it takes at once, if anything, else its timer is armed."""
    taken = _begin(turn, command)
    if taken is None and command.timeout_us is not None:
        turn.arm(TimerPurpose.WAIT, command.wait, command.timeout_us)
    return taken


def put_off(turn: Turn, command: program.Await, held: deque[pauses.Held], *, since: int) -> bool:
    """Put a wait off for which something was kept, if that came behind what is *held* from a pause.

    One that has been put off until the version of *since* begins. One that selects does so at once.
    """
    awaited = _awaited(turn, command)
    version, _ = next(kept_for(turn.state, awaited), (0, None))
    if selects(awaited) or version <= since or version < held[0].version:
        return False
    pauses.put_in(held, pauses.PutOff(version, command))
    return True


def offer(turn: Turn, wait: str, version: int) -> Arrival | None:
    """Offer what was kept with the entry of this *version* to a wait that selects."""
    awaited = turn.state.waited.get(wait)
    kept = None if awaited is None else kept_as(turn.state, awaited, version)
    if kept is None:
        return None
    if turn.recorded is None:
        is_taken = turn.program.accepts(wait, kept)
    else:
        is_taken = WaitEnded(wait=wait, took=version) in turn.recorded
    if not is_taken:
        return None
    turn.record(WaitEnded(wait=wait, took=version))
    turn.disarm(turn.timer_id(TimerPurpose.WAIT, wait))
    return kept


def _awaited(turn: Turn, command: program.Await) -> SignalAwaited | EventAwaited:
    """What is recorded of a wait that begins now."""
    wait, signals, contracts = command.wait, command.signals, command.contracts
    if len(signals) == 1 and not contracts and not command.updates:
        return SignalAwaited(wait=wait, name=signals[0])
    recorded = turn.recorded_wait(wait)
    return EventAwaited(
        wait=wait,
        contracts=contracts,
        signals=signals,
        updates=command.updates,
        selects=command.selects if recorded is None else recorded.selects,
    )


def _begin(turn: Turn, command: program.Await) -> Arrival | None:
    wait, awaited = command.wait, _awaited(turn, command)
    if isinstance(awaited, SignalAwaited):
        return _begin_for_signal(turn, awaited)
    if command.updates or command.signals:
        _refuse_unfit(turn, awaited)
    kept = kept_for(turn.state, awaited)
    if not awaited.selects:
        _, taken = next(kept, (0, None))
        turn.record(awaited)
        return taken
    turn.record(awaited)
    kept = _offered(turn, wait, kept)
    if turn.recorded_wait(wait) is None:
        took = next((version for version, each in kept if turn.program.accepts(wait, each)), None)
    elif not turn.held:
        took = turn.recorded_choice(wait)
    else:
        choice = turn.recorded_choice(wait)
        took = next((version for version, _ in kept if version == choice), None)
    if took is None:
        return None
    taken = kept_as(turn.state, awaited, took)
    turn.record(WaitEnded(wait=wait, took=took))
    return taken


def _offered(
    turn: Turn, wait: str, kept: Iterator[tuple[int, Arrival]]
) -> Iterator[tuple[int, Arrival]]:
    """What of all that was *kept* a wait may take at once; the rest is behind what is held yet."""
    if not turn.held:
        yield from kept
        return
    all_kept, first = list(kept), turn.held[0].version
    later = [pauses.Offer(version, wait) for version, _ in all_kept if version >= first]
    pauses.put_in(turn.held, *later)
    yield from (each for each in all_kept if each[0] < first)


def _refuse_unfit(turn: Turn, awaited: EventAwaited) -> None:
    """Refuse the oldest kept signals and updates whose content a wait, about to begin, cannot take.

    One that selects may take any that was kept. What was kept while nobody could be asked, at the
    end of a run or in a pause before the start, was not looked at when it came.
    """
    recorded = turn.recorded_unfit(awaited.wait)
    for version, arrival in list(kept_for(turn.state, awaited)):
        refused: UpdateAnswered | ArrivalRefused | None = None
        if recorded is not None:
            name = arrival.update if isinstance(arrival, UpdateReceived) else version
            refused = recorded.get(name)
        elif not isinstance(arrival, EventReceived):
            why = turn.program.refusal_of(awaited.wait, arrival)
            refused = None if why is None else _refused(version, arrival, UPDATE_INVALID, why)
        if refused is not None:
            turn.record(refused)
        elif not awaited.selects:
            return


def _begin_for_signal(turn: Turn, awaited: SignalAwaited) -> Arrival | None:
    """Signals that a wait for one name cannot take are refused, and gone."""
    kept = (each for _, each in kept_for(turn.state, awaited))
    taken: Arrival | None = None
    refusals = turn.recorded_refusals(awaited.wait)
    if refusals is not None:
        taken = next(islice(kept, len(refusals), None), None)
    else:
        refusals = []
        for arrival in kept:
            refusal = _refusal(turn, awaited.wait, arrival)
            if refusal is None:
                taken = arrival
                break
            refusals.append(refusal)
    refused = len(refusals) or None
    turn.record(SignalAwaited(wait=awaited.wait, name=awaited.name, refused=refused))
    for refusal in refusals:
        turn.note(Verdict.REFUSED, f"signal {awaited.name}", refusal)
    return taken


def _refusal(turn: Turn, wait: str | None, arrival: Arrival) -> str | None:
    return None if wait is None else turn.program.refusal_of(wait, arrival)


def _choose_wait(turn: Turn, arrival: Arrival, waits: Iterable[str]) -> str | None:
    """The oldest wait that takes an arrival, as it was recorded; else as the program says."""
    if turn.recorded is not None:
        first = turn.recorded[0] if turn.recorded else None
        if isinstance(first, WaitEnded) and first.took == turn.version:
            return first.wait
        return None
    waited = turn.state.waited
    for wait in waits:
        if not selects(waited[wait]) or turn.program.accepts(wait, arrival):
            return wait
    return None
