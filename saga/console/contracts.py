"""`topics ls|check|lock`: the contracts of the application, and what their readers rely on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from saga.console.problems import ExitCode, NotSo
from saga.console.session import Session
from saga.console.topics import flaws_in_cluster
from saga.contracts.compatibility import Change
from saga.contracts.lockfile import Lock, check, lock_of, lock_text, read_lock
from saga.contracts.models import reply_contract_names

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
    """Compare the contracts with the lock file: all must be locked, and readers able to follow. On
    Kafka compare the topics as well: all must be there, and with equal numbers of partitions.
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
    flaws = await flaws_in_cluster(session)
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
    said = {
        "file": str(file),
        "contracts": len(registry.published),
        "changes": len(changes),
        "breaking": len(breaking),
    }
    if session.printer.is_json:
        session.printer.json(said)
    else:
        session.printer.say(
            f"{file}: {said['contracts']} contracts, {said['changes']} changes since the last lock"
        )


def _lock(file: Path) -> Lock:
    try:
        return read_lock(file.read_text("utf-8"), where=str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise NotSo(f"{file}: {error}") from error


def _write(file: Path, text: str) -> None:
    """Put *text* in place of the file, whole or not at all."""
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
