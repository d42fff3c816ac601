"""Golden histories: what was once recorded, today's code still decides, entry by entry."""

from __future__ import annotations

import orjson
import pytest

from saga.core.fold import fold
from saga.core.history import Entry, turns
from saga.core.replay import replay
from saga.core.state import SagaState, snapshot
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
    "order-refused": SagaStatus.ROLLED_BACK,
    "order-stuck-and-skipped": SagaStatus.ROLLED_BACK_WITH_RESIDUE,
    "trip-completed": SagaStatus.COMPLETED,
    "trip-not-approved": SagaStatus.ROLLED_BACK,
    "trip-second-choice": SagaStatus.COMPLETED,
}


def test_every_golden_history_is_known():
    """No file was lost, none came without saying how it ends."""
    assert {file.stem for file in FOLDER.glob("*.jsonl")} == ENDS.keys()


@pytest.mark.parametrize("name", sorted(ENDS))
def test_todays_code_decides_what_a_golden_history_says(name):
    """Replaying a recorded history meets no difference and ends where it ended then."""
    state = _replayed(load(FOLDER / f"{name}.jsonl"))

    assert state.status is ENDS[name]
    assert state.timers == {}


@pytest.mark.parametrize("name", sorted(ENDS))
def test_a_golden_history_is_written_as_it_was_read(name):
    """Stored names and fields are for ever: reading and writing give the same bytes."""
    file = FOLDER / f"{name}.jsonl"

    assert dump(load(file)) == file.read_bytes()


@pytest.mark.parametrize("name", sorted(ENDS))
def test_every_beginning_of_a_golden_history_replays(name):
    """A worker may have to take over after any turn: each prefix of whole turns gives a state."""
    history = load(FOLDER / f"{name}.jsonl")
    ends = [
        entry.version for entry in history[1:] if entry.cause != history[entry.version - 2].cause
    ]

    assert ends, "a history of one turn has no beginning to stop at"
    for version in (end - 1 for end in ends):
        _replayed(history[:version])


@pytest.mark.parametrize("name", sorted(ENDS))
def test_entries_alone_say_what_the_code_decides(name):
    """At the end and after every turn, the fold gives the state that a replay gives."""
    history = load(FOLDER / f"{name}.jsonl")
    ends = [fact.version - 1 for fact, _ in turns(history)][1:]

    for version in (*ends, len(history)):
        replayed = snapshot(_replayed(history[:version]))
        assert snapshot(fold(history[0].saga_id, history[:version])) == replayed


def test_format_1_has_the_same_histories():
    """Each is kept as it was written before 0.1.0."""
    assert {file.stem for file in FORMAT_1.glob("*.jsonl")} == ENDS.keys()


@pytest.mark.parametrize("name", sorted(ENDS))
def test_a_history_of_format_1_replays_to_the_state_of_today(name):
    """What it could not say is decided anew, and is what today's history of the same says."""
    history = load_format_1(FORMAT_1 / f"{name}.jsonl")
    today = load(FOLDER / f"{name}.jsonl")

    assert any(getattr(entry.body, "format", None) == 1 for entry in history)
    assert snapshot(_replayed(history)) == snapshot(_replayed(today)) | {"format": 1}


@pytest.mark.parametrize("name", sorted(ENDS))
def test_entries_of_format_1_say_where_steps_stand_without_any_code(name):
    """What they left unsaid is inferred, after every turn: `show` prints migrated sagas too."""
    history = load_format_1(FORMAT_1 / f"{name}.jsonl")
    ends = [fact.version - 1 for fact, _ in turns(history)][1:]

    for version in (*ends, len(history)):
        replayed = _replayed(history[:version])
        folded = fold(replayed.saga_id, history[:version])
        assert folded.status is replayed.status
        assert _statuses(folded) == _statuses(replayed)


@pytest.mark.parametrize("name", sorted(ENDS))
def test_every_beginning_of_a_history_of_format_1_replays(name):
    """It may have been migrated after any turn."""
    history = load_format_1(FORMAT_1 / f"{name}.jsonl")

    begins = [fact.version for fact, _ in turns(history)][1:]

    assert begins, "there is no turn to stop after"
    for begin in begins:
        _replayed(history[: begin - 1])


@pytest.mark.parametrize("name", sorted(ENDS))
def test_an_upgraded_history_is_written_as_it_is_read(name):
    """Once upgraded it is a history of today, and says that it began in format 1."""
    history = load_format_1(FORMAT_1 / f"{name}.jsonl")
    text = dump(history)

    assert b'"format":1' in text.splitlines()[0]
    assert b"undo-stuck" not in text
    assert b'"group' not in text
    assert [_line(line) for line in text.splitlines()] == history


def test_a_broken_history_of_format_1_is_refused_at_the_same_entry():
    """Leniency is for what format 1 could not say, not for what it says."""
    history = load_format_1(FORMAT_1 / "broken" / "another-receipt.jsonl")

    with pytest.raises(ReplayMismatch) as refused:
        _replayed(history)

    assert refused.value.version == 14
    assert "p-44" in refused.value.recorded
    assert '"p-4"' in refused.value.decided


def test_a_broken_history_is_refused_at_its_first_differing_entry():
    """In this one an undo carries a receipt that no reply has given: version 14."""
    history = load(FOLDER / "broken" / "another-receipt.jsonl")

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


def _statuses(state: SagaState) -> dict[str, str]:
    return {step.id: step.status.value for step in state.steps.values()}


def _line(line: bytes) -> Entry:
    return entry_of(orjson.loads(line))


def _replayed(history: list[Entry]) -> SagaState:
    registered = definitions.app.registry.find(*definition_of(history))
    assert registered is not None, definition_of(history)
    return replay(registered.decider, history[0].saga_id, history)
