"""`replay` uses no snapshots: it compares them with what histories give, and removes wrong ones.

As histories, they are compared by processes that may be ended, and only those of chosen sagas.
"""

from __future__ import annotations

import asyncio
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson
import pytest

from saga.adapters.opening import open_store
from saga.audit.replaying import replayed
from saga.console.cli.gate import choosing, run
from saga.console.cli.session import load_app
from saga.core.history import History
from saga.core.identity import SagaId, saga_id
from saga.core.snapshots import snapshot_of
from saga.ports import Snapshot
from saga.settings import Settings
from tests.console.conftest import call, enter, forget_applications
from tests.console.conftest import kept as untouched

MACHINES = """
from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ValidationInfo, field_validator

from saga import Event, Next, SagaApp, State, machine


class Begun(Event, topic="clocks.begun", version=1, key="name"):
    name: str


class Found(Event, topic="clocks.found", version=1, key="name"):
    name: str


class Stop(BaseModel): ...


class Going(State):
    name: str

    @field_validator("name", mode="before")
    @classmethod
    def look(cls, name: str, info: ValidationInfo) -> str:
        strike = Path("strike")
        if info.mode == "json" and name == "c-1" and strike.exists():
            exec(compile(strike.read_text(), "strike", "exec"))
        return name

    def handle(self, event: Stop) -> Next[Stopped]:
        return Stopped()


class Stopped(State): ...


TABLE = {Going: {Stop: Stopped}}
MADE = dict(version=1, transitions=TABLE, signals={"stop": Stop})


@machine("clock", starts_on=Begun, **MADE)
def clock(begun: Begun) -> Next[Going]:
    return Going(name=begun.name)


@machine("watch", starts_on=Found, **MADE)
def watch(found: Found) -> Next[Going]:
    return Going(name=found.name)


app = SagaApp(sagas=[clock, watch])
"""
C_1, C_2 = (saga_id("clock", name) for name in ("c-1", "c-2"))
W_1 = saga_id("watch", "w-1")
WRONG = orjson.dumps({"saga": {"state": {}, "program": {}}})
DIED = "process died: it gave nothing: the process that compared it"
SAME = {"found": "same", "problem": None, "where": None}


def replay(*words):
    """In this process."""
    return call("replay", "--jobs", "0", *words)


