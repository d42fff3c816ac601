"""The table of faults names tests that are there."""

import re
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
# A file without a test has to have any: the name is empty then.
NAMED = re.compile(r"`([\w/]*test_\w+\.py)(?:::(\w+))?`")


def test_every_test_in_the_table_exists() -> None:
    """Each file it names, here or below the root, and each test in it."""
    named = NAMED.findall((FOLDER / "README.md").read_text("utf-8"))
    missing = [(file, test) for file, test in named if f"def {test}" not in _text(file)]

    assert len(named) > 10
    assert missing == []


def _text(file: str) -> str:
    places = (FOLDER / file, ROOT / file, ROOT / "tests" / "adapters" / "postgres" / file)
    return next(place for place in places if place.exists()).read_text("utf-8")
