"""Lives an example again and again, each life a fork of this process, and says how it ended.

`python -m tests.examples.lives MODULE TURNS`: in the folder `harmed` it is killed right behind the
commit with which so many turns are stored, and then lived to its end. With `each` in the place of
TURNS it is lived unharmed, and then killed behind each commit of its run in turn, in a folder each;
every end has to be that of the unharmed run. It prints how often it was killed. MODULE may be the
path of a file.

Two ends are the same where sagas ended with the same outcomes and steps. Each is audited by the
checks of simulated worlds, by a replay, and by a ledger of effects: each was carried out once.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from importlib import import_module
from itertools import chain, count
from pathlib import Path
from types import ModuleType
from typing import Any

import orjson
import psycopg

from saga import EffectContext, Effects, Intent, SagaApp
from saga.adapters.opening import open_store
from saga.adapters.postgres.effects import PostgresHandlerDatabase
from saga.audit.replaying import replay_all
from saga.core.fold import fold
from saga.core.history import Entry
from saga.core.identity import SagaId
from saga.core.intents import SagaCompleted, SagaRolledBack
from saga.core.state import step_rows
from saga.settings import Settings
from saga.testing.world.acting import check_reruns
from saga.testing.world.checks import check_effects, check_histories
from saga.testing.world.evidence import Evidence, Line, Log
from saga.testing.world.kinship import check_kinship
from tests.examples.struck import Commits, watch_commits
from tests.patience import HANG_S

HARMED, UNHARMED = Path("harmed"), Path("unharmed")
PRINTED, END = "printed", "end"
SAGAS_MAX = 1_000
KILLED = -signal.SIGKILL
NOT_KILLED = 3
"""Ends so that has had fewer commits than that behind which it was to be killed."""
AT_ONCE = 4
LEDGER = "SELECT number, saga_id, step, direction, intent_id FROM lives_ledger ORDER BY number"
MAKE_LEDGER = """CREATE TABLE IF NOT EXISTS lives_ledger (number {number}, saga_id TEXT NOT NULL,
    step TEXT NOT NULL, direction TEXT NOT NULL, intent_id TEXT NOT NULL)"""
NUMBER = {
    False: "INTEGER PRIMARY KEY AUTOINCREMENT",
    True: "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
}
"""In a file; on PostgreSQL."""
WRITE = """INSERT INTO lives_ledger (saga_id, step, direction, intent_id)
    SELECT CAST(:saga_id AS TEXT), CAST(:step AS TEXT), CAST(:direction AS TEXT),
        CAST(:intent_id AS TEXT)
    WHERE CAST(:direction AS TEXT) = 'do' OR EXISTS (SELECT 1 FROM lives_ledger
        WHERE saga_id = CAST(:saga_id AS TEXT) AND step = CAST(:step AS TEXT)
        AND direction = 'do')"""
"""An undo of what was never done is no effect."""


def note_effects() -> None:
    """Have every effect service write a line for each effect, in the transaction of its inbox."""
    init = Effects.__init__

    async def make_ledger(db: Any) -> None:
        await db.execute(MAKE_LEDGER.format(number=NUMBER[isinstance(db, PostgresHandlerDatabase)]))

    async def note(message: Any, ctx: EffectContext, call_next: Any) -> Any:
        reply = await call_next(message, ctx)
        if isinstance(message, Intent):
            saga, step, direction = ctx.idempotency_key.rsplit("/", 2)
            named = {"saga_id": saga, "step": step, "direction": direction}
            await ctx.db.execute(WRITE, intent_id=ctx.intent_id, **named)
        return reply

    def noting(self: Effects, name: str) -> None:
        init(self, name)
        self.on_start(make_ledger)
        self.around(note)

    Effects.__init__ = noting  # type: ignore[method-assign]


def live(folder: Path, behave: Callable[[], int | None]) -> int:
    """A life in *folder*, in a process of its own; how that ended."""
    folder.mkdir(exist_ok=True)

    def settled() -> int | None:
        os.chdir(folder)
        os.dup2(os.open(PRINTED, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        return behave()

    return os.waitstatus_to_exitcode(os.waitpid(begun(settled), 0)[1])


def begun(behave: Callable[[], int | None]) -> int:
    """The id of a process that ends with what *behave* returns; 1: with an error."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        signal.alarm(int(2 * HANG_S))  # whoever waits for us may be gone by then
        code = behave() or 0
    except BaseException:  # noqa: BLE001  # there is nobody to raise it to
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run_to_the_end(module: ModuleType) -> None:
    """And write down what it has come to."""
    asyncio.run(module.main())
    settings = Settings.read()
    end = asyncio.run(end_of(module.app, settings, [*_ledger(settings)]))
    Path(END).write_bytes(orjson.dumps(end))


def run_until(module: ModuleType, is_due: Callable[[Commits], bool]) -> None:
    watch_commits(is_due)
    asyncio.run(module.main())


def _ledger(settings: Settings) -> Iterator[Line]:
    if settings.effects_address.startswith("postgresql:"):
        with psycopg.connect(settings.effects_address) as server:
            if server.execute("SELECT 1 FROM pg_tables WHERE tablename = 'lives_ledger'").rowcount:
                yield from (Line(*row) for row in server.execute(LEDGER).fetchall())
    for file in sorted(Path(".saga").glob("*.db")):
        with closing(sqlite3.connect(file)) as db:
            if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'lives_ledger'").fetchone():
                yield from (Line(*row) for row in db.execute(LEDGER))


