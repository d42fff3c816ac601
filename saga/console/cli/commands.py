"""How a function becomes a command of typer: it gets options for settings and `--json` on top.

A command function takes a `Session` first; a dataclass among its arguments stands for its fields.
It may be async, and returns its exit code or None. Errors end here, as a sentence and a code.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from functools import partial
from inspect import Parameter
from typing import Annotated, Any, Final, TypeGuard

import typer

from saga.console.cli import logs
from saga.console.cli.output import ExitCode, Printer, report
from saga.console.cli.session import Session
from saga.settings import Settings

Id = Annotated[str, typer.Argument(metavar="ID", help="A saga id, or definition/key.")]
Limit = Annotated[int, typer.Option("--limit", metavar="N", min=1, help="How many at most.")]
DefinitionName = Annotated[
    str | None, typer.Option("--definition", metavar="NAME", help="Only sagas of this name.")
]

PANEL: Final = "Settings (each also as an environment variable SAGA_…)"
INTERRUPTED: Final = 130


def _setting(flag: str, name: str, metavar: str) -> Any:
    description = Settings.model_fields[name].description
    option = typer.Option(flag, help=description, metavar=metavar, rich_help_panel=PANEL)
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
    _, *own = _parameters_of(function)
    shared = {each.name: each.annotation for each in own if _is_shared(each.annotation)}
    parameters: list[Parameter] = []
    for each in own:
        parameters += _parameters_of(shared[each.name]) if each.name in shared else [each]
    parameters.append(_keyword("is_json", default=False, annotation=JSON_OPTION))
    parameters += [_keyword(each, default=None, annotation=SETTINGS[each]) for each in settings]

    def command(**given: Any) -> None:
        chosen = {setting: given.pop(setting) for setting in settings}
        is_json = given.pop("is_json")
        for argument, options in shared.items():
            fields = {each.name: given.pop(each.name) for each in _parameters_of(options)}
            given[argument] = options(**fields)
        raise typer.Exit(call(function, given, is_json=is_json, settings=chosen))

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
    command.__doc__ = inspect.getdoc(function)
    program.command(name)(command)


def _is_shared(annotation: object) -> TypeGuard[type]:
    return isinstance(annotation, type) and is_dataclass(annotation)


_keyword: Final = partial(Parameter, kind=Parameter.KEYWORD_ONLY)


def _parameters_of(function: Callable[..., Any]) -> list[Parameter]:
    signature = inspect.signature(function, eval_str=True)
    return [each.replace(kind=Parameter.KEYWORD_ONLY) for each in signature.parameters.values()]


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
