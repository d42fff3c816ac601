"""From a tree to the models of the format: wrappers resolved, every mistake with its place.

What is wrong in one place hides nothing elsewhere: a key that is refused is left out, and the rest
is looked at as though it had not been written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar, cast, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from saga.authoring.graphs.file import format as form
from saga.authoring.graphs.file.mistakes import Mistake, MistakeCode, Place, did_you_mean, shown
from saga.authoring.graphs.file.reading import Bent, Listed, Mapped, Member, Node, Scalar, plain
from saga.core.values import value

M = TypeVar("M", bound=form.Part)
_USERS_NAMES: Final = frozenset({"with", "set", "signals", "fields", "intent_routing_table"})
"""Below these, keys are names of the author's choice."""
_CALLED: Final[Mapping[str, str]] = {
    "Node": "a node",
    "ContractFile": "a contract",
    "Head": "a contract",
    "MessageFields": "a message",
    "RetryPolicy": "a retry policy",
    "Undo": "an undo",
    "Outgoing": "an outgoing event",
    "PublishedEvent": "a published event",
    "Route": "a handler's route",
    "Reference": "a class or handler",
    "SemanticVersion": "a version",
}
_NO_RESULT: Final = "an orchestrator has no result. Its end is told by `outcome`, facts by events"
_TYPES: Final[Mapping[str, str]] = {
    "string_type": "a text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "json": "a plain value",
}


@value
class ShapedNode:
    """A node and where it stands; *is_partial* where some of its keys were refused."""

    node: form.Node
    tree: Mapped
    is_partial: bool

    @property
    def place(self) -> Place:
        return self.tree.place

    def at(self, *path: str | int) -> Node:
        """What stands below a path of keys; the node itself where nothing does."""
        return found_at(self.tree, path)[0]


@value
class Shaped:
    """A file as far as it could be understood."""

    name: str
    version: int
    deadline: str | None
    head: form.Head
    tree: Mapped
    nodes: tuple[ShapedNode, ...]
    refused: frozenset[str]
    """The ids of nodes that are there and cannot be looked at."""
    mistakes: tuple[Mistake, ...]

    def at(self, *path: str | int) -> Node:
        return found_at(self.tree, path)[0]


def shaped(root: Node) -> Shaped | tuple[Mistake, ...]:
    """The models of a file; only mistakes where it is no mapping."""
    if not isinstance(root, Mapped):
        message = "expected a mapping with `name`, `version` and `nodes`"
        return (Mistake(root.place, message, MistakeCode.WRONG_TYPE),)
    return _Shaping().shape(root)


def found_at(root: Node, path: Iterable[str | int]) -> tuple[Node, Place]:
    """What stands below a path, as deep as there is something, and the place of its key."""
    node, place = root, root.place
    for part in path:
        match node, part:
            case Mapped(members=members), str() if part in members:
                node, place = members[part].node, members[part].place
            case Listed(items=items), int() if part < len(items):
                node, place = items[part], items[part].place
    return node, place


