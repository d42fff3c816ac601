"""Whether a library is one of the versions whose private parts we know.

An unknown version is refused: a private part that changed its meaning loses data without an error.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import version

from saga.errors import SettingsError

KNOWN = {
    "aiokafka": ("0.14", "0.15"),
    "eventsourcing": ("9.5.6", "9.6"),
    "faststream": ("0.7.8", "0.8"),
    "psycopg": ("3.2", "3.4"),
}
"""Of each the first version that is known, and the first that is not."""


@cache
def check_version(library: str, *, setting: str) -> None:
    """Raises `SettingsError` for an unknown version; *setting* is what asks for the library."""
    found, (at_least, below) = version(library), KNOWN[library]
    if not _numbers(at_least) <= _numbers(found) < _numbers(below):
        raise SettingsError(
            setting,
            f"{library} {found} is installed, but saga knows {library} from {at_least} to below"
            f" {below}: pip install '{library}>={at_least},<{below}'",
        )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:3])
