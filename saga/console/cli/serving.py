"""`run` serves until told to stop, or until nothing is left to do; `health` asks how it is.

The first SIGTERM or SIGINT drains and ends with 0. The second ends at once, which loses nothing
that was stored. A role that fails ends the process with its reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import logging
import os
import signal
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Final, TypeVar

import typer

from saga.adapters.opening import open_effects_store
from saga.application import ROLES
from saga.console.cli.installation import Adopts, adopt_stores
from saga.console.cli.output import ExitCode, Misused, NotSo
from saga.console.cli.session import Session, tune_gc
from saga.errors import StoreUnavailable, TaskEnded
from saga.runtime.idle import Left
from saga.runtime.view import iso
from saga.service import Service
from saga.settings import HTTP_OFF

SUMMARY: Final = (
    *("turns", "started", "completed", "rolled_back", "rolled_back_with_residue"),
    *("parked", "stalled", "abandoned"),
)
UNHANDLED_HINT: Final = "see that a service elsewhere does; sagas wait for its answer"
PARENT_POLL_S: Final = 0.5
T = TypeVar("T")
log = logging.getLogger(__name__)


def run(
    session: Session,
    *,
    roles: Annotated[
        str, typer.Option("--roles", metavar="ROLE,…", help="What this process does.")
    ] = ",".join(ROLES),
    until_idle: Annotated[
        bool,
        typer.Option(
            "--until-idle",
            help="End when nothing is left but people, sleeps, and retries and deadlines more than "
            "a minute off.",
        ),
    ] = False,
    adopt: Adopts = False,
    with_parent: Annotated[bool, typer.Option("--with-parent", hidden=True)] = False,
) -> None:
    """Serve: take the turns of sagas, call the handlers of effect services."""
    chosen = roles_of(roles)
    if adopt:
        asyncio.run(adopt_stores(session))
    main = _run(session, chosen, until_idle=until_idle, with_parent=with_parent)
    counts, left = run_fast(main)
    text = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items())
    row = counts if left is None else counts | {"left": _left_row(left)}
    session.printer.result(row, text)
    if left:
        due = f"; the next retry or deadline is due at {iso(left.next_at)}" if left.next_at else ""
        session.printer.note(f"left behind: {left}{due}")
        if left.not_read:
            raise NotSo(
                f"{len(left.not_read)} partitions are not read: `saga doctor` says what to do"
            )


def _left_row(left: Left) -> dict[str, Any]:
    row = {"sagas": dict(left.sagas), "waiting_for": dict(left.waiting_for)}
    next_at = None if left.next_at is None else iso(left.next_at)
    return row | {"deferred": left.deferred, "next_at": next_at, "not_read": list(left.not_read)}


def roles_of(text: str) -> tuple[str, ...]:
    """The roles that *text* lists; Misused where one of them does not exist."""
    chosen = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    unknown = [role for role in chosen if role not in ROLES]
    if unknown or not chosen:
        named = ", ".join(unknown) or "nothing"
        raise Misused(f"--roles: there is no role {named}; there are {', '.join(ROLES)}")
    return chosen


def run_fast(main: Coroutine[Any, Any, T]) -> T:
    """Run *main* on uvloop, where that can be had."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    with contextlib.suppress(ImportError):
        import uvloop

        factory = uvloop.new_event_loop
    with contextlib.closing(main), asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


def summary(counts: Counter[str]) -> dict[str, int]:
    """The counts, the usual ones first, zeros included."""
    usual = {name: counts[name] for name in SUMMARY}
    return usual | {name: counts[name] for name in sorted(counts) if name not in usual}


async def _run(
    session: Session, roles: tuple[str, ...], *, until_idle: bool, with_parent: bool
) -> tuple[dict[str, int], Left | None]:
    app = session.app
    if "effects" in roles and app.effects:
        await _try_effects_store(session)
    if "effects" in roles and (unhandled := ", ".join(app.unhandled_intents())):
        # Most often somebody forgot a handler.
        text, hint = "no effect service here handles %s: %s", UNHANDLED_HINT
        log.warning(text, unhandled, hint, extra={"hint": hint})
    service = app.build_service(session.settings, roles=roles, has_probes=True)
    left = await _serve(service, roles, until_idle=until_idle, with_parent=with_parent)
    return summary(service.counts), left


