"""What a command gets: its settings, its printer, and ways to the application, store and bus.

Commands that only read make no files. Those that act send through the bus, so that they work beside
any number of workers on the same store.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Final, Protocol, TypeVar

from saga.adapters.opening import (
    OpenedStore,
    open_bus,
    open_bus_and_store,
    open_store,
    refuse_stores_of_others,
)
from saga.application import Application
from saga.authoring.registry import SagaRegistry
from saga.console.cli.output import AppRefused, NotSo, Printer, command_line
from saga.contracts import Command, CommandAct
from saga.core.events import MarkedAs
from saga.core.history import Entry
from saga.core.identity import SagaId, saga_named
from saga.errors import ContractFileError, CorruptHistory, DefinitionError, StoreUnavailable
from saga.ports import SagaSummary, TopicSpec
from saga.publishing.writer import EventWriter
from saga.runtime.publisher import Publisher
from saga.runtime.trial import PossibleAct
from saga.settings import Settings, file_of, is_contract_file, python_file_of
from saga.users_code import raised_at

GC_THRESHOLDS: Final = (50_000, 20, 50)
_TYPEABLE: Final = re.compile(r"[\w][\w ./:@+,=-]{0,200}")
_REASONS: Final = {
    CommandAct.RELEASE: "the cause is mended",
    CommandAct.RETRY: "the cause is mended",
    CommandAct.SKIP: "nobody can undo it",
    CommandAct.COMPENSATE: "it is to be undone",
    CommandAct.ABANDON: "nothing else helps",
}
_ADVICE: Final = "run saga where it is, or name another one with --app or SAGA_APP"


class Closable(Protocol):
    @property
    def close(self) -> Callable[[], Awaitable[None]]: ...


C = TypeVar("C", bound=Closable)


@asynccontextmanager
async def closing(opened: C) -> AsyncIterator[C]:
    try:
        yield opened
    finally:
        await opened.close()


@dataclass
class Session:
    settings: Settings
    printer: Printer

    @cached_property
    def app(self) -> Application:
        """The application; AppRefused where it cannot be loaded."""
        return load_app(self.settings.app)

    @property
    def sagas(self) -> SagaRegistry | None:
        """The application's sagas; None where it cannot be loaded."""
        try:
            return self.app.registry
        except AppRefused:
            return None

    @asynccontextmanager
    async def reading(self, *, to_act: bool = False) -> AsyncIterator[OpenedStore]:
        """The store, for questions; it may be one that this user cannot write.

        *to_act* on what is found there, it has to serve this environment and namespace.
        """
        must_exist(self.settings.store, "store")
        if to_act:
            await asyncio.to_thread(refuse_stores_of_others, self.settings)
        async with closing(open_store(self.settings, is_to_write=False)) as store:
            yield store

    @asynccontextmanager
    async def publishing(self) -> AsyncIterator[Publisher]:
        """The publisher of the application, whose missing topics are made; it needs no store."""
        app, settings = self.app, self.settings
        topics = app.topic_specs(settings)
        writer = EventWriter.of(settings, contracts=app.contracts, sagas=app.registry)
        opening = open_bus_and_store if settings.is_one_file else open_bus
        async with closing(opening(settings)) as opened:
            await opened.bus.create_topics(topics)
            yield Publisher(opened.bus, writer)

    async def send(self, command: Command, *, key: str) -> None:
        """Put *command* to the saga of *key* on the bus; the application is not needed for it."""
        settings = self.settings
        must_exist(settings.bus, "bus")
        record = EventWriter.of(settings).command(command, key=key)
        topic = TopicSpec(record.topic, settings.partitions, settings.retention_s)
        async with closing(open_bus(settings)) as opened:
            await opened.bus.create_topics([topic])
            await opened.bus.publish([record])


def is_there(address: str) -> bool:
    """Whether *address* names a server, or a file that exists."""
    return not address.startswith(("sqlite:", "local:")) or Path(file_of(address)).exists()


def must_exist(address: str, what: str) -> None:
    """Raise StoreUnavailable where *address* names a file that is not there."""
    if not is_there(address):
        raise StoreUnavailable(
            f"there is no {what} at {file_of(address)}: nothing has run there yet. Start with `saga"
            f" run`, publish something, or name another one with --{what} or SAGA_{what.upper()}"
        )


def saga_id_from(text: str) -> SagaId:
    """The saga that *text* means, a saga id or `definition/key`; NotSo where it is neither."""
    named = saga_named(text)
    if named is None:
        raise NotSo(
            f"{text!r} names no saga: give its id, or definition/key, for example order/4711"
        )
    return named


async def find_saga(store: OpenedStore, text: str) -> SagaSummary:
    """The summary of the saga that *text* means; NotSo where there is none."""
    summaries = await store.catalogue.summaries([saga_id_from(text)])
    if summaries.damaged:
        raise NotSo(f"saga {text}: {summaries.damaged[0]}")
    if not summaries:
        raise NotSo(f"there is no saga {text} (`saga ls` lists those that there are)")
    return summaries[0]


