"""`doctor`: the command."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from saga.console.doctor.facts import Severity
from saga.console.doctor.judging import judge
from saga.console.doctor.looking import look
from saga.console.problems import ExitCode
from saga.console.session import Session

LAG_RECORDS = 10_000


async def doctor(
    session: Session,
    *,
    lag_max: Annotated[
        int,
        typer.Option("--lag", metavar="RECORDS", min=0, help="How far behind a group may be."),
    ] = LAG_RECORDS,
) -> int:
    """Say what is wrong with this deployment, where, and what to do. Changes nothing.

    Exit code 0: healthy, perhaps with warnings; 1: something is wrong; 3: bus or store unreachable.
    """
    facts = await look(session)
    findings = judge(facts, lag_max=lag_max)
    errors = sum(finding.severity is Severity.ERROR for finding in findings)
    warnings = sum(finding.severity is Severity.WARNING for finding in findings)
    printer = session.printer
    if printer.is_json:
        for finding in findings:
            row = asdict(finding)
            del row["is_unreachable"]
            printer.json(row)
        printer.json({"ok": not errors, "errors": errors, "warnings": warnings})
    else:
        styles = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.INFO: None}
        for finding in findings:
            said = f"{finding.severity.value}: {finding.where}: {finding.what}"
            printer.say(said, style=styles[finding.severity])
            printer.say(f"    {finding.advice}")
        printer.say(
            f"{errors} errors, {warnings} warnings" if errors or warnings else "all is well"
        )
    if any(finding.is_unreachable for finding in findings):
        return ExitCode.UNREACHABLE
    return ExitCode.NOT_SO if errors else ExitCode.OK
