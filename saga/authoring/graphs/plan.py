"""A contract graph, checked and ready to run: what the program walks, and nothing that it checks.

Nodes know each other by their place in the file. What is said of them in names and texts has become
classes and syntax trees here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from typing import Any

from pydantic import BaseModel, JsonValue, TypeAdapter

from saga.authoring.graphs import expressions as ex
from saga.authoring.graphs.output import Output
from saga.authoring.steps import StepKindName
from saga.contracts import ContractModel, Event, contract_of
from saga.core.retry import Retry
from saga.core.values import value

Handler = Callable[[Any], Output]


@value
class Computed:
    """A text of a `with`: a template of which at least a part is an expression."""

    template: ex.Template


@value
class Members:
    members: tuple[tuple[str, Given], ...]


@value
class Items:
    items: tuple[Given, ...]


@value
class Plain:
    value: JsonValue


Given = Computed | Members | Items | Plain


@value
class Filling:
    """A message: its fields by name, and over them what is *given*, by the names in its JSON."""

    model: type[ContractModel]
    given: tuple[tuple[str, Given], ...] = ()


@value(kw_only=True)
class Policy:
    """What a step is to the kernel."""

    kind: StepKindName | None
    retry: Retry | None
    undo_retry: Retry | None
    timeout: str | None
    undo: Filling | None


@value
class Trigger:
    """What starts the saga."""

    events: tuple[type[Event], ...]


@value
class NextEvent:
    """Waits for an event of other services."""

    events: tuple[type[Event], ...]
    contracts: tuple[str, ...]
    selects: bool
    """Whether it has to be asked which one it takes."""
    where: ex.Node | None
    timeout_us: int | None
    name: str
    """What a timeout says was waited for."""


@value
class WaitSignal:
    name: str
    adapter: TypeAdapter[Any]
    timeout_us: int | None


@value
class Sleep:
    length_us: int


@value
class Issue:
    """Issues an intent, once or for each item."""

    filling: Filling
    policy: Policy


@value
class IssueEmitted:
    """Issues those intents that handlers have emitted and it *takes*."""

    takes: frozenset[str]
    policies: Mapping[str, Policy] = field(hash=False)
    """By contract: an undo fits some intents and others not."""


@value
class Child:
    """Runs another saga, once or for each item."""

    filling: Filling
    timeout: str | None


@value
class Compute:
    values: tuple[tuple[str, ex.Node], ...]


@value
class Require:
    that: ex.Node
    code: str
    message: str


@value
class Join:
    """Does nothing, once those that it depends on are through."""


Action = (
    Trigger
    | NextEvent
    | WaitSignal
    | Sleep
    | Issue
    | IssueEmitted
    | Child
    | Compute
    | Require
    | Join
)


@value(kw_only=True)
class Each:
    """How a node is done for each item of a list."""

    items: ex.Node
    name: str | None
    at_once: int | None
    fails_fast: bool


@value(kw_only=True)
class GraphNode:
    id: str
    line: int
    depends_on: tuple[int, ...]
    before: frozenset[int]
    """All nodes behind it, near or far."""
    action: Action
    when: ex.Node | None = None
    each: Each | None = None
    continues: bool = False
    """A failure of it is a null result, and no failure of the saga."""


@value(kw_only=True)
class Graph:
    """*reads*: the nodes whose results some expression uses."""

    file: str
    nodes: tuple[GraphNode, ...]
    is_sequential: bool
    halts: bool
    """A failed step parks the saga instead of rolling it back."""
    outcome: Filling | None
    rolled_back: Filling | None
    handlers: Mapping[type[BaseModel], Handler] = field(hash=False)
    waits: frozenset[int]
    """The nodes that wait for something that arrives."""
    behind: tuple[tuple[int, ...], ...] = field(repr=False)
    """By node: those that depend on it."""
    reads: frozenset[int]
    publishes: frozenset[str] | None
    """The only events that may leave; None: any."""
    issues: frozenset[str] | None
    """The only intents that may leave; None: any."""

    def contract_names(self) -> Iterator[tuple[str, str]]:
        """Which contracts each node knows, by the names of all their versions."""
        for node in self.nodes:
            for model in models_of(node.action):
                yield node.id, contract_of(model).contract_name
        for key, filling in (("outcome", self.outcome), ("rolled_back", self.rolled_back)):
            if filling is not None:
                yield f"/{key}", contract_of(filling.model).contract_name


def models_of(action: Action) -> tuple[type[ContractModel], ...]:
    """The contracts that an action names, its undo's last."""
    match action:
        case Trigger(events=events) | NextEvent(events=events):
            return events
        case Issue(filling=filling, policy=policy):
            undo = () if policy.undo is None else (policy.undo.model,)
            return (filling.model, *undo)
        case IssueEmitted(policies=policies):
            undos = (each.undo.model for each in policies.values() if each.undo is not None)
            return tuple(undos)
        case Child(filling=filling):
            return (filling.model,)
    return ()
