"""Golden histories: what was once recorded, today's code still decides, entry by entry."""

from __future__ import annotations

import orjson
import pytest

from saga.core.fold import fold
from saga.core.history import Entry, turns
from saga.core.replay import replay
from saga.core.state import SagaState, parts_of
from saga.core.status import SagaStatus
from saga.errors import ReplayMismatch
from saga.runtime.saga_cache import definition_of
from tests.histories import definitions
from tests.histories.plain import FOLDER, FORMAT_1, dump, entry_of, load, load_format_1
from tests.histories.record import SCRIPTS, main

#: How each history ends. It is written down, so that a file that vanishes is missed.
ENDS = {
    "order-abandoned": SagaStatus.ABANDONED,
    "order-cancelled": SagaStatus.ROLLED_BACK,
    "order-completed": SagaStatus.COMPLETED,
    "order-late-success": SagaStatus.ROLLED_BACK,
    "order-migrated": SagaStatus.ROLLED_BACK,
    "order-refused": SagaStatus.ROLLED_BACK,
    "order-stuck-and-skipped": SagaStatus.ROLLED_BACK_WITH_RESIDUE,
    "trip-completed": SagaStatus.COMPLETED,
    "trip-not-approved": SagaStatus.ROLLED_BACK,
    "tour-cancelled": SagaStatus.ROLLED_BACK,
    "tour-without-a-stay": SagaStatus.COMPLETED,
    "trip-second-choice": SagaStatus.COMPLETED,
}
NEVER_IN_FORMAT_1 = {"order-migrated", "tour-cancelled", "tour-without-a-stay"}
ENDS_IN_FORMAT_1 = {name: end for name, end in ENDS.items() if name not in NEVER_IN_FORMAT_1}


@pytest.fixture(params=sorted(ENDS))
def name(request):
    """Of each history in turn."""
    return request.param


@pytest.fixture(params=sorted(ENDS_IN_FORMAT_1))
def name_in_format_1(request):
    """Of each that there is in format 1, too."""
    return request.param


@pytest.fixture
def today(name):
    """A history in the format of today."""
    return load(FOLDER / f"{name}.jsonl")


@pytest.fixture
def format_1(name_in_format_1):
    """One in format 1, upgraded."""
    return load_format_1(FORMAT_1 / f"{name_in_format_1}.jsonl")


@pytest.mark.parametrize(
    ("folder", "ends"),
    [(FOLDER, ENDS), (FORMAT_1, ENDS_IN_FORMAT_1)],
    ids=["today", "format 1"],
)
def test_every_golden_history_is_known(folder, ends):
    """No file was lost, none came without saying how it ends."""
    assert {file.stem for file in folder.glob("*.jsonl")} == ends.keys()


def test_todays_code_decides_what_a_golden_history_says(name, today):
    """Replaying a recorded history meets no difference and ends where it ended then."""
    state = _replayed(today)

    assert state.status is ENDS[name]
    assert state.timers == {}


def test_a_golden_history_is_written_as_it_was_read(name, today):
    """Stored names and fields are for ever: reading and writing give the same bytes."""
    assert dump(today) == (FOLDER / f"{name}.jsonl").read_bytes()


def test_entries_alone_say_what_the_code_decides(today):
    """At the end and after every turn, where a worker may have to take over, the fold gives the
    state that a replay gives.
    """
    for history in _beginnings(today):
        assert parts_of(fold(history[0].saga_id, history)) == parts_of(_replayed(history))


def test_a_history_of_format_1_replays_to_the_state_of_today(name_in_format_1, format_1):
    """What it could not say is decided anew, and is what today's history of the same says."""
    today = load(FOLDER / f"{name_in_format_1}.jsonl")
    assert any(getattr(entry.body, "format", None) == 1 for entry in format_1)
    of_then = {"format": 1, "version": format_1[-1].version}
    assert parts_of(_replayed(format_1)) == parts_of(_replayed(today)) | of_then


def test_entries_of_format_1_say_where_steps_stand_without_any_code(format_1):
    """What they left unsaid is inferred, after every turn: it may have been migrated after any,
    and `show` prints migrated sagas too.
    """
    for history in _beginnings(format_1):
        replayed, folded = _replayed(history), fold(history[0].saga_id, history)
        assert folded.status is replayed.status
        assert _statuses(folded) == _statuses(replayed)


def test_an_upgraded_history_is_written_as_it_is_read(format_1):
    """Once upgraded it is a history of today, and says that it began in format 1."""
    text = dump(format_1)

    assert b'"format":1' in text.splitlines()[0]
    assert b"undo-stuck" not in text
    assert b'"group' not in text
    assert [entry_of(orjson.loads(line)) for line in text.splitlines()] == format_1


@pytest.mark.parametrize("read", [load, load_format_1], ids=["today", "format 1"])
def test_a_broken_history_is_refused_at_its_first_differing_entry(read):
    """In this one an undo carries a receipt that no reply has given: leniency is for what format 1
    could not say, not for what it says.
    """
    folder = FOLDER if read is load else FORMAT_1
    history = read(folder / "broken" / "another-receipt.jsonl")

    with pytest.raises(ReplayMismatch) as refused:
        _replayed(history)

    first = next(entry for entry in history if "p-44" in str(entry.body))
    assert refused.value.version == first.version == 14
    assert "p-44" in refused.value.recorded
    assert '"p-4"' in refused.value.decided


def test_what_is_recorded_is_never_overwritten(tmp_path, monkeypatch, capsys):
    """The script that records new histories leaves those that are there alone."""
    monkeypatch.setattr("tests.histories.record.FOLDER", tmp_path)
    kept = tmp_path / "order-completed.jsonl"
    kept.write_bytes(b"as it was\n")

    assert main() == 0

    assert kept.read_bytes() == b"as it was\n"
    assert {file.stem for file in tmp_path.glob("*.jsonl")} == SCRIPTS.keys()
    assert "order-completed.jsonl is there already" in capsys.readouterr().out


def _beginnings(history: list[Entry]) -> list[list[Entry]]:
    """*history* as it was after each of its turns; it has several."""
    begins = [turn.version - 1 for turn in turns(history)][1:]
    assert begins, "there is no turn to stop after"
    return [history[:version] for version in (*begins, len(history))]


def _statuses(state: SagaState) -> dict[str, str]:
    return {step.id: step.status.value for step in state.steps.values()}


def _replayed(history: list[Entry]) -> SagaState:
    registered = definitions.app.registry.find(*definition_of(history))
    assert registered is not None, definition_of(history)
    return replay(registered.decider, history[0].saga_id, history)
