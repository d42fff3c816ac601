"""What any front-end may ask of the kernel, tried with a program that is a table.

Each row says what a saga does in a state when it is told something: where it is then, and what it
asks for. `Scenario` compares the live state with the rebuilt one after every turn.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import pytest

from saga.authoring.declaration import Declaration, Surroundings, declared
from saga.authoring.listening import on
from saga.authoring.messages import rolled_back_message
from saga.authoring.steps import (
    AuthoredStep,
    Steps,
    refusal_of_entered,
    refusal_of_reply,
    undo_of,
)
from saga.contracts import Event, message_of
from saga.core.events import Arrival, EventReceived
from saga.core.intents import ArrivalRefused, BranchDropped
from saga.core.program import (
    Answer,
    Await,
    Command,
    Fail,
    Finish,
    Park,
    Program,
    Refuse,
    RefuseKept,
    Sleep,
)
from saga.core.retry import Retry
from saga.core.values import value
from saga.testing import (
    after,
    answered,
    cancelled,
    completed,
    failed,
    given,
    issued,
    noted,
    operator,
    parked,
    planned,
    replied,
    resumed,
    rolled_back,
    settled,
    signalled,
    timed_out,
    undo_issued,
    updated,
)
from tests.toys import (
    OrderConfirmed,
    OrderPlaced,
    OrderRejected,
    Paid,
    Pay,
    Refund,
    Reserve,
    Reserved,
    Ship,
    Unreserve,
)

ONCE = Retry(attempts=1)


class Delivered(Event, topic="tables.delivered", version=1, key="order_id"):
    order_id: str = "o-1"


Does = Callable[["Table"], Sequence[Command]]
Rows = Mapping[tuple[str, str], tuple[str, Does]]
"""By state and what is told: the next state, and what is asked for."""
Ahead = Mapping[str, frozenset[str]]
"""What a state, or one ahead of it, takes; all where it says nothing."""


class Table(Program):
    patches = None

    def __init__(self, around: Surroundings, run: int, rows: Rows, ahead: Ahead) -> None:
        self.registry = around.registry
        self.steps = Steps(around.registry, run)
        self.made: dict[str, AuthoredStep] = {}
        self.state = "begin"
        self._rows = rows
        self._ahead = ahead
        self._trigger: Any = None

    def do(self, intent: Any, **options: Any) -> AuthoredStep:
        step = self.steps.do(AuthoredStep, intent, **options)
        self.made[step.step] = step
        return step

    def _told(self, what: str) -> Sequence[Command]:
        self.state, does = self._rows[self.state, what]
        return does(self)

    def start(self, trigger: Any, at: Any) -> Sequence[Command]:
        self._trigger = OrderPlaced()
        return self._told("start")

    def know_trigger(self, trigger: Any) -> None:
        self._trigger = OrderPlaced()

    def take_patches(self, patches: Any) -> None:
        pass

    def succeeded(self, step: str, reply: Any, at: Any) -> Sequence[Command]:
        return self._told(step)

    def gave_out(self, step: str, failure: Any, at: Any, *, is_refused: bool) -> Sequence[Command]:
        return self._told(f"{step} failed")

    def hold(self, step: str, at: Any) -> Sequence[Command]:
        return ()

    def slept(self, name: str, at: Any) -> Sequence[Command]:
        return self._told(name)

    def arrived(self, wait: str, arrival: Arrival, at: Any) -> Sequence[Command]:
        return self._told(name_of(arrival))

    def takes(self, arrival: Arrival) -> str | None:
        if name_of(arrival) in self._ahead.get(self.state, {name_of(arrival)}):
            return None
        return f"{self.state} is past that"

    def place_of(self, step: str) -> str | None:
        return "table.py:7"

    def stands_at(self, name: str | None) -> str | None:
        return "table.py:7"

    def refusal_of(self, wait: str, arrival: Arrival) -> str | None:
        return None

    def policy_of(self, step: str) -> AuthoredStep:
        return self.made[step]

    def refusal_of_reply(self, step: str, reply: Any) -> str | None:
        return refusal_of_reply(self.registry, self.made[step], reply)

    def refusal_of_entered(self, step: str, reply: Any) -> str | None:
        return refusal_of_entered(self.registry, self.made[step], reply)

    def undo_of(self, step: str, reply: Any) -> Any:
        return undo_of(self.registry, self.made[step], reply)

    def outcome_of(self, report: Any) -> Any:
        return rolled_back_message(self.registry, OrderRejected, self._trigger, report)

    def close(self) -> None:
        pass


def name_of(arrival: Arrival) -> str:
    return "delivered" if isinstance(arrival, EventReceived) else arrival.name


@value(kw_only=True)
class TableDefinition(Declaration):
    rows: Rows
    ahead: Ahead
    has_children = False

    @property
    def code(self) -> tuple[Callable[..., Any], ...]:
        return ()

    def named(self) -> frozenset[type]:
        return frozenset({Pay, Refund, Reserve, Unreserve, Ship, OrderConfirmed})

    def program(self, around: Surroundings, saga_id: Any, key: str, run: int) -> Program:
        return Table(around, run, self.rows, self.ahead)


def table(rows: Rows, ahead: Ahead | None = None) -> TableDefinition:
    said = declared(
        "table",
        version=1,
        starts_on=OrderPlaced,
        key=None,
        listens=on(Delivered),
        rolled_back=OrderRejected,
        parallel_undo=False,
        when_stuck="halt",
        deadline=None,
        where="table.py:1",
    )
    return TableDefinition(**said, fingerprint="1", rows=rows, ahead=ahead or {})


def wait(number: int, *signals: str, updates: tuple[str, ...] = ()) -> Await:
    contracts = ("tables.evt.delivered.v1",) if "delivered" in signals else ()
    names = tuple(name for name in signals if name != "delivered")
    return Await(f"wait-{number}", None, signals=names, contracts=contracts, updates=updates)


def confirm(_: Table) -> Sequence[Command]:
    return [Finish(message_of(OrderConfirmed()))]


def refused_kept(scenario) -> list[tuple[int, str]]:
    bodies = [entry.body for entry in scenario.decided]
    return [(body.arrived, body.detail) for body in bodies if isinstance(body, ArrivalRefused)]


class TestWhatNothingAheadTakes:
    """Asked of the program in the turn in which something arrives that no wait takes."""

    ROWS: ClassVar[Rows] = {
        ("begin", "start"): ("paying", lambda table: [table.do(Pay())]),
        ("paying", "pay"): ("ready", lambda _: [wait(1, "go", "delivered"), RefuseKept()]),
        ("ready", "go"): ("done", confirm),
        ("ready", "delivered"): ("done", confirm),
    }
    AHEAD: ClassVar[Ahead] = {
        "paying": frozenset({"go", "delivered", "stop"}),
        "ready": frozenset({"go", "delivered"}),
    }

    @pytest.fixture
    def paying(self):
        return given(table(self.ROWS, self.AHEAD), OrderPlaced())

    def test_a_signal_is_refused_and_recorded_in_its_turn(self, paying):
        paying.when(signalled("odd")).then(noted("refused", "paying is past that"))
        assert not paying.state.kept

    def test_an_event_is_refused_and_recorded(self):
        scenario = given(table(self.ROWS, {"paying": frozenset()}), OrderPlaced())
        scenario.when(Delivered()).then(noted("refused", "paying is past that"))
        scenario.when(replied(Pay, Paid())).then_waits_for(
            "signal go or event tables.evt.delivered"
        )

    def test_the_sender_of_an_update_is_told(self, paying):
        paying.when(updated("odd")).then(
            answered(code="not_now", message="paying is past that"),
            noted("refused", "paying is past that"),
        )

    def test_what_a_state_ahead_takes_is_kept_in_order(self, paying):
        paying.when(signalled("go")).then_nothing()
        paying.when(replied(Pay, Paid())).then(completed(OrderConfirmed()))

    def test_what_is_left_when_the_saga_ends_in_that_turn_is_noted_as_unread(self, paying):
        paying.when(signalled("stop"), signalled("go"))

        paying.when(replied(Pay, Paid()))

        assert refused_kept(paying) == []
        paying.then(completed(OrderConfirmed()), noted("unread", "nobody had read it"))

    def test_what_was_kept_is_gone_when_the_saga_waits_on(self, paying):
        paying.when(signalled("stop"))
        arrived = paying.history[-1].version

        paying.when(replied(Pay, Paid()))

        assert refused_kept(paying) == [(arrived, "ready is past that")]
        assert not paying.state.kept
        paying.when(signalled("go")).then(completed(OrderConfirmed()))

    def test_a_kept_update_is_answered_then(self):
        ahead = {"paying": frozenset({"ask"}), "ready": frozenset({"go"})}
        scenario = given(table(self.ROWS, ahead), OrderPlaced())
        scenario.when(updated("ask")).then_nothing()
        scenario.when(replied(Pay, Paid())).then(
            answered(code="not_now", message="ready is past that")
        )

    def test_on_its_way_back_a_saga_keeps_what_comes(self, paying):
        """Nobody asks the program any more; the end says what was not read."""
        paying.when(cancelled(), signalled("odd"))
        assert len(paying.state.kept) == 1


class TestRefusing:
    """A program says that something of its own was refused, and stays where it was."""

    ROWS: ClassVar[Rows] = {
        ("begin", "start"): ("ready", lambda _: [wait(1, "go", "odd", updates=("ask",))]),
        ("ready", "odd"): (
            "ready",
            lambda _: [wait(2, "go", "odd"), Refuse("ready → lost", "odd allows done")],
        ),
        ("ready", "ask"): (
            "ready",
            lambda _: [
                Answer("update-1", code="lost", message="no"),
                wait(2, "go", "odd"),
                Refuse("ready → lost", "ask allows done"),
            ],
        ),
        ("ready", "go"): ("done", confirm),
    }

    def test_an_illegal_transition_is_recorded_and_the_saga_waits_on(self):
        scenario = given(table(self.ROWS), OrderPlaced())
        scenario.when(signalled("odd")).then(noted("refused", "odd allows done"))
        scenario.then_waits_for("signal go, odd")
        scenario.when(signalled("go")).then(completed(OrderConfirmed()))

    def test_what_comes_next_is_taken_behind_the_refusal(self):
        rows = {
            **self.ROWS,
            ("begin", "start"): ("pay", lambda table: [table.do(Pay())]),
            ("pay", "pay"): self.ROWS["begin", "start"],
        }
        scenario = given(table(rows), OrderPlaced())
        scenario.when(signalled("odd"), signalled("go"), replied(Pay, Paid()))
        scenario.then(completed(OrderConfirmed()), noted("refused", "odd allows done"))

    def test_the_answer_to_an_update_stands_before_it(self):
        given(table(self.ROWS), OrderPlaced()).when(updated("ask")).then(
            answered(code="lost", message="no"), noted("refused", "ask allows done")
        )

    def test_a_refusal_right_behind_a_fact_is_a_mistake_of_the_front_end(self):
        """There it would say that the fact has no effect."""
        rows = {**self.ROWS, ("ready", "odd"): ("ready", lambda _: [Refuse("a → b", "no")])}
        given(table(rows), OrderPlaced()).when(signalled("odd")).then_parked("AssertionError")


class TestParking:
    def halting(self, *, again: bool):
        parks = Park("pay may not fail", "table.py:9", ("pay",) if again else ())
        return table(
            {
                ("begin", "start"): (
                    "paying",
                    lambda t: [
                        t.do(Reserve(), undo=Unreserve),
                        t.do(Pay(), undo=Refund, retry=ONCE, timeout="9s"),
                    ],
                ),
                ("paying", "reserve"): ("paying", lambda _: []),
                ("paying", "pay failed"): ("halted", lambda _: [parks]),
                ("paying", "pay"): ("done", confirm),
            }
        )

    @pytest.fixture
    def halted(self):
        scenario = given(self.halting(again=True), OrderPlaced())
        scenario.when(replied(Reserve, Reserved()), failed(Pay))
        scenario.then(settled("pay", "failed"), parked("table.py:9: pay may not fail")).then_status(
            "parked"
        )
        return scenario

    def test_a_step_that_failed_is_tried_again(self, halted):
        halted.when(operator("retry", step="pay")).then(resumed(), issued(Pay))
        halted.when(replied(Pay, Paid())).then(completed(OrderConfirmed()))

    def test_it_may_fail_and_halt_again(self, halted):
        halted.when(operator("retry", step="pay"), failed(Pay)).then_parked("pay may not fail")

    def test_or_everything_is_undone(self, halted):
        halted.when(operator("compensate")).then(planned("pay", "reserve"), undo_issued(Refund))
        halted.when(replied(Refund)).then(undo_issued(Unreserve))
        halted.when(replied(Unreserve)).then(rolled_back(OrderRejected))

    def test_a_late_success_lets_it_go_on(self):
        scenario = given(self.halting(again=True), OrderPlaced()).when(timed_out(Pay))
        scenario.then_status("parked")
        scenario.when(replied(Reserve, Reserved()), replied(Pay, Paid(), step="pay", attempt=1))
        scenario.then_status("completed")

    def test_without_a_step_the_turn_has_failed_and_its_event_is_taken_again(self):
        scenario = given(self.halting(again=False), OrderPlaced())
        scenario.when(replied(Reserve, Reserved()), failed(Pay))
        scenario.then_parked("table.py:9: pay may not fail")
        assert scenario.state.steps["pay"].status == "issued"
        scenario.when(operator("release")).then_parked("table.py:9: pay may not fail")


class TestTheEnd:
    def test_what_is_in_flight_is_given_up_and_undone_before_a_saga_completes(self):
        rows: Rows = {
            ("begin", "start"): (
                "both",
                lambda t: [
                    t.do(Reserve(), undo=Unreserve),
                    t.do(Ship(), kind="harmless"),
                    Sleep("nap", 60_000_000),
                    wait(1, "go"),
                ],
            ),
            ("both", "go"): ("done", confirm),
        }
        scenario = given(table(rows), OrderPlaced()).when(signalled("go"))
        [dropped] = [e.body for e in scenario.decided if isinstance(e.body, BranchDropped)]

        assert dropped == BranchDropped(steps=("reserve", "ship"), sleeps=("nap",))
        scenario.when(after("2m"), signalled("go")).then_status("running")
        scenario.when(replied(Reserve, Reserved())).then(planned("reserve"), undo_issued(Unreserve))
        scenario.when(replied(Unreserve)).then(
            completed(OrderConfirmed()), noted("unread", "nobody had read it")
        )

    def test_waits_end_with_a_saga_that_ends_at_once(self):
        """Nothing is to be undone, so nothing is said of them."""
        rows: Rows = {
            ("begin", "start"): ("paying", lambda t: [t.do(Pay()), wait(1, "go")]),
            ("paying", "pay"): ("done", confirm),
        }
        scenario = given(table(rows), OrderPlaced()).when(replied(Pay, Paid()))
        scenario.then(completed(OrderConfirmed()))
        assert [type(entry.body).__name__ for entry in scenario.decided] == ["SagaCompleted"]

    def test_a_failure_waits_for_what_is_in_flight(self):
        rows: Rows = {
            ("begin", "start"): (
                "both",
                lambda t: [t.do(Reserve(), undo=Unreserve), t.do(Pay(), retry=ONCE)],
            ),
            ("both", "pay failed"): ("back", lambda _: [Fail("no money", "poor", None)]),
        }
        scenario = given(table(rows), OrderPlaced()).when(failed(Pay)).then_status("running")
        scenario.when(replied(Reserve, Reserved())).then(planned("reserve"), undo_issued(Unreserve))


class TestPastThePivot:
    def rows(self, **options: Any) -> Rows:
        return {
            ("begin", "start"): ("paying", lambda t: [t.do(Pay(), kind="pivot")]),
            ("paying", "pay"): ("late", lambda t: [t.do(Reserve(), **options)]),
            ("late", "reserve"): ("done", confirm),
        }

    def test_a_step_that_can_be_undone_parks_the_saga_before_it_is_issued(self):
        scenario = given(table(self.rows(undo=Unreserve)), OrderPlaced())
        scenario.when(replied(Pay, Paid()))
        scenario.then_parked(
            "table.py:7: step 'reserve' can be undone, but comes after the pivot 'pay'"
        )
        assert set(scenario.state.steps) == {"pay"}

    def test_any_other_step_is_issued(self):
        for options in ({}, {"kind": "retriable"}, {"kind": "harmless"}):
            scenario = given(table(self.rows(**options)), OrderPlaced())
            scenario.when(replied(Pay, Paid())).then(issued(Reserve))

    def test_what_was_recorded_before_it_was_refused_stands(self):
        """A history of an earlier release has such a step: it is replayed, and ends."""
        before = given(table(self.rows()), OrderPlaced()).when(replied(Pay, Paid()))

        later = given(table(self.rows(undo=Unreserve)), history=before.history)

        later.when(replied(Reserve, Reserved())).then(completed(OrderConfirmed()))
