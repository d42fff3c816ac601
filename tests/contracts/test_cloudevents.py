"""Headers are CloudEvents 1.0 in Kafka's binary mode, and what others send is read leniently."""

import base64
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saga.contracts.cloudevents import (
    HEADERS_READ_MAX,
    Headers,
    Said,
    parse_rfc3339,
    read_headers,
    read_record,
    rfc3339,
)
from saga.core.identity import Instant

AT = Instant(1_763_721_000_000_042)
AT_TEXT = b"2025-11-21T10:30:00.000042Z"
SAGA = "6f4c29a6-6a3c-5d0e-9a55-0d5c6f0b8a11"
INTENT = f"{SAGA}/pay/do/2"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_intent_is_a_binary_mode_event():
    """Written out by hand after the Kafka protocol binding of CloudEvents 1.0: `ce_` and the name
    of the attribute, UTF-8 values, `content-type` for `datacontenttype`, extensions of letters
    only.
    """
    headers = Said(
        id=INTENT,
        contract_name="payments.int.pay.v1",
        source="/dev/saga/order",
        at=AT,
        saga_id=SAGA,
        causation_id="m-1",
        idempotency_key=f"{SAGA}/pay/do",
        traceparent=TRACE,
    )

    assert dict(headers) == {
        "ce_specversion": b"1.0",
        "ce_id": b"6f4c29a6-6a3c-5d0e-9a55-0d5c6f0b8a11/pay/do/2",
        "ce_source": b"/dev/saga/order",
        "ce_type": b"payments.int.pay.v1",
        "ce_time": AT_TEXT,
        "ce_subject": b"6f4c29a6-6a3c-5d0e-9a55-0d5c6f0b8a11",
        "ce_correlationid": b"6f4c29a6-6a3c-5d0e-9a55-0d5c6f0b8a11",
        "ce_causationid": b"m-1",
        "ce_idempotencykey": b"6f4c29a6-6a3c-5d0e-9a55-0d5c6f0b8a11/pay/do",
        "content-type": b"application/json",
        "traceparent": TRACE.encode(),
    }
    assert len(headers) == 11


ALWAYS = {
    "ce_specversion": b"1.0",
    "ce_id": b"m-1",
    "ce_source": b"/shop",
    "ce_type": b"orders.evt.o.v1",
    "ce_time": AT_TEXT,
    "content-type": b"application/json",
}


def sent(**options):
    """Headers by name."""
    given = {"id": "m-1", "contract_name": "orders.evt.o.v1", "source": "/shop", "at": AT}
    return dict(Said(**given | options))


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ({}, {}),
        ({"saga_id": SAGA}, {"ce_subject": SAGA.encode(), "ce_correlationid": SAGA.encode()}),
        ({"correlation_id": "c"}, {"ce_correlationid": b"c"}),
        ({"causation_id": f"{INTENT}/reply"}, {"ce_causationid": f"{INTENT}/reply".encode()}),
        ({"idempotency_key": "e-1"}, {"ce_idempotencykey": b"e-1"}),
        ({"undoes": "payments.int.pay.v1"}, {"ce_sagaundoes": b"payments.int.pay.v1"}),
        ({"traceparent": TRACE}, {"traceparent": TRACE.encode()}),
        ({"id": "ö", "source": "/größe"}, {"ce_id": "ö".encode(), "ce_source": "/größe".encode()}),
    ],
)
def test_headers_have_what_is_known_and_nothing_invented(options, more):
    """A message of no saga has no subject; Kafka's binding has no escapes, values are UTF-8."""
    assert sent(**options) == ALWAYS | more


@given(st.datetimes(timezones=st.just(UTC)))
def test_time_is_rfc3339_and_can_be_read_again(moment):
    """Microseconds survive, in any year, before 1970 too."""
    elapsed = moment - datetime(1970, 1, 1, tzinfo=UTC)
    at = Instant((elapsed.days * 86_400 + elapsed.seconds) * 1_000_000 + elapsed.microseconds)
    text = rfc3339(at).decode()

    assert text == moment.strftime("%m-%dT%H:%M:%S.%fZ").join([f"{moment.year:04}-", ""])
    assert parse_rfc3339(text) == at


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("1970-01-01T00:00:01Z", 1_000_000),
        ("1970-01-01T02:00:00.5+02:00", 500_000),
        ("1970-01-01T00:00:00", None),
        ("yesterday", None),
        ("", None),
        ("0001-01-01T00:00:00+23:59", -62_135_683_140_000_000),
    ],
)
def test_time_of_others_is_read_with_its_zone(text, at):
    """A time without a zone is no moment."""
    assert parse_rfc3339(text) == at


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50)
READ = ("id", "source", "contract_name", "saga_id", "causation_id", "undoes", "traceparent")


