"""Migrations in a history: which version decides each run now, and what its code calls things.

Theory of operation: what was issued before a migration keeps its id for ever: intents, idempotency
keys, timers and replies carry it. So the history, and the state that is folded from it, know the
recorded names only; `RenamedProgram` stands between them and a program that has new ones. Of a name
that was not recorded by then, the new code's own is the id from there on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Final

from saga.core import intents
from saga.core.history import RecordedTurn, migration_in
from saga.core.intents import TimerPurpose
from saga.core.values import value
from saga.errors import ReplayMismatch


class NameKind(StrEnum):
    """What names a program gives; those of one kind name one thing each."""

    STEP = "step"
    SLEEP = "sleep"
    WAIT = "wait"
    SCOPE = "scope"
    PUBLICATION = "publication"


Names = Mapping[tuple[NameKind, str], str]
"""What the code at hand calls what was recorded under a name of a kind."""
FIRST_RUN: Final = 1


@value
class MigratedRun:
    """What became of one run: its *version* now, and *names*, None where none has changed."""

    version: int
    names: Names | None


class Migrations:
    """Of each run that was migrated what became of it."""

    __slots__ = ("_moved",)

    def __init__(self, moved: Mapping[int, MigratedRun]) -> None:
        self._moved = moved

    def version_in(self, run: int) -> int | None:
        """The version that decides a run, where it is not the one that it began with."""
        moved = self._moved.get(run)
        return None if moved is None else moved.version

    def names_in(self, run: int) -> Names | None:
        moved = self._moved.get(run)
        return None if moved is None else moved.names


def migrations_of(recorded: Sequence[RecordedTurn]) -> Migrations | None:
    """The migrations in *recorded*; None where there is none.

    Raises:
        ReplayMismatch: two recorded names would be one.
    """
    if not any(map(migration_in, recorded)):
        return None
    moved: dict[int, MigratedRun] = {}
    run, version, has_changed = FIRST_RUN, 0, False
    names: dict[tuple[NameKind, str], str] = {}
    for turn in recorded:
        if (fact := migration_in(turn)) is not None:
            version, has_changed = fact.definition_version, has_changed or bool(fact.steps)
            names = _renamed_by(dict(fact.steps), names, turn)
            moved[run] = MigratedRun(version, names if has_changed else None)
        for body in turn.decided:
            if type(body) is intents.Continued:
                run, names, has_changed = body.run, {}, False
            else:
                names.update((each, each[1]) for each in names_in(body) if each not in names)
    return Migrations(moved)


def names_in(body: object) -> Iterator[tuple[NameKind, str]]:
    """The names that an entry gives to something for the first time, or again."""
    match body:
        case intents.IntentIssued(step=step, scope=scope):
            yield NameKind.STEP, step
            if scope is not None:
                parts = scope.split("/")
                yield from ((NameKind.SCOPE, "/".join(parts[: n + 1])) for n in range(len(parts)))
        case intents.IntentTold(step=step):
            yield NameKind.STEP, step
        case intents.EventPublished(publication=publication):
            yield NameKind.PUBLICATION, publication
        case intents.SignalAwaited(wait=wait) | intents.EventAwaited(wait=wait):
            yield NameKind.WAIT, wait
        case intents.TimerArmed(purpose=TimerPurpose.SLEEP, target=target):
            yield NameKind.SLEEP, target


def _renamed_by(
    steps: Mapping[str, str], names: Names, turn: RecordedTurn
) -> dict[tuple[NameKind, str], str]:
    """*names* as they are behind one more migration."""
    if not steps:
        return dict(names)
    changed = {each: new_name(name, steps) for each, name in names.items()}
    known: dict[tuple[NameKind, str], str] = {}
    for (kind, recorded), name in changed.items():
        if (other := known.setdefault((kind, name), recorded)) != recorded:
            both = f"the {kind.value}s {other} and {recorded}"
            raise ReplayMismatch(turn.version, both, f"one name for both: {name}")
    return changed


def new_name(name: str, steps: Mapping[str, str]) -> str:
    """What *name* is called where *steps* have changed.

    A name that is numbered follows the one without a number; in a later run the number of the run
    stays in front. Each part of a scope's name is one.
    """
    return "/".join(_new_part(part, steps) for part in name.split("/"))


def _new_part(name: str, steps: Mapping[str, str]) -> str:
    run, dot, own = name.partition(".")
    if not (dot and run.isdecimal()):
        run, dot, own = "", "", name
    if own in steps:
        return run + dot + steps[own]
    base, dash, number = own.rpartition("-")
    if dash and number.isdecimal() and base in steps:
        return f"{run}{dot}{steps[base]}-{number}"
    return name
