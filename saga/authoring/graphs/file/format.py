"""The format of a contract file: one set of models, from which its reference and schema are made.

A value knows nothing of its place; `shaping` gives what is wrong with one its place back. Keys that
act are strict: a text is no number, and nothing is guessed. In files, the keys of a wrapper may
stand one level up, so the models have them there and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    Tag,
)
from pydantic_core import PydanticCustomError

from saga.contracts.models import NAME_PART
from saga.core.durations import DURATION_MAX_US, duration_us

NODES_MAX: Final = 200
AT_ONCE_MAX: Final = 1_000
ATTEMPTS_MAX: Final = 1_000
NODE_ID: Final = r"[a-z][a-z0-9_]*"
NODE_ID_CHARS_MAX: Final = 100
EXPRESSION_CHARS_MAX: Final = 1_000
TEXT_CHARS_MAX: Final = 4_000
GLOB: Final = r"[a-z0-9.*?-]+"
CONTRACT: Final = rf"{NAME_PART.pattern}\.{NAME_PART.pattern}(?:\.v[1-9][0-9]{{0,5}})?"
TOPIC: Final = r"(?:\{env\}\.\{namespace\}\.)?[a-z0-9.-]+"
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)", re.ASCII)
ACTIONS: Final = (
    *("intent", "intent_filter", "event_pattern", "signal", "sleep", "child", "set", "require"),
)


def _duration(text: str) -> str:
    if _DURATION.fullmatch(text) is None:
        raise PydanticCustomError("duration", "expected a length of time such as 30s, 5m, 2h or 1d")
    try:
        length_us = duration_us(text)
    except ValueError:
        raise PydanticCustomError("duration", "the longest is a century") from None
    if not 0 < length_us <= DURATION_MAX_US:
        raise PydanticCustomError("duration", "it is over before it has begun")
    return text


def _expression(text: object) -> object:
    """An expression may also be a plain value that YAML knows: `true`, `500`."""
    match text:
        case bool():
            return "true" if text else "false"
        case int() | None:
            return "null" if text is None else str(text)
    return text


Duration = Annotated[
    str,
    AfterValidator(_duration),
    Field(
        examples=["30s", "5m", "2h", "1d"],
        json_schema_extra={"pattern": r"^[0-9]+(\.[0-9]+)?\s*(ms|s|m|h|d)$"},
    ),
]
Expression = Annotated[
    str,
    BeforeValidator(_expression),
    Field(
        examples=["placed.amount > 500"],
        json_schema_extra={
            "type": ["string", "boolean", "integer", "null"],
            "minLength": 1,
            "maxLength": EXPRESSION_CHARS_MAX,
        },
    ),
]
NodeId = Annotated[
    str, Field(pattern=rf"^{NODE_ID}$", max_length=NODE_ID_CHARS_MAX, examples=["pay"])
]
Name = Annotated[str, Field(min_length=1, max_length=100)]
Text = Annotated[str, Field(max_length=TEXT_CHARS_MAX)]
Glob = Annotated[str, Field(pattern=rf"^{GLOB}$", max_length=200, examples=["order-placed.*"])]
ContractName = Annotated[
    str, Field(pattern=rf"^{CONTRACT}$", max_length=160, examples=["payments.pay"])
]
Values = Annotated[
    dict[Name, JsonValue],
    Field(examples=[{"receipt": "${pay.receipt}", "channel": "web"}]),
]
FieldType = JsonValue
Fields = Annotated[
    dict[Name, FieldType],
    Field(examples=[{"order_id": "str", "lines": [{"sku": "str"}], "note": "str?"}]),
]
NodeType = Literal["EFFECT_GENERIC", "COMPUTE_GENERIC", "REDUCER_GENERIC", "ORCHESTRATOR_GENERIC"]


def _by_shape(given: object) -> str:
    return "text" if isinstance(given, (str, int, float)) or given is None else "object"


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Undo(Part):
    """The intent that takes a step back, where it is not only filled by field name."""

    intent: ContractName = Field(description="the intent that undoes the step")
    with_: Values = Field(
        default_factory=dict,
        alias="with",
        description="fields, over those filled by name from intent and reply",
    )


class Outgoing(Part):
    """An event, and what is in it beside what is filled by field name."""

    event: ContractName = Field(
        description="the event that is published", examples=["orders.order-confirmed"]
    )
    with_: Values = Field(
        default_factory=dict, alias="with", description="fields, over those filled by name"
    )


class Require(Part):
    """Something without which the saga is rolled back."""

    that: Expression = Field(
        description="unless it is true, the saga is rolled back", examples=["approval.granted"]
    )
    code: Name = Field(
        default="rolled_back", description="the code of the rollback", examples=["declined"]
    )
    message: Text | None = Field(
        default=None,
        description="the reason of the rollback; by default what is required",
        examples=["the approval was declined"],
    )


class RetryPolicy(Part):
    """How often and how fast a failed attempt is repeated, as `Retry` says it in Python."""

    attempts: Annotated[int, Field(ge=1, le=ATTEMPTS_MAX)] | None = Field(
        default=3, description="all attempts, the first included; `null` is without limit"
    )
    initial: Duration = Field(default="500ms", description="the first delay")
    factor: Annotated[float, Field(ge=0, le=1_000)] = Field(
        default=2.0, description="by how much each further delay grows", examples=[2.0]
    )
    cap: Duration = Field(default="1m", description="the longest delay")
    jitter: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.2, description="the share of a delay that is left to chance", examples=[0.2]
    )
    within: Duration | None = Field(
        default=None, description="no attempt begins later than this after the first one"
    )
    never_on: list[Name] = Field(
        default=[], description="codes of failures that are final at once", examples=[["limit"]]
    )
    only_on: list[Name] | None = Field(
        default=None,
        description="codes of the failures that are tried again, where not all are",
        examples=[["busy", "timeout"]],
    )


UndoSpec = Annotated[
    Annotated[ContractName, Tag("text")] | Annotated[Undo, Tag("object")],
    Discriminator(_by_shape),
]
OutgoingSpec = Annotated[
    Annotated[ContractName, Tag("text")] | Annotated[Outgoing, Tag("object")],
    Discriminator(_by_shape),
]


class Node(Part):
    """One node: it waits for those it depends on, and does one thing."""

    node_id: NodeId = Field(
        description="names the step and, in expressions, its result", examples=["pay"]
    )
    node_type: NodeType | None = Field(
        default=None,
        description="derived; where given it must fit: `EFFECT_GENERIC` talks to the outside, "
        "`COMPUTE_GENERIC` and `REDUCER_GENERIC` are pure, `ORCHESTRATOR_GENERIC` is a child",
        examples=["EFFECT_GENERIC"],
    )
    description: Text | None = Field(
        default=None, description="a label; nothing acts on it", examples=["Takes the money"]
    )
    depends_on: list[NodeId] = Field(
        default=[],
        description="nodes that are done, or skipped, before this one begins; expressions may use "
        "the trigger and these, near or far",
        examples=[["reserve", "approved"]],
    )
    when: Expression | None = Field(
        default=None,
        description="false: the node is skipped, and its result is null",
        examples=["placed.amount > 500"],
    )
    for_each: Expression | None = Field(
        default=None,
        description="a list: the node is done once for each item",
        examples=["placed.suppliers"],
    )
    as_: NodeId | None = Field(
        default=None,
        alias="as",
        description="what expressions call the item",
        examples=["supplier"],
    )
    at_once: Annotated[int, Field(ge=1, le=AT_ONCE_MAX)] | None = Field(
        default=None, description="how many items at one time; by default all", examples=[5]
    )
    fail: Literal["wait", "fast"] = Field(
        default="wait",
        description="`wait`: all items settle before the first failure counts; `fast`: it counts "
        "at once",
    )
    intent: ContractName | None = Field(
        default=None,
        description="issue it and wait for its reply; without a version, the newest one",
    )
    intent_filter: Glob | None = Field(
        default=None,
        description="issue what handlers emitted and this matches, over `domain.name.vN` from any "
        "dot on; nothing emitted: skipped. Without handlers it must match one routed intent",
        examples=["payment.*"],
    )
    event_pattern: Annotated[list[Glob], Field(min_length=1, max_length=20)] | None = Field(
        default=None,
        description="the trigger, where nothing is depended on; else wait for the next such event "
        "of other services",
        examples=[["order-placed.*"]],
    )
    where: Expression | None = Field(
        default=None,
        description="of an event: only one for which this is true, as `event`",
        examples=["event.amount > 0"],
    )
    key: Name | None = Field(
        default=None,
        description="of an event: the field that holds the saga's key; by default the event's own",
        examples=["order_id"],
    )
    early: Duration | None = Field(
        default="10s",
        description="of an event of other services: how long one waits for a saga that is not "
        "there yet; `null`: not at all",
    )
    signal: Name | None = Field(
        default=None, description="wait for this signal", examples=["approval"]
    )
    sleep: Duration | None = Field(default=None, description="wait so long")
    child: ContractName | None = Field(
        default=None,
        description="run another saga, which this event starts, and wait for its end",
        examples=["parcels.parcel-packed"],
    )
    set_: Annotated[dict[NodeId, Expression], Field(min_length=1)] | None = Field(
        default=None,
        alias="set",
        description="compute values: each an expression",
        examples=[{"price": "min(offer.map(o, o.price))"}],
    )
    require: Require | None = Field(
        default=None,
        description="roll back unless something is true",
        examples=[{"that": "approval.granted", "code": "declined", "message": "declined"}],
    )
    with_: Values = Field(
        default_factory=dict,
        alias="with",
        description="fields, over those filled by name; texts may hold `${…}`, and one that is "
        "nothing else keeps its type",
    )
    undo: UndoSpec | None = Field(
        default=None,
        description="the intent that takes the step back, filled by field name from intent and "
        "reply; it must be fillable from the intent alone, as no reply may come",
        examples=["payments.refund"],
    )
    kind: Literal["compensatable", "pivot", "retriable", "read_only", "harmless"] | None = Field(
        default=None,
        description="what the step means for a rollback; with an undo `compensatable`",
        examples=["pivot"],
    )
    retry: RetryPolicy | None = Field(
        default=None, description="the policy for failed attempts and missed deadlines"
    )
    undo_retry: RetryPolicy | None = Field(
        default=None, description="the policy for undoing; without limit by default"
    )
    timeout: Duration | None = Field(
        default=None, description="the deadline of each attempt, or of a wait"
    )
    on_failure: Literal["roll_back", "continue"] = Field(
        default="roll_back",
        description="`continue`: the result is null, and what the step may have done is undone",
        examples=["continue"],
    )


class MessageFields(Part):
    """A contract that no Python class and no lock file has."""

    key: Name | None = Field(
        default=None,
        description="of an event: the field with the business key",
        examples=["order_id"],
    )
    fields: Fields = Field(
        default_factory=dict,
        description="its fields: `str int float bool date datetime uuid any`, `[T]`, `{name: T}`, "
        "and `T?` for what may be missing",
    )
    reply: ContractName | None = Field(
        default=None,
        description="of an intent: the event that answers it; `null`: it has none of its own",
        examples=["payments.paid"],
    )


class CoordinationRules(Part):
    """What holds for all nodes."""

    execution_mode: Literal["parallel", "sequential"] = Field(
        default="parallel",
        description="`parallel`: `depends_on` and nothing else says the order; `sequential`: one "
        "node at a time, in file order among those that are ready",
    )
    failure_recovery_strategy: Literal["retry", "compensate", "halt"] = Field(
        default="retry",
        description="`retry`: more attempts, then the saga is rolled back; `compensate`: no "
        "attempt more; `halt`: as `retry`, then it parks instead of undoing",
    )
    max_retries: Annotated[int, Field(ge=0, le=ATTEMPTS_MAX)] = Field(
        default=2, description="attempts after the first one, where a node has no `retry`"
    )
    timeout_ms: Annotated[int, Field(ge=1, le=DURATION_MAX_US // 1_000)] | None = Field(
        default=None,
        description="milliseconds: the timeout of nodes that have none",
        examples=[30_000],
    )


class Reference(Part):
    """A class as Python code names it. It is compared, and never imported."""

    name: Name = Field(
        description="the name of the class or function", examples=["HandlerOrderPlaced"]
    )
    module: Name | None = Field(
        default=None, description="its module; compared, never imported", examples=["shop.handlers"]
    )


class Route(Part):
    """Which handler is called with which event."""

    event_model: Reference = Field(description="the class of the event")
    handler: Reference = Field(description="the handler that is called with it")
    output_events: list[Name] = Field(
        default=[],
        description="the classes of the events that the handler may emit",
        examples=[["OrderValidated"]],
    )


class HandlerRouting(Part):
    """The handlers, as the file has them: compared with those that Python hands over."""

    routing_strategy: Literal["payload_type_match"] = Field(
        default="payload_type_match", description="handlers are found by the type of the payload"
    )
    handlers: list[Route] = Field(default=[], description="one for each class of events")


class PublishedEvent(Part):
    topic: Annotated[str, Field(pattern=rf"^{TOPIC}$", max_length=200)] = Field(
        description="the event's topic; `{env}.{namespace}.` before it is read as just that",
        examples=["{env}.{namespace}.orders.evt.order-validated.v1"],
    )
    event_type: Name = Field(description="the name of its class", examples=["OrderValidated"])


class SemanticVersion(Part):
    major: Annotated[int, Field(ge=1, le=10**6)] = Field(
        description="the version of the saga", examples=[1]
    )
    minor: Annotated[int, Field(ge=0)] = Field(default=0, description="a label")
    patch: Annotated[int, Field(ge=0)] = Field(default=0, description="a label")


Label = JsonValue


class WorkflowMetadata(Part):
    """Name and version of the saga, in the words of the wrapped layout."""

    workflow_name: Name | None = Field(
        default=None, description="the saga's name, before `name`", examples=["order"]
    )
    workflow_version: SemanticVersion | None = Field(
        default=None, description="`major` is the saga's version"
    )
    timeout_ms: Annotated[int, Field(ge=1, le=DURATION_MAX_US // 1_000)] | None = Field(
        default=None, description="milliseconds: the same as `deadline`", examples=[86_400_000]
    )
    description: Text | None = Field(default=None, description="a label", examples=["An order"])
    author: Label = Field(default=None, description="a label", examples=["the shop"])
    tags: Label = Field(default=None, description="a label", examples=[["orders"]])


class Head(Part):
    """All of a file but its nodes."""

    name: Name | None = Field(
        default=None,
        description="the saga's name: every saga's id is made from it, so it never changes",
        examples=["order"],
    )
    version: Annotated[int, Field(ge=1, le=10**6)] | None = Field(
        default=None,
        description="running sagas keep the version that they began with",
        examples=[1],
    )
    workflow_name: Name | None = Field(
        default=None, description="the saga's name, before `name`", examples=["order"]
    )
    workflow_version: SemanticVersion | None = Field(
        default=None, description="`major` is the saga's version"
    )
    workflow_metadata: WorkflowMetadata | None = Field(
        default=None, description="name, version and deadline, in the wrapped layout"
    )
    description: Text | None = Field(
        default=None, description="a label; nothing acts on it", examples=["An order"]
    )
    tags: Label = Field(default=None, description="a label", examples=[["orders"]])
    author: Label = Field(default=None, description="a label", examples=["the shop"])
    contract_version: Label = Field(default=None, description="a label", examples=["1.0.0"])
    node_version: Label = Field(default=None, description="a label", examples=["1.0.0"])
    node_type: Literal["ORCHESTRATOR_GENERIC"] | None = Field(
        default=None, description="a label", examples=["ORCHESTRATOR_GENERIC"]
    )
    messages: dict[ContractName, MessageFields] = Field(
        default_factory=dict,
        description="contracts that no Python class has",
        examples=[{"payments.pay": {"fields": {"order_id": "str"}, "reply": "payments.paid"}}],
    )
    signals: dict[Name, Fields] = Field(
        default_factory=dict,
        description="the fields of each signal",
        examples=[{"approval": {"granted": "bool"}}],
    )
    outcome: OutgoingSpec | None = Field(
        default=None,
        description="the event with which the saga completes, filled by field name from the "
        "trigger; none by default",
        examples=[{"event": "orders.order-confirmed", "with": {"receipt": "${pay.receipt}"}}],
    )
    rolled_back: OutgoingSpec | None = Field(
        default=None,
        description="the event of a saga that was rolled back, filled from the trigger and the "
        "report (`reason`, `code`, `failed_step`, `residue`)",
        examples=["orders.order-rejected"],
    )
    deadline: Duration | None = Field(
        default=None, description="for the whole saga: past it, it is rolled back"
    )
    parallel_undo: bool = Field(
        default=False, description="undo side by side what did not depend on each other"
    )
    when_stuck: Literal["halt", "continue"] = Field(
        default="halt",
        description="`halt`: a step that cannot be undone parks the saga; `continue`: it is "
        "residue",
    )
    coordination_rules: CoordinationRules = Field(
        default_factory=CoordinationRules, description="what holds for all nodes"
    )
    handler_routing: HandlerRouting | None = Field(
        default=None, description="which handler is called with which event"
    )
    published_events: list[PublishedEvent] | None = Field(
        default=None, description="where given, the only events that may leave the saga"
    )
    intent_routing_table: dict[Glob, Name] | None = Field(
        default=None,
        description="intent → effect service: where given, the only intents that may leave the "
        "saga; an effect service of this name in the application must handle it",
        examples=[{"payment.process": "payments"}],
    )


class ContractFile(Head):
    """A saga as a graph of nodes."""

    nodes: Annotated[list[Node], Field(min_length=1, max_length=NODES_MAX)] = Field(
        description="the graph"
    )


WRAPPERS: Final[Mapping[str, tuple[str, ...]]] = {
    "workflow_coordination": (
        *("workflow_definition", "workflow_metadata", "execution_graph", "coordination_rules"),
        "nodes",
    ),
    "workflow_definition": ("workflow_metadata", "execution_graph", "coordination_rules", "nodes"),
    "execution_graph": ("nodes",),
    "intent_consumption": ("intent_routing_table",),
}
"""What may stand in each wrapper of a file, and as well one level up."""
NODE_WRAPPER: Final = "step_config"
NOT_IN_STEP_CONFIG: Final = frozenset({"node_id", "node_type", "depends_on", "description"})
NO_RESULT_KEYS: Final = frozenset({"result", "projections", "output_model", "input_model"})
"""What no orchestrator has; its kind of node tells its end by an event."""
LABELS: Final = frozenset(
    {"description", "tags", "author", "contract_version", "node_version", "message"}
)
"""Keys whose values are for people."""


def keys_of(model: type[BaseModel]) -> dict[str, Any]:
    """The fields of a model by the names that files have for them."""
    return {field.alias or name: field for name, field in model.model_fields.items()}
