"""Record headers as one JSON text, with null values, repeated names and binary values.

Headers become a list of pairs. Where one is not UTF-8, that list stands in an object
`{"latin-1": […]}`, and each byte is written as the character of its number.
"""

from __future__ import annotations

from typing import Final

import orjson

from saga.ports.bus import Headers

_BYTES: Final = "latin-1"
UNREADABLE: Final = (ValueError, TypeError, AttributeError, LookupError)
"""What texts raise that are no headers."""


def encode_headers(headers: Headers) -> bytes:
    if not headers:
        return b""
    try:
        # orjson asks `default` for what it cannot write itself: the values.
        return orjson.dumps(tuple(headers), default=bytes.decode)
    except orjson.JSONEncodeError:
        return orjson.dumps({_BYTES: [(name, _text(value)) for name, value in headers]})


def decode_headers(text: bytes) -> Headers:
    """Raises one of `UNREADABLE`."""
    if not text:
        return ()
    pairs = orjson.loads(text)
    encoding = "utf-8"
    if isinstance(pairs, dict):
        encoding, pairs = _BYTES, pairs[_BYTES]
    headers = tuple(
        (name, None if value is None else value.encode(encoding)) for name, value in pairs
    )
    if not all(isinstance(name, str) for name, _ in headers):
        raise ValueError("a name of a header is no text")
    return headers


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(_BYTES)
