"""Record headers as one JSON text, byte for byte: null values, repeated names, binary values
included.

Nearly all headers are UTF-8 and become a list of pairs that any tool reads. Where one is not, the
list stands in an object that says so, and each byte is written as the character of its number.
"""

from __future__ import annotations

from typing import Final

import orjson

from saga.ports.bus import Headers

_BYTES: Final = "latin-1"


def encode_headers(headers: Headers) -> bytes:
    """The text of *headers*; empty for none."""
    if not headers:
        return b""
    try:
        # orjson asks `default` for what it cannot write itself: the values.
        return orjson.dumps(headers, default=bytes.decode)
    except orjson.JSONEncodeError:
        return orjson.dumps({_BYTES: [(name, _text(value)) for name, value in headers]})


def decode_headers(text: bytes) -> Headers:
    """The headers that `encode_headers` was given."""
    if not text:
        return ()
    pairs = orjson.loads(text)
    encoding = "utf-8"
    if isinstance(pairs, dict):
        encoding, pairs = _BYTES, pairs[_BYTES]
    return tuple((name, None if value is None else value.encode(encoding)) for name, value in pairs)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(_BYTES)
