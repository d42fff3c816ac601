"""What a machine refuses when it is defined, each with file and line."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from saga.errors import DefinitionError

HEAD = """
from __future__ import annotations
from pydantic import BaseModel
from saga import *

class Began(Event, topic="mill.began", version=1, key="id"): id: str
class Ground(Event, topic="mill.ground", version=1): bags: int
class Grind(Intent[Ground], topic="mill.grind", version=1): id: str
class Sweep(Intent[None], topic="mill.sweep", version=1): id: str
class Rained(Event, topic="sky.rained", version=1, key="id"): id: str
class Go(BaseModel): fast: bool = False
class Stop(BaseModel): ...
"""
STATES = """
class Grinding(State):
    def enter(self) -> Acts:
        return Grind(id="x")
    def handle(self, event: Ground) -> Next[Done]:
        return Done()
class Done(State): ...
"""
TABLE = "TABLE: Transitions = {Grinding: {Ground: Done}}"
MACHINE = """
@machine("mill", version=1, starts_on=Began, transitions=TABLE{more})
def mill(began: Began) -> Next[Grinding]:
    return Grinding()
"""


def defined(
    states: str = STATES, table: str = TABLE, more: str = "", machine: str = MACHINE
) -> Any:
    """The module that these parts make, as though it were imported."""
    return _module(HEAD + states + table + machine.replace("{more}", more))


def _module(text: str) -> ModuleType:
    import linecache
    import sys

    name, path = "tests_mill", "/nowhere/mill.py"
    linecache.cache[path] = (len(text), None, text.splitlines(keepends=True), path)
    module = ModuleType(name)
    module.__file__ = path
    sys.modules[name] = module
    exec(compile(text, path, "exec"), vars(module))
    return module


def refusal(*parts: str, **more: str) -> DefinitionError:
    with pytest.raises(DefinitionError) as refused:
        defined(*parts, **more)
    return refused.value


def line_of(error: DefinitionError, states: str) -> str:
    """The line of the source that an error names."""
    assert error.where is not None
    file, _, line = error.where.rpartition(":")
    assert file == "/nowhere/mill.py"
    return (HEAD + states).splitlines()[int(line) - 1].strip()


def test_a_machine_that_fits_together_is_a_definition():
    mill = defined().mill

    assert (mill.name, mill.version) == ("mill", 1)
    assert {each.__name__ for each in mill.contracts()} == {"Began", "Ground", "Grind"}
    assert not mill.has_children
    assert mill.nondeterminism == ()


def changed(old: str, new: str) -> str:
    assert old in STATES
    return STATES.replace(old, new)


@pytest.mark.parametrize(
    ("states", "table", "line", "problem"),
    [
        pytest.param(
            changed("event: Ground", "event: Ground | StepFailed"),
            TABLE,
            "def handle(self, event: Ground | StepFailed) -> Next[Done]:",
            "takes StepFailed, for which the table has no row in Grinding",
            id="annotation-with-more",
        ),
        pytest.param(
            STATES,
            "TABLE: Transitions = {Grinding: {Ground: Done, StepFailed: Done}}",
            "def handle(self, event: Ground) -> Next[Done]:",
            "the table has a row for StepFailed too",
            id="annotation-with-less",
        ),
        pytest.param(
            changed("Next[Done]", "Next[Done | Other]") + "class Other(State): ...\n",
            TABLE,
            "def handle(self, event: Ground) -> Next[Done | Other]:",
            "may give Other, to which no row of Grinding leads",
            id="next-outside-of-the-row",
        ),
        pytest.param(
            changed("Next[Done]", "Next[Gone]"),
            TABLE,
            "def handle(self, event: Ground) -> Next[Gone]:",
            "name 'Gone' is not defined",
            id="unknown-state",
        ),
        pytest.param(
            changed(" -> Next[Done]", ""),
            TABLE,
            "def handle(self, event: Ground):",
            "is to be annotated with the states that it gives",
            id="no-next",
        ),
        pytest.param(
            changed("event: Ground", "event"),
            TABLE,
            "def handle(self, event) -> Next[Done]:",
            "annotate `event`",
            id="no-event",
        ),
        pytest.param(
            changed("def handle", "async def handle"),
            TABLE,
            "async def handle(self, event: Ground) -> Next[Done]:",
            "is a plain `def (self, event)`",
            id="async-handle",
        ),
        pytest.param(
            changed("enter(self)", "enter(self, event, ctx)"),
            TABLE,
            "def enter(self, event, ctx) -> Acts:",
            "takes (self) or (self, ctx)",
            id="enter-with-more",
        ),
        pytest.param(
            STATES + "class Lonely(State):\n    def handle(self, e: Ground) -> Next[Done]: ...\n",
            "TABLE = {Grinding: {Ground: Done}, Lonely: {Ground: Done}}",
            "class Lonely(State):",
            "Lonely cannot be reached from Grinding",
            id="unreachable",
        ),
        pytest.param(
            changed("Next[Done]", "Next[Grinding]"),
            "TABLE = {Grinding: {Ground: Grinding}}",
            "class Grinding(State):",
            "from Grinding no final state can be reached",
            id="no-end",
        ),
        pytest.param(
            changed("State):\n    def enter", 'State, timeout="1h"):\n    def enter').replace(
                "event: Ground) -> Next[Done]", "event: Ground | TimedOut) -> Next[Done | Grinding]"
            ),
            "TABLE = {Grinding: {Ground: Done, TimedOut: Grinding}}",
            'class Grinding(State, timeout="1h"):',
            "its timeout leads to Grinding alone",
            id="timeout-to-itself",
        ),
        pytest.param(
            changed("class Done(State)", "class Done(State, rolls_back=True)"),
            "TABLE = {Grinding: {Ground: Done}, Done: {Ground: Grinding}}",
            "class Done(State, rolls_back=True): ...",
            "Done rolls back, so nothing follows it",
            id="row-of-a-rollback",
        ),
        pytest.param(
            changed("class Done(State)", 'class Done(State, timeout="1h")'),
            TABLE,
            'class Done(State, timeout="1h"): ...',
            "Done is final, so it cannot time out",
            id="final-with-timeout",
        ),
        pytest.param(
            changed("class Done(State): ...", "class Done(State):\n    def handle(self, e): ..."),
            TABLE,
            "class Done(State):",
            "Done has `handle` and no row",
            id="final-with-handle",
        ),
        pytest.param(
            changed("def handle", "def handel"),
            TABLE,
            "class Grinding(State):",
            "Grinding has a row in the table and no `handle`",
            id="no-handle",
        ),
        pytest.param(
            changed("event: Ground)", "event: Ground | TimedOut)"),
            "TABLE = {Grinding: {Ground: Done, TimedOut: Done}}",
            "class Grinding(State):",
            "TimedOut, which never comes: the state has no timeout",
            id="no-timeout",
        ),
        pytest.param(
            changed("event: Ground)", "event: Ground | StepDone)"),
            "TABLE = {Grinding: {Ground: Done, StepDone: Done}}",
            "class Grinding(State):",
            "StepDone, which never comes: no state issues an intent without a reply",
            id="no-step-without-reply",
        ),
        pytest.param(
            changed("event: Ground)", "event: Ground | Rained)"),
            "TABLE = {Grinding: {Ground: Done, Rained: Done}}",
            "class Grinding(State):",
            "Rained, which never comes: it is no reply to a step: add it to @machine(listens=",
            id="not-listened-to",
        ),
        pytest.param(
            changed('        return Grind(id="x")', '        do(Grind(id="x"))\n        return ()'),
            TABLE,
            'do(Grind(id="x"))',
            "is made and not returned",
            id="dropped-do",
        ),
        pytest.param(
            changed('        return Grind(id="x")', '        Grind(id="x")\n        return ()'),
            TABLE,
            'Grind(id="x")',
            "is made and not returned",
            id="dropped-intent",
        ),
        pytest.param(
            changed('return Grind(id="x")', 'return do(Grind(id="x"), undo=Ground)'),
            TABLE,
            'return do(Grind(id="x"), undo=Ground)',
            "undo=Ground is no Intent class",
            id="undo-that-is-none",
        ),
        pytest.param(
            changed("return Done()", 'return Done(), do(Grind(id="y"))'),
            TABLE,
            'return Done(), do(Grind(id="y"))',
            "do(Grind(…)) beside Done, which is final",
            id="step-at-the-end",
        ),
        pytest.param(
            changed("class Done(State): ...", 'class Done(State, timeout="soon"): ...'),
            TABLE,
            'class Done(State, timeout="soon"): ...',
            "'soon' is no duration",
            id="timeout-that-is-none",
        ),
        pytest.param(
            changed("class Done(State): ...", "class Done(State, roll_back=True): ..."),
            TABLE,
            "class Done(State, roll_back=True): ...",
            "roll_back= is no keyword of a state's class",
            id="unknown-keyword",
        ),
        pytest.param(
            STATES,
            "TABLE = {Grinding: {Ground: 'Done'}}",
            "class Grinding(State):",
            "Ground leads to 'Done': expected a State class",
            id="row-to-no-state",
        ),
        pytest.param(
            STATES,
            "TABLE = {Grinding: {}}",
            "class Grinding(State):",
            "the row of Grinding is empty",
            id="empty-row",
        ),
    ],
)  # fmt: skip
def test_a_state_that_does_not_fit_is_refused_at_its_line(
    states: str, table: str, line: str, problem: str
):
    error = refusal(states, table)

    assert problem in error.problem
    assert line_of(error, states) == line


PIVOT = """
class Paying(State):
    def enter(self) -> Acts:
        return do(Grind(id="x"), kind="pivot")
    def handle(self, event: Ground | StepFailed) -> Next[Sending | Failed]:
        return Sending()
