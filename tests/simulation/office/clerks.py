"""The machines: one of `office` in three versions, one of `depot`."""

from __future__ import annotations

from typing import Any, Final

from saga import (
    Acts,
    ChildRolledBack,
    Next,
    State,
    StepFailed,
    TimedOut,
    Transitions,
    answer,
    child,
    do,
    machine,
    on,
)
from tests.simulation.office.words import (
    PATIENT,
    RETRY,
    ClerkAsked,
    CrateAsked,
    Ended,
    Failed,
    Go,
    Lift,
    Lifted,
    Lower,
    News,
    Question,
    Stow,
    Stowed,
    Unstow,
)


def _lift(asked: ClerkAsked, step: str) -> Lift:
    return Lift(key=asked.key, step=step, script=asked.scripts.get(step, ""))


class Working(State):
    """Two steps side by side."""

    asked: ClerkAsked
    done: int = 0

    def enter(self) -> Acts:
        one = _lift(self.asked, "one")
        two = _lift(self.asked, "two")
        return (
            do(one, undo=Lower, id="one", retry=RETRY, timeout="700ms", undo_retry=PATIENT),
            do(two, undo=Lower, id="two", retry=RETRY, timeout="700ms", undo_retry=PATIENT),
        )

    def handle(self, event: Lifted | StepFailed) -> Next[Working | Listening | Sorry]:
        match event:
            case Lifted() if self.done == 0:
                return Working(asked=self.asked, done=1)
            case Lifted():
                return Listening(asked=self.asked)
            case StepFailed(code=code, message=message):
                return Sorry(reason=message, code=code)


class Listening(State, timeout="1500ms"):
    """Takes what was kept for it, and whatever comes; one step goes on meanwhile."""

    asked: ClerkAsked
    heard: tuple[int, ...] = ()

    def enter(self) -> Acts:
        aside = _lift(self.asked, "aside")
        return do(aside, undo=Lower, id="aside", retry=RETRY, undo_retry=PATIENT)

    def handle(
        self, event: News | Go | Question | Lifted | StepFailed | TimedOut
    ) -> Next[Listening | Sending]:
        match event:
            case News(number=number):
                heard = (*self.heard, number)
                if len(heard) >= self.asked.news:
                    return Sending(asked=self.asked, heard=heard)
                return Listening(asked=self.asked, heard=heard)
            case Question(number=number):
                return self, answer(number)
            case Lifted() | StepFailed():
                return self
            case Go() | TimedOut():
                return Sending(asked=self.asked, heard=self.heard)


class Sending(State):
    """A child of the other application."""

    asked: ClerkAsked
    heard: tuple[int, ...]

    def enter(self) -> Acts:
        crate = CrateAsked(key=f"crate-of-{self.asked.key}", scripts=self.asked.scripts)
        return child(crate, outcome=Ended, timeout="4s", id="crate")

    def handle(
        self, event: Ended | ChildRolledBack | StepFailed | TimedOut | Lifted
    ) -> Next[Sending | Sealing | Sorry]:
        match event:
            case Lifted():
                return self
            case Ended() | TimedOut():
                return Sealing(asked=self.asked, heard=self.heard)
            case ChildRolledBack():
                return Sorry(reason="the child is rolled back", code="of-child")
            case StepFailed(code=code, message=message):
                return Sorry(reason=message, code=code)


class Sealing(State):
    """The pivot."""

    asked: ClerkAsked
    heard: tuple[int, ...]

    def enter(self) -> Acts:
        return do(_lift(self.asked, "seal"), id="seal", kind="pivot", retry=RETRY, timeout="700ms")

    def handle(self, event: Lifted | StepFailed) -> Next[Sealing | Filing | Sorry]:
        match event:
            case Lifted(step="seal"):
                return Filing(asked=self.asked, heard=self.heard)
            case Lifted():
                return self
            case StepFailed(step="seal", code=code, message=message):
                return Sorry(reason=message, code=code)
            case StepFailed():
                return self


class Filing(State):
    """There is no way back from here."""

    asked: ClerkAsked
    heard: tuple[int, ...]

    def enter(self) -> Acts:
        file = Lift(key=self.asked.key, step="file", script="fail:1")
        return do(file, id="file", kind="retriable", retry=PATIENT, timeout="700ms")

    def handle(self, event: Lifted) -> Next[Filing | Filed]:
        if event.step != "file":
            return self
        return Filed(), Ended(key=self.asked.key, heard=self.heard)


class Filed(State): ...


class Sorry(State, rolls_back=True):
    reason: str
    code: str | None


CLERK: Transitions = {
    Working: {Lifted: (Working, Listening), StepFailed: Sorry},
    Listening: {
        News: (Listening, Sending),
        Go: Sending,
        Question: Listening,
        Lifted: Listening,
        StepFailed: Listening,
        TimedOut: Sending,
    },
    Sending: {
        Ended: Sealing,
        ChildRolledBack: Sorry,
        StepFailed: Sorry,
        TimedOut: Sealing,
        Lifted: Sending,
    },
    Sealing: {Lifted: (Sealing, Filing), StepFailed: (Sealing, Sorry)},
    Filing: {Lifted: (Filing, Filed)},
}
OPTIONS: dict[str, Any] = {
    "starts_on": ClerkAsked,
    "transitions": CLERK,
    "listens": on(News, early="2s"),
    "signals": {"go": Go},
    "updates": {"ask": Question},
    "rolled_back": Failed,
}


