"""The lock file: every published contract's JSON Schema, as its readers know it.

It is committed beside the contracts. `check` compares it with the code at hand. It says of each
difference whether deployed readers and kept messages can live with it. Nothing here writes files.

Two directions count. Code of today reads messages of yesterday (topics and histories keep them), so
nothing may be demanded that they do not have. Readers of yesterday receive messages of today, so
nothing may be left out that they demand. Widening what a known field may hold is let through, with
the advice to deploy readers first. Titles, descriptions and examples mean nothing here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

from saga.contracts.models import Contract, Kind, reply_contract_names
from saga.contracts.registry import ContractRegistry
from saga.core.values import value
from saga.errors import ContractChanged, DefinitionError

LOCK_FORMAT = 1
Schema = Mapping[str, Any]
NEW_VERSION = "publish it as a new major version and join the two with @upcast"
READERS_FIRST = "deploy all readers before the first publisher"
LOCK = "run `saga topics lock` and commit the lock file"
OpenPairs = frozenset[tuple[str | None, str | None]]
"""The definitions, old and new, that are being compared."""
_PROSE = frozenset(("title", "description", "examples"))
_NAMED = frozenset(("properties", "$defs"))
"""Keywords whose members are names of the author's choice, not keywords."""
_NOT_COMPARED = _PROSE | {"discriminator", "$defs"}
_STRUCTURE = frozenset(
    ("$ref", "allOf", "anyOf", "oneOf", "type", "properties", "required", "items", "prefixItems")
)
_LOWER_BOUNDS = frozenset(("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"))
_UPPER_BOUNDS = frozenset(("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"))
_NARROWING = frozenset(("pattern", "multipleOf", "uniqueItems"))


class ChangeKind(StrEnum):
    """What sort of change it is."""

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


@value(kw_only=True)
class Change:
    """One difference: where, from what to what, can readers follow, and what to do about it.

    *field* is a path like `lines[].quantity`, None where the change concerns the whole contract.
    """

    contract: str
    kind: ChangeKind
    field: str | None
    before: str | None
    after: str | None
    compatible: bool
    advice: str

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


Lock = Mapping[str, LockedContract]
"""Locked contracts by name."""


def lock_of(registry: ContractRegistry) -> Lock:
    """The contracts that *registry* publishes, as a lock."""
    return {contract.contract_name: _locked(contract) for contract in registry.published}


def lock_text(lock: Lock) -> str:
    """*lock* as the text of a lock file: the same contracts always give the same text."""
    contracts = {
        name: {"key": locked.key, "reply": locked.reply, "schema": locked.schema}
        for name, locked in lock.items()
    }
    return (
        json.dumps(
            {"contracts": contracts, "format": LOCK_FORMAT},
            indent=2,
            sort_keys=True,
            ensure_ascii=False,
        )
        + "\n"
    )


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
            changes.append(_added(name))
        elif name not in now:
            changes.append(_removed(name))
        else:
            changes.extend(_changed(name, lock[name], now[name]))
    return changes


def refuse_incompatible(changes: list[Change]) -> None:
    """Do nothing if readers can follow all *changes*.

    Raises:
        ContractChanged: they cannot; the message lists the changes that break them.
    """
    breaking = [str(change) for change in changes if not change.compatible]
    if breaking:
        raise ContractChanged("\n".join(breaking))


