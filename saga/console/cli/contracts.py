"""`topics`: the application's contracts, their lock file, topics and AsyncAPI document."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
import yaml

from saga.adapters.opening import open_bus, open_kafka
from saga.application import Application
from saga.console.cli.output import ExitCode, Misused, NotSo
from saga.console.cli.session import Session, closing
from saga.contracts import (
    COMMAND_CONTRACT,
    Contract,
    Kind,
    TopicNames,
    contract_of,
    is_contract,
    reply_contract_names,
)
from saga.contracts.between_sagas import CHILD_CONTRACTS
from saga.contracts.lockfile import Lock, check, lock_of, lock_text, read_lock
from saga.contracts.topics import Document, Participant, TopicSettings, asyncapi_document
from saga.effects import Effects, Subscription
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
    contracts, names = session.app.contracts, session.settings.topic_names
    lock = _lock(file) if file.exists() else {}

    def row(contract: Contract) -> dict[str, Any]:
        name = contract.contract_name
        return {
            "contract": name,
            "topic": names.topic(name),
            "key": contract.key,
            "replies": _replies([contract]),
            "read_as": contracts.current(name).contract_name,
            "locked": name in lock,
            "where": contract.where,
        }

    session.printer.listing(
        [row(contract) for contract in contracts.published],
        ("contract", "key", "replies", "read as", "locked", "where"),
        lambda row: (
            row["contract"],
            row["key"],
            ", ".join(row["replies"]),
            row["read_as"] if row["read_as"] != row["contract"] else None,
            "yes" if row["locked"] else "no",
            row["where"],
        ),
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
        row = asdict(change) | {"compatible": change.compatible, "advice": change.advice}
        printer.result(row, str(change), style=None if change.compatible else "red")
    flaws = await _flaws_in_cluster(session)
    wrong = sum(not flaw.is_warning for flaw in flaws)
    for flaw in flaws:
        row = {"topic": flaw.topic, "problem": flaw.problem, "is_warning": flaw.is_warning}
        style = "yellow" if flaw.is_warning else "red"
        printer.result(row, f"{flaw.topic} {flaw.problem}", style=style)
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
        raise NotSo(*breaking, "not locked (--force locks it all the same)")
    if changes or not file.exists():
        _write(file, lock_text(lock_of(registry)), with_folder=True)
    contracts = len(registry.published)
    row = {"contracts": contracts, "changes": len(changes), "breaking": len(breaking)}
    session.printer.result(
        {"file": str(file), **row},
        f"{file}: {contracts} contracts, {len(changes)} changes since the last lock",
    )


async def topics_create(session: Session) -> None:
    """Make the missing topics of the application; those that exist stay as they are."""
    specs = session.app.topic_specs(session.settings)
    async with closing(open_bus(session.settings)) as opened:
        missing = await _missing(opened.bus, specs)
        await opened.bus.create_topics(specs)
    printer = session.printer
    for spec in specs:
        row = {"topic": spec.name, "partitions": spec.partitions, "retention_s": spec.retention_s}
        if printer.is_json:
            printer.json(row | {"created": spec.name in missing})
        elif spec.name in missing:
            printer.say(f"created {spec.name} with {spec.partitions} partitions")
    if not printer.is_json:
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
        _write(output, _text(document, is_yaml=is_yaml))
        channels, operations = len(document["channels"]), len(document["operations"])
        row = {"file": str(output), "version": document["info"]["version"]}
        row |= {"channels": channels, "operations": operations}
        printer.result(row, f"{output}: {channels} channels, {operations} operations")
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
    sagas = [
        participant(app, settings, name) for name in dict.fromkeys(saga.name for saga in app.sagas)
    ]
    return asyncapi_document(
        app.contracts,
        [*sagas, *(_service(app, service, names) for service in app.effects)],
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


def _write(file: Path, text: str, *, with_folder: bool = False) -> None:
    """Replace the file, whole or not at all."""
    beside = file.with_name(f"{file.name}.new")
    try:
        if with_folder:
            file.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text, "utf-8")
        beside.replace(file)
    except OSError as error:
        raise NotSo(f"{file}: {error.strerror or error}") from error


async def _flaws_in_cluster(session: Session) -> list[TopicFlaw]:
    """What is wrong with the topics in the cluster; nothing where the bus is a file."""
    settings = session.settings
    if not settings.bus.startswith("kafka:"):
        return []
    specs = session.app.topic_specs(settings)
    async with closing(open_kafka(settings)) as bus:
        topics = await bus.describe_topics([spec.name for spec in specs])
    from saga.adapters.kafka import flaws_of

    return flaws_of(specs, topics, record_bytes_max=settings.record_bytes_max)


async def _missing(bus: Bus, specs: Sequence[TopicSpec]) -> set[str]:
    missing: set[str] = set()
    for spec in specs:
        try:
            await bus.bounds([Source(spec.name, 0)])
        except TopicMissing:
            missing.add(spec.name)
    return missing


def participant(app: Application, settings: Settings, name: str) -> Participant:
    """All versions of a saga, which sends the contracts that it names and does not receive."""
    definitions = [saga for saga in app.sagas if saga.name == name]
    receives: set[str] = {COMMAND_CONTRACT}
    sends: set[str] = set()
    for saga in definitions:
        contracts = [contract_of(model) for model in filter(is_contract, saga.contracts())]
        received = {contract_of(trigger).contract_name for trigger in saga.starts_on}
        received |= {listening.contract.contract_name for listening in saga.listens}
        received.update(_replies(contracts))
        if saga.has_children:
            received |= CHILD_CONTRACTS
        receives |= {old for each in received for old in app.contracts.names_read_as(each)}
        sends |= {contract.contract_name for contract in contracts} - received
    return Participant(
        kind="saga",
        name=name,
        group=app.group(settings),
        receives=frozenset(receives),
        sends=frozenset(sends),
        versions=tuple(sorted(saga.version for saga in definitions)),
    )


def _service(app: Application, service: Effects, names: TopicNames) -> Participant:
    subscription = Subscription(service, app.contracts, names)
    return Participant(
        kind="effects",
        name=service.name,
        group=subscription.group,
        receives=frozenset(filter(None, map(names.contract_name, subscription.routes))),
        sends=frozenset(_replies(map(contract_of, service.intents))),
    )


def _replies(contracts: Iterable[Contract]) -> list[str]:
    intents = [contract for contract in contracts if contract.kind is Kind.INTENT]
    return [name for intent in intents for name in reply_contract_names(intent)]


def _text(document: Document, *, is_yaml: bool) -> str:
    if is_yaml:
        return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
