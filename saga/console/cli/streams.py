"""What a process finds that was started without streams, on a full disk, or with few open files.

What cannot be written to standard error is lost, and nothing else happens. A result that cannot be
written is an error, once: the process still says so and ends by its exit code.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TextIO

from typing_extensions import override

from saga.console.cli.output import OutputFailed, TooFewFiles

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

STDIN, STDOUT, STDERR = range(3)
_WRONG_WAY: Final = {STDIN: os.O_WRONLY, STDOUT: os.O_RDONLY, STDERR: os.O_WRONLY}
"""How a missing stream is opened: to use it is an error, but nothing else gets its number."""


FILES_MIN: Final = 64
FILES_WANTED: Final = 1_024


def mend() -> None:
    """Give the process three streams, which can say every character, and its words in UTF-8."""
    for number, flags in _WRONG_WAY.items():
        if not _is_open(number):
            os.open(os.devnull, flags)
    sys.stdin = sys.stdin or open(STDIN, closefd=False)  # noqa: SIM115  # for as long as we live
    sys.stdout = _text(_Results(STDOUT, "wb", closefd=False), sys.stdout)
    sys.stderr = _text(_Asides(STDERR, "wb", closefd=False), sys.stderr)
    # Python has read them by the locale, which may know ASCII alone.
    sys.argv[1:] = [os.fsencode(word).decode("utf-8", "surrogateescape") for word in sys.argv[1:]]


def may_open_files() -> None:
    """Raise the limit of open files as far as that can be; TooFewFiles where it is too low."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    limit, limit_max = resource.getrlimit(resource.RLIMIT_NOFILE)
    is_endless = limit_max == resource.RLIM_INFINITY
    if limit != resource.RLIM_INFINITY and limit < FILES_WANTED:
        limit = FILES_WANTED if is_endless else max(limit, min(FILES_WANTED, limit_max))
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit_max))
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if limit < FILES_MIN:
            raise TooFewFiles(
                f"at most {limit} files may be open here, and saga needs {FILES_MIN}: raise the "
                f"limit with `ulimit -n {FILES_WANTED}`"
            )


class _Results(io.FileIO):
    """Standard output: after the first failure nothing is written any more."""

    has_failed = False

    @override
    def write(self, data: ReadableBuffer, /) -> int:
        if self.has_failed:
            return memoryview(data).nbytes
        try:
            return _written(super().write, data, self)
        except BrokenPipeError:
            self.has_failed = True
            raise
        except OSError as error:
            self.has_failed = True
            raise OutputFailed(f"standard output cannot be written: {error.strerror}") from error


class _Asides(io.FileIO):
    """Standard error, whose failures there is nobody to tell."""

    @override
    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return _written(super().write, data, self)
        except OSError:
            return memoryview(data).nbytes


def _written(
    write: Callable[[ReadableBuffer], int | None], data: ReadableBuffer, stream: io.FileIO
) -> int:
    """How much was written; waits where another program has set the stream not to block."""
    while (count := write(data)) is None:
        select.select([], [stream], [])
    return count


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _text(raw: io.FileIO, before: TextIO | None) -> io.TextIOWrapper:
    """*raw* as text in the encoding of the stream *before* it, all other characters escaped."""
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(before, "encoding", None),
        errors="backslashreplace",
        line_buffering=raw.fileno() == STDERR or raw.isatty(),
    )
