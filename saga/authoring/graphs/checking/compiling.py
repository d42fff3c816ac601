"""From a file and its contracts to a graph that can be run: names, types and expressions.

Everything is looked at, whatever was wrong before; what is wrong is noted with its place, and has
the type of anything from there on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from pydantic import JsonValue

from saga.authoring.graphs import expressions as ex
from saga.authoring.graphs.checking.library import Library, short_name
from saga.authoring.graphs.file import format as form
from saga.authoring.graphs.file.mistakes import Mistake, MistakeCode, Place, did_you_mean, shown
from saga.authoring.graphs.file.reading import Node, Scalar
from saga.authoring.graphs.file.shaping import Shaped, ShapedNode, found_at
from saga.authoring.graphs.plan import Computed, Filling, Given, Items, Members, Plain, Policy
from saga.authoring.mapping import REPORT_FIELDS, check_rolled_back
from saga.contracts import Contract, ContractModel, Event, Kind
from saga.core.retry import Retry
from saga.errors import DefinitionError

REPORT: Final[Mapping[str, ex.Type]] = {
    "reason": ex.TEXT,
    "code": ex.TEXT,
    "failed_step": ex.TEXT,
    "residue": ex.list_of(ex.TEXT),
}
Scope = dict[str, ex.Type | ex.Unavailable]


class Notes:
    """The mistakes of one file, and the short ways to note one."""

    def __init__(self) -> None:
        self.mistakes: list[Mistake] = []

    def note(self, place: Place, message: str, code: MistakeCode) -> None:
        self.mistakes.append(Mistake(place, message, code))

    def problems(self, node: Node, problems: Iterable[ex.Problem]) -> None:
        """What is wrong with an expression that stands at *node*."""
        for each in problems:
            place = node.at(each.offset) if isinstance(node, Scalar) else node.place
            self.note(place, each.message, MistakeCode(each.code))


class Expressions:
    """Reads and checks the expressions of a file; *used* are the names that they read."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self.used: set[str] = set()

    def read(
        self,
        text: str | None,
        shaped: ShapedNode,
        path: tuple[str, ...],
        scope: Scope,
        expected: ex.Type = ex.ANY,
    ) -> tuple[ex.Node | None, ex.Type]:
        """The expression at a *path* in a node; None where there is none, or it is wrong."""
        if text is None:
            return None, ex.ANY
        at = shaped.at(*path)
        try:
            tree = ex.parse(text)
        except ex.ExpressionError as error:
            if error.problem.code == ex.Code.NO_TEMPLATE_HERE:
                message = f"`{path[-1]}` is an expression as it stands: write it without ${{…}}"
                self._notes.note(at.place, message, MistakeCode.NO_TEMPLATE)
            else:
                self._notes.problems(at, [error.problem])
            return None, ex.ANY
        return tree, self._checked(tree, at, scope, expected)

    def template(self, text: str, at: Node, scope: Scope, expected: ex.Type) -> Given:
        try:
            template = ex.parse_template(text)
        except ex.ExpressionError as error:
            self._notes.problems(at, [error.problem])
            return Plain(None)
        if len(template.parts) == 1 and isinstance(template.parts[0], str):
            self.constant(template.parts[0], at, expected)
            return Plain(template.parts[0])
        self._checked(template, at, scope, expected)
        return Computed(template)

    def given(self, value: JsonValue, at: Node, scope: Scope, expected: ex.Type) -> Given:
        """A value of a `with`, in which any text may be a template."""
        match value:
            case str():
                return self.template(value, at, scope, expected)
            case list():
                of = expected.of or ex.ANY if expected.kind is ex.Kind.LIST else ex.ANY
                items = [
                    self.given(each, found_at(at, (number,))[0], scope, of)
                    for number, each in enumerate(value)
                ]
                self.constant([], at, expected)
                return Items(tuple(items))
            case dict():
                members = [
                    (
                        name,
                        self.given(
                            each,
                            found_at(at, (name,))[0],
                            scope,
                            expected.fields.get(name, ex.ANY),
                        ),
                    )
                    for name, each in value.items()
                ]
                self.constant({}, at, expected)
                return Members(tuple(members))
        self.constant(value, at, expected)
        return Plain(value)

    def constant(self, value: JsonValue, at: Node, expected: ex.Type) -> None:
        found = _type_of(value)
        if not ex.fits(found, expected):
            message = f"this is {found}, expected {expected}"
            self._notes.note(at.place, message, MistakeCode.TYPE_MISMATCH)

    def _checked(
        self, tree: ex.Node | ex.Template, at: Node, scope: Scope, expected: ex.Type
    ) -> ex.Type:
        self.used.update(name.name for name in ex.names(tree))
        checked = ex.check(tree, scope, expected=expected)
        self._notes.problems(at, checked.problems)
        return checked.type