@machine("clerk", version=1, **OPTIONS)
def clerk_1(asked: ClerkAsked) -> Next[Working]:
    return Working(asked=asked)


@machine("clerk", version=2, **OPTIONS)
def clerk_2(asked: ClerkAsked) -> Next[Working]:
    """Does one step more, so that no history of the one fits the other."""
    hello = Lift(key=asked.key, step="hello", script="")
    return Working(asked=asked, done=-1), do(hello, undo=Lower, id="hello", undo_retry=PATIENT)


class Lifting(State):
    """What the third version has for `Working`."""

    asked: ClerkAsked
    done: int = 0

    def enter(self) -> Acts:
        one, two = _lift(self.asked, "one"), _lift(self.asked, "two")
        return (
            do(one, undo=Lower, id="left", retry=RETRY, timeout="700ms", undo_retry=PATIENT),
            do(two, undo=Lower, id="right", retry=RETRY, timeout="700ms", undo_retry=PATIENT),
        )

    def handle(self, event: Lifted | StepFailed) -> Next[Lifting | Attending | Sorry]:
        match event:
            case Lifted() if self.done == 0:
                return Lifting(asked=self.asked, done=1)
            case Lifted():
                return Attending(asked=self.asked)
            case StepFailed(code=code, message=message):
                return Sorry(reason=message, code=code)


class Attending(State, timeout="1200ms"):
    """What the third version has for `Listening`; there is a step more behind it."""

    asked: ClerkAsked
    heard: tuple[int, ...] = ()

    def enter(self) -> Acts:
        aside = _lift(self.asked, "aside")
        return do(aside, undo=Lower, id="beside", retry=RETRY, undo_retry=PATIENT)

    def handle(
        self, event: News | Go | Question | Lifted | StepFailed | TimedOut
    ) -> Next[Attending | Sending]:
        match event:
            case News(number=number):
                heard = (*self.heard, number)
                if len(heard) >= self.asked.news:
                    return self._through(heard)
                return Attending(asked=self.asked, heard=heard)
            case Question(number=number):
                return self, answer(number)
            case Lifted() | StepFailed():
                return self
            case Go() | TimedOut():
                return self._through(self.heard)

    def _through(self, heard: tuple[int, ...]) -> Next[Sending]:
        more = do(_lift(self.asked, "one-more"), undo=Lower, id="one-more", undo_retry=PATIENT)
        return Sending(asked=self.asked, heard=heard), more


CLERK_3: Final = {
    "Working": "Lifting",
    "Listening": "Attending",
    "one": "left",
    "two": "right",
    "aside": "beside",
}
"""What the third version calls otherwise."""


@machine(
    "clerk",
    version=3,
    **OPTIONS
    | {
        "transitions": {
            Lifting: {Lifted: (Lifting, Attending), StepFailed: Sorry},
            Attending: {
                News: (Attending, Sending),
                Go: Sending,
                TimedOut: Sending,
                Question: Attending,
                Lifted: Attending,
                StepFailed: Attending,
            },
            **{state: CLERK[state] for state in (Sending, Sealing, Filing)},
        }
    },
)
def clerk_3(asked: ClerkAsked) -> Next[Lifting]:
    """Goes on where the first one stands, with other names."""
    return Lifting(asked=asked)


class Packing(State):
    asked: CrateAsked

    def enter(self) -> Acts:
        pack = Stow(key=self.asked.key, step="pack", script=self.asked.scripts.get("pack", ""))
        return do(pack, undo=Unstow, id="pack", retry=RETRY, timeout="700ms", undo_retry=PATIENT)

    def handle(self, event: Stowed) -> Next[Resting]:
        return Resting(asked=self.asked)


class Resting(State, timeout="200ms"):
    """The failure of a step, for which there is no row, rolls back."""

    asked: CrateAsked

    def handle(self, event: TimedOut) -> Next[Nailing]:
        return Nailing(asked=self.asked)


class Nailing(State):
    asked: CrateAsked

    def enter(self) -> Acts:
        nail = Stow(key=self.asked.key, step="nail", script=self.asked.scripts.get("nail", ""))
        return do(nail, undo=Unstow, id="nail", retry=RETRY, timeout="700ms", undo_retry=PATIENT)

    def handle(self, event: Stowed) -> Next[Stored]:
        return Stored(), Ended(key=self.asked.key)


class Stored(State): ...


CRATE: Transitions = {
    Packing: {Stowed: Resting},
    Resting: {TimedOut: Nailing},
    Nailing: {Stowed: Stored},
}


@machine("crate", version=1, starts_on=CrateAsked, transitions=CRATE, rolled_back=Failed)
def crate(asked: CrateAsked) -> Next[Packing]:
    return Packing(asked=asked)