async def end_of(app: SagaApp, settings: Settings, ledger: list[Line] | None) -> dict[str, Any]:
    """What its sagas have come to, how many turns that took, and what the audit says.

    Without a *ledger* nothing is said of effects.
    """
    opened = open_store(settings, is_to_write=False)
    histories: dict[SagaId, list[Entry]] = defaultdict(list)
    async for _, entry in opened.catalogue.log():
        histories[entry.saga_id].append(entry)
    summaries = {each.saga_id: each for each in await opened.catalogue.sagas(limit=SAGAS_MAX)}
    timers = await opened.catalogue.timers(limit=SAGAS_MAX)
    replayed = [each async for each in replay_all(opened.store, opened.catalogue, app.registry)]
    backlog = await opened.store.backlog(limit=1)
    await opened.close()
    evidence = Evidence(
        log=Log(),
        histories=histories,
        stored_at={},
        published=(),
        unhandled=(),
        summaries=summaries,
        timers=frozenset(each.timer_id for each in timers),
        ledger=ledger or [],
        heard=frozenset(),
        names=settings.topic_names,
    )
    problems = [
        *(f"{each.summary.key} replays otherwise" for each in replayed if not each.is_ok),
        *(["the backlog is not empty"] if backlog else []),
        *check_histories(evidence),
        *(check_effects(evidence) if ledger is not None else ()),
        *check_kinship(histories, frozenset()),
        *check_reruns(histories, evidence.is_parked),
    ]
    sagas = {
        f"{each.definition}/{each.key}": {"status": each.status, **_told(saga, histories[saga])}
        for saga, each in summaries.items()
    }
    turns = {(each.saga_id, each.cause, each.source) for each in chain(*histories.values())}
    return {"problems": problems, "sagas": sagas, "turns": len(turns)}


def _told(saga: SagaId, history: list[Entry]) -> dict[str, Any]:
    """Its last outcome, and what became of each step and undo."""
    ends = [each.body for each in history if isinstance(each.body, SagaCompleted | SagaRolledBack)]
    steps = {f"{row.step}/{row.direction}": row.status for row in step_rows(fold(saga, history))}
    return {"outcome": ends[-1].outcome if ends else None, "steps": steps}


def _is_behind(number: int, commits: Commits) -> bool:
    return commits.number == number


class Lives:
    """Of the example in *module*."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self.kills = 0

    def behind(self, turns: int) -> None:
        assert self._is_killed(HARMED, lambda commits: commits.turns >= turns)
        self._live_to_the_end(HARMED)

    def behind_each(self) -> None:
        """Some at once: most of their time they wait."""
        unharmed = self._live_to_the_end(UNHARMED)
        self._live_to_the_end(UNHARMED)
        expected = printed_in(UNHARMED)  # what is printed where nothing is left to do
        numbers, running, codes = count(1), set[int](), set[int]()
        while running or codes <= {0}:
            while len(running) < AT_ONCE and codes <= {0}:
                case = partial(self._behind, next(numbers), unharmed, expected)
                running.add(begun(case))
            pid, status = os.wait()
            running.remove(pid)
            code = os.waitstatus_to_exitcode(status)
            codes.add(code)
            self.kills += code == 0
        assert codes == {0, NOT_KILLED}, codes
        assert self.kills > 1

    def _behind(self, number: int, unharmed: Any, expected: list[str]) -> int:
        folder = Path(f"killed-behind-{number}")
        if not self._is_killed(folder, partial(_is_behind, number)):
            return NOT_KILLED
        harmed, printed = self._live_to_the_end(folder), printed_in(folder)
        assert harmed["sagas"] == unharmed["sagas"], (harmed, unharmed)
        assert [line for line in printed if line in expected] == expected, printed
        return 0

    def _is_killed(self, folder: Path, is_due: Callable[[Commits], bool]) -> bool:
        code = live(folder, partial(run_until, self._module, is_due))
        assert code in (0, KILLED), code
        self.kills += code == KILLED
        return code == KILLED

    def _live_to_the_end(self, folder: Path) -> Any:
        assert live(folder, partial(run_to_the_end, self._module)) == 0
        end = told_in(folder)
        assert end["problems"] == [], end
        return end


def printed_in(folder: Path) -> list[str]:
    return (folder / PRINTED).read_text().splitlines()


def told_in(folder: Path) -> Any:
    """The end that was written down there."""
    return orjson.loads((folder / END).read_bytes())


def _loaded(program: str) -> ModuleType:
    """The module of that name, or in that file."""
    if not program.endswith(".py"):
        return import_module(program)
    sys.path.insert(0, str(Path(program).parent))  # as `python FILE` does
    return import_module(Path(program).stem)


if __name__ == "__main__":
    note_effects()
    lives = Lives(_loaded(sys.argv[1]))
    lives.behind_each() if sys.argv[2] == "each" else lives.behind(int(sys.argv[2]))
    print(f"killed {lives.kills} times")
