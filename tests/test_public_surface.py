"""What a package shows is what it says it shows: a docstring, and a sorted `__all__`
that is true.
"""

import importlib
import re
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(
    ".".join(path.parent.relative_to(ROOT).parts) for path in ROOT.glob("saga/**/__init__.py")
)

#: Names that a module has only because of how it is written.
SYNTAX = {"TYPE_CHECKING", "annotations"}


def test_every_folder_is_a_package():
    """A folder with modules has an `__init__`, so that none escapes the tests below."""
    folders = {path.parent.relative_to(ROOT) for path in ROOT.glob("saga/**/*.py")}

    assert {".".join(folder.parts) for folder in folders} == set(PACKAGES)


@pytest.mark.parametrize("name", PACKAGES)
def test_package_has_a_docstring(name):
    assert (importlib.import_module(name).__doc__ or "").strip()


@pytest.mark.parametrize("name", PACKAGES)
def test_all_is_what_is_visible(name):
    package = importlib.import_module(name)

    assert set(package.__all__) == visible_names(package)


@pytest.mark.parametrize("name", PACKAGES)
def test_all_is_sorted(name):
    names = list(importlib.import_module(name).__all__)

    assert [(a, b) for a, b in pairwise(names) if sort_key(a) >= sort_key(b)] == []


def test_sort_key_is_the_order_of_the_linter():
    names = ["effects", "World10", "World2", "MAX_10", "T", "given", "URL", "MAX_2"]

    in_order = ["MAX_2", "MAX_10", "URL", "T", "World2", "World10", "effects", "given"]
    assert sorted(names, key=sort_key) == in_order


def visible_names(package: ModuleType) -> set[str]:
    """Returns the public names of *package*, without the modules that importing has left there."""
    public = {name for name in dir(package) if not name.startswith("_")} - SYNTAX
    return {name for name in public if not isinstance(getattr(package, name), ModuleType)}


def sort_key(name: str) -> tuple[int, list[tuple[int, str]]]:
    """Returns the place of *name* in isort's order: kind first, and digits count as numbers."""
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2
    pieces = re.findall(r"\d+|\D+", name)
    return kind, [(int(p), "") if p.isdigit() else (-1, p) for p in pieces]
