"""Loaded sagas: states kept between turns, so that a turn of a running saga replays nothing.

A history that cannot be brought to life is answered with the reason; nothing is guessed. To bring
back a long one takes long, so others run in between, and it is not the number of sagas that sends
it out of memory.
"""

from __future__ import annotations

import logging
import sys
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from types import MappingProxyType
from typing import Final

import orjson

from saga.audit.replaying import replaying_guarded
from saga.authoring.registry import Registered, SagaRegistry
from saga.core.decider import Decider
from saga.core.events import Paused, PauseScope, Resumed, SagaStarted, TurnFailed
from saga.core.fold import fold
from saga.core.history import Entry, RecordedTurn, beginning_of, pinned_in
from saga.core.identity import Instant, SagaId
from saga.core.intents import Continued
from saga.core.kernel import decider_without_code
from saga.core.piecewise import Piecewise, at_once
from saga.core.replay import following, is_abandoned, replaying
from saga.core.showing import shown_json
from saga.core.snapshots import snapshot_of
from saga.core.state import Pause, SagaState, waiting_for
from saga.core.status import ENDED, SagaStatus
from saga.core.texts import described, storable
from saga.core.values import value
from saga.errors import CorruptHistory, ReplayMismatch, UnknownEntry
from saga.ports import (
    Catalogue,
    EventStore,
    History,
    SagaSummary,
    Snapshot,
    SnapshotAndTail,
    SnapshotStore,
)
from saga.ports.store import DeferralReason, PausedBy
from saga.runtime.relay import may_publish
from saga.tasks import Interleaved
from saga.users_code import is_ours