async def _try_effects_store(session: Session) -> None:
    """Raise where no waiting would help, which the service would do otherwise."""
    effects_store = open_effects_store(session.settings)
    try:
        await effects_store.open()
    except StoreUnavailable as error:
        is_server = session.settings.effects_address.startswith("postgresql:")
        if not (is_server and error.passes):
            raise
    finally:
        await effects_store.close()


async def _serve(
    service: Service, roles: tuple[str, ...], *, until_idle: bool, with_parent: bool
) -> Left | None:
    """Serve until told to stop, or until idle: what is left behind then."""
    stopping = asyncio.Event()

    def stop(number: int) -> None:
        if stopping.is_set():
            os._exit(128 + number)  # nothing is lost: the bus delivers again what was not stored
        stopping.set()

    on_signals(stop)
    stopped = asyncio.create_task(stopping.wait())
    if not await _started(service, stopped):
        return None
    enders: list[asyncio.Task[Any]] = [stopped, asyncio.create_task(service.wait())]
    idling = asyncio.create_task(service.idle()) if until_idle else None
    if idling is not None:
        enders.append(idling)
    if with_parent:
        enders.append(asyncio.create_task(_parent_is_gone()))
    try:
        tune_gc()
        log.info("serving %s", ", ".join(roles))
        ended, _ = await asyncio.wait(enders, return_when=asyncio.FIRST_COMPLETED)
        if any(ender.cancelled() for ender in ended):
            raise TaskEnded("what the process waited for was cancelled by somebody else")
        log.info("draining")
        return idling.result() if idling in ended else None
    finally:
        for ender in enders:
            ender.cancel()
        await asyncio.gather(*enders, return_exceptions=True)
        await service.stop()


async def _started(service: Service, stopped: asyncio.Task[Any]) -> bool:
    """Start *service*; False if it was stopped meanwhile, and nothing is left of it."""
    starting = asyncio.create_task(service.open())
    await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if starting.done():
        await starting
        return True
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    return False


def on_signals(stop: Callable[[int], None]) -> None:
    """Have *stop* called with the number of each SIGTERM and SIGINT, where that can be had."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):  # not on Windows
            loop.add_signal_handler(number, stop, number)


async def _parent_is_gone() -> None:
    """Return when the process that started this one is gone."""
    parent = os.getppid()
    while os.getppid() == parent:  # noqa: ASYNC110  # there is no event for it
        await asyncio.sleep(PARENT_POLL_S)


WAIT_S: Final = 5.0
OK: Final = 200
UNAVAILABLE: Final = 503
ANYWHERE: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
"""Addresses to listen at, and how to reach them from the same machine."""


async def health(
    session: Session,
    *,
    live: Annotated[
        bool, typer.Option("--live", help="Ask whether it lives, not whether it is ready.")
    ] = False,
) -> int:
    """Ask the `saga run` at SAGA_HTTP whether it does all of its work, and if not, why.

    Exit code 0: it does; 1: it does not; 3: nobody answers.
    """
    address = session.settings.http
    if address == HTTP_OFF:
        raise NotSo("SAGA_HTTP is off: nobody answers")
    status, answer = await asyncio.to_thread(_ask, address, "live" if live else "ready")
    printer = session.printer
    if status is None:
        printer.note(f"saga: nobody answers at {address}: {answer['problems'][0]}", style="red")
        return ExitCode.UNREACHABLE
    printer.result(answer, answer["status"])
    if not printer.is_json:
        for problem in answer.get("problems", ()):
            printer.say(f"    {problem}")
    return ExitCode.OK if status == OK else ExitCode.NOT_SO


def _ask(address: str, probe: str) -> tuple[int | None, dict[str, Any]]:
    """Status and content of the answer; no status where there is none."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    connection = http.client.HTTPConnection(ANYWHERE.get(host, host), int(port), timeout=WAIT_S)
    try:
        connection.request("GET", f"/health/{probe}")
        response = connection.getresponse()
        if response.status not in (OK, UNAVAILABLE):
            return None, {"problems": [f"something else listens there ({response.status})"]}
        return response.status, json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        return None, {"problems": [str(error) or type(error).__name__]}
    finally:
        connection.close()
