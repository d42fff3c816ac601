"""How the tables that are there differ from those that saga makes, in words."""

from __future__ import annotations

from collections.abc import Sequence

Column = tuple[str, str]
"""Its name and type."""


def difference(table: str, expected: Sequence[Column], found: Sequence[Column]) -> str:
    if not found:
        return f"there is no table {table}"
    lacking = [f"{name} {kind}" for name, kind in expected if (name, kind) not in found]
    beyond = [f"{name} {kind}" for name, kind in found if (name, kind) not in expected]
    parts = []
    if lacking:
        parts.append(f"lacks {', '.join(lacking)}")
    if beyond:
        parts.append(f"has {', '.join(beyond)}")
    return f"{table} {' and '.join(parts) or 'has its columns in another order'}"
