"""`contract`: files of contract graphs, checked, drawn and described."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from saga.application import Application
from saga.authoring.graphs.checking.locked import models_of
from saga.authoring.graphs.definition import (
    GraphDefinition,
    all_mistakes_at_once,
    check_file,
    read_contract,
)
from saga.authoring.graphs.diagram import mermaid
from saga.authoring.graphs.file.mistakes import MISTAKES_SHOWN_MAX, Mistake, in_order
from saga.authoring.graphs.file.reading import bytes_of
from saga.authoring.graphs.file.schema import shipped_schema
from saga.authoring.graphs.file.shaping import Shaped
from saga.authoring.graphs.handlers import EventHandler
from saga.console.cli.contracts import LOCK_FILE
from saga.console.cli.output import AppRefused, ExitCode, NotSo
from saga.console.cli.session import Session
from saga.contracts import ContractModel, contract_of
from saga.contracts.lockfile import read_lock
from saga.errors import ContractFileError
from saga.settings import is_contract_file

File = Annotated[Path, typer.Argument(metavar="FILE", help="The file.", dir_okay=False)]


def contract_check(session: Session, file: File) -> int:
    """Look for mistakes in a contract file: all of it at once, each with line and column.

    Its names mean the contracts of the application and those that it declares, else those of the
    lock file. Exit code 1 where there is a mistake.
    """
    try:
        app = _app(session, file)
    except ContractFileError as error:  # the application is made of it, and looked at it already
        _print(session, file, error.mistakes)
        return ExitCode.NOT_SO
    handlers, services = _of_python(app, file)
    found, mistakes = check_file(
        str(file),
        _read(file),
        () if app is None else [each.model for each in app.contracts.published],
        spare=_locked(),
        handlers=handlers,
        services=services,
    )
    printer = session.printer
    if mistakes or found is None:
        _print(session, file, mistakes)
        return ExitCode.NOT_SO
    nodes = len(found.nodes)
    row = {"file": str(file), "name": found.name, "version": found.version, "nodes": nodes}
    printer.result(
        row | {"ok": True},
        f"{file}: saga {found.name}, version {found.version}, {nodes} nodes, no mistakes",
    )
    return ExitCode.OK


def contract_graph(session: Session, file: File) -> int:
    """Draw a contract file as a Mermaid flowchart; what is no graph is not drawn."""
    found = read_contract(_read(file))
    mistakes = found.mistakes if isinstance(found, Shaped) else found
    if mistakes or not isinstance(found, Shaped):
        _print(session, file, in_order(mistakes))
        return ExitCode.NOT_SO
    text = mermaid(found)
    if session.printer.is_json:
        session.printer.json({"file": str(file), "mermaid": text})
    else:
        typer.echo(text, nl=False)
    return ExitCode.OK


def contract_schema(session: Session) -> None:
    """Print the JSON Schema of contract files, for editors."""
    del session  # it is the same for all settings, and JSON in either case
    typer.echo(shipped_schema(), nl=False)


def _print(session: Session, file: Path, mistakes: Sequence[Mistake]) -> None:
    printer = session.printer
    for mistake in mistakes[:MISTAKES_SHOWN_MAX]:
        row = {
            "file": str(file),
            "line": mistake.place.line,
            "column": mistake.place.column,
            "code": mistake.code.value,
            "message": mistake.message,
        }
        printer.result(row, mistake.told(str(file)))
    if len(mistakes) > MISTAKES_SHOWN_MAX:
        printer.note(f"{file}: and {len(mistakes) - MISTAKES_SHOWN_MAX} more")


def _read(file: Path) -> bytes:
    try:
        return bytes_of(file)
    except OSError as error:
        raise NotSo(f"{file}: {error.strerror or error}") from error


def _app(session: Session, file: Path) -> Application | None:
    """The application whose contracts the file may name; None where there is none.

    One that was asked for has to load, unless it is made of this very file.
    """
    settings = session.settings
    is_asked_for = "app" in settings.model_fields_set
    if is_contract_file(settings.app) and _is_file(settings.app, file):
        return None
    if not is_asked_for and b"\nmessages:" in _read(file):
        return None  # with contracts of its own it is an application by itself
    try:
        with all_mistakes_at_once():
            return session.app
    except AppRefused as refused:
        cause = refused.__cause__
        if isinstance(cause, ContractFileError) and _is_file(cause.where, file):
            raise cause from None
        if is_asked_for:
            raise
        return None


def _is_file(where: str | None, file: Path) -> bool:
    return where is not None and Path(where).resolve() == file.resolve()


def _of_python(
    app: Application | None, file: Path
) -> tuple[tuple[EventHandler, ...] | None, dict[str, frozenset[str]] | None]:
    """The handlers that Python hands over for this file, and the effect services beside it."""
    if app is None:
        return None, None
    services = {
        each.name: frozenset(contract_of(model).contract_name for model in each.intents)
        for each in app.effects
    }
    for saga in app.sagas:
        if isinstance(saga, GraphDefinition) and _is_file(saga.graph.file, file):
            return saga.handlers, services
    return None, services


def _locked() -> list[type[ContractModel]]:
    lock = Path(LOCK_FILE)
    if not lock.exists():
        return []
    return list(models_of(read_lock(lock.read_text("utf-8"), where=LOCK_FILE), LOCK_FILE))
