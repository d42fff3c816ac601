"""How a function becomes a command of typer: it gets options for settings and `--json` on top.

A command function takes a `Session` first; a dataclass among its arguments stands for its fields.
It may be async, and returns its exit code or None. Arguments that no command could take are refused
here, once for all. Errors end here, as a sentence and a code.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from functools import partial
from inspect import Parameter
from typing import Annotated, Any, Final, TypeGuard

import typer
from typer.models import ArgumentInfo, OptionInfo

from saga.console.cli import logs
from saga.console.cli.output import INTERRUPTED, ExitCode, Misused, Printer, report
from saga.console.cli.session import Session
from saga.core.identity import ID_BYTES_MAX
from saga.core.texts import TEXT_CHARS_MAX
from saga.settings import Settings, redacted

Id = Annotated[str, typer.Argument(metavar="ID", help="A saga id, or definition/key.")]
Limit = Annotated[int, typer.Option("--limit", metavar="N", min=1, help="How many at most.")]
DefinitionName = Annotated[
    str | None, typer.Option("--definition", metavar="NAME", help="Only sagas of this name.")
]

PANEL: Final = "Settings (each also as an environment variable SAGA_…)"
NUMBER_MAX: Final = 2**63 - 1
IDS: Final = frozenset({"command_id", "actor", "name", "step"})
FREE_TEXTS: Final = {"reason": TEXT_CHARS_MAX, "payload": None}
"""How many characters an argument may have that is no name; a payload, what a record takes."""


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
    name: str | None,
    function: Callable[..., Any],
    *,
    settings: Sequence[str] = tuple(SETTINGS),
) -> None:
    """Make *function* a command; without a *name* it is what its group does by itself."""
    _, *own = _parameters_of(function)
    shared = {each.name: each.annotation for each in own if _is_shared(each.annotation)}
    parameters: list[Parameter] = []
    for each in own:
        parameters += _parameters_of(shared[each.name]) if each.name in shared else [each]
    flags = {each.name: _flag_of(each) for each in parameters}
    parameters.append(_keyword("is_json", default=False, annotation=JSON_OPTION))
    parameters += [_keyword(each, default=None, annotation=SETTINGS[each]) for each in settings]

    if name is None:
        parameters.append(_keyword("context", annotation=typer.Context))

    def command(**given: Any) -> None:
        context = given.pop("context", None)
        if context is not None and context.invoked_subcommand is not None:
            return
        chosen = {setting: given.pop(setting) for setting in settings}
        is_json = given.pop("is_json")
        problem = next(_problems(given, flags), None)
        for argument, options in shared.items():
            fields = {each.name: given.pop(each.name) for each in _parameters_of(options)}
            given[argument] = options(**fields)
        raise typer.Exit(call(function, given, is_json=is_json, settings=chosen, problem=problem))

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
    command.__doc__ = inspect.getdoc(function)
    if name is None:
        program.callback(invoke_without_command=True)(command)
    else:
        program.command(name)(command)


def _flag_of(parameter: Parameter) -> str:
    """What users call a parameter: `--reason`, or `ID`."""
    for about in getattr(parameter.annotation, "__metadata__", ()):
        if isinstance(about, OptionInfo):
            return str(about.default)  # typer's first argument, which the annotation makes the flag
        if isinstance(about, ArgumentInfo) and about.metavar:
            return str(about.metavar)
    return parameter.name


def _problems(given: Mapping[str, object], flags: Mapping[str, str]) -> Iterator[str]:
    """Why no command could take what is *given*: a sentence each."""
    for name, value in given.items():
        for each in value if isinstance(value, list) else [value]:
            if why := _why_impossible(name, each):
                yield f"{flags[name]}: {why}"


def _why_impossible(name: str, value: object) -> str | None:
    match value:
        case bool():
            return None
        case int() if not -NUMBER_MAX <= value <= NUMBER_MAX:
            return f"the number is too large: at most {NUMBER_MAX:,}"
        case float() if not math.isfinite(value):
            return f"{value} is no number to count with"
        case str() if not _is_utf8(value):
            return "this is no text in UTF-8"
        case str() if name not in FREE_TEXTS and len(value.encode()) > _bytes_max(name):
            return f"{len(value.encode()):,} bytes are too many: at most {_bytes_max(name):,}"
        case str() if len(value) > (FREE_TEXTS.get(name) or NUMBER_MAX):
            return f"{len(value):,} characters are too many: at most {FREE_TEXTS[name]:,}"
    return None


def _bytes_max(name: str) -> int:
    # A saga is named by definition and key, a timer by saga and place, files by whole paths.
    return ID_BYTES_MAX if name in IDS else 4 * ID_BYTES_MAX


def _is_utf8(text: str) -> bool:
    """Whether *text* came as UTF-8; bytes that were not are half surrogate pairs now."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _options(settings: Mapping[str, str | None]) -> list[str]:
    """The settings among *settings* that were given, as the words of a command, without secrets."""
    return [
        word
        for name, value in settings.items()
        if value is not None and redacted(value) == value
        for word in (f"--{name.replace('_', '-')}", value)
    ]


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
    problem: str | None = None,
) -> int:
    """Call a command function; gives the exit code. A *problem* is reported in its place."""
    printer = Printer(is_json=is_json, options=_options(settings))
    if problem is not None:
        return report(Misused(problem), printer)
    try:
        read = Settings.read(**settings)
        logs.configure(read.log)
        result = function(Session(read, printer), **arguments)
        if inspect.iscoroutine(result):
            with contextlib.closing(result) as main:  # also where no loop can be made
                result = asyncio.run(main)
        printer.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return ExitCode.NOT_SO  # the reader of our output has seen enough, as `head` does
    except Exception as error:  # noqa: BLE001  # the edge: every error becomes a sentence here
        return report(error, printer)
    return int(result or ExitCode.OK)
