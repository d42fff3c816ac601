"""Which definitions are paused: rows of the store, and the sagas that are to go on again.

The worker that reads such a command commits the row with its batch. Each batch says which rows it
was decided with, and the store refuses one that was decided with others. So a pause counts from its
commit on, and a store without pauses is asked nothing. Whose definition goes on is written into its
history with the next event that reaches it, or by a sweep, which finds it in the index.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import Any, Final

import orjson

from saga.contracts import Command, CommandAct
from saga.core.events import Paused, PauseScope, Resumed
from saga.core.identity import Instant, SagaId
from saga.core.values import value
from saga.ports import Catalogue, EventStore, Inbound
from saga.ports.store import DefinitionPause
from saga.runtime.receipts import POLL_S, Receipt, Result

ACTS_KEPT_MAX: Final = 50
"""Of each definition: a repeat of one of these is known, and has a receipt."""
PAGE_SAGAS_MAX: Final = 500
PAGES_A_SWEEP: Final = 4
LOOK_AGAIN_SWEEPS: Final = 60
"""In every so many sweeps all that may go on are looked for, in case a worker died before."""


@value
class DefinitionAct:
    """A command that pauses a definition, or has it go on."""

    inbound: Inbound
    command: Command


@value(kw_only=True)
class ActDone:
    """What was done to a definition, and what came of it."""

    command_id: str
    act: CommandAct
    reason: str
    actor: str | None
    at: Instant
    result: Result
    detail: str

    @property
    def receipt(self) -> Receipt:
        return Receipt(self.command_id, self.result, self.detail)

    def fact(self) -> Paused | Resumed:
        """What it is in the histories of the definition's sagas."""
        kind = Paused if self.act is CommandAct.PAUSE else Resumed
        return kind(reason=self.reason, actor=self.actor, scope=PauseScope.DEFINITION)


class Pauses:
    """What this process knows of paused definitions.

    Attributes:
        seen: the sum of changes of the rows that it knows.
        paused: of each definition that is paused the act that did it.
        ended: of each that goes on again the act that did it.
    """

    def __init__(self, store: EventStore, catalogue: Catalogue) -> None:
        self._store = store
        self._catalogue = catalogue
        self._rows: dict[str, DefinitionPause] = {}
        self._to_look: dict[str, SagaId | None] = {}
        """Definitions whose sagas may have to go on, and behind which saga to look next."""
        self._sweeps = count()
        self.are_known = False
        self.seen = 0
        self.paused: dict[str, ActDone] = {}
        self.ended: dict[str, ActDone] = {}

    @property
    def are_looked_for(self) -> bool:
        """Whether sagas may be there that are to go on, and are not found yet."""
        return bool(self._to_look)

    async def know(self) -> None:
        """Read the rows, if they have changed as far as is known; raises StoreUnavailable."""
        if not self.are_known:
            self.learn(await self._store.pauses())
            self.are_known = True

    def forget(self) -> None:
        """The rows have changed."""
        self.are_known = False

    def learn(self, rows: Iterable[DefinitionPause]) -> None:
        """Know these rows, which are stored, beside those known already."""
        for row in rows:
            known = self._rows.get(row.definition)
            if known is not None and known.changes >= row.changes:
                continue
            self._rows[row.definition] = row
            if (last := _last(row)) is None:
                continue
            of_its_kind, other = self.paused, self.ended
            if last.act is CommandAct.RESUME:
                of_its_kind, other = other, of_its_kind
                self._to_look[row.definition] = None
            of_its_kind[row.definition] = last
            other.pop(row.definition, None)
        self.seen = sum(row.changes for row in self._rows.values())

    def after(
        self, act: DefinitionAct, at: Instant, changed: Mapping[str, DefinitionPause]
    ) -> DefinitionPause | None:
        """The row once *act* is done, behind those *changed*; None where it was done before."""
        command = act.command
        definition = command.definition
        assert definition is not None, command
        row = changed.get(definition) or self._rows.get(definition)
        done = [] if row is None else acts_of(row)
        if any(each.command_id == command.command_id for each in done):
            return None
        stands, wants = row is not None and is_paused(row), command.act is CommandAct.PAUSE
        result = Result.REFUSED if stands is wants else Result.APPLIED
        standing = "is paused already" if stands else "is not paused"
        following = "is paused" if wants else "goes on: its sagas act on what came meanwhile"
        new = ActDone(
            command_id=command.command_id,
            act=command.act,
            reason=command.reason or "",
            actor=command.actor,
            at=at,
            result=result,
            detail=f"{definition} {following if result is Result.APPLIED else standing}",
        )
        told = [_plain(each) for each in _kept([*done, new])]
        changes = 1 if row is None else row.changes + 1
        return DefinitionPause(definition, changes, orjson.dumps(told).decode())

    async def sweep(self) -> Sequence[SagaId]:
        """Sagas that their definition paused, and that are to go on; raises StoreUnavailable."""
        self.learn(await self._store.pauses())
        self.are_known = True
        if next(self._sweeps) % LOOK_AGAIN_SWEEPS == 0:
            self._to_look = dict.fromkeys(self.ended) | self._to_look
        found: list[SagaId] = []
        for _ in range(PAGES_A_SWEEP):
            if not self._to_look:
                break
            definition, after = next(iter(self._to_look.items()))
            page = await self._catalogue.paused(definition, after=after, limit=PAGE_SAGAS_MAX)
            found += [row.saga_id for row in page]
            if len(page) + len(page.damaged) < PAGE_SAGAS_MAX:
                del self._to_look[definition]
            else:
                self._to_look[definition] = page[-1].saga_id if page else None
        return found


