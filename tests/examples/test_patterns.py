"""The patterns do what they say, also in a process that is killed on the way, and in any world."""

from collections import Counter
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

import pytest

from examples.patterns import (
    approval,
    approval_with_timeout,
    compensation,
    conditional,
    deterministic,
    error_handling,
    events,
    long_running,
    loop,
    parallel,
    retry,
    scheduled,
    scopes,
    sequential,
    sub_workflow,
)
from saga.testing import (
    World,
    WorldState,
    after,
    child_rolled_back,
    completed,
    failed,
    given,
    issued,
    operator,
    redelivered,
    refused,
    replied,
    rolled_back,
    signalled,
    undo_issued,
)
from tests.examples.pattern_stories import STORIES
from tests.examples.running import ROOT, kill_again_and_again, kill_behind_each_commit, run
from tests.patience import HANG_S

PATTERNS = sorted(
    path.stem for path in (ROOT / "examples" / "patterns").glob("*.py") if path.stem != "__init__"
)
BY_CHANCE = "deterministic"
"""What its saga draws comes from the moment at which it begins."""
WORLDS = 12
KILLED_IN_EACH_BUILD = {"events", "long_running", "scopes", "sub_workflow"}
SAYS = {
    "sequential": [
        "o-1 completed order_id='o-1' transaction='t-o-1'",
        "o-2 rolled_back order_id='o-2' reason='over the limit'",
    ],
    "conditional": [
        "o-1 completed order_id='o-1' way='express'",
        "o-2 completed order_id='o-2' way='standard'",
        "o-3 rolled_back order_id='o-3' reason='unknown order type: by balloon'",
    ],
    "loop": [
        "completed batch='b-1' results=[1, 4, 16] failures=[Failure(item=-3, error=",
    ],
    "retry": [
        "j-1 completed job='j-1' trials=2",
        "j-2 rolled_back job='j-2' reason='it failed 3 times'",
    ],
    "parallel": [
        "t-1 completed trip='t-1' rooms=['Rome 12', 'Bari 12', 'Pisa 12'] carrier='train'",
        "t-2 rolled_back trip='t-2' reason='it has sunk'",
    ],
    "sub_workflow": [
        "o-1 completed order_id='o-1' authorization='a for o-1'",
        "o-2 rolled_back order_id='o-2' reason='over the limit'",
        "o-3 rolled_back order_id='o-3' reason='sold out'",
    ],
    "scheduled": ["completed member='m-1' mails=3"],
    "approval": [
        "r-1 completed request='r-1' approved_by='ann'",
        "r-2 rolled_back request='r-2' reason='rejected: too late'",
    ],
    "approval_with_timeout": [
        "completed request='r-1' approved_by='ann'",
        "completed request='r-2' approved_by=None",
    ],
    "error_handling": [
        "good.csv completed file='good.csv' result='12 rows'",
        "bad.csv completed file='bad.csv' result='told back'",
        "far.csv completed file='far.csv' result='queued'",
        "odd.csv rolled_back file='odd.csv' reason='nobody thought of this'",
    ],
    "compensation": [
        "t-1 completed trip='t-1' numbers=['t-1 AB 12', 't-1 Sole', 't-1 red']",
        "t-2 rolled_back trip='t-2' reason='no car left' failed_step='book-car' residue=[]",
    ],
    "deterministic": ["completed draw='d-1' ticket="],
    "events": ["completed order_id='o-1' paid=40 places=['Bari', 'Rome']"],
    "requests": [
        "tea {'tea': 2}",
        "pot {'pot': 1, 'tea': 2}",
        "cup refused: there is room for 10",
        "checkout {'pot': 1, 'tea': 2}",
        "completed basket='b-1' items={'pot': 1, 'tea': 2}",
    ],
    "scopes": [
        "e-1 completed evening='e-1' day='Friday'",
        "e-2 rolled_back evening='e-2' reason='everything is sold out'",
    ],
    "long_running": ["completed meter='m-1' total=36"],
}
"""What each pattern prints of its outcomes, in order."""


def outcomes(pattern: str, printed: str) -> list[str]:
    """The lines that tell how sagas ended, as far as they are always the same."""
    return [
        expected
        for line in printed.splitlines()
        for expected in SAYS[pattern]
        if line.startswith(expected)
    ]


