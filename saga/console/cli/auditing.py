"""`replay`: the deploy gate, which folds stored histories through the code at hand."""

from __future__ import annotations

from time import perf_counter
from typing import Annotated

import typer

from saga.audit.replaying import replay_all, replay_some
from saga.console.cli.commands import DefinitionName
from saga.console.cli.gate.verdicts import Verdict, verdict_on
from saga.console.cli.output import ExitCode, Misused, Printer
from saga.console.cli.session import Session, find_saga, tune_gc


async def replay(
    session: Session,
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="ID", help="Saga ids, or definition/key; all without."),
    ] = None,
    *,
    definition: DefinitionName = None,
    is_open_only: Annotated[
        bool, typer.Option("--open", help="Only sagas that have not ended.")
    ] = False,
) -> int:
    """Check that today's code decides what every stored history has; exit 1 where it does not."""
    if ids and (definition is not None or is_open_only):
        raise Misused("name sagas, or choose with --definition and --open, not both")
    sagas = session.app.registry
    tune_gc()
    began = perf_counter()
    count = entries = different = 0
    async with session.reading() as store:
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
            _print(session.printer, verdict_on(replayed))
    took_s = perf_counter() - began
    per_s = round(entries / took_s) if took_s > 0 else 0
    row = {"sagas": count, "entries": entries, "ok": different == 0, "different": different}
    speed = {"seconds": round(took_s, 3), "entries_per_s": per_s}
    verdict = f"{different:,} of them differ" if different else "all as today's code decides"
    text = f"{count:,} sagas, {entries:,} entries, {per_s:,} a second: {verdict}"
    session.printer.result({**row, **speed}, text)
    return ExitCode.NOT_SO if different else ExitCode.OK


def _print(printer: Printer, verdict: Verdict) -> None:
    if printer.is_json:
        printer.json(verdict.row())
    elif not verdict.is_ok:
        printer.say(f"{verdict.saga_id} ({verdict.name}) differs: {verdict.line}", style="red")
        printer.say(*verdict.told())
