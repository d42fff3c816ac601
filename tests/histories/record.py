"""Records golden histories: `python -m tests.histories.record`. What is there is never overwritten.

Each is played out by today's code from a script of what happened. Once recorded, a file is the
reference and not its script: the code of tomorrow has to follow it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final

from saga.contracts import contract_of, encode
from saga.core.decider import Disposition
from saga.core.events import (
    Act,
    CancelMode,
    CancelRequested,
    Event,
    Fact,
    Json,
    Message,
    OperatorActed,
    ReplyOutcome,
    ReplyReceived,
    SagaStarted,
    SignalReceived,
    TimerFired,
)
from saga.core.history import Entry, entries_of_turn
from saga.core.identity import Instant, IntentId, MessageId, TimerId, saga_id
from tests.histories import definitions as own
from tests.histories.plain import FOLDER, dump

BEGAN_AT: Final = 1_700_000_000_000_000
SECOND_US: Final = 1_000_000


class Play:
    """One saga, to which things happen."""

    def __init__(self, definition: str, trigger: own.OrderPlaced | own.TripAsked) -> None:
        registered = own.app.registry.find(definition, 1)
        assert registered is not None, definition
        self._decider = registered.decider
        key = registered.saga.key_of(trigger)
        self._saga_id = saga_id(definition, key)
        self._state = self._decider.initial_state(self._saga_id)
        self._at = BEGAN_AT
        self._happened = 0
        self.history: list[Entry] = []
        name = contract_of(type(trigger)).contract_name
        self._tell(
            SagaStarted(
                definition=definition,
                definition_version=1,
                fingerprint=self._decider.fingerprint,
                key=key,
                trigger=Message(name, encode(trigger)),
                traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            ),
            "trigger-1",
        )

    def done(self, intent: str, reply: object = None) -> Play:
        """A service answers *intent*, written `step/direction/attempt`."""
        message = None
        if reply is not None:
            message = Message(contract_of(type(reply)).contract_name, encode(reply))
        return self._reply(intent, ReplyOutcome.DONE, message)

    def refused(self, intent: str) -> Play:
        """A service says no."""
        return self._reply(intent, ReplyOutcome.REFUSED, None)

    def failed(self, intent: str) -> Play:
        """An attempt fails."""
        return self._reply(intent, ReplyOutcome.FAILED, None)

    def fires(self, timer: str) -> Play:
        """An armed timer comes due, written without the saga's id."""
        timer_id = TimerId(f"{self._saga_id}/{timer}")
        self._at = max(self._at, self._state.timers[timer_id].due_at)
        return self._tell(TimerFired(timer_id=timer_id), timer_id)

    def signal(self, payload: str) -> Play:
        """Somebody approves."""
        fact = SignalReceived(name="approval", payload=Json(payload), actor="ann")
        return self._tell(fact, self._next("command"))

    def cancel(self, mode: CancelMode) -> Play:
        """Somebody cancels."""
        return self._tell(
            CancelRequested(mode=mode, reason="changed mind", actor="ann"), self._next("command")
        )

    def act(self, act: Act, step: str | None = None) -> Play:
        """An operator acts."""
        fact = OperatorActed(act=act, reason="looked into it", step=step, actor="ann")
        return self._tell(fact, self._next("command"))

    def _reply(self, intent: str, outcome: ReplyOutcome, reply: Message | None) -> Play:
        intent_id = IntentId(f"{self._saga_id}/{intent}")
        is_done = outcome is ReplyOutcome.DONE
        fact = ReplyReceived(
            intent_id=intent_id,
            outcome=outcome,
            reply=reply,
            code=None if is_done else "no",
            message=None if is_done else f"{intent}: {outcome.value}",
        )
        return self._tell(fact, f"{intent_id}/reply")

    def _tell(self, fact: Fact, cause: str) -> Play:
        self._at += SECOND_US
        event = Event(fact, Instant(self._at), MessageId(cause))
        decision = self._decider.handle(self._state, event)
        assert decision.disposition is Disposition.RECORDED, (fact, decision)
        self._state = decision.state
        self.history += entries_of_turn(self._saga_id, len(self.history), event, decision.intents)
        return self

    def _next(self, kind: str) -> str:
        self._happened += 1
        return f"{kind}-{self._happened}"


