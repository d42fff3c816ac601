"""What can go wrong where a server is started or a program looked for; it says what to do."""

from pathlib import Path

LOG_LINES_QUOTED_MAX = 25
LOG_BYTES_READ_MAX = 64 * 1024


class InfraError(Exception):
    """Raised when a server cannot be had."""


class NotInstalled(InfraError):
    """Raised when a program is missing and cannot be installed from here."""

    def __init__(self, program: str, remedy: str) -> None:
        super().__init__(program, remedy)
        self.program = program
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.program} is missing. {self.remedy}"


class NotStarted(InfraError):
    """Raised when a server, or a program that prepares it, ended or hung before it was ready."""

    def __init__(self, server: str, reason: str, log: Path) -> None:
        super().__init__(server, reason, log)
        self.server = server
        self.reason = reason
        self.log = log
        self.end_of_log = end_of(log)

    def __str__(self) -> str:
        return f"{self.server} {self.reason}. The end of {self.log}:\n{self.end_of_log}"


def end_of(log: Path) -> str:
    """The last lines of *log*, or a word that says there are none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LOG_BYTES_READ_MAX))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError as error:
        return f"  (not readable: {error.strerror})"
    return "\n".join(f"  {line}" for line in lines[-LOG_LINES_QUOTED_MAX:]) or "  (empty)"
