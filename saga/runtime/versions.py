"""Which versions of their definitions open sagas still need, and which of those are here.

A version that is gone too early leaves its sagas stalled; one that nobody needs may go.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from saga.authoring.registry import SagaRegistry
from saga.core.identity import SagaId
from saga.core.status import SagaStatus
from saga.core.values import value
from saga.ports import Catalogue

PAGE_SAGAS: Final = 500
OPEN: Final = tuple(status for status in SagaStatus if not status.is_ended)


@value(kw_only=True)
class Version:
    """A version of a definition: how many open sagas need it, and whether it *is_here*.

    *newest* is the newest version here, with which new sagas start; None where there is none.
    """

    definition: str
    version: int
    open: int
    is_here: bool
    newest: int | None

    @property
    def name(self) -> str:
        return f"{self.definition}@{self.version}"

    @property
    def is_newest(self) -> bool:
        return self.version == self.newest

    @property
    def advice(self) -> str | None:
        """What to do before it can go, or that it can; None of the newest."""
        if self.is_newest:
            return None
        if not self.open:
            return "no open saga needs it: it can go"
        move = ""
        if self.newest is not None:
            newest = f"{self.definition}@{self.newest}"
            move = f"move them with `saga migrate --from {self.name} --to {newest} --reason TEXT`"
        if self.is_here:
            return f"keep it until they have ended, or {move}"
        return f"they stall until somebody deploys it{f', or {move}' if move else ''}"

    def __str__(self) -> str:
        need = (
            "1 open saga still needs" if self.open == 1 else f"{self.open:,} open sagas still need"
        )
        where = "" if self.is_here else ", which this application does not have"
        return f"{need} {self.name}{where}"


async def versions(
    catalogue: Catalogue, sagas: SagaRegistry, *, definition: str | None = None
) -> list[Version]:
    """Those that open sagas need or that are here, of all definitions or of one.

    Raises:
        StoreUnavailable: the store cannot be read.
    """
    counts = await _open_sagas(catalogue, definition)
    here = {name for name in sagas.all() if definition in {None, name[0]}}
    return [
        Version(
            definition=name,
            version=version,
            open=counts[name, version],
            is_here=(name, version) in here,
            newest=None if (newest := sagas.newest(name)) is None else newest.saga.version,
        )
        for name, version in sorted({*counts, *here})
    ]


async def missing(catalogue: Catalogue, sagas: SagaRegistry) -> list[Version]:
    """Versions of the definitions here that open sagas need, and that are not here."""
    found = await versions(catalogue, sagas)
    return [each for each in found if not each.is_here and sagas.has(each.definition)]


async def _open_sagas(catalogue: Catalogue, definition: str | None) -> Counter[tuple[str, int]]:
    counts: Counter[tuple[str, int]] = Counter()
    for status in OPEN:
        after: SagaId | None = None
        while page := await catalogue.sagas(
            status=status, definition=definition, after=after, limit=PAGE_SAGAS
        ):
            after = page[-1].saga_id
            counts.update((each.definition, each.definition_version) for each in page)
    return counts
