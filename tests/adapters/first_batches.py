"""How version 4 of the local bus packed its records into rows."""

import struct
from collections.abc import Sequence

import orjson

from saga.ports import Record


def pack_numbers(records: Sequence[Record]) -> bytes:
    """One batch as bytes; its records have the same header names."""
    rows = [(each.key, each.value, *[text for _, text in each.headers]) for each in records]
    varying: list[int] = []
    if len(rows) > 1:
        varying = [
            place for place, texts in enumerate(zip(*rows, strict=True)) if len({*texts}) > 1
        ]
    names = [name for name, _ in records[0].headers]
    texts = [orjson.dumps(names), *rows[0]]
    texts += [row[place] for row in rows[1:] for place in varying]
    lengths = [-1 if text is None else len(text) for text in texts]
    numbers = (len(rows[0]), len(varying), *varying, *lengths)
    return struct.pack(f"<{len(numbers)}i", *numbers) + b"".join(filter(None, texts))