@given(st.builds(Said, texts, texts, texts, st.just(AT), *[st.none() | texts] * 7))
def test_who_gets_the_bytes_reads_what_who_gets_them_unmade_reads(headers):
    """The same message may come in this process and, once more, from another one."""
    as_bytes = read_headers(tuple(headers))

    assert read_headers(headers) is headers
    for name in (*READ, "signature"):
        assert getattr(as_bytes, name) == getattr(headers, name), name
    assert as_bytes.correlation_id == (headers.saga_id or headers.correlation_id)
    assert read_record(tuple(headers), b"{}")[1] == read_record(headers, b"{}")[1]


DAMAGED: Headers = (
    ("ce_id", None),
    ("ce_source", b"\xff\xfe"),
    ("ce_subject", b""),
    ("ce_type", b"first"),
    ("ce_type", b"last"),
    ("Content-Type", b"application/json"),
    ("x-mine", b"\xff"),
    ("x-null", None),
)


def test_damaged_headers_are_reported_and_otherwise_absent():
    attributes = read_headers(DAMAGED)

    assert attributes.damaged == ("ce_id", "ce_source")
    assert attributes.id is None
    assert attributes.source is None
    assert attributes.saga_id is None
    assert attributes.contract_name == "last"
    assert attributes.causation_id is None
    assert attributes.values["content-type"] == "application/json"


def test_only_so_many_headers_are_read():
    """A record with very many headers costs no more than one with some."""
    many = [("x", b"")] * HEADERS_READ_MAX + [("ce_id", b"late")]

    assert read_headers(many).id is None
    assert read_headers(many[1:]).id == "late"


@given(st.lists(st.tuples(st.sampled_from(["ce_id", "CE_ID", "x", ""]), st.none() | st.binary())))
def test_headers_never_raise(headers):
    read_headers(headers)
    read_record([*headers, ("content-type", b"application/cloudevents+json")], b"{}")


ENVELOPE = {
    "specversion": "1.0",
    "id": "m-1",
    "source": "/shop",
    "type": "orders.evt.o.v1",
    "subject": "s-1",
    "causationid": "i-1",
    "traceparent": TRACE,
    "unknown": "x",
    "time": None,
}


def test_structured_mode_is_read_as_binary_mode():
    headers = (("content-type", b"application/cloudevents+json; charset=UTF-8"),)
    value = json.dumps(ENVELOPE | {"data": {"order_id": "o"}}).encode()

    attributes, data = read_record(headers, value)

    assert data == b'{"order_id":"o"}'
    assert attributes.values == {
        "content-type": "application/json",
        "ce_specversion": "1.0",
        "ce_id": "m-1",
        "ce_source": "/shop",
        "ce_type": "orders.evt.o.v1",
        "ce_subject": "s-1",
        "ce_causationid": "i-1",
        "traceparent": TRACE,
    }
    assert attributes.traceparent == TRACE


def test_structured_mode_may_hold_base64():
    headers = (("content-type", b"application/cloudevents+json"),)
    value = json.dumps(ENVELOPE | {"data_base64": base64.b64encode(b"{}").decode()}).encode()

    assert read_record(headers, value)[1] == b"{}"


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"id":"x"}',
        b'{"id":"a","id":"b","data":{}}',
        b'{"data_base64":"no!"}',
        b'{"data_base64":7}',
        b"[" * 100_000,
    ],
)
def test_envelope_that_cannot_be_opened_stays_the_value(value):
    """`decode` will say what is wrong with it, and the record is kept as it came."""
    headers = (("content-type", b"application/cloudevents+json"),)

    assert read_record(headers, value)[1] is value


@pytest.mark.parametrize("headers", [(), (("content-type", b"text/plain"),), DAMAGED])
def test_record_without_envelope_keeps_its_value(headers):
    """Plain JSON, with any headers or none, is passed on as it is; so is a null."""
    assert read_record(headers, b"{}")[1] == b"{}"
    assert read_record(headers, None)[1] is None
