"""What handlers emit: events that leave at once, and intents that wait for a node to take them.

A handler is called in the turn of its event and again in each replay, so it is secluded as the
function of a saga is.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from pydantic import BaseModel

from saga.authoring.graphs.output import Output
from saga.authoring.graphs.plan import Graph
from saga.authoring.messages import not_known
from saga.authoring.seclusion import secluded
from saga.authoring.source import place_of
from saga.contracts import ContractRegistry, Event, Intent, contract_of
from saga.errors import DefinitionError, OrchestratorOutputError


class Emitted:
    """The intents of one saga that no node has taken yet."""

    __slots__ = ("_graph", "_registry", "intents")

    def __init__(self, graph: Graph, registry: ContractRegistry) -> None:
        self._graph = graph
        self._registry = registry
        self.intents: list[Intent[Any]] = []

    def hear(self, event: BaseModel, ahead: Sequence[frozenset[str]]) -> Sequence[Event]:
        """Call the handler of *event*; gives what is published, and keeps the intents.

        *ahead*: what the nodes take that have not begun.

        Raises:
            DefinitionError: it emits what the contract does not publish or route, or what is no
                `Output`; the saga parks.
        """
        handler = self._graph.handlers.get(type(event))
        if handler is None:
            return ()
        with secluded():
            output: object = handler(event)
        where = place_of(handler)
        if not isinstance(output, Output):
            raise OrchestratorOutputError(type(output).__name__, where=where)
        for published in output.events:
            self._check(published, self._graph.publishes, "published_events", where)
        for intent in output.intents:
            self._check(intent, self._graph.issues, "intent_routing_table", where)
            name = contract_of(intent).contract_name
            if not any(name in takes for takes in ahead):
                raise DefinitionError(
                    f"a handler emits {name}, and no node that is still to begin has an "
                    f"`intent_filter` that takes it",
                    where=where,
                )
            self.intents.append(intent)
        return output.events

    def take(self, takes: frozenset[str]) -> list[Intent[Any]]:
        """The intents that a node takes, in the order in which they were emitted."""
        taken: list[Intent[Any]] = []
        left: list[Intent[Any]] = []
        for intent in self.intents:
            is_taken = contract_of(intent).contract_name in takes
            (taken if is_taken else left).append(intent)
        self.intents = left
        return taken

    def _check(
        self, emitted: BaseModel, allowed: Collection[str] | None, key: str, where: str
    ) -> None:
        contract = contract_of(emitted)
        name = contract.contract_name
        if allowed is not None and name not in allowed:
            raise DefinitionError(
                f"a handler emits {name}, which is not in {key} of {self._graph.file}", where=where
            )
        if name not in self._registry:
            raise not_known(contract)
