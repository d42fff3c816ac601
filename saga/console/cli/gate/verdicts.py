"""What is said of one history: as a line of JSON, and to people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from saga.audit.differences import Finding, Kind
from saga.audit.replaying import Replayed
from saga.audit.snapshots import Comparison, Found
from saga.core.values import value
from saga.ports import SagaSummary
from saga.runtime.view import iso


@value(kw_only=True)
class Verdict:
    """What a replay has found of one saga; *kind* None: today's code decides what is stored.

    *changes* are path, recorded and decided text of each field that differs; *unsaid* counts those
    that are left out. *snapshot* is what was found of that, where the saga has one.
    """

    saga_id: str
    definition: str
    definition_version: int
    key: str
    entries: int
    kind: Kind | None = None
    version: int = 0
    type: str | None = None
    at: str | None = None
    recorded: str = ""
    decided: str = ""
    where: str | None = None
    changes: tuple[tuple[str, str | None, str | None], ...] = ()
    unsaid: int = 0
    snapshot: Comparison | None = None

    @property
    def is_ok(self) -> bool:
        return self.kind is None

    @property
    def has_wrong_snapshot(self) -> bool:
        return self.snapshot is not None and self.snapshot.found is Found.WRONG

    @property
    def name(self) -> str:
        return f"{self.definition}/{self.key}"

    @property
    def title(self) -> str:
        """Which saga it is, for people."""
        return f"{self.name} ({self.saga_id})" if self.saga_id else "a row of the index"

    @property
    def line(self) -> str:
        """The difference in one line."""
        if not self.version:  # it concerns the whole history
            return str(self.kind)
        entry = "" if self.type is None else f", {self.type} of {self.at}"
        return f"{self.kind} at entry {self.version}{entry}"

    def row(self) -> dict[str, Any]:
        """One line of JSON."""
        difference = None
        if self.kind is not None:
            names = ("version", "recorded", "decided")
            difference = {name: getattr(self, name) for name in names}
        changes = [
            {"path": path, "recorded": recorded, "decided": decided}
            for path, recorded, decided in self.changes
        ]
        return {
            "id": self.saga_id or None,
            "entries": self.entries,
            "ok": self.is_ok,
            "difference": difference,
            "definition": self.definition,
            "version": self.definition_version,
            "key": self.key,
            "kind": self.kind,
            "type": self.type,
            "at": self.at,
            "where": self.where,
            "changes": changes,
            "unsaid": self.unsaid,
            "snapshot": None if self.snapshot is None else asdict(self.snapshot),
        }

    def told(self) -> Iterator[str]:
        """The difference, for people: what both sides say, which fields differ, and where."""
        yield f"  the history says      {self.recorded}"
        yield f"  the code at hand says {self.decided}"
        for path, recorded, decided in self.changes:
            yield f"    {path}: {recorded or 'not there'} -> {decided or 'not there'}"
        if self.unsaid:
            yield f"    and {self.unsaid:,} fields more"
        if self.where is not None:
            yield f"  at {self.where}"

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_plain(cls, plain: dict[str, Any]) -> Verdict:
        """Reverses `plain`, and what JSON made of it."""
        kind = None if plain["kind"] is None else Kind(plain["kind"])
        changes = tuple((path, before, now) for path, before, now in plain["changes"])
        of_snapshot = plain["snapshot"]
        snapshot = None
        if of_snapshot is not None:
            snapshot = Comparison(**{**of_snapshot, "found": Found(of_snapshot["found"])})
        return cls(**{**plain, "kind": kind, "changes": changes, "snapshot": snapshot})

    def with_snapshot(self, compared: Comparison) -> Verdict:
        where = None if compared.where is None else shortened(compared.where)
        return replace(self, snapshot=replace(compared, where=where))


def verdict_on(replayed: Replayed) -> Verdict:
    return verdict_of(replayed.summary, replayed.finding, entries=replayed.entries)


def verdict_of(saga: SagaSummary, found: Finding | None, *, entries: int = 0) -> Verdict:
    plain = Verdict(
        saga_id=saga.saga_id,
        definition=saga.definition,
        definition_version=saga.definition_version,
        key=saga.key,
        entries=entries,
    )
    if found is None:
        return plain
    return Verdict(
        **plain.plain()
        | {
            "kind": found.kind,
            "version": found.version,
            "type": found.type,
            "at": None if found.at is None else iso(found.at),
            "recorded": found.recorded,
            "decided": found.decided,
            "where": None if found.where is None else shortened(found.where),
            "changes": tuple((each.path, each.recorded, each.decided) for each in found.changes),
            "unsaid": found.unsaid,
        }
    )


def shortened(where: str) -> str:
    """`file:line`, the file as it is named from the working directory, where it is below that."""
    file, _, line = where.rpartition(":")
    try:
        return f"{Path(file).relative_to(Path.cwd())}:{line}"
    except (ValueError, OSError):
        return where
