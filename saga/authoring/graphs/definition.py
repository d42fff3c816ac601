"""`contract(…)` reads a file; with the contracts of an application it becomes a definition.

Names are found in three places: the classes of the application, those that handlers name, and what
the file itself declares under `messages`; then in a lock file. Nothing that a file names is
imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel
from typing_extensions import override

from saga.authoring.declaration import Declaration, Surroundings, declared
from saga.authoring.definition import SagaDefinition, Services
from saga.authoring.determinism import warned_of
from saga.authoring.graphs.checking.assembling import Assembled, assembled, checked_alone
from saga.authoring.graphs.checking.library import Library
from saga.authoring.graphs.diagram import mermaid
from saga.authoring.graphs.file.fingerprints import canonical_contract
from saga.authoring.graphs.file.mistakes import START, Mistake, MistakeCode, in_order, told
from saga.authoring.graphs.file.reading import bytes_of, read
from saga.authoring.graphs.file.shaping import Shaped, shaped
from saga.authoring.graphs.handlers import EventHandler, handlers_of
from saga.authoring.graphs.plan import Child, Graph
from saga.authoring.graphs.program import GraphProgram
from saga.authoring.source import fingerprint
from saga.contracts import ContractModel, Event, contract_of, is_contract
from saga.core.identity import SagaId
from saga.core.program import Program
from saga.core.values import value
from saga.errors import ContractFileError, OrchestratorOutputError

_LEFT_TO_RESOLVE: Final = ContextVar("mistakes are left to resolve", default=False)


@value(kw_only=True)
class GraphDefinition(Declaration):
    """A kind of saga written as a contract graph, with the contracts of its application."""

    graph: Graph = field(repr=False)
    handlers: tuple[EventHandler, ...] = field(default=(), repr=False)
    models: frozenset[type[ContractModel]] = field(default=frozenset(), repr=False)
    drawing: str = field(default="", repr=False)

    @override
    def diagram(self) -> str | None:
        return self.drawing

    @property
    @override
    def has_children(self) -> bool:
        return any(isinstance(node.action, Child) for node in self.graph.nodes)

    @override
    def told_by(self) -> tuple[object, ...]:
        return (GraphProgram, *self.models)

    @property
    @override
    def code(self) -> tuple[Callable[..., Any], ...]:
        return tuple(each.source for each in self.handlers)

    @override
    def named(self) -> frozenset[type]:
        return frozenset(self.models).union(*(each.names() for each in self.handlers))

    @override
    def program(self, around: Surroundings, saga_id: SagaId, key: str, run: int) -> Program:
        return GraphProgram(self.graph, around, run)


class ContractGraph:
    """A contract file that was read, before it is known which contracts its names mean.

    Give it to `SagaApp(sagas=[…])`, which resolves it.
    """

    def __init__(self, file: str, data: bytes, handlers: Iterable[object] = ()) -> None:
        self.file = file
        self.handlers = handlers_of(handlers)
        found = understood(file, data)
        if not _LEFT_TO_RESOLVE.get() and (mistakes := checked_alone(found)):
            raise refusal(file, mistakes)
        self._shaped = found

    @property
    def name(self) -> str:
        return self._shaped.name

    @property
    def version(self) -> int:
        return self._shaped.version

    def contracts(self) -> frozenset[type]:
        """The classes that its handlers name."""
        events = frozenset[type](each.event for each in self.handlers)
        return events.union(*(each.names() for each in self.handlers))

    def resolve(
        self,
        models: Iterable[type[ContractModel]],
        services: Services | None = None,
        spare: Iterable[type[ContractModel]] = (),
    ) -> SagaDefinition:
        """The definition, where its names mean what an application has.

        Args:
            models: the contracts of the application.
            services: its effect services, and which intents each handles.
            spare: contracts that are known beside. One is meant only where no contract of the
                application, nor of the file's own `messages`, has that name.

        Raises:
            ContractFileError: a name or type is wrong; has all mistakes of the file.
        """
        handled = filter(is_contract, self.contracts())
        library = Library([*models, *handled], spare)
        graph = assembled(self._shaped, self.file, library, self.handlers, services)
        if graph.graph is None:
            raise refusal(self.file, graph.mistakes)
        return _defined(self._shaped, self.file, graph, graph.graph, self.handlers)


@contextmanager
def all_mistakes_at_once() -> Iterator[None]:
    """Leave mistakes that `contract` would raise to `resolve`, which finds these and all others."""
    token = _LEFT_TO_RESOLVE.set(True)
    try:
        yield
    finally:
        _LEFT_TO_RESOLVE.reset(token)


def contract(file: str | Path, *, handlers: Iterable[object] = ()) -> ContractGraph:
    """Read a saga that is written as a contract graph.

    Args:
        file: its YAML; a relative path is relative to the working directory.
        handlers: functions `(event) -> Output`, or objects with such a method `handle`: each is
            called with the events of its class.

    Raises:
        ContractFileError: the file has mistakes; its text has a line for each.
        OrchestratorOutputError: among them is a `result`, which no orchestrator has.
        DefinitionError: a handler cannot be called with an event.
    """
    path = Path(file)
    return ContractGraph(str(path), _bytes_of(path), handlers)


def check_file(
    file: str,
    data: bytes,
    models: Iterable[type[ContractModel]],
    *,
    spare: Iterable[type[ContractModel]] = (),
    handlers: tuple[EventHandler, ...] | None = None,
    services: Services | None = None,
) -> tuple[Shaped | None, list[Mistake]]:
    """All that is wrong with a file, in order, and what was understood of it.

    *spare* is that of `ContractGraph.resolve`. *handlers* and *services* are None where it is not
    known which there are.
    """
    found = read_contract(data)
    if not isinstance(found, Shaped):
        return None, in_order(found)
    graph = assembled(found, file, Library(models, spare), handlers, services)
    return found, in_order(graph.mistakes)


def understood(file: str, data: bytes) -> Shaped:
    """A file as far as it can be understood; ContractFileError where it cannot at all."""
    found = read_contract(data)
    if isinstance(found, Shaped):
        return found
    raise refusal(file, found)


def read_contract(data: bytes) -> Shaped | tuple[Mistake, ...]:
    """What a file says, with its mistakes of form; these alone where nothing can be made of it."""
    tree = read(data)
    if tree.root is None:
        return tree.mistakes
    found = shaped(tree.root)
    if isinstance(found, Shaped):
        return replace(found, mistakes=(*tree.mistakes, *found.mistakes))
    return (*tree.mistakes, *found)


def refusal(file: str, mistakes: Iterable[Mistake]) -> ContractFileError:
    """The error that says them all."""
    found = in_order(mistakes)
    text = "\n".join(told(file, found))
    results = (each for each in found if each.code is MistakeCode.NO_RESULT)
    result = next(results, None)
    if result is None:
        error = ContractFileError(text, where=file)
    else:
        error = OrchestratorOutputError(result.message.split("`")[1], text, where=file)
    error.mistakes = tuple(found)
    return error


def _bytes_of(path: Path) -> bytes:
    try:
        return bytes_of(path)
    except OSError as error:
        message = f"the file cannot be read: {error.strerror or error}"
        mistake = Mistake(START, message, MistakeCode.UNREADABLE)
        raise refusal(str(path), [mistake]) from None


def _defined(
    shaped: Shaped,
    file: str,
    graph: Assembled,
    plan: Graph,
    handlers: tuple[EventHandler, ...],
) -> GraphDefinition:
    head = shaped.head
    line = next((each.place.line for each in shaped.nodes), 1)
    says = declared(
        shaped.name,
        version=shaped.version,
        starts_on=graph.starts_on,
        key=_key(graph.keys),
        listens=graph.listens,
        rolled_back=None,
        parallel_undo=head.parallel_undo,
        when_stuck=head.when_stuck,
        deadline=shaped.deadline,
        where=f"{file}:{line}",
        by="the node",
    )
    nondeterminism = [
        found for each in handlers for found in warned_of(shaped.name, each.source, None)
    ]
    return GraphDefinition(
        **says,
        graph=plan,
        handlers=handlers,
        models=graph.contracts,
        drawing=mermaid(shaped),
        fingerprint=_fingerprint(shaped, plan, handlers),
        nondeterminism=tuple(nondeterminism),
    )


def _key(keys: Mapping[type[Event], str | None]) -> Any:
    """The key of the saga, as its trigger has it."""
    different = set(keys.values())
    if len(different) <= 1:
        return next(iter(different), None)

    def key_of(trigger: BaseModel) -> object:
        field_name = keys[type(trigger)] or contract_of(trigger).key  # type: ignore[index]  # a trigger is one of these
        return getattr(trigger, str(field_name))

    return key_of


def _fingerprint(shaped: Shaped, graph: Graph, handlers: Iterable[EventHandler]) -> str:
    """A hash of what the contract says, whatever its layout, and of its handlers' syntax trees."""
    parts = [canonical_contract(shaped, graph), *(fingerprint(each.source) for each in handlers)]
    return sha256("\n".join(parts).encode()).hexdigest()[:16]
