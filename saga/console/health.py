"""`health`: asks the `saga run` of this machine how it is, as an orchestrator of
containers would.
"""

from __future__ import annotations

import asyncio
import http.client
import json
from typing import Annotated, Any, Final

import typer

from saga.console.problems import ExitCode, NotSo
from saga.console.session import Session
from saga.settings import HTTP_OFF

WAIT_S: Final = 5.0
OK: Final = 200
UNAVAILABLE: Final = 503
ANYWHERE: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # for whoever listens there


async def health(
    session: Session,
    *,
    live: Annotated[
        bool, typer.Option("--live", help="Ask whether it lives, not whether it is ready.")
    ] = False,
) -> int:
    """Ask the `saga run` that listens at SAGA_HTTP whether it does all of its work, and if not,
    why.

    Exit code 0: it does; 1: it does not; 3: nobody answers.
    """
    address = session.settings.http
    if address == HTTP_OFF:
        raise NotSo("SAGA_HTTP is off: nobody tells")
    status, said = await asyncio.to_thread(_ask, address, "live" if live else "ready")
    printer = session.printer
    if status is None:
        printer.note(f"saga: nobody answers at {address}: {said['problems'][0]}", style="red")
        return ExitCode.UNREACHABLE
    if printer.is_json:
        printer.json(said)
    else:
        printer.say(said["status"])
        for problem in said.get("problems", ()):
            printer.say(f"    {problem}")
    return ExitCode.OK if status == OK else ExitCode.NOT_SO


def _ask(address: str, what: str) -> tuple[int | None, dict[str, Any]]:
    """Status and content of the answer; no status where there is none."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    connection = http.client.HTTPConnection(ANYWHERE.get(host, host), int(port), timeout=WAIT_S)
    try:
        connection.request("GET", f"/health/{what}")
        answer = connection.getresponse()
        if answer.status not in (OK, UNAVAILABLE):
            return None, {"problems": [f"something else listens there ({answer.status})"]}
        return answer.status, json.loads(answer.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        return None, {"problems": [str(error) or type(error).__name__]}
    finally:
        connection.close()
