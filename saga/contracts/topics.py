"""Topics: their names, and the AsyncAPI 3.0 document of all that an application does with them.

The document tells a service in any language what it needs to take part. AsyncAPI knows JSON Schema
draft 7, so the few newer words are put into its terms; definitions that messages share stand once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from typing import Any, Final, Literal

import orjson
from pydantic.json_schema import models_json_schema

from saga.contracts.models import (
    NAME_PART,
    Contract,
    Kind,
    parse_contract_name,
    reply_contract_names,
)
from saga.contracts.registry import ContractRegistry
from saga.core.values import value

NAMING_PART_CHARS_MAX = 32
"""Of environment and namespace each: with the longest contract name still a legal topic."""
ASYNCAPI: Final = "3.0.0"
KAFKA_BINDING: Final = "0.5.0"
Document = dict[str, Any]
JsonSchema = dict[str, Any]
_DEFINITION: Final = "#/components/schemas/{model}"
_HEADERS: Final[Mapping[str, JsonSchema]] = {
    "ce_specversion": {"type": "string", "const": "1.0"},
    "ce_id": {"type": "string", "description": "the same id again is a repeat"},
    "ce_source": {"type": "string", "format": "uri-reference"},
    "ce_type": {"type": "string", "description": "the contract's name"},
    "ce_time": {"type": "string", "format": "date-time"},
    "ce_subject": {"type": "string", "description": "the saga's id"},
    "ce_correlationid": {"type": "string", "description": "the saga's id"},
    "ce_causationid": {"type": "string", "description": "the id of what led to this message"},
    "ce_idempotencykey": {"type": "string", "description": "stays when an attempt is repeated"},
    "ce_parentkey": {"type": "string", "description": "of a child's trigger: its parent's key"},
    "content-type": {"type": "string", "const": "application/json"},
    "traceparent": {"type": "string", "description": "W3C trace context"},
}
_REFERENCE: Final = re.compile(r'"\$ref":"[^"]*/([^"/]+)"')
_DESCRIPTION: Final = (
    "The key of every record of a saga (trigger, intent, reply, outcome, command) is its business"
    " key, UTF-8. A reply needs the same key and the header `ce_causationid` with the intent's"
    " `ce_id`; a trigger needs key and value only."
)
_SELDOM: Final = frozenset({"ce_parentkey", "traceparent"})
_ALWAYS_ON_INTENTS: Final = tuple(name for name in _HEADERS if name not in _SELDOM)


@value
class TopicNames:
    """The topics of one environment and namespace; ValueError if one cannot be part of a name."""

    env: str
    namespace: str
    _prefix: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name, part in (("env", self.env), ("namespace", self.namespace)):
            if not NAME_PART.fullmatch(part) or len(part) > NAMING_PART_CHARS_MAX:
                raise ValueError(
                    f"{name} {part[:100]!r} cannot be part of a topic's name: expected small"
                    f" letters, digits and inner hyphens, at most {NAMING_PART_CHARS_MAX}"
                )
        object.__setattr__(self, "_prefix", f"{self.env}.{self.namespace}.")

    def topic(self, contract_name: str) -> str:
        return self._prefix + contract_name

    def source(self, *parts: str) -> str:
        """Who says something here, as `ce_source` has it: `/{env}/{namespace}/…`."""
        return "/".join(("", self.env, self.namespace, *parts))

    def contract_name(self, topic: str) -> str | None:
        """The contract of this topic; None where it belongs to another namespace, or to none."""
        if not topic.startswith(self._prefix):
            return None
        name = topic[len(self._prefix) :]
        return name if parse_contract_name(name) is not None else None


@value(kw_only=True)
class Participant:
    """A saga or an effect service, its consumer group, and the contracts it receives and sends."""

    kind: Literal["saga", "effects"]
    name: str
    group: str
    receives: frozenset[str]
    sends: frozenset[str]
    versions: tuple[int, ...] = ()


@value(kw_only=True)
class TopicSettings:
    """How topics are made; None: as the brokers are set."""

    partitions: int
    replicas: int | None
    retention_s: int


def asyncapi_document(
    registry: ContractRegistry,
    participants: Sequence[Participant],
    *,
    names: TopicNames,
    topics: TopicSettings,
    servers: Sequence[str] = (),
    is_secure: bool = False,
    title: str,
    version: str | None = None,
) -> Document:
    """The document; without *version* it has one that changes with everything else in it."""
    contracts = {contract.contract_name: contract for contract in registry.contracts}
    intents = (contract for contract in contracts.values() if contract.kind is Kind.INTENT)
    replies = {name for intent in intents for name in reply_contract_names(intent)}
    protocol = "kafka-secure" if is_secure else "kafka"
    document: Document = {
        "asyncapi": ASYNCAPI,
        "info": {"title": title, "description": _DESCRIPTION},
        "defaultContentType": "application/json",
        "servers": {
            f"broker-{number}": {"host": server, "protocol": protocol}
            for number, server in enumerate(servers, 1)
        },
        "channels": {name: _channel(name, names, topics) for name in contracts},
        "operations": _operations(registry, participants),
        "components": {
            "messages": {
                name: _message(contract, registry, is_reply=name in replies)
                for name, contract in contracts.items()
            },
            "schemas": _schemas(registry.contracts),
        },
    }
    if version is None:
        digest = hashlib.sha256(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).hexdigest()
        version = f"1.0.0+{digest[:12]}"
    document["info"]["version"] = version
    return document


def _channel(name: str, names: TopicNames, topics: TopicSettings) -> Document:
    topic, retention_ms = names.topic(name), topics.retention_s * 1000
    kafka: Document = {
        "topic": topic,
        "partitions": topics.partitions,
        "topicConfiguration": {"cleanup.policy": ["delete"], "retention.ms": retention_ms},
        "bindingVersion": KAFKA_BINDING,
    }
    if topics.replicas is not None:
        kafka["replicas"] = topics.replicas
    return {
        "address": topic,
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
        "bindings": {"kafka": kafka},
    }


def _message(contract: Contract, registry: ContractRegistry, *, is_reply: bool) -> Document:
    name = contract.contract_name
    kinds = {Kind.INTENT: "intent", Kind.CONTROL: "command"}
    headers = "reply" if is_reply else kinds.get(contract.kind, "event")
    key: JsonSchema = {"type": "string", "minLength": 1, "description": "the business key"}
    if contract.key is not None:
        key["description"] = f"the business key: `{contract.key}` of the payload"
    made: Document = {
        "name": name,
        "title": contract.model.__name__,
        "contentType": "application/json",
        "headers": {"$ref": f"#/components/schemas/{headers}-headers"},
        "payload": {"$ref": f"#/components/schemas/{name}"},
        "bindings": {"kafka": {"key": key, "bindingVersion": KAFKA_BINDING}},
        "x-version": contract.version,
    }
    prose = (contract.model.__doc__ or "").strip()
    if prose:
        made["summary"] = " ".join(prose.split("\n\n", 1)[0].split())
    current = registry.current(name).contract_name
    if current != name:
        made["x-read-as"] = current
    return made


def _operations(registry: ContractRegistry, participants: Iterable[Participant]) -> Document:
    operations: Document = {}
    for participant in participants:
        for action, contracts in (("receive", participant.receives), ("send", participant.sends)):
            whose = f"{participant.kind}.{_legal(participant.name)}.{action}"
            for name in sorted(contracts):
                operations[f"{whose}.{name}"] = _operation(registry, participant, action, name)
    return operations


def _operation(
    registry: ContractRegistry, participant: Participant, action: str, contract: str
) -> Document:
    verb = "receives" if action == "receive" else "sends"
    made: Document = {
        "action": action,
        "channel": {"$ref": f"#/channels/{contract}"},
        "messages": [{"$ref": f"#/channels/{contract}/messages/{contract}"}],
        "summary": f"{participant.kind} {participant.name!r} {verb} {contract}",
    }
    if participant.versions:
        made["x-versions"] = list(participant.versions)
    if action == "receive":
        group = {"type": "string", "enum": [participant.group]}
        made["bindings"] = {"kafka": {"groupId": group, "bindingVersion": KAFKA_BINDING}}
    intent = registry.find(contract)
    if intent.kind is Kind.INTENT:
        done, failed = reply_contract_names(intent)
        made["reply"] = {"channel": {"$ref": f"#/channels/{done}"}}
        made["x-failure"] = {"$ref": f"#/channels/{failed}"}
    return made


def _schemas(contracts: Sequence[Contract]) -> Document:
    """Payloads under their contracts' names, what is inside them under its own, and headers."""
    by_model, shared = models_json_schema(
        [(contract.model, "validation") for contract in contracts],
        by_alias=True,
        ref_template=_DEFINITION,
    )
    definitions: Document = shared.get("$defs", {})
    schemas = {
        "event-headers": _headers(),
        "reply-headers": _headers("ce_causationid"),
        "intent-headers": _headers(*_ALWAYS_ON_INTENTS),
        "command-headers": _headers(),
    }
    inner = dict(definitions)
    for contract in contracts:
        reference = by_model[contract.model, "validation"]["$ref"].rpartition("/")[2]
        schemas[contract.contract_name] = _draft_7(definitions[reference])
        inner.pop(reference, None)
    used = set(_REFERENCE.findall(orjson.dumps([*schemas.values(), *inner.values()]).decode()))
    for name, schema in definitions.items():
        # A contract's model within another one's is also there under the name that it has there.
        if name in inner or name in used:
            schemas[name] = _draft_7(schema)
    return schemas


def _headers(*required: str) -> JsonSchema:
    schema: JsonSchema = {"type": "object", "properties": dict(_HEADERS)}
    return schema | {"required": list(required)} if required else schema


def _draft_7(schema: Any) -> Any:
    """*schema* in draft 7: tuples are lists of items, a discriminator is a plain union."""
    match schema:
        case dict():
            translated = {
                name: _draft_7(value)
                for name, value in schema.items()
                if not (name == "discriminator" and isinstance(value, dict))
            }
            if isinstance(translated.get("prefixItems"), list):
                rest = translated.pop("items", None)
                translated["items"] = translated.pop("prefixItems")
                if rest is not None:
                    translated["additionalItems"] = rest
            return translated
        case list():
            return [_draft_7(part) for part in schema]
        case _:
            return schema


def _legal(name: str) -> str:
    """A saga's name, of any characters, as part of an operation's name: the same for no other."""
    return re.sub(r"[^A-Za-z0-9-]", lambda found: f"_{ord(found[0]):x}_", name)
