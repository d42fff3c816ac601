"""`topics asyncapi`: the application as an AsyncAPI document, for services in any language."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from saga.app import SagaApp
from saga.authoring import SagaDefinition
from saga.console.problems import Misused, NotSo
from saga.console.session import Session
from saga.contracts import (
    COMMAND_CONTRACT,
    Contract,
    ContractModel,
    ContractRegistry,
    Kind,
    TopicNames,
    contract_of,
    reply_contract_names,
)
from saga.contracts.asyncapi import Document, Participant, TopicSettings, asyncapi_document
from saga.effects import Effects
from saga.settings import Settings


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
        said: dict[str, Any] = {
            "file": str(output),
            "version": document["info"]["version"],
            "channels": len(document["channels"]),
            "operations": len(document["operations"]),
        }
        if printer.is_json:
            printer.json(said)
        else:
            printer.say(f"{output}: {said['channels']} channels, {said['operations']} operations")
    elif printer.is_json:
        printer.json(document)
    else:
        typer.echo(_text(document, is_yaml=is_yaml), nl=False)


def document_of(
    app: SagaApp, settings: Settings, *, title: str | None = None, version: str | None = None
) -> Document:
    """The document of *app*, with the topics as *settings* have them made."""
    names = settings.topic_names
    is_kafka = settings.bus.startswith("kafka:")
    return asyncapi_document(
        app.contracts,
        [*_sagas(app, settings), *(_service(app, one, names) for one in app.effects)],
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


def _sagas(app: SagaApp, settings: Settings) -> list[Participant]:
    by_name: dict[str, list[SagaDefinition]] = {}
    for definition in app.sagas:
        by_name.setdefault(definition.name, []).append(definition)
    return [
        Participant(
            kind="saga",
            name=name,
            group=settings.topic_names.topic(settings.group),
            receives=frozenset().union(*(_heard(app.contracts, one) for one in definitions)),
            sends=frozenset().union(*(_said(one) for one in definitions)),
            versions=tuple(sorted(one.version for one in definitions)),
        )
        for name, definitions in by_name.items()
    ]


def _heard(contracts: ContractRegistry, saga: SagaDefinition) -> set[str]:
    """What reaches a saga: its triggers in all versions, replies to its intents, commands."""
    replies = [name for one in _intents(saga) for name in reply_contract_names(one)]
    triggers = [contract_of(trigger).contract_name for trigger in saga.starts_on]
    named = {name for one in (*replies, *triggers) for name in contracts.names_read_as(one)}
    return named | {COMMAND_CONTRACT}


def _said(saga: SagaDefinition) -> set[str]:
    """What a saga says: its intents, and the events it names that only it could have meant
    to say.
    """
    intents = _intents(saga)
    answers = {name for one in intents for name in reply_contract_names(one)}
    heard = answers | {contract_of(trigger).contract_name for trigger in saga.starts_on}
    events = {one.contract_name for one in _contracts(saga) if one.kind is Kind.EVENT}
    return {one.contract_name for one in intents} | (events - heard)


def _intents(saga: SagaDefinition) -> list[Contract]:
    return [one for one in _contracts(saga) if one.kind is Kind.INTENT]


def _contracts(saga: SagaDefinition) -> list[Contract]:
    return [
        contract_of(model)
        for model in saga.contracts()
        if issubclass(model, ContractModel) and vars(model).get("__saga_contract__") is not None
    ]


def _service(app: SagaApp, service: Effects, names: TopicNames) -> Participant:
    handled = [contract_of(model) for model in (*service.intents, *service.facts)]
    intents = [contract_of(model) for model in service.intents]
    return Participant(
        kind="effects",
        name=service.name,
        group=names.topic(f"effects.{service.name}"),
        receives=frozenset(
            name for one in handled for name in app.contracts.names_read_as(one.contract_name)
        ),
        sends=frozenset(name for one in intents for name in reply_contract_names(one)),
    )


def _text(document: Document, *, is_yaml: bool) -> str:
    if is_yaml:
        return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)

    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
