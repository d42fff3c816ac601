"""The graph that `depends_on` says, and what each node does: checked without contracts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from saga.authoring.graphs.file import format as form
from saga.authoring.graphs.file.mistakes import Mistake, MistakeCode, Place, did_you_mean
from saga.authoring.graphs.file.shaping import Shaped, ShapedNode
from saga.core.values import value

_WAITS: Final = ("timeout", "on_failure")
_STEP: Final = ("kind", "retry", "undo", "undo_retry", *_WAITS)
_EACH: Final = ("for_each", "as", "at_once", "fail")
_BELONGS: Final[Mapping[str | None, tuple[str, ...]]] = {
    "intent": ("with", *_STEP, *_EACH),
    "intent_filter": ("with", *_STEP),
    "event_pattern": ("where", "key", "early", *_WAITS),
    "signal": _WAITS,
    "sleep": (),
    "child": ("with", *_WAITS, *_EACH),
    "set": (),
    "require": (),
    None: (),
}
"""By what a node does: the keys that have a meaning there, beside those that all have."""
_EVERYWHERE: Final = frozenset({"node_id", "node_type", "description", "depends_on", "when"})
_FITS: Final[Mapping[str | None, frozenset[str]]] = {
    **dict.fromkeys(
        ("intent", "intent_filter", "event_pattern", "signal", "sleep"),
        frozenset({"EFFECT_GENERIC"}),
    ),
    "child": frozenset({"ORCHESTRATOR_GENERIC"}),
    **dict.fromkeys(("set", "require", None), frozenset({"COMPUTE_GENERIC", "REDUCER_GENERIC"})),
}
_RESERVED: Final = frozenset({"event", "true", "false", "null", "in"})
"""What expressions have another meaning for."""
_SHOWN_OF_CYCLE_MAX: Final = 8


@value
class Wired:
    """The nodes whose ids are their own, and how they depend on each other."""

    nodes: tuple[ShapedNode, ...]
    by_id: dict[str, int]
    depends_on: tuple[tuple[int, ...], ...]
    before: tuple[frozenset[int], ...]
    """By node: all that it waits for, near or far."""
    is_whole: bool
    """Whether the graph is one that can be run."""


def action_of(node: form.Node) -> str | None:
    """The key that says what a node does; None: it joins others."""
    given = [key for key in form.ACTIONS if getattr(node, _FIELDS.get(key, key)) is not None]
    return given[0] if given else None


_FIELDS: Final[Mapping[str, str]] = {"set": "set_", "as": "as_", "with": "with_"}


def is_trigger(node: form.Node) -> bool:
    return node.event_pattern is not None and not node.depends_on


def wired(shaped: Shaped, mistakes: list[Mistake]) -> Wired:
    """The graph of a file; what is wrong with it is added to *mistakes*."""
    before = len(mistakes)
    nodes = tuple(_distinct(shaped.nodes, mistakes))
    by_id = {each.node.node_id: number for number, each in enumerate(nodes)}
    known = shaped.refused | by_id.keys()
    depends_on = tuple(_depends_on(each, by_id, known, mistakes) for each in nodes)
    for each in nodes:
        _check_node(each, mistakes)
    has_refused = bool(shaped.refused) or any(each.is_partial for each in nodes)
    if not any(is_trigger(each.node) for each in nodes) and nodes and not has_refused:
        message = "no node starts the saga: one needs `event_pattern`, and depends on nothing"
        mistakes.append(Mistake(shaped.at("nodes").place, message, MistakeCode.NO_TRIGGER))
    cycles = list(_cycles(depends_on))
    mistakes.extend(_told_cycle(nodes, cycle) for cycle in cycles)
    ahead = _before(depends_on) if not cycles else tuple(frozenset[int]() for _ in nodes)
    whole = Wired(nodes, by_id, depends_on, ahead, len(mistakes) == before)
    if not cycles:
        mistakes.extend(_after_pivot(whole))
    return whole


def _distinct(nodes: Sequence[ShapedNode], mistakes: list[Mistake]) -> Iterator[ShapedNode]:
    first: dict[str, ShapedNode] = {}
    for each in nodes:
        name = each.node.node_id
        if name in first:
            message = f"node_id `{name}` is taken by line {first[name].place.line}"
            mistakes.append(Mistake(each.place, message, MistakeCode.DUPLICATE_NODE))
            continue
        first[name] = each
        yield each


def _depends_on(
    shaped: ShapedNode,
    by_id: Mapping[str, int],
    known: frozenset[str],
    mistakes: list[Mistake],
) -> tuple[int, ...]:
    found: dict[int, None] = {}
    for number, name in enumerate(shaped.node.depends_on):
        if name in by_id:
            found[by_id[name]] = None
        elif name not in known:
            place = shaped.at("depends_on", number).place
            message = f"`{name}` in depends_on is no node{did_you_mean(name, by_id)}"
            mistakes.append(Mistake(place, message, MistakeCode.UNKNOWN_NODE))
    return tuple(found)


def _check_node(shaped: ShapedNode, mistakes: list[Mistake]) -> None:
    node, tree = shaped.node, shaped.tree
    name = node.node_id

    def note(place: Place, message: str, code: MistakeCode) -> None:
        mistakes.append(Mistake(place, message, code))

    if name in _RESERVED:
        place = shaped.at("node_id").place
        note(place, f"node_id `{name}` has a meaning of its own", MistakeCode.WRONG_VALUE)
    written = [key for key in form.ACTIONS if key in tree.members]
    if len(written) > 1:
        both = " and ".join(f"`{key}`" for key in written)
        note(shaped.place, f"`{name}` has {both}: a node does one thing", MistakeCode.TWO_ACTIONS)
        return
    action = written[0] if written else None
    if not node.depends_on and action != "event_pattern" and not shaped.is_partial:
        message = (
            f"`{name}` depends on nothing: only a node with `event_pattern` may, which starts "
            f"the saga"
        )
        note(shaped.place, message, MistakeCode.NO_TRIGGER)
    if node.node_type is not None and node.node_type not in _FITS[action]:
        fits = " or ".join(sorted(_FITS[action]))
        does = "does nothing" if action is None else f"has `{action}`"
        place = shaped.at("node_type").place
        note(place, f"`{name}` {does}, so it is {fits}", MistakeCode.WRONG_NODE_TYPE)
    _check_keys(shaped, action, mistakes)
    _check_kind(shaped, mistakes)


def _check_keys(shaped: ShapedNode, action: str | None, mistakes: list[Mistake]) -> None:
    """Refuse keys that would have no effect: whoever wrote them expects one."""
    node, name = shaped.node, shaped.node.node_id
    belongs = {*_EVERYWHERE, *_BELONGS[action]} | ({action} if action is not None else set())
    if is_trigger(node):
        belongs -= {"where", "early", *_WAITS}
    if node.for_each is None and "for_each" not in shaped.tree.members:
        belongs -= {"as", "at_once", "fail"}
    if action == "intent_filter":
        belongs -= {"with"}
    for key, member in shaped.tree.members.items():
        if key in belongs or key not in form.keys_of(form.Node):
            continue
        of = f"of a node with `{action}`" if action is not None else "of a node that does nothing"
        if is_trigger(node):
            of = "of what starts the saga"
        if key in _EACH and key != "for_each" and "for_each" in {*_BELONGS[action]}:
            of = "without `for_each`"
        message = f"`{name}`: `{key}` has no effect {of}"
        mistakes.append(Mistake(member.place, message, MistakeCode.KEY_WITHOUT_EFFECT))


def _check_kind(shaped: ShapedNode, mistakes: list[Mistake]) -> None:
    node = shaped.node
    problem = None
    if node.kind == "compensatable" and node.undo is None and "undo" not in shaped.tree.members:
        problem = "a compensatable step needs an undo"
    elif node.kind in ("read_only", "harmless") and node.undo is not None:
        problem = f"a {node.kind.replace('_', '-')} step has nothing to undo"
    if problem is not None:
        place = shaped.at("kind").place
        mistakes.append(Mistake(place, f"`{node.node_id}`: {problem}", MistakeCode.WRONG_VALUE))


def _cycles(depends_on: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """One cycle of each group of nodes that wait for each other, in file order of their firsts."""
    done: set[int] = set()
    for start in range(len(depends_on)):
        path: list[int] = []
        on_path: dict[int, int] = {}
        waiting: list[tuple[int, Iterator[int]]] = []
        if start not in done:
            waiting.append((start, iter(depends_on[start])))
            on_path[start] = 0
            path.append(start)
        while waiting:
            node, rest = waiting[-1]
            following = next(rest, None)
            if following is None:
                waiting.pop()
                done.add(path.pop())
                del on_path[node]
            elif following in on_path:
                cycle = path[on_path[following] :]
                yield cycle
                done.update(path)
                break
            elif following not in done:
                on_path[following] = len(path)
                path.append(following)
                waiting.append((following, iter(depends_on[following])))


def _told_cycle(nodes: Sequence[ShapedNode], cycle: Sequence[int]) -> Mistake:
    first = min(range(len(cycle)), key=lambda at: cycle[at])
    ordered = [*cycle[first:], *cycle[:first]]
    names = [nodes[each].node.node_id for each in ordered]
    shown = names[:_SHOWN_OF_CYCLE_MAX] + (["…"] if len(names) > _SHOWN_OF_CYCLE_MAX else [])
    text = " → ".join([*shown, names[0]])
    if len(names) == 1:
        text = f"`{names[0]}` waits for itself"
    else:
        text = f"these wait for each other: {text}"
    return Mistake(nodes[ordered[0]].place, text, MistakeCode.CYCLE)


def _before(depends_on: Sequence[Sequence[int]]) -> tuple[frozenset[int], ...]:
    found: dict[int, frozenset[int]] = {}
    waiting = list(range(len(depends_on)))
    while waiting:
        node = waiting[-1]
        missing = [each for each in depends_on[node] if each not in found]
        if missing:
            waiting.extend(missing)
            continue
        waiting.pop()
        if node not in found:
            near = depends_on[node]
            found[node] = frozenset(near).union(*(found[each] for each in near))
    return tuple(found[each] for each in range(len(depends_on)))


def _after_pivot(graph: Wired) -> Iterator[Mistake]:
    """Steps that can be undone, where nothing is undone any more."""
    pivots = [number for number, each in enumerate(graph.nodes) if each.node.kind == "pivot"]
    for number, each in enumerate(graph.nodes):
        node = each.node
        if node.undo is None and node.child is None and node.kind != "compensatable":
            continue
        pivot = next((other for other in pivots if other in graph.before[number]), None)
        if pivot is not None and number != pivot:
            at = graph.nodes[pivot]
            message = (
                f"`{node.node_id}` can be undone but comes after the pivot `{at.node.node_id}` "
                f"(line {at.place.line}), past which nothing is undone"
            )
            yield Mistake(each.place, message, MistakeCode.AFTER_PIVOT)
            continue
        beside = next((one for one in pivots if _are_unordered(graph, number, one)), None)
        if beside is not None:
            at = graph.nodes[beside]
            message = (
                f"`{node.node_id}` can be undone and may come after the pivot "
                f"`{at.node.node_id}` (line {at.place.line}), past which nothing is undone: let "
                f"`{at.node.node_id}` depend on it"
            )
            yield Mistake(each.place, message, MistakeCode.AFTER_PIVOT)


def _are_unordered(graph: Wired, one: int, other: int) -> bool:
    """Whether either may come first. Nodes under a `when` may exclude each other."""
    before = graph.before
    if one == other or one in before[other] or other in before[one]:
        return False
    apart = ({one, *before[one]}) ^ ({other, *before[other]})
    return not any(graph.nodes[each].node.when is not None for each in apart)