class _Shaping:
    def __init__(self) -> None:
        self.mistakes: list[Mistake] = []
        self.refused: set[str] = set()

    def shape(self, root: Mapped) -> Shaped:
        tree = self._without_results(self._unwrapped(root, frozenset()))
        listed = tree.members.get("nodes")
        nodes = [] if listed is None else self._nodes(listed.node)
        if listed is None:
            self._missing(tree, "nodes", "the graph")
        head_tree = _without(tree, {"nodes"})
        head, _ = self._model(form.Head, head_tree)
        metadata = head.workflow_metadata or form.WorkflowMetadata()
        name = head.workflow_name or metadata.workflow_name or head.name
        version = head.workflow_version or metadata.workflow_version
        number = head.version if version is None else version.major
        if name is None:
            self._missing(tree, "name", "the saga's name")
        elif "/" in name or not name.isprintable():
            place = found_at(tree, [_name_key(head)])[0].place
            self._note(place, "a saga's name has printable characters without '/'", "wrong-value")
        if number is None:
            self._missing(tree, "version", "a whole number from 1 on")
        deadline = head.deadline
        if deadline is None and metadata.timeout_ms is not None:
            deadline = f"{metadata.timeout_ms}ms"
        self._look_for_bent(tree, (), "")
        return Shaped(
            name or "",
            number or 1,
            deadline,
            head,
            tree,
            tuple(nodes),
            frozenset(self.refused),
            tuple(self.mistakes),
        )

    def _missing(self, tree: Mapped, key: str, what: str) -> None:
        node, place = found_at(tree, (key,))
        if key not in tree.members or plain(node) is None:
            self._note(place, f"`{key}` is missing: give {what}", "missing-key")

    def _unwrapped(self, tree: Mapped, within: frozenset[str]) -> Mapped:
        """The members of a tree and of the wrappers in it, as though these were not there."""
        members: dict[str, Member] = {}
        for key, member in tree.members.items():
            if key not in form.WRAPPERS:
                self._put(members, key, member)
                continue
            inner = member.node
            if not isinstance(inner, Mapped):
                self._note(inner.place, f"{key}: expected a mapping", "wrong-type")
                continue
            for name, each in self._unwrapped(inner, within | {key}).members.items():
                if name in inner.members and name not in form.WRAPPERS[key]:
                    self._unknown(each.place, name, f"`{key}`", form.WRAPPERS[key])
                else:
                    self._put(members, name, each)
        return Mapped(tree.place, members)

    def _put(self, members: dict[str, Member], key: str, member: Member) -> None:
        first = members.get(key)
        if first is None:
            members[key] = member
            return
        message = f"key `{shown(key)}` is here a second time, first on line {first.place.line}"
        self._note(member.place, message, "duplicate-key")

    def _unknown(self, place: Place, key: str, of: str, known: Iterable[str]) -> None:
        if key in form.NO_RESULT_KEYS:
            self._note(place, f"`{key}`: {_NO_RESULT}", "orchestrator-has-no-result")
            return
        known = list(known)
        hint = did_you_mean(key, known) or f": expected {', '.join(f'`{each}`' for each in known)}"
        self._note(place, f"`{shown(key)}` is no key of {of}{hint}", "unknown-key")

    def _without_results(self, tree: Mapped) -> Mapped:
        """The tree without what no orchestrator has, wherever that stands."""
        members: dict[str, Member] = {}
        for key, member in tree.members.items():
            if key in form.NO_RESULT_KEYS:
                self._note(member.place, f"`{key}`: {_NO_RESULT}", "orchestrator-has-no-result")
            elif key in _USERS_NAMES:
                members[key] = member
            else:
                members[key] = Member(member.place, self._without_results_below(member.node))
        return Mapped(tree.place, members)

    def _without_results_below(self, node: Node) -> Node:
        match node:
            case Mapped():
                return self._without_results(node)
            case Listed(place=place, items=items):
                return Listed(place, tuple(map(self._without_results_below, items)))
        return node

    def _nodes(self, listed: Node) -> list[ShapedNode]:
        if not isinstance(listed, Listed):
            self._note(listed.place, "nodes: expected a list of nodes", "wrong-type")
            return []
        if not listed.items:
            self._note(listed.place, "nodes: expected at least one node", "missing-key")
        if len(listed.items) > form.NODES_MAX:
            message = f"nodes: {len(listed.items)} are too many, of at most {form.NODES_MAX}"
            self._note(listed.items[form.NODES_MAX].place, message, "too-large")
        found = [self._node(each) for each in listed.items[: form.NODES_MAX]]
        return [each for each in found if each is not None]

    def _node(self, item: Node) -> ShapedNode | None:
        if not isinstance(item, Mapped):
            self._note(item.place, "expected a node: a mapping with `node_id`", "wrong-type")
            return None
        tree = self._of_step(item)
        before = len(self.mistakes)
        node, is_partial = self._model(form.Node, tree)
        if not node.node_id:
            named = found_at(tree, ["node_id"])[0]
            self.refused.update([named.text] if isinstance(named, Scalar) else [])
            return None
        return ShapedNode(node, tree, is_partial or len(self.mistakes) > before)

    def _of_step(self, item: Mapped) -> Mapped:
        """A node with what is in its `step_config`."""
        wrapped = item.members.get(form.NODE_WRAPPER)
        if wrapped is None:
            return item
        members = {key: each for key, each in item.members.items() if key != form.NODE_WRAPPER}
        if not isinstance(wrapped.node, Mapped):
            self._note(wrapped.node.place, "step_config: expected a mapping", "wrong-type")
            return Mapped(item.place, members)
        known = [key for key in form.keys_of(form.Node) if key not in form.NOT_IN_STEP_CONFIG]
        for key, member in wrapped.node.members.items():
            if key in form.NOT_IN_STEP_CONFIG:
                self._unknown(member.place, key, "`step_config`", known)
            else:
                self._put(members, key, member)
        return Mapped(item.place, members)

    def _model(self, model: type[M], tree: Mapped) -> tuple[M, bool]:
        """The model of a mapping, without the keys that are refused, and whether there were any."""
        given = plain(tree)
        try:
            return model.model_validate(given), False
        except ValidationError as invalid:
            errors = invalid.errors(include_url=False)
        for error in errors:
            self.mistakes.append(_mistake(error, tree, model))
        wrong = {error["loc"][0] for error in errors if error["loc"]}
        rest = {key: each for key, each in given.items() if key not in wrong}
        required = {"node_id": ""} if model is form.Node and "node_id" not in rest else {}
        return cast("M", model.model_construct(**_named(model, rest | required))), True

    def _look_for_bent(self, node: Node, path: tuple[str, ...], key: str) -> None:
        """Refuse plain words that readers take for something else, where they would act."""
        match node:
            case Mapped(members=members):
                for name, member in members.items():
                    if name not in form.LABELS:
                        self._look_for_bent(member.node, (*path, name), name)
            case Listed(items=items):
                for item in items:
                    self._look_for_bent(item, path, key)
            case Scalar():
                said = plain(node)
                is_bent = isinstance(said, Bent) and ("with" in path or said.taken_for is not None)
                if is_bent and not any(each.place == node.place for each in self.mistakes):
                    self.mistakes.append(_bent(node, said, key))

    def _note(self, place: Place, message: str, code: str) -> None:
        self.mistakes.append(Mistake(place, message, MistakeCode(code)))


