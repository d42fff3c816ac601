"""What arrives for a saga and is kept until it is taken: signals, updates, events of others.

Theory of operation: each has a channel, and is known there by the version of its entry. The oldest
one goes to the oldest wait for its channel as soon as there are both. A wait may be for several
channels, and takes what arrived first. One that selects takes nothing by itself: `WaitEnded` names
what it took. So the fold asks nobody, and finds each in constant time.

To let one more kind arrive: a fact with a channel of its own (`events.channel_of`), a field of
`EventAwaited` that names it (`channels_of`), and both in the tables of `fold`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from heapq import merge

from saga.core.events import (
    Arrival,
    Channel,
    UpdateReceived,
    channel_of,
    event_channel,
    signal_channel,
    update_channel,
)
from saga.core.identity import Instant
from saga.core.intents import (
    ArrivalRefused,
    Awaited,
    EventAwaited,
    SignalAwaited,
    UpdateAnswered,
    WaitEnded,
)
from saga.core.state import SagaState


def channels_of(awaited: Awaited) -> tuple[Channel, ...]:
    if isinstance(awaited, SignalAwaited):
        return (signal_channel(awaited.name),)
    signals, updates = map(signal_channel, awaited.signals), map(update_channel, awaited.updates)
    return (*signals, *updates, *map(event_channel, awaited.contracts))


def selects(awaited: Awaited) -> bool:
    return isinstance(awaited, EventAwaited) and awaited.selects


def kept_for(state: SagaState, awaited: Awaited) -> Iterator[tuple[int, Arrival]]:
    """What was kept for a wait, each with its version, in order of arrival."""
    kept = [state.kept[each].items() for each in channels_of(awaited) if each in state.kept]
    return iter(kept[0]) if len(kept) == 1 else merge(*kept)


def kept_as(state: SagaState, awaited: Awaited, version: int) -> Arrival | None:
    """What was kept for a wait with the entry of this *version*."""
    for channel in channels_of(awaited):
        if version in state.kept.get(channel, ()):
            return state.kept[channel][version]
    return None


def arrive(state: SagaState, fact: Arrival, _: Instant) -> None:
    """The effect of an arrival: the oldest wait for it takes it, unless that selects."""
    channel = channel_of(fact)
    wait = next(iter(state.waits.get(channel, ())), None)
    if wait is not None and not selects(state.waited[wait]):
        end_wait(state, wait)
        if state.pause is not None:
            _note_taken(state, wait, state.version + 1, fact)
    else:
        keep(state, fact, state.version + 1)  # the fact begins its turn


def keep(state: SagaState, arrival: Arrival, version: int) -> None:
    """Keep what arrived last, with the entry of this *version*; an update is open from then on."""
    if isinstance(arrival, UpdateReceived):
        state.updates = {**(state.updates or {}), arrival.update: True}
    state.kept.setdefault(channel_of(arrival), OrderedDict())[version] = arrival


def ask(state: SagaState, fact: UpdateReceived, at: Instant) -> None:
    """The effect of an update: it arrives, and is open until it is answered."""
    state.updates = {**(state.updates or {}), fact.update: True}
    arrive(state, fact, at)


def answer(state: SagaState, answered: UpdateAnswered, _: Instant) -> None:
    """The effect of an answer: nobody takes the update any more."""
    state.updates = {**(state.updates or {}), answered.update: False}
    for channel, kept in state.kept.items():
        for version, arrival in kept.items():
            if isinstance(arrival, UpdateReceived) and arrival.update == answered.update:
                _take(state, channel, version)
                return


def begin_wait(state: SagaState, awaited: Awaited, _: Instant) -> None:
    """The effect of a wait: it takes the oldest one that was kept for it, unless it selects."""
    if isinstance(awaited, SignalAwaited):
        unread = state.kept.get(signal_channel(awaited.name), ())
        for _refused in range(min(awaited.refused or 0, len(unread))):
            _take(state, signal_channel(awaited.name), next(iter(unread)))
    oldest = None if selects(awaited) else next(kept_for(state, awaited), None)
    if oldest is not None:
        version, arrival = oldest
        _take(state, channel_of(arrival), version)
        return
    state.waited[awaited.wait] = awaited
    for channel in channels_of(awaited):
        state.waits.setdefault(channel, {})[awaited.wait] = None


def end_by_choice(state: SagaState, ended: WaitEnded, _: Instant) -> None:
    """The effect of the end of a wait that selects."""
    for channel in channels_of(state.waited[ended.wait]):
        if ended.took in state.kept.get(channel, ()):
            if state.pause is not None:
                _note_taken(state, ended.wait, ended.took, state.kept[channel][ended.took])
            _take(state, channel, ended.took)
    end_wait(state, ended.wait)


def end_wait(state: SagaState, wait: str) -> None:
    awaited = state.waited.pop(wait, None)
    if awaited is None:
        return
    for channel in channels_of(awaited):
        waits = state.waits[channel]
        del waits[wait]
        if not waits:
            del state.waits[channel]


def give_back(state: SagaState, wait: str) -> None:
    """Keep again what a wait took while the saga was paused: it is given up before it was told."""
    if state.taken is None or wait not in state.taken:
        return
    version, arrival = state.taken.pop(wait)
    channel = channel_of(arrival)
    kept = state.kept.pop(channel, OrderedDict())
    kept[version] = arrival
    state.kept[channel] = OrderedDict(sorted(kept.items()))


def let_go(state: SagaState, refused: ArrivalRefused, _: Instant) -> None:
    """The effect of a refusal of what was kept: it is gone."""
    channel = next(name for name, kept in state.kept.items() if refused.arrived in kept)
    _take(state, channel, refused.arrived)


def end_waits(state: SagaState) -> None:
    state.waits.clear()
    state.waited.clear()


def _note_taken(state: SagaState, wait: str, version: int, arrival: Arrival) -> None:
    if state.taken is None:
        state.taken = {}
    state.taken[wait] = version, arrival


def _take(state: SagaState, channel: Channel, version: int) -> None:
    kept = state.kept[channel]
    del kept[version]
    if not kept:
        del state.kept[channel]
