"""`graph`: a saga as a picture, drawn from its definition."""

from __future__ import annotations

from typing import Annotated

import typer

from saga.console.cli.output import NotSo
from saga.console.cli.session import Session

Name = Annotated[str, typer.Argument(metavar="NAME", help="The name of a saga's definition.")]
Version = Annotated[
    int | None, typer.Option("--version", metavar="NUMBER", help="By default the newest.")
]


def graph(session: Session, name: Name, *, version: Version = None) -> None:
    """Draw a saga as a Mermaid diagram: the states of a machine, the nodes of a contract graph.

    A saga that is a function has no diagram: exit code 1.
    """
    registry = session.app.registry
    found = registry.newest(name) if version is None else registry.find(name, version)
    if found is None:
        known = ", ".join(dict.fromkeys(each for each, _ in registry.all())) or "none"
        which = name if version is None else f"{name}, version {version}"
        raise NotSo(f"the application has no saga {which}: it has {known}")
    saga = found.saga
    drawn = saga.diagram()
    if drawn is None:
        raise NotSo(f"saga {name} has no diagram: a function is read in its source ({saga.where})")
    if session.printer.is_json:
        where = {"name": saga.name, "version": saga.version, "where": saga.where}
        session.printer.json(where | {"diagram": drawn})
    else:
        session.printer.say(*drawn.splitlines())