class Messages:
    """Finds contracts by name, and how their fields are filled."""

    def __init__(
        self, library: Library, expressions: Expressions, notes: Notes, triggers: Sequence[Contract]
    ) -> None:
        self._library = library
        self._expressions = expressions
        self._notes = notes
        self._triggers = triggers

    def find(self, name: str, kind: Kind, at: Place) -> Contract | None:
        found = self._library.find(name, kind)
        if found is not None:
            if (reply := self._library.other_reply(found)) is not None:
                message = (
                    f"`{name}` ({found.where}) is answered by another {short_name(reply)} than "
                    f"that of {reply.where}: declare both here, or neither"
                )
                self._notes.note(at, message, MistakeCode.WRONG_CONTRACT)
            return found
        other = Kind.INTENT if kind is Kind.EVENT else Kind.EVENT
        if self._library.find(name, other) is not None:
            is_what = "an event" if other is Kind.EVENT else "an intent"
            wanted = "an event" if kind is Kind.EVENT else "an intent"
            message = f"`{name}` is {is_what}: expected {wanted}"
            self._notes.note(at, message, MistakeCode.WRONG_CONTRACT)
        else:
            explained = self._library.explain_unknown(name, kind)
            self._notes.note(at, explained, MistakeCode.UNKNOWN_CONTRACT)
        return None

    def filling(
        self,
        contract: Contract,
        given: Mapping[str, JsonValue],
        at: Node,
        scope: Scope,
        *,
        what: str,
        place: Place,
        item: ex.Type | None = None,
    ) -> Filling:
        """How a message is filled from the trigger, an item, and what is *given*."""
        filled = self._given(contract, given, at, scope)
        has_any = item is not None and item.kind in {ex.Kind.ANY, ex.Kind.MAP}
        of_item = frozenset() if item is None else frozenset(item.fields)
        names = {name for name, _ in filled}
        for name in _required(contract.model):
            lacking = [each for each in self._triggers if name not in each.model.model_fields]
            if name in names or name in of_item or not lacking or has_any:
                continue
            sources = short_name(lacking[0]) + (" and the item" if item is not None else "")
            message = (
                f"{what} {short_name(contract)} needs `{name}`, which {sources} has not: give it "
                f"in `with`"
            )
            self._notes.note(place, message, MistakeCode.NOT_FILLABLE)
        return Filling(contract.model, filled)

    def undo(
        self, undo: form.Undo, intent: Contract, shaped: ShapedNode, scope: Scope
    ) -> Filling | None:
        """How the undo of *intent* is filled, from the intent alone where no reply came."""
        node = shaped.at("undo")
        at = node if isinstance(node, Scalar) else found_at(node, ("intent",))[0]
        contract = self.find(undo.intent, Kind.INTENT, at.place)
        if contract is None:
            return None
        filled = self._given(contract, undo.with_, found_at(node, ("with",))[0], scope)
        names = {name for name, _ in filled}
        for name in _required(contract.model):
            if name in names or name in intent.model.model_fields:
                continue
            message = (
                f"undo {short_name(contract)} needs `{name}`, which {short_name(intent)} has not, "
                f"and no reply may come: give it a default, or `with`"
            )
            self._notes.note(at.place, message, MistakeCode.UNDO_NOT_FILLABLE)
        return Filling(contract.model, filled)

    def outgoing(
        self, spec: str | form.Outgoing | None, shaped: Shaped, key: str, scope: Scope
    ) -> Filling | None:
        """The outcome, or the event of a saga that was rolled back."""
        if spec is None:
            return None
        said = form.Outgoing(event=spec) if isinstance(spec, str) else spec
        node = shaped.at(key)
        at = node if isinstance(node, Scalar) else found_at(node, ("event",))[0]
        contract = self.find(said.event, Kind.EVENT, at.place)
        if contract is None:
            return None
        given_at = found_at(node, ("with",))[0]
        if key == "outcome":
            return self.filling(contract, said.with_, given_at, scope, what=key, place=at.place)
        filled = self._given(contract, said.with_, given_at, scope)
        self._check_report(contract, {name for name, _ in filled}, at.place)
        return Filling(contract.model, filled)

    def _check_report(self, contract: Contract, given: set[str], place: Place) -> None:
        for name in _required(contract.model):
            lacking = [each for each in self._triggers if name not in each.model.model_fields]
            if name not in REPORT_FIELDS and name not in given and lacking:
                message = (
                    f"rolled_back {short_name(contract)} needs `{name}`, which neither "
                    f"{short_name(lacking[0])} nor the report ({', '.join(REPORT_FIELDS)}) has: "
                    f"give it in `with`"
                )
                self._notes.note(place, message, MistakeCode.NOT_FILLABLE)
                return
        if "failed_step" in given:
            return
        for trigger in self._triggers:
            try:
                check_rolled_back(trigger.model, contract.model)
            except DefinitionError as error:
                if "failed_step" in error.problem:
                    self._notes.note(place, error.problem, MistakeCode.NOT_FILLABLE)
                    return

    def _given(
        self, contract: Contract, given: Mapping[str, JsonValue], at: Node, scope: Scope
    ) -> tuple[tuple[str, Given], ...]:
        fields = contract.model.model_fields
        types = ex.type_of_model(contract.model).fields
        filled: list[tuple[str, Given]] = []
        for name, value in given.items():
            node, place = found_at(at, (name,))
            if name not in fields:
                hint = did_you_mean(name, fields)
                message = f"`{shown(name)}` is no field of {short_name(contract)}{hint}"
                self._notes.note(place, message, MistakeCode.UNKNOWN_FIELD)
                continue
            expected = types.get(fields[name].serialization_alias or name, ex.ANY)
            filled.append((name, self._expressions.given(value, node, scope, expected)))
        return tuple(filled)


