"""The lock file: every published contract's JSON Schema, as its readers know it.

`check` compares it with the code at hand. Nothing may be demanded that the messages of yesterday
do not have, and nothing left out that the readers of yesterday demand. Widening what a known field
may hold is let through, with the advice to deploy readers first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, Final

from saga.contracts.models import Contract, Kind, reply_contract_names
from saga.contracts.registry import ContractRegistry
from saga.core.values import value
from saga.errors import ContractChanged, DefinitionError

LOCK_FORMAT = 1
Schema = Mapping[str, Any]
NEW_VERSION = "publish it as a new major version and join the two with @upcast"
READERS_FIRST = "deploy all readers before the first publisher"
LOCK = "run `saga topics lock` and commit the lock file"
_PROSE = frozenset(("title", "description", "examples"))
_NAMED = frozenset(("properties", "$defs"))
"""Keywords whose members are names of the author's choice, not keywords."""
_MEMBERS = "additionalProperties"
"""The values of a mapping, under names that are no fields."""
_NOT_CONSTRAINTS = _PROSE | {
    *("$defs", "$ref", "allOf", "anyOf", "oneOf", "discriminator", "type", "format"),
    *("properties", "required", _MEMBERS, "items", "prefixItems", "enum", "const", "default"),
}
_LOWER_BOUNDS = frozenset(("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"))
_UPPER_BOUNDS = frozenset(("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"))
_NARROWING = frozenset(("pattern", "multipleOf", "uniqueItems"))


class ChangeKind(StrEnum):
    CONTRACT_ADDED = "contract_added"
    CONTRACT_REMOVED = "contract_removed"
    KEY_CHANGED = "key_changed"
    REPLY_CHANGED = "reply_changed"
    REQUIRED_ADDED = "required_added"
    OPTIONAL_ADDED = "optional_added"
    REQUIRED_REMOVED = "required_removed"
    OPTIONAL_REMOVED = "optional_removed"
    MADE_REQUIRED = "made_required"
    MADE_OPTIONAL = "made_optional"
    TYPE_CHANGED = "type_changed"
    VALUES_REMOVED = "values_removed"
    VALUES_ADDED = "values_added"
    NARROWED = "narrowed"
    WIDENED = "widened"
    DEFAULT_CHANGED = "default_changed"


_COMPATIBLE: Final = {
    ChangeKind.CONTRACT_ADDED: LOCK,
    ChangeKind.OPTIONAL_ADDED: LOCK,
    ChangeKind.OPTIONAL_REMOVED: LOCK,
    ChangeKind.VALUES_ADDED: READERS_FIRST,
    ChangeKind.WIDENED: READERS_FIRST,
    ChangeKind.DEFAULT_CHANGED: LOCK,
}
"""What readers can follow, and what to do about it."""
_BREAKING: Final = {
    ChangeKind.CONTRACT_REMOVED: "keep its class: topics and histories still hold its messages",
    ChangeKind.REQUIRED_ADDED: f"give it a default, or {NEW_VERSION}",
}
"""What to do about some of the others; about the rest it is a new version."""


@value
class Change:
    """One difference; *field* is a path like `lines[].quantity`, None for the whole contract."""

    contract: str
    kind: ChangeKind
    field: str | None
    before: str | None
    after: str | None

    @property
    def compatible(self) -> bool:
        return self.kind in _COMPATIBLE

    @property
    def advice(self) -> str:
        return _COMPATIBLE.get(self.kind) or _BREAKING.get(self.kind, NEW_VERSION)

    def __str__(self) -> str:
        place = self.contract if self.field is None else f"{self.contract}: {self.field}"
        what = self.kind.value.replace("_", " ")
        values = "" if self.before == self.after else f" ({self.before} -> {self.after})"
        return f"{place}: {what}{values}; {self.advice}"


@value(kw_only=True)
class LockedContract:
    """What readers of one contract rely on."""

    schema: Schema
    key: str | None = None
    reply: str | None = None


_Difference = tuple[ChangeKind, str, str | None, str | None]
"""What, at which path, before, after."""
Lock = Mapping[str, LockedContract]
"""Locked contracts by name."""


def lock_of(registry: ContractRegistry) -> Lock:
    return {contract.contract_name: _locked(contract) for contract in registry.published}


