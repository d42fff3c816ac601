"""The command line `saga`: a module for each kind of thing to do."""

__all__ = ["main"]


def main() -> None:
    """What `saga` and `python -m saga` run."""
    # Late, as other programs use parts of this package and need not load every command.
    from saga.console.cli.program import program

    program()(prog_name="saga")