def policy(
    node: form.Node, rules: form.CoordinationRules, undo: Filling | None, note: Any
) -> Policy:
    """How a step is tried, as the node says it, and else the rules of the file."""
    retry = retry_of(node.retry, note) if node.retry is not None else None
    if node.retry is None and node.kind != "retriable":
        retry = _default_retry(rules)
    undo_retry = None if node.undo_retry is None else retry_of(node.undo_retry, note)
    return Policy(
        kind=node.kind,
        retry=retry,
        undo_retry=undo_retry,
        timeout=timeout_of(node, rules),
        undo=undo,
    )


def timeout_of(node: form.Node, rules: form.CoordinationRules) -> str | None:
    if node.timeout is not None:
        return node.timeout
    return None if rules.timeout_ms is None else f"{rules.timeout_ms}ms"


def retry_of(said: form.RetryPolicy, note: Any) -> Retry | None:
    try:
        return Retry(
            attempts=said.attempts,
            initial=said.initial,
            factor=said.factor,
            cap=said.cap,
            jitter=said.jitter,
            within=said.within,
            never_on=tuple(said.never_on),
            only_on=None if said.only_on is None else tuple(said.only_on),
        )
    except ValueError as error:
        note(str(error))
        return None


def _default_retry(rules: form.CoordinationRules) -> Retry | None:
    if rules.failure_recovery_strategy == "compensate":
        return Retry(attempts=1)
    is_default = rules.max_retries == form.CoordinationRules.model_fields["max_retries"].default
    return None if is_default else Retry(attempts=rules.max_retries + 1)


def _required(model: type[ContractModel]) -> Iterator[str]:
    return (name for name, field in model.model_fields.items() if field.is_required())


def _type_of(value: JsonValue) -> ex.Type:
    match value:
        case None:
            return ex.NULL
        case bool():
            return ex.BOOL
        case int():
            return ex.INT
        case float():
            return ex.FLOAT
        case str():
            return ex.Type(ex.Kind.TEXT, choices=(value,))
        case list():
            return ex.LIST
    return ex.Type(ex.Kind.MAP, ex.ANY)


def type_of_events(events: Sequence[type[Event]]) -> ex.Type:
    """The type of one of several events: anything, where they differ."""
    types = [ex.type_of_model(each) for each in events]
    return types[0] if types and all(each == types[0] for each in types) else ex.ANY


def type_of_reply(contract: Contract) -> ex.Type:
    if contract.reply is None:
        return ex.nothing(f"{short_name(contract)} has no reply of its own")
    return ex.type_of_model(contract.reply)
