"""`topics acls`: who must be able to read and write which topic, and nobody else."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Final, NamedTuple

import typer

from saga.application import Application
from saga.console.cli.contracts import participant
from saga.console.cli.output import Misused
from saga.console.cli.session import Session
from saga.contracts import COMMAND_CONTRACT, Kind, TopicNames
from saga.contracts.between_sagas import CHILD_CONTRACTS
from saga.effects import Subscription
from saga.runtime.router import Router
from saga.runtime.unhandled import dlq_topic
from saga.settings import Settings

ORCHESTRATOR: Final = "orchestrator"
PUBLISHER: Final = "publisher"
OPERATOR: Final = "operator"
READ, WRITE, LOOK = "Read", "Write", "DescribeConfigs"


class Right(NamedTuple):
    """What one kind of process must be allowed to do; *resource* is `topic` or `group`."""

    who: str
    operation: str
    resource: str
    name: str
    why: str


def topics_acls(
    session: Session,
    *,
    commands: Annotated[
        bool, typer.Option("--commands", help="Print kafka-acls commands instead of a table.")
    ] = False,
    user: Annotated[
        list[str] | None,
        typer.Option(
            "--user", metavar="WHO=USER", help="The user of one, for example publisher=User:shop."
        ),
    ] = None,
) -> None:
    """Print who must be able to read and write which topic: rights to give, and to nobody else."""
    rights = list(rights_of(session.app, session.settings))
    users = _users(user or [], {right.who for right in rights})
    rows = [right._asdict() | {"user": users[right.who]} for right in rights]
    if commands and not session.printer.is_json:
        servers = ",".join(_servers(session.settings))
        for right in rights:
            session.printer.say(command_of(right, users[right.who], servers))
        return
    names = ("user", "operation", "resource", "name", "why")
    session.printer.listing(
        rows, names, lambda row: [row[name] for name in names], nothing="there is no topic"
    )


def rights_of(app: Application, settings: Settings) -> Iterator[Right]:
    """The rights of each kind of process, in order."""
    names = settings.topic_names
    router = Router(app.registry, app.contracts, names)
    if app.sagas:
        yield from _orchestrator(app, settings, router)
    read = set(router.topics)
    for effects in app.effects:
        service = Subscription(effects, app.contracts, names)
        who, read = f"effects-{effects.name}", read | set(service.topics_read)
        yield Right(who, READ, "group", service.group, "its consumer group")
        yield from _each(who, READ, service.topics_read, "intents and facts that it handles")
        yield from _each(who, WRITE, service.topics_written, "replies")
        yield from _dead_letters(who, service.topics_read, names)
    triggers = _all_versions(app, app.registry.triggers())
    heard = _all_versions(app, app.registry.listened()) - triggers
    topics = map(names.topic, sorted(triggers))
    yield from _each(PUBLISHER, WRITE, topics, "events that start sagas")
    topics = map(names.topic, sorted(heard))
    yield from _each(PUBLISHER, WRITE, topics, "events that reach running sagas")
    yield Right(OPERATOR, WRITE, "topic", names.topic(COMMAND_CONTRACT), "signals, cancels, acts")
    again = sorted(read - {names.topic(COMMAND_CONTRACT)})
    yield from _each(OPERATOR, WRITE, again, "only for `saga dlq redrive`")
    yield from _each(OPERATOR, LOOK, app.topics(names), "`saga doctor`, `saga topics check`")


def command_of(right: Right, user: str, servers: str) -> str:
    words = ["kafka-acls", "--bootstrap-server", servers, "--add", "--allow-principal", user]
    words += ["--operation", right.operation, f"--{right.resource}", right.name]
    return shlex.join(words)


def _orchestrator(app: Application, settings: Settings, router: Router) -> Iterator[Right]:
    names = settings.topic_names
    yield Right(ORCHESTRATOR, READ, "group", app.group(settings), "its consumer group")
    yield from _each(ORCHESTRATOR, READ, router.topics, "triggers, events, replies and commands")
    sent = {
        name
        for saga in {saga.name for saga in app.sagas}
        for name in participant(app, settings, saga).sends
    }
    read = set(router.topics)
    for contract in app.contracts.published:
        topic = names.topic(contract.contract_name)
        if contract.kind is Kind.INTENT:
            yield Right(ORCHESTRATOR, WRITE, "topic", topic, "intents")
        elif contract.contract_name in sent or topic not in read:
            yield Right(ORCHESTRATOR, WRITE, "topic", topic, "outcomes and other events of sagas")
    told = sorted(map(names.topic, CHILD_CONTRACTS))
    yield from _each(ORCHESTRATOR, WRITE, told, "what children tell their parents")
    if any(saga.has_children for saga in app.sagas):
        topic = names.topic(COMMAND_CONTRACT)
        yield Right(ORCHESTRATOR, WRITE, "topic", topic, "cancels and undos of children")
    yield from _dead_letters(ORCHESTRATOR, router.topics, names)


def _all_versions(app: Application, contracts: Iterable[str]) -> set[str]:
    return {old for name in contracts for old in app.contracts.names_read_as(name)}


def _dead_letters(who: str, read: Iterable[str], names: TopicNames) -> Iterator[Right]:
    topics = sorted({topic for each in read if (topic := dlq_topic(each, names)) is not None})
    yield from _each(who, WRITE, topics, "copies of dead letters")


def _each(who: str, operation: str, topics: Iterable[str], why: str) -> Iterator[Right]:
    for topic in topics:
        yield Right(who, operation, "topic", topic, why)


def _users(given: Iterable[str], known: set[str]) -> Mapping[str, str]:
    users = {who: f"User:saga-{who}" for who in known}
    for each in given:
        who, _, user = each.partition("=")
        if who not in known or not user:
            raise Misused(
                f"--user {each}: expected WHO=USER, WHO one of {', '.join(sorted(known))}"
            )
        users[who] = user
    return users


def _servers(settings: Settings) -> tuple[str, ...]:
    return settings.servers if settings.bus.startswith("kafka:") else ("HOST:PORT",)