def _order(key: str) -> Play:
    return Play("golden-order", own.OrderPlaced(order_id=key, amount=30))


def _trip(key: str) -> Play:
    return Play("golden-trip", own.TripAsked(trip_id=key))


def _seat(carrier: str) -> own.SeatHeld:
    return own.SeatHeld(seat=f"{carrier}-7")


def _reserved(key: str) -> Play:
    return _order(key).done("reserve/do/1", own.Reserved(reservation="r-1"))


def _seated(key: str) -> Play:
    return (
        _trip(key)
        .done("air/do/1", _seat("air"))
        .done("rail/do/1", _seat("rail"))
        .done("inn/do/1", _seat("inn"))
        .fires("sleep-1/sleep")
    )


SCRIPTS: Final[dict[str, Callable[[], Play]]] = {
    "order-completed": lambda: (
        _reserved("g-1")
        .failed("pay/do/1")
        .fires("pay/do/1/retry")
        .done("pay/do/2", own.Paid(receipt="p-1"))
        .done("ship/do/1")
    ),
    "order-refused": lambda: (
        _reserved("g-2")
        .refused("pay/do/1")
        .failed("reserve/undo/1")
        .fires("reserve/undo/1/retry")
        .done("reserve/undo/2")
    ),
    "order-late-success": lambda: (
        _reserved("g-3")
        .fires("pay/do/1/deadline")
        .fires("pay/do/1/retry")
        .fires("pay/do/2/deadline")
        .fires("pay/do/2/retry")
        .fires("pay/do/3/deadline")
        .done("pay/undo/1")
        .done("reserve/undo/1")
        .done("pay/do/2", own.Paid(receipt="p-3"))
        .done("pay/undo/2")
        .failed("pay/do/1")
    ),
    "order-cancelled": lambda: (
        _reserved("g-4")
        .cancel(CancelMode.GRACEFUL)
        .cancel(CancelMode.IMMEDIATE)
        .done("pay/do/1", own.Paid(receipt="p-4"))
        .done("pay/undo/1")
        .done("reserve/undo/1")
        .cancel(CancelMode.GRACEFUL)
    ),
    "order-stuck-and-skipped": lambda: (
        _reserved("g-5")
        .done("pay/do/1", own.Paid(receipt="p-5"))
        .refused("ship/do/1")
        .refused("pay/undo/1")
        .act(Act.RETRY, "pay")
        .refused("pay/undo/2")
        .act(Act.SKIP, "pay")
        .done("reserve/undo/1")
    ),
    "order-abandoned": lambda: _reserved("g-6").cancel(CancelMode.ABANDON),
    "trip-completed": lambda: (
        _seated("g-7")
        .signal('{"by":7}')
        .signal('{"by":"ann"}')
        .done("boat/do/1", _seat("boat"))
        .done("camp/do/1", _seat("camp"))
        .done("camp/undo/1")
    ),
    "trip-not-approved": lambda: (
        _seated("g-8")
        .fires("wait-approval-1/wait")
        .done("camp/undo/1")
        .done("inn/undo/1")
        .done("rail/undo/1")
        .done("air/undo/1")
    ),
    "trip-second-choice": lambda: (
        _trip("g-9")
        .signal('{"by":"early"}')
        .done("rail/do/1", _seat("rail"))
        .done("air/do/1", _seat("air"))
        .done("camp/do/1", _seat("camp"))
        .refused("inn/do/1")
        .fires("sleep-1/sleep")
        .refused("boat/do/1")
        .done("bus/do/1", _seat("bus"))
    ),
}


def main() -> int:
    """Record what is not there yet."""
    for name, script in SCRIPTS.items():
        file = FOLDER / f"{name}.jsonl"
        if file.exists():
            print(f"{file.name} is there already")
            continue
        history = script().history
        file.write_bytes(dump(history))
        print(f"{file.name}: {len(history)} entries, {type(history[-1].body).__name__}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