COSTLY_ENTRIES: Final = 100
"""From so many on a saga is costly to bring back: it takes milliseconds, at each of its turns."""
COSTLY_ENTRIES_KEPT_MIN: Final = 100_000
"""Room for so many entries of costly sagas, about 100 MB, also where few sagas are kept."""
LONG_HISTORY_ENTRIES: Final = 10_000
"""From so many on people are told: to bring the saga back takes a tenth of a second and more."""
LONG_HISTORY_ADVICE: Final = (
    "let its function end this run and begin the next, with await ctx.continue_as_new(trigger): a "
    "saga is loaded from its last run on"
)
SNAPSHOT_ENTRIES: Final = COSTLY_ENTRIES
"""So many entries more are worth a snapshot, where they are also …"""
SNAPSHOT_SHARE: Final = 2
"""… this part of all: what is written of a saga in its life is some times its length."""
SNAPSHOT_BYTES_MAX: Final = 64 * 2**20
"""To write and read more takes seconds, in which others wait."""
TURNS_AT_ONCE: Final = 200
"""So many turns are replayed before others run: some milliseconds."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class LoadedSaga:
    """A saga in memory; *version* counts its entries, *turns* what wrote them, recorded or not.

    *before* counts those of earlier runs, which nobody loads again.
    *last_at* is the time of its last entry; none after it has an earlier one.
    *is_possibly_unpublished*: another process may have stored entries and not published them yet.
    """

    saga_id: SagaId
    decider: Decider
    state: SagaState
    version: int
    started_at: Instant
    last_at: Instant
    turns: int = 0
    is_possibly_unpublished: bool = False
    before: int = 0
    told: int = 0
    """The version at which it was told for a snapshot last, or was to be."""

    @property
    def length(self) -> int:
        """How many entries it takes to bring it back."""
        return self.version - self.before

    @property
    def may_have_snapshot(self) -> bool:
        return bool(self.told) or self.version >= SNAPSHOT_ENTRIES

    def let_go(self) -> None:
        """End its running code; what that does at its end counts for nothing."""
        program = self.state.program
        if program is not None:
            program.close()
            self.state.program = None


@value
class UnloadableSaga:
    """A saga whose history cannot be brought to life here, and why."""

    saga_id: SagaId
    deferral: DeferralReason
    reason: str
    entries: Sequence[Entry] = ()

    @property
    def status(self) -> SagaStatus:
        is_stalled = self.deferral is DeferralReason.STALLED
        return SagaStatus.STALLED if is_stalled else SagaStatus.PARKED

    @property
    def waiting_for(self) -> str:
        """Whom it needs to be loaded again."""
        return "deploy" if self.status is SagaStatus.STALLED else "operator"


class SagaCache:
    """Sagas between their turns; the least recently used leave first.

    At most *sagas_max* that are cheap to bring back are kept, and beside them costly ones, by the
    entries of their histories: what a costly one takes in memory it would take in time at each of
    its turns.
    """

    def __init__(
        self,
        store: EventStore,
        catalogue: Catalogue,
        registry: SagaRegistry,
        *,
        sagas_max: int,
        snapshots: SnapshotStore | None = None,
        snapshot_entries: int = SNAPSHOT_ENTRIES,
    ) -> None:
        """*snapshot_entries* is 1 where each turn is to have its snapshot, as in tests."""
        has_any = any(each.decider.code for each in registry.all().values())
        self._snapshots = snapshots if has_any else None
        self._snapshot_entries = snapshot_entries if self._snapshots is not None else sys.maxsize
        self._to_keep: dict[SagaId, Snapshot] = {}
        self._store = store
        self._catalogue = catalogue
        self._registry = registry
        self._sagas_max = sagas_max
        self._cheap: OrderedDict[SagaId, LoadedSaga] = OrderedDict()
        self._costly: OrderedDict[SagaId, LoadedSaga] = OrderedDict()
        self._costly_entries = 0

    def __len__(self) -> int:
        return len(self._cheap) + len(self._costly)

    def __iter__(self) -> Iterator[LoadedSaga]:
        return chain(self._cheap.values(), self._costly.values())

    def get(self, saga_id: SagaId) -> LoadedSaga | None:
        """A saga between its turns; it stays in memory."""
        return self._cheap.get(saga_id) or self._costly.get(saga_id)

    async def load(self, saga_ids: Collection[SagaId]) -> dict[SagaId, LoadedSaga | UnloadableSaga]:
        """The sagas that exist, taken out of memory until `keep`.

        So no other turn closes a saga in use, and one whose turn cannot be recorded is forgotten.
        """
        loaded = self.take(saga_ids)
        await self.complete(loaded, saga_ids)
        return loaded

    def take(self, saga_ids: Iterable[SagaId]) -> dict[SagaId, LoadedSaga | UnloadableSaga]:
        """Those of *saga_ids* that are in memory; they leave it until `keep`."""
        taken: dict[SagaId, LoadedSaga | UnloadableSaga] = {}
        cheap = self._cheap
        for saga_id in saga_ids:
            saga = cheap.pop(saga_id, None) or self._take_costly(saga_id)
            if saga is not None:
                taken[saga_id] = saga
        return taken

    async def complete(
        self,
        taken: dict[SagaId, LoadedSaga | UnloadableSaga],
        saga_ids: Collection[SagaId],
        *,
        published: Mapping[SagaId, int] = MappingProxyType({}),
    ) -> None:
        """Add those of *saga_ids* that the store has; where it cannot be asked, all are let go.

        What some have to publish up to a version of their histories is *published*.
        """
        if len(taken) == len(saga_ids):
            return
        missing = [saga_id for saga_id in saga_ids if saga_id not in taken]
        try:
            if self._snapshots is None:
                found: Mapping[SagaId, SnapshotAndTail | History | CorruptHistory]
                found = await self._store.load(missing)
            else:
                found = await self._snapshots.load_from_snapshots(missing)
            await self._bring_back(found, taken, published)
        except BaseException:
            let_go(taken.values())
            raise

    async def catch_up(
        self, sagas: dict[SagaId, LoadedSaga | UnloadableSaga], remembered: Iterable[SagaId]
    ) -> None:
        """Bring up to date what was in memory and is behind the store; else it leaves *sagas*.

        Where the store cannot be asked, all are let go.
        """
        loaded = {each: saga for each in remembered if isinstance(saga := sagas[each], LoadedSaga)}
        interleaved = Interleaved(TURNS_AT_ONCE)
        try:
            tails = await self._store.tails({each: saga.turns for each, saga in loaded.items()})
            for saga_id, tail in tails.items():
                if not await interleaved.finish(_following(loaded[saga_id], tail)):
                    loaded[saga_id].let_go()
                    del sagas[saga_id]
        except BaseException:
            let_go(sagas.values())
            raise

    async def histories_of(
        self,
        sagas: Mapping[SagaId, LoadedSaga | UnloadableSaga],
        saga_ids: Iterable[SagaId],
    ) -> dict[SagaId, History]:
        """What these *saga_ids* are loaded from; of one that cannot be loaded its entries say it.

        Raises:
            StoreUnavailable: the store cannot be asked.
        """
        loaded = [each for each in saga_ids if isinstance(sagas.get(each), LoadedSaga)]
        histories = await self._store.load(loaded)
        return {each: found for each, found in histories.items() if isinstance(found, History)}

    def keep(self, *sagas: LoadedSaga | UnloadableSaga) -> None:
        """Remember sagas whose turns, if there were any, are recorded.

        One that has ended, or whose program is ahead of its history, is let go, and one that has
        not begun, or cannot be loaded, is none.
        """
        cheap, told_from = self._cheap, self._snapshot_entries
        for saga in sagas:
            if isinstance(saga, UnloadableSaga):
                continue
            state, length = saga.state, saga.version - saga.before
            if state.status in ENDED or state.is_ahead:
                saga.let_go()
                continue
            if length >= told_from:
                self._tell(saga)
            if length >= COSTLY_ENTRIES:
                self._keep_costly(saga)
            elif saga.version:
                cheap[saga.saga_id] = saga
        while len(cheap) > self._sagas_max:
            cheap.popitem(last=False)[1].let_go()

    async def summaries_of(
        self, unloadable: Sequence[UnloadableSaga], at: Instant
    ) -> list[SagaSummary]:
        """The index rows of sagas that cannot be brought to life, with what is wrong."""
        rows = [_summary_of_unloadable(saga, at) for saga in unloadable if saga.entries]
        corrupt = {saga.saga_id: saga for saga in unloadable if not saga.entries}
        if corrupt:
            for row in await self._catalogue.summaries(list(corrupt)):
                saga = corrupt[row.saga_id]
                if row.status.is_ended and saga.status is SagaStatus.STALLED:
                    continue  # it has ended all the same, in a newer release
                changed = replace(row, status=saga.status, reason=saga.reason, updated_at=at)
                rows.append(replace(changed, waiting_for=saga.waiting_for))
        return rows

    async def keep_snapshots(self) -> None:
        """Have kept what was told since; one that cannot be is none."""
        if not self._to_keep or self._snapshots is None:
            return
        told, self._to_keep = [*self._to_keep.values()], {}
        try:
            await self._snapshots.keep_snapshots(told)
        except Exception as error:  # noqa: BLE001  # whatever it is, nothing needs them
            log.warning(
                "%d snapshots are not kept: %s",
                len(told),
                error,
                extra={"reason": described(error)},
            )

    def clear(self) -> None:
        let_go(self)
        self._to_keep.clear()
        self._cheap.clear()
        self._costly.clear()
        self._costly_entries = 0

    def _tell(self, saga: LoadedSaga) -> None:
        """Tell what a saga has come to, where enough was added to it since that was told last."""
        least, since = self._snapshot_entries, saga.version - max(saga.told, saga.before)
        if since < least or (least > 1 and since * SNAPSHOT_SHARE < saga.length):
            return
        saga.told = saga.version  # where it is no data it is not tried at each turn
        try:
            snapshot = snapshot_in(saga)
        except Exception:
            log.exception("no snapshot of saga %s", saga.saga_id, extra={"saga_id": saga.saga_id})
            return
        if snapshot is not None:
            self._to_keep[saga.saga_id] = snapshot

    def _keep_costly(self, saga: LoadedSaga) -> None:
        self._costly[saga.saga_id] = saga
        self._costly_entries += saga.length
        entries_max = max(COSTLY_ENTRIES * self._sagas_max, COSTLY_ENTRIES_KEPT_MIN)
        while self._costly_entries > entries_max and len(self._costly) > 1:
            oldest = self._take_costly(next(iter(self._costly)))
            assert oldest is not None, saga.saga_id
            oldest.let_go()

    def _take_costly(self, saga_id: SagaId) -> LoadedSaga | None:
        saga = self._costly.pop(saga_id, None)
        if saga is not None:
            self._costly_entries -= saga.length
        return saga

    async def _bring_back(
        self,
        found: Mapping[SagaId, SnapshotAndTail | History | CorruptHistory],
        loaded: dict[SagaId, LoadedSaga | UnloadableSaga],
        published: Mapping[SagaId, int],
    ) -> None:
        """Add the sagas that were *found* to *loaded*, and let others run now and then."""
        interleaved = Interleaved(TURNS_AT_ONCE)
        histories: dict[SagaId, History | CorruptHistory] = {}
        useless: list[SagaId] = []
        for saga_id, each in found.items():
            if not isinstance(each, SnapshotAndTail):
                histories[saga_id] = each
                continue
            resumed = await interleaved.finish(_resuming(self._registry, each))
            if resumed is None:
                useless.append(saga_id)
                continue
            loaded[saga_id] = resumed
            if published.get(saga_id, 0) >= each.snapshot.version:
                later = (turn for turn in each.tail.recorded if turn.version > published[saga_id])
                resumed.is_possibly_unpublished = _may_publish(resumed, later)
        if useless:
            histories |= await self._store.load(useless)
        for saga_id, history in histories.items():
            saga = await interleaved.finish(_reviving(self._registry, saga_id, history))
            loaded[saga_id] = saga
            if saga_id in published and isinstance(saga, LoadedSaga):
                assert isinstance(history, History), saga_id
                turns = (each for each in history.recorded if each.version > published[saga_id])
                saga.is_possibly_unpublished = _may_publish(saga, turns)


def revive(
    registry: SagaRegistry, saga_id: SagaId, history: History | CorruptHistory
) -> LoadedSaga | UnloadableSaga:
    """A saga brought to life by its code, or why that cannot be; an abandoned one needs none."""
    return at_once(_reviving(registry, saga_id, history))


def _reviving(
    registry: SagaRegistry, saga_id: SagaId, history: History | CorruptHistory
) -> Piecewise[LoadedSaga | UnloadableSaga]:
    """`revive` turn by turn."""
    found = yield from _reviving_by_code(registry, saga_id, history)
    if isinstance(found, UnloadableSaga) and is_abandoned(entry.body for entry in found.entries):
        return without_code(found) or found
    return found


def _reviving_by_code(
    registry: SagaRegistry, saga_id: SagaId, history: History | CorruptHistory
) -> Piecewise[LoadedSaga | UnloadableSaga]:
    if isinstance(history, UnknownEntry):
        reason = f"{history}: deploy the release that wrote it"
        return UnloadableSaga(saga_id, DeferralReason.STALLED, reason)
    if isinstance(history, CorruptHistory):
        reason = storable(str(history))
        return UnloadableSaga(saga_id, DeferralReason.CORRUPT_HISTORY, reason)
    name, version = definition_of(history)
    registered = registry.find(name, version)
    if beginning_of(history) is None:
        # It has decided nothing yet that would bind it to the version that could not begin it.
        registered = registry.newest(name)
    if registered is None:
        reason = f"no worker here has saga {name!r} version {version}: deploy it"
        return UnloadableSaga(saga_id, DeferralReason.STALLED, reason, history)
    decider = registered.decider
    try:
        state = yield from replaying(decider, saga_id, history)
    except ReplayMismatch as error:
        reason = storable(str(error))
        return UnloadableSaga(saga_id, DeferralReason.REPLAY_MISMATCH, reason, history)
    except BaseException as error:  # users' code: the saga parks, others go on
        if is_ours(error):
            raise
        reason = f"the code at hand raised {described(error)}"
        return UnloadableSaga(saga_id, DeferralReason.REPLAY_FAILED, reason, history)
    return _loaded(saga_id, decider, state, history)


def loading_migrated(
    registered: Registered, saga_id: SagaId, history: History, migration: RecordedTurn
) -> Piecewise[LoadedSaga | ReplayMismatch]:
    """A saga as another version's code has it, about to take *migration*; or why that cannot be."""
    decider = registered.decider
    try:
        state = yield from replaying_guarded(decider, saga_id, history, ahead=migration)
    except ReplayMismatch as error:
        return error
    return _loaded(saga_id, decider, state, history)


