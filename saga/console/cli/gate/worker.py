"""A worker process: it replays the histories that it is given, and says what it finds of each.

It takes one task after another from its parent, and says before each history that it begins it. So
the parent knows which one it is about when the process dies or takes too long. A thread listens, so
that it can say where the code stands while that runs, and ends with its parent.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Final

from saga.adapters.opening import OpenedStore, open_store
from saga.audit.differences import Finding, Kind
from saga.audit.replaying import Histories, replay_one
from saga.audit.snapshots import compare_snapshot, wrong
from saga.authoring.registry import SagaRegistry
from saga.console.cli import logs
from saga.console.cli.gate.verdicts import Verdict, verdict_of, verdict_on
from saga.console.cli.session import load_app, tune_gc
from saga.core.history import History
from saga.core.identity import SagaId
from saga.core.texts import described
from saga.core.values import value
from saga.errors import CorruptHistory, DeterminismWarning, SagaError, StoreUnavailable
from saga.ports import EventStore, SagaSummary, Snapshot, Store
from saga.settings import Settings
from saga.users_code import is_a, is_ours, place_among, raised_at

NO_MEMORY: Final = 77
"""The exit code of a worker that ran out of memory."""
ORPHANED: Final = 78


@value
class Stop:
    """To a worker: there is nothing more to do."""


@value
class TellPlace:
    """To a worker: say where its code stands."""


@value
class Ready:
    """From a worker: application and store are open."""


@value
class Began:
    """From a worker: it begins the next history of its task."""


@value
class ReplayedOnly:
    """From a worker: what it found of a history; now it compares the snapshot of that saga."""

    verdict: Verdict


@value
class Stands:
    """From a worker: the line in users' code at which it stands, if that is known."""

    where: str | None


@value
class Broke:
    """From a worker: it cannot go on, and no history is the reason."""

    problem: str
    is_unreachable: bool


Task = list[SagaSummary]
Said = Ready | Began | ReplayedOnly | Verdict | Stands | Broke
Asked = Task | TellPlace | Stop


def work(pipe: Connection, settings: Settings) -> None:
    """What a worker process does, from its beginning to its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # its parent has it, too, and ends us
    os.dup2(2, 1)  # what the code prints is no result
    faulthandler.enable()
    parent = _Parent(pipe)
    threading.Thread(target=parent.listen, name="listener", daemon=True).start()
    try:
        logs.configure(settings.log)
        warnings.simplefilter("ignore", DeterminismWarning)  # its parent has told of it
        sagas = load_app(settings.app).registry
        tune_gc()
        with asyncio.Runner() as runner:
            store = runner.run(_open(settings))
            parent.say(Ready())
            while (task := parent.next_task()) is not None:
                loaded = runner.run(load_whole(store.store, sagas, task))
                _replay(sagas, task, loaded, parent)
            runner.run(_close(store))
    except MemoryError:
        os._exit(NO_MEMORY)
    except SagaError as error:
        parent.say(Broke(str(error), isinstance(error, StoreUnavailable)))


@value
class Loaded:
    histories: Histories
    snapshots: Mapping[SagaId, Snapshot]


async def load_whole(store: Store, sagas: SagaRegistry, task: Sequence[SagaSummary]) -> Loaded:
    """The histories of *task*; of one that cannot even be asked for, why.

    And the snapshots that there may be, which are loaded first: a saga may go on meanwhile.

    Raises:
        StoreError: the store cannot be read at all.
    """
    may_have = [saga.saga_id for saga in task if _may_have_snapshot(sagas, saga)]
    snapshots = await store.snapshots(may_have) if may_have else {}
    return Loaded(await _load_histories(store, task), snapshots)


def _may_have_snapshot(sagas: SagaRegistry, saga: SagaSummary) -> bool:
    registered = sagas.find(saga.definition, saga.definition_version)
    has_any = registered is None or bool(registered.decider.code)
    return has_any and not saga.status.is_ended


async def _load_histories(store: EventStore, task: Sequence[SagaSummary]) -> Histories:
    ids = [saga.saga_id for saga in task]
    try:
        return await store.load(ids, is_whole=True)
    except (SagaError, MemoryError):
        raise
    except Exception:  # noqa: BLE001  # a row that the store cannot make anything of
        return {saga: await _load_one(store, saga) for saga in ids}


async def _load_one(store: EventStore, saga: SagaId) -> History | CorruptHistory:
    try:
        found = await store.load([saga], is_whole=True)
    except (SagaError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001  # as above: it is a finding
        return CorruptHistory(saga, 1, described(error))
    return found.get(saga, History())


def replayed_by(
    sagas: SagaRegistry,
    saga: SagaSummary,
    loaded: Loaded,
    *,
    is_theirs: Callable[[BaseException], bool],
    say: Callable[[ReplayedOnly], None],
) -> Verdict:
    """The verdict on one history, and on the snapshot behind it, whatever their code does.

    *is_theirs* tells what the code has raised from what has come from outside.
    """
    try:
        verdict = verdict_on(replay_one(sagas, saga, loaded.histories))
    except BaseException as error:
        if not is_theirs(error):
            raise
        verdict = _on_raised(saga, error)
    snapshot = loaded.snapshots.get(saga.saga_id)
    if snapshot is None:
        return verdict
    say(ReplayedOnly(verdict))
    try:
        compared = compare_snapshot(sagas, snapshot, loaded.histories.get(saga.saga_id))
    except BaseException as error:
        if not is_theirs(error):
            raise
        compared = wrong(f"the code at hand raised {described(error)}", raised_at(error))
    return verdict.with_snapshot(compared)


def is_users(error: BaseException) -> bool:
    return not is_ours(error)


def _is_no_end(error: BaseException) -> bool:
    """In a worker, none comes from outside but that it has no memory."""
    outside = (KeyboardInterrupt, asyncio.CancelledError)
    return is_users(error) or any(is_a(error, each) for each in outside)


def _on_raised(saga: SagaSummary, error: BaseException) -> Verdict:
    decided = f"nothing: the code at hand raised {described(error)}"
    found = Finding(
        kind=Kind.CODE_RAISED,
        version=0,
        recorded="a whole history",
        decided=decided,
        where=raised_at(error),
    )
    return verdict_of(saga, found)


def _replay(sagas: SagaRegistry, task: Task, loaded: Loaded, parent: _Parent) -> None:
    for saga in task:
        parent.say(Began())
        parent.say(replayed_by(sagas, saga, loaded, is_theirs=_is_no_end, say=parent.say))


async def _open(settings: Settings) -> OpenedStore:
    return open_store(settings, is_to_write=False)


async def _close(store: OpenedStore) -> None:
    await store.close()


class _Parent:
    """The other end of the pipe."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._main = threading.get_ident()

    def say(self, said: Said) -> None:
        with self._lock:
            self._pipe.send(said)

    def next_task(self) -> Task | None:
        """What to do next; None: nothing more."""
        return self._tasks.get()

    def listen(self) -> None:
        while True:
            try:
                asked: Asked = self._pipe.recv()
            except (EOFError, OSError):
                os._exit(ORPHANED)  # the parent is gone, and nobody wants to know any more
            match asked:
                case TellPlace():
                    self.say(Stands(self._place()))
                case Stop():
                    self._tasks.put(None)
                    return
                case _:
                    self._tasks.put(asked)

    def _place(self) -> str | None:
        frame = sys._current_frames().get(self._main)  # noqa: SLF001  # there is no other way
        frames = []
        while frame is not None:
            frames.append((frame.f_code.co_filename, frame.f_lineno))
            frame = frame.f_back
        return place_among(reversed(frames))
