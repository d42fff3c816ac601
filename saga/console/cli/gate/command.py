"""`saga replay`: what is asked of it, and what it answers."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from typing import Annotated, Final

import typer

from saga.adapters.opening import OpenedStore
from saga.console.cli.gate.choosing import Chosen, Chunk, Source, chunks_of
from saga.console.cli.gate.journal import BEGIN, Heading, Journal, Kept, code_of
from saga.console.cli.gate.pool import Pool
from saga.console.cli.gate.run import How, Run
from saga.console.cli.gate.snapshots import Removal
from saga.console.cli.gate.tally import SAGAS_NAMED_MAX, Tally
from saga.console.cli.gate.verdicts import Verdict
from saga.console.cli.gate.worker import is_users, load_whole, replayed_by
from saga.console.cli.looking import since_of
from saga.console.cli.output import Misused
from saga.console.cli.session import Session, find_saga, tune_gc
from saga.settings import redacted

TERMINATED: Final = 128 + 15
Found = AsyncGenerator[tuple[Chunk, Verdict]]


async def replay(
    session: Session,
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="ID", help="Saga ids, or definition/key; all without."),
    ] = None,
    *,
    chosen: Chosen,
    how: How,
) -> int:
    """Check that today's code decides what every stored history has; exit 1 where it does not."""
    if ids and any(chosen.words.values()):
        options = "--definition, --open, --since and --percent"
        raise Misused(f"name sagas, or choose with {options}, not both")
    if ids and how.resume is not None:
        raise Misused("--resume is for runs over the whole store, and here sagas are named")
    code = code_of(session.app)  # and an application that cannot be loaded is refused at once
    with _terminable() as is_terminated:
        try:
            async with session.reading() as store:
                if ids:
                    run, chunks = await _of_named(session, store, ids, how)
                else:
                    heading = Heading(redacted(session.settings.store), chosen.words, code)
                    run, chunks = await _of_chosen(session, store, chosen, how, heading)
                async with Removal(session) as removal:
                    await _replay_all(session, store, run, chunks, removal)
                return run.result()
        except asyncio.CancelledError:
            if not is_terminated:
                raise
            return TERMINATED


async def _of_named(
    session: Session, store: OpenedStore, ids: Sequence[str], how: How
) -> tuple[Run, AsyncIterator[Chunk]]:
    sagas = [await find_saga(store, text) for text in dict.fromkeys(ids)]
    tally = Tally(names_each=True)
    return Run(session.printer, how, Journal(None), tally, total=len(sagas)), chunks_of(sagas)


async def _of_chosen(
    session: Session, store: OpenedStore, chosen: Chosen, how: How, heading: Heading
) -> tuple[Run, AsyncIterator[Chunk]]:
    """The run over what is *chosen*: it goes on where an earlier one was interrupted."""
    journal, printer = Journal(how.resume), session.printer
    kept = journal.read(heading)

    since = kept.since if isinstance(kept, Kept) else since_of(chosen.since)
    source = Source(store.catalogue, chosen, since)
    total = await source.count()
    if isinstance(kept, Kept):
        tally, place = kept.tally, kept.place
        printer.note(f"goes on behind {tally.sagas:,} sagas, which an earlier run has replayed")
        journal.go_on(kept)
    else:
        tally, place = Tally(names_each=total <= SAGAS_NAMED_MAX), BEGIN
        if kept is not None:
            printer.note(f"--resume {how.resume}: {kept}: every saga is replayed anew")
        journal.begin(heading, since=since, tally=tally)
    return Run(printer, how, journal, tally, total=total), source.chunks(place)


async def _replay_all(
    session: Session,
    store: OpenedStore,
    run: Run,
    chunks: AsyncIterator[Chunk],
    removal: Removal,
) -> None:
    jobs = _cores() if run.how.jobs is None else run.how.jobs
    with run:
        drawn = run.drawn(chunks)
        if jobs:
            note = session.printer.note
            pool = Pool(session.settings, jobs=jobs, timeout_s=run.how.timeout_s, note=note)
            results = pool.check(drawn)
        else:
            tune_gc()
            results = _checked_here(session, store, drawn)
        async with aclosing(results) as found:
            async for chunk, verdict in found:
                await removal.remove_where_wrong(verdict)
                run.take(chunk, verdict)


async def _checked_here(
    session: Session, store: OpenedStore, chunks: AsyncIterator[Chunk]
) -> Found:
    """As a pool does, in this process."""
    sagas = session.app.registry
    async for chunk in chunks:
        loaded = await load_whole(store.store, sagas, chunk.sagas)
        for saga in chunk.sagas:
            verdict = replayed_by(sagas, saga, loaded, is_theirs=is_users, say=_nothing)
            chunk.verdicts.append(verdict)
            yield chunk, verdict


def _nothing(_: object) -> None:
    """Nobody has to know how far it is."""


def _cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def _terminable() -> Iterator[list[bool]]:
    """Have SIGTERM cancel this task, as Ctrl-C does; whether it came is in the list."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    came: list[bool] = []

    def terminate() -> None:
        came.append(True)
        task.cancel()

    with suppress(NotImplementedError, RuntimeError, ValueError):  # not here, or not in this thread
        loop.add_signal_handler(signal.SIGTERM, terminate)
    try:
        yield came
    finally:
        with suppress(NotImplementedError, RuntimeError, ValueError):
            loop.remove_signal_handler(signal.SIGTERM)
