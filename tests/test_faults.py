"""The table of faults has no empty cell, and every test in it exists."""

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TABLE = (ROOT / "tests" / "FAULTS.md").read_text("utf-8")
SECTIONS = dict(
    re.findall(r"^## (\d+\. [^\n]+)\n(.*?)(?=^## |\Z)", TABLE, re.DOTALL | re.MULTILINE)
)
COLUMNS = ["kind", "way in", "files", "servers", "live", "replay", "given"]
# `- a `tests/core/test_texts.py::test_a_claim`, `tests/…::…`: a letter and what it stands for
NOTE = re.compile(r"^- ([a-z]{1,2}) (`.*`)$", re.MULTILINE)
NAMED = re.compile(r"`([\w/]+\.py)::(\w+)`")
LETTERS = re.compile(r"[a-z]{1,2}(?:, [a-z]{1,2})*")


def _rows(section: str) -> list[list[str]]:
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("title", SECTIONS)
def test_no_cell_is_empty(title: str) -> None:
    head, _, *rows = _rows(SECTIONS[title])
    notes = dict(NOTE.findall(SECTIONS[title]))
    cells = [cell for row in rows for cell in row[2:]]
    letters = {letter for cell in cells if LETTERS.fullmatch(cell) for letter in cell.split(", ")}

    assert head == COLUMNS
    assert [row for row in rows if len(row) != len(COLUMNS) or "" in row] == []
    assert [
        cell for cell in cells if not LETTERS.fullmatch(cell) and not cell.startswith("none: ")
    ] == []
    assert letters == notes.keys()


def test_every_test_in_the_table_exists() -> None:
    named = NAMED.findall(TABLE)
    missing = [f"{file}::{test}" for file, test in named if f"def {test}(" not in _text(file)]

    assert missing == []


@cache
def _text(file: str) -> str:
    path = ROOT / file
    return path.read_text("utf-8") if path.exists() else ""