def snapshot_in(saga: LoadedSaga) -> Snapshot | None:
    """What *saga* has come to, for others of the same code; None where that is no data."""
    decides = (saga.state.run and saga.state.run.definition) or saga.decider
    told = snapshot_of(saga.state) if decides.code else None
    if told is None:
        return None
    beside = {"started_at": saga.started_at, "last_at": saga.last_at, "before": saga.before}
    try:
        state = orjson.dumps({"saga": told, **beside})
    except TypeError:  # what orjson does not write: half a character, a number of 65 bits
        return None
    if len(state) > SNAPSHOT_BYTES_MAX:
        return None
    return Snapshot(
        saga_id=saga.saga_id,
        definition=decides.name,
        definition_version=decides.version,
        code=decides.code,
        turns=saga.turns,
        version=saga.version,
        state=state,
    )


def _resuming(registry: SagaRegistry, resumed: SnapshotAndTail) -> Piecewise[LoadedSaga | None]:
    """The saga of a snapshot, and of the turns behind it; None: to load it whole says more."""
    snapshot, tail = resumed.snapshot, resumed.tail
    registered = registry.find(snapshot.definition, snapshot.definition_version)
    if registered is None or registered.decider.code != snapshot.code:
        return None
    decider = registered.decider
    try:
        told = orjson.loads(snapshot.state)
        state = decider.restored(snapshot.saga_id, told["saga"])
        before = told["before"]
        times = {"started_at": told["started_at"], "last_at": told["last_at"]}
    except BaseException as error:  # users' code, or what is no snapshot
        if is_ours(error):
            raise
        text = "the snapshot of saga %s is not believed: %s"
        reason, place = described(error), {"saga_id": snapshot.saga_id}
        log.warning(text, snapshot.saga_id, reason, extra=place | {"reason": reason})
        return None
    version, turns = snapshot.version, snapshot.turns
    saga = LoadedSaga(snapshot.saga_id, decider, state, version, turns=turns, **times)
    saga.is_possibly_unpublished, saga.before, saga.told = True, before, version
    if state.version == version and (not tail.recorded or (yield from _following(saga, tail))):
        return saga
    saga.let_go()
    return None