@value
class Comparison:
    """The comparison of one contract's schema, as locked, with what it is now."""

    contract: str

    def changes(self, before: Schema, after: Schema) -> list[Change]:
        """All differences that mean something, in the order of fields."""
        old = _Side(before, before.get("$defs", {}))
        new = _Side(after, after.get("$defs", {}))
        return list(self._compare(old.at(before), new.at(after), "", frozenset()))

    def _compare(
        self, old: _Side, new: _Side, path: str, open_pairs: OpenPairs
    ) -> Iterator[Change]:
        pair = (old.target, new.target)
        if pair in open_pairs:
            return  # a recursive model: this pair is being compared further up
        if old.target is not None:
            open_pairs |= {pair}
        if "default" in old.schema and "default" in new.schema:
            was, now = repr(old.schema["default"]), repr(new.schema["default"])
            if was != now:
                yield self._change(ChangeKind.DEFAULT_CHANGED, path, was, now, LOCK)
        old_types = [side.type for side in old.alternatives]
        new_types = [side.type for side in new.alternatives]
        if sorted(old_types) != sorted(new_types):
            yield self._breaks(
                ChangeKind.TYPE_CHANGED, path, " or ".join(old_types), " or ".join(new_types)
            )
            return
        for side, other in _pairs(old.alternatives, new.alternatives):
            yield from self._compare_alternative(side, other, path, open_pairs)

    def _compare_alternative(
        self, old: _Side, new: _Side, path: str, open_pairs: OpenPairs
    ) -> Iterator[Change]:
        yield from self._compare_values(old, new, path)
        yield from self._compare_constraints(old, new, path, open_pairs)
        yield from self._compare_fields(old, new, path, open_pairs)
        if "items" in old.schema or "items" in new.schema:
            yield from self._compare(
                old.at(old.schema.get("items")),
                new.at(new.schema.get("items")),
                f"{path}[]",
                open_pairs,
            )
        first, second = old.schema.get("prefixItems", []), new.schema.get("prefixItems", [])
        for place, (one, other) in enumerate(zip(first, second, strict=False)):
            yield from self._compare(old.at(one), new.at(other), f"{path}[{place}]", open_pairs)

    def _compare_fields(
        self, old: _Side, new: _Side, path: str, open_pairs: OpenPairs
    ) -> Iterator[Change]:
        before: Schema = old.schema.get("properties", {})
        after: Schema = new.schema.get("properties", {})
        demanded_before = frozenset(old.schema.get("required", ()))
        demanded_after = frozenset(new.schema.get("required", ()))
        for name in sorted(before.keys() - after.keys()):
            place, was = _joined(path, name), old.at(before[name]).type
            if name in demanded_before:
                yield self._breaks(ChangeKind.REQUIRED_REMOVED, place, was, None)
            else:
                yield self._change(ChangeKind.OPTIONAL_REMOVED, place, was, None, LOCK)
        for name in sorted(after.keys() - before.keys()):
            place, now = _joined(path, name), new.at(after[name]).type
            if name in demanded_after:
                advice = f"give it a default, or {NEW_VERSION}"
                yield self._breaks(ChangeKind.REQUIRED_ADDED, place, None, now, advice)
            else:
                yield self._change(ChangeKind.OPTIONAL_ADDED, place, None, now, LOCK)
        for name in (one for one in before if one in after):
            place = _joined(path, name)
            is_demanded = name in demanded_after
            if (name in demanded_before) != is_demanded:
                kind = ChangeKind.MADE_REQUIRED if is_demanded else ChangeKind.MADE_OPTIONAL
                words = ("optional", "required") if is_demanded else ("required", "optional")
                yield self._breaks(kind, place, *words)
            yield from self._compare(old.at(before[name]), new.at(after[name]), place, open_pairs)

    def _compare_values(self, old: _Side, new: _Side, path: str) -> Iterator[Change]:
        before, after = old.values, new.values
        if before == after:
            return
        if after is not None and (before is None or before - after):
            was = "any value" if before is None else _listed(before)
            yield self._breaks(ChangeKind.VALUES_REMOVED, path, was, _listed(after))
        elif before is not None:
            now = "any value" if after is None else _listed(after)
            yield self._change(ChangeKind.VALUES_ADDED, path, _listed(before), now, READERS_FIRST)

    def _compare_constraints(
        self, old: _Side, new: _Side, path: str, open_pairs: OpenPairs
    ) -> Iterator[Change]:
        names = (old.schema.keys() | new.schema.keys()) - _NOT_COMPARED - _STRUCTURE
        for name in sorted(names - {"enum", "const", "default", "format"}):
            before, after = old.schema.get(name), new.schema.get(name)
            if name == "additionalProperties" and (before, after) != (None, None):
                yield from self._compare_members(old, new, path, open_pairs)
            elif before != after:
                was, now = f"{name}={before}", f"{name}={after}"
                if _is_narrower(name, before, after):
                    yield self._breaks(ChangeKind.NARROWED, path, was, now)
                else:
                    yield self._change(ChangeKind.WIDENED, path, was, now, READERS_FIRST)

    def _compare_members(
        self, old: _Side, new: _Side, path: str, open_pairs: OpenPairs
    ) -> Iterator[Change]:
        """The values of a mapping from names that are not fields."""
        before = old.schema.get("additionalProperties", True)
        after = new.schema.get("additionalProperties", True)
        if before is False and after is not False:
            yield self._change(ChangeKind.WIDENED, path, "closed", "open", READERS_FIRST)
        elif after is False and before is not False:
            yield self._breaks(ChangeKind.NARROWED, path, "open", "closed")
        else:
            yield from self._compare(old.at(before), new.at(after), f"{path}{{}}", open_pairs)

    def _change(
        self, kind: ChangeKind, path: str, before: str | None, after: str | None, advice: str
    ) -> Change:
        return Change(
            contract=self.contract,
            kind=kind,
            field=path or None,
            before=before,
            after=after,
            compatible=True,
            advice=advice,
        )

    def _breaks(
        self,
        kind: ChangeKind,
        path: str,
        before: str | None,
        after: str | None,
        advice: str = NEW_VERSION,
    ) -> Change:
        return Change(
            contract=self.contract,
            kind=kind,
            field=path or None,
            before=before,
            after=after,
            compatible=False,
            advice=advice,
        )


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
        """The schemas of which a value matches one."""
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


def _changed(name: str, before: LockedContract, after: LockedContract) -> list[Change]:
    changes: list[Change] = []
    if before.key != after.key:
        changes.append(_rebound(name, ChangeKind.KEY_CHANGED, before.key, after.key))
    if before.reply != after.reply:
        changes.append(_rebound(name, ChangeKind.REPLY_CHANGED, before.reply, after.reply))
    return changes + Comparison(name).changes(before.schema, after.schema)


def _added(name: str) -> Change:
    return Change(
        contract=name,
        kind=ChangeKind.CONTRACT_ADDED,
        field=None,
        before=None,
        after=name,
        compatible=True,
        advice=LOCK,
    )


def _removed(name: str) -> Change:
    return Change(
        contract=name,
        kind=ChangeKind.CONTRACT_REMOVED,
        field=None,
        before=name,
        after=None,
        compatible=False,
        advice="keep its class: topics and histories still hold its messages",
    )


def _rebound(name: str, kind: ChangeKind, before: str | None, after: str | None) -> Change:
    return Change(
        contract=name,
        kind=kind,
        field=None,
        before=before,
        after=after,
        compatible=False,
        advice=NEW_VERSION,
    )


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


def _listed(values: frozenset[str]) -> str:
    return ", ".join(sorted(values))