def enter_machines(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(folder, monkeypatch)
    (folder / "toys.py").write_text(MACHINES)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Three sagas of two machines, each with a snapshot; only to copy."""
    folder = tmp_path_factory.mktemp("begun")
    with pytest.MonkeyPatch.context() as monkeypatch, untouched():
        enter_machines(folder, monkeypatch)
        clocks = '{"name": "c-1"}\n{"name": "c-2"}\n'
        assert call("publish", "clocks.evt.begun.v1", "-", stdin=clocks).code == 0
        assert call("publish", "clocks.evt.found.v1", '{"name": "w-1"}').code == 0
        assert call("run", "--until-idle").code == 0
        keep(C_1, C_2, W_1)
    return folder


@pytest.fixture
def folder(begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(begun / ".saga", tmp_path / ".saga")
    enter_machines(tmp_path, monkeypatch)
    return tmp_path


def keep(*sagas: SagaId, state: bytes | None = None) -> None:
    """Keep a snapshot of each: of what its history gives, or of *state*."""
    asyncio.run(_keep(sagas, state))


async def _keep(sagas: Sequence[SagaId], state: bytes | None) -> None:
    forget_applications()
    registry = load_app("toys:app").registry
    deciders = {
        registered.decider.name: registered.decider for registered in registry.all().values()
    }
    opened = open_store(Settings.read())
    for saga, history in (await opened.store.load(sagas)).items():
        assert isinstance(history, History)
        decider = deciders["watch" if saga == W_1 else "clock"]
        told = orjson.dumps({"saga": snapshot_of(replayed(decider, saga, history))})
        snapshot = Snapshot(
            saga_id=saga,
            definition=decider.name,
            definition_version=decider.version,
            code=decider.code,
            turns=history.turns,
            version=history.version,
            state=told if state is None else state,
        )
        await opened.store.keep_snapshots([snapshot])
    await opened.close()


def kept() -> set[SagaId]:
    """Who has a snapshot."""

    async def asked() -> set[SagaId]:
        opened = open_store(Settings.read(), is_to_write=False)
        found = await opened.store.snapshots([C_1, C_2, W_1])
        await opened.close()
        return set(found)

    return asyncio.run(asked())


def of_saga(called, saga: SagaId):
    """What is said of its snapshot."""
    [row] = [row for row in called.rows[:-1] if row["id"] == saga]
    assert row["ok"], row
    return row["snapshot"]


def counts(compared, wrong=0, not_compared=0):
    return {"compared": compared, "wrong": wrong, "not_compared": not_compared}


def test_snapshots_are_compared_and_counted(folder):
    called = replay("--json")

    assert (called.code, called.err) == (0, "")
    assert [row["snapshot"] for row in called.rows[:-1]] == 3 * [SAME]
    assert called.rows[-1]["snapshots"] == counts(3)
    assert "as today's code decides; 3 snapshots compared" in replay().out
    assert kept() == {C_1, C_2, W_1}


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        (b"{", "it cannot be read"),
        (WRONG, "its state is not what its history gives"),
        (b'{"saga": []}', "it is no snapshot"),
    ],
)
def test_a_wrong_snapshot_is_told_of_and_removed(folder, state, problem):
    keep(C_1, state=state)

    called = replay("--json")
    again = replay("--json")

    assert (called.code, called.rows[-1]["ok"], called.rows[-1]["different"]) == (1, False, 0)
    assert called.rows[-1]["snapshots"] == counts(3, wrong=1)
    assert of_saga(called, C_1) == {"found": "wrong", "problem": problem, "where": None}
    assert f"the snapshot of saga {C_1} is wrong, and is removed: {problem}" in called.err
    assert "restart the workers" in called.err
    assert kept() == {C_2, W_1}
    assert (again.code, again.err, again.rows[-1]["snapshots"]) == (0, "", counts(2))


def test_only_snapshots_of_chosen_sagas_are_compared(folder):
    keep(W_1, state=WRONG)

    chosen = replay("--definition", "clock", "--open", "--json")
    named = replay("clock/c-1", "--json")
    later = replay("--since", "2100-01-01T00:00:00Z", "--json")

    assert (chosen.code, chosen.rows[-1]["snapshots"]) == (0, counts(2))
    assert (named.code, named.rows[-1]["snapshots"]) == (0, counts(1))
    assert (later.code, later.rows[-1]["snapshots"]) == (0, counts(0))
    assert kept() == {C_1, C_2, W_1}


def test_snapshots_of_other_code_are_counted_and_left_alone(folder):
    (folder / "toys.py").write_text(f"{MACHINES}\nMORE = 1\n")
    keep(W_1)

    called = replay("--json")

    assert (called.code, called.rows[-1]["snapshots"]) == (0, counts(1, not_compared=2))
    assert of_saga(called, C_1)["problem"] == "other code has written it"
    assert "1 snapshots compared; 2 not compared" in replay().out
    assert kept() == {C_1, C_2, W_1}


def test_where_the_store_may_not_be_written_a_wrong_snapshot_stays_and_is_told(folder, monkeypatch):
    """As with a role that can only read: here the store serves another environment."""
    keep(C_1, C_2, state=WRONG)
    monkeypatch.setenv("SAGA_ENV", "prod")

    called = replay("--json")

    assert (called.code, called.rows[-1]["snapshots"]) == (1, counts(3, wrong=2))
    for saga in (C_1, C_2):
        assert f"the snapshot of saga {saga} is wrong, and stays (" in called.err
    assert kept() == {C_1, C_2, W_1}


def test_what_is_restored_is_compared_too(folder):
    """What can be told and read back once need not be again."""
    (folder / "strike").write_text(
        "global times\ntimes = globals().get('times', 0) + 1\nif times > 1: raise ValueError(times)"
    )

    called = replay("--json")

    found = of_saga(called, C_1)
    assert found["problem"].startswith("it cannot be restored: the code at hand raised")
    assert called.rows[-1]["snapshots"] == counts(3, wrong=1)


def test_a_report_has_a_case_for_the_snapshots_of_a_definition(folder):
    keep(C_2, state=WRONG)

    called = replay("--junit", "gate.xml")

    root = ET.parse("gate.xml").getroot()
    assert (called.code, root.get("tests"), root.get("failures")) == (1, "5", "1")
    cases = [case.get("name") for case in root.iter("testcase") if "snapshots" in case.get("name")]
    name = "snapshots are what their histories give"
    assert cases == [f"{name} (2 snapshots)", f"{name} (1 snapshots)"]
    failure = root.find("testsuite[@name='clock@1']//failure")
    assert (failure.get("type"), failure.get("message")) == (
        "wrong snapshot",
        "1 of 2 snapshots are wrong",
    )
    assert failure.text == f"clock/c-2 ({C_2}): its state is not what its history gives"


def test_a_run_that_goes_on_knows_what_it_has_found_of_snapshots(folder, monkeypatch):
    """And each is removed before it is noted as found."""
    keep(C_1, C_2, W_1, state=WRONG)
    monkeypatch.setattr(choosing, "CHUNK_SAGAS", 1)
    monkeypatch.setattr("saga.console.cli.gate.command.SAGAS_NAMED_MAX", 1)
    take, taken = run.Run.take, []

    def take_some(self, chunk, verdict):
        if len(taken) == 2:
            raise KeyboardInterrupt
        taken.append(verdict.saga_id)
        take(self, chunk, verdict)

    with monkeypatch.context() as patched:
        patched.setattr(run.Run, "take", take_some)
        interrupted = replay("--resume", "gate.state")
    assert interrupted.code == 130
    assert "restart the workers" in interrupted.err
    assert kept().isdisjoint(taken)

    called = replay("--resume", "gate.state", "--junit", "gate.xml", "--json")

    assert (called.code, called.rows[-1]["resumed"]) == (1, 2)
    assert called.rows[-1]["snapshots"]["wrong"] >= 2
    failures = [each.text for each in ET.parse("gate.xml").getroot().iter("failure")]
    assert all(any(saga in text for text in failures) for saga in taken)


def test_a_file_of_an_earlier_release_is_begun_anew(folder):
    (folder / "gate.state").write_text('{"format": "saga replay 1"}\n')

    called = replay("--resume", "gate.state")

    assert called.code == 0
    assert "an earlier release of saga has written it: every saga is replayed anew" in called.err


def test_of_snapshots_that_todays_code_can_use_the_doctor_has_nothing_to_say(folder):
    assert call("doctor").out == "all is well\n"


def test_the_doctor_counts_those_that_todays_code_cannot_use(folder):
    """It is no fault."""
    (folder / "toys.py").write_text(f"{MACHINES}\nMORE = 1\n")
    keep(C_2)

    called = call("doctor", "--json")

    told = {row["where"]: row["what"] for row in called.rows[:-1] if row["check"] == "snapshots"}
    cannot = "sagas have snapshots, of which today's code cannot use 1: other code has written them"
    assert told == {"clock version 1": f"2 {cannot}", "watch version 1": f"1 {cannot}"}
    assert (called.code, {row["severity"] for row in called.rows[:-1]}) == (0, {"info"})


@pytest.mark.long
@pytest.mark.parametrize(
    ("strike", "told", "where"),
    [
        (
            "while True: pass",
            "took too long: it gave nothing within 6 seconds: the process was ended",
            "strike:1",
        ),
        ("__import__('os')._exit(3)", f"{DIED} ended with exit code 3", None),
        ("raise MemoryError", f"{DIED} ran out of memory", None),
        ("raise KeyboardInterrupt", "the code at hand raised KeyboardInterrupt: ", "strike:1"),
    ],
    ids=["no end", "exit", "memory", "ctrl-c"],
)
def test_a_snapshot_whose_code_does_not_come_back_is_found_and_all_else_replayed(
    folder, strike, told, where
):
    """Its history has been replayed by then, and stands."""
    (folder / "strike").write_text(strike)

    called = call("replay", "--json", "--jobs", "1", "--timeout-s", "6")

    assert (called.code, called.rows[-1]["different"]) == (1, 0)
    assert called.rows[-1]["snapshots"] == counts(3, wrong=1)
    assert of_saga(called, C_1) == {"found": "wrong", "problem": told, "where": where}
    assert [of_saga(called, saga) for saga in (C_2, W_1)] == 2 * [SAME]
    assert f"the snapshot of saga {C_1} is wrong, and is removed: {told}" in called.err
    assert kept() == {C_2, W_1}
