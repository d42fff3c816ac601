"""`given / when / then` for one saga: no bus, no store, no clock, no mocks.

    (
        given(order)
        .when(OrderPlaced(order_id="o-1", amount=3))
        .then(issued(Pay(order_id="o-1", amount=3)))
        .when(replied(Pay, Paid(receipt="r-1")), refused(Ship, "no van", code="van"))
        .then(issued(Ship), undo_issued(Refund(order_id="o-1", receipt="r-1")))
    )

After every turn the history is written as a store would, read back and replayed: a saga whose
function is not deterministic fails its test at the turn where that shows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from logging import getLevelName
from typing import Any, Self

import orjson
from pydantic import BaseModel

from saga.adapters.mapper import TURN, to_entries, to_state
from saga.audit.replaying import replayed
from saga.authoring import SagaDefinition, SagaRegistry, UnresolvedSaga
from saga.authoring.refusals import refuse_at_run_time
from saga.contracts import ContractRegistry, business_key, is_contract, message_of
from saga.contracts import Event as EventModel
from saga.core.decider import Decider, Decision, Disposition
from saga.core.events import (
    Act,
    CancelMode,
    CancelRequested,
    Event,
    EventReceived,
    Fact,
    Migrated,
    OperatorActed,
    Parent,
    Paused,
    SagaStarted,
    TimerFired,
    TimersAdded,
    TurnFailed,
    UpdateReceived,
)
from saga.core.fold import fold
from saga.core.history import (
    FACTS,
    Entry,
    History,
    RecordedTurn,
    migration_in,
    turn_of,
    turns,
)
from saga.core.identity import Instant, MessageId, saga_id
from saga.core.intents import Continued
from saga.core.replay import describe
from saga.core.showing import shown_json
from saga.core.snapshots import snapshot_of
from saga.core.state import SagaState, parts_of, waiting_for
from saga.core.status import SagaStatus
from saga.core.texts import described
from saga.testing.children import AsChild
from saga.testing.expectations import Expectation, is_act, told
from saga.testing.happenings import After, Happening, MigratedTo, Plain, Redelivered
from saga.users_code import is_ours, with_place

START = Instant(1_767_225_600_000_000)
"""The moment at which every test begins: 2026-01-01T00:00:00Z."""

TIMERS_FIRED_MAX = 300
"""In one `after`: beyond it a saga goes in a circle, or a retry without limit nobody answers."""

DECISIONS_SHOWN_MAX = 40
"""In the report of a failed test."""

_TAKEN_WHILE_PARKED = (OperatorActed, Paused, CancelRequested, TurnFailed, Migrated)

Happens = Happening | EventModel | After | AsChild | Redelivered | MigratedTo


def given(
    saga: SagaDefinition | UnresolvedSaga,
    *happened: Happens,
    contracts: Iterable[type[BaseModel]] = (),
    history: Sequence[Entry] = (),
) -> Scenario:
    """A saga to which all this has happened, before what the test is about.

    Args:
        contracts: classes that the saga's source does not name, but uses.
        history: entries that were recorded earlier, perhaps by other code.

    Raises:
        ReplayMismatch: the saga decides otherwise than *history* says.
    """
    scenario = Scenario(saga, contracts, history)
    return scenario.when(*happened) if happened else scenario


class Scenario:
    """One saga and what has happened to it. Made by `given`."""

    _state: SagaState | None = None

    def __init__(
        self,
        saga: SagaDefinition | UnresolvedSaga,
        contracts: Iterable[type[BaseModel]],
        history: Sequence[Entry],
    ) -> None:
        refuse_at_run_time()
        self._contracts = list(contracts)
        self._versions: dict[int, SagaDefinition] = {}
        """Those that have decided it so far, the first one first."""
        self._become(saga)
        self._state = replayed(self._decider, history[0].saga_id, history) if history else None
        self._history = list(history)
        self._fresh = len(history)
        self._turns = sum(type(entry.body) in FACTS for entry in history)
        self._last: Event | None = None
        self._deferred: list[Event] = []
        self._logged: list[str] = []
        self._error: BaseException | None = None
        self._disposition: Disposition | None = None
        self._paused: Paused | None = None
        """How its definition was paused before the saga began."""
        self.now = history[-1].at if history else START

    def __del__(self) -> None:
        if self._state is not None:
            _let_go(self._state)

    @property
    def state(self) -> SagaState:
        assert self._state is not None, "nothing has happened yet"
        return self._state

    @property
    def status(self) -> SagaStatus:
        return self.state.status

    @property
    def shown(self) -> dict[str, Any]:
        """What people see of the saga, by `ctx.show`."""
        fields: dict[str, Any] = orjson.loads(shown_json(self.state) or "{}")
        return fields

    @property
    def logged(self) -> tuple[str, ...]:
        """What the last `when` led the saga to say to a log, each with its level: `info: paid`."""
        return tuple(self._logged)

    @property
    def history(self) -> tuple[Entry, ...]:
        return tuple(self._history)

    @property
    def decided(self) -> tuple[Entry, ...]:
        """The entries of the last `when`, without the facts that led to them."""
        fresh = self._history[self._fresh :]
        return tuple(entry for entry in fresh if type(entry.body) not in FACTS)

    def when(self, *happens: Happens) -> Self:
        """Let something happen, one turn each. What raises in a turn parks the saga."""
        self._no_error()
        self._fresh, self._logged = len(self._history), []
        self._add_timers()
        for each in happens:
            self._happen(each)
        return self

    def then(self, *expected: Expectation) -> Self:
        """Check what the last `when` led to: all acts, in order, and the bookkeeping named."""
        self._no_error()
        acts = [entry for entry in self.decided if is_act(entry.body)]
        wanted = [each for each in expected if each.is_act]
        is_same = len(acts) == len(wanted) and all(map(Expectation.matches, wanted, acts))
        others = [each for each in expected if not each.is_act]
        if not is_same or not all(any(map(each.matches, self.decided)) for each in others):
            raise AssertionError(self._difference(expected))
        return self

    def then_nothing(self) -> Self:
        """Check that nothing was decided at all, not even a timer or a note."""
        self._no_error()
        if self.decided:
            raise AssertionError(self._difference(()))
        return self

    def then_parked(self, reason: str = "") -> Self:
        """Check that the saga waits for someone; *reason* is part of why."""
        self._error = None
        self.then_status(SagaStatus.PARKED)
        actual = self.state.reason or ""
        assert reason in actual, f"{self._name()} parked because of {actual!r}, not {reason!r}"
        return self

    def then_status(self, status: SagaStatus | str) -> Self:
        self._no_error()
        assert self.status is SagaStatus(status), (
            f"{self._name()} is {self.status.value} ({self.state.reason}), "
            f"waiting for {waiting_for(self.state)}; expected {SagaStatus(status).value}"
        )
        return self

    def then_steps(self, **statuses: str) -> Self:
        """Check where steps stand: `then_steps(pay="undone")`, with `_` for `-` in step ids."""
        self._no_error()
        steps = self.state.steps.values()
        actual = {step.id.replace("-", "_"): step.status.value for step in steps}
        assert statuses.items() <= actual.items(), (
            f"{self._name()} has steps {actual}; expected {statuses}"
        )
        return self

    def then_was(self, disposition: Disposition | str) -> Self:
        """Check what became of the last event: `recorded`, `duplicate`, `id_conflict`, …."""
        self._no_error()
        assert self._disposition is Disposition(disposition), (
            f"{self._name()}: the last event was {self._disposition}, not {disposition}"
        )
        return self

    def in_state(self, state: type | str) -> Self:
        """Check in which state a machine is, by its class or name: before `when`, or behind it."""
        self._no_error()
        name = state if isinstance(state, str) else state.__name__
        actual = self.shown.get("state")
        assert actual == name, f"{self._name()} is in state {actual!r}, not {name!r}"
        return self

    def then_waits_for(self, what: str | None) -> Self:
        self._no_error()
        actual = waiting_for(self.state)
        assert actual == what, f"{self._name()} waits for {actual!r}, not {what!r}"
        return self

    def _become(self, saga: SagaDefinition | UnresolvedSaga) -> None:
        """Have this version decide from here on."""
        if isinstance(saga, UnresolvedSaga):
            saga = saga.resolve(list(filter(is_contract, self._contracts)))
        self._versions[saga.version] = saga
        versions = self._versions.values()
        named = {model: None for each in versions for model in each.contracts()}
        registry = ContractRegistry([*named, *self._contracts])  # type: ignore[list-item]  # refused there if it is none
        self._sagas = SagaRegistry(versions, registry)
        registered = self._sagas.find(saga.name, saga.version)
        assert registered is not None
        self._saga: SagaDefinition = registered.saga
        self._decider: Decider = registered.decider

    def _first_decider(self) -> Decider:
        """What decides the first run: where others followed, it stays what it was then."""
        version = next(iter(self._versions))
        for turn in turns(self._history):
            if (moved := migration_in(turn)) is not None:
                version = moved.definition_version
            elif Continued in map(type, turn.decided):
                first = self._sagas.find(self._saga.name, version)
                assert first is not None, version
                return first.decider
        return self._decider

    def _migrate(self, moved: MigratedTo) -> None:
        """Replay what is recorded with the new version, as a worker does in the turn of it."""
        before = self._decider
        self._become(moved.saga)
        assert self._decider.name == before.name, (
            f"a saga of {before.name!r} cannot become one of {self._decider.name!r}"
        )
        fact = Migrated(
            from_version=before.version,
            definition_version=self._decider.version,
            reason=moved.reason,
            actor=moved.actor,
            steps=moved.steps,
            from_fingerprint=before.fingerprint,
            fingerprint=self._decider.fingerprint,
        )
        event = self._event(fact)
        ahead = RecordedTurn(self.state.saga_id, len(self._history) + 1, event, [])
        decider = self._first_decider()
        state = replayed(decider, self.state.saga_id, self._history, ahead=ahead)
        _let_go(self.state)
        self._state = state
        self._take(event)
        self._add_timers()

    def _add_timers(self) -> None:
        """Arm the timeouts that the saga has and its history has not, as a worker does."""
        if self._state is not None and self._state.unarmed and not self._state.is_poisoned:
            cause = MessageId(f"timers-added/{len(self._history)}")
            self._take(Event(TimersAdded(), self.now, cause))

    def _happen(self, happens: Happens) -> None:
        if isinstance(happens, After):
            self._pass_time(happens.length_us)
        elif isinstance(happens, MigratedTo):
            self._migrate(happens)
        elif isinstance(happens, Redelivered):
            assert self._last is not None, "nothing has happened yet"
            self._take(self._last)
        elif isinstance(happens, EventModel):
            self._take(self._event(self._told(happens)))
        elif isinstance(happens, AsChild):
            self._take(self._event(self._started(happens.trigger, happens.parent)))
            paused, self._paused = self._paused, None
            if paused is not None:
                self._take(self._event(paused))
        elif self._state is None and (paused := _pause_of_definition(happens)) is not None:
            self._paused = paused
        else:
            fact, due_at = happens.fact(self.state, self._history)
            self.now = max(self.now, due_at or self.now)
            self._take(self._event(fact))

    def _told(self, event: EventModel) -> Fact:
        """What an event is to this saga: one that runs and listens to it hears it."""
        heard = [each for each in self._saga.listens if isinstance(event, each.event)]
        if not heard or (self._state is None and isinstance(event, self._saga.starts_on)):
            return self._started(event)
        name = type(event).__name__
        assert self._state is not None, f"{self._name()} has not begun, and {name} begins none"
        keys = [each.key_of(event, business_key(event)) for each in heard]
        assert self.state.key in keys, (
            f"{name} reaches the saga of key {keys[0]!r}; this one has {self.state.key!r}"
        )
        message = message_of(event)
        return EventReceived(contract=message.contract, payload=message.payload)

    def _started(self, trigger: EventModel, parent: Parent | None = None) -> SagaStarted:
        decider, key = self._decider, self._saga.key_of(trigger)
        if self._state is None:
            self._state = decider.initial_state(saga_id(decider.name, key))
        return SagaStarted(
            definition=decider.name,
            definition_version=decider.version,
            fingerprint=decider.fingerprint,
            key=key,
            trigger=message_of(trigger),
            parent=parent,
            paused=self._paused is not None,
        )

    def _pass_time(self, length_us: int) -> None:
        end = self.now + length_us
        for _ in range(TIMERS_FIRED_MAX):
            timers = self.state.timers.values()
            due = [(timer.due_at, timer.timer_id) for timer in timers if timer.due_at <= end]
            if not due or self.state.is_poisoned:
                break
            due_at, timer_id = min(due)
            self.now = max(self.now, due_at)
            self._take(self._event(TimerFired(timer_id=timer_id)))
        else:
            raise AssertionError(f"{self._name()} fired {TIMERS_FIRED_MAX} timers: will it end?")
        self.now = Instant(end)

    def _event(self, fact: Fact) -> Event:
        self._turns += 1
        match fact:
            case TimerFired():
                cause: str = fact.timer_id
            case UpdateReceived():
                cause = fact.update
            case _:
                cause = f"message-{self._turns}"
        return Event(fact, self.now, MessageId(cause))

    def _take(self, event: Event) -> None:
        """One turn, as the runtime takes it: a saga whose turn failed has its events deferred."""
        self._last = event
        if self.state.is_poisoned and not isinstance(event.fact, _TAKEN_WHILE_PARKED):
            self._deferred.append(event)
            return
        try:
            decision = self._decided(event)
        except BaseException as error:  # users' code: the saga parks
            if is_ours(error):
                raise
            self._fail(event, error)
            return
        self._state, self._disposition = decision.state, decision.disposition
        for line in decision.lines or ():
            self._logged.append(f"{getLevelName(line.level).lower()}: {line.text}")
        if decision.disposition is Disposition.RECORDED:
            saga = self.state.saga_id
            self._history += RecordedTurn(saga, len(self._history) + 1, event, decision.intents)
        self._check_rebuilt()
        self._check_snapshot()
        if self.state.is_ahead:
            _let_go(self.state)
            self._state = self._rebuilt()
        is_release = isinstance(event.fact, OperatorActed) and event.fact.act is Act.RELEASE
        if is_release and not self.state.is_poisoned:
            deferred, self._deferred = self._deferred, []
            for each in deferred:
                self._take(each)

    def _decided(self, event: Event) -> Decision:
        """What the saga decides; to abandon it works without its code, where that raises."""
        fact = event.fact
        try:
            return self._decider.handle(self.state, event)
        except BaseException as error:
            if is_ours(error) or not isinstance(fact, CancelRequested):
                raise
            if fact.mode is not CancelMode.ABANDON:
                raise
        _let_go(self.state)
        self._state = fold(self.state.saga_id, self._history)
        return self._decider.handle(self.state, event)

    def _fail(self, event: Event, error: BaseException) -> None:
        self._error = error
        self._deferred.append(event)
        _let_go(self.state)
        self._state = self._rebuilt()
        failure = TurnFailed(error=with_place(described(error), error))
        cause = MessageId(f"{event.cause}/failed/{len(self._history)}")
        self._take(Event(failure, self.now, cause))
        self._last = event

    def _rebuilt(self) -> SagaState:
        saga = self.state.saga_id
        states = [to_state(turn_of([entry])) for entry in self._history]
        stored = [entry for state in states for entry in to_entries(saga, TURN, state)]
        assert stored == self._history, "an entry is not what was stored of it"
        return replayed(self._first_decider(), saga, stored)

    def _check_rebuilt(self) -> None:
        rebuilt = self._rebuilt()
        _let_go(rebuilt)
        live, again = parts_of(self.state), parts_of(rebuilt)
        self._check_same("rebuilt from its history", again, live)
        folded = parts_of(fold(self.state.saga_id, self._history))
        self._check_same("by its entries", folded, live)
        if self.state.run is not None:
            self._check_last_run(live)

    def _check_snapshot(self) -> None:
        """Where there is a snapshot, go on with what it gives: the saga as it was."""
        live, saga = self.state, self.state.saga_id
        told = snapshot_of(live)
        if told is None:
            return
        text = json.dumps(told)
        restored = self._decider.restored(saga, json.loads(text))
        self._check_same("restored from its snapshot", parts_of(restored), parts_of(live))
        rebuilt = self._rebuilt()
        for how, state in (("restored", restored), ("rebuilt from its history", rebuilt)):
            again = snapshot_of(state)
            assert again is not None, f"{self._name()}: {how}, it has no snapshot"
            assert json.dumps(again) == text, (
                f"{self._name()}: {how}, its snapshot is {json.dumps(again)}; live: {text}"
            )
        _let_go(rebuilt)
        _let_go(live)
        self._state = restored

    def _check_last_run(self, live: Mapping[str, object]) -> None:
        """Load the saga as a store does: from the turn on that begins its last run."""
        saga, recorded = self.state.saga_id, turns(self._history)
        begins = [n for n, each in enumerate(recorded) if Continued in map(type, each.decided)]
        history = History(recorded[begins[-1] :])
        loaded = replayed(self._decider, saga, history)
        _let_go(loaded)
        self._check_same("loaded from its last run on", parts_of(loaded), live)
        self._check_same("by the entries of its last run", parts_of(fold(saga, history)), live)

    def _check_same(self, how: str, told: Mapping[str, object], live: Mapping[str, object]) -> None:
        for part, value in live.items():
            assert told[part] == value, (
                f"{self._name()}: {how}, {part} is {told[part]}; live: {value}"
            )

    def _no_error(self) -> None:
        if self._error is not None:
            raise AssertionError(
                f"{self._name()}: a turn raised {described(self._error)}"
            ) from self._error

    def _difference(self, expected: Sequence[Expectation]) -> str:
        lines = [f"{self._name()}, {self.status.value}, decided otherwise than expected"]
        facts = [entry for entry in self._history[self._fresh :] if type(entry.body) in FACTS]
        lines += [f"  when      {describe(entry.body)}" for entry in facts[-DECISIONS_SHOWN_MAX:]]
        lines += [f"  expected  {one}" for one in expected] or ["  expected  nothing"]
        decided = self.decided[-DECISIONS_SHOWN_MAX:]
        lines += [f"  decided   {told(entry)}" for entry in decided] or ["  decided   nothing"]
        return "\n".join(lines)

    def _name(self) -> str:
        return f"saga {self._decider.name!r}"


def _pause_of_definition(happens: Happening) -> Paused | None:
    fact = happens.is_what if isinstance(happens, Plain) else None
    return fact if isinstance(fact, Paused) and fact.scope is not None else None


def _let_go(state: SagaState) -> None:
    """End its running code; what that does at its end counts for nothing."""
    if state.program is not None:
        state.program.close()