def _name_key(head: form.Head) -> str:
    return "workflow_name" if head.workflow_name is not None else "name"


def _without(tree: Mapped, keys: set[str]) -> Mapped:
    return Mapped(tree.place, {key: m for key, m in tree.members.items() if key not in keys})


def _named(model: type[BaseModel], given: Mapping[str, Any]) -> dict[str, Any]:
    """The validated values of those keys that are right, by the names of the fields."""
    names = {field.alias or name: name for name, field in model.model_fields.items()}
    required = {
        each.alias or name for name, each in model.model_fields.items() if each.is_required()
    }
    whole = {key: given[key] for key in given if key in names}
    lacking = {key: _STAND_IN for key in required if not whole.get(key)}
    made = model.model_validate({**whole, **lacking})
    values = dict(made)
    values.update({names[key]: "" for key in lacking})
    return values


_STAND_IN: Final = "x"


def _bent(node: Scalar, said: Bent, key: str) -> Mistake:
    takes = "something else" if said.taken_for is None else said.taken_for
    message = f"{key} is `{shown(said)}`, which some YAML readers take for {takes}: write"
    return Mistake(node.place, f'{message} "{shown(said)}"', MistakeCode.AMBIGUOUS_SCALAR)


def _mistake(error: ErrorDetails, tree: Mapped, model: type[BaseModel]) -> Mistake:
    path = [part for part in error["loc"] if part not in ("text", "object", "[key]")]
    node, key_place = found_at(tree, path)
    kind, given = error["type"], error["input"]
    owner = _model_at(model, path[:-1])
    key = next((part for part in reversed(path) if isinstance(part, str)), "")
    match kind:
        case "extra_forbidden":
            keys = form.keys_of(owner)
            hint = did_you_mean(str(path[-1]), keys)
            if not hint:
                hint = f": it has {', '.join(f'`{each}`' for each in list(keys)[:_KEYS_SHOWN_MAX])}"
                hint += ", …" if len(keys) > _KEYS_SHOWN_MAX else ""
            called = _CALLED.get(owner.__name__, f"`{_key_before(path)}`")
            message = f"`{shown(path[-1])}` is no key of {called}{hint}"
            return Mistake(key_place, message, MistakeCode.UNKNOWN_KEY)
        case "missing":
            field = form.keys_of(owner)[str(path[-1])]
            called = _CALLED.get(owner.__name__, f"`{_key_before(path)}`")
            message = f"{called} needs `{path[-1]}`: {field.description}"
            return Mistake(node.place, message, MistakeCode.MISSING_KEY)
        case "duration":
            message = f"{key} is `{shown(given)}`: {error['msg']}"
            return Mistake(node.place, message, MistakeCode.DURATION)
    place = key_place if "[key]" in error["loc"] else node.place
    if isinstance(given, Bent) and (kind in _TYPES or kind == "literal_error"):
        return _bent_instead(node.place, key, given, kind)
    if kind in _TYPES:
        message = f"{key} is {_told(given)}: expected {_TYPES[kind]}"
        if kind == "string_type" and isinstance(given, (int, float)):
            message = f'{message}; write "{_text(given)}"'
        return Mistake(place, message, MistakeCode.WRONG_TYPE)
    return Mistake(place, f"{key} is {_told(given)}: {_expected(error)}", MistakeCode.WRONG_VALUE)