def test_each_pattern_is_known() -> None:
    assert set(SAYS) == set(PATTERNS)


@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param(pattern, marks=[pytest.mark.long] * (pattern not in KILLED_IN_EACH_BUILD))
        for pattern in PATTERNS
    ],
)
def test_a_pattern_that_is_killed_goes_on_as_if_nothing_had_happened(
    pattern: str, tmp_path: Path
) -> None:
    """Killed in one life after another, then run to its end by the command of its first line."""
    program = str(ROOT / "examples" / "patterns" / f"{pattern}.py")

    kill_again_and_again(tmp_path, f"examples.patterns.{pattern}")
    ran = run(tmp_path, program)

    assert ran.returncode == 0, ran.stderr
    assert outcomes(pattern, ran.stdout) == SAYS[pattern], ran.stdout


@pytest.mark.long
@pytest.mark.parametrize("pattern", [each for each in PATTERNS if each != BY_CHANCE])
def test_behind_whichever_commit_a_pattern_is_killed_it_ends_the_same(
    pattern: str, tmp_path: Path
) -> None:
    kill_behind_each_commit(tmp_path, f"examples.patterns.{pattern}")


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_holds_in_any_world(pattern: str) -> None:
    """Crashes, repeats, cancels and torn batches at random moments; see `World`."""
    module = import_module(f"examples.patterns.{pattern}")
    statuses: Counter[str] = Counter()

    def note(world: WorldState) -> None:
        statuses.update(saga.status for saga in world.sagas)

    for seed in range(WORLDS):
        verdict = World(module.app, seed, triggers=STORIES[pattern], check=note).run()
        assert verdict.ok, verdict.report()
        assert not verdict.parked, verdict.report()

    assert statuses["completed"] + statuses["rolled_back"] > 0


