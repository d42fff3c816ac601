"""Which histories are replayed, and in which parts: a page of the index after another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import typer

from saga.audit.differences import Kind
from saga.audit.replaying import PAGE_SAGAS
from saga.console.cli.commands import DefinitionName
from saga.console.cli.gate.verdicts import Verdict
from saga.core.identity import Instant, SagaId, share_of
from saga.core.status import SagaStatus
from saga.core.values import value
from saga.ports import Catalogue, SagaSummary
from saga.ports.store import UNFINISHED

CHUNK_SAGAS: Final = 50
CHUNK_ENTRIES: Final = 20_000
"""So much a process has in memory at once, unless one history alone has more."""


@value
class Chosen:
    definition: DefinitionName = None
    is_open_only: Annotated[
        bool, typer.Option("--open", help="Only sagas that have not ended.")
    ] = False
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="TIME",
            help="Only sagas started at this moment or later (ISO 8601 with zone), or within the "
            "last 30m, 2h or 1d.",
        ),
    ] = None
    percent: Annotated[
        float | None,
        typer.Option(
            "--percent",
            metavar="P",
            min=0.001,
            max=100,
            help="Only so many of a hundred, always the same ones.",
        ),
    ] = None

    @property
    def words(self) -> dict[str, Any]:
        """What was chosen, of which nothing changes with time."""
        return {
            "definition": self.definition,
            "open": self.is_open_only,
            "since": self.since,
            "percent": self.percent,
        }

    @property
    def statuses(self) -> Sequence[SagaStatus | None]:
        """One after another; each has an index, so that the many that have ended cost nothing."""
        return UNFINISHED if self.is_open_only else (None,)

    def has(self, saga: SagaSummary) -> bool:
        return self.percent is None or share_of(saga.saga_id) < self.percent


@dataclass(eq=False)
class Chunk:
    """Some sagas, and what was found of them so far.

    *place* says behind which saga of which status the next one begins; *listed* counts what of the
    index it stands for.
    """

    sagas: Sequence[SagaSummary]
    place: tuple[int, SagaId | None] = (0, None)
    verdicts: list[Verdict] = field(default_factory=list)
    listed: int = 0

    def __post_init__(self) -> None:
        self._wanted = len(self.sagas) + len(self.verdicts)

    @property
    def is_complete(self) -> bool:
        return len(self.verdicts) == self._wanted


@value
class Source:
    """The sagas that were *chosen* of a catalogue, those since a moment that stays the same."""

    catalogue: Catalogue
    chosen: Chosen
    since: Instant | None

    async def count(self) -> int:
        """How many sagas the index has of these, before the choice by percent."""
        counts = [
            await self.catalogue.count(
                status=status, definition=self.chosen.definition, since=self.since
            )
            for status in self.chosen.statuses
        ]
        return sum(counts)

    async def chunks(self, place: tuple[int, SagaId | None]) -> AsyncIterator[Chunk]:
        """All beyond *place*, in the order in which they were started."""
        first, after = place
        for number, status in enumerate(self.chosen.statuses[first:], first):
            async for chunk in self._of_status(number, status, after):
                yield chunk
            after = None

    async def _of_status(
        self, number: int, status: SagaStatus | None, after: SagaId | None
    ) -> AsyncIterator[Chunk]:
        while True:
            page = await self.catalogue.sagas(
                status=status,
                definition=self.chosen.definition,
                since=self.since,
                after=after,
                limit=PAGE_SAGAS,
            )
            if page.damaged:
                yield Chunk((), (number, after), list(map(_damaged, page.damaged)))
            for some in _cut(page):
                after = some[-1].saga_id
                sagas = [saga for saga in some if self.chosen.has(saga)]
                yield Chunk(sagas, (number, after), listed=len(some))
            if not page:
                return


async def chunks_of(sagas: Sequence[SagaSummary]) -> AsyncIterator[Chunk]:
    for some in _cut(sagas):
        yield Chunk(some, listed=len(some))


def _cut(page: Sequence[SagaSummary]) -> Iterator[Sequence[SagaSummary]]:
    some: list[SagaSummary] = []
    entries = 0
    for saga in page:
        if some and (len(some) == CHUNK_SAGAS or entries + saga.version > CHUNK_ENTRIES):
            yield some
            some, entries = [], 0
        some.append(saga)
        entries += saga.version
    if some:
        yield some


def _damaged(row: str) -> Verdict:
    """The verdict on a row of the index that cannot be read."""
    return Verdict(
        saga_id="",
        definition="",
        definition_version=0,
        key="",
        entries=0,
        kind=Kind.CANNOT_BE_READ,
        recorded=row,
        decided="nothing: the index does not say which saga it is",
    )