async def history_of(store: OpenedStore, saga: SagaId, *, is_whole: bool = True) -> list[Entry]:
    """The history of a saga that exists, or of its last run; CorruptHistory if it is unreadable."""
    history = (await store.store.load([saga], is_whole=is_whole)).get(saga, ())
    if isinstance(history, CorruptHistory):
        raise history
    return list(history)


def act_on(saga: SagaSummary, possible: PossibleAct) -> str:
    """The command for an act that is possible now, with a reason that may be said better."""
    return command_line(*words_of(saga, possible))


def words_of(saga: SagaSummary, possible: PossibleAct) -> list[str]:
    """The words of a command; what people have to say is written in capitals."""
    act, name, reason = possible.act, name_of(saga), _REASONS.get(possible.act, "REASON")
    words: list[str]
    match act:
        case CommandAct.FIRE_TIMER:
            words = ["timers", "fire", possible.timer or ""]
        case CommandAct.MOVE_TIMER:
            words = ["timers", "move", possible.timer or "", "--to", "TIME"]
        case CommandAct.MARK if possible.state is not None:
            words = ["mark", name, possible.step or "", possible.state.value]
            words += ["--evidence", "TEXT"]
            words += ["--reply", "JSON"] if possible.state is MarkedAs.DONE else []
        case CommandAct.RERUN:
            words = ["rerun", name, "--key", "KEY"]
        case _:
            words = [act.value, name, *([] if possible.step is None else [possible.step])]
    if possible.mode is not None:
        words += ["--mode", possible.mode.value]
    return [*words, "--reason", reason]


def name_of(saga: SagaSummary) -> str:
    """`definition/key` where one can type that, else the saga's id."""
    name = f"{saga.definition}/{saga.key}"
    return name if _TYPEABLE.fullmatch(name) else saga.saga_id


def load_app(name: str) -> Application:
    """The application `module:attribute`, importable from here; AppRefused says what is wrong.

    It may also be `path/file.py:attribute`, or the file of a contract graph.
    """
    if is_contract_file(name):
        return _of_file(name)
    file, attribute = python_file_of(name)
    module = _imported_file(file, name) if file else _imported(name.partition(":")[0], name)
    if not hasattr(module, attribute):
        raise AppRefused(f"app {name}: {_no_such(module, attribute)}")
    app = getattr(module, attribute)
    if not isinstance(app, Application):
        kind = type(app).__name__
        raise AppRefused(f"app {name}: {attribute} is no SagaApp but a {kind}; {_ADVICE}")
    return app


def _of_file(name: str) -> Application:
    try:
        # By name, as every application is loaded: only what assembles it knows the adapters.
        made: Application = importlib.import_module("saga.app").app_of_file(Path(name))
    except ContractFileError as error:
        raise AppRefused(str(error)) from error
    except DefinitionError as error:
        raise AppRefused(f"app {name}: {error}") from error
    return made


def _imported(module_name: str, name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever a module does when it is imported
        raise AppRefused(f"app {name}: {_why_not_imported(module_name, error)}") from error


def _imported_file(file: Path, name: str) -> ModuleType:
    """The module of *file*, as `python file.py` would import it from elsewhere: by its own name."""
    if not file.is_file():
        raise AppRefused(f"app {name}: there is no file {file} in {Path.cwd()}; {_ADVICE}")
    if "." in file.stem:
        raise AppRefused(
            f"app {name}: a dot in {file.stem!r} has Python look for a package: give the file a"
            " name without"
        )
    folder, parts = file.resolve().parent, [file.stem]
    while (folder / "__init__.py").is_file():
        folder, parts = folder.parent, [folder.name, *parts]
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    module = _imported(".".join(parts), name)
    if Path(module.__file__ or "").resolve() != file.resolve():
        raise AppRefused(
            f"app {name}: {module.__name__!r} is another module, at"
            f" {module.__file__ or 'no file'}: give the file a name of its own"
        )
    return module


def _why_not_imported(module_name: str, error: BaseException) -> str:
    match error:
        case DefinitionError():
            return str(error) if error.where else f"{_place(error)}: {error}"
        case ModuleNotFoundError(name=str(name)) if f"{module_name}.".startswith(f"{name}."):
            return f"there is no module {name!r} in {Path.cwd()}; {_ADVICE}"
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    kind = type(error).__name__
    return f"module {module_name!r} does not import: {_place(error)}: {kind}: {text}"


def _place(error: BaseException) -> str:
    """File and line of the mistake: the innermost frame in the user's own code."""
    return raised_at(error) or "nowhere in particular"


def _no_such(module: ModuleType, attribute: str) -> str:
    apps = [name for name, value in vars(module).items() if isinstance(value, Application)]
    near = apps or get_close_matches(attribute, vars(module), n=1)
    hint = f"did you mean {module.__name__}:{near[0]}?" if near else _ADVICE
    return f"module {module.__name__!r} has no {attribute!r}; {hint}"


def tune_gc() -> None:
    """Freeze modules and contracts, which full collections would walk again, and collect rarely."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
