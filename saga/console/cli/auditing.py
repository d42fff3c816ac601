"""`replay`: the deploy gate, which folds stored histories through the code at hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from time import perf_counter
from typing import Annotated, Any

import typer

from saga.audit.replaying import Replayed, replay_all, replay_some
from saga.console.cli.output import ExitCode, Misused
from saga.console.cli.session import Session, find_saga


async def replay(
    session: Session,
    ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ID", help="Saga ids, or definition/key; all without.", show_default=False
        ),
    ] = None,
    *,
    definition: Annotated[
        str | None,
        typer.Option(
            "--definition", metavar="NAME", help="Only sagas of this name.", show_default=False
        ),
    ] = None,
    is_open_only: Annotated[
        bool, typer.Option("--open", help="Only sagas that have not ended.")
    ] = False,
) -> int:
    """Check that today's code decides what every stored history has; exit 1 where it does not."""
    if ids and (definition is not None or is_open_only):
        raise Misused("name sagas, or choose with --definition and --open, not both")
    sagas = session.app.registry
    began = perf_counter()
    count = entries = different = 0
    async with session.reading() as store:
        results: AsyncIterator[Replayed]
        if ids:
            summaries = [await find_saga(store, text) for text in dict.fromkeys(ids)]
            results = replay_some(store.store, sagas, summaries)
        else:
            results = replay_all(
                store.store,
                store.catalogue,
                sagas,
                definition=definition,
                is_open_only=is_open_only,
            )
        async for replayed in results:
            count += 1
            entries += replayed.entries
            different += not replayed.is_ok
            _print(session, replayed)
    _sum_up(session, count, entries, different, perf_counter() - began)
    return ExitCode.NOT_SO if different else ExitCode.OK


def _print(session: Session, replayed: Replayed) -> None:
    summary, difference = replayed.summary, replayed.difference
    if session.printer.is_json:
        row: dict[str, Any] = {
            "id": summary.saga_id,
            "entries": replayed.entries,
            "ok": replayed.is_ok,
            "difference": None,
        }
        if difference is not None:
            row["difference"] = {
                "version": difference.version,
                "recorded": difference.recorded,
                "decided": difference.decided,
            }
        session.printer.json(row)
    elif difference is not None:
        printer = session.printer
        name = f"{summary.definition}/{summary.key}"
        printer.say(f"{summary.saga_id} ({name}) differs at entry {difference.version}:")
        printer.say(f"  the history says      {difference.recorded}")
        printer.say(f"  the code at hand says {difference.decided}", style="red")


def _sum_up(session: Session, count: int, entries: int, different: int, took_s: float) -> None:
    per_s = round(entries / took_s) if took_s > 0 else 0
    if session.printer.is_json:
        session.printer.json(
            {
                "sagas": count,
                "entries": entries,
                "ok": different == 0,
                "different": different,
                "seconds": round(took_s, 3),
                "entries_per_s": per_s,
            }
        )
        return
    verdict = f"{different:,} of them differ" if different else "all as today's code decides"
    session.printer.say(f"{count:,} sagas, {entries:,} entries, {per_s:,} a second: {verdict}")
