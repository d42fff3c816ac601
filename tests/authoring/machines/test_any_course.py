"""Whatever happens to a machine, in whatever order: a replay gives it again, and it goes on.

`given` brings the machine back from its history after every turn, and compares.
"""

from __future__ import annotations

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from saga.core.events import UpdateReceived
from saga.core.intents import UpdateAnswered
from saga.testing import (
    after,
    cancelled,
    failed,
    operator,
    refused,
    replied,
    signalled,
    updated,
)
from saga.testing import given as given_saga
from saga.testing.spec import Happens, Scenario
from tests.authoring.machines.test_programs import (
    Began,
    Grind,
    Ground,
    Rained,
    Sweep,
    Ungrind,
    mill,
)

ANSWERS = {Grind: Ground(bags=3), Sweep: None, Ungrind: None}
CHOICES = st.lists(st.integers(0, 99), max_size=12)


def possible(scenario: Scenario) -> list[Happens]:
    timers = scenario.state.timers.values()
    asked = sum(isinstance(entry.body, UpdateReceived) for entry in scenario.history)
    happens: list[Happens] = [
        Rained(),
        *(signalled("go", {"to": to}) for to in ("", "nowhere", "sweep", "end")),
        signalled("go", {"to": 7}),
        signalled("stop"),
        *(
            updated("ask", {"how": how}, id=f"u-{asked}")
            for how in ("kindly", "rudely", "away", "to drop")
        ),
        cancelled(),
        operator("pause") if scenario.state.pause is None else operator("resume"),
    ]
    if timers and scenario.state.plan is None:
        due_us = min(timer.due_at for timer in timers) - scenario.now
        happens.append(after(f"{due_us // 1_000 + 1}ms"))
    for step in scenario.state.steps.values():
        intent = {"grind": Grind, "broom": Sweep}.get(step.id, Sweep)
        if step.status.value == "issued" and not step.is_backing_off:
            happens += [
                replied(intent, ANSWERS[intent], step=step.id),
                refused(intent, "no", code="no", step=step.id),
                failed(intent, "broken", step=step.id),
            ]
        if step.status.value == "undoing":
            happens.append(replied(Ungrind, step=step.id))
    return happens


@settings(max_examples=80, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(choices=CHOICES)
def test_any_course_of_a_machine_is_given_again_by_a_replay(choices: list[int]):
    scenario = given_saga(mill, Began())
    for choice in choices:
        happens = possible(scenario)
        scenario.when(happens[choice % len(happens)])

    assert scenario.status.value != "parked"
    answered = {
        entry.body.update for entry in scenario.history if isinstance(entry.body, UpdateAnswered)
    }
    asked = {
        entry.body.update for entry in scenario.history if isinstance(entry.body, UpdateReceived)
    }
    state = scenario.state
    is_going_back = state.plan is not None or state.is_stopping or state.is_finishing
    if state.pause is None and not is_going_back:
        assert asked <= answered, "an update is answered in the turn that takes it"
