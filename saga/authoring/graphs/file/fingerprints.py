"""The one text of all spellings of a contract: what it does, and nothing for people only."""

from __future__ import annotations

from typing import Any, Final

import orjson

from saga.authoring.graphs import expressions as ex
from saga.authoring.graphs.file import format as form
from saga.authoring.graphs.file.shaping import Shaped
from saga.authoring.graphs.plan import Graph

_HEAD: Final = (
    *("parallel_undo", "when_stuck", "coordination_rules", "signals", "published_events"),
    "intent_routing_table",
)
_EXPRESSIONS: Final = frozenset({"when", "for_each", "where"})
_TEMPLATES: Final = "with"


def canonical_contract(shaped: Shaped, graph: Graph) -> str:
    """Canonical JSON: wrappers resolved, defaults filled, contracts by their whole names."""
    head = shaped.head
    document: dict[str, Any] = {
        "name": shaped.name,
        "version": shaped.version,
        "deadline": shaped.deadline,
        "outcome": _outgoing(head.outcome),
        "rolled_back": _outgoing(head.rolled_back),
        "nodes": [_node(each.node) for each in shaped.nodes],
        "contracts": sorted(_contracts(graph)),
    }
    dumped = head.model_dump(mode="json", by_alias=True)
    document |= {key: dumped[key] for key in _HEAD}
    return orjson.dumps(document, option=orjson.OPT_SORT_KEYS).decode()


def _contracts(graph: Graph) -> list[str]:
    """What the names of the file have come to mean, node by node."""
    return [f"{number} {name}" for number, name in graph.contract_names()]


def _node(node: form.Node) -> dict[str, Any]:
    said = node.model_dump(mode="json", by_alias=True, exclude={"description", "node_type"})
    for key in _EXPRESSIONS:
        said[key] = _expression(said[key])
    if said["set"] is not None:
        said["set"] = {name: _expression(text) for name, text in said["set"].items()}
    if said["require"] is not None:
        said["require"]["that"] = _expression(said["require"]["that"])
    said[_TEMPLATES] = _values(said[_TEMPLATES])
    undo = said["undo"]
    said["undo"] = {"intent": undo, "with": {}} if isinstance(undo, str) else undo
    if said["undo"] is not None:
        said["undo"]["with"] = _values(said["undo"]["with"])
    return said


def _outgoing(spec: str | form.Outgoing | None) -> dict[str, Any] | None:
    if spec is None:
        return None
    said = form.Outgoing(event=spec) if isinstance(spec, str) else spec
    return {"event": said.event, "with": _values(said.with_)}


def _expression(text: str | None) -> str | None:
    return None if text is None else ex.canonical(ex.parse(text))


def _values(value: Any) -> Any:
    match value:
        case str():
            return ex.canonical(ex.parse_template(value))
        case list():
            return [_values(each) for each in value]
        case dict():
            return {name: _values(each) for name, each in value.items()}
    return value
