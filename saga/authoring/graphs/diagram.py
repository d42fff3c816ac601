"""A contract graph as Mermaid draws it: nodes by kind, conditions on edges, undos in brackets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from saga.authoring.graphs.checking.wiring import action_of, is_trigger
from saga.authoring.graphs.file import format as form
from saga.authoring.graphs.file.shaping import Shaped

TEXT_CHARS_MAX: Final = 60
_SHAPES: Final = {
    "intent": ("[", "]"),
    "intent_filter": ("[", "]"),
    "event_pattern": ("([", "])"),
    "signal": (">", "]"),
    "sleep": ("((", "))"),
    "child": ("[[", "]]"),
    "set": ("[/", "/]"),
    "require": ("{", "}"),
    None: ("(", ")"),
}


def mermaid(shaped: Shaped) -> str:
    """A `flowchart TD` of the nodes; what a handler emits is said at its node."""
    return "\n".join(_lines(shaped)) + "\n"


def _lines(shaped: Shaped) -> Iterator[str]:
    yield "flowchart TD"
    handlers = _handlers(shaped)
    for each in shaped.nodes:
        before, after = _SHAPES[action_of(each.node)]
        yield f'    {each.node.node_id}{before}"{_text(each.node, handlers)}"{after}'
    for each in shaped.nodes:
        node = each.node
        condition = "" if node.when is None else f'|"{_escaped(node.when)}"|'
        for name in node.depends_on:
            yield f"    {name} -->{condition} {node.node_id}"
        if node.on_failure == "continue":
            yield f"    {node.node_id} -. failed .-> {node.node_id}_null((null))"
    head = shaped.head
    for key, spec in (("outcome", head.outcome), ("rolled_back", head.rolled_back)):
        if spec is not None:
            event = spec.event if isinstance(spec, form.Outgoing) else spec
            yield f'    {key}__(["{key}: {_escaped(event)}"])'
    for name in _ends(shaped) if head.outcome is not None else ():
        yield f"    {name} --> outcome__"


def _ends(shaped: Shaped) -> list[str]:
    """The nodes that no other one depends on."""
    needed = {name for each in shaped.nodes for name in each.node.depends_on}
    return [each.node.node_id for each in shaped.nodes if each.node.node_id not in needed]


def _handlers(shaped: Shaped) -> list[str]:
    routing = shaped.head.handler_routing
    return [] if routing is None else [each.handler.name for each in routing.handlers]


def _text(node: form.Node, handlers: list[str]) -> str:
    does = _does(node)
    parts = [node.node_id, *([does] if does else [])]
    if node.for_each is not None:
        parts.append(f"for each of {node.for_each}")
    if node.undo is not None:
        undo = node.undo.intent if isinstance(node.undo, form.Undo) else node.undo
        parts.append(f"[undo {undo}]")
    if node.kind is not None:
        parts.append(node.kind)
    if node.intent_filter is not None and handlers:
        parts.append(f"emitted by {' or '.join(handlers)}")
    return "<br/>".join(map(_escaped, parts))


def _does(node: form.Node) -> str:
    match action_of(node):
        case "intent":
            return str(node.intent)
        case "intent_filter":
            return f"intents {node.intent_filter}"
        case "event_pattern":
            events = ", ".join(node.event_pattern or ())
            return f"starts on {events}" if is_trigger(node) else f"next {events}"
        case "signal":
            return f"signal {node.signal}"
        case "sleep":
            return f"sleep {node.sleep}"
        case "child":
            return f"child {node.child}"
        case "set":
            return ", ".join(f"{name} = {text}" for name, text in (node.set_ or {}).items())
        case "require":
            return "" if node.require is None else f"require {node.require.that}"
    return ""


def _escaped(text: str) -> str:
    """A text that Mermaid takes for nothing else."""
    short = text if len(text) <= TEXT_CHARS_MAX else f"{text[: TEXT_CHARS_MAX - 1]}…"
    entities = {'"': "#quot;", "<": "#lt;", ">": "#gt;", "&": "#amp;", "#": "#35;", "\n": " "}
    return "".join(entities.get(each, each) for each in short)