def lock_text(lock: Lock) -> str:
    """*lock* as the text of a lock file: the same contracts always give the same text."""
    contracts = {
        name: {"key": locked.key, "reply": locked.reply, "schema": locked.schema}
        for name, locked in lock.items()
    }
    document = {"contracts": contracts, "format": LOCK_FORMAT}
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def read_lock(text: str, *, where: str | None = None) -> Lock:
    """The lock that `lock_text` wrote; *where* is the file, for the message.

    Raises:
        DefinitionError: it is no lock file, or of a format that this code does not know.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DefinitionError(f"the lock file is no JSON: {error}", where=where) from error
    if not isinstance(document, dict) or document.get("format") != LOCK_FORMAT:
        raise DefinitionError(
            f"this is no lock file of format {LOCK_FORMAT}: make it anew with `saga topics lock`",
            where=where,
        )
    contracts = document.get("contracts")
    lock: dict[str, LockedContract] = {}
    for name, entry in contracts.items() if isinstance(contracts, dict) else ():
        if not isinstance(entry, dict) or not isinstance(entry.get("schema"), dict):
            raise DefinitionError(f"the lock file has no schema for {name}", where=where)
        lock[name] = LockedContract(
            schema=entry["schema"], key=entry.get("key"), reply=entry.get("reply")
        )
    return lock


def check(registry: ContractRegistry, lock: Lock) -> list[Change]:
    """Every difference between the contracts of *registry* and *lock*, contract by contract."""
    now = lock_of(registry)
    changes: list[Change] = []
    for name in sorted(lock.keys() | now.keys()):
        if name not in lock:
            changes.append(Change(name, ChangeKind.CONTRACT_ADDED, None, None, name))
        elif name not in now:
            changes.append(Change(name, ChangeKind.CONTRACT_REMOVED, None, name, None))
        else:
            changes += _changes(name, lock[name], now[name])
    return changes


def refuse_incompatible(changes: list[Change]) -> None:
    """Raise ContractChanged, with the changes that readers cannot follow, if there are any."""
    breaking = [str(change) for change in changes if not change.compatible]
    if breaking:
        raise ContractChanged("\n".join(breaking))


@value
class _Side:
    """A schema with the definitions that its references mean."""

    schema: Schema
    definitions: Schema
    target: str | None = None
    """The definition that a reference led to."""

    def at(self, schema: object) -> _Side:
        """A part of this schema, with references resolved."""
        part: Schema = schema if isinstance(schema, Mapping) else {}
        seen: set[str] = set()
        last: str | None = None
        while True:
            target = part.get("$ref")
            if isinstance(target, str) and target not in seen:
                seen.add(target)
                last = target
                beside = {name: value for name, value in part.items() if name != "$ref"}
                part = {**self.definitions.get(target.removeprefix("#/$defs/"), {}), **beside}
            elif isinstance(part.get("allOf"), list) and len(part["allOf"]) == 1:
                beside = {name: value for name, value in part.items() if name != "allOf"}
                part = {**part["allOf"][0], **beside}
            else:
                return _Side(part, self.definitions, last)

    @property
    def alternatives(self) -> list[_Side]:
        union = self.schema.get("anyOf") or self.schema.get("oneOf")
        if not isinstance(union, list):
            return [self]
        return [inner for one in union for inner in self.at(one).alternatives]

    @property
    def type(self) -> str:
        """What sort of value it is, in a word; the format belongs to it."""
        schema = self.schema
        if "type" not in schema and ("enum" in schema or "const" in schema):
            return "enum"
        found = schema.get("type", "anything")
        name = "/".join(sorted(found)) if isinstance(found, list) else str(found)
        return f"{name} ({schema['format']})" if "format" in schema else name

    @property
    def values(self) -> frozenset[str] | None:
        """The values it is limited to, as JSON-like text; None where it is not."""
        if "const" in self.schema:
            return frozenset((repr(self.schema["const"]),))
        values = self.schema.get("enum")
        return None if values is None else frozenset(repr(value) for value in values)


def _locked(contract: Contract) -> LockedContract:
    schema = contract.model.model_json_schema(mode="validation", by_alias=True)
    is_intent = contract.kind is Kind.INTENT
    return LockedContract(
        schema=_without_prose(schema),
        key=contract.key,
        reply=reply_contract_names(contract)[0] if is_intent else None,
    )


def _without_prose(schema: Any, *, is_named: bool = False) -> Any:
    """*schema* without what is only for people; a field called `title` stays."""
    match schema:
        case dict():
            return {
                name: value
                if name in ("default", "enum", "const") and not is_named
                else _without_prose(value, is_named=name in _NAMED and not is_named)
                for name, value in schema.items()
                if is_named or name not in _PROSE
            }
        case list():
            return [_without_prose(one) for one in schema]
        case _:
            return schema


def _changes(name: str, before: LockedContract, after: LockedContract) -> Iterator[Change]:
    if before.key != after.key:
        yield Change(name, ChangeKind.KEY_CHANGED, None, before.key, after.key)
    if before.reply != after.reply:
        yield Change(name, ChangeKind.REPLY_CHANGED, None, before.reply, after.reply)
    old = _Side(before.schema, before.schema.get("$defs", {}))
    new = _Side(after.schema, after.schema.get("$defs", {}))
    for kind, path, was, now in _compare(old.at(old.schema), new.at(new.schema), "", frozenset()):
        yield Change(name, kind, path or None, was, now)


def _compare(
    old: _Side, new: _Side, path: str, open_pairs: frozenset[tuple[str | None, str | None]]
) -> Iterator[_Difference]:
    """All differences between two schemas; *open_pairs* of definitions are being compared."""
    pair = (old.target, new.target)
    if pair in open_pairs:
        return  # a recursive model: this pair is being compared further up
    if old.target is not None:
        open_pairs |= {pair}
    if "default" in old.schema and "default" in new.schema:
        was, now = repr(old.schema["default"]), repr(new.schema["default"])
        if was != now:
            yield ChangeKind.DEFAULT_CHANGED, path, was, now
    old_types = [side.type for side in old.alternatives]
    new_types = [side.type for side in new.alternatives]
    if sorted(old_types) != sorted(new_types):
        yield ChangeKind.TYPE_CHANGED, path, " or ".join(old_types), " or ".join(new_types)
        return
    for side, other in _pairs(old.alternatives, new.alternatives):
        yield from _compare_values(side, other, path)
        yield from _compare_constraints(side, other, path)
        yield from _compare_fields(side, other, path)
        for one, another, place in _parts(side.schema, other.schema, path):
            yield from _compare(side.at(one), other.at(another), place, open_pairs)


def _compare_values(old: _Side, new: _Side, path: str) -> Iterator[_Difference]:
    before, after = old.values, new.values
    if before == after:
        return
    was, now = _listed(before), _listed(after)
    if after is not None and (before is None or before - after):
        yield ChangeKind.VALUES_REMOVED, path, was, now
    else:
        yield ChangeKind.VALUES_ADDED, path, was, now


def _compare_constraints(old: _Side, new: _Side, path: str) -> Iterator[_Difference]:
    names = (old.schema.keys() | new.schema.keys()) - _NOT_CONSTRAINTS
    for name in sorted(names):
        before, after = old.schema.get(name), new.schema.get(name)
        if before != after:
            is_narrower = _is_narrower(name, before, after)
            kind = ChangeKind.NARROWED if is_narrower else ChangeKind.WIDENED
            yield kind, path, f"{name}={before}", f"{name}={after}"
    was_closed, is_closed = (side.schema.get(_MEMBERS) is False for side in (old, new))
    if was_closed and not is_closed:
        yield ChangeKind.WIDENED, path, "closed", "open"
    elif is_closed and not was_closed:
        yield ChangeKind.NARROWED, path, "open", "closed"


def _compare_fields(old: _Side, new: _Side, path: str) -> Iterator[_Difference]:
    before, after = old.schema.get("properties", {}), new.schema.get("properties", {})
    for name in sorted(before.keys() | after.keys()):
        place = _joined(path, name)
        was_required = name in old.schema.get("required", ())
        is_required = name in new.schema.get("required", ())
        if name not in after:
            kind = ChangeKind.REQUIRED_REMOVED if was_required else ChangeKind.OPTIONAL_REMOVED
            yield kind, place, old.at(before[name]).type, None
        elif name not in before:
            kind = ChangeKind.REQUIRED_ADDED if is_required else ChangeKind.OPTIONAL_ADDED
            yield kind, place, None, new.at(after[name]).type
        elif is_required and not was_required:
            yield ChangeKind.MADE_REQUIRED, place, "optional", "required"
        elif was_required and not is_required:
            yield ChangeKind.MADE_OPTIONAL, place, "required", "optional"


def _parts(old: Schema, new: Schema, path: str) -> Iterator[tuple[object, object, str]]:
    """What lies within both schemas: items, fields, and the values of a mapping."""
    if "items" in old or "items" in new:
        yield old.get("items"), new.get("items"), f"{path}[]"
    places = zip(old.get("prefixItems", ()), new.get("prefixItems", ()), strict=False)
    for place, (one, other) in enumerate(places):
        yield one, other, f"{path}[{place}]"
    after = new.get("properties", {})
    for name, field in old.get("properties", {}).items():
        if name in after:
            yield field, after[name], _joined(path, name)
    members = old.get(_MEMBERS, True), new.get(_MEMBERS, True)
    if members != (True, True) and False not in members:
        yield *members, f"{path}{{}}"


def _pairs(old: list[_Side], new: list[_Side]) -> Iterator[tuple[_Side, _Side]]:
    """Each old alternative with the new one of its type; several of one type in their order."""
    left = list(new)
    for one in old:
        other = next(candidate for candidate in left if candidate.type == one.type)
        left.remove(other)
        yield one, other


def _is_narrower(name: str, before: Any, after: Any) -> bool:
    if before is None or after is None:
        is_known = name in _LOWER_BOUNDS | _UPPER_BOUNDS | _NARROWING
        return before is None or not is_known
    if name in _LOWER_BOUNDS:
        return bool(after > before)
    if name in _UPPER_BOUNDS:
        return bool(after < before)
    return True


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _listed(values: frozenset[str] | None) -> str:
    return "any value" if values is None else ", ".join(sorted(values))
