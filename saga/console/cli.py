"""The command line: every command and where it is."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Annotated, Final

import typer

from saga.console import (
    asyncapi,
    commanding,
    config,
    contracts,
    health,
    outbox,
    parked,
    publishing,
    replaying,
    sagas,
    serving,
    store,
    topics,
)
from saga.console.commands import register
from saga.console.doctor import doctor

HELP: Final = (
    "Sagas: business processes over several services, which finish or are undone in reverse."
)


def _say_version(is_asked: bool) -> None:  # noqa: FBT001  # typer calls it
    if is_asked:
        typer.echo(f"saga {version('saga')}, Python {platform.python_version()}")
        raise typer.Exit


def program() -> typer.Typer:
    """The command line program."""
    made = _group("saga", HELP)
    made.callback()(_options)
    register(made, "run", serving.run)
    register(made, "publish", publishing.publish)
    register(made, "ls", sagas.ls)
    register(made, "show", sagas.show)
    register(made, "history", sagas.history)
    register(made, "signal", commanding.signal)
    register(made, "cancel", commanding.cancel)
    register(made, "timers", parked.timers)
    made.add_typer(_dlq())
    for act in (
        commanding.retry,
        commanding.skip,
        commanding.compensate,
        commanding.release,
        commanding.abandon,
    ):
        register(made, act.__name__, act)
    register(made, "replay", replaying.replay)
    made.add_typer(_topics())
    made.add_typer(_store())
    made.add_typer(_outbox())
    register(made, "doctor", doctor)
    register(made, "health", health.health)
    made.add_typer(_config())
    return made


def main() -> None:
    """What `saga` and `python -m saga` run."""
    program()(prog_name="saga")


def _options(
    *,
    _: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Say which saga."),
    ] = False,
) -> None:
    pass


def _dlq() -> typer.Typer:
    group = _group("dlq", "Records that were set aside: they cannot be read, or belong to nothing.")
    register(group, "ls", parked.dlq_ls)
    register(group, "show", parked.dlq_show)
    register(group, "redrive", parked.dlq_redrive)
    return group


def _topics() -> typer.Typer:
    group = _group("topics", "The application's contracts, and the lock file of their schemas.")
    register(group, "ls", contracts.topics_ls)
    register(group, "check", contracts.topics_check)
    register(group, "lock", contracts.topics_lock)
    register(group, "asyncapi", asyncapi.topics_asyncapi)
    register(group, "create", topics.topics_create)
    return group


def _store() -> typer.Typer:
    group = _group("store", "The tables of the store, and bringing them up to date.")
    register(group, "migrate", store.store_migrate)
    register(group, "status", store.store_status)
    return group


def _outbox() -> typer.Typer:
    group = _group("outbox", "Events that a program adds within its own transactions.")
    register(group, "migrate", outbox.outbox_migrate)
    register(group, "relay", outbox.outbox_relay)
    register(group, "status", outbox.outbox_status)
    register(group, "retry", outbox.outbox_retry)
    return group


def _config() -> typer.Typer:
    group = _group("config", "The settings.")
    register(group, "show", config.config_show)
    return group


def _group(name: str, text: str) -> typer.Typer:
    return typer.Typer(
        name=name,
        help=text,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