def _following(saga: LoadedSaga, tail: History | CorruptHistory) -> Piecewise[bool]:
    """Whether *saga* could take the turns behind its own; else to load it whole says why."""
    if isinstance(tail, CorruptHistory) or tail.recorded[0].version != saga.version + 1:
        return False
    try:
        if not (yield from following(saga.decider, saga.state, tail.recorded)):
            return False
    except BaseException as error:  # a mismatch, or users' code
        if is_ours(error):
            raise
        return False
    saga.version, saga.turns = tail.version, tail.turns
    saga.last_at = tail.recorded[-1].event.at
    if _may_publish(saga, tail.recorded):
        saga.is_possibly_unpublished = True
    return True


def _may_publish(saga: LoadedSaga, turns: Iterable[RecordedTurn]) -> bool:
    return any(may_publish(turn, saga.state.parent) for turn in turns)


def let_go(sagas: Iterable[LoadedSaga | UnloadableSaga]) -> None:
    """Forget sagas whose turns cannot be recorded; what is stored of them brings them back."""
    for saga in sagas:
        if isinstance(saga, LoadedSaga):
            saga.let_go()


def without_code(saga: UnloadableSaga) -> LoadedSaga | None:
    """A saga as its entries say that it stands; None where they do not say it."""
    if not isinstance(saga.entries, History):
        return None  # what is stored cannot be read
    try:
        return loaded_without_code(saga.saga_id, saga.entries)
    except (AssertionError, CorruptHistory, LookupError, ValueError):
        return None  # its entries do not go together


