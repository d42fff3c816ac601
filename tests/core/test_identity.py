"""Ids are the UUIDs that everybody else makes of the same names."""

from __future__ import annotations

import os
from uuid import UUID, uuid5

import pytest

from saga.core.identity import SAGA_NAMESPACE, saga_id, saga_named, uuid_text


@pytest.mark.parametrize("key", ["order-17", "é/ü", "x" * 900, " "])
def test_a_saga_id_is_the_uuid5_of_its_definition_and_key(key: str) -> None:
    assert saga_id("order", key) == str(uuid5(SAGA_NAMESPACE, f"order\x00{key}"))


def test_octets_become_the_text_of_their_uuid_whatever_they_are() -> None:
    for octets in (bytes(16), b"\xff" * 16, *(os.urandom(16) for _ in range(200))):
        assert uuid_text(octets, version=4) == str(UUID(bytes=octets, version=4))
        assert uuid_text(octets + b"more", version=5) == str(UUID(bytes=octets, version=5))


def test_a_saga_may_be_named_by_any_text_of_its_uuid() -> None:
    name = saga_id("order", "17")
    assert saga_named(name) == saga_named(name.upper()) == saga_named(f"{{{name}}}") == name
    assert saga_named("order/17") == name
    assert saga_named("order-17") is None
