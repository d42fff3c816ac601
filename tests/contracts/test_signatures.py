"""Signatures: the vectors of the wire's page, and that nothing of a record can be changed."""

import base64
import re
from pathlib import Path

import pytest

from saga.contracts import cloudevents as ce
from saga.contracts.signatures import SigningKeys
from saga.core.identity import Instant
from saga.errors import SettingsError
from saga.settings import Settings

PAGE = (Path(__file__).parents[2] / "docs/reference/wire.md").read_text("utf-8")
SECRET = "c2FnYSB0ZXN0IHNlY3JldCwgMzIgYnl0ZXMgbG9uZyE="
OTHER = base64.b64encode(b"another secret of 24 by.").decode()
KEYS = SigningKeys.read(f"k1 {SECRET}\n")
VECTORS = [
    [cell.strip().strip("`") for cell in row.strip("|\n").split("|")]
    for row in re.findall(r"^\| `dev\..*\|$", PAGE, re.MULTILINE)
]
SAGA = "4d2fc7a2-5c3e-5a5b-9a67-0f1d3c1d1a11"
RECORD = ("dev.saga.payments.evt.paid.v1", b"o-1", b'{"receipt":"r-1"}')
SIGNED = (ce.ID, ce.CAUSATION_ID, ce.TYPE)
SAID = ce.Said("i", "t", "/s", Instant(0), causation_id="c")


def vector(row):
    topic, key, *rest, signature = row
    rest = [text.replace("I/", f"{SAGA}/").replace('"I"', f'"{SAGA}"') for text in rest]
    return topic, key.encode(), *(text.encode() for text in rest), signature


@pytest.mark.parametrize("row", VECTORS, ids=[row[0] for row in VECTORS])
def test_the_vectors_of_the_page_are_true(row):
    topic, key, *named, value, signature = vector(row)
    id, cause, contract = (text.decode() for text in named)
    headers = ce.Said(id, contract, "/s", Instant(0), causation_id=cause or None)

    assert KEYS.signed(topic, key, value, headers)[-1] == (
        "x-saga-signature",
        f"v1;k1;{signature}".encode(),
    )


def test_the_function_of_the_page_gives_the_vectors():
    (code,) = re.findall(r"```python\n(import base64, .*?)```", PAGE, re.DOTALL)
    names: dict = {}
    exec(code, names)

    assert len(VECTORS) == 3
    for row in VECTORS:
        *parts, signature = vector(row)
        parts[0] = parts[0].encode()
        secret = base64.b64decode(SECRET)
        assert names["signature"](b"k1", secret, *parts) == f"v1;k1;{signature}".encode()


def believed(keys, topic, key, value, headers):
    return keys.why_not(topic, key, value, ce.read_headers(headers))


def test_what_was_signed_is_believed_as_it_was_signed_only():
    topic, key, value = RECORD
    headers = KEYS.signed(topic, key, value, SAID)
    changed = [
        ("dev.saga.payments.evt.intent-done.v1", key, value, headers),
        (topic, b"o-2", value, headers),
        (topic, key, b'{"receipt":"r-2"}', headers),
        (topic, None, value, headers),
        (topic, b"", value, headers),
        (topic + "o", b"-1", value, headers),
        (topic, key, None, headers),
        *((topic, key, value, (*headers, (name, b"other"))) for name in SIGNED),
        *((topic, key, value, tuple(h for h in headers if h[0] != name)) for name in SIGNED),
    ]

    assert believed(KEYS, topic, key, value, headers) is None
    assert believed(KEYS, topic, key, value, (*headers, (ce.TIME, b"later"))) is None
    assert [each for each in changed if "wrong" not in (believed(KEYS, *each) or "")] == []


@pytest.mark.parametrize(
    ("signature", "says"),
    [
        (None, "no signature"),
        (b"", "no signature"),
        (b"\xff", "no signature"),
        (b"v2;k1;AAAA", "none of the form"),
        (b"v1", "nobody here knows"),
        (b"v1;k2;AAAA", "nobody here knows"),
        (b"v1;k1;", "is wrong"),
        (b"v1;k1;?", "no base64"),
        ("v1;k1;é".encode(), "no base64"),
        (b"v1;k1;AAAA", "is wrong"),
        (b"v1;k1;AAAA;AAAA", "no base64"),
    ],
)
def test_another_signature_is_not_believed(signature, says):
    headers = SAID if signature is None else (*SAID, (ce.SIGNATURE, signature))

    assert says in believed(KEYS, *RECORD, headers)


def test_keys_are_changed_without_a_gap():
    """Added last, then put first, then the old one goes."""
    topic, key, value = RECORD
    added = SigningKeys.read(f"k1 {SECRET}\nk2 {OTHER}")
    turned = SigningKeys.read(f"# from now on\n\nk2   {OTHER}\nk1 {SECRET}\n")
    only = SigningKeys.read(f"k2 {OTHER}")
    steps = [(KEYS, added), (added, turned), (turned, only)]

    for before, after in steps:
        for signing, reading in ((before, after), (after, before)):
            headers = signing.signed(topic, key, value, SAID)
            assert believed(reading, topic, key, value, headers) is None
    assert believed(only, topic, key, value, KEYS.signed(topic, key, value, SAID)) is not None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\n# nothing\n", "there is no line"),
        ("k1", "line 1: the secret has 0 bytes"),
        (f"k;1 {SECRET}", "line 1: expected KEY-ID SECRET"),
        (f"k1 {SECRET}\nk1 {OTHER}", "line 2: the key id k1 was there before"),
        ("k1 not-base64!", "line 1: the secret is no base64"),
        ("k1 c2hvcnQ=", "line 1: the secret has 5 bytes: at least 16"),
    ],
)
def test_keys_that_cannot_be_are_refused_by_line_and_never_shown(text, says):
    with pytest.raises(SettingsError, match="SAGA_SIGNING_KEYS") as refused:
        Settings.read({"SAGA_SIGNING_KEYS": text})

    assert says in str(refused.value)
    assert not any(secret in str(refused.value) for secret in (SECRET, OTHER, "c2hvcnQ"))


def test_keys_are_read_from_a_file_and_not_shown(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"k1 {SECRET}\n")
    settings = Settings.read({"SAGA_SIGNING_KEYS_FILE": str(file)})

    assert settings.signing == KEYS
    assert SECRET not in repr(settings)
    assert Settings.read({}).signing is None
    assert "saga test secret" not in repr(settings.signing)