class TestPromises:
    """What `docs/reference/patterns.md` says of each, without any I/O."""

    def test_steps_are_asked_for_one_after_another(self) -> None:
        placed = sequential.OrderPlaced(order_id="o-1", items=["tea"], email="a@example.org")
        (
            given(sequential.order)
            .when(placed)
            .then(issued(sequential.Validate))
            .when(replied(sequential.Validate, sequential.Validated(total=4)))
            .then(issued(sequential.Reserve))
            .when(replied(sequential.Reserve, sequential.Reserved(reservation="s-1")))
            .then(issued(sequential.Charge))
            .when(refused(sequential.Charge))
            .then(undo_issued(sequential.Release(order_id="o-1", reservation="s-1")))
        )

    @pytest.mark.parametrize(
        ("kind", "steps"), [("express", ["express"]), ("standard", ["schedule"]), ("odd", [])]
    )
    def test_each_type_of_order_takes_its_own_path(self, kind: str, steps: list[str]) -> None:
        scenario = given(conditional.order, conditional.OrderPlaced(order_id="o-1", type=kind))

        assert list(scenario.state.steps) == steps
        assert scenario.status == ("running" if steps else "rolled_back")

    def test_a_failed_item_does_not_stop_the_others(self) -> None:
        scenario = given(loop.batch, loop.BatchArrived(batch="b-1", items=[1, 2, 3]))
        scenario.when(replied(loop.Process, loop.Processed(result=1)))
        scenario.when(refused(loop.Process, "no"))
        scenario.when(replied(loop.Process, loop.Processed(result=9)))

        failures = [loop.Failure(item=2, error="no")]
        scenario.then(completed(loop.BatchDone(batch="b-1", results=[1, 9], failures=failures)))

    def test_trials_are_apart_and_end(self) -> None:
        scenario = given(retry.job, retry.JobPosted(job="j-1", works_at=9, pause="1h"))
        scenario.when(replied(retry.Fetch))
        for _ in range(2):
            scenario.when(replied(retry.Try, retry.Tried(success=False)))
            scenario.when(after("59m")).then()
            scenario.when(after("1m")).then(issued(retry.Try))
        scenario.when(replied(retry.Try, retry.Tried(success=False)))

        scenario.then(rolled_back(retry.JobFailed, code="gave_up"))

    def test_a_sub_workflow_is_tested_by_itself(self) -> None:
        wanted = sub_workflow.PaymentWanted(payment="p-1", amount=40)
        authorized = sub_workflow.Authorized(authorization="a-1")
        scenario = given(sub_workflow.payment, wanted)
        scenario.when(replied(sub_workflow.Authorize, authorized))
        scenario.when(refused(sub_workflow.Capture, "frozen"))

        scenario.then(undo_issued(sub_workflow.Void(payment="p-1", authorization="a-1")))

    def test_a_child_that_fails_is_handled_by_its_parent(self) -> None:
        placed = sub_workflow.OrderPlaced(order_id="o-1", amount=40)
        scenario = given(sub_workflow.order, placed)
        scenario.when(child_rolled_back(sub_workflow.PaymentWanted, "no money"))

        scenario.then_status("rolled_back")
        assert scenario.state.reason == "no money"

    @pytest.mark.parametrize("is_early", [True, False])
    def test_an_answer_ends_the_wait_whenever_it_comes(self, is_early: bool) -> None:  # noqa: FBT001
        made = approval.RequestMade(request="r-1", approvers=["ann"])
        answer = signalled("approval", {"approved": True, "approver": "ann"})
        asked = replied(approval.Ask)
        happens = [answer, asked] if is_early else [asked, after("9d"), answer]
        scenario = given(approval.request, made).when(*happens)

        scenario.then(issued(approval.Execute(request="r-1")))

    def test_a_wait_ends_once(self) -> None:
        wanted = approval_with_timeout.LeaveWanted(request="r-1")
        answer = signalled("answer", {"approver": "ann"})
        answered = given(approval_with_timeout.leave, wanted).when(after("1d"), answer)
        answered.then_status("completed").when(after("9d")).then_nothing()
        late = given(approval_with_timeout.leave, wanted).when(after("3d"))
        late.then(issued(approval_with_timeout.Remind)).when(answer)
        late.when(replied(approval_with_timeout.Remind))

        done = approval_with_timeout.LeaveDecided(request="r-1", approved_by="ann")
        late.then(completed(done))

    @pytest.mark.parametrize(
        ("code", "step"), [("invalid", "complain"), ("away", "queue"), ("odd", "alert")]
    )
    def test_each_failure_has_its_own_way(self, code: str, step: str) -> None:
        scenario = given(error_handling.imports, error_handling.ImportWanted(file="a.csv"))
        scenario.when(refused(error_handling.Import, "no", code=code))
        assert list(scenario.state.steps) == ["import", step]
        scenario.when(replied(step))

        scenario.then_status("rolled_back" if code == "odd" else "completed")

    def booked(self):
        """A trip with a flight and a hotel, whose car is not to be had."""
        wanted = compensation.TripBooked(trip="t-1", flight="f", hotel="h", car="c")
        scenario = given(compensation.trip, wanted)
        scenario.when(replied(compensation.BookFlight, compensation.Booking(number="1")))
        scenario.when(replied(compensation.BookHotel, compensation.Booking(number="2")))
        return scenario.when(refused(compensation.BookCar, "none left"))

    def test_what_was_booked_is_cancelled_in_reverse_order(self) -> None:
        scenario = self.booked()
        scenario.then(undo_issued(compensation.CancelHotel(trip="t-1", number="2")))
        scenario.when(replied(compensation.CancelHotel))
        scenario.then(undo_issued(compensation.CancelFlight(trip="t-1", number="1")))
        scenario.when(replied(compensation.CancelFlight))

        scenario.then(rolled_back(compensation.TripFailed, failed_step="book-car"))

    def test_a_cancellation_that_fails_is_never_hidden(self) -> None:
        scenario = self.booked().when(failed(compensation.CancelHotel), after("1m"))
        scenario.then(undo_issued(compensation.CancelHotel))
        scenario.when(operator("skip", "book-hotel")).when(replied(compensation.CancelFlight))

        scenario.then_status("rolled_back_with_residue")
        assert scenario.state.residue == ("book-hotel",)

    def test_a_replay_takes_the_same_path(self) -> None:
        """`given` replays the history after each turn, and so does this, once more."""
        drawn = deterministic.Drawn(number=0.7, has_bonus=True)
        scenario = given(deterministic.draw, deterministic.DrawWanted(draw="d-1"))
        scenario.when(replied(deterministic.Draw, drawn), replied(deterministic.Pay))
        again = given(deterministic.draw, history=scenario.history)

        assert again.state.outcome == scenario.state.outcome
        assert again.state.outcome is not None

    def test_hotels_are_held_two_at_a_time(self) -> None:
        wanted = parallel.TripWanted(trip="t-1", cities=["a", "b", "c"], carriers=["x"])
        scenario = given(parallel.trip, wanted)
        assert len(scenario.state.steps) == 2
        for city in ("b", "a", "c"):
            number = ["a", "b", "c"].index(city) + 1
            step = "hold-hotel" if number == 1 else f"hold-hotel-{number}"
            scenario.when(replied(step, parallel.Hotel(city=city, room=city)))
        scenario.when(replied(parallel.BuyTicket, parallel.Ticket(carrier="x")))

        booked = parallel.TripBooked(trip="t-1", rooms=["a", "b", "c"], carrier="x")
        scenario.then(completed(booked))

    def test_what_lost_the_race_is_returned(self) -> None:
        wanted = parallel.TripWanted(trip="t-1", cities=[], carriers=["x", "y"])
        scenario = given(parallel.trip, wanted)
        scenario.when(replied("buy-ticket-2", parallel.Ticket(carrier="y")))
        scenario.when(replied("buy-ticket", parallel.Ticket(carrier="x")))

        scenario.then(undo_issued(parallel.ReturnTicket(trip="t-1", carrier="x")))

    def test_events_are_heard_in_order_and_once(self) -> None:
        scenario = given(events.order, events.OrderPlaced(order_id="o-1"))
        bari = events.ParcelMoved(order_id="o-1", place="Bari")
        rome = events.ParcelMoved(order_id="o-1", place="Rome", is_delivered=True)
        settled = events.PaymentSettled(payment="p-1", order_ref="o-1", amount=40)
        scenario.when(bari, redelivered(), rome, settled, replied(events.Send))

        closed = events.OrderClosed(order_id="o-1", paid=40, places=["Bari", "Rome"])
        scenario.then(issued(events.Send), completed(closed))

    def test_a_day_is_undone_before_the_next_is_tried(self) -> None:
        wanted = scopes.EveningWanted(evening="e-1", days=["Monday", "Friday"])
        scenario = given(scopes.evening, wanted).when(replied(scopes.HoldTable))
        scenario.when(refused(scopes.HoldSeats, "no seats"))
        scenario.then(undo_issued(scopes.DropTable(evening="e-1", day="Monday")))
        scenario.when(replied(scopes.DropTable))

        scenario.then(issued(scopes.HoldTable(evening="e-1", day="Friday")))

    def test_rounds_go_on_from_run_to_run(self) -> None:
        scenario = given(long_running.meter, long_running.MeterInstalled(meter="m-1", rounds=4))
        for units in (1, 2, 3, 4):
            scenario.when(replied(long_running.Read, long_running.Reading(units=units)))
            scenario.when(after("1d"))

        scenario.then(completed(long_running.MeterRetired(meter="m-1", total=10)))


