"""What changed between two JSON Schemas of one message, and whether its readers can follow.

Two directions count. Code of today reads messages of yesterday (topics and histories keep them), so
nothing may be demanded that they do not have. Readers of yesterday receive messages of today, so
nothing may be left out that they demand. Widening what a known field may hold is let through, with
the advice to deploy readers first. Titles, descriptions and examples mean nothing here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

Schema = Mapping[str, Any]

NEW_VERSION = "publish it as a new major version and join the two with @upcast"
READERS_FIRST = "deploy all readers before the first publisher"
LOCK = "run `saga topics lock` and commit the lock file"

_PROSE = frozenset(("title", "description", "examples", "discriminator", "$defs"))
_STRUCTURE = frozenset(
    ("$ref", "allOf", "anyOf", "oneOf", "type", "properties", "required", "items", "prefixItems")
)
_LOWER_BOUNDS = frozenset(("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"))
_UPPER_BOUNDS = frozenset(("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"))
_NARROWING = frozenset(("pattern", "multipleOf", "uniqueItems"))


OpenPairs = frozenset[tuple[str | None, str | None]]
"""The definitions, old and new, that are being compared."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One difference: where, from what to what, whether readers can follow, and what to do about
    it.

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


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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
        old_types = [one.type for one in old.alternatives]
        new_types = [one.type for one in new.alternatives]
        if sorted(old_types) != sorted(new_types):
            yield self._breaks(
                ChangeKind.TYPE_CHANGED, path, " or ".join(old_types), " or ".join(new_types)
            )
            return
        for one, other in _pairs(old.alternatives, new.alternatives):
            yield from self._compare_alternative(one, other, path, open_pairs)

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
        names = (old.schema.keys() | new.schema.keys()) - _PROSE - _STRUCTURE
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
