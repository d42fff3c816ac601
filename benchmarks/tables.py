"""Tables that are printed, and put into the documentation as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from saga.console.cli.output import NotSo, Printer

PAGE: Final = Path(__file__).parent.parent / "docs" / "explanation" / "performance.md"


class Table(NamedTuple):
    """Cells of None stay empty."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]

    def print(self, printer: Printer) -> None:
        printer.table(self.columns, self.rows)

    def markdown(self) -> str:
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def put_into_page(name: str, parts: Sequence[str | Table], page: Path = PAGE) -> None:
    """Write *parts* where the page has the place *name*; NotSo if it has none."""
    texts = [part.markdown() if isinstance(part, Table) else part for part in parts]
    begin, end = f"<!-- measured: {name} -->", "<!-- end -->"
    text = page.read_text("utf-8")
    place = re.compile(f"(?<={re.escape(begin)}\n).*?(?={re.escape(end)})", re.DOTALL)
    if not place.search(text):
        raise NotSo(f"{page}: there is no place {begin}")
    written = "\n" + "\n\n".join(texts) + "\n\n"
    page.write_text(place.sub(lambda _: written, text, count=1), "utf-8")


def _cell(content: object) -> str:
    if content is None:
        return ""
    return f"{content:,}" if isinstance(content, int) else str(content)