class Sending(State):
    def enter(self) -> Acts:
        return do(Grind(id="x"){undo})
    def handle(self, event: Ground) -> Next[Done]:
        return Done()
class Failed(State):
    def enter(self) -> Acts:
        return do(Grind(id="x"), undo=Sweep)
    def handle(self, event: Ground) -> Next[Done]:
        return Done()
class Done(State): ...
"""
PIVOT_TABLE = (
    "TABLE = {Paying: {Ground: Sending, StepFailed: Failed}, Sending: {Ground: Done}, "
    "Failed: {Ground: Done}}"
)
PIVOT_MACHINE = MACHINE.replace("Grinding", "Paying")


def test_a_step_that_can_be_undone_is_refused_behind_a_pivot():
    states = PIVOT.replace("{undo}", ", undo=Sweep")
    error = refusal(states, PIVOT_TABLE, machine=PIVOT_MACHINE)

    assert "do(Grind(…)) can be undone, and comes behind the pivot do(Grind(…))" in error.problem
    assert line_of(error, states) == 'return do(Grind(id="x"), undo=Sweep)'


def test_what_follows_the_failure_of_a_pivot_is_not_behind_it():
    mill = defined(PIVOT.replace("{undo}", ""), PIVOT_TABLE, machine=PIVOT_MACHINE).mill

    assert mill.name == "mill"


def test_a_pivot_on_the_way_to_a_state_is_before_what_it_does_on_entering():
    states = PIVOT.replace(
        'return do(Grind(id="x"), kind="pivot")', 'return Grind(id="x")'
    ).replace("return Sending()", 'return Sending(), do(Grind(id="y"), kind="pivot")')
    error = refusal(states.replace("{undo}", ", undo=Sweep"), PIVOT_TABLE, machine=PIVOT_MACHINE)

    assert "comes behind the pivot do(Grind(…))" in error.problem


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (', signals={"go": Go, "run": Go}', "signal 'run' has the model Go, as has signal 'go'"),
        (', signals={"go": Go}, updates={"go": Go}', "update 'go' has the model Go, as has"),
        (', signals={"go": Go}', "no state has a row for signal 'go', Go"),
        (", listens=(Rained,)", "no state has a row for the event it listens to, Rained"),
        (', signals={"": Go}', "a signal's name has 1 to 200 characters"),
        (', signals={"go": int}', "signal 'go': <class 'int'> is no model"),
        (', signals={"go": Done}', "signal 'go' has the model Done, as has a state"),
        (', deadline="0s"', "passes before it has begun"),
    ],
)
def test_what_comes_from_outside_has_one_model_and_a_row(more: str, problem: str):
    error = refusal(more=more)

    assert problem in error.problem
    assert error.where is not None
    assert error.where.startswith("/nowhere/mill.py:")


def test_a_state_that_takes_an_update_answers_it():
    states = changed("event: Ground)", "event: Ground | Go)")
    table = "TABLE = {Grinding: {Ground: Done, Go: Done}}"
    error = refusal(states, table, ', updates={"go": Go}')

    assert "Grinding.handle takes update 'go' and never answers" in error.problem
    assert line_of(error, states).startswith("def handle(self, event: Ground | Go)")

    defined(
        states.replace("return Done()", "return Done(), answer(1)"), table, ', updates={"go": Go}'
    )


def test_a_row_may_be_for_the_reply_to_an_intent_that_is_not_seen():
    made = "from functools import partial\nmade = partial(Grind, id='x')\n"
    mill = defined(made + changed('return Grind(id="x")', "return made()")).mill

    assert {each.__name__ for each in mill.contracts()} == {"Began", "Ground"}


def test_two_states_of_one_name_are_refused():
    states = STATES + "First = Done\nclass Done(State): ...\n"
    error = refusal(states, "TABLE = {Grinding: {Ground: (First, Done)}}")

    assert "two states are called Done" in error.problem


def test_a_machine_names_what_its_rows_and_functions_name():
    states = changed('return Grind(id="x")', 'return Grind(id="x"), tell(Sweep(id="x"))')
    mill = defined(states).mill

    assert {each.__name__ for each in mill.contracts()} == {"Began", "Ground", "Grind", "Sweep"}


@pytest.mark.parametrize(
    ("states", "table", "is_same"),
    [
        (changed("    def enter", "    # why\n    def enter"), TABLE, True),
        (changed("class Grinding(State)", 'class Grinding(State, timeout="1h")'), TABLE, False),
        (changed('id="x"', 'id="y"'), TABLE, False),
        (changed("class Done(State): ...", "class Done(State):\n    n: int = 1"), TABLE, False),
        (
            changed("event: Ground)", "event: Ground | StepFailed)"),
            TABLE.replace("Ground: Done", "Ground: Done, StepFailed: Done"),
            False,
        ),
    ],
)
def test_the_fingerprint_is_that_of_table_and_states(states: str, table: str, *, is_same: bool):
    one, other = defined().mill.fingerprint, defined(states, table).mill.fingerprint

    assert (one == other) is is_same


def test_how_long_a_timeout_is_makes_no_other_code():
    timed = [
        defined(changed("class Grinding(State)", f'class Grinding(State, timeout="{length}")')).mill
        for length in ("1h", "2h")
    ]

    assert timed[0].fingerprint == timed[1].fingerprint


def test_what_no_replay_gives_again_is_warned_of_at_its_line():
    from saga.errors import DeterminismWarning

    states = changed("return Done()", "import time\n        time.time()\n        return Done()")
    with pytest.warns(DeterminismWarning, match=r"it calls time.time\(\)"):
        defined(states)


def test_a_place_of_a_state_is_that_of_its_class():
    module = defined()

    file, _, line = module.Grinding.__saga_where__.rpartition(":")
    assert Path(file).name == "mill.py"
    assert (HEAD + STATES).splitlines()[int(line) - 1] == "class Grinding(State):"
