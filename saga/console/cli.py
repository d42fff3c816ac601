"""
The command line: every command and where it is.
"""

from __future__ import annotations

import typer

from saga.console import publishing, sagas, serving
from saga.console.commands import register

HELP = "Sagas: business processes over several services, which finish or are undone in reverse."


def program() -> typer.Typer:
    """
    The command line program.
    """
    made = typer.Typer(
        name="saga",
        help=HELP,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    register(made, "run", serving.run)
    register(made, "publish", publishing.publish)
    register(made, "ls", sagas.ls)
    register(made, "show", sagas.show)
    register(made, "history", sagas.history)
    return made


def main() -> None:
    """
    What `saga` and `python -m saga` run.
    """
    program()(prog_name="saga")
