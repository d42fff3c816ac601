"""What was found so far: counts by definition, version and kind, and some examples of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from saga.audit.differences import Kind
from saga.audit.snapshots import Found
from saga.console.cli.gate.verdicts import Verdict
from saga.core.values import value

EXAMPLES_MAX: Final = 20
"""So many differences of each kind, and wrong snapshots, are kept of a definition and version."""
SAGAS_NAMED_MAX: Final = 5_000
"""Up to so many sagas each is named in a report; beyond, those that differ are examples."""
Suite = tuple[str, int]
COLUMNS: Final = ("saga", "difference", "sagas", "for example")
"""What a table of counts has."""


@value
class Count:
    """How many sagas of one definition and version differ in one way, and the first of them."""

    suite: Suite
    kind: Kind
    sagas: int
    example: Verdict

    @property
    def row(self) -> dict[str, Any]:
        name, version = self.suite
        return {
            "definition": name,
            "version": version,
            "kind": self.kind,
            "sagas": self.sagas,
            "example": self.example.saga_id,
        }

    @property
    def cells(self) -> tuple[object, ...]:
        return name_of(self.suite), self.kind.value, self.sagas, self.example.title


@dataclass
class Tally:
    """*names_each*: every verdict is kept; else examples."""

    names_each: bool = False
    entries: int = 0
    counts: Counter[tuple[Suite, Kind | None]] = field(default_factory=Counter)
    snapshots: Counter[tuple[Suite, Found]] = field(default_factory=Counter)
    kept: list[Verdict] = field(default_factory=list)
    _examples: Counter[tuple[Suite, Kind | Found]] = field(default_factory=Counter)

    @property
    def sagas(self) -> int:
        return self.counts.total()

    @property
    def different(self) -> int:
        return sum(count for (_, kind), count in self.counts.items() if kind is not None)

    def snapshots_found(self, found: Found, suite: Suite | None = None) -> int:
        """How many snapshots were found so: of one definition and version, or of all."""
        return sum(
            count
            for (each, kind), count in self.snapshots.items()
            if kind is found and suite in (None, each)
        )

    @property
    def suites(self) -> list[Suite]:
        return sorted({suite for suite, _ in self.counts})

    def add(self, verdict: Verdict) -> bool:
        """Count it; whether it is kept, too."""
        self.entries += verdict.entries
        self.counts[_suite(verdict), verdict.kind] += 1
        if verdict.snapshot is not None:
            self.snapshots[_suite(verdict), verdict.snapshot.found] += 1
        return self._keep(verdict)

    def merge(self, other: Tally) -> None:
        self.entries += other.entries
        self.counts += other.counts
        self.snapshots += other.snapshots
        for verdict in other.kept:
            self._keep(verdict)

    def differences(self) -> Iterator[Count]:
        """By definition, version and kind, the most frequent first."""
        firsts: dict[tuple[Suite, Kind | None], Verdict] = {}
        for verdict in self.kept:
            firsts.setdefault((_suite(verdict), verdict.kind), verdict)
        for (suite, kind), count in sorted(
            self.counts.items(), key=lambda each: (-each[1], each[0][0], each[0][1] or "")
        ):
            if kind is not None:
                yield Count(suite, kind, count, firsts[suite, kind])

    def of_suite(self, suite: Suite) -> list[Verdict]:
        return [verdict for verdict in self.kept if _suite(verdict) == suite]

    def plain(self) -> dict[str, Any]:
        """As JSON may have it."""
        counts = [[*suite, kind, count] for (suite, kind), count in self.counts.items()]
        snapshots = [[*suite, found, count] for (suite, found), count in self.snapshots.items()]
        kept = [verdict.plain() for verdict in self.kept]
        return {"entries": self.entries, "counts": counts, "snapshots": snapshots, "kept": kept}

    @classmethod
    def of_plain(cls, plain: dict[str, Any], *, names_each: bool) -> Tally:
        """Reverses `plain`; raises KeyError, TypeError or ValueError for anything else."""
        tally = cls(names_each=names_each, entries=plain["entries"])
        for name, version, kind, count in plain["counts"]:
            tally.counts[(name, version), None if kind is None else Kind(kind)] += count
        for name, version, found, count in plain["snapshots"]:
            tally.snapshots[(name, version), Found(found)] += count
        for verdict in plain["kept"]:
            tally._keep(Verdict.of_plain(verdict))
        return tally

    def _keep(self, verdict: Verdict) -> bool:
        is_kept = self.names_each
        wrong = Found.WRONG if verdict.has_wrong_snapshot else None
        for what in (verdict.kind, wrong):
            if what is not None:
                place = (_suite(verdict), what)
                self._examples[place] += 1
                is_kept = is_kept or self._examples[place] <= EXAMPLES_MAX
        if is_kept:
            self.kept.append(verdict)
        return is_kept


def name_of(suite: Suite) -> str:
    name, version = suite
    return f"{name}@{version}" if name else "sagas that the index cannot tell"


def _suite(verdict: Verdict) -> Suite:
    return verdict.definition, verdict.definition_version
