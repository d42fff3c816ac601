"""How a function becomes a command of typer: it gets options for settings and `--json` on top.

A command function takes a `Session` first, then its own arguments as typer knows them. It may be
async, and returns its exit code or None. Errors end here, as a sentence and an exit code.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

import typer

from saga.console.cli import logs
from saga.console.cli.output import ExitCode, Printer, report
from saga.console.cli.session import Session
from saga.settings import Settings

PANEL: Final = "Settings (each also as an environment variable SAGA_…)"
INTERRUPTED: Final = 130


def _setting(flag: str, name: str, metavar: str) -> Any:
    description = Settings.model_fields[name].description
    option = typer.Option(
        flag, help=description, metavar=metavar, rich_help_panel=PANEL, show_default=False
    )
    return Annotated[str | None, option]


SETTINGS: Final[dict[str, Any]] = {
    "app": _setting("--app", "app", "MODULE:NAME"),
    "bus": _setting("--bus", "bus", "ADDRESS"),
    "store": _setting("--store", "store", "ADDRESS"),
    "effects_store": _setting("--effects-store", "effects_store", "ADDRESS"),
    "env": _setting("--env", "env", "NAME"),
    "namespace": _setting("--namespace", "namespace", "NAME"),
    "log": _setting("--log", "log", "LEVEL"),
}
JSON_OPTION: Final = Annotated[
    bool, typer.Option("--json", help="Print JSON, one object a line, on standard output.")
]


def register(
    program: typer.Typer,
    name: str,
    function: Callable[..., Any],
    *,
    settings: Sequence[str] = tuple(SETTINGS),
) -> None:
    """Make *function* the command *name* of *program*."""
    _, *own = inspect.signature(function, eval_str=True).parameters.values()
    keyword_only = inspect.Parameter.KEYWORD_ONLY
    parameters = [parameter.replace(kind=keyword_only) for parameter in own]
    parameters.append(
        inspect.Parameter("is_json", keyword_only, default=False, annotation=JSON_OPTION)
    )
    parameters += [
        inspect.Parameter(setting, keyword_only, default=None, annotation=SETTINGS[setting])
        for setting in settings
    ]

    def command(**given: Any) -> None:
        chosen = {setting: given.pop(setting) for setting in settings}
        raise typer.Exit(call(function, given, is_json=given.pop("is_json"), settings=chosen))

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
    command.__doc__ = inspect.getdoc(function)
    program.command(name)(command)


def call(
    function: Callable[..., Any],
    arguments: dict[str, Any],
    *,
    is_json: bool,
    settings: dict[str, Any],
) -> int:
    """Call a command function; gives the exit code."""
    printer = Printer(is_json=is_json)
    try:
        read = Settings.read(**settings)
        logs.configure(read.log)
        result = function(Session(read, printer), **arguments)
        if inspect.iscoroutine(result):
            result = asyncio.run(result)
        printer.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has seen enough, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.NOT_SO
    except Exception as error:  # noqa: BLE001  # the edge: every error becomes a sentence here
        return report(error, printer)
    return int(result or ExitCode.OK)
