"""What the writer of a file is given to do, and what may be seen of it before it is durable."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

Work = Callable[[sqlite3.Cursor], Any]
Landed = Callable[[sqlite3.Cursor], bool]


class Preview(NamedTuple):
    """Who may see what a job has written before it is durable.

    *show* gets the result, and says whether a job that relies on it will follow at once;
    *take_back* gets it if it does not become durable, or not as it was shown.
    """

    show: Callable[[Any], bool]
    take_back: Callable[[Any], None]


@dataclass(slots=True, eq=False)
class Job:
    """What is to be written, and who waits for it.

    Args:
        work: writes through the cursor and returns the result; may run more than once.
        landed: whether it is stored after all; asked when the answer to COMMIT was an error.
        committed: called with the result on the event loop, in commit order, before *future* ends.
        future: ends once the job is durable or has failed.
        preview: who may see the result before that.
        is_last: nothing is to be waited for once this is written, nor shown to anybody.
    """

    work: Work
    landed: Landed | None
    committed: Callable[[Any], None] | None
    future: asyncio.Future[Any]
    preview: Preview | None = None
    is_last: bool = False
    is_shown: bool = False
    result: Any = None
    error: BaseException | None = None


def take_back(jobs: Iterable[Job]) -> None:
    """Say of what was shown that it did not become durable, or will have to be written again."""
    for job in jobs:
        if job.is_shown and job.preview is not None:
            job.is_shown = False
            job.preview.take_back(job.result)
