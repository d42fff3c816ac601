"""`topics`: the contracts of the application, their lock file, their topics, their AsyncAPI page.

The lock file has what readers rely on; the AsyncAPI document is for services in any language.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
import yaml

from saga.adapters.opening import open_bus_and_store, open_kafka
from saga.application import Application
from saga.authoring import SagaDefinition
from saga.console.cli.output import ExitCode, Misused, NotSo
from saga.console.cli.session import Session
from saga.contracts import (
    COMMAND_CONTRACT,
    Contract,
    ContractRegistry,
    Kind,
    TopicNames,
    contract_of,
    is_contract,
    reply_contract_names,
)
from saga.contracts.lockfile import Change, Lock, check, lock_of, lock_text, read_lock
from saga.contracts.topics import Document, Participant, TopicSettings, asyncapi_document
from saga.effects import Effects
from saga.errors import TopicMissing
from saga.ports import Bus, Source, TopicSpec
from saga.settings import Settings

if TYPE_CHECKING:
    from saga.adapters.kafka import TopicFlaw


LOCK_FILE: Final = "topics/contracts.lock.json"

File = Annotated[
    Path, typer.Option("--file", metavar="PATH", help="The lock file.", dir_okay=False)
]


def topics_ls(session: Session, *, file: File = Path(LOCK_FILE)) -> None:
    """List the contracts of the application with their topics."""
    app = session.app
    names = session.settings.topic_names
    lock = _lock(file) if file.exists() else {}
    rows: list[dict[str, Any]] = []
    for contract in app.contracts.published:
        name = contract.contract_name
        current = app.contracts.current(name).contract_name
        rows.append(
            {
                "contract": name,
                "topic": names.topic(name),
                "key": contract.key,
                "replies": list(reply_contract_names(contract)) if contract.kind == "int" else [],
                "read_as": current,
                "locked": name in lock,
                "where": contract.where,
            }
        )
    if session.printer.is_json:
        for row in rows:
            session.printer.json(row)
        return
    session.printer.table(
        ("contract", "key", "replies", "read as", "locked", "where"),
        [
            (
                row["contract"],
                row["key"],
                ", ".join(row["replies"]),
                row["read_as"] if row["read_as"] != row["contract"] else None,
                "yes" if row["locked"] else "no",
                row["where"],
            )
            for row in rows
        ],
    )


async def topics_check(session: Session, *, file: File = Path(LOCK_FILE)) -> int:
    """Compare the contracts with the lock file: all must be locked, and readers able to follow.

    On Kafka compare the topics too: all must be there, with equal numbers of partitions.
    """
    registry = session.app.contracts
    if not file.exists():
        raise NotSo(f"there is no lock file {file}: make it with `saga topics lock` and commit it")
    changes = check(registry, _lock(file))
    breaking = sum(not change.compatible for change in changes)
    printer = session.printer
    for change in changes:
        if printer.is_json:
            printer.json(_row(change))
        else:
            printer.say(str(change), style=None if change.compatible else "red")
    flaws = await _flaws_in_cluster(session)
    wrong = sum(not flaw.is_warning for flaw in flaws)
    for flaw in flaws:
        if printer.is_json:
            row = {"topic": flaw.topic, "problem": flaw.problem, "is_warning": flaw.is_warning}
            printer.json(row)
        else:
            printer.say(
                f"{flaw.topic} {flaw.problem}", style="yellow" if flaw.is_warning else "red"
            )
    contracts = len(registry.published)
    if printer.is_json:
        summary = {"contracts": contracts, "changes": len(changes), "breaking": breaking}
        summary |= {"topics_wrong": wrong, "warnings": len(flaws) - wrong}
        printer.json(summary | {"ok": not changes and not wrong})
    elif changes or wrong:
        printer.note(
            f"{len(changes)} changes, {breaking} of which readers cannot follow; "
            f"{wrong} topics are wrong"
        )
    else:
        printer.say(f"{contracts} contracts, all as they are locked in {file}")
    return ExitCode.NOT_SO if changes or wrong else ExitCode.OK


def topics_lock(
    session: Session,
    *,
    file: File = Path(LOCK_FILE),
    force: Annotated[
        bool, typer.Option("--force", help="Lock also what readers cannot follow.")
    ] = False,
) -> None:
    """Write the lock file. Refuses changes that readers cannot follow."""
    registry = session.app.contracts
    before = _lock(file) if file.exists() else {}
    changes = check(registry, before)
    breaking = [str(change) for change in changes if not change.compatible]
    if breaking and not force:
        raise NotSo("\n".join([*breaking, "not locked (--force locks it all the same)"]))
    if changes or not file.exists():
        _write(file, lock_text(lock_of(registry)))
    contracts = len(registry.published)
    if session.printer.is_json:
        row = {"file": str(file), "contracts": contracts}
        session.printer.json(row | {"changes": len(changes), "breaking": len(breaking)})
    else:
        session.printer.say(
            f"{file}: {contracts} contracts, {len(changes)} changes since the last lock"
        )


async def topics_create(session: Session) -> None:
    """Make the missing topics of the application; those that exist stay as they are."""
    specs = session.app.topic_specs(session.settings)
    async with _opened(session) as bus:
        missing = await _missing(bus, specs)
        await bus.create_topics(specs)
    printer = session.printer
    rows = [
        {
            "topic": spec.name,
            "partitions": spec.partitions,
            "retention_s": spec.retention_s,
            "created": spec.name in missing,
        }
        for spec in specs
        if printer.is_json or spec.name in missing
    ]
    if printer.is_json:
        for row in rows:
            printer.json(row)
        return
    for row in rows:
        printer.say(f"created {row['topic']} with {row['partitions']} partitions")
    printer.say(f"{len(specs)} topics, {len(missing)} of them created now")


def topics_asyncapi(
    session: Session,
    *,
    is_yaml: Annotated[bool, typer.Option("--yaml", help="Print YAML instead of JSON.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="PATH", help="Write to a file.", dir_okay=False),
    ] = None,
    title: Annotated[str | None, typer.Option("--title", help="What the document is of.")] = None,
    version: Annotated[
        str | None, typer.Option("--version", help="Its version; by default a hash of it.")
    ] = None,
) -> None:
    """Print the AsyncAPI 3 document of topics, messages, sagas and effect services."""
    if session.printer.is_json and is_yaml:
        raise Misused("--json and --yaml: choose one of them")
    document = document_of(session.app, session.settings, title=title, version=version)
    printer = session.printer
    if output is not None:
        try:
            output.write_text(_text(document, is_yaml=is_yaml), "utf-8")
        except OSError as error:
            raise NotSo(f"{output}: {error.strerror or error}") from error
        channels, operations = len(document["channels"]), len(document["operations"])
        if printer.is_json:
            row = {"file": str(output), "version": document["info"]["version"]}
            printer.json(row | {"channels": channels, "operations": operations})
        else:
            printer.say(f"{output}: {channels} channels, {operations} operations")
    elif printer.is_json:
        printer.json(document)
    else:
        typer.echo(_text(document, is_yaml=is_yaml), nl=False)


def document_of(
    app: Application, settings: Settings, *, title: str | None = None, version: str | None = None
) -> Document:
    """The document of *app*, with the topics as *settings* have them made."""
    names = settings.topic_names
    is_kafka = settings.bus.startswith("kafka:")
    return asyncapi_document(
        app.contracts,
        [*_sagas(app, settings), *(_service(app, service, names) for service in app.effects)],
        names=names,
        topics=TopicSettings(
            partitions=settings.partitions,
            replicas=settings.replication,
            retention_s=settings.retention_s,
        ),
        servers=settings.servers if is_kafka else (),
        is_secure=settings.kafka_security_protocol.endswith("SSL"),
        title=title or settings.app.partition(":")[0],
        version=version,
    )


def _lock(file: Path) -> Lock:
    try:
        return read_lock(file.read_text("utf-8"), where=str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise NotSo(f"{file}: {error}") from error


def _write(file: Path, text: str) -> None:
    """Replace the file, whole or not at all."""
    beside = file.with_name(f"{file.name}.new")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text, "utf-8")
        beside.replace(file)
    except OSError as error:
        raise NotSo(f"{file}: {error.strerror or error}") from error


def _row(change: Change) -> dict[str, Any]:
    return {
        "contract": change.contract,
        "kind": change.kind.value,
        "field": change.field,
        "before": change.before,
        "after": change.after,
        "compatible": change.compatible,
        "advice": change.advice,
    }


async def _flaws_in_cluster(session: Session) -> list[TopicFlaw]:
    """What is wrong with the topics in the cluster; nothing where the bus is a file."""
    settings = session.settings
    if not settings.bus.startswith("kafka:"):
        return []
    bus = open_kafka(settings)
    from saga.adapters.kafka import flaws_of

    specs = session.app.topic_specs(settings)
    try:
        topics = await bus.describe_topics([spec.name for spec in specs])
    finally:
        await bus.close()
    return flaws_of(specs, topics, record_bytes_max=settings.record_bytes_max)


@asynccontextmanager
async def _opened(session: Session) -> AsyncIterator[Bus]:
    if session.settings.bus.startswith("kafka:"):
        kafka = open_kafka(session.settings)
        try:
            yield kafka
        finally:
            await kafka.close()
        return
    opened = open_bus_and_store(session.settings)
    try:
        yield opened.bus
    finally:
        await opened.close()


async def _missing(bus: Bus, specs: Sequence[TopicSpec]) -> set[str]:
    missing: set[str] = set()
    for spec in specs:
        try:
            await bus.bounds([Source(spec.name, 0)])
        except TopicMissing:
            missing.add(spec.name)
    return missing


def _sagas(app: Application, settings: Settings) -> list[Participant]:
    by_name: dict[str, list[SagaDefinition]] = {}
    for definition in app.sagas:
        by_name.setdefault(definition.name, []).append(definition)
    return [
        Participant(
            kind="saga",
            name=name,
            group=settings.topic_names.topic(settings.group),
            receives=frozenset().union(*(_received(app.contracts, saga) for saga in definitions)),
            sends=frozenset().union(*(_sent(saga) for saga in definitions)),
            versions=tuple(sorted(saga.version for saga in definitions)),
        )
        for name, definitions in by_name.items()
    ]


def _received(contracts: ContractRegistry, saga: SagaDefinition) -> set[str]:
    """What reaches a saga: its triggers in all versions, replies to its intents, commands."""
    replies = [reply for intent in _intents(saga) for reply in reply_contract_names(intent)]
    triggers = [contract_of(trigger).contract_name for trigger in saga.starts_on]
    current = (*replies, *triggers)
    return {name for each in current for name in contracts.names_read_as(each)} | {COMMAND_CONTRACT}


def _sent(saga: SagaDefinition) -> set[str]:
    """What a saga sends: its intents, and the events that it names and does not receive."""
    intents = _intents(saga)
    replies = {name for intent in intents for name in reply_contract_names(intent)}
    received = replies | {contract_of(trigger).contract_name for trigger in saga.starts_on}
    contracts = _contracts(saga)
    events = {contract.contract_name for contract in contracts if contract.kind is Kind.EVENT}
    return {intent.contract_name for intent in intents} | (events - received)


def _intents(saga: SagaDefinition) -> list[Contract]:
    return [contract for contract in _contracts(saga) if contract.kind is Kind.INTENT]


def _contracts(saga: SagaDefinition) -> list[Contract]:
    return [contract_of(model) for model in saga.contracts() if is_contract(model)]


def _service(app: Application, service: Effects, names: TopicNames) -> Participant:
    handled = [contract_of(model) for model in (*service.intents, *service.facts)]
    intents = [contract_of(model) for model in service.intents]
    return Participant(
        kind="effects",
        name=service.name,
        group=names.topic(f"effects.{service.name}"),
        receives=frozenset(
            name
            for contract in handled
            for name in app.contracts.names_read_as(contract.contract_name)
        ),
        sends=frozenset(name for intent in intents for name in reply_contract_names(intent)),
    )


def _text(document: Document, *, is_yaml: bool) -> str:
    if is_yaml:
        return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
