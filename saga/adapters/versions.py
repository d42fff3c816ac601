"""Whether a library is one of the versions whose private parts we know.

Adapters that use private names of a library ask here before they use them. An unknown version is
refused: a private part that has changed its meaning loses data without an error.
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
"""The first version that we know of each, and the first that we do not."""


@cache
def check_version(library: str, *, setting: str) -> None:
    """Refuse a *library* outside of the versions known; *setting* is what asks for it.

    Raises:
        SettingsError: names the version found, those known, and what to install.
    """
    found, (at_least, below) = version(library), KNOWN[library]
    if not _numbers(at_least) <= _numbers(found) < _numbers(below):
        raise SettingsError(
            setting,
            f"{library} {found} is installed, but saga knows {library} from {at_least} to below"
            f" {below}: pip install '{library}>={at_least},<{below}'",
        )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:3])
