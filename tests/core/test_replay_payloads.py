"""A replay reads what was recorded as today's contracts do, and never refuses what was accepted."""

from datetime import date
from typing import Annotated, Any

import pytest
from pydantic import AfterValidator, BaseModel, Field, field_validator, model_validator

from saga import Event, Intent, upcast
from saga.authoring import saga
from saga.core.state import parts_of
from saga.errors import ReplayMismatch
from saga.testing import (
    after,
    completed,
    given,
    issued,
    noted,
    operator,
    replied,
    rolled_back,
    signalled,
)
from tests.toys import ONCE


class Contracts:
    """Contracts of one name, as they are at one time, and a saga over them."""

    def __init__(self, *, field: Any = (int, 0), extra: bool = False, check=None) -> None:
        kind, default = field
        namespace: dict[str, Any] = {}
        annotations: dict[str, Any] = {"name": str, "amount": kind}
        namespace["amount"] = default
        if extra:
            annotations |= {"currency": str, "note": str | None}
            namespace |= {"currency": "EUR", "note": None}
        if check is not None:
            namespace["check"] = check

        def made(name, base, **keywords):
            body = {**namespace, "__annotations__": dict(annotations), "__module__": __name__}
            return type(base)(name, (base,), body, version=1, **keywords)

        self.Placed = made("Placed", Event, topic="read.placed", key="name")
        self.Done = made("Done", Event, topic="read.done")
        self.Seen = made("Seen", Event, topic="read.seen")
        self.Ended = made("Ended", Event, topic="read.ended")
        self.Gone = made("Gone", Event, topic="read.gone")
        self.Do = made("Do", Intent[self.Done], topic="read.do")
        self.Undo = made("Undo", Intent[None], topic="read.undo")
        self.Last = made("Last", Intent[None], topic="read.last")

    def saga(self):
        @saga("read", version=1, starts_on=self.Placed, rolled_back=self.Gone)
        async def read(ctx, placed):
            values = {"name": placed.name, "amount": placed.amount}
            done = await ctx.do(self.Do(**values), undo=self.Undo, retry=ONCE)
            ctx.publish(self.Seen(name=done.name, amount=done.amount))
            told = await ctx.wait("told", self.Seen)
            await ctx.do(self.Last(name=told.name, amount=told.amount))
            return self.Ended(**values)

        return read

    def after(self, history):
        return given(self.saga(), history=history, contracts=self.all)

    @property
    def all(self):
        return [self.Do, self.Undo, self.Last, self.Seen, self.Ended, self.Gone]

    def happened(self, amount=0):
        values = {"name": "a", "amount": amount}
        return [
            self.Placed(**values),
            replied(self.Do, self.Done(**values)),
            signalled("told", values),
        ]


def positive(value: int) -> int:
    if value < 1:
        raise ValueError("it must be positive")
    return value


def complains(value: int) -> int:
    raise LookupError(value)


@field_validator("amount")
@classmethod
def check_field(cls, amount: int) -> int:
    return positive(amount)


@model_validator(mode="after")
def check_after(self):
    positive(self.amount)
    return self


@model_validator(mode="before")
@classmethod
def check_before(cls, values):
    positive(values["amount"])
    return values


STRICTER = {
    "limit": {"field": (int, Field(gt=0))},
    "multiple": {"field": (int, Field(default=7, multiple_of=7, ge=7))},
    "annotated": {"field": (Annotated[int, AfterValidator(positive)], 1)},
    "raises another error": {"field": (Annotated[int, AfterValidator(complains)], ...)},
    "field validator": {"check": check_field},
    "validator after": {"check": check_after},
    "validator before": {"check": check_before},
    "limit, and more fields": {"field": (int, Field(gt=0)), "extra": True},
}
STAGES = {"started": 1, "replied": 2, "signalled": 3}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", STRICTER)
def test_stricter_contract_does_not_refuse_what_was_accepted(kind, stage):
    """Trigger, intents, replies, signals, facts: what was accepted once is recorded."""
    old, new = Contracts(), Contracts(**STRICTER[kind])
    happened = old.happened(amount=-3)[: STAGES[stage]]
    before = given(old.saga(), *happened, contracts=old.all)

    again = new.after(before.history)

    assert parts_of(again.state) == parts_of(before.state)
    assert again.when().then_nothing().status == "running"


