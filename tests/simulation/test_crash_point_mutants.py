"""The sweep over the crash points can fail: with a safeguard switched off, the case that is about
it does; and so does one whose crash did not happen. On a slow machine it does not.
"""

# ruff: noqa: SLF001 - safeguards are switched off where they are, behind the ports

import asyncio
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from saga.adapters.postgres import PostgresEventStore
from saga.effects import inbox
from saga.ports import Batch, Source
from saga.runtime.relay import Relay
from saga.runtime.turns import Turns
from saga.runtime.unit_of_work import UnitOfWork
from saga.testing.world.ports import Forwarded, ProcessConsumer
from tests.simulation.crash_points import loop, stores
from tests.simulation.crash_points.aim import Strike
from tests.simulation.crash_points.kinds import KINDS
from tests.simulation.crash_points.stage import Outcome, Stage, StagedTurns
from tests.simulation.crash_points.stores import PostgresPlace, SqlitePlace
from tests.simulation.crash_points.table import CRASH_POINTS

pytestmark = pytest.mark.usefixtures("quiet")
Patch = pytest.MonkeyPatch


def _commit_offsets_first(patch: Patch) -> None:
    fetch = ProcessConsumer.fetch

    async def fetch_and_commit(self, **limits):
        records = await fetch(self, **limits)
        for record in records:
            await self.commit({Source(record.topic, record.partition): record.offset + 1})
        return records

    patch.setattr(ProcessConsumer, "fetch", fetch_and_commit)


def _store_positions_first(patch: Patch) -> None:
    append, make_batch = Turns._append, UnitOfWork.batch

    def without_positions(self, relayed):
        self.positions = {}
        return make_batch(self, relayed)

    async def append_after_positions(self, unit, batch):
        await self._store.append(Batch(positions=batch.positions()), at=unit.at)
        return await append(self, unit, batch)

    patch.setattr(Turns, "_append", append_after_positions)
    patch.setattr(UnitOfWork, "batch", without_positions)


def _copy_dead_records_last(patch: Patch) -> None:
    publish_dead_letters, publish = Relay.publish_dead_letters, Turns.publish
    put_off = []

    async def put_off_letters(self, letters):
        put_off.extend(letters)

    async def publish_with_copies(self, committed):
        await publish(self, committed)
        await publish_dead_letters(self._relay, list(put_off))
        put_off.clear()

    patch.setattr(Relay, "publish_dead_letters", put_off_letters)
    patch.setattr(Turns, "publish", publish_with_copies)


def _leave_backlogs(patch: Patch) -> None:
    async def take_over_nothing(self, *, older_than_s=0.0):
        return 0

    patch.setattr(Relay, "take_over", take_over_nothing)


def _ask_the_inbox_in_vain(patch: Patch) -> None:
    patch.setattr(inbox, "_judge_repeated", lambda request, kept: None)


def _remember_what_failed(patch: Patch) -> None:
    append = Turns._append

    async def remember_and_append(self, unit, batch):
        self._cache.keep(*unit.sagas.values())
        return await append(self, unit, batch)

    patch.setattr(Turns, "_append", remember_and_append)


class Mutant(NamedTuple):
    """What is switched off, the case that is about it, and what is said then."""

    name: str
    switch_off: Callable[[Patch], None]
    point: str
    kind: str
    said: str


