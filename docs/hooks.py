"""Puts ARCHITECTURE.md, which stands at the root of the repository, into the site."""

from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = "explanation/architecture.md"


def on_page_read_source(page: Any, config: Any) -> str | None:
    """The text of that page, with its links as they are from there; None for all others."""
    if page.file.src_uri != PAGE:
        return None
    return (ROOT / "ARCHITECTURE.md").read_text().replace("](docs/", "](../")