def test_stricter_contract_does_not_refuse_what_a_rollback_made():
    """Undos and outcomes are filled by field name from what was accepted."""
    old, new = Contracts(), Contracts(field=(int, Field(gt=0)))
    happened = old.happened(amount=-3)[:2]
    before = given(old.saga(), *happened, operator("compensate"), contracts=old.all)
    assert parts_of(new.after(before.history).state) == parts_of(before.state)

    before.when(replied(old.Undo)).then(rolled_back(old.Gone))
    assert parts_of(new.after(before.history).state) == parts_of(before.state)


def test_stricter_contract_refuses_what_is_new():
    """What a new message says was never accepted: neither a signal nor an intent of the code."""
    old, new = Contracts(), Contracts(field=(int, Field(gt=0)))
    placed, done, told = old.happened(amount=-3)
    waiting = given(old.saga(), placed, done, contracts=old.all).history

    scenario = new.after(waiting).when(told)

    scenario.then(noted("refused", "greater than 0"))
    scenario.when(signalled("told", {"name": "a", "amount": 7})).then(issued(new.Last))
    again = new.after(scenario.history)
    assert again.status == "running"
    again.when(replied(new.Last)).then_parked("greater than 0")


def test_what_was_refused_stays_refused_whatever_is_accepted_today():
    """Also where the refusal would be worded otherwise now."""
    strict, loose = Contracts(field=(int, Field(gt=0))), Contracts()
    happened = strict.happened(amount=1)[:2]
    history = given(strict.saga(), *happened, contracts=strict.all)
    history.when(signalled("told", {"name": "a", "amount": -1})).then(noted("refused"))

    for code in (strict, loose, Contracts(field=(int, Field(gt=99)))):
        again = code.after(history.history)
        assert list(again.state.waited) == ["wait-told-1"]
        assert parts_of(again.state) == parts_of(history.state)


@pytest.mark.parametrize("stage", STAGES)
def test_kept_signals_are_taken_and_refused_as_they_were_then(stage):
    old, new = Contracts(field=(int, Field(lt=9))), Contracts(field=(int, Field(gt=0)))
    placed, done, _ = old.happened(amount=1)
    kept = [signalled("told", {"name": "a", "amount": amount}) for amount in (10, -2, -3)]
    before = given(old.saga(), placed, *kept, done, contracts=old.all)
    assert before.state.steps["last"].payload == '{"amount":-2,"name":"a"}'

    assert parts_of(new.after(before.history).state) == parts_of(before.state)


def test_optional_field_more_is_no_difference():
    """In an intent, a fact, an outcome, an undo; what is sent again is what was sent before."""
    old, new = Contracts(), Contracts(extra=True)
    for count in (1, 2, 3):
        before = given(old.saga(), *old.happened()[:count], contracts=old.all)
        assert parts_of(new.after(before.history).state) == parts_of(before.state)
    ended = before.when(replied(old.Last))
    ended.then(completed(old.Ended(name="a", amount=0)))
    assert parts_of(new.after(ended.history).state) == parts_of(ended.state)
    undone = given(old.saga(), *old.happened()[:2], operator("compensate"), contracts=old.all)
    assert parts_of(new.after(undone.history).state) == parts_of(undone.state)
    undone.when(replied(old.Undo)).then(rolled_back(old.Gone))
    assert new.after(undone.history).status == "rolled_back"


def test_field_less_is_no_difference_and_field_of_another_value_is_one():
    old, new = Contracts(extra=True), Contracts()
    before = given(old.saga(), *old.happened(), contracts=old.all)
    assert parts_of(new.after(before.history).state) == parts_of(before.state)

    class Other(Contracts):
        def saga(self):
            @saga("read", version=1, starts_on=self.Placed, rolled_back=self.Gone)
            async def read(ctx, placed):
                await ctx.do(self.Do(name=placed.name, amount=placed.amount + 1), undo=self.Undo)

            return read

    for other in (Other(), Other(extra=True)):
        with pytest.raises(ReplayMismatch, match='"amount":1'):
            other.after(before.history)


