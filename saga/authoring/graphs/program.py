"""A contract graph as a program: how things ended goes in, what its ready nodes do comes out.

Theory of operation: a node is ready once all that it depends on are done or skipped, and ready
nodes begin in file order. Results are JSON, under the node's id, for expressions. Nothing here
waits, retries or undoes: the kernel does, as for functions. A failure that is the saga's is given
as `Fail` and changes nothing here, as past the pivot its step may yet be tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import partial
from heapq import heappop, heappush
from typing import Any, Final

import orjson
from pydantic import BaseModel, JsonValue, ValidationError

from saga.authoring.declaration import Surroundings
from saga.authoring.exact import NoData
from saga.authoring.failures import fail_of, step_failed
from saga.authoring.graphs.emitting import Emitted
from saga.authoring.graphs.expressions import evaluate
from saga.authoring.graphs.filling import json_of, made
from saga.authoring.graphs.plan import (
    Child,
    Compute,
    Filling,
    Graph,
    GraphNode,
    Issue,
    IssueEmitted,
    Join,
    NextEvent,
    Policy,
    Require,
    Sleep,
    Trigger,
    WaitSignal,
)
from saga.authoring.mapping import fill_report
from saga.authoring.messages import (
    read_event,
    read_payload,
    refusal_of_payload,
)
from saga.authoring.seclusion import secluded
from saga.authoring.steps import (
    AuthoredStep,
    ChildStep,
    Steps,
    UndoSpec,
    read_reply,
    refusal_of_entered,
    refusal_of_reply,
    result_of_child,
    undo_of,
)
from saga.authoring.told_steps import (
    StepTable,
    failure_from_plain,
    failure_to_plain,
    message_from_plain,
    message_to_plain,
)
from saga.contracts import ContractModel, Event, Intent, contract_of, message_of, read
from saga.core import program as kernel
from saga.core.events import (
    Arrival,
    ChildEnded,
    EventReceived,
    Message,
    SignalReceived,
)
from saga.core.identity import Instant, StepId
from saga.core.program import (
    Command,
    DoStep,
    DropBranch,
    Finish,
    Park,
    RefuseKept,
    Report,
    StepFailure,
)
from saga.core.runs import prefix
from saga.core.texts import storable
from saga.errors import ChildRolledBack, DefinitionError, RollBack, StepFailed, TimedOut

ITEMS_MAX: Final = 10_000
"""Of a `for_each`: each item is a step of one saga, with its entries."""
ItemFailure = StepFailed | TimedOut | ChildRolledBack
Failure = ItemFailure | RollBack


class Stand(IntEnum):
    WAITING = 0
    RUNNING = 1
    DONE = 2
    SKIPPED = 3


@dataclass(slots=True, eq=False)
class GraphStep(AuthoredStep):
    """A step of the node *at*, for the item of this number."""

    at: int = field(default=0, init=False)
    item: int = field(default=0, init=False)


@dataclass(slots=True, eq=False)
class GraphChild(ChildStep):
    at: int = field(default=0, init=False)
    item: int = field(default=0, init=False)


NodeStep = GraphStep | GraphChild


class Fan:
    """The steps of one node: of each item of its list, or of each intent that it took."""

    __slots__ = ("failures", "held", "is_list", "items", "results", "settled", "steps", "unbegun")

    def __init__(self, items: Sequence[Any], *, is_list: bool) -> None:
        self.items = items
        self.is_list = is_list
        """Whether its result is a list, and not that of its only step."""
        self.results: list[JsonValue] = [None] * len(items)
        self.failures: dict[int, ItemFailure] = {}
        self.steps: list[StepId] = []
        self.settled: set[int] = set()
        self.held: set[int] = set()
        """Those that have failed and may be tried again: they only let others begin."""
        self.unbegun = 0

    def may_begin(self, at_once: int | None) -> bool:
        if self.unbegun == len(self.items):
            return False
        return at_once is None or self.unbegun - len(self.settled) - len(self.held) < at_once

    def to_plain(self) -> dict[str, Any]:
        """All of it but its items, as JSON."""
        failures = [[item, failure_to_plain(each)] for item, each in self.failures.items()]
        sets = [sorted(self.settled), sorted(self.held)]
        lists = [self.results, self.steps, failures, *sets]
        return {"is_list": self.is_list, "unbegun": self.unbegun, "lists": lists}

    @classmethod
    def of(cls, told: Mapping[str, Any], items: Sequence[Any]) -> Fan:
        """The fan of which `to_plain` gave this."""
        fan = cls(items, is_list=told["is_list"])
        fan.unbegun = told["unbegun"]
        fan.results, fan.steps, failures, settled, held = told["lists"]
        fan.failures = {item: failure_from_plain(each) for item, each in failures}
        fan.settled, fan.held = set(settled), set(held)
        return fan

    @property
    def result(self) -> JsonValue:
        return list(self.results) if self.is_list else self.results[0]


class GraphProgram:
    """One run of a saga that is written as a graph."""

    __slots__ = (
        *("_commands", "_emitted", "_ends", "_fans", "_graph", "_has_passed_wait", "_is_live"),
        *("_is_over", "_missing", "_names", "_prefix", "_ready", "_registry", "_running"),
        *("_settled", "_stands", "_steps", "_steps_made", "_trigger", "_waits"),
        *("__weakref__", "patches"),
    )

    def __init__(self, graph: Graph, around: Surroundings, run: int) -> None:
        self._graph = graph
        self._registry = around.registry
        self._prefix = prefix(run)
        self._steps_made = Steps(around.registry, run)
        self._trigger: BaseModel | None = None
        self._names: dict[str, JsonValue] = {}
        self._stands = [Stand.WAITING] * len(graph.nodes)
        self._missing = [len(node.depends_on) for node in graph.nodes]
        self._is_live = [False] * len(graph.nodes)
        """By node: whether something that it depends on was not skipped."""
        self._ready: list[int] = []
        self._running = self._settled = 0
        self._ends: list[tuple[StepId, ...]] = [()] * len(graph.nodes)
        """By node: the nearest steps behind whatever depends on it."""
        self._fans: dict[int, Fan] = {}
        self._steps = StepTable[NodeStep]()
        self._waits: dict[str, int] = {}
        """By the names of waits and sleeps: whose they are."""
        self._emitted = Emitted(graph, around.registry)
        self._commands: list[Command] = []
        self._is_over = False
        self._has_passed_wait = False
        """Whether what is kept may be what no node ahead takes any more."""
        self.patches: frozenset[str] | None = None

    def take_patches(self, patches: Iterable[str]) -> None:
        """A graph has none."""

    def start(self, trigger: Message, _: Instant) -> Sequence[Command]:
        event = self._trigger = read(self._registry, trigger)
        for index, node in enumerate(self._graph.nodes):
            if not isinstance(node.action, Trigger):
                continue
            if isinstance(event, node.action.events) and self._is_begun_by(node, event):
                self._hear(index, event)
            else:
                self._skip(index)
        return self._gone_on()

    def know_trigger(self, trigger: Message) -> None:
        event = self._trigger = read(self._registry, trigger)
        for index in self._graph.reads:
            node = self._graph.nodes[index]
            if isinstance(node.action, Trigger) and isinstance(event, node.action.events):
                self._names[node.id] = json_of(event)

    def succeeded(self, step: StepId, reply: Message | None, _: Instant) -> Sequence[Command]:
        made_step = self._steps[step]
        result = None
        if reply is not None and made_step.at in self._graph.reads:
            result = json_of(read_reply(self._registry, made_step, reply))
        return self._item_done(made_step, result)

    def gave_out(
        self, step: StepId, failure: StepFailure, _: Instant, *, is_refused: bool
    ) -> Sequence[Command]:
        return self._item_failed(
            self._steps[step], step_failed(step, failure, is_refused=is_refused)
        )

    def child_ended(self, step: StepId, ended: ChildEnded | None, _: Instant) -> Sequence[Command]:
        child = self._steps[step]
        assert isinstance(child, GraphChild), child
        result = result_of_child(self._registry, child, ended)
        if isinstance(result, TimedOut | ChildRolledBack):
            return self._item_failed(child, result)
        outcome = None if ended is None else ended.outcome
        said = None if outcome is None else orjson.loads(outcome.payload)
        return self._item_done(child, said)

    def hold(self, step: StepId, _: Instant) -> Sequence[Command]:
        made_step = self._steps[step]
        self._fans[made_step.at].held.add(made_step.item)
        self._begin_items(made_step.at)
        return self._given()

    def slept(self, name: str, _: Instant) -> Sequence[Command]:
        return self._done(self._waits.pop(name), None)

    def arrived(self, wait: str, arrival: Arrival, _: Instant) -> Sequence[Command]:
        if self._is_over:
            return ()
        index = self._waits.pop(wait)
        action = self._graph.nodes[index].action
        if isinstance(action, NextEvent):
            assert isinstance(arrival, EventReceived), arrival
            event = read_event(self._registry, arrival)
            self._hear(index, event)
            return self._gone_on()
        assert isinstance(action, WaitSignal), action
        result = None
        if index in self._graph.reads:
            signal = read_payload(action.adapter, arrival.payload)
            result = action.adapter.dump_python(signal, mode="json")
        return self._done(index, result)

    def timed_out(self, wait: str, _: Instant) -> Sequence[Command]:
        index = self._waits.pop(wait)
        action = self._graph.nodes[index].action
        assert isinstance(action, NextEvent | WaitSignal), action
        kind: Any = "signal" if isinstance(action, WaitSignal) else "event"
        return self._failed(index, TimedOut(action.name, kind), ())

    def undone(self, scope: str, _: Instant) -> Sequence[Command]:
        raise AssertionError(scope)  # a graph has no scopes

    def policy_of(self, step: StepId) -> DoStep:
        return self._steps[step]

    def takes(self, arrival: Arrival) -> str | None:
        """Why no node that has not had its own takes what has come; None where one does."""
        refusal: str | None = f"no node ahead takes {_told(arrival)}"
        for number, node in enumerate(self._graph.nodes):
            if self._stands[number] > Stand.RUNNING:
                continue
            match node.action, arrival:
                case WaitSignal(name=name, adapter=adapter), SignalReceived() if (
                    arrival.name == name
                ):
                    return refusal_of_payload(adapter, arrival.payload)
                case NextEvent(events=events), EventReceived() if isinstance(
                    read_event(self._registry, arrival), events
                ):
                    return None
        return refusal

    def place_of(self, step: StepId) -> str | None:
        return self._place(self._graph.nodes[self._steps[step].at])

    def stands_at(self, name: str | None) -> str | None:
        """The node that has this name, else the first one that runs."""
        own = (name or "").removeprefix(self._prefix)
        named = (own, own.rpartition("-")[0])  # each item but the first has a number behind it
        nodes = self._graph.nodes
        found = next((node for each in named for node in nodes if node.id == each), None)
        running = (node for at, node in enumerate(nodes) if self._stands[at] is Stand.RUNNING)
        found = found or next(running, None)
        return None if found is None else self._place(found)

    def accepts(self, wait: str, arrival: Arrival) -> bool:
        action = self._graph.nodes[self._waits[wait]].action
        assert isinstance(action, NextEvent), action
        assert isinstance(arrival, EventReceived), arrival
        event = read_event(self._registry, arrival)
        if not isinstance(event, action.events):
            return False  # another version, which nobody reads as this one
        if action.where is None:
            return True
        return evaluate(action.where, {**self._names, "event": json_of(event)}) is True

    def refusal_of(self, wait: str, arrival: Arrival) -> str | None:
        index = self._waits.get(wait)
        action = None if index is None else self._graph.nodes[index].action
        if not isinstance(action, WaitSignal):
            return None
        return refusal_of_payload(action.adapter, arrival.payload)

    def refusal_of_reply(self, step: StepId, reply: Message | None) -> str | None:
        return refusal_of_reply(self._registry, self._steps[step], reply)

    def refusal_of_entered(self, step: StepId, reply: Message | None) -> str | None:
        return refusal_of_entered(self._registry, self._steps[step], reply)

    def undo_of(self, step: StepId, reply: Message | None) -> Message:
        return undo_of(self._registry, self._steps[step], reply)

    def outcome_of(self, report: Report) -> Message | None:
        filling, trigger = self._graph.rolled_back, self._trigger
        if filling is None or trigger is None:
            return None
        if not filling.given:
            return message_of(fill_report(filling.model, trigger, report))
        reported: dict[str, JsonValue] = {
            "reason": report.reason,
            "code": report.code,
            "failed_step": report.failed_step,
            "residue": [*report.residue],
        }
        return message_of(made(filling, self._names, trigger, reported))

    def snapshot(self) -> Mapping[str, Any] | None:
        try:
            return self._to_plain()
        except NoData:
            return None

    def restore(self, snapshot: Mapping[str, Any], trigger: Message) -> None:
        told = snapshot
        with secluded():
            self._trigger = read(self._registry, trigger)
            self._fans = {
                index: Fan.of(fan, [self._item_from(each) for each in fan["items"]])
                for index, fan in told["fans"]
            }
            self._steps.take(self._registry, told["steps"], _made, self._finish)
            self._emitted.intents = [
                message_from_plain(self._registry, each)  # type: ignore[misc]  # as was told
                for each in told["emitted"]
            ]
        self._names = told["names"]
        self._stands = [Stand(each) for each in told["stands"]]
        self._missing, self._is_live, self._ready = told["missing"], told["live"], told["ready"]
        self._running, self._settled = told["count"]
        self._is_over, self._has_passed_wait = told["over"]
        self._ends = [tuple(each) for each in told["ends"]]
        self._waits, self._steps_made.numbers = told["waits"], told["ids"]

    def close(self) -> None:
        self._is_over = True

    def _to_plain(self) -> dict[str, Any]:
        """Where it stands, as JSON; NoData where that cannot be told."""
        registry = self._registry
        return {
            "steps": self._steps.to_plain(registry, _more_of),
            "fans": [
                [index, fan.to_plain() | {"items": [self._item_to(each) for each in fan.items]}]
                for index, fan in self._fans.items()
            ],
            "emitted": [message_to_plain(registry, each) for each in self._emitted.intents],
            "names": self._names,
            "stands": self._stands,
            "missing": self._missing,
            "live": self._is_live,
            "ready": self._ready,
            "count": [self._running, self._settled],
            "over": [self._is_over, self._has_passed_wait],
            "ends": self._ends,
            "waits": self._waits,
            "ids": self._steps_made.numbers,
        }

    def _item_to(self, item: object) -> list[Any]:
        """An item of a fan: JSON, or an intent that a handler has emitted."""
        if isinstance(item, Intent):
            return ["emitted", message_to_plain(self._registry, item)]
        return ["is", item]

    def _item_from(self, told: list[Any]) -> object:
        kind, item = told
        return message_from_plain(self._registry, item) if kind == "emitted" else item

    def _finish(self, step: NodeStep, more: list[Any]) -> None:
        """Give a step its place, and the undo that its node has."""
        step.at, step.item, _ = more
        node = self._graph.nodes[step.at]
        action = node.action
        if isinstance(action, IssueEmitted):
            step.undo = self._undo(node, action.policies[step.contract], None)
        elif isinstance(action, Issue):
            step.undo = self._undo(node, action.policy, self._fans[step.at].items[step.item])

    def _gone_on(self) -> Sequence[Command]:
        """Begin what is ready; end the saga where nothing is left."""
        graph, ready = self._graph, self._ready
        while ready and not self._is_over and not (graph.is_sequential and self._running):
            self._begin(heappop(ready))
        if self._is_over:
            return self._given()
        if self._settled == len(graph.nodes):
            self._is_over = True
            self._commands.append(Finish(self._outcome()))
        elif self._has_passed_wait:
            self._commands.append(RefuseKept())
            self._has_passed_wait = False
        return self._given()

    def _given(self) -> Sequence[Command]:
        commands, self._commands = self._commands, []
        return commands

    def _outcome(self) -> Message | None:
        filling = self._graph.outcome
        if filling is None:
            return None
        return message_of(self._made(filling))

    def _is_wanted(self, node: GraphNode) -> bool:
        return node.when is None or evaluate(node.when, self._names) is True

    def _is_begun_by(self, node: GraphNode, event: BaseModel) -> bool:
        if node.when is None:
            return True
        return evaluate(node.when, {node.id: json_of(event)}) is True

    def _begin(self, index: int) -> None:
        node, action = self._graph.nodes[index], self._graph.nodes[index].action
        if not self._is_live[index] or not self._is_wanted(node):
            self._skip(index)
            return
        match action:
            case Issue() | Child():
                self._begin_fan(index, node)
            case Compute(values=values):
                self._settle(index, {name: evaluate(each, self._names) for name, each in values})
            case Require(that=that, code=code, message=message):
                if evaluate(that, self._names) is True:
                    self._settle(index, None)
                else:
                    self._fail(index, RollBack(message, code=code), {})
            case Join():
                self._settle(index, None)
            case IssueEmitted(takes=takes):
                taken = self._emitted.take(takes)
                if taken:
                    self._run(index)
                    self._fans[index] = Fan(taken, is_list=True)
                    self._begin_items(index)
                else:
                    self._skip(index)
            case _:
                self._wait(index, node)

    def _wait(self, index: int, node: GraphNode) -> None:
        name, action = self._prefix + node.id, node.action
        self._run(index)
        self._waits[name] = index
        match action:
            case Sleep(length_us=length_us):
                self._commands.append(kernel.Sleep(name, length_us))
            case WaitSignal(name=signal, timeout_us=timeout_us):
                self._commands.append(kernel.Await(name, timeout_us, signals=(signal,)))
            case NextEvent(contracts=contracts, selects=selects, timeout_us=timeout_us):
                self._commands.append(
                    kernel.Await(name, timeout_us, contracts=contracts, selects=selects)
                )
            case _:
                raise AssertionError(action)

    def _begin_fan(self, index: int, node: GraphNode) -> None:
        items: Sequence[JsonValue] = [None]
        if node.each is not None:
            found = evaluate(node.each.items, self._names)
            items = found if isinstance(found, list) else []
        if len(items) > ITEMS_MAX:
            raise DefinitionError(
                f"`{node.id}` is to be done for {len(items):,} items, of at most {ITEMS_MAX:,}",
                where=self._place(node),
            )
        if not items:
            self._settle(index, [])
            return
        self._run(index)
        self._fans[index] = Fan(items, is_list=node.each is not None)
        self._begin_items(index)

    def _begin_items(self, index: int) -> None:
        node, fan = self._graph.nodes[index], self._fans[index]
        at_once = None if node.each is None else node.each.at_once
        after = self._nearest(node)
        while fan.may_begin(at_once):
            number, fan.unbegun = fan.unbegun, fan.unbegun + 1
            id = node.id if not number else f"{node.id}-{number + 1}"
            step = self._step(node, id, fan.items[number])
            step.after, step.at, step.item = after, index, number
            self._steps[step.step] = step
            fan.steps.append(step.step)
            self._commands.append(step)

    def _step(self, node: GraphNode, id: str, item: Any) -> NodeStep:
        action = node.action
        if isinstance(action, IssueEmitted):
            intent = item
            policy = action.policies[contract_of(intent).contract_name]
            return self._do(node, id, intent, policy, None)
        assert isinstance(action, Issue | Child), action
        message = self._made(action.filling, item, node)
        if isinstance(action, Issue):
            assert isinstance(message, Intent), message
            return self._do(node, id, message, action.policy, item)
        assert isinstance(message, Event), message
        return self._steps_made.child(
            GraphChild,
            message,
            timeout=action.timeout,
            id=id,
            call=f"`{node.id}`",
        )

    def _do(
        self, node: GraphNode, id: str, intent: Intent[Any], policy: Policy, item: Any
    ) -> GraphStep:
        return self._steps_made.do(
            GraphStep,
            intent,
            undo=self._undo(node, policy, item),
            id=id,
            kind=policy.kind,
            retry=policy.retry,
            timeout=policy.timeout,
            undo_retry=policy.undo_retry,
            call=f"`{node.id}`",
        )

    def _undo(self, node: GraphNode, policy: Policy, item: Any) -> UndoSpec | None:
        filling = policy.undo
        if filling is None:
            return None
        if not filling.given:
            return filling.model  # type: ignore[return-value]  # an undo fills intents only

        def undo(intent: BaseModel, reply: BaseModel | None) -> Any:
            names = {**self._named(node, item), node.id: None if reply is None else json_of(reply)}
            return made(filling, names, *([intent] if reply is None else [intent, reply]))

        return undo

    def _made(
        self, filling: Filling, item: JsonValue = None, node: GraphNode | None = None
    ) -> ContractModel:
        names = self._names if item is None or node is None else self._named(node, item)
        try:
            sources = (self._trigger,) if item is None else (self._trigger, item)
            return made(filling, names, *sources)
        except ValidationError as invalid:
            problem = invalid.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in problem["loc"]) or "its fields"
            what, where = "the outcome", self._graph.file
            if node is not None:
                what, where = f"`{node.id}`", self._place(node)
            contract = contract_of(filling.model).contract_name
            raise DefinitionError(
                storable(f"{what} cannot fill {contract}: {place}: {problem['msg']}"),
                where=where,
            ) from invalid

    def _named(self, node: GraphNode, item: JsonValue) -> Mapping[str, JsonValue]:
        if node.each is None or node.each.name is None:
            return self._names
        return {**self._names, node.each.name: item}

    def _nearest(self, node: GraphNode) -> tuple[StepId, ...]:
        """The steps that a node depends on, without those that these depend on themselves."""
        if len(node.depends_on) == 1:
            return self._ends[node.depends_on[0]]
        found = dict.fromkeys(step for each in node.depends_on for step in self._ends[each])
        if len(found) <= 1:
            return tuple(found)
        owners = {self._steps[step].at for step in found}
        behind = {each for owner in owners for each in self._graph.nodes[owner].before}
        return tuple(step for step in found if self._steps[step].at not in behind)

    def _run(self, index: int) -> None:
        self._stands[index] = Stand.RUNNING
        self._running += 1

    def _hear(self, index: int, event: BaseModel) -> None:
        """A node has its event: tell its handler, if there is one."""
        node = self._graph.nodes[index]
        self._settle(index, json_of(event) if index in self._graph.reads else None)
        if not self._graph.handlers:
            return
        ahead = [
            each.action.takes
            for number, each in enumerate(self._graph.nodes)
            if isinstance(each.action, IssueEmitted) and self._stands[number] is Stand.WAITING
        ]
        for published in self._emitted.hear(event, ahead):
            self._commands.append(self._steps_made.publish(published, f"`{node.id}`"))

    def _settle(self, index: int, result: JsonValue) -> None:
        if self._stands[index] is Stand.RUNNING:
            self._running -= 1
        self._stands[index] = Stand.DONE
        node, fan = self._graph.nodes[index], self._fans.get(index)
        if index in self._graph.reads:
            self._names[node.id] = result
        self._ends[index] = self._nearest(node) if fan is None else tuple(fan.steps)
        self._pass(index)

    def _skip(self, index: int) -> None:
        self._stands[index] = Stand.SKIPPED
        self._ends[index] = self._nearest(self._graph.nodes[index])
        self._pass(index)

    def _pass(self, index: int) -> None:
        """What depends on a node that is through comes nearer."""
        self._settled += 1
        if index in self._graph.waits:
            self._has_passed_wait = True
        missing, is_done = self._missing, self._stands[index] is Stand.DONE
        for each in self._graph.behind[index]:
            if is_done:
                self._is_live[each] = True
            left = missing[each] = missing[each] - 1
            if not left:
                heappush(self._ready, each)

    def _done(self, index: int, result: JsonValue) -> Sequence[Command]:
        self._settle(index, result)
        return self._gone_on()

    def _item_done(self, step: NodeStep, result: JsonValue) -> Sequence[Command]:
        fan = self._fans[step.at]
        fan.held.discard(step.item)
        fan.settled.add(step.item)
        fan.results[step.item] = result
        return self._go_on_with_items(step.at, fan)

    def _item_failed(self, step: NodeStep, failure: ItemFailure) -> Sequence[Command]:
        node, fan = self._graph.nodes[step.at], self._fans[step.at]
        fan.held.discard(step.item)
        fan.settled.add(step.item)
        fan.failures[step.item] = failure
        if node.each is not None and node.each.fails_fast:
            return self._failed(step.at, failure, tuple(fan.steps))
        return self._go_on_with_items(step.at, fan)

    def _go_on_with_items(self, index: int, fan: Fan) -> Sequence[Command]:
        if len(fan.settled) < len(fan.items):
            self._begin_items(index)
            return self._given()
        if not fan.failures:
            return self._done(index, fan.result)
        return self._failed(index, fan.failures[min(fan.failures)], tuple(fan.steps))

    def _failed(self, index: int, failure: Failure, steps: tuple[StepId, ...]) -> Sequence[Command]:
        """A node has failed: the saga goes on without it, or is rolled back."""
        node, fan = self._graph.nodes[index], self._fans.get(index)
        if node.continues:
            if steps:
                self._commands.append(DropBranch(steps))
            return self._done(index, None)
        # One that halts parks as though it had not been told: its other items go on.
        if fan is not None and len(fan.settled) < len(fan.items) and not self._graph.halts:
            self._commands.append(DropBranch(steps))
        self._fail(index, failure, {} if fan is None else fan.failures)
        return self._given()

    def _fail(self, index: int, failure: Failure, others: Mapping[int, Failure]) -> None:
        """The saga has failed: it is rolled back, or parks where its contract halts then."""
        self._is_over = True
        again = {
            StepId(each.step): each.message
            for each in others.values()
            if isinstance(each, StepFailed)
        }
        failed = fail_of(failure)
        if self._graph.halts and not isinstance(failure, RollBack):
            place = self._place(self._graph.nodes[index])
            self._commands.append(Park(failed.reason, place, tuple(again)))
        else:
            self._commands.append(replace(failed, again=again))

    def _place(self, node: GraphNode) -> str:
        return f"{self._graph.file}:{node.line}"


def _more_of(step: NodeStep) -> list[Any]:
    """What only a graph knows of a step."""
    return [step.at, step.item, isinstance(step, GraphChild)]


def _made(*told: Any) -> NodeStep:  # what a step is, and its place
    *said, (*_, is_child) = told
    make: Callable[..., NodeStep] = partial(GraphChild, outcome=None) if is_child else GraphStep
    return make(*said, None)


def _told(arrival: Arrival) -> str:
    match arrival:
        case SignalReceived(name=name):
            return f"signal {name!r}"
        case EventReceived(contract=contract):
            return f"event {contract}"
    return f"update {arrival.name!r}"
