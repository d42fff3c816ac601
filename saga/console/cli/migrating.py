"""`migrate`: running sagas go on with another version of their definition."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from saga.adapters.ids import new_id
from saga.adapters.opening import open_bus
from saga.authoring.graphs.file.mistakes import Place, shown
from saga.authoring.graphs.file.reading import Mapped, Member, bytes_of, plain, read
from saga.authoring.steps import STEP_ID_CHARS_MAX
from saga.console.cli.commands import DefinitionName
from saga.console.cli.gate.tally import COLUMNS, Tally
from saga.console.cli.gate.verdicts import Verdict, verdict_of
from saga.console.cli.output import ExitCode, Misused, NotSo, Printer
from saga.console.cli.session import Session, closing, must_exist
from saga.contracts import Command
from saga.ports import TopicSpec
from saga.publishing.writer import EventWriter
from saga.runtime.bulk_migration import (
    ALL,
    Migration,
    MigrationResult,
    SagaMigration,
    Send,
    unknown_names,
    why_not,
)
from saga.runtime.bulk_migration import migrate as move_sagas
from saga.runtime.receipts import WAIT_S
from saga.runtime.versions import versions as versions_of

_WORDS: Final = {
    MigrationResult.POSSIBLE: "would go on",
    MigrationResult.APPLIED: "go on",
    MigrationResult.DUPLICATE: "had gone on before",
    MigrationResult.REFUSED: "refused",
    MigrationResult.UNKNOWN: "not taken by any worker yet",
}


async def migrate(
    session: Session,
    *,
    start: Annotated[
        str, typer.Option("--from", metavar="NAME@VERSION", help="The sagas: their version now.")
    ],
    to: Annotated[
        str, typer.Option("--to", metavar="NAME@VERSION", help="The version to go on with.")
    ],
    percent: Annotated[
        float,
        typer.Option(
            "--percent",
            metavar="P",
            min=0,
            max=ALL,
            help="Only this share of them; a larger one has the same sagas, and more.",
        ),
    ] = ALL,
    mapping: Annotated[
        Path | None,
        typer.Option(
            "--map", metavar="FILE", help="YAML or JSON: `steps`, old names and their new ones."
        ),
    ] = None,
    is_dry: Annotated[
        bool, typer.Option("--dry-run", help="Replay their histories; change nothing.")
    ] = False,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why; recorded in each history.")
    ] = "",
    actor: Annotated[
        str | None, typer.Option("--actor", metavar="WHO", help="Who asks; recorded.")
    ] = None,
    command_id: Annotated[
        str | None,
        typer.Option(
            "--id", metavar="ID", help="The request's id: the same one sent again changes nothing."
        ),
    ] = None,
    wait: Annotated[
        float,
        typer.Option(
            "--wait", metavar="SECONDS", min=0, help="How long to wait for the turns of a page."
        ),
    ] = WAIT_S,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Do not wait for what comes of the commands.")
    ] = False,
) -> int:
    """Move running sagas to another version of their definition; exit 1 if one was refused.

    Each history is replayed with the new code first. A dry run says what would come of it.
    """
    if not (reason.strip() or is_dry):
        raise Misused("--reason is empty: readers of the history will want to know why")
    definition, from_version, to_version = _versions(start, to)
    steps = {} if mapping is None else read_steps(mapping)
    migration = Migration(
        id=command_id or new_id(),
        definition=definition,
        from_version=from_version,
        to_version=to_version,
        reason=reason.strip() or "dry run",
        actor=actor,
        steps={old: new for old, (new, _) in steps.items()},
        percent=percent,
    )
    wait_s = None if no_wait else wait
    return await _migrate(session, migration, mapping, steps, is_dry=is_dry, wait_s=wait_s)


async def versions(session: Session, *, definition: DefinitionName = None) -> int:
    """Say which versions open sagas still need, and which can go; exit 1 where one is missing."""
    sagas = session.app.registry
    async with session.reading() as store:
        found = await versions_of(store.catalogue, sagas, definition=definition)
    rows = [
        {
            "definition": each.definition,
            "version": each.version,
            "open": each.open,
            "here": each.is_here,
            "newest": each.is_newest,
            "advice": each.advice,
        }
        for each in found
    ]
    columns = ("definition", "version", "open", "here", "advice")
    session.printer.listing(
        rows,
        columns,
        lambda row: [_cell(row[name]) for name in columns],
        nothing="neither the application nor the store has such a saga",
    )
    return ExitCode.OK if all(each.is_here or not each.open for each in found) else ExitCode.NOT_SO


def _cell(said: object) -> object:
    return {True: "yes", False: "no"}.get(said, said) if isinstance(said, bool) else said


async def _migrate(
    session: Session,
    migration: Migration,
    file: Path | None,
    steps: dict[str, tuple[str, Place]],
    *,
    is_dry: bool,
    wait_s: float | None,
) -> int:
    sagas = session.app.registry
    _check(why_not(sagas, migration))
    summary = _Summary(session.printer, is_patient=wait_s is not None)
    async with session.reading(to_act=not is_dry) as store, _sender(session, is_dry) as send:
        known = {contract.name for contract in session.app.contracts.contracts}
        unknown = await unknown_names(store.store, store.catalogue, migration) - known
        _refuse_unknown(file, steps, unknown, f"{migration.definition}@{migration.from_version}")
        moved = move_sagas(store.store, store.catalogue, sagas, migration, send=send, wait_s=wait_s)
        async for each in moved:
            summary.add(each)
    summary.tell_result(migration)
    return ExitCode.OK if summary.is_ok else ExitCode.NOT_SO


def _check(problem: str | None) -> None:
    if problem is not None:
        raise NotSo(problem)


@asynccontextmanager
async def _sender(session: Session, is_dry: bool) -> AsyncIterator[Send | None]:  # noqa: FBT001  # the only one
    """Puts commands on the bus; None for a dry run, which needs no bus."""
    if is_dry:
        yield None
        return
    settings = session.settings
    must_exist(settings.bus, "bus")
    writer = EventWriter.of(settings)
    async with closing(open_bus(settings)) as opened:

        async def send(commands: Sequence[tuple[Command, str]]) -> None:
            records = [writer.command(command, key=key) for command, key in commands]
            topic = TopicSpec(records[0].topic, settings.partitions, settings.retention_s)
            await opened.bus.create_topics([topic])
            await opened.bus.publish(records)

        yield send


class _Summary:
    """How many sagas came to what, and which kinds of differences they were refused for."""

    def __init__(self, printer: Printer, *, is_patient: bool) -> None:
        self._printer = printer
        self._is_patient = is_patient
        self._results: Counter[MigrationResult] = Counter()
        self._tally = Tally()
        self.is_ok = True

    def add(self, migrated: SagaMigration) -> None:
        self._results[migrated.result] += 1
        is_ok = self._is_fine(migrated)
        self.is_ok = self.is_ok and is_ok
        verdict = verdict_of(migrated.saga, migrated.finding, entries=migrated.entries)
        self._tally.add(verdict)
        if self._printer.is_json:
            said = {"ok": is_ok, "result": migrated.result, "detail": migrated.detail}
            self._printer.json(verdict.row() | said)
        elif not is_ok:
            self._tell(migrated, verdict)

    def tell_result(self, migration: Migration) -> None:
        counts = list(self._tally.differences())
        results = {result.value: self._results[result] for result in MigrationResult}
        if counts and not self._printer.is_json:
            self._printer.say("")
            self._printer.table(COLUMNS, [count.cells for count in counts])
        row = {"sagas": self._results.total(), **results, "kinds": [count.row for count in counts]}
        self._printer.result(row, self._line(migration))

    def _is_fine(self, migrated: SagaMigration) -> bool:
        """Whether it has not failed: what nobody waits for is not known, and that is no failure."""
        is_unknown = migrated.result is MigrationResult.UNKNOWN
        return migrated.is_ok or (is_unknown and not self._is_patient)

    def _tell(self, migrated: SagaMigration, verdict: Verdict) -> None:
        said = f"{verdict.title} {_WORDS[migrated.result]}"
        if verdict.is_ok:
            self._printer.say(f"{said}:")
            self._printer.say(f"  {migrated.detail}", style="red")
        else:
            self._printer.say(f"{said}: {verdict.line}", style="red")
            self._printer.say(*verdict.told())

    def _line(self, migration: Migration) -> str:
        counts = ", ".join(
            f"{self._results[each]:,} {_WORDS[each]}"
            for each in MigrationResult
            if self._results[each]
        )
        before, now = migration.from_version, migration.to_version
        name = f"{migration.definition}@{before} → {migration.definition}@{now}"
        return f"{name}: {counts or 'no saga is open'}"


def _versions(start: str, to: str) -> tuple[str, int, int]:
    """The definition, and its versions from which and to which."""
    (definition, from_version), (other, to_version) = (
        _version("--from", start),
        _version("--to", to),
    )
    if definition != other:
        raise Misused(
            f"--from {start} --to {to}: both have to be of one definition; a saga cannot become one"
            f" of another"
        )
    if from_version == to_version:
        raise Misused(f"--from {start} --to {to}: this is one version, where two are needed")
    return definition, from_version, to_version


def _version(flag: str, text: str) -> tuple[str, int]:
    name, at, version = text.rpartition("@")
    if not (name and at and version.isdecimal() and version.isascii()):
        raise Misused(f"{flag} {text!r}: give a definition and its version, such as order@2")
    return name, int(version)


def read_steps(file: Path) -> dict[str, tuple[str, Place]]:
    """By old name the new one, and where it stands; NotSo says what is wrong with the file."""
    try:
        tree = read(bytes_of(file))
    except OSError as error:
        raise NotSo(f"--map {file}: {error.strerror}") from error
    if tree.mistakes:
        raise NotSo(*(f"{file}:{each.place.line}: {each.message}" for each in tree.mistakes[:20]))
    root = tree.root
    if not isinstance(root, Mapped):
        raise NotSo(f"{file}:1: expected `steps:` with old names and new ones, `reserve: hold`")
    for key, member in root.members.items():
        if key != "steps":
            message = f"`{shown(key)}` is not known here: expected `steps`, and nothing else"
            raise NotSo(f"{file}:{member.place.line}: {message}")
    given = root.members.get("steps")
    if given is None or not isinstance(given.node, Mapped):
        raise NotSo(f"{file}:1: `steps` has to be old names and new ones, such as `reserve: hold`")
    problems = list(_problems(file, given.node.members))
    if problems:
        raise NotSo(*problems)
    return {old: (plain(member.node), member.place) for old, member in given.node.members.items()}


def _problems(file: Path, members: dict[str, Member]) -> Iterator[str]:
    """What is wrong with the names of a file, with the line of each."""
    taken: dict[str, str] = {}
    for old, member in members.items():
        line, new = f"{file}:{member.place.line}", plain(member.node)
        if not isinstance(new, str):
            yield f"{line}: the new name of `{shown(old)}` is no text: write it in quotes"
            continue
        for name in (old, new):
            if not name or "/" in name or len(name) > STEP_ID_CHARS_MAX:
                length = f"1 to {STEP_ID_CHARS_MAX} characters, and no /"
                yield f"{line}: `{shown(name)}`: a name has {length}"
        if new in taken:
            yield f"{line}: `{shown(old)}` and `{shown(taken[new])}` would both be `{shown(new)}`"
        taken.setdefault(new, old)


def _refuse_unknown(
    file: Path | None, steps: dict[str, tuple[str, Place]], unknown: Collection[str], version: str
) -> None:
    problems = [
        f"{file}:{place.line}: no open saga of {version} has anything named `{shown(old)}`: mend "
        f"the name, or take it out"
        for old, (_, place) in steps.items()
        if old in unknown
    ]
    if problems:
        raise NotSo(*problems)
