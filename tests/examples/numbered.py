"""The examples with a number: what their first lines say, and their modules."""

from __future__ import annotations

import ast
import importlib
import sys
import textwrap
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from tests.examples.running import ROOT

FOLDER = ROOT / "examples"
NUMBERED = sorted(path.stem for path in FOLDER.glob("[0-9][0-9]_*.py"))


class Said(NamedTuple):
    """What the first lines of an example say: the command, and what it prints."""

    command: str
    prints: list[str]
    shell: list[str]
    """Further commands, if any."""


def file_of(name: str) -> Path:
    return FOLDER / f"{name}.py"


@cache
def said_of(name: str) -> Said:
    """Its indented blocks: a command, then what it prints."""
    text = ast.get_docstring(ast.parse(file_of(name).read_text("utf-8"))) or ""
    blocks: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.startswith("    "):
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    command, prints, *shell = (
        textwrap.dedent("\n".join(block)).splitlines() for block in blocks if block
    )
    return Said(command[0], prints, shell[0] if shell else [])


@cache
def module_of(name: str) -> ModuleType:
    """The module of an example, which no import statement can name."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    return importlib.import_module(name)