MUTANTS = (
    Mutant(
        "offsets before the store",
        _commit_offsets_first,
        "CP-1",
        "reply done",
        "is committed up to 1, stored up to -1",
    ),
    Mutant(
        "positions before entries",
        _store_positions_first,
        "CP-5",
        "trigger",
        "was acknowledged, and there is no saga",
    ),
    Mutant(
        "dlq copy after positions",
        _copy_dead_records_last,
        "CP-5",
        "unreadable record",
        "is a dead letter and not on its dlq topic",
    ),
    Mutant(
        "nobody takes a backlog over",
        _leave_backlogs,
        "CP-6",
        "reply done",
        "the backlog has",
    ),
    Mutant(
        "inbox not obeyed", _ask_the_inbox_in_vain, "CP-9", "reply done", "was carried out twice"
    ),
    Mutant("memory ahead of the store", _remember_what_failed, "CP-4b", "reply done", "is nowhere"),
)


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_a_missing_safeguard_is_noticed(
    mutant: Mutant, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same case holds with the safeguard, in the sweep."""
    mutant.switch_off(monkeypatch)

    outcome = _run(mutant.point, mutant.kind, SqlitePlace(folder))

    assert mutant.said in "\n".join(outcome.violations)


def test_a_commit_taken_for_done_is_noticed(
    crashed_postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an unclear commit the store has to be asked."""

    async def has_landed(self, batch, originators):
        return True

    async def backlog_id(self, batch, originators):
        return 1

    monkeypatch.setattr(PostgresEventStore, "_has_landed", has_landed)
    monkeypatch.setattr(PostgresEventStore, "_backlog_id", backlog_id)

    outcome = _run("CP-4b", "reply done", PostgresPlace(crashed_postgres))

    assert "live state differs from replayed state" in "\n".join(outcome.violations)


def test_a_strike_that_never_comes_is_noticed(folder: Path) -> None:
    """A case whose boundary nobody passes has shown nothing."""
    outcome = Stage(SqlitePlace(folder), KINDS[0].script(), (Strike("nowhere"),)).run()

    assert not outcome.is_as_planned


def test_a_crash_that_does_not_happen_is_noticed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is counted where it is felt, not where it is ordered."""
    monkeypatch.setattr(
        stores._SqliteCommits, "_commit", lambda self, connection: self._really_commit(connection)
    )

    assert not _run("CP-5", "trigger", SqlitePlace(folder)).is_as_planned


class _LateAnswers(Forwarded):
    """What the stage asks of a store is answered late: it never sees a record where that is now."""

    def __init__(self, inner, moments: dict[str, asyncio.Event]) -> None:
        super().__init__(inner)
        self._moments = moments

    async def call(self, name: str, act):
        """Before the saga is stored, nothing runs; once it sleeps, nothing is to be published."""
        if name == "sagas" and "status" not in act.keywords:
            answer = await act()
            self._moments["looked"].set()
            await self._moments["stored"].wait()
            return answer
        answer = await act()
        if name == "backlog":
            self._moments["asked"].set()
            while answer:
                await asyncio.sleep(0)
                answer = await act()
        return answer


class _LatePlace(SqlitePlace):
    def __init__(self, folder: Path, moments: dict[str, asyncio.Event]) -> None:
        super().__init__(folder)
        self._moments = moments

    async def open(self, process):
        """Connect for *process*, or for the stage itself."""
        opened = await super().open(process)
        if process is not None:
            return opened
        late = [_LateAnswers(each, self._moments) for each in (opened.store, opened.catalogue)]
        return opened._replace(store=late[0], catalogue=late[1])


def test_what_moves_on_while_it_is_looked_for_is_not_taken_for_done(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One look takes many reads, and between two of them a busy machine does much else."""
    moments = {name: asyncio.Event() for name in ("looked", "stored", "asked")}
    append = StagedTurns._append

    async def append_between_looks(self, unit, batch):
        await moments["looked"].wait()
        appended = await append(self, unit, batch)
        moments["stored"].set()
        await moments["asked"].wait()
        return appended

    monkeypatch.setattr(StagedTurns, "_append", append_between_looks)

    _holds("timeout", _LatePlace(folder, moments))


def test_a_slow_machine_does_not_use_up_the_time_limits_of_sagas(
    crashed_postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their time is the stage's: it does not pass while stores are waited for."""
    seconds = count()
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: next(seconds)))

    _holds("signal", PostgresPlace(crashed_postgres))


def _holds(kind: str, place) -> None:
    script, ends = next((each.script(), each.ends) for each in KINDS if each.name == kind)

    outcome = Stage(place, script, ()).run()

    assert outcome.violations == []
    assert dict(outcome.statuses) == {ends: 1}


def _run(point: str, kind: str, place) -> Outcome:
    strikes = next(each.strikes for each in CRASH_POINTS if each.name == point)
    script = next(each.script() for each in KINDS if each.name == kind)
    return Stage(place, script, strikes).run()
