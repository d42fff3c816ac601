"""Every command of `saga`, and where it is."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Any, Final

import typer

from saga.console.cli.commands import register

HELP: Final = (
    "Sagas: business processes over several services, which finish or are undone in reverse."
)
COMMANDS: Final = {
    "run": "serving.run",
    "publish": "publishing.publish",
    "ls": "looking.ls",
    "show": "looking.show",
    "history": "looking.history",
    "signal": "operating.signal",
    "update": "operating.update",
    "cancel": "operating.cancel",
    "timers": "looking.timers",
    "dlq ls": "dead_letters.dlq_ls",
    "dlq show": "dead_letters.dlq_show",
    "dlq redrive": "dead_letters.dlq_redrive",
    "retry": "operating.retry",
    "skip": "operating.skip",
    "compensate": "operating.compensate",
    "release": "operating.release",
    "abandon": "operating.abandon",
    "pause": "operating.pause",
    "resume": "operating.resume",
    "acts": "operating.acts",
    "mark": "operating.mark",
    "rerun": "operating.rerun",
    "migrate": "migrating.migrate",
    "versions": "migrating.versions",
    "timers fire": "operating.timers_fire",
    "timers move": "operating.timers_move",
    "replay": "gate.command.replay",
    "graph": "drawing.graph",
    "topics ls": "contracts.topics_ls",
    "topics check": "contracts.topics_check",
    "topics lock": "contracts.topics_lock",
    "topics acls": "rights.topics_acls",
    "topics asyncapi": "contracts.topics_asyncapi",
    "topics create": "contracts.topics_create",
    "contract check": "graphs.contract_check",
    "contract graph": "graphs.contract_graph",
    "contract schema": "graphs.contract_schema",
    "store migrate": "installation.store_migrate",
    "store status": "installation.store_status",
    "store rebase": "rebasing.store_rebase",
    "store rebases": "rebasing.store_rebases",
    "outbox migrate": "publishing.outbox_migrate",
    "outbox relay": "publishing.outbox_relay",
    "outbox status": "publishing.outbox_status",
    "outbox retry": "publishing.outbox_retry",
    "doctor": "doctor.looking.doctor",
    "health": "serving.health",
    "config show": "installation.config_show",
}
"""The function of each, below this package."""
GROUPS: Final = {
    "timers": "Armed timers, the earliest first; or an act on one of them.",
    "dlq": "Dead letters, which no saga can take, and records that wait for their saga.",
    "topics": "The application's contracts, and the lock file of their schemas.",
    "contract": "Sagas that are written as contract graphs.",
    "store": "The tables of the store, and where it stands on the bus.",
    "outbox": "Events that a program adds within its own transactions.",
    "config": "The settings.",
}


def program(word: str | None = None) -> typer.Typer:
    """The whole program, or as much as a call needs that begins with *word*."""
    made = _typer("saga", HELP)
    made.callback()(_options)
    groups: dict[str, typer.Typer] = {}
    for name in _begun_with(word) or COMMANDS:
        group, _, own_name = name.rpartition(" ")
        if not group and own_name in GROUPS:
            groups[own_name] = _typer(own_name, GROUPS[own_name])
            groups[own_name].info.no_args_is_help = False
            made.add_typer(groups[own_name])
            register(groups[own_name], None, _function(name))
            continue
        if not group:
            register(made, own_name, _function(name))
            continue
        if group not in groups:
            groups[group] = _typer(group, GROUPS[group])
            made.add_typer(groups[group])
        register(groups[group], own_name, _function(name))
    return made


def _begun_with(word: str | None) -> list[str]:
    return [name for name in COMMANDS if name.partition(" ")[0] == word]


def _function(name: str) -> Callable[..., Any]:
    module, _, function = COMMANDS[name].rpartition(".")
    found: Callable[..., Any] = getattr(
        importlib.import_module(f"saga.console.cli.{module}"), function
    )
    return found


def _typer(name: str, text: str) -> typer.Typer:
    return typer.Typer(
        name=name,
        help=text,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def _print_version(is_asked: bool) -> None:  # noqa: FBT001  # typer calls it
    if is_asked:
        typer.echo(f"saga {version('saga')}, Python {platform.python_version()}")
        raise typer.Exit


def _options(
    *,
    _: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Say which saga."),
    ] = False,
) -> None:
    pass
