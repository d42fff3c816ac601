"""Puts a graph together: its nodes in the order in which they know each other's types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from typing import Any, Final

from pydantic import TypeAdapter

from saga.authoring.definition import Services
from saga.authoring.graphs import expressions as ex
from saga.authoring.graphs.checking.compiling import (
    REPORT,
    Expressions,
    Messages,
    Notes,
    Scope,
    policy,
    timeout_of,
    type_of_events,
    type_of_reply,
)
from saga.authoring.graphs.checking.declaring import declare_messages, signal_models
from saga.authoring.graphs.checking.library import Library, short_name
from saga.authoring.graphs.checking.routing import check_handler_routing, routing_of
from saga.authoring.graphs.checking.wiring import action_of, is_trigger, wired
from saga.authoring.graphs.file import format as form
from saga.authoring.graphs.file.mistakes import Mistake, MistakeCode, Place, did_you_mean
from saga.authoring.graphs.file.shaping import Shaped, ShapedNode
from saga.authoring.graphs.handlers import EventHandler
from saga.authoring.graphs.plan import (
    Action,
    Child,
    Compute,
    Each,
    Graph,
    GraphNode,
    Issue,
    IssueEmitted,
    Join,
    NextEvent,
    Require,
    Sleep,
    Trigger,
    WaitSignal,
)
from saga.authoring.listening import Listening
from saga.contracts import Contract, ContractModel, Event, Kind, contract_of
from saga.contracts.keys import check_key_type
from saga.core.durations import duration_us
from saga.core.events import event_channel
from saga.core.values import value
from saga.errors import DefinitionError

NOT_A_DEPENDENCY: Final = MistakeCode.NOT_A_DEPENDENCY.value


@value(kw_only=True)
class Assembled:
    """A graph and what a definition says of it beside; no graph where there are mistakes."""

    graph: Graph | None
    starts_on: tuple[type[Event], ...] = ()
    keys: Mapping[type[Event], str | None] = field(default_factory=dict, hash=False)
    listens: tuple[Listening, ...] = ()
    contracts: frozenset[type[ContractModel]] = frozenset()
    mistakes: tuple[Mistake, ...] = ()


def assembled(
    shaped: Shaped,
    file: str,
    library: Library,
    handlers: Sequence[EventHandler] | None = None,
    services: Services | None = None,
) -> Assembled:
    """The graph of a file, or all that is wrong with it.

    *handlers* and *services* are None where it is not known which there are.
    """
    return _Assembling(shaped, file, library, handlers, services).assemble()


def checked_alone(shaped: Shaped) -> list[Mistake]:
    """What is wrong with a file whatever contracts there are."""
    notes = Notes()
    graph = wired(shaped, notes.mistakes)
    names: Scope = {each.node.node_id: ex.ANY for each in graph.nodes}
    names |= dict.fromkeys(shaped.refused, ex.ANY)
    expressions = Expressions(notes)
    for each in graph.nodes:
        node, scope = each.node, {**names, "event": ex.ANY}
        if node.as_ is not None:
            scope[node.as_] = ex.ANY
        expressions.read(node.when, each, ("when",), scope)
        expressions.read(node.for_each, each, ("for_each",), scope)
        expressions.read(node.where, each, ("where",), scope)
        for name, text in (node.set_ or {}).items():
            expressions.read(text, each, ("set", name), scope)
        if node.require is not None:
            expressions.read(node.require.that, each, ("require", "that"), scope)
        expressions.given(node.with_, each.at("with"), scope, ex.ANY)
    return [*shaped.mistakes, *notes.mistakes]


class _Assembling:
    def __init__(
        self,
        shaped: Shaped,
        file: str,
        library: Library,
        handlers: Sequence[EventHandler] | None,
        services: Services | None,
    ) -> None:
        self.shaped = shaped
        self.file = file
        self.library = library
        self.handlers = handlers
        self.services = services
        self.notes = Notes()
        self.expressions = Expressions(self.notes)
        self.types: dict[str, ex.Type] = {}
        self.contracts: set[type[ContractModel]] = set()
        self.listens: list[Listening] = []
        self.keys: dict[type[Event], str | None] = {}

    def assemble(self) -> Assembled:
        shaped, notes, library = self.shaped, self.notes, self.library
        head = shaped.head
        self.graph = wired(shaped, notes.mistakes)
        declare_messages(shaped, self.file, library, notes)
        self.signals = signal_models(shaped, notes)
        self.events = {
            number: self._events_of(each)
            for number, each in enumerate(self.graph.nodes)
            if each.node.event_pattern is not None
        }
        triggers = self._triggers()
        self.messages = Messages(library, self.expressions, notes, triggers)
        self.routing = routing_of(shaped, library, self.services, notes)
        check_handler_routing(shaped, self.handlers, self._heard(), self.routing, notes)
        nodes = self._nodes()
        outcome = self.messages.outgoing(head.outcome, shaped, "outcome", self._scope_at_end())
        rolled_back = self.messages.outgoing(
            head.rolled_back, shaped, "rolled_back", {**self._scope_at_end(), **REPORT}
        )
        for key, filling in (("outcome", outcome), ("rolled_back", rolled_back)):
            if filling is not None:
                self.routing.publish(contract_of(filling.model), shaped.at(key).place, notes)
                self.contracts.add(filling.model)
            if filling is not None and filling.model in {each.model for each in triggers}:
                message = f"{key} {short_name(contract_of(filling.model))} starts this very saga"
                notes.note(shaped.at(key).place, message, MistakeCode.WRONG_CONTRACT)
        self.routing.check_used(notes)
        self._check_signals_used()
        mistakes = (*shaped.mistakes, *notes.mistakes)
        if mistakes:
            return Assembled(graph=None, mistakes=mistakes)
        for handler in self.handlers or ():
            self.contracts.add(handler.event)
        self.contracts |= {contract.model for contract in self.routing.published()}
        graph = Graph(
            file=self.file,
            nodes=tuple(nodes),
            is_sequential=head.coordination_rules.execution_mode == "sequential",
            halts=head.coordination_rules.failure_recovery_strategy == "halt",
            outcome=outcome,
            rolled_back=rolled_back,
            handlers={each.event: each.function for each in self.handlers or ()},
            waits=frozenset(
                number
                for number, each in enumerate(nodes)
                if isinstance(each.action, NextEvent | WaitSignal)
            ),
            behind=_behind(self.graph.depends_on),
            reads=frozenset(
                number
                for number, each in enumerate(self.graph.nodes)
                if each.node.node_id in self.expressions.used
            ),
            publishes=self.routing.published_names,
            issues=self.routing.issued_names,
        )
        return Assembled(
            graph=graph,
            starts_on=tuple(self.keys),
            keys=self.keys,
            listens=tuple(self.listens),
            contracts=frozenset(self.contracts),
        )

    def _events_of(self, shaped: ShapedNode) -> tuple[Contract, ...]:
        """The events that a node waits for: of joined versions, the newest."""
        node = shaped.node
        found: dict[str, Contract] = {}
        for number, glob in enumerate(node.event_pattern or ()):
            place = shaped.at("event_pattern", number).place
            matching = [
                each
                for each in self.library.matching(glob, Kind.EVENT)
                if each.model.__saga_upcast__ is None
            ]
            if not matching:
                message = self.library.explain_unknown(glob, Kind.EVENT)
                self.notes.note(place, message, MistakeCode.UNKNOWN_CONTRACT)
            for each in matching:
                self._check_key(each, node, shaped, place)
            found.update({each.contract_name: each for each in matching})
        self.contracts.update(each.model for each in found.values())
        return tuple(found.values())

    def _check_key(
        self, event: Contract, node: form.Node, shaped: ShapedNode, place: Place
    ) -> None:
        name = short_name(event)
        if node.key is None and event.key is None:
            message = f"{name} names no key: say in `key` which field holds the saga's"
            self.notes.note(place, message, MistakeCode.MISSING_KEY)
            return
        key = node.key or event.key
        fields = event.model.model_fields
        if key not in fields:
            message = f"key `{key}` is no field of {name}{did_you_mean(str(key), fields)}"
            self.notes.note(shaped.at("key").place, message, MistakeCode.UNKNOWN_FIELD)
            return
        try:
            check_key_type(fields[key].annotation, key)
        except DefinitionError as error:
            message = f"{name} {error.problem}"
            self.notes.note(shaped.at("key").place, message, MistakeCode.WRONG_CONTRACT)

    def _triggers(self) -> tuple[Contract, ...]:
        found: dict[str, Contract] = {}
        for number, contracts in self.events.items():
            node = self.graph.nodes[number].node
            if not is_trigger(node):
                continue
            for each in contracts:
                if each.contract_name in found:
                    message = f"`{node.node_id}`: another node starts on {short_name(each)} too"
                    place = self.graph.nodes[number].place
                    self.notes.note(place, message, MistakeCode.WRONG_CONTRACT)
                found[each.contract_name] = each
                assert issubclass(each.model, Event), each
                self.keys[each.model] = node.key
        return tuple(found.values())

    def _heard(self) -> frozenset[str]:
        """Every event that some node has."""
        return frozenset(
            each.contract_name for contracts in self.events.values() for each in contracts
        )

    def _nodes(self) -> list[GraphNode]:
        made: dict[int, GraphNode] = {}
        for number in self._in_order():
            made[number] = self._node(number, self.graph.nodes[number])
        return [made[number] for number in sorted(made)]

    def _in_order(self) -> list[int]:
        """Each node behind those that it depends on; file order else, and where they are a ring."""
        before = self.graph.before
        return sorted(range(len(before)), key=lambda each: (len(before[each]), each))

    def _scope(self, number: int) -> Scope:
        """What an expression of a node may name: the trigger and what is done or skipped by then.

        A node that comes later is known, and why it may not be used.
        """
        graph, shaped = self.graph, self.graph.nodes[number]
        before = graph.before[number]
        is_ring = not before and shaped.node.depends_on
        scope: Scope = dict.fromkeys(self.shaped.refused, ex.ANY)
        for other, each in enumerate(graph.nodes):
            name = each.node.node_id
            if other in before or is_trigger(each.node) or is_ring:
                scope[name] = self.types.get(name, ex.ANY)
            else:
                why = f"`{name}` is not before `{shaped.node.node_id}`: add it to depends_on"
                if other == number:
                    why = f"`{name}` is this node itself, which has no result yet"
                scope[name] = ex.Unavailable(why, NOT_A_DEPENDENCY)
        return scope

    def _scope_at_end(self) -> Scope:
        return {
            **dict.fromkeys(self.shaped.refused, ex.ANY),
            **{
                each.node.node_id: self.types.get(each.node.node_id, ex.ANY)
                for each in self.graph.nodes
            },
        }

    def _node(self, number: int, shaped: ShapedNode) -> GraphNode:
        node, scope = shaped.node, self._scope(number)
        when, _ = self.expressions.read(node.when, shaped, ("when",), scope, ex.BOOL)
        each, item = self._each(shaped, scope)
        action, result = self._action(number, shaped, scope, item)
        if each is not None:
            result = ex.list_of(result)
        self.types[node.node_id] = ex.ANY if shaped.is_partial else result
        return GraphNode(
            id=node.node_id,
            line=shaped.place.line,
            depends_on=self.graph.depends_on[number],
            before=self.graph.before[number],
            action=action,
            when=when,
            each=each,
            continues=node.on_failure == "continue",
        )

    def _each(self, shaped: ShapedNode, scope: Scope) -> tuple[Each | None, ex.Type | None]:
        """What a node is done for; its name joins the *scope* of what is said of one item."""
        node = shaped.node
        if node.for_each is None:
            return None, None
        items, kind = self.expressions.read(node.for_each, shaped, ("for_each",), scope, ex.LIST)
        item = kind.of or ex.ANY if kind.kind is ex.Kind.LIST else ex.ANY
        if node.as_ is not None:
            if node.as_ in self.graph.by_id or node.as_ == "event":
                message = f"as `{node.as_}`: a node has this name, choose another one"
                self.notes.note(shaped.at("as").place, message, MistakeCode.WRONG_VALUE)
            scope[node.as_] = item
        if items is None:
            return None, item
        each = Each(
            items=items,
            name=node.as_,
            at_once=node.at_once,
            fails_fast=node.fail == "fast",
        )
        return each, item

    def _action(
        self, number: int, shaped: ShapedNode, scope: Scope, item: ex.Type | None
    ) -> tuple[Action, ex.Type]:
        node = shaped.node
        match action_of(node):
            case "event_pattern":
                return self._event(number, shaped, scope)
            case "intent":
                return self._issue(shaped, str(node.intent), scope, item)
            case "intent_filter":
                return self._emitted(shaped, scope)
            case "child":
                return self._child(shaped, scope, item)
            case "signal":
                return self._signal(shaped)
            case "sleep":
                length_us = duration_us(node.sleep or "0s")
                return Sleep(length_us), ex.nothing(f"`{node.node_id}` only sleeps")
            case "set":
                return self._set(shaped, scope)
            case "require":
                assert node.require is not None, node
                that, _ = self.expressions.read(
                    node.require.that, shaped, ("require", "that"), scope, ex.BOOL
                )
                said = node.require.message or f"required: {node.require.that}"
                nothing = ex.nothing(f"`{node.node_id}` only requires something")
                if that is None:
                    return Join(), nothing
                return Require(that, node.require.code, said), nothing
        return Join(), ex.nothing(f"`{node.node_id}` does nothing")

    def _event(self, number: int, shaped: ShapedNode, scope: Scope) -> tuple[Action, ex.Type]:
        node, contracts = shaped.node, self.events[number]
        events = tuple(each.model for each in contracts)
        kind = type_of_events(events)  # type: ignore[arg-type]  # these are events
        if is_trigger(node):
            return Trigger(events), kind  # type: ignore[arg-type]  # as above
        where, _ = self.expressions.read(
            node.where, shaped, ("where",), {**scope, "event": kind}, ex.BOOL
        )
        early_us = 0 if node.early is None else duration_us(node.early)
        for event in events:
            listening = Listening(event=event, key=node.key, early_us=early_us)  # type: ignore[arg-type]  # as above
            if listening not in self.listens:
                self.listens.append(listening)
        timeout = timeout_of(node, self.shaped.head.coordination_rules)
        names = sorted(each.contract_name for each in contracts)
        return NextEvent(
            events=events,  # type: ignore[arg-type]  # as above
            contracts=tuple(names),
            selects=where is not None or self._has_versions(names),
            where=where,
            timeout_us=None if timeout is None else duration_us(timeout),
            name=" or ".join(dict.fromkeys(each.name for each in contracts)),
        ), kind

    def _has_versions(self, names: Sequence[str]) -> bool:
        """Whether events of other versions reach the saga, too, which nobody reads as these."""
        heard = {each for found in self.events.values() for each in found}
        listened = [each.contract_name for each in heard]
        channels = [event_channel(each) for each in listened]
        return any(channels.count(event_channel(name)) > 1 for name in names)

    def _issue(
        self, shaped: ShapedNode, name: str, scope: Scope, item: ex.Type | None
    ) -> tuple[Action, ex.Type]:
        node, place = shaped.node, shaped.at("intent").place
        contract = self.messages.find(name, Kind.INTENT, place)
        if contract is None:
            return Join(), ex.ANY
        self.routing.issue(contract, place, self.notes)
        filling = self.messages.filling(
            contract,
            node.with_,
            shaped.at("with"),
            scope,
            what="intent",
            place=place,
            item=item,
        )
        self.contracts.add(contract.model)
        action = Issue(filling, self._policy(shaped, contract, scope))
        return action, type_of_reply(contract)

    def _policy(self, shaped: ShapedNode, contract: Contract, scope: Scope) -> Any:
        node = shaped.node
        undo = None
        if node.undo is not None:
            said = form.Undo(intent=node.undo) if isinstance(node.undo, str) else node.undo
            own: Scope = {**scope, node.node_id: type_of_reply(contract)}
            undo = self.messages.undo(said, contract, shaped, own)
        if undo is not None:
            undone = contract_of(undo.model)
            self.routing.issue(undone, shaped.at("undo").place, self.notes)
            self.contracts.add(undo.model)

        def note(problem: str) -> None:
            self.notes.note(shaped.at("retry").place, problem, MistakeCode.WRONG_VALUE)

        return policy(node, self.shaped.head.coordination_rules, undo, note)

    def _emitted(self, shaped: ShapedNode, scope: Scope) -> tuple[Action, ex.Type]:
        """A node that takes what handlers emit; without handlers it is its only routed intent."""
        node, place = shaped.node, shaped.at("intent_filter").place
        glob = str(node.intent_filter)
        found = self.routing.allowed(self.library.matching(glob, Kind.INTENT))
        if self.handlers is not None and not self._may_emit(found):
            if len(found) == 1:
                return self._issue(shaped, short_name(found[0]), scope, None)
            several = ", ".join(short_name(each) for each in found) or "none"
            message = (
                f"intent_filter `{glob}`: no handler emits any, so it has to match one routed "
                f"intent; it matches {several}"
            )
            self.notes.note(place, message, MistakeCode.NOT_ROUTED)
            return Join(), ex.ANY
        if not found:
            message = self.library.explain_unknown(glob, Kind.INTENT)
            self.notes.note(place, message, MistakeCode.UNKNOWN_CONTRACT)
        policies = {}
        for each in found:
            self.routing.issue(each, place, self.notes)
            policies[each.contract_name] = self._policy(shaped, each, scope)
            self.contracts.add(each.model)
        return IssueEmitted(frozenset(policies), policies), ex.LIST

    def _may_emit(self, intents: Sequence[Contract]) -> bool:
        """Whether the source of some handler names one of these."""
        named = {model for each in self.handlers or () for model in each.names()}
        return any(each.model in named for each in intents)

    def _child(
        self, shaped: ShapedNode, scope: Scope, item: ex.Type | None
    ) -> tuple[Action, ex.Type]:
        node, place = shaped.node, shaped.at("child").place
        contract = self.messages.find(str(node.child), Kind.EVENT, place)
        if contract is None:
            return Join(), ex.ANY
        self.routing.publish(contract, place, self.notes)
        self.contracts.add(contract.model)
        filling = self.messages.filling(
            contract, node.with_, shaped.at("with"), scope, what="child", place=place, item=item
        )
        return Child(filling, timeout_of(node, self.shaped.head.coordination_rules)), ex.ANY

    def _signal(self, shaped: ShapedNode) -> tuple[Action, ex.Type]:
        name, place = str(shaped.node.signal), shaped.at("signal").place
        model = self.signals.get(name)
        if model is None:
            known = did_you_mean(name, self.signals) or ": declare its fields under `signals`"
            message = f"signal `{name}` is not declared{known}"
            self.notes.note(place, message, MistakeCode.UNKNOWN_SIGNAL)
            return Join(), ex.ANY
        timeout = timeout_of(shaped.node, self.shaped.head.coordination_rules)
        timeout_us = None if timeout is None else duration_us(timeout)
        return WaitSignal(name, TypeAdapter(model), timeout_us), ex.type_of_model(model)

    def _set(self, shaped: ShapedNode, scope: Scope) -> tuple[Action, ex.Type]:
        node = shaped.node
        values: list[tuple[str, ex.Node]] = []
        types: dict[str, ex.Type] = {}
        for name, text in (node.set_ or {}).items():
            tree, types[name] = self.expressions.read(text, shaped, ("set", name), scope)
            if tree is not None:
                values.append((name, tree))
        return Compute(tuple(values)), ex.record(f"`{node.node_id}`", types)

    def _check_signals_used(self) -> None:
        used = {each.node.signal for each in self.graph.nodes}
        for name in self.signals:
            if name not in used and not self.shaped.refused:
                place = self.shaped.at("signals", name).place
                message = f"no node waits for the signal `{name}`"
                self.notes.note(place, message, MistakeCode.KEY_WITHOUT_EFFECT)


def _behind(depends_on: Sequence[Iterable[int]]) -> tuple[tuple[int, ...], ...]:
    behind: list[list[int]] = [[] for _ in depends_on]
    for number, before in enumerate(depends_on):
        for each in before:
            behind[each].append(number)
    return tuple(map(tuple, behind))
