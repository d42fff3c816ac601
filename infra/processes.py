"""Server processes: started into a log file, signalled, waited for, and never left behind.

The kernel kills a bound process when its owner dies. Linux ties this to the *thread* that started
it, so all of them are started by one thread that lives as long as the owner. Without `setpriv` (not
Linux) processes are not bound. An owner that dies before the child has asked is noticed.
"""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Self

import psutil

from infra.failures import NotStarted

_POLL_S = 0.01
_GO_ON_IF_OWNED = '[ "$PPID" = "$0" ] && exec "$@"'
KILL_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 30.0


class ServerProcess:
    """A process that was started here, or one found again by its id and start time."""

    def __init__(
        self, pid: int, created: float, child: subprocess.Popen[bytes] | None = None
    ) -> None:
        self.pid = pid
        self.created = created
        self._child = child

    @classmethod
    def spawn(
        cls,
        command: Sequence[str | Path],
        *,
        folder: Path,
        log: Path,
        user: str | None = None,
        environment: Mapping[str, str] | None = None,
        is_bound: bool = True,
    ) -> Self:
        """Starts *command* out of reach of the terminal's Ctrl-C; if *is_bound* it dies with us."""
        line = [*prefix(user=user, is_bound=is_bound), *map(str, command)]

        def start() -> subprocess.Popen[bytes]:
            with log.open("ab") as output:
                return subprocess.Popen(
                    line,
                    cwd=folder,
                    env={**os.environ, **(environment or {})},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )

        child = _starter().submit(start).result()
        return cls(child.pid, psutil.Process(child.pid).create_time(), child)

    @classmethod
    def find(cls, pid: int, created: float) -> Self | None:
        """The process *pid* if it runs and is the one that was started at *created*."""
        process = cls(pid, created)
        return process if process.is_running() else None

    @property
    def exit_code(self) -> int | None:
        """Its exit code, once it has ended and if it was started here."""
        return None if self._child is None else self._child.poll()

    def is_running(self) -> bool:
        if self._child is not None:
            return self._child.poll() is None
        try:
            process = psutil.Process(self.pid)
            return bool(
                process.create_time() == self.created and process.status() != psutil.STATUS_ZOMBIE
            )
        except psutil.NoSuchProcess:
            return False

    def signal(self, number: signal.Signals) -> None:
        if self.is_running():
            os.kill(self.pid, number)

    def has_ended(self, *, timeout_s: float) -> bool:
        """Waits until it has ended, and says whether it has."""
        deadline = time.monotonic() + timeout_s
        while self.is_running():
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        return True

    def kill(self) -> None:
        """Kills it and all its descendants at once, as a power cut would."""
        if not self.is_running():
            return
        os.kill(self.pid, signal.SIGSTOP)
        descendants = _stopped_descendants(psutil.Process(self.pid))
        for process in descendants:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        os.kill(self.pid, signal.SIGKILL)
        assert self.has_ended(timeout_s=KILL_TIMEOUT_S), f"{self.pid} survived SIGKILL"
        # A signal that was sent has not yet arrived: who returns from here finds nobody alive.
        for process in descendants:
            ended = ServerProcess(process.pid, process.create_time())
            assert ended.has_ended(timeout_s=KILL_TIMEOUT_S), f"{process.pid} survived SIGKILL"


class Server:
    """A server with one process, which may be started again and again."""

    _process: ServerProcess | None = None

    @property
    def process(self) -> ServerProcess:
        """Its process, running or not; there is one from the first start on."""
        assert self._process is not None, f"{self} was never started"
        return self._process

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.is_running()

    def kill(self) -> None:
        """Kills it with SIGKILL, and all that it has started; nothing where it does not run."""
        if self._process is not None:
            self._process.kill()

    def _ask_to_stop(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.signal(number)

    def _await_end(self) -> None:
        """Kill it when a stop takes half a minute."""
        if self._process is not None and not self._process.has_ended(timeout_s=STOP_TIMEOUT_S):
            self._process.kill()


def _stopped_descendants(parent: psutil.Process) -> list[psutil.Process]:
    """All descendants of a stopped process, each stopped too, so that nobody starts more."""
    found: list[psutil.Process] = []
    while new := [child for child in parent.children(recursive=True) if child not in found]:
        for process in new:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        found += new
    return found


def wait_until_ready(
    process: ServerProcess,
    is_ready: Callable[[], bool],
    *,
    name: str,
    log: Path,
    timeout_s: float,
) -> None:
    """Waits until *is_ready* says so.

    Raises:
        NotStarted: it ended first, or took longer than *timeout_s*; it is dead now.
    """
    deadline = time.monotonic() + timeout_s
    while not is_ready():
        if not process.is_running():
            raise NotStarted(name, "ended instead of starting", log)
        if time.monotonic() > deadline:
            process.kill()
            raise NotStarted(name, f"was not ready after {timeout_s:g} s", log)
        time.sleep(_POLL_S)


def run(
    name: str,
    command: Sequence[str | Path],
    *,
    log: Path,
    timeout_s: float,
    user: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    process = ServerProcess.spawn(
        command, folder=log.parent, log=log, user=user, environment=environment
    )
    if not process.has_ended(timeout_s=timeout_s):
        process.kill()
        raise NotStarted(name, f"took longer than {timeout_s:g} s", log)
    if process.exit_code != 0:
        raise NotStarted(name, f"failed with exit code {process.exit_code}", log)


def prefix(*, user: str | None, is_bound: bool) -> list[str]:
    """What stands before a command so that it runs as *user* and, if bound, dies with its owner."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        assert user is None, "changing the user needs setpriv"
        return []
    line = [setpriv]
    if user is not None:
        entry = pwd.getpwnam(user)
        line += ["--reuid", str(entry.pw_uid), "--regid", str(entry.pw_gid), "--init-groups"]
    if is_bound:
        owned = ["sh", "-c", _GO_ON_IF_OWNED, str(os.getpid())]
        return [*line, "--pdeathsig", "KILL", "--", *owned]
    return [] if len(line) == 1 else [*line, "--"]


@cache
def _starter() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="infra-starter")


os.register_at_fork(after_in_child=_starter.cache_clear)  # the thread stays with the parent
