"""`migrated_to`: a history of one version goes on with another, in all ways to write a saga."""

from __future__ import annotations

import pytest

from saga import Context, saga
from saga.core.events import Migrated
from saga.errors import ReplayMismatch
from saga.testing import (
    after,
    completed,
    given,
    issued,
    migrated_to,
    operator,
    replied,
    signalled,
    undo_issued,
)
from tests.authoring.loans import (
    CONTRACTS,
    WAYS,
    Fetch,
    Fetched,
    Lent,
    PickUp,
    PutBack,
    Remind,
    Wanted,
    function_1,
    loan_as,
)


class Ways:
    """One way to write the loan."""

    def __init__(self, loan):
        self.first, self.second, self.steps = loan.first, loan.second, loan.steps

    def given(self, *happened):
        return given(self.first, *happened, contracts=CONTRACTS)

    def migrated(self):
        return migrated_to(self.second, steps=self.steps)


@pytest.fixture(params=WAYS)
def loan(request, tmp_path):
    return Ways(loan_as(request.param, tmp_path))


def test_step_in_flight_is_answered_under_its_old_id(loan):
    (
        loan.given(Wanted())
        .when(loan.migrated())
        .then_nothing()
        .when(replied(Fetch, Fetched(), step="fetch"))
        .when(signalled("pick-up", {"card": "c"}))
        .then(issued(Remind(loan="l-1")))
        .when(replied(Remind, step="remind"))
        .then(completed(Lent(loan="l-1")))
    )


def test_wait_that_is_open_goes_on(loan):
    (
        loan.given(Wanted(), replied(Fetch, Fetched()))
        .when(loan.migrated(), signalled("pick-up", {"card": "c"}))
        .then(issued(Remind(loan="l-1")))
        .when(replied(Remind))
        .then_steps(fetch="done", remind="done")
        .then_status("completed")
    )


def test_timeout_of_before_runs_on_and_the_undo_is_that_of_the_old_id(loan):
    (
        loan.given(Wanted(), replied(Fetch, Fetched()), after("1d"))
        .when(loan.migrated(), after("2d"))
        .then(undo_issued(PutBack(loan="l-1", shelf="s-1")))
        .when(replied(PutBack))
        .then_status("rolled_back")
        .then_steps(fetch="undone")
    )


def test_paused_saga_is_moved_and_acts_on_resume(loan):
    (
        loan.given(Wanted(), operator("pause"), replied(Fetch, Fetched()))
        .when(loan.migrated(), signalled("pick-up", {"card": "c"}))
        .then_nothing()
        .when(operator("resume"))
        .then(issued(Remind(loan="l-1")))
    )


def test_saga_on_its_way_back_is_moved(loan):
    """With the undo of the new code, where that is not issued yet."""
    (
        loan.given(Wanted(), replied(Fetch, Fetched()), after("3d"))
        .when(loan.migrated(), replied(PutBack))
        .then_status("rolled_back")
    )


def test_moved_twice_it_knows_all_names(loan):
    back = {new: old for old, new in loan.steps.items()}
    (
        loan.given(Wanted())
        .when(loan.migrated(), replied(Fetch, Fetched()), migrated_to(loan.first, steps=back))
        .when(signalled("pick-up", {"card": "c"}))
        .then(completed(Lent(loan="l-1")))
        .then_steps(fetch="done")
    )


def test_without_its_new_names_it_decides_otherwise(loan):
    with pytest.raises(ReplayMismatch, match="fetch/do/1"):
        loan.given(Wanted()).when(migrated_to(loan.second))


def test_migration_is_a_fact_that_says_from_where_to_where(loan):
    scenario = loan.given(Wanted()).when(migrated_to(loan.second, steps=loan.steps, reason="why"))
    [fact] = [entry.body for entry in scenario.history if isinstance(entry.body, Migrated)]
    assert (fact.from_version, fact.definition_version, fact.reason) == (1, 2, "why")
    assert dict(fact.steps) == loan.steps
    assert fact.fingerprint != fact.from_fingerprint


def test_saga_whose_turn_failed_is_released_behind_its_cure():
    @saga("loan", version=1, starts_on=Wanted)
    async def broken(ctx: Context, wanted: Wanted) -> None:
        await ctx.do(Fetch(loan=wanted.loan))
        raise KeyError("a bug")

    @saga("loan", version=2, starts_on=Wanted)
    async def mended(ctx: Context, wanted: Wanted) -> Lent:
        await ctx.do(Fetch(loan=wanted.loan))
        return Lent(loan=wanted.loan)

    scenario = given(broken, Wanted(), contracts=[Lent])
    scenario.when(replied(Fetch, Fetched())).then_parked("a bug")
    scenario.when(migrated_to(mended)).then_status("parked")
    scenario.when(operator("release")).then(completed(Lent(loan="l-1")))


def test_patch_that_was_not_taken_is_not_taken_by_the_new_version_either():
    @saga("loan", version=1, starts_on=Wanted)
    async def before(ctx: Context, wanted: Wanted) -> None:
        await ctx.do(Fetch(loan=wanted.loan))
        await ctx.wait("again", PickUp)

    @saga("loan", version=2, starts_on=Wanted)
    async def patched(ctx: Context, wanted: Wanted) -> None:
        if ctx.patched("reminds"):
            await ctx.do(Remind(loan=wanted.loan))
        await ctx.do(Fetch(loan=wanted.loan))
        await ctx.wait("again", PickUp)
        if ctx.patched("reminds later"):
            await ctx.do(Remind(loan=wanted.loan))

    (
        given(before, Wanted(), replied(Fetch, Fetched()))
        .when(migrated_to(patched), signalled("again", {}))
        .then(issued(Remind(loan="l-1")))
    )


def test_run_that_begins_behind_a_migration_is_the_new_versions():
    @saga("loan", version=1, starts_on=Wanted)
    async def once(ctx: Context, wanted: Wanted) -> None:
        await ctx.do(Fetch(loan=wanted.loan))

    @saga("loan", version=2, starts_on=Wanted)
    async def again(ctx: Context, wanted: Wanted) -> None:
        await ctx.do(Fetch(loan=wanted.loan), id="bring")
        await ctx.continue_as_new(wanted)

    scenario = (
        given(once, Wanted())
        .when(migrated_to(again, steps={"fetch": "bring"}), replied(Fetch, Fetched()))
        .then(issued(Fetch(loan="l-1")))
    )
    assert list(scenario.state.steps) == ["2.bring"]
    scenario.when(migrated_to(again_later, steps={"bring": "carry"}), replied(Fetch, Fetched()))
    assert list(scenario.state.steps) == ["3.carry"]


@saga("loan", version=3, starts_on=Wanted)
async def again_later(ctx: Context, wanted: Wanted) -> None:
    await ctx.do(Fetch(loan=wanted.loan), id="carry")
    await ctx.continue_as_new(wanted)


def test_definition_of_another_name_is_no_version_of_it():
    @saga("other", version=2, starts_on=Wanted)
    async def other(ctx: Context, wanted: Wanted) -> None: ...

    with pytest.raises(AssertionError, match="cannot become"):
        given(function_1, Wanted()).when(migrated_to(other))