def loaded_without_code(saga_id: SagaId, history: History) -> LoadedSaga:
    state = fold(saga_id, history)
    decider = decider_without_code(*definition_of(history))
    return _loaded(saga_id, decider, state, history)


def _loaded(saga_id: SagaId, decider: Decider, state: SagaState, history: History) -> LoadedSaga:
    first = history.recorded[0]
    return LoadedSaga(
        saga_id,
        decider,
        state,
        history.version,
        started_at=first.event.at if first.version == 1 else state.started_at,
        last_at=history.recorded[-1].event.at,
        turns=history.turns,
        is_possibly_unpublished=True,
        before=first.version - 1,
    )


def definition_of(history: Sequence[Entry]) -> tuple[str, int]:
    """Name and version of the definition that decides a saga: it began so, or was migrated."""
    pinned = pinned_in(history)
    if pinned is not None:
        return pinned.definition, pinned.version
    first = history[0].body
    if isinstance(first, TurnFailed) and first.definition is not None:
        return first.definition, first.definition_version or 0
    return "?", 0


def summary_of(saga: LoadedSaga) -> SagaSummary:
    state, decider = saga.state, saga.decider
    decides = decider if state.run is None else state.run.definition or decider
    return SagaSummary(
        saga.saga_id,
        decider.name,
        decides.version,
        state.key,
        state.status,
        saga.started_at,
        saga.last_at,
        waiting_for(state),
        state.reason,
        saga.version,
        None if state.pause is None else paused_by(state.pause),
        None if state.shown is None else shown_json(state),
    )