_KEYS_SHOWN_MAX: Final = 12


def _bent_instead(place: Place, key: str, given: Bent, kind: str) -> Mistake:
    """A word that is none of what is wanted: what was meant, if that can be seen."""
    message = f"{key} is `{shown(given)}`"
    digits = given.lstrip("+-").replace("_", "").lstrip("0")
    if kind in {"int_type", "float_type"} and digits.isdecimal():
        message += f": did you mean {digits}? Write numbers without a leading zero, sign or line"
        message = message.replace(", sign or line", "") if "_" not in given else message
    elif kind == "bool_type" and given.taken_for in {"true", "false"}:
        message += f": did you mean {given.taken_for}? YAML readers differ on this word"
    else:
        message += f', which some YAML readers take for something else: write "{shown(given)}"'
    return Mistake(place, message, MistakeCode.AMBIGUOUS_SCALAR)


def _expected(error: ErrorDetails) -> str:
    context = error.get("ctx", {})
    match error["type"]:
        case "greater_than_equal":
            return f"expected at least {context['ge']}"
        case "less_than_equal":
            return f"expected at most {context['le']}"
        case "literal_error":
            near = did_you_mean(str(error["input"]), _words(context["expected"]))
            return f"expected {context['expected']}{near}"
        case "string_pattern_mismatch":
            pattern = str(context["pattern"])
            return _PATTERNS.get(pattern, f"expected what {pattern} matches")
        case "too_long" | "string_too_long":
            return f"expected at most {context['max_length']}"
        case "too_short" | "string_too_short":
            return f"expected at least {context['min_length']}"
    return str(error["msg"]).lower()


_PATTERNS: Final[Mapping[str, str]] = {
    f"^{form.NODE_ID}$": "a name has small letters, digits and underscores, and begins with a "
    "letter",
    f"^{form.CONTRACT}$": "expected the name of a contract, as in `payments.pay` or "
    "`payments.pay.v1`",
    f"^{form.GLOB}$": "expected a contract's name, or a part of it with `*`, as in `payment.*`",
    f"^{form.TOPIC}$": "expected a topic, as in `orders.evt.order-validated.v1`",
}


def _words(expected: str) -> list[str]:
    return [word.strip("'") for word in expected.replace(" or ", ", ").split(", ")]


def _told(given: object) -> str:
    match given:
        case None:
            return "null"
        case bool():
            return "true" if given else "false"
        case str():
            return f"`{shown(given)}`"
        case int() | float():
            return f"{given}, a number"
        case list():
            return "a list"
    return "a mapping"


def _text(given: float) -> str:
    return str(given).lower() if isinstance(given, bool) else str(given)


def _key_before(path: list[str | int]) -> str:
    return next((str(part) for part in reversed(path[:-1]) if isinstance(part, str)), "a contract")


def _model_at(model: type[BaseModel], path: list[str | int]) -> type[BaseModel]:
    """The model whose keys stand below a path."""
    for part in path:
        field = form.keys_of(model).get(str(part)) if isinstance(part, str) else None
        if field is None:
            continue
        inner = next(iter(_models_in(field.annotation)), None)
        model = model if inner is None else inner
    return model


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for each in get_args(annotation):
        yield from _models_in(each)
