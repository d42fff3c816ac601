"""Signatures: who may send commands and replies, where write access to their topics is not enough.

HMAC-SHA-256 over topic, key, `ce_id`, `ce_causationid`, `ce_type` and value, each with its length
before it, so that no part can be taken for another. `docs/reference/wire.md` has test vectors.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from dataclasses import field, replace
from typing import Final, Self

from saga.contracts.cloudevents import SIGNATURE, Attributes, Said
from saga.core.values import value

SCHEME: Final = "v1"
SECRET_BYTES_MIN: Final = 16
LENGTH_BYTES: Final = 4
_KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@value
class SigningKeys:
    """Secrets by their ids: the first one signs, all of them are believed."""

    secrets: dict[str, bytes] = field(repr=False)

    @classmethod
    def read(cls, text: str) -> Self:
        """Keys from lines `KEY-ID SECRET`, the secret in base64; blank lines and `#` are left out.

        Raises:
            ValueError: a line is none; says which one, never what is in it.
        """
        secrets: dict[str, bytes] = {}
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            key_id, _, encoded = line.strip().partition(" ")
            if not _KEY_ID.fullmatch(key_id):
                raise ValueError(
                    f"line {number}: expected KEY-ID SECRET, the id of 1 to 64 letters, digits, "
                    f"dots, hyphens and underscores"
                )
            if key_id in secrets:
                raise ValueError(f"line {number}: the key id {key_id} was there before")
            secrets[key_id] = _secret(encoded.strip(), number)
        if not secrets:
            raise ValueError("there is no line KEY-ID SECRET")
        return cls(secrets)

    def signed(self, topic: str, key: bytes | None, value: bytes | None, headers: Said) -> Said:
        """*headers*, and the signature of the record that they belong to."""
        key_id, secret = next(iter(self.secrets.items()))
        code = _code(secret, topic, key, headers, value)
        signature = f"{SCHEME};{key_id};{base64.b64encode(code).decode()}"
        return replace(headers, signature=signature)

    def why_not(
        self, topic: str, key: bytes | None, value: bytes | None, said: Attributes | Said
    ) -> str | None:
        """Why a record with these attributes is not believed; None where its signature is right."""
        signature = said.signature
        if not signature:
            return f"it has no signature: header {SIGNATURE}"
        scheme, _, rest = signature.partition(";")
        key_id, _, encoded = rest.partition(";")
        if scheme != SCHEME:
            return f"its signature is none of the form {SCHEME};KEY-ID;BASE64"
        secret = self.secrets.get(key_id)
        if secret is None:
            return f"nobody here knows the key {key_id[:64]!r} of its signature"
        try:
            given = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            return "its signature is no base64"
        if not hmac.compare_digest(given, _code(secret, topic, key, said, value)):
            return f"its signature with the key {key_id!r} is wrong"
        return None


def _code(
    secret: bytes, topic: str, key: bytes | None, said: Attributes | Said, value: bytes | None
) -> bytes:
    texts = ((text or "").encode() for text in (said.id, said.causation_id, said.contract_name))
    code = hmac.new(secret, digestmod=hashlib.sha256)
    for part in (topic.encode(), key or b"", *texts, value or b""):
        code.update(len(part).to_bytes(LENGTH_BYTES, "big"))
        code.update(part)
    return code.digest()


def _secret(encoded: str, number: int) -> bytes:
    try:
        secret = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"line {number}: the secret is no base64") from None
    if len(secret) < SECRET_BYTES_MIN:
        raise ValueError(
            f"line {number}: the secret has {len(secret)} bytes: at least {SECRET_BYTES_MIN}, "
            f"for example from `openssl rand -base64 32`"
        )
    return secret