def test_retry_sends_what_was_recorded():
    """The same intent, although its contract has a field more today."""
    old, new = Contracts(), Contracts(extra=True)

    class Retried(Contracts):
        def saga(self):
            @saga("read", version=1, starts_on=self.Placed)
            async def read(ctx, placed):
                await ctx.do(self.Do(name=placed.name), timeout="10s")

            return read

    old, new = Retried(), Retried(extra=True)
    before = given(old.saga(), old.Placed(name="a"), contracts=old.all)

    again = new.after(before.history).when(after("11s"))

    assert [step.attempts for step in again.state.steps.values()] == [2]
    assert again.decided[-2].body.payload == '{"amount":0,"name":"a"}'
    assert new.after(again.history).state.steps["do"].attempts == 2


def test_same_trigger_and_reply_are_duplicates_although_their_contract_has_a_field_more():
    """Both are read as today's contracts do before they are compared."""
    old, new = Contracts(), Contracts(extra=True)
    placed, done, _ = old.happened()
    before = given(old.saga(), placed, done, contracts=old.all)
    values = {"name": "a", "amount": 0}

    again = new.after(before.history)

    again.when(new.Placed(**values)).then_was("duplicate").then_nothing()
    again.when(replied("do", new.Done(**values), attempt=1)).then_was("duplicate")
    again.when(new.Placed(**values, note="another")).then_was("key_taken")
    again.when(replied("do", new.Done(**values, note="another"), attempt=1))
    again.then(noted("conflicting"))


def test_recorded_trigger_that_goes_up_is_the_same_trigger():
    class PlacedV1(Event, topic="up.placed", version=1, key="name"):
        name: str

    class PlacedV2(Event, topic="up.placed", version=2, key="name"):
        name: str
        on: date

    @saga("up", version=1, starts_on=PlacedV1)
    async def before(ctx, placed):
        await ctx.wait("x")

    @saga("up", version=1, starts_on=PlacedV2)
    async def now(ctx, placed):
        assert placed.on == date(2026, 1, 1)
        await ctx.wait("x")

    history = given(before, PlacedV1(name="a")).history

    @upcast
    def to_v2(old: PlacedV1) -> PlacedV2:
        return PlacedV2(name=old.name, on=date(2026, 1, 1))

    again = given(now, history=history, contracts=[PlacedV1])

    again.when(PlacedV2(name="a", on=date(2026, 1, 1))).then_was("duplicate")
    again.when(PlacedV2(name="a", on=date(2026, 1, 2))).then_was("key_taken")


def test_type_that_changed_is_still_refused():
    """Only rules are left out of account; what no longer fits a type cannot be read."""
    old, new = Contracts(), Contracts(field=(date, date(2026, 1, 1)))
    before = given(old.saga(), *old.happened(amount=-3), contracts=old.all)

    with pytest.raises(ReplayMismatch, match="amount"):
        new.after(before.history)


class Inner(BaseModel):
    amount: int = Field(gt=0)
    inner: "Inner | None" = None

    @model_validator(mode="after")
    def look(self):
        raise ValueError("nothing is good enough")


def test_rules_of_models_within_messages_grow_as_well():
    class Placed(Event, topic="deep.placed", version=1, key="name"):
        name: str
        parts: Any

    class Strict(Event, topic="deep.placed", version=1, key="name"):
        name: str = Field(pattern="z+")
        parts: dict[str, list[Inner]] = Field(min_length=5)

    def deep(trigger):
        @saga("deep", version=1, starts_on=trigger)
        async def deep(ctx, placed):
            if not isinstance(placed.parts["x"][0], dict):
                assert placed.parts["x"][0].inner.amount == -2
            await ctx.wait("x")

        return deep

    parts = {"x": [{"amount": -1, "inner": {"amount": -2}}]}
    history = given(deep(Placed), Placed(name="a", parts=parts)).history

    assert given(deep(Strict), history=history).status == "running"