def paused_by(pause: Pause | None) -> str | None:
    """What pauses a saga, as its index row has it."""
    if pause is None:
        return None
    if pause.by_saga and pause.by_definition:
        return PausedBy.BOTH.value
    return (PausedBy.SAGA if pause.by_saga else PausedBy.DEFINITION).value


def _summary_of_unloadable(saga: UnloadableSaga, at: Instant) -> SagaSummary:
    begun = beginning_of(saga.entries)
    definition, version = definition_of(saga.entries)
    return SagaSummary(
        saga.saga_id,
        definition,
        version,
        "" if begun is None else begun.key,
        saga.status,
        begun.started_at if isinstance(begun, Continued) else saga.entries[0].at,
        at,
        saga.waiting_for,
        saga.reason,
        saga.entries[-1].version,
        _paused_in(saga.entries),
    )


def _paused_in(entries: Sequence[Entry]) -> str | None:
    """What pauses a saga whose history cannot be brought to life, as its entries say."""
    by: set[PauseScope | None] = set()
    for entry in entries:
        body = entry.body
        if isinstance(body, SagaStarted) and body.paused:
            by.add(PauseScope.DEFINITION)
        elif isinstance(body, Paused):
            by.add(body.scope)
        elif isinstance(body, Resumed):
            by.discard(body.scope)
    pause = Pause(by_saga=None in by, by_definition=PauseScope.DEFINITION in by)
    return paused_by(pause if by else None)
