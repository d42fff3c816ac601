"""Loads the application that `SAGA_APP` names, and says what is wrong where it cannot be loaded."""

from __future__ import annotations

import importlib
import sys
import sysconfig
import traceback
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

from saga.app import SagaApp
from saga.console.problems import AppRefused
from saga.errors import DefinitionError

_ENGINE = Path(__file__).parents[1]
_LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))
_ADVICE = "run saga where it is, or name another one with --app or SAGA_APP"


def load_app(name: str) -> SagaApp:
    """The application *name*, `module:attribute`; the working directory is on the import path.

    Raises:
        AppRefused: it does not import or is no application; names the place of the mistake.
    """
    module_name, _, attribute = name.partition(":")
    module = import_own(module_name, name)
    try:
        app = getattr(module, attribute)
    except AttributeError:
        raise AppRefused(f"app {name}: {_no_such(module, attribute)}") from None
    if not isinstance(app, SagaApp):
        kind = type(app).__name__
        raise AppRefused(f"app {name}: {attribute} is no SagaApp but a {kind}; {_ADVICE}")
    return app


def import_own(module_name: str, name: str) -> ModuleType:
    """The module *module_name* of the application *name*.

    Raises:
        AppRefused: it does not import.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(module_name)
    except DefinitionError as error:
        raise AppRefused(f"app {name}: {_located(error)}") from error
    except ModuleNotFoundError as error:
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            said = f"there is no module {error.name!r} in {here}; {_ADVICE}"
            raise AppRefused(f"app {name}: {said}") from error
        raise _does_not_import(module_name, name, error) from error
    except (Exception, SystemExit) as error:  # whatever a module does when it is imported
        raise _does_not_import(module_name, name, error) from error


def _does_not_import(module_name: str, name: str, error: BaseException) -> AppRefused:
    return AppRefused(
        f"app {name}: module {module_name!r} does not import: {_place(error)}: "
        f"{type(error).__name__}: {_message(error)}"
    )


def _located(error: DefinitionError) -> str:
    return str(error) if error.where else f"{_place(error)}: {error}"


def _message(error: BaseException) -> str:
    return error.msg if isinstance(error, SyntaxError) else str(error)


def _place(error: BaseException) -> str:
    """File and line of the mistake: the innermost frame that is neither ours nor a library's."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<") and _ENGINE not in Path(frame.filename).parents
    ]
    own = [frame for frame in frames if not frame.filename.startswith(_LIBRARIES)]
    found = (own or frames)[-1:]
    return f"{found[0].filename}:{found[0].lineno}" if found else "nowhere in particular"


def _no_such(module: ModuleType, attribute: str) -> str:
    apps = [name for name, value in vars(module).items() if isinstance(value, SagaApp)]
    near = apps or get_close_matches(attribute, vars(module), n=1)
    hint = f"; did you mean {module.__name__}:{near[0]}?" if near else f"; {_ADVICE}"
    return f"module {module.__name__!r} has no {attribute!r}{hint}"