def receipt_from(
    rows: Iterable[DefinitionPause], definition: str, command_id: str
) -> Receipt | None:
    """What came of a command to a definition; None where it was not read yet."""
    for row in rows:
        for done in acts_of(row) if row.definition == definition else ():
            if done.command_id == command_id:
                return done.receipt
    return None


async def wait_for_definition(
    store: EventStore, definition: str, command_id: str, *, timeout_s: float
) -> Receipt:
    """What came of a command to a definition, once a worker has read it; else `unknown`."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + timeout_s
    while (receipt := receipt_from(await store.pauses(), definition, command_id)) is None:
        if loop.time() >= until_s:
            detail = f"no worker has read the command within {timeout_s:g} s; it stays in line"
            return Receipt(command_id, Result.UNKNOWN, detail)
        await asyncio.sleep(POLL_S)
    return receipt


def acts_of(row: DefinitionPause) -> list[ActDone]:
    """What was done to a definition, the last act last."""
    return [_act(told) for told in orjson.loads(row.told)]


def is_paused(row: DefinitionPause) -> bool:
    last = _last(row)
    return last is not None and last.act is CommandAct.PAUSE


def _last(row: DefinitionPause) -> ActDone | None:
    """The act that says how a definition stands; None where none was applied."""
    done = (act for act in reversed(acts_of(row)) if act.result is Result.APPLIED)
    return next(done, None)


def _kept(done: Sequence[ActDone]) -> Sequence[ActDone]:
    """The last acts, with the one that says how the definition stands."""
    applied = [act for act in done if act.result is Result.APPLIED][-1:]
    kept = done[-ACTS_KEPT_MAX:]
    return kept if not applied or applied[0] in kept else [*applied, *kept[1:]]


def _plain(done: ActDone) -> Mapping[str, Any]:
    return {
        "command_id": done.command_id,
        "act": done.act.value,
        "reason": done.reason,
        "actor": done.actor,
        "at": done.at,
        "result": done.result.value,
        "detail": done.detail,
    }


def _act(told: dict[str, Any]) -> ActDone:
    kinds = {"act": CommandAct(told["act"]), "result": Result(told["result"])}
    return ActDone(**{**told, **kinds})
