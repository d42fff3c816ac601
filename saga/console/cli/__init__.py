"""The command line `saga`: a module for each kind of thing to do."""

import sys

__all__ = ["main"]


def main() -> None:
    """What `saga` and `python -m saga` run."""
    # Late, as other programs use parts of this package and need not load every command.
    from saga.console.cli import streams
    from saga.console.cli.output import INTERRUPTED, ExitCode, Printer, report

    streams.mend()
    try:
        streams.may_open_files()
        from saga.console.cli.program import program

        try:
            program(*sys.argv[1:2])(prog_name="saga")
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        sys.exit(ExitCode.NOT_SO)
    except Exception as error:  # noqa: BLE001  # the edge, beside that of each command
        sys.exit(report(error, Printer()))
