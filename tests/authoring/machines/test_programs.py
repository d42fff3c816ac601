"""What machines do with what comes: taken, kept, refused; and how they stay, time out and end."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from saga import (
    Acts,
    ChildRolledBack,
    Event,
    Intent,
    Next,
    State,
    StepDone,
    StepFailed,
    TimedOut,
    Transitions,
    TurnContext,
    answer,
    child,
    continue_as_new,
    do,
    drop,
    machine,
    publish,
    refuse,
    tell,
)
from saga.core.events import SignalReceived
from saga.testing import (
    after,
    answered,
    arrival_refused,
    child_completed,
    child_rolled_back,
    completed,
    continued,
    given,
    intent_told,
    issued,
    noted,
    operator,
    published,
    refused,
    replied,
    rolled_back,
    signalled,
    undo_issued,
    updated,
)


class Began(Event, topic="mill.began", version=1, key="id"):
    id: str = "m-1"
    way: str = ""


class Ground(Event, topic="mill.ground", version=1):
    bags: int = 1


class Grind(Intent[Ground], topic="mill.grind", version=1):
    id: str = "m-1"


class Ungrind(Intent[None], topic="mill.ungrind", version=1):
    id: str = "m-1"


class Sweep(Intent[None], topic="mill.sweep", version=1):
    id: str = "m-1"


class Rained(Event, topic="sky.rained", version=1, key="id"):
    id: str = "m-1"


class Sold(Event, topic="mill.sold", version=1):
    id: str = "m-1"


class Lost(Event, topic="mill.lost", version=1):
    id: str = "m-1"
    reason: str
    code: str | None = None
    failed_step: str | None = None


class Go(BaseModel):
    to: str = ""


class Ask(BaseModel):
    how: str


class Waiting(State):
    began: Began

    def handle(self, event: Go) -> Next[Grinding | Sweeping | Ended]:
        match event.to:
            case "":
                return Grinding(began=self.began)
            case "nowhere":
                return Waiting(began=self.began)  # type: ignore[return-value]  # what is tried
            case "sweep":
                return Sweeping(), tell(Sweep())
            case _:
                return Ended()


class Grinding(State, timeout="1h"):
    began: Began
    bags: int = 0

    def enter(self) -> Acts:
        return do(Grind(), undo=Ungrind), do(Sweep(), id="broom", kind="harmless")

    def handle(
        self, event: Ground | Rained | Ask | TimedOut
    ) -> Next[Grinding | Sweeping | Ended | Gone]:
        match event:
            case Ground(bags=bags):
                return Sweeping(bags=bags), Rained()
            case Rained():
                return Grinding(began=self.began, bags=self.bags + 1), publish(Sold())
            case Ask(how="kindly"):
                return self, answer(self.bags)
            case Ask(how="rudely"):
                return self, refuse("rude", "ask kindly")
            case Ask(how="twice"):
                return self, answer(1), answer(2)
            case Ask(how="to drop"):
                return Ended(), drop("grind"), answer()
            case Ask(how="away"):
                return Waiting(began=self.began), answer()  # type: ignore[return-value]  # tried
            case Ask():
                return self
            case TimedOut():
                return Gone(reason=str(event), code="late")


class Sweeping(State):
    bags: int = 0

    def handle(self, event: StepDone) -> Next[Ended]:
        return Ended(), Sold()


class Ended(State): ...


class Gone(State, rolls_back=True):
    reason: str
    code: str


TABLE: Transitions = {
    Waiting: {Go: (Grinding, Sweeping, Ended)},
    Grinding: {
        Ground: Sweeping,
        Rained: Grinding,
        Ask: (Grinding, Ended),
        TimedOut: Gone,
    },
    Sweeping: {StepDone: Ended},
}


@machine(
    "mill",
    version=1,
    starts_on=Began,
    transitions=TABLE,
    listens=(Rained,),
    signals={"go": Go},
    updates={"ask": Ask},
    rolled_back=Lost,
)
def mill(began: Began) -> Next[Waiting]:
    return Waiting(began=began)


def grinding():
    return given(mill, Began(), signalled("go", {})).in_state(Grinding)


class TestWhatComesFromOutside:
    def test_what_the_state_takes_leads_on(self):
        (
            given(mill, Began())
            .in_state(Waiting)
            .when(signalled("go", {}))
            .then(issued(Grind), issued(Sweep, step="broom"))
            .in_state("Grinding")
        )

    def test_what_only_a_state_ahead_takes_is_kept_for_it_in_order(self):
        (
            given(mill, Began(), Rained(), Rained())
            .in_state(Waiting)
            .when(signalled("go", {}))
            .then(issued(Grind), issued(Sweep), published(Sold()), published(Sold()))
            .in_state(Grinding)
        )

    def test_what_no_state_ahead_takes_is_refused_and_recorded(self):
        (
            grinding()
            .when(signalled("go", {}))
            .then(noted("refused", "neither Grinding nor a state ahead takes signal 'go'"))
        )

    def test_a_signal_of_which_the_machine_knows_nothing_is_refused(self):
        given(mill, Began()).when(signalled("stop")).then(
            noted("refused", "neither Waiting nor a state ahead takes signal 'stop'")
        )

    def test_a_payload_that_does_not_fit_is_refused_when_it_comes(self):
        given(mill, Began()).when(signalled("go", {"to": 3})).then(
            noted("refused", "to: Input should be a valid string")
        )

    def test_what_was_kept_is_refused_once_no_state_ahead_takes_it(self):
        scenario = given(mill, Began(), Rained()).when(signalled("go", {"to": "sweep"}))

        scenario.then(intent_told(Sweep)).in_state(Sweeping)
        bodies = [entry.body for entry in scenario.decided]
        assert any(
            getattr(body, "detail", None) == "neither Sweeping nor a state ahead takes Rained"
            for body in bodies
        )

    def test_a_transition_that_the_table_does_not_have_changes_nothing(self):
        scenario = given(mill, Began()).when(signalled("go", {"to": "nowhere"}))

        scenario.then(noted("refused", "Go allows Grinding or Sweeping or Ended"))
        scenario.in_state(Waiting).when(signalled("go", {})).in_state(Grinding)


class TestPauses:
    def test_what_came_before_a_paused_machine_began_is_kept_or_refused_when_it_does(self):
        scenario = given(mill).when(
            operator("pause", definition=True), Began(), signalled("stop"), signalled("go", {})
        )
        scenario.when(operator("resume", definition=True))

        why = "neither Grinding nor a state ahead takes signal 'stop'"
        stop = next(
            entry.version
            for entry in scenario.history
            if isinstance(entry.body, SignalReceived) and entry.body.name == "stop"
        )
        scenario.then(
            issued(Grind), issued(Sweep, step="broom"), arrival_refused(why, arrived=stop)
        ).in_state(Grinding)
        with pytest.raises(AssertionError):
            scenario.then(
                issued(Grind), issued(Sweep, step="broom"), arrival_refused(arrived=stop + 1)
            )

    def test_what_comes_while_it_is_paused_acts_when_it_goes_on(self):
        (
            grinding()
            .when(operator("pause"), Rained(), after("2h"))
            .in_state(Grinding)
            .when(operator("resume"))
            .in_state(Gone)
        )


class TestUpdates:
    def test_one_is_answered_once(self):
        grinding().when(updated("ask", {"how": "kindly"})).then(answered(0))

    def test_one_is_refused_by_the_state(self):
        grinding().when(updated("ask", {"how": "rudely"})).then(answered(code="rude"))

    def test_one_is_refused_where_the_state_does_not_take_it(self):
        given(mill, Began()).when(updated("ask", {"how": "kindly"})).then(answered(code="not_now"))

    def test_one_that_is_never_answered_parks(self):
        grinding().when(updated("ask", {"how": "silently"})).then_parked("was never answered")

    def test_one_that_is_answered_twice_parks(self):
        grinding().when(updated("ask", {"how": "twice"})).then_parked("was answered already")

    def test_one_that_leads_where_the_table_does_not_is_refused(self):
        (
            grinding()
            .when(updated("ask", {"how": "away"}))
            .then(noted("refused", "Ask allows Grinding or Ended"), answered(code="illegal"))
            .in_state(Grinding)
        )


class TestReplies:
    def test_a_reply_that_only_a_state_ahead_takes_is_kept_for_it(self):
        """The broom is done while the mill is grinding; `StepDone` is for `Sweeping`."""
        (
            grinding()
            .when(replied(Sweep))
            .in_state(Grinding)
            .when(replied(Grind, Ground(bags=2)))
            .then(published(Rained()), completed(Sold()))
            .in_state(Ended)
        )

    def test_a_failure_without_a_row_rolls_back(self):
        (
            grinding()
            .when(refused(Sweep, "broken", code="broom"))
            .when(replied(Grind, Ground()))
            .then(undo_issued(Ungrind))
            .when(replied(Ungrind))
            .then(rolled_back(Lost(reason="broken", code="broom", failed_step="broom")))
        )

    def test_what_a_step_came_to_may_be_given_up(self):
        """What it has done is undone before the saga ends; its reply leads nowhere."""
        (
            grinding()
            .when(updated("ask", {"how": "to drop"}))
            .then(answered(None))
            .in_state(Ended)
            .when(replied(Sweep), replied(Grind, Ground()))
            .then(undo_issued(Ungrind))
            .when(replied(Ungrind))
            .then(completed())
        )


class TestTime:
    def test_a_timeout_comes_when_a_state_has_lasted_so_long(self):
        (
            grinding()
            .when(after("59m"))
            .in_state(Grinding)
            .when(after("1m"))
            .in_state(Gone)
            .when(replied(Sweep), replied(Grind, Ground()))
            .then(undo_issued(Ungrind))
            .when(replied(Ungrind))
            .then(rolled_back(Lost(reason="nothing led on from Grinding in time", code="late")))
        )

    def test_staying_does_not_begin_the_timeout_again(self):
        grinding().when(after("50m"), Rained(), after("10m")).in_state(Gone)

    def test_leaving_ends_the_timeout(self):
        scenario = grinding().when(replied(Grind, Ground())).in_state(Sweeping)

        assert [timer.target for timer in scenario.state.timers.values()] == []


class Asleep(State, timeout="8h"):
    def handle(self, event: TimedOut) -> Next[Awake]:
        return Awake()


class Awake(State):
    def enter(self, ctx: TurnContext) -> Acts:
        ctx.log.info("awake at %s", ctx.now().hour)
        return Sweep(id=f"{ctx.key}/{ctx.version}/{ctx.uuid()}/{ctx.random()}")

    def handle(self, event: StepDone | StepFailed, ctx: TurnContext) -> Next[Rested | Broken]:
        match event:
            case StepDone(step="sweep", intent=Sweep()) if ctx.key != "broken":
                return Rested()
            case StepDone():
                return Broken(reason="tired", code="tired")
            case StepFailed(intent=Sweep(), refused=is_refused):
                return Broken(reason="refused" if is_refused else "failed", code="broom")


class Broken(State, rolls_back=True):
    reason: str
    code: str


class Rested(State):
    def enter(self) -> Acts:
        return Sold()


@machine(
    "sleeper",
    version=1,
    starts_on=Began,
    transitions={Asleep: {TimedOut: Awake}, Awake: {StepDone: Rested, StepFailed: Broken}},
    rolled_back=Lost,
)
def sleeper(began: Began) -> Next[Asleep]:
    return Asleep()


class TestContext:
    def test_time_chance_and_identity_are_the_same_in_every_replay(self):
        scenario = given(sleeper, Began()).when(after("8h"))

        scenario.then(issued(Sweep)).in_state(Awake)
        assert scenario.logged == ("info: awake at 8",)

    def test_the_outcome_may_stand_in_enter(self):
        given(sleeper, Began(), after("8h")).when(replied(Sweep)).then(completed(Sold()))

    def test_a_failure_that_leads_to_a_rollback_names_its_step(self):
        given(sleeper, Began(), after("8h")).when(refused(Sweep, "no", code="no")).then(
            rolled_back(Lost(reason="refused", code="broom", failed_step="sweep"))
        )


def test_an_own_event_that_leads_where_the_table_does_not_parks_with_file_and_line():
    """Nothing else would come; once the code is mended, a release takes the event again."""
    scenario = given(sleeper, Began(id="broken"), after("8h")).when(replied(Sweep))

    scenario.then_parked("Awake → Broken is no row: StepDone allows Rested")
    assert "test_programs.py:" in str(scenario.state.reason)


class Parent(State):
    def enter(self) -> Acts:
        return child(Began(id="c-1"), outcome=Sold)

    def handle(self, event: Sold | ChildRolledBack) -> Next[Sweeping | Gone]:
        match event:
            case Sold():
                return Sweeping(), Sweep()
            case ChildRolledBack(reason=reason):
                return Gone(reason=reason, code="child")


@machine(
    "parent",
    version=1,
    starts_on=Began,
    transitions={
        Parent: {Sold: Sweeping, ChildRolledBack: Gone},
        Sweeping: {StepDone: Ended},
    },
    rolled_back=Lost,
)
def parent(began: Began) -> Next[Parent]:
    return Parent()


class TestChildren:
    def test_the_outcome_of_a_child_leads_on(self):
        (
            given(parent, Began())
            .when(child_completed(Began, Sold(id="c-1")))
            .then(issued(Sweep))
            .in_state(Sweeping)
        )

    def test_a_child_that_is_rolled_back_is_a_value(self):
        (
            given(parent, Began())
            .when(child_rolled_back(Began, reason="no flour", code="flour"))
            .then(rolled_back(Lost(reason="no flour", code="child", failed_step="began")))
        )


class Round(State):
    began: Began

    def handle(self, event: Go) -> Next[Around]:
        more = Began(id=self.began.id, way=self.began.way + "x")
        return Around(), continue_as_new(more)


class Around(State): ...


@machine(
    "rounds",
    version=1,
    starts_on=Began,
    transitions={Round: {Go: Around}},
    signals={"go": Go},
)
def rounds(began: Began) -> Next[Round]:
    return Round(began=began)


def test_a_run_ends_beside_a_final_state_and_the_next_one_begins():
    scenario = given(rounds, Began()).when(signalled("go", {}))

    scenario.then(continued(Began(way="x"))).in_state(Round)
    scenario.when(signalled("go", {})).then(continued(Began(way="xx"))).in_state(Round)


class Holding(State):
    def enter(self) -> Acts:
        return do(Grind(), kind="pivot"), Sweep()

    def handle(self, event: Ground) -> Next[Sweeping]:
        return Sweeping()


@machine(
    "pivot",
    version=1,
    starts_on=Began,
    transitions={Holding: {Ground: Sweeping}, Sweeping: {StepDone: Ended}},
)
def pivot(began: Began) -> Next[Holding]:
    return Holding()


def test_behind_a_pivot_a_failure_without_a_row_parks_and_may_be_tried_again():
    (
        given(pivot, Began(), replied(Grind, Ground()))
        .when(refused(Sweep, "no broom"))
        .then_parked("no broom")
        .when(operator("retry", step="sweep"), replied(Sweep))
        .then(issued(Sweep, attempt=2), completed(Sold()))
    )
