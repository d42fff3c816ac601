"""`python -m infra up|down|status|fetch|with`: servers in the background, or for one command.

What is to be exported goes to standard output, everything else to standard error, so that
`eval "$(python -m infra up)"` works.
"""

import argparse
import sys
from pathlib import Path

from infra.failures import InfraError
from infra.programs import faketime_library, java, kafka_jars, pgbouncer, postgres_folder
from infra.standing import VARIABLES, Standing, StandingServers, lend

ROOT = Path(__file__).parents[1]


def main(words: list[str] | None = None) -> int:
    given = _parser().parse_args(words)
    servers = StandingServers(given.folder)
    try:
        match given.action:
            case "up":
                _up(servers)
            case "down":
                _down(servers, erase=given.erase)
            case "status":
                return _status(servers)
            case "fetch":
                return _fetch()
            case "with":
                return lend(given.command, servers, kept=given.kept, is_fast=given.fast, tell=_say)
    except InfraError as error:
        _say(str(error))
        return 1
    return 0


def _up(servers: StandingServers) -> None:
    standing = servers.up()
    for server in standing:
        _say(f"{server.name} runs as process {server.pid}; its log: {_short(server.log)}")
    _say("Stop them with: make down. For this shell:\n")
    _export(standing)


def _down(servers: StandingServers, *, erase: bool) -> None:
    stopped = servers.down(erase=erase)
    for server in stopped:
        _say(f"{server.name} has stopped")
    if not stopped:
        _say("Nothing runs.")
    _say(f"Data and logs {'are removed' if erase else 'stay'}: {_short(str(servers.folder))}")


def _status(servers: StandingServers) -> int:
    running = servers.running()
    for server in running:
        _say(f"{server.name} runs as process {server.pid}; its log: {_short(server.log)}")
    names = {server.name for server in running}
    for name in VARIABLES:
        if name not in names:
            _say(f"{name} does not run")
    _export(running)
    return 0 if len(running) == len(VARIABLES) else 1


def _fetch() -> int:
    """Installs and downloads what is missing, all that can be had."""
    code = 0
    for provide in (java, kafka_jars, postgres_folder, pgbouncer, faketime_library):
        try:
            provide()
        except InfraError as error:
            _say(str(error))
            code = 1
    return code


def _export(running: list[Standing]) -> None:
    for server in running:
        print(f"export {VARIABLES[server.name]}={server.address}")  # noqa: T201 - what it is for


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - people read it


def _short(path: str) -> str:
    return str(Path(path).relative_to(Path.cwd())) if path.startswith(f"{Path.cwd()}/") else path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m infra", description="A Kafka and a PostgreSQL in the background."
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=ROOT / ".saga" / "infra",
        help="where their data and logs are (default: .saga/infra of the checkout)",
    )
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("up", help="start what does not run, and print what to export")
    down = actions.add_parser("down", help="stop what runs")
    down.add_argument("--erase", action="store_true", help="remove the data as well")
    actions.add_parser("status", help="say what runs; exit 1 if not everything does")
    actions.add_parser("fetch", help="install and download what is missing, and start nothing")
    with_ = actions.add_parser("with", help="run a command that finds both in SAGA_BUS, SAGA_STORE")
    with_.add_argument("--kept", type=Path, help="keep the data there for the next time")
    with_.add_argument("--fast", action="store_true", help="have Kafka compiled, to be measured")
    with_.add_argument("command", nargs="+", help="the command, after --")
    return parser


if __name__ == "__main__":
    sys.exit(main())
