"""Graphs of any shape: nodes that depend on some of those before, written as a contract file.

A node is named by its number, and so are its steps; what one depends on is what its node is behind.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from hypothesis import strategies as st

from saga import Output
from saga.authoring.definition import SagaDefinition
from saga.authoring.graphs import ContractGraph
from tests.laws.contracts import CONTRACTS, SOON, Began, Make, Seen
from tests.laws.races import Races

ITEMS = ("x", "y", "z")
HALT = {"failure_recovery_strategy": "halt"}


@dataclass(frozen=True)
class Node:
    """One node; *does* names what, and the other fields count where they mean something."""

    does: str = "make"
    behind: tuple[int, ...] = ()
    has_undo: bool = False
    kind: str | None = None
    attempts: int = 1
    has_timeout: bool = False
    continues: bool = False
    unless: int | None = None
    """It is done where that node, of those it is behind, was skipped or has failed."""
    fails_fast: bool = False
    at_once: int | None = None
    is_picky: bool = False


@dataclass(frozen=True)
class Graph:
    """A description of a saga that is a graph."""

    nodes: tuple[Node, ...]
    items: int = 2
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def is_parallel(self) -> bool:
        return bool(dict(self.options).get("parallel_undo"))

    @property
    def continues_when_stuck(self) -> bool:
        return dict(self.options).get("when_stuck") == "continue"

    @property
    def halts(self) -> bool:
        return dict(self.options).get("coordination_rules") == HALT

    @property
    def races(self) -> Races:
        """None that its code decides: it has none."""
        return Races()

    def trigger(self) -> Began:
        return Began(items=list(ITEMS[: self.items]))

    def definition(self) -> SagaDefinition:
        return _resolved(self.text())

    def text(self) -> str:
        placed = {"node_id": "began", "event_pattern": ["began.*"]}
        head: dict[str, Any] = {"name": "law", "version": 1}
        if any(node.does == "signal" for node in self.nodes):
            head["signals"] = {"a": {"number": "int"}}
        head |= {name: each for name, each in self.options if each is not None}
        head |= {
            "outcome": {"event": "laws.ended", "with": {"said": "ended"}},
            "rolled_back": "laws.failed",
        }
        nodes = [written(node, number, self.nodes) for number, node in enumerate(self.nodes)]
        return json.dumps(head | {"nodes": [placed, *nodes]}, indent=1)

    def depends(self, step: str, settled: Sequence[str]) -> set[str]:
        before = self.behind(number_of(step))
        return {each for each in settled if number_of(each) in before}

    def behind(self, number: int) -> set[int]:
        """The nodes that one is behind, near and far."""
        near = self.nodes[number].behind
        return {*near}.union(*(self.behind(each) for each in near))


def number_of(step: str) -> int:
    """`n3-2` is the second step of the fourth node."""
    return int(step.split("-", maxsplit=1)[0].removeprefix("n"))


def written(node: Node, number: int, nodes: Sequence[Node]) -> dict[str, Any]:
    """A node as the file has it."""
    said: dict[str, Any] = {"node_id": f"n{number}"}
    said["depends_on"] = [f"n{each}" for each in node.behind] or ["began"]
    if node.unless is not None:
        said["when"] = f"n{node.unless} == null"
    if node.does in MADE:
        said["retry"] = {"attempts": node.attempts, "initial": "5s"}
        if node.does == "emitted":
            said["intent_filter"] = "laws.make.*"
        else:
            said["intent"] = "laws.make"
            said["with"] = {"place": f"n{number}", "said": said_by(node, nodes)}
        if node.has_undo:
            said |= {"undo": "laws.unmake", "undo_retry": {"attempts": 2, "initial": "5s"}}
        if node.kind is not None:
            said["kind"] = node.kind
    said |= _done_by(node, number)
    if node.has_timeout and node.does in MAY_FAIL:
        said["timeout"] = SOON
    if node.continues and node.does in MAY_FAIL:
        said["on_failure"] = "continue"
    return said


def _done_by(node: Node, number: int) -> dict[str, Any]:
    """What nodes of one sort have, that others have not."""
    match node.does:
        case "each":
            said: dict[str, Any] = {"for_each": "began.items", "as": "item"}
            said["with"] = {"place": "${item}", "said": "said"}
            said["fail"] = "fast" if node.fails_fast else "wait"
            return said if node.at_once is None else said | {"at_once": node.at_once}
        case "signal":
            return {"signal": "a"}
        case "event":
            picks = {"where": "event.number < 50"} if node.is_picky else {}
            return {"event_pattern": ["news.*"], **picks}
        case "children":
            key = f"n{number}-${{item}}"
            return {"for_each": "began.items", "as": "item", "child": "child.born"} | {
                "with": {"key": key},
                "fail": "fast" if node.fails_fast else "wait",
            }
        case "set":
            return {"set": {"value": "size(began.items)"}}
        case "sleep":
            return {"sleep": "7s"}
        case "child":
            return {"child": "child.born", "with": {"key": f"n{number}"}}
        case "require":
            that = f"n{node.behind[0]} != null"
            return {"require": {"that": that, "code": "given_up", "message": "given up"}}
    return {}


def said_by(node: Node, nodes: Sequence[Node]) -> str:
    """What is known of the numbers that the nodes before have made."""
    made = [f"${{n{each}.number}}" for each in node.behind if nodes[each].does == "make"]
    return " ".join(["said", *made])


def emits(began: Began) -> Output:
    """The handler of the trigger: makes each item, once a node takes what it asks for."""
    makes = [Make(place=item, said="emitted") for item in began.items]
    return Output(events=[Seen(place="handled")], intents=makes)


@lru_cache(maxsize=16)
def _resolved(text: str) -> SagaDefinition:
    handlers = [emits] if "intent_filter" in text else []
    return ContractGraph("law.yaml", text.encode(), handlers).resolve(CONTRACTS)


MADE = ("make", "each", "emitted")
"""The nodes that issue intents."""
FANS = ("each", "children")
MAY_FAIL = (*MADE, "signal", "event", "child", "children")
DOES = st.sampled_from(
    [
        *(*["make"] * 6, *["each"] * 3, "emitted", "signal", "event", "sleep", "child"),
        *("children", "join", "require", "set"),
    ]
)
DRAWN = st.tuples(
    st.builds(
        Node,
        DOES,
        has_undo=st.sampled_from([True, True, False]),
        kind=st.sampled_from([None, None, None, None, "pivot", "retriable", "harmless"]),
        attempts=st.integers(1, 2),
        has_timeout=st.booleans(),
        continues=st.booleans(),
        unless=st.sampled_from([None, None, None, 0]),
        fails_fast=st.booleans(),
        at_once=st.sampled_from([None, 1, 2]),
        is_picky=st.booleans(),
    ),
    st.lists(st.integers(0, 20), max_size=3),
)


def connected(drawn: Sequence[tuple[Node, Sequence[int]]]) -> tuple[Node, ...]:
    """Nodes that are behind some of those before them, and a pivot behind all of these."""
    nodes: list[Node] = []
    has_pivot = False
    for number, (node, picks) in enumerate(drawn):
        is_pivot = node.kind == "pivot" and node.does == "make" and not has_pivot
        behind = tuple(sorted({pick % number for pick in picks})) if number else ()
        behind = tuple(range(number)) if is_pivot else behind
        kind = node.kind if is_pivot or node.kind != "pivot" else None
        has_pivot = has_pivot or is_pivot
        nodes.append(fitting(replace(node, behind=behind, kind=kind), has_pivot=has_pivot))
    return tuple(nodes)


def fitting(node: Node, *, has_pivot: bool) -> Node:
    """The node without what makes no sense where it stands."""
    does = "join" if node.does == "require" and not node.behind else node.does
    does = "make" if does in ("child", "children") and has_pivot else does
    is_made = does in MADE
    kind = node.kind if is_made else None
    return replace(
        node,
        does=does,
        kind=kind,
        has_undo=node.has_undo and is_made and not has_pivot and kind != "harmless",
        unless=node.behind[0] if node.unless is not None and node.behind else None,
    )


OPTIONS = st.fixed_dictionaries(
    {
        "parallel_undo": st.booleans(),
        "when_stuck": st.sampled_from(["halt", "continue"]),
        "deadline": st.sampled_from([None, None, "60s"]),
        "coordination_rules": st.sampled_from([None, None, {"execution_mode": "sequential"}, HALT]),
    }
).map(lambda options: tuple(options.items()))
GRAPHS = st.builds(
    Graph,
    st.lists(DRAWN, min_size=1, max_size=6).map(connected),
    st.sampled_from([2, 2, 3, 1, 0]),
    OPTIONS,
)