async def test_a_worker_is_free_while_sagas_sleep(tmp_path: Path) -> None:
    """A hundred members sleep for a day, and one who does not want to is served at once."""
    service = scheduled.app.service(
        bus=f"local:///{tmp_path}/saga.db", store=f"sqlite:///{tmp_path}/saga.db"
    )
    ends_at = datetime(2026, 1, 1, tzinfo=UTC)
    async with service:
        for number in range(100):
            sleeper = scheduled.SignedUp(member=f"m-{number}", trial_ends_at=ends_at)
            await service.start(sleeper)
        quick = scheduled.SignedUp(
            member="quick", first_pause="0s", second_pause="0s", trial_ends_at=ends_at
        )
        saga_id = await service.start(quick)
        outcome = await service.outcome(saga_id, timeout=HANG_S)
        left = await service.idle(timeout=HANG_S)

    assert outcome.status == "completed"
    assert left is not None
    assert left.sagas["running"] == 100


def test_each_pattern_has_its_row() -> None:
    page = (ROOT / "docs" / "reference" / "patterns.md").read_text("utf-8")
    rows = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("| ")]
    files = [row[-1].strip(" `") for row in rows if row[-1].strip().endswith(".py`")]

    assert sorted(files) == [f"examples/patterns/{name}.py" for name in PATTERNS]
